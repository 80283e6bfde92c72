package resilient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// script is a base that answers with its steps in turn, the last one for ever,
// and notes what it was sent and when.
type script struct {
	mu    sync.Mutex
	steps []step
	sent  []sent
}

type step func(*http.Request) (*http.Response, error)

type sent struct {
	at     time.Time
	header http.Header
	body   string
	req    *http.Request
}

func newScript(steps ...step) *script { return &script{steps: steps} }

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	note := sent{at: time.Now(), header: req.Header.Clone(), req: req}
	if req.Body != nil {
		b, err := io.ReadAll(req.Body)
		_ = req.Body.Close()
		if err != nil {
			return nil, err
		}
		note.body = string(b)
	}
	s.mu.Lock()
	s.sent = append(s.sent, note)
	next := s.steps[min(len(s.sent), len(s.steps))-1]
	s.mu.Unlock()
	return next(req)
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// gaps returns the times between what was sent.
func (s *script) gaps() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gaps []time.Duration
	for i := 1; i < len(s.sent); i++ {
		gaps = append(gaps, s.sent[i].at.Sub(s.sent[i-1].at))
	}
	return gaps
}

// answer is a step: a status, header lines as name, value pairs, and for an
// error status the documented error object.
func answer(status int, header ...string) step {
	body := `{"ok":true}`
	if status >= 400 {
		body = `{"code":"` + http.StatusText(status) + `","type":"T","message":"m"}`
	}
	return answerWith(status, body, header...)
}

func answerWith(status int, body string, header ...string) step {
	return func(req *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Add(header[i], header[i+1])
		}
		return &http.Response{
			StatusCode: status, Header: h, Request: req, ProtoMajor: 1, ProtoMinor: 1,
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}, nil
	}
}

func fails(err error) step {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// every retries after exactly d.
func every(d time.Duration) resilient.Option {
	return resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(d) })
}

// unbounded switches the retry budget off.
func unbounded() resilient.Option { return resilient.WithRetryBudget(inf, 0) }

func newRequest(tb testing.TB, method, target, body string) *http.Request {
	tb.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, target, r)
	require.NoError(tb, err)
	return req
}

func get(tb testing.TB) *http.Request {
	tb.Helper()
	return newRequest(tb, http.MethodGet, "http://api.test/v1", "")
}

func post(tb testing.TB) *http.Request {
	tb.Helper()
	return newRequest(tb, http.MethodPost, "http://api.test/v1", "payload")
}

// readAll reads and closes the body of resp.
func readAll(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(tb, err)
	require.NoError(tb, resp.Body.Close())
	return string(b)
}

// serve runs handler on a real http.Server over in-memory connections, and
// returns an http.Transport that dials it. Both end with the test, inside its
// bubble if there is one, which then reports every goroutine left behind.
func serve(tb testing.TB, handler http.HandlerFunc) *http.Transport {
	tb.Helper()
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Hour}
	go func() { _ = srv.Serve(l) }()
	base := &http.Transport{DialContext: l.dial}
	tb.Cleanup(func() {
		base.CloseIdleConnections()
		_ = srv.Close()
		time.Sleep(time.Second) // virtual: the server lingers half a second over a connection it closes early
	})
	return base
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

// recorder is a Trace that notes what happened, in words.
type recorder struct {
	mu       sync.Mutex
	attempts []resilient.AttemptInfo
	waits    []resilient.WaitInfo
	done     []resilient.DoneInfo
	starts   int
}

func (r *recorder) trace() *resilient.Trace {
	lock := func(f func()) { r.mu.Lock(); defer r.mu.Unlock(); f() }
	return &resilient.Trace{
		AttemptStart: func(resilient.AttemptInfo) { lock(func() { r.starts++ }) },
		AttemptDone:  func(a resilient.AttemptInfo) { lock(func() { r.attempts = append(r.attempts, a) }) },
		Wait:         func(w resilient.WaitInfo) { lock(func() { r.waits = append(r.waits, w) }) },
		Done:         func(d resilient.DoneInfo) { lock(func() { r.done = append(r.done, d) }) },
	}
}

