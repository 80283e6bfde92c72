package faults_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// victimEnv is an environment variable. If it is set, the test binary runs as the
// server that is killed, at the address in it.
const victimEnv = "FAULTS_VICTIM"

// runVictim serves until it is killed or its parent has ended. It writes its address
// and the requests that it sees to standard output.
func runVictim(addr string) {
	time.AfterFunc(3*patience, func() { os.Exit(1) }) // a test that waits for it then fails
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the parent keeps it open
		os.Exit(1)
	}()
	l, err := net.Listen("tcp", addr)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		l, err = net.Listen("tcp", addr) // until the kernel has released the port
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, l.Addr())
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		switch req.URL.Path {
		case "/hang":
			fmt.Fprintln(os.Stdout, "saw", req.Header.Get(callHeader))
			<-req.Context().Done()
		case "/half":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			fmt.Fprintln(os.Stdout, "saw", req.Header.Get(callHeader))
			<-req.Context().Done()
		default:
			fmt.Fprintln(os.Stdout, "saw", req.Header.Get(callHeader))
			_, _ = io.WriteString(w, "whole")
		}
	}))
}

// victim is a server in a process of its own.
type victim struct {
	addr string
	saw  chan string // calls that it has seen
	kill func()      // sends SIGKILL, and waits for the end of the process
}

// startVictim starts a server at addr, or at a free port if that is "".
func startVictim(tb testing.TB, addr string) *victim {
	tb.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+addr)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(tb, err)
	out, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	v := &victim{saw: make(chan string, 1000)}
	read := make(chan struct{})
	v.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		<-read
		_ = cmd.Wait()
		_ = stdin.Close()
	})
	lines := bufio.NewScanner(out)
	started := lines.Scan()
	v.addr = lines.Text()
	go func() {
		defer close(read)
		for lines.Scan() {
			v.saw <- strings.TrimPrefix(lines.Text(), "saw ")
		}
		close(v.saw)
	}()
	tb.Cleanup(v.kill)
	require.True(tb, started, "it listens")
	return v
}

// seen returns the number of requests of the call that a dead server had seen and
// that were not taken out of saw.
func (v *victim) seen(call string) int {
	n := 0
	for c := range v.saw {
		if c == call {
			n++
		}
	}
	return n
}

// TestKilledInARequest kills the server while it works on a request, and starts
// another one on the same port. Only a request that may be sent twice reaches that
// one.
func TestKilledInARequest(t *testing.T) {
	for method, want := range map[string]struct{ retried bool }{
		http.MethodGet: {true}, http.MethodPost: {false},
	} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			first := startVictim(t, "")
			client := newTransport(newBase(t), resilient.WithMaxAttempts(10_000))
			req := newRequest(t, method, "http://"+first.addr+"/hang")
			ctx, cancel := context.WithCancel(req.Context())
			defer cancel()
			ended := make(chan outcome, 1)
			go func() { ended <- call(client, req.WithContext(ctx)) }()
			require.Equal(t, method, <-first.saw)

			first.kill()
			second := startVictim(t, first.addr)

			if want.retried {
				require.Equal(t, method, <-second.saw, "the retries outlast the restart")
				second.kill() // it hangs as well
				third := startVictim(t, first.addr)
				require.Equal(t, method, <-third.saw)
				cancel()
				require.ErrorIs(t, (<-ended).err, context.Canceled)
				third.kill()
				require.Zero(t, third.seen(method))
			} else {
				require.Error(t, (<-ended).err)
				second.kill()
				require.Zero(t, second.seen(method), "it may have been processed")
			}
			require.Zero(t, first.seen(method))
			require.Zero(t, second.seen(method))
		})
	}
}

// TestKilledInAnAnswer kills the server in the middle of a body. The caller gets the
// part that was received, and an error because it is not complete. Later calls reach
// the server when it is back.
func TestKilledInAnAnswer(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			first := startVictim(t, "")
			client := newTransport(newBase(t))
			resp, err := client.RoundTrip(newRequest(t, method, "http://"+first.addr+"/half"))
			require.NoError(t, err)
			require.Equal(t, method, <-first.saw)

			first.kill()
			second := startVictim(t, first.addr)
			body, err := io.ReadAll(resp.Body)

			require.Error(t, err)
			require.Equal(t, "half", string(body))
			require.NoError(t, resp.Body.Close())
			got := call(client, newRequest(t, method, "http://"+first.addr))
			require.Equal(t, "whole", got.body, "the next call is none the wiser")
			second.kill()
			require.Equal(t, 1, second.seen(method))
		})
	}
}

// TestKilledBetweenRequests kills an idle server. While it is down, connections are
// refused, so that even a POST may be retried until the server is back. The POST
// arrives once.
func TestKilledBetweenRequests(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			first := startVictim(t, "")
			refused := make(chan struct{}, 10_000)
			base := newBase(t)
			client := newTransport(base, resilient.WithMaxAttempts(10_000),
				resilient.WithTrace(&resilient.Trace{Wait: func(resilient.WaitInfo) { refused <- struct{}{} }}))
			require.Equal(t, "whole", call(client, newRequest(t, method, "http://"+first.addr)).body)
			first.kill()
			require.Equal(t, 1, first.seen(method))
			// A POST on a connection that is not yet known to be dead must not be
			// sent again.
			base.CloseIdleConnections()

			ended := make(chan outcome, 1)
			req := newRequest(t, method, "http://"+first.addr)
			go func() { ended <- call(client, req) }()
			<-refused
			second := startVictim(t, first.addr)

			require.Equal(t, "whole", (<-ended).body)
			second.kill()
			require.Equal(t, 1, second.seen(method))
		})
	}
}

// TestKilledWithAConnectionKept kills a server to which a connection is kept, and
// calls the next one on the same port. By then the connection may or may not be known
// to be dead. In both cases no request may arrive twice.
func TestKilledWithAConnectionKept(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			first := startVictim(t, "")
			client := newTransport(newBase(t))
			require.Equal(t, "whole", call(client, newRequest(t, method, "http://"+first.addr)).body)
			first.kill()
			second := startVictim(t, first.addr)

			got := call(client, newRequest(t, method, "http://"+first.addr))

			second.kill()
			require.Equal(t, 1, first.seen(method))
			if method == http.MethodGet || got.err == nil {
				require.Equal(t, "whole", got.body)
				require.Equal(t, 1, second.seen(method))
			} else {
				require.Zero(t, second.seen(method), "it was written to the dead connection")
			}
		})
	}
}
