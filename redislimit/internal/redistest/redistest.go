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

// Server is a redis-server on a loopback port of its own, without files on disk. It
// is not safe for concurrent use.
type Server struct {
	Addr string

	args  []string
	watch *exec.Cmd // a shell that ends the server when this process ends
	stdin io.Closer
	pid   int
}

// ErrNotInstalled is returned by Start if there is no redis-server on PATH.
var ErrNotInstalled = errors.New("no redis-server on PATH (Debian: apt-get install redis-server)")

// readyWithin is the longest time that a server may take to start.
const readyWithin = 10 * time.Second

// Start starts a server with the given additional arguments. dir is an empty
// directory, which becomes its working directory.
func Start(dir string, args ...string) (*Server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, ErrNotInstalled
	}
	var failures []error
	for range 3 { // another process may get the port meanwhile
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

// freePort returns a port outside the range of ports for clients. A client that
// calls a port in that range while the server is down may get this port as its own,
// and is then connected to itself.
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

// Restart starts a server that was stopped, on the same port. Its data is lost.
func (s *Server) Restart() error {
	if s.watch != nil {
		return errors.New("redistest: it runs already")
	}
	// The shell's standard input ends with this process, even if that is killed.
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

// ready reads the server's output until it accepts connections. Later output is
// dropped.
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
	_ = s.watch.Wait() // its status says that it was killed
	s.watch = nil
}

// Freeze suspends the server. Connections stay open, and no call is answered until
// Thaw.
func (s *Server) Freeze() error { return syscall.Kill(s.pid, syscall.SIGSTOP) }

// Thaw resumes a frozen server, which then handles the calls sent meanwhile.
func (s *Server) Thaw() error { return syscall.Kill(s.pid, syscall.SIGCONT) }