func (r *recorder) why(tb testing.TB) string {
	tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Len(tb, r.done, 1, "one Done for each call")
	return r.done[0].Why
}

// trackedBody counts how often it is closed.
type trackedBody struct {
	io.Reader
	mu     sync.Mutex
	closed int
}

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

// configurations are Transports that all have to keep the contract of
// http.RoundTripper.
func configurations() map[string][]resilient.Option {
	return map[string][]resilient.Option{
		"default":         nil,
		"nil option":      {nil},
		"rate limit":      {resilient.WithRateLimit(1000, 1000)},
		"limiter":         {resilient.WithLimiter(rate.NewLimiter(1000, 1000))},
		"replay buffer":   {resilient.WithReplayBuffer(1 << 20)},
		"attempt timeout": {resilient.WithAttemptTimeout(time.Minute)},
		"trace and log": {
			resilient.WithTrace((&recorder{}).trace()), resilient.WithTrace(&resilient.Trace{}),
			resilient.WithLogger(slog.New(slog.DiscardHandler)),
		},
		"idempotency key": {resilient.WithIdempotencyKey(func(*http.Request) string { return "k" })},
	}
}

func TestContractRequestUntouched(t *testing.T) {
	for name, opts := range configurations() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answer(429), answer(503, "Retry-After", "1"), answer(200))
				client := resilient.NewTransport(base, opts...)
				req := post(t)
				req.Header.Set("X-One", "1")
				req.Trailer = http.Header{"X-Sum": nil}
				before, header, target := *req, req.Header.Clone(), req.URL.String()

				resp, err := client.RoundTrip(req)

				require.NoError(t, err)
				require.Same(t, req, resp.Request, "Response.Request is the caller's own")
				require.JSONEq(t, `{"ok":true}`, readAll(t, resp))
				require.Equal(t, 3, base.count())
				require.Equal(t, header, req.Header)
				require.Equal(t, target, req.URL.String())
				require.True(t, before.Body == req.Body, "the Body field is not replaced") //nolint:testifylint // identity
				require.Equal(t, before.ContentLength, req.ContentLength)
				require.Equal(t, before.Context(), req.Context())
				for _, s := range base.sent {
					require.Equal(t, "payload", s.body, "every attempt sends the whole body")
					require.Equal(t, "1", s.header.Get("X-One"))
					require.Equal(t, int64(7), s.req.ContentLength)
					require.NotNil(t, s.req.GetBody, "HTTP/2 replays through it after GOAWAY")
					s.req.Trailer.Set("X-Sum", "x")
					require.Equal(t, "x", req.Trailer.Get("X-Sum"), "Trailer is shared: the caller fills it in")
				}
			})
		})
	}
}

func TestContractPassThrough(t *testing.T) {
	for name, opts := range configurations() {
		for _, status := range []int{101, 200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 399} {
			t.Run(name, func(t *testing.T) {
				// A 202 that names a time to come back (an Azure habit) was
				// sent four times by a peer.
				want, _ := answer(status, "Retry-After", "5")(nil)
				base := newScript(func(*http.Request) (*http.Response, error) { return want, nil })
				resp, err := resilient.NewTransport(base, append(opts, resilient.WithStatusErrors(true))...).RoundTrip(post(t))
				require.NoError(t, err)
				require.Same(t, want, resp)
				require.Equal(t, 1, base.count())
				require.NoError(t, resp.Body.Close())
			})
		}
	}
}

func TestContractBodyClosedOnce(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		opts []resilient.Option
		ctx  context.Context
		edit func(*http.Request)
		base step
	}{
		{name: "success", base: answer(200)},
		{name: "final status", base: answer(404)},
		{name: "out of attempts", base: answer(500), opts: []resilient.Option{resilient.WithReplayBuffer(99), resilient.WithRetryNonIdempotent(true), every(0)}},
		{name: "transport error", base: fails(io.EOF)},
		{name: "context ended before", base: answer(200), ctx: ended},
		{name: "limiter refuses", base: answer(200), opts: []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1, 0))}},
		{name: "nil URL", base: answer(200), edit: func(r *http.Request) { r.URL = nil }},
		{name: "nil header", base: answer(200), edit: func(r *http.Request) { r.Header = nil }},
		{name: "replay buffer refused", base: answer(200), ctx: ended, opts: []resilient.Option{resilient.WithReplayBuffer(99)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := &trackedBody{Reader: strings.NewReader("x")}
			req := post(t)
			req.Body, req.GetBody = body, nil
			if tt.ctx != nil {
				req = req.WithContext(tt.ctx)
			}
			if tt.edit != nil {
				tt.edit(req)
			}
			resp, err := resilient.NewTransport(newScript(tt.base), tt.opts...).RoundTrip(req)
			require.NotEqual(t, resp == nil, err == nil, "a response or an error")
			if resp != nil {
				require.NoError(t, resp.Body.Close())
			}
			require.Equal(t, 1, body.closes())
		})
	}
}

func TestContractEveryReplayedBodyIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened []*trackedBody
		req := post(t)
		req.GetBody = func() (io.ReadCloser, error) {
			opened = append(opened, &trackedBody{Reader: strings.NewReader("payload")})
			return opened[len(opened)-1], nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		calls := 0
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if calls++; calls == 2 {
				time.AfterFunc(30*time.Second, cancel)
			}
			return answer(429, "Retry-After", "40")(req)
		})
		_, err := resilient.NewTransport(base).RoundTrip(req.WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.Len(t, opened, 2, "called once for each further attempt, never for the first")
		for _, b := range opened {
			require.Equal(t, 1, b.closes(), "also the one that was never sent")
		}
	})
}

func TestContractBrokenBase(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader("")}
	for _, tt := range []struct {
		name string
		base step
		ok   bool
	}{
		{"neither", func(*http.Request) (*http.Response, error) { return nil, nil }, false},
		{"both", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: body}, io.ErrUnexpectedEOF
		}, false},
		{"nil body", func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200}, nil }, true},
		{"nil body of an error", func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 404}, nil }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newScript(tt.base)
			resp, err := resilient.NewTransport(base, resilient.WithMaxAttempts(1)).RoundTrip(get(t))
			if !tt.ok {
				require.Error(t, err)
				require.Nil(t, resp)
				return
			}
			require.NoError(t, err)
			require.NotNil(t, resp.Body)
			require.NoError(t, resp.Body.Close())
		})
	}
	require.Equal(t, 1, body.closes(), "nothing is lost: the dropped response is closed")

	base := newScript(func(*http.Request) (*http.Response, error) { return nil, nil })
	_, err := resilient.NewTransport(base).RoundTrip(get(t))
	require.Error(t, err)
	require.Equal(t, 1, base.count(), "a defect of the base does not pass")
}

func TestContractErrorIsTheBasesOwn(t *testing.T) {
	// http.Client asserts the type of what RoundTrip returns, without errors.As.
	_, err := resilient.NewTransport(newScript(fails(http.ErrSkipAltProtocol))).RoundTrip(get(t))
	require.True(t, err == http.ErrSkipAltProtocol, "not wrapped after one attempt") //nolint:errorlint,testifylint // identity
}

func TestUpgradedConnectionKeepsItsType(t *testing.T) {
	type duplex struct{ io.ReadWriteCloser }
	client, server := net.Pipe()
	defer server.Close()
	base := newScript(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 101, Body: duplex{client}}, nil
	})
	resp, err := resilient.NewTransport(base, resilient.WithAttemptTimeout(time.Second)).RoundTrip(get(t))
	require.NoError(t, err)
	require.IsType(t, duplex{}, resp.Body)
	require.NoError(t, resp.Body.Close())
}

