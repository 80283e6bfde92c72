//go:build unix

// Package redistest runs a real redis-server for a test or a measurement.
package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Server is a redis-server on a loopback port of its own, which keeps nothing on
// disk. It is meant for one goroutine.
type Server struct {
	Addr string

	args  []string
	watch *exec.Cmd // a shell that ends the server when this process ends
	stdin io.Closer
	pid   int
}

// ErrNotInstalled is returned by Start if there is no redis-server on PATH.
var ErrNotInstalled = errors.New("no redis-server on PATH (Debian: apt-get install redis-server)")

// readyWithin bounds how long a server may take to start.
const readyWithin = 10 * time.Second

// Start starts a server with further arguments. dir is an empty directory, for
// its working directory.
func Start(dir string, args ...string) (*Server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, ErrNotInstalled
	}
	var failures []error
	for range 3 { // another process may be given the port meanwhile
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		s := &Server{
			Addr: net.JoinHostPort("127.0.0.1", port),
			args: append([]string{
				"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no", "--daemonize", "no",
			}, args...),
		}
		if err = s.Restart(); err == nil {
			return s, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// freePort returns a port that is not of those that are handed out to clients: a
// client that calls a server which is down may be given the very port it calls,
// and is then connected with itself.
func freePort() (string, error) {
	var err error
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(10000))
		var ln net.Listener
		if ln, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil { //nolint:noctx // it is closed at once
			return port, ln.Close()
		}
	}
	return "", err
}

// Restart starts a server that was stopped, on the same port. It has forgotten
// everything.
func (s *Server) Restart() error {
	if s.watch != nil {
		return errors.New("redistest: it runs already")
	}
	// The shell's standard input ends with this process, however that ends.
	const script = `redis-server "$@" & pid=$!; echo "pid $pid"; cat; kill -9 $pid; wait $pid`
	watch := exec.Command("sh", append([]string{"-c", script, "sh"}, s.args...)...) //nolint:gosec,noctx // Stop ends it
	stdin, err := watch.StdinPipe()
	if err != nil {
		return err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	watch.Stdout, watch.Stderr = w, w
	if err := watch.Start(); err != nil {
		return errors.Join(err, w.Close(), out.Close())
	}
	w.Close()
	s.watch, s.stdin = watch, stdin
	if err := s.ready(out); err != nil {
		s.Stop()
		return err
	}
	return nil
}

// ready reads what the server prints until it accepts connections. What it
// prints later is dropped.
func (s *Server) ready(out *os.File) error {
	if err := out.SetReadDeadline(time.Now().Add(readyWithin)); err != nil {
		return err
	}
	var log strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		if pid, ok := strings.CutPrefix(line, "pid "); ok {
			s.pid, _ = strconv.Atoi(pid)
		}
		log.WriteString(line + "\n")
		if strings.Contains(line, "aborting") {
			break
		}
		if strings.Contains(line, "eady to accept connections") {
			if err := out.SetReadDeadline(time.Time{}); err != nil {
				return err
			}
			go func() {
				defer out.Close()
				_, _ = io.Copy(io.Discard, out)
			}()
			return nil
		}
	}
	out.Close()
	return fmt.Errorf("redistest: redis-server did not start: %s", log.String())
}

// Stop kills the server, if it runs.
func (s *Server) Stop() {
	if s.watch == nil {
		return
	}
	s.stdin.Close()
	_ = s.watch.Wait() // its status is that of kill
	s.watch = nil
}

// Freeze stops the server in its tracks: connections stay open, and nothing is
// answered until Thaw.
func (s *Server) Freeze() error { return syscall.Kill(s.pid, syscall.SIGSTOP) }

// Thaw lets a frozen server go on, with what has been sent to it meanwhile.
func (s *Server) Thaw() error { return syscall.Kill(s.pid, syscall.SIGCONT) }
