package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"time"
)

// run starts a program in the foreground, with the arguments that args returns for
// the address it shall listen at. It returns when something listens there. It is an
// exec.ErrNotFound if the program is not installed.
func (s *site) run(ctx context.Context, name string, args func(addr string) ([]string, error)) error {
	// Debian keeps servers where an ordinary user's PATH does not look.
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			return err
		}
	}
	for range 3 { // the port may be taken by another one before the program takes it
		var addr string
		if addr, err = freeAddress(ctx); err != nil {
			return err
		}
		var list []string
		if list, err = args(addr); err != nil {
			return err
		}
		if err = s.runAt(ctx, addr, path, list); err == nil {
			s.url = "http://" + addr
			return nil
		}
	}
	return err
}

func (s *site) runAt(ctx context.Context, addr, path string, args []string) error {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = s.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	dieTogether(cmd)
	// A child that outlives the program may hold the pipe of its output.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	stop := func() {
		_ = cmd.Cancel()
		<-ended
	}
	if err := answers(ctx, addr, ended); err != nil {
		stop()
		return fmt.Errorf("%s: %w: %s", path, err, out.Bytes())
	}
	s.stops = append(s.stops, stop)
	return nil
}

// answers returns when something listens at addr.
func answers(ctx context.Context, addr string, ended <-chan struct{}) error {
	tick := time.NewTicker(5 * time.Millisecond) // there is no event for it
	defer tick.Stop()
	for {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("ended: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