func TestRealServer(t *testing.T) {
	// Redirects, 307 replays, gzip, cookies, trailers and Early Hints are
	// net/http's, and must work as if the Transport were not there.
	for name, opts := range configurations() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hits := map[string]int{}
				base := serve(t, func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					hits[r.URL.Path]++
					switch {
					case r.URL.Path == "/from":
						w.Header().Set("Location", "/to")
						w.WriteHeader(http.StatusTemporaryRedirect)
					case hits[r.URL.Path] == 1:
						w.Header().Set("Retry-After", "1")
						w.WriteHeader(http.StatusTooManyRequests)
					default:
						w.Header().Set("Link", "</style.css>; rel=preload")
						w.WriteHeader(http.StatusEarlyHints)
						w.Header().Set("Trailer", "X-Sum")
						_, _ = w.Write(bytes.ToUpper(body))
						w.Header().Set("X-Sum", "42")
					}
				})
				client := &http.Client{Transport: resilient.NewTransport(base, opts...)}
				hints := 0
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil },
				})
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://api.test/from", strings.NewReader("payload"))
				require.NoError(t, err)
				resp, err := client.Do(req)
				require.NoError(t, err)
				require.Equal(t, "PAYLOAD", readAll(t, resp))
				require.Equal(t, "42", resp.Trailer.Get("X-Sum"))
				require.Equal(t, map[string]int{"/from": 1, "/to": 2}, hits)
				require.Equal(t, 1, hints)
				client.CloseIdleConnections()
			})
		})
	}
}

func TestHTTP2(t *testing.T) {
	var mu sync.Mutex
	var bodies []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, r.Proto+" "+string(b))
		switch len(bodies) {
		case 1:
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			panic(http.ErrAbortHandler) // the stream is reset
		}
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	for _, tt := range []struct {
		key  string
		want int
	}{{"", 2}, {"k", 3}} {
		bodies = nil
		req := newRequest(t, http.MethodPost, srv.URL, "payload")
		if tt.key != "" {
			req.Header.Set("Idempotency-Key", tt.key)
		}
		resp, err := resilient.NewTransport(srv.Client().Transport, every(0)).RoundTrip(req)
		require.Equal(t, tt.key != "", err == nil, "a stream reset may be of a request that was processed: %v", err)
		if err == nil {
			require.NoError(t, resp.Body.Close())
		}
		mu.Lock()
		require.Len(t, bodies, tt.want)
		for _, b := range bodies {
			require.Equal(t, "HTTP/2.0 payload", b)
		}
		mu.Unlock()
	}
}

type closer struct {
	http.RoundTripper
	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }

func TestCloseIdleConnections(t *testing.T) {
	base := &closer{}
	(&http.Client{Transport: resilient.NewTransport(base)}).CloseIdleConnections()
	require.Equal(t, 1, base.closed)

	base = &closer{RoundTripper: newScript(answer(500))}
	resp, err := resilient.NewTransport(base, every(0)).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Zero(t, base.closed, "a peer flushes everybody's idle connections when it gives up")
	require.NotPanics(t, resilient.NewTransport(newScript()).CloseIdleConnections, "a base without the method")
}

func TestDefaultBaseIsLookedUpAtCallTime(t *testing.T) {
	saved := http.DefaultTransport
	defer func() { http.DefaultTransport = saved }()
	transport, zero := resilient.NewTransport(nil), &resilient.Transport{}
	base := newScript(answer(503))
	http.DefaultTransport = base // as mocking libraries do
	synctest.Test(t, func(t *testing.T) {
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 4, base.count())
		resp, err = zero.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 5, base.count(), "the zero Transport does not retry")
	})
}

func TestNonsensePanics(t *testing.T) {
	for name, f := range map[string]func(){
		"attempts":         func() { resilient.WithMaxAttempts(0) },
		"backoff":          func() { resilient.WithBackOff(nil) },
		"max wait":         func() { resilient.WithMaxWait(-1) },
		"attempt timeout":  func() { resilient.WithAttemptTimeout(-1) },
		"budget ratio":     func() { resilient.WithRetryBudget(-1, 0) },
		"budget NaN":       func() { resilient.WithRetryBudget(nan, 0) },
		"budget floor":     func() { resilient.WithRetryBudget(0, inf) },
		"key func":         func() { resilient.WithIdempotencyKey(nil) },
		"replay buffer":    func() { resilient.WithReplayBuffer(-1) },
		"classifier":       func() { resilient.WithClassifier(nil) },
		"rate":             func() { resilient.WithRateLimit(0, 1) },
		"rate NaN":         func() { resilient.WithRateLimit(rate.Limit(nan), 1) },
		"burst":            func() { resilient.WithRateLimit(1, 0) },
		"limiter":          func() { resilient.WithLimiter(nil) },
		"limit key":        func() { resilient.WithLimitKey(nil) },
		"trace":            func() { resilient.WithTrace(nil) },
		"shared in ctx":    func() { resilient.ContextWithOptions(t.Context(), resilient.WithRateLimit(1, 1)) },
		"no budget in ctx": func() { resilient.ContextWithOptions(t.Context(), resilient.WithRetryBudget(0, 0)) },
		"budget in ctx":    func() { resilient.ContextWithOptions(t.Context(), resilient.WithRetryBudget(1, 1)) },
	} {
		t.Run(name, func(t *testing.T) { require.Panics(t, f) })
	}
	require.NotPanics(t, func() {
		resilient.NewTransport(nil, nil, resilient.WithLogger(nil), resilient.WithRateLimit(rate.Inf, 0))
	})
}

func TestContextWithOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500))
		var all, one recorder
		transport := resilient.NewTransport(base, unbounded(), resilient.WithTrace(all.trace()))
		ctx := resilient.ContextWithOptions(t.Context(), resilient.WithMaxAttempts(3), resilient.WithTrace(one.trace()))
		ctx = resilient.ContextWithOptions(ctx, resilient.WithMaxAttempts(2), nil)

		resp, err := transport.RoundTrip(get(t).WithContext(ctx))

		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2, base.count(), "the innermost wins")
		require.Len(t, one.attempts, 2, "outer options stay")
		require.Len(t, all.attempts, 2, "the Transport's hooks are called too")

		resp, err = transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2+4, base.count(), "other requests are as before")
		require.Len(t, one.attempts, 2)
	})
}

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		base := newScript(answer(503), answer(429, "Retry-After", "7", "X-Request-Id", "r2"), fails(io.EOF), answer(200))
		transport := resilient.NewTransport(base, every(0), resilient.WithTrace(r.trace()))
		req := get(t)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())

		require.Equal(t, 4, r.starts)
		require.Len(t, r.attempts, 4)
		for i, a := range r.attempts {
			require.Equal(t, i+1, a.Attempt)
			require.Same(t, req, a.Request)
		}
		require.Equal(t, 503, r.attempts[0].StatusCode)
		require.Equal(t, "temporary status", r.attempts[0].Verdict.Why)
		require.Equal(t, "r2", r.attempts[1].APIError.RequestID)
		require.Equal(t, 2, r.attempts[1].APIError.Attempts)
		require.True(t, r.attempts[1].Verdict.Unprocessed)
		require.Equal(t, io.EOF, r.attempts[2].Err)
		require.Equal(t, 200, r.attempts[3].StatusCode)
		require.Equal(t, []resilient.WaitInfo{{Request: req, Attempt: 3, Reason: "retry-after", Duration: 7 * time.Second}}, r.waits)
		require.Equal(t, []resilient.DoneInfo{{
			Request: req, Attempts: 4, StatusCode: 200, Why: "success", Duration: 7 * time.Second,
		}}, r.done)
	})
}

func TestLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		}))
		base := newScript(
			answerWith(429, `{"code":"c\u001b[31m","type":"RATE","message":"secret-message"}`, "Retry-After", "2", "Set-Cookie", "secret-cookie"),
			fails(&url.Error{Op: "Get", URL: "http://api.test/?k=secret-query", Err: fmt.Errorf("oauth2: %w", &url.Error{URL: "http://secret-query", Err: errors.New("reset")})}),
			answer(200))
		transport := resilient.NewTransport(base, every(0), resilient.WithLogger(slog.Default()), resilient.WithLogger(logger))
		req := newRequest(t, http.MethodGet, "http://user:secret-pass@api.test/v1?key=secret-query", "")
		req.Header.Set("Authorization", "Bearer secret-token")
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())

		const where = ` method=GET host=api.test path=/v1`
		require.Equal(t, strings.Join([]string{
			`level=DEBUG msg="attempt started"` + where + ` attempt=1`,
			`level=WARN msg="attempt done"` + where + ` attempt=1 status=429 duration=0s why="rate limited" kind="rate limit" type=RATE code="c [31m" request_id=""`,
			`level=INFO msg=waiting` + where + ` attempt=2 reason=retry-after duration=2s`,
			`level=DEBUG msg="attempt started"` + where + ` attempt=2`,
			`level=WARN msg="attempt done"` + where + ` attempt=2 status=0 duration=0s why="no response" error=reset`,
			`level=DEBUG msg="attempt started"` + where + ` attempt=3`,
			`level=DEBUG msg="attempt done"` + where + ` attempt=3 status=200 duration=0s why=success`,
			`level=INFO msg="call done"` + where + ` attempts=3 status=200 duration=2s why=success`,
			``,
		}, "\n"), out.String())
		require.NotContains(t, out.String(), "secret")
	})
}

