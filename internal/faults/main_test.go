// Package faults_test shows that nothing is lost, sent twice or left behind when
// networks, servers, processes and certificates fail, when answers are malicious,
// and in long runs. Its tests need sockets, processes or minutes. Tests in virtual
// time are next to the code.
//
//	go test -race .                          # bounded, about a minute
//	go test -race -timeout 30m . -soak 10m   # in full
//
// FuzzConversation and FuzzCrowd are the fuzz targets. Linux is needed to see
// file descriptors.
package faults_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/resilienthttp/resilient"
)

func TestMain(m *testing.M) {
	if addr, ok := os.LookupEnv(victimEnv); ok {
		runVictim(addr)
		return
	}
	// net/http would log the misbehaviour in these tests.
	log.SetOutput(io.Discard)
	flag.Parse()
	os.Exit(m.Run())
}

// patience is the longest time that an expected event may take. Only a test that
// fails waits for so long. It is no measure of speed.
const patience = 20 * time.Second

// leaveNothing fails the test if it leaves a goroutine or a file descriptor behind,
// and so also if it leaves a connection. Call it first, because cleanups run in
// reverse order.
func leaveNothing(tb testing.TB) {
	tb.Helper()
	before, running := descriptors(tb), goleak.IgnoreCurrent()
	tb.Cleanup(func() {
		eventually(tb, func() error {
			// Toxiproxy leaks these goroutines, with the data that they were about to
			// pass on, when it cuts a connection.
			return goleak.Find(running,
				goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
				goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
		})
		eventually(tb, func() error {
			for fd, what := range descriptors(tb) {
				if before[fd] != what {
					return errors.New("left open: " + what)
				}
			}
			return nil
		})
	})
}

// descriptors returns the files to which the open descriptors of this process refer.
func descriptors(tb testing.TB) map[string]string {
	tb.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // on systems other than Linux, only goroutines are checked
	}
	require.NoError(tb, err)
	open := make(map[string]string)
	for _, e := range entries {
		what, err := os.Readlink(filepath.Join(dir, e.Name()))
		switch {
		case err != nil: // the descriptor of dir itself
		case strings.HasPrefix(what, "anon_inode:[event"): // the runtime's own, made once
		default:
			open[e.Name()] = what
		}
	}
	return open
}

// eventually calls f until it returns nil.
func eventually(tb testing.TB, f func() error) {
	tb.Helper()
	// It polls because there is no event when a descriptor is closed.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(patience)
	for err := f(); err != nil; err = f() {
		if time.Now().After(deadline) {
			require.NoError(tb, err)
		}
		<-tick.C
	}
}

// ledger counts the requests that a server has seen, by their call.
type ledger struct {
	mu   sync.Mutex
	seen map[string]int
}

// callHeader is the field with the name of the call to which a request belongs.
const callHeader = "X-Call"

func (l *ledger) note(req *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = make(map[string]int)
	}
	l.seen[req.Header.Get(callHeader)]++
}

func (l *ledger) count(call string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[call]
}

// newBase returns an http.Transport like the default one. Its connections are closed
// at the end of the test.
func newBase(tb testing.TB) *http.Transport {
	tb.Helper()
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.Proxy = nil // ignores the environment
	// CloseIdleConnections misses a connection that is just being put back.
	base.IdleConnTimeout = time.Second
	tb.Cleanup(base.CloseIdleConnections)
	return base
}

// newTransport returns a Transport that makes three attempts, a millisecond
// apart.
func newTransport(base http.RoundTripper, opts ...resilient.Option) *resilient.Transport {
	return resilient.NewTransport(base, append([]resilient.Option{
		resilient.WithMaxAttempts(3), every(time.Millisecond), unbounded(),
	}, opts...)...)
}

var inf = math.Inf(1)

// every returns an option that makes each retry wait for exactly d.
func every(d time.Duration) resilient.Option {
	return resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(d) })
}

// unbounded switches the retry budget off, because these tests consist of failures.
func unbounded() resilient.Option { return resilient.WithRetryBudget(inf, 0) }

// newRequest returns a request whose method is also the name of its call. Its
// context ends after patience, so that a call that hangs fails the test.
func newRequest(tb testing.TB, method, url string) *http.Request {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	tb.Cleanup(cancel)
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("payload")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	require.NoError(tb, err)
	req.Header.Set(callHeader, method)
	return req
}

// outcome is the result of a call: the status and the body that was received, and
// the errors of RoundTrip and of the body.
type outcome struct {
	status int
	body   string
	err    error // of RoundTrip
	read   error // of the body
	took   time.Duration
}

// call sends req and reads the whole answer.
func call(rt http.RoundTripper, req *http.Request) outcome {
	begin := time.Now()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return outcome{err: err, took: time.Since(begin)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return outcome{status: resp.StatusCode, body: string(body), read: err, took: time.Since(begin)}
}

// want is the expected result of a call under a fault.
type want struct {
	seen   int    // requests that reach the server
	status int    // 0 for an error
	err    error  // matched by the error of RoundTrip, or else of the body; nil is not checked
	body   string // the beginning of the body
	short  bool   // reading the body ends with an error
	tries  int    // attempts in the RetryError, or 0 for the base's own error
}

func (w want) check(tb testing.TB, got outcome, l *ledger, call string) {
	tb.Helper()
	eventually(tb, func() error { // the server may see a request after its caller has timed out
		if n := l.count(call); n < w.seen {
			return fmt.Errorf("the server saw %d requests of %d", n, w.seen)
		}
		return nil
	})
	require.Equal(tb, w.seen, l.count(call), "requests the server saw")
	require.Equal(tb, w.status, got.status, "error: %v", got.err)
	require.Equal(tb, w.status == 0, got.err != nil, "a response or an error")
	require.Equal(tb, w.short, got.read != nil, "the body ends with: %v", got.read)
	require.True(tb, strings.HasPrefix(got.body, w.body), "body %q", got.body)
	if w.err != nil {
		require.ErrorIs(tb, errors.Join(got.err, got.read), w.err)
	}
	if retry, ok := errors.AsType[*resilient.RetryError](got.err); ok {
		require.Equal(tb, w.tries, retry.Attempts)
	} else {
		require.Zero(tb, w.tries, "error: %v", got.err)
	}
}

// quiet is the log of a server whose messages are expected.
var quiet = log.New(io.Discard, "", 0)

// listen returns a listener on a free port of loopback.
func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = l.Close() })
	return l
}
