package hedge_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

var errCut = errors.New("the connection was cut")

// answer is what comes of a request: a status, or an error in its place. The zero answer
// never comes.
type answer struct {
	after   time.Duration
	status  int
	err     error
	body    io.ReadCloser // nil: the number of the request
	deaf    bool          // the request does not end with its context
	nothing bool          // neither a response nor an error
}

func after(d time.Duration, status int) answer { return answer{after: d, status: status} }

func fails(d time.Duration, err error) answer { return answer{after: d, err: err} }

func never() answer { return answer{} }

// server is a base that gives its answers in turn, the last one for ever.
type server struct {
	answers []answer

	mu       sync.Mutex
	requests []*http.Request
	causes   []error // of the requests whose context ended before their answer
}

func newServer(answers ...answer) *server { return &server{answers: answers} }

// then sets the answers to the requests that follow.
func (s *server) then(answers ...answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers, s.requests, s.causes = answers, nil, nil
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	s.mu.Lock()
	s.requests = append(s.requests, req)
	n := len(s.requests)
	a := s.answers[min(n, len(s.answers))-1]
	s.mu.Unlock()
	if err := a.wait(req.Context()); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.causes = append(s.causes, err)
		return nil, err
	}
	if a.status == 0 {
		return nil, a.err
	}
	body := a.body
	if body == nil {
		body = io.NopCloser(strings.NewReader(strings.Repeat("I", n)))
	}
	return &http.Response{StatusCode: a.status, Header: http.Header{}, Body: body, ContentLength: -1, Request: req}, nil
}

func (a answer) wait(ctx context.Context) error {
	if a.deaf {
		time.Sleep(a.after)
		return nil
	}
	due := make(<-chan time.Time)
	if a.status != 0 || a.err != nil || a.nothing {
		timer := time.NewTimer(a.after)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-due:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func newRequest(tb testing.TB, method, target, body string, header ...string) *http.Request {
	tb.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, target, r)
	require.NoError(tb, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

func get(tb testing.TB) *http.Request {
	tb.Helper()
	return newRequest(tb, http.MethodGet, "http://api.test/v1", "")
}

// call sends a GET, reads the response and returns what came of it, and how long it took.
func call(tb testing.TB, transport http.RoundTripper) (status int, body string, took time.Duration, err error) {
	tb.Helper()
	start := time.Now()
	resp, err := transport.RoundTrip(get(tb))
	took = time.Since(start)
	if err != nil {
		require.Nil(tb, resp)
		return 0, "", took, err
	}
	return resp.StatusCode, readAll(tb, resp), took, nil
}

// calls makes n calls one after the other.
func calls(tb testing.TB, transport http.RoundTripper, n int) {
	tb.Helper()
	for range n {
		_, _, _, _ = call(tb, transport)
	}
}

func readAll(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(tb, err)
	require.NoError(tb, resp.Body.Close())
	return string(b)
}

// trackedBody counts how often it is closed.
type trackedBody struct {
	io.Reader

	mu     sync.Mutex
	closed int
}

func tracked(text string) *trackedBody { return &trackedBody{Reader: strings.NewReader(text)} }

func (b *trackedBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func (b *trackedBody) closes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// serve runs handler on a real http.Server over in-memory connections, and returns an
// http.Transport that dials it, and how often it has. Both end with the test, inside its
// bubble, which then reports every goroutine left behind.
func serve(tb testing.TB, handler http.HandlerFunc) (base *http.Transport, dials func() int) {
	tb.Helper()
	return serveHTTP(tb, 1, handler)
}

// serveHTTP is serve, with the version of HTTP.
func serveHTTP(tb testing.TB, version int, handler http.HandlerFunc) (base *http.Transport, dials func() int) {
	tb.Helper()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Hour, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(version == 1)
	srv.Protocols.SetUnencryptedHTTP2(version == 2)
	go func() { _ = srv.Serve(l) }()
	base = &http.Transport{DialContext: l.dial, Protocols: srv.Protocols}
	tb.Cleanup(func() {
		base.CloseIdleConnections()
		_ = srv.Close()
		time.Sleep(time.Second) // virtual: the server lingers half a second over a connection it closes early
	})
	return base, func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.dials }
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	mu    sync.Mutex
	dials int
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	l.mu.Lock()
	l.dials++
	l.mu.Unlock()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