// A port that echoes made net/http put the request line, query and all, into
// its error, and so into the log.
func TestLoggerLeavesOutWhatIsQuoted(t *testing.T) {
	for text, want := range map[string]string{
		`malformed HTTP status code "/?key=secret"`:     `malformed HTTP status code ""`,
		`bad "secret \" secret" and "secret\\", closed`: `bad "" and "", closed`,
		`cut "secret`: `cut "`,
		`ends in "\`:  `ends in "`,
		`no quote \`:  `no quote \`,
	} {
		var log struct {
			Error string `json:"error"`
		}
		var out bytes.Buffer
		logger := slog.New(slog.NewJSONHandler(&out, nil))
		_, err := resilient.NewTransport(newScript(fails(errors.New(text))),
			resilient.WithMaxAttempts(1), resilient.WithLogger(logger)).RoundTrip(get(t))
		require.EqualError(t, err, text, "the error itself is the base's own")
		require.NoError(t, json.NewDecoder(&out).Decode(&log))
		require.Equal(t, want, log.Error)
	}
}

func TestLoggerSaysWhenACallFails(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, nil))
	resp, err := resilient.NewTransport(newScript(answer(404)), resilient.WithLogger(logger)).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Contains(t, out.String(), `level=WARN msg="call done"`)
	require.NotContains(t, out.String(), `attempt started`, "debug records are not written at info")
}

// stub is the cheapest possible base.
type stub struct{ resp *http.Response }

func (s stub) RoundTrip(*http.Request) (*http.Response, error) { return s.resp, nil }

func stubs() map[string]http.RoundTripper {
	base := stub{&http.Response{StatusCode: 200, Body: http.NoBody}}
	return map[string]http.RoundTripper{
		"bare":       base,
		"default":    resilient.NewTransport(base),
		"rate limit": resilient.NewTransport(base, resilient.WithRateLimit(1e9, 1e9)),
		"limiter":    resilient.NewTransport(base, resilient.WithLimiter(rate.NewLimiter(1e9, 1e9))),
	}
}

func TestSuccessAllocatesNothing(t *testing.T) {
	for name, transport := range stubs() {
		t.Run(name, func(t *testing.T) {
			for _, req := range []*http.Request{get(t), newRequest(t, http.MethodPut, "http://api.test/v1", "payload")} {
				req.Header.Set("Authorization", "Bearer token")
				require.Zero(t, testing.AllocsPerRun(100, func() {
					if _, err := transport.RoundTrip(req); err != nil {
						t.Error(err)
					}
				}))
			}
		})
	}
}

// BenchmarkSuccess is what the Transport adds to a request that succeeds, over
// a base that does nothing: compare with bare.
func BenchmarkSuccess(b *testing.B) {
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://api.test/v1", nil)
	req.Header.Set("Authorization", "Bearer token")
	all := stubs()
	for _, name := range []string{"bare", "default", "rate limit", "limiter"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := all[name].RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRetry is a call that is answered 500, 500, 200 without a wait.
func BenchmarkRetry(b *testing.B) {
	n := 0
	failed, fine := answer(500), answer(200)
	base := step(func(req *http.Request) (*http.Response, error) {
		if n++; n%3 == 0 {
			return fine(req)
		}
		return failed(req)
	})
	transport := resilient.NewTransport(base, every(0), unbounded())
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://api.test/v1", nil)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := transport.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

func (s step) RoundTrip(req *http.Request) (*http.Response, error) { return s(req) }
