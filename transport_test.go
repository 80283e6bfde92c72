package resilient_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

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
	return r.done[0].Reason
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

// configuration is one way to set up a Transport. All have to keep the contract.
type configuration struct {
	opts     []resilient.Option
	twice    bool // one Transport over another, as by mistake
	asErrors bool // error statuses are errors
	copies   bool // also the first attempt is a copy of the request
	watches  bool // request bodies are wrapped, to see when they are read
}

// over returns a Transport over base, with more options if given.
func (c configuration) over(base http.RoundTripper, more ...resilient.Option) *resilient.Transport {
	opts := slices.Concat(c.opts, more)
	transport := resilient.NewTransport(base, opts...)
	if c.twice {
		transport = resilient.NewTransport(transport, opts...)
	}
	return transport
}

func configurations() map[string]configuration {
	return map[string]configuration{
		"default":         {},
		"nil option":      {opts: []resilient.Option{nil}},
		"rate limit":      {opts: []resilient.Option{resilient.WithRateLimit(1000, 1000)}},
		"limiter":         {opts: []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1000, 1000))}},
		"replay buffer":   {opts: []resilient.Option{resilient.WithReplayBuffer(1 << 20)}},
		"status errors":   {opts: []resilient.Option{resilient.WithStatusErrors(true)}, asErrors: true},
		"no retry mark":   {opts: []resilient.Option{resilient.WithNoRetryMark(true)}},
		"attempt timeout": {opts: []resilient.Option{resilient.WithAttemptTimeout(time.Minute)}, copies: true, watches: true},
		"trace and log": {opts: []resilient.Option{
			resilient.WithTrace((&recorder{}).trace()), resilient.WithTrace(&resilient.Trace{}),
			resilient.WithLogger(slog.New(slog.DiscardHandler)), resilient.WithLogPath((*http.Request).UserAgent),
		}},
		"idempotency key": {opts: []resilient.Option{resilient.WithIdempotencyKey(func(*http.Request) string { return "k" })}},
		"profile": {opts: []resilient.Option{resilient.WithProfile(resilient.Profile{
			Failed: func([]byte) bool { return false }, // so that every JSON body is looked at
		})}},
		"stacked twice": {twice: true},
	}
}

// TestContract is what a RoundTripper owes its caller, by the documentation of
// net/http and by what http.Client and SDKs rely on: every check holds for every
// configuration. Each runs in a bubble of its own, which also fails if it leaves
// a goroutine behind.
//
//	go test -run TestContract/gzip .              # one check
//	go test -run 'TestContract//stacked twice' .  # one configuration
func TestContract(t *testing.T) {
	for name, check := range contract {
		for with, c := range configurations() {
			t.Run(name+"/"+with, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { check(contractTest{t, c}) })
			})
		}
	}
}

// contractTest is one check of one configuration.
type contractTest struct {
	*testing.T
	configuration
}

var contract = map[string]func(contractTest){
	// The request.
	"request untouched": requestUntouched,
	"every field":       everyFieldReachesEveryAttempt,
	"first attempt":     firstAttemptIsTheCallersRequest,
	"malformed request": malformedRequest,
	"request reused":    requestReused,
	"httptrace":         httptraceOfEveryAttempt,

	// Its body.
	"request body":      requestBodyIsPassedOn,
	"length":            lengthStaysKnown,
	"body closed":       requestBodyClosedOnce,
	"every body closed": everyReplayedBodyIsClosed,
	"upload given up":   uploadGivenUp,
	"100-continue":      expectContinue,
	"streams":           streamsBothWays,
	"CONNECT":           connectIsATunnel,

	// The response.
	"response or error":  responseOrError,
	"broken base":        brokenBase,
	"pass through":       passThrough,
	"1xx":                informationalResponses,
	"101":                upgradedConnection,
	"no body":            responsesWithoutABody,
	"trailers":           trailersBothWays,
	"gzip":               gzipIsTransparent,
	"error body":         errorBodyIsWhole,
	"error text":         errorTextIsOneLine,
	"short body":         shortBodyIsAnError,
	"closed body":        closedBody,
	"retried responses":  retriedResponsesAreClosed,
	"abandoned response": abandonedResponse,

	// Errors and the context.
	"error is the base's": errorIsTheBases,
	"proxy":               proxyErrorPassesThrough,
	"context":             contextCause,
	"client timeout":      clientTimeout,

	// http.Client, and many at once.
	"redirects":        redirectsAreTheClients,
	"cookies":          cookiesOfTheLastResponse,
	"idle connections": closesIdleConnections,
	"64 at once":       manyAtOnce,
	"not one by one":   nobodyWaitsForAnother,
}

// TestConformance holds the tables in CONTRIBUTING.md to what there is: every
// number is in them once, and every test that they name exists.
func TestConformance(t *testing.T) {
	doc, err := os.ReadFile("CONTRIBUTING.md")
	require.NoError(t, err)
	rows := regexp.MustCompile(`(?m)^\| ([0-9][0-9, ]*) \| .+ \| (.+) \|$`).FindAllSubmatch(doc, -1)
	tests := testNames(t)
	_, err = os.Stat("internal/faults")
	faults := err == nil // a module as it is downloaded has no other module in it
	unnamed := maps.Clone(contract)
	var numbers []int
	for _, row := range rows {
		for number := range strings.SplitSeq(string(row[1]), ", ") {
			n, err := strconv.Atoi(number)
			require.NoError(t, err)
			numbers = append(numbers, n)
		}
		for name := range strings.SplitSeq(string(row[2]), ", ") {
			if strings.HasPrefix(name, "faults.") && !faults {
				continue
			}
			test, check, sub := strings.Cut(name, "/")
			require.True(t, tests[test], "row %s names %s, which is not there", row[1], name)
			if sub {
				require.Equal(t, "TestContract", test)
				require.NotNil(t, contract[check], "row %s names %s, which is not there", row[1], name)
				delete(unnamed, check)
			}
		}
	}
	require.Empty(t, slices.Collect(maps.Keys(unnamed)), "checks that no row names")
	slices.Sort(numbers)
	var want []int
	for n := range 111 {
		want = append(want, n+1)
	}
	require.Equal(t, want, numbers)

	list, err := os.ReadFile("../shared/conformance.md")
	if err != nil {
		return // it is kept beside some clones only
	}
	numbers = nil
	for _, row := range regexp.MustCompile(`(?m)^\| ([0-9]+) \|`).FindAllSubmatch(list, -1) {
		n, err := strconv.Atoi(string(row[1]))
		require.NoError(t, err)
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	require.Equal(t, want, numbers, "the list itself has changed")
}

// testNames returns the names of the tests of the root package, and of those in
// internal with the name of their folder before them.
func testNames(tb testing.TB) map[string]bool {
	tb.Helper()
	names := map[string]bool{}
	for _, folder := range []string{".", "internal/*"} {
		files, err := filepath.Glob(folder + "/*_test.go")
		require.NoError(tb, err)
		for _, file := range files {
			prefix := ""
			if folder != "." {
				prefix = filepath.Base(filepath.Dir(file)) + "."
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			require.NoError(tb, err)
			for _, decl := range parsed.Decls {
				if f, ok := decl.(*ast.FuncDecl); ok && regexp.MustCompile("^(Test|Fuzz)[A-Z]").MatchString(f.Name.Name) {
					names[prefix+f.Name.Name] = true
				}
			}
		}
	}
	return names
}

// settle asserts what is left of a call that ends with an error status: the
// response, which it returns, or with WithStatusErrors an error in its place.
func (t contractTest) settle(status int, resp *http.Response, err error) *http.Response {
	t.Helper()
	if !t.asErrors {
		require.NoError(t, err)
		require.Equal(t, status, resp.StatusCode)
		return resp
	}
	require.Nil(t, resp)
	var apiErr *resilient.APIError
	require.ErrorAs(t, err, &apiErr)
	require.Equal(t, status, apiErr.StatusCode)
	return nil
}

// outcomes are the ways in which a call can end, each with the number of
// attempts it takes, of a POST whose body can be replayed.
func outcomes() map[string]struct {
	base     *script
	attempts int
} {
	return map[string]struct {
		base     *script
		attempts int
	}{
		"success":         {newScript(answer(200)), 1},
		"redirect":        {newScript(answer(302, "Location", "/")), 1},
		"final status":    {newScript(answer(404)), 1},
		"retried":         {newScript(answer(429), answer(429, "Retry-After", "1"), answer(200)), 3},
		"out of attempts": {newScript(answer(429)), 4},
		"hint too long":   {newScript(answer(429, "Retry-After", "3600")), 1},
		"transport error": {newScript(fails(&net.OpError{Op: "dial", Err: io.EOF})), 4},
		"permanent error": {newScript(fails(x509.UnknownAuthorityError{})), 1},
		"response, error": {newScript(answer(429, "Retry-After", "1"), fails(x509.UnknownAuthorityError{})), 2},
	}
}

// wholeRequest has a value in every field that a client may set.
func wholeRequest(tb testing.TB) *http.Request {
	tb.Helper()
	req := newRequest(tb, http.MethodPost, "http://user:pass@api.test/a%2Fb?q=1#f", "payload")
	req.URL.Opaque = "//api.test/a%2Fb"
	req.Header = http.Header{"X-One": {"1"}, "Authorization": {"Bearer token"}, "X-None": nil}
	req.Trailer = http.Header{"X-Sum": nil}
	req.Host = "virtual.test"
	req.TransferEncoding = []string{"identity"}
	req.Close = true
	// Cancel is deprecated, as linters say, but http.Client still sets it.
	var canceled <-chan struct{} = make(chan struct{})
	reflect.ValueOf(req).Elem().FieldByName("Cancel").Set(reflect.ValueOf(canceled))
	req.Pattern = "none of a client's business"
	return req
}

// snapshot returns req with copies of what it refers to and might be written to.
func snapshot(req *http.Request) http.Request {
	s := *req
	target := *req.URL
	s.URL, s.Header, s.Trailer = &target, req.Header.Clone(), req.Trailer.Clone()
	s.TransferEncoding = slices.Clone(req.TransferEncoding)
	return s
}

// requireSameFields compares all fields, but for the bodies, where functions
// cannot be compared.
func requireSameFields(tb testing.TB, want, got http.Request, what string) {
	tb.Helper()
	want.Body, want.GetBody, got.Body, got.GetBody = nil, nil, nil, nil
	require.Equal(tb, want, got, what)
}

func requestUntouched(t contractTest) {
	for name, o := range outcomes() {
		req := wholeRequest(t)
		opened := 0
		getBody := req.GetBody
		req.GetBody = func() (io.ReadCloser, error) { opened++; return getBody() }
		body, before := req.Body, snapshot(req)

		resp, _ := t.over(o.base).RoundTrip(req)

		requireSameFields(t, before, *req, name)
		require.True(t, body == req.Body, "%s: the Body field is not replaced", name) //nolint:testifylint // identity
		require.Equal(t, o.attempts, o.base.count(), name)
		require.Equal(t, o.attempts-1, opened, "%s: GetBody is for further attempts", name)
		_, _ = req.GetBody()
		require.Equal(t, o.attempts, opened, "%s: GetBody is still the caller's", name)
		if resp != nil {
			require.Same(t, req, resp.Request, name)
			require.NoError(t, resp.Body.Close())
			requireSameFields(t, before, *req, name)
		}
	}
}

func everyFieldReachesEveryAttempt(t contractTest) {
	type key struct{}
	req := wholeRequest(t)
	req = req.WithContext(context.WithValue(req.Context(), key{}, "value"))
	want := snapshot(req)
	base := newScript(answer(429), answer(429, "Retry-After", "1"), answer(200))

	resp, err := t.over(base).RoundTrip(req)

	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 3, base.count())
	bodies := map[io.ReadCloser]bool{}
	for i, s := range base.sent {
		require.Equal(t, "value", s.req.Context().Value(key{}))
		require.Equal(t, "payload", s.body, "every attempt sends the whole body")
		require.NotNil(t, s.req.GetBody, "HTTP/2 replays through it after GOAWAY")
		bodies[s.req.Body] = true
		got := *s.req.WithContext(req.Context())
		got.Header = got.Header.Clone()
		got.Header.Del("Idempotency-Key") // by WithIdempotencyKey
		requireSameFields(t, want, got, fmt.Sprint("attempt ", i+1))
		s.req.Trailer["X-Sum"] = []string{"x"}
		require.Equal(t, "x", req.Trailer.Get("X-Sum"), "Trailer is shared: the caller fills it in while the body is read")
		delete(s.req.Trailer, "X-Sum")
		s.req.Trailer["X-Sum"] = nil
	}
	require.Len(t, bodies, 3, "a base may still be reading the body of the attempt before")
}

func firstAttemptIsTheCallersRequest(t contractTest) {
	if t.copies {
		t.Skip("an attempt with a timeout has a context of its own")
	}
	for _, req := range []*http.Request{get(t), newRequest(t, http.MethodPut, "http://api.test/", "payload")} {
		base := newScript(answer(429), answer(200))
		resp, err := t.over(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Same(t, req, base.sent[0].req, "as net/http knows it by its pointer")
		require.NotSame(t, req, base.sent[1].req, "which the base may not have done with")
	}
}

// malformedRequest leaves it to net/http to say what is wrong. nil URLs and
// headers do not get that far.
func malformedRequest(t contractTest) {
	for name, edit := range map[string]func(*http.Request){
		"nil URL":          func(r *http.Request) { r.URL = nil },
		"nil header":       func(r *http.Request) { r.Header = nil },
		"no host":          func(r *http.Request) { r.URL.Host, r.Host = "", "" },
		"bad scheme":       func(r *http.Request) { r.URL.Scheme = "gopher" },
		"bad method":       func(r *http.Request) { r.Method = "P UT" },
		"bad header name":  func(r *http.Request) { r.Header["X Secret"] = []string{"secret"} },
		"bad header value": func(r *http.Request) { r.Header.Set("X", "secret\r\nX-Injected: 1") },
	} {
		attempts := 0
		base := serve(t, func(http.ResponseWriter, *http.Request) { t.Error(name, "was sent") })
		counted := step(func(req *http.Request) (*http.Response, error) {
			attempts++
			return base.RoundTrip(req)
		})
		body := &trackedBody{Reader: strings.NewReader("x")}
		req := newRequest(t, http.MethodPut, "http://api.test/", "")
		req.Body, req.ContentLength = body, 1
		edit(req)
		resp, err := t.over(counted).RoundTrip(req)
		require.Nil(t, resp, name)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "secret", "net/http does not quote values either")
		require.LessOrEqual(t, attempts, 1, name)
		require.Equal(t, 1, body.closes(), name)
	}
}

// requestReused sends one Request again and again, which a caller may do once
// the response body is closed: with -race this finds who still looks at it.
func requestReused(t contractTest) {
	hits := 0
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if hits++; hits%2 == 1 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
		_, _ = io.WriteString(w, r.Header.Get("N"))
	})
	transport, req := t.over(base), post(t)
	for i := range 5 {
		req.Header["N"] = []string{strconv.Itoa(i)}
		req.Body = io.NopCloser(strings.NewReader("payload"))
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i), readAll(t, resp))
	}
	require.Equal(t, 10, hits)
}

func httptraceOfEveryAttempt(t contractTest) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		hits := 0
		base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			if hits++; hits < 3 {
				w.WriteHeader(http.StatusTooManyRequests)
			}
		})
		var conns, writes, answers atomic.Int32 // called by net/http's goroutines
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotConn:              func(httptrace.GotConnInfo) { conns.Add(1) },
			WroteRequest:         func(httptrace.WroteRequestInfo) { writes.Add(1) },
			GotFirstResponseByte: func() { answers.Add(1) },
		})
		resp, err := t.over(base).RoundTrip(newRequest(t, method, "http://api.test/", "").WithContext(ctx))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []int32{3, 3, 3}, []int32{conns.Load(), writes.Load(), answers.Load()}, "once for each attempt")
	}
}

func requestBodyIsPassedOn(t contractTest) {
	for name, body := range map[string]io.ReadCloser{"nil": nil, "NoBody": http.NoBody} {
		base := newScript(answer(429), answer(200))
		req := post(t)
		req.Body, req.GetBody, req.ContentLength = body, nil, 0
		resp, err := t.over(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		for _, s := range base.sent {
			require.Equal(t, body, s.req.Body, "%s: another would be sent in chunks", name)
			require.Zero(t, s.req.ContentLength)
		}
	}

	if t.watches {
		return
	}
	base := newScript(answer(200))
	req := post(t)
	resp, err := t.over(base).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.True(t, req.Body == base.sent[0].req.Body, "net/http asks for its type") //nolint:testifylint // identity
}

func lengthStaysKnown(t contractTest) {
	for _, tt := range []struct {
		name   string
		body   io.Reader
		length int64
		coding []string
	}{
		{"known", strings.NewReader("payload"), 7, nil},
		{"not known", io.MultiReader(strings.NewReader("payload")), -1, []string{"chunked"}},
		{"nothing", nil, 0, nil},
	} {
		hits := 0
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			hits++
			if r.ContentLength != tt.length || !slices.Equal(r.TransferEncoding, tt.coding) {
				t.Errorf("%s: got %d, %v", tt.name, r.ContentLength, r.TransferEncoding)
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if hits == 1 {
				w.WriteHeader(http.StatusTooManyRequests)
			}
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://api.test/", tt.body)
		require.NoError(t, err)
		resp, err := t.over(base, resilient.WithReplayBuffer(7)).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2, hits)
	}
}

func requestBodyClosedOnce(t contractTest) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	resend := []resilient.Option{resilient.WithReplayBuffer(99), resilient.WithRetryNonIdempotent(true), every(0)}
	for _, tt := range []struct {
		name string
		opts []resilient.Option
		ctx  context.Context
		base step
	}{
		{name: "success", base: answer(200)},
		{name: "final status", base: answer(404)},
		{name: "out of attempts", base: answer(500), opts: resend},
		{name: "transport error", base: fails(io.EOF)},
		{name: "several transport errors", base: fails(io.EOF), opts: resend},
		{name: "context ended before", base: answer(200), ctx: ended},
		{name: "context ended before, recorded", base: answer(200), ctx: ended, opts: resend},
		{name: "limiter refuses", base: answer(200), opts: []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1, 0))}},
		{name: "limiter refuses, recorded", base: answer(200), opts: append(resend, resilient.WithLimiter(rate.NewLimiter(1, 0)))},
	} {
		body := &trackedBody{Reader: strings.NewReader("x")}
		req := post(t)
		req.Body, req.GetBody = body, nil
		if tt.ctx != nil {
			req = req.WithContext(tt.ctx)
		}
		resp, err := t.over(newScript(tt.base), tt.opts...).RoundTrip(req)
		require.NotEqual(t, resp == nil, err == nil, tt.name)
		if resp != nil {
			require.NoError(t, resp.Body.Close())
		}
		require.Equal(t, 1, body.closes(), tt.name)
	}
}

func everyReplayedBodyIsClosed(t contractTest) {
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
	_, err := t.over(base).RoundTrip(req.WithContext(ctx))
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, opened, 2, "called once for each further attempt, never for the first")
	for _, b := range opened {
		require.Equal(t, 1, b.closes(), "also the one that was never sent")
	}
}

// uploadGivenUp is answered before the body has been written, and will never be
// read: whoever writes it must not wait for ever.
func uploadGivenUp(t contractTest) {
	for _, status := range []int{200, 413} {
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = r.Body.Read(make([]byte, 1))
			w.Header().Set("Connection", "close")
			w.WriteHeader(status)
		})
		r, w := io.Pipe()
		written := make(chan error)
		go func() {
			for {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					written <- err
					return
				}
			}
		}()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://api.test/", r)
		require.NoError(t, err)
		resp, err := t.over(base).RoundTrip(req)
		if status >= 400 {
			resp = t.settle(status, resp, err)
		}
		if resp != nil {
			require.NoError(t, resp.Body.Close())
		}
		require.ErrorIs(t, <-written, io.ErrClosedPipe)
	}
}

func expectContinue(t contractTest) {
	for _, last := range []int{200, 413} {
		var at []time.Time
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			at = append(at, time.Now())
			switch {
			case len(at) == 1:
				w.WriteHeader(http.StatusTooManyRequests)
			case last == 200:
				_, _ = io.Copy(w, r.Body) // asks for it
			default:
				w.WriteHeader(last)
			}
		})
		base.ExpectContinueTimeout = time.Hour
		read := 0
		req := post(t)
		req.Header.Set("Expect", "100-continue")
		open := func() (io.ReadCloser, error) {
			body := strings.NewReader("payload")
			return io.NopCloser(readerFunc(func(p []byte) (int, error) {
				n, err := body.Read(p)
				read += n
				return n, err
			})), nil
		}
		req.Body, _ = open()
		req.GetBody = open
		resp, err := t.over(base, every(3*time.Second)).RoundTrip(req)
		if last == 200 {
			require.NoError(t, err)
			require.Equal(t, "payload", readAll(t, resp))
			require.Equal(t, len("payload"), read, "sent to the one server that asked for it")
		} else {
			if resp = t.settle(last, resp, err); resp != nil {
				require.NoError(t, resp.Body.Close())
			}
			require.Zero(t, read, "nobody asked for it")
		}
		require.Len(t, at, 2)
		require.Equal(t, 3*time.Second, at[1].Sub(at[0]), "from the answer, not from the end of the body")
	}
}

// streamsBothWays sends each byte only when the one before it has come back.
func streamsBothWays(t contractTest) {
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		buf := make([]byte, 1)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	})
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://api.test/", r)
	require.NoError(t, err)
	go func() { _, _ = w.Write([]byte("a")) }()
	resp, err := t.over(base).RoundTrip(req)
	require.NoError(t, err)
	requireEcho(t, w, resp.Body, "abc")
	require.NoError(t, w.Close())
	require.NoError(t, resp.Body.Close())
}

// requireEcho writes text byte by byte, an hour apart, and reads each back. The
// first is on its way already.
func requireEcho(tb testing.TB, w io.Writer, r io.Reader, text string) {
	tb.Helper()
	buf := make([]byte, 1)
	for i := range len(text) {
		if i > 0 {
			time.Sleep(time.Hour) // long after any timeout of an attempt
			_, err := io.WriteString(w, text[i:i+1])
			require.NoError(tb, err)
		}
		_, err := io.ReadFull(r, buf)
		require.NoError(tb, err)
		require.Equal(tb, text[i:i+1], string(buf))
	}
}

// hijacked answers with head, then sends back what comes.
func hijacked(head string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, head)
		_, _ = io.Copy(conn, rw)
	}
}

func connectIsATunnel(t contractTest) {
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, "http://api.test", r)
	require.NoError(t, err)
	base := newSteps(serve(t, hijacked("HTTP/1.1 200 OK\r\n\r\n")).RoundTrip) // once
	resp, err := t.over(base).RoundTrip(req)
	require.NoError(t, err)
	go func() { _, _ = w.Write([]byte("a")) }()
	requireEcho(t, w, resp.Body, "abc")
	require.NoError(t, w.Close())
	require.NoError(t, resp.Body.Close())
}

func upgradedConnection(t contractTest) {
	base := serve(t, hijacked("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
	req := get(t)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := t.over(base).RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	duplex, ok := resp.Body.(io.ReadWriteCloser)
	require.True(t, ok, "net/http promises it")
	go func() { _, _ = duplex.Write([]byte("a")) }()
	requireEcho(t, duplex, duplex, "abc")
	require.NoError(t, duplex.Close())

	type halfCloser struct{ io.ReadWriteCloser } // with CloseWrite or whatever else
	client, server := net.Pipe()
	defer server.Close()
	resp, err = t.over(step(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: halfCloser{client}}, nil
	})).RoundTrip(get(t))
	require.NoError(t, err)
	require.IsType(t, halfCloser{}, resp.Body)
	require.NoError(t, resp.Body.Close())
}

// redirectsAreTheClients: the Transport follows none and retries each hop for
// itself, where it is; the client replays the body and strips credentials.
func redirectsAreTheClients(t contractTest) {
	for _, status := range []int{http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		var seen []string
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			seen = append(seen, fmt.Sprint(r.Method, " ", r.Host, " ", string(body), " ", r.Header.Get("Authorization")))
			switch len(seen) {
			case 1, 3: // each hop is refused once, by a server that would have it go elsewhere
				w.Header().Set("Location", "http://evil.test/")
				w.WriteHeader(http.StatusTooManyRequests)
			case 2:
				w.Header().Set("Location", "http://other.test/to")
				w.WriteHeader(status)
			}
		})
		transport := t.over(base)
		req := newRequest(t, http.MethodPost, "http://api.test/from", "payload")
		req.Header.Set("Authorization", "token")
		resp, err := (&http.Client{Transport: transport}).Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []string{
			"POST api.test payload token", "POST api.test payload token",
			"POST other.test payload ", "POST other.test payload ",
		}, seen)

		seen = nil
		stay := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
		resp, err = stay.Do(newRequest(t, http.MethodPost, "http://api.test/from", "payload"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, status, resp.StatusCode)
		require.Len(t, seen, 2)
	}
}

func cookiesOfTheLastResponse(t contractTest) {
	var got []string
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Cookie"))
		if len(got) == 1 {
			w.Header().Set("Set-Cookie", "a=retried")
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Set-Cookie", "b=last")
	})
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Transport: t.over(base), Jar: jar}
	for range 2 {
		resp, err := client.Do(get(t))
		require.NoError(t, err)
		require.Equal(t, "b=last", resp.Header.Get("Set-Cookie"))
		require.NoError(t, resp.Body.Close())
	}
	require.Equal(t, []string{"", "", "b=last"}, got)
}

// manyAtOnce has every request refused once and its connection lost once.
func manyAtOnce(t contractTest) {
	var mu sync.Mutex
	hits := map[string]int{}
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		hits[string(body)]++
		n := hits[string(body)]
		mu.Unlock()
		switch n {
		case 1:
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			panic(http.ErrAbortHandler)
		default:
			_, _ = w.Write(bytes.ToUpper(body))
		}
	})
	client := &http.Client{Transport: t.over(base, unbounded())}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			payload := fmt.Sprint("payload ", i)
			resp, err := client.Do(newRequest(t, http.MethodPut, "http://api.test/", payload))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != strings.ToUpper(payload) {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
	wg.Wait()
	for payload, n := range hits {
		require.Equal(t, 3, n, payload)
	}
}

// nobodyWaitsForAnother ends in a deadlock if not all 64 are let through.
func nobodyWaitsForAnother(t contractTest) {
	var all sync.WaitGroup
	all.Add(64)
	transport := t.over(step(func(req *http.Request) (*http.Response, error) {
		all.Done()
		all.Wait()
		return answer(200)(req)
	}))
	callers(t.T, transport, 64)
}

func clientTimeout(t contractTest) {
	var hits atomic.Int32
	base := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		<-r.Context().Done()
	})
	transport := t.over(base)
	start := time.Now()
	_, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(get(t))
	var u *url.Error
	require.ErrorAs(t, err, &u)
	require.True(t, u.Timeout())
	require.Equal(t, 5*time.Second, time.Since(start))
	require.EqualValues(t, 1, hits.Load())
	require.NotImplements(t, (*interface{ CancelRequest(*http.Request) })(nil), transport,
		"http.Client would call it in place of the context")
}

func contextCause(t contractTest) {
	cause := errors.New("shutting down")
	hangs := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	waiting := t.over(newScript(answer(503)), every(time.Hour), resilient.WithMaxWait(2*time.Hour))
	limited := t.over(newScript(answer(200)), resilient.WithRateLimit(1.0/3600, 1), resilient.WithMaxWait(2*time.Hour))
	resp, err := limited.RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	for name, rt := range map[string]http.RoundTripper{"in an attempt": t.over(hangs), "between attempts": waiting, "in the limiter": limited} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(cause) })
		start := time.Now()
		_, err := rt.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, cause, name)
		require.Equal(t, 3*time.Second, time.Since(start), name)
		_, err = rt.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, cause, name)
		require.Equal(t, 3*time.Second, time.Since(start), name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = t.over(hangs).RoundTrip(get(t).WithContext(ctx))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func responseOrError(t contractTest) {
	for name, o := range outcomes() {
		resp, err := t.over(o.base).RoundTrip(post(t))
		require.NotEqual(t, resp == nil, err == nil, name)
		require.Equal(t, o.attempts, o.base.count(), "%s: also of two Transports", name)
		if resp != nil {
			require.NotNil(t, resp.Body, name)
			require.NoError(t, resp.Body.Close())
			if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
				require.Equal(t, o.attempts, apiErr.Attempts, name)
			}
		}
	}
}

func brokenBase(t contractTest) {
	body := &trackedBody{Reader: strings.NewReader("")}
	for name, base := range map[string]step{
		"neither": func(*http.Request) (*http.Response, error) { return nil, nil },
		"both": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: body}, x509.UnknownAuthorityError{}
		},
		"an error and a response without a body": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200}, x509.UnknownAuthorityError{}
		},
	} {
		script := newScript(base)
		resp, err := t.over(script).RoundTrip(get(t))
		require.Error(t, err, name)
		require.Nil(t, resp, name)
		require.Equal(t, 1, script.count(), "%s: a defect of the base does not pass", name)
	}
	require.Equal(t, 1, body.closes(), "nothing is lost: the dropped response is closed")

	for _, status := range []int{200, 404, 500} {
		base := newScript(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: status}, nil })
		resp, err := t.over(base).RoundTrip(get(t))
		if status >= 400 {
			resp = t.settle(status, resp, err)
		}
		if resp != nil {
			require.Equal(t, http.NoBody, resp.Body)
		}
	}
}

func passThrough(t contractTest) {
	for _, status := range []int{101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 399} {
		// A 202 that names a time to come back (an Azure habit) was sent four
		// times by a peer.
		want, _ := answer(status, "Retry-After", "5", "Location", "http://other.test/")(nil)
		base := newScript(func(*http.Request) (*http.Response, error) { return want, nil })
		transport, start := t.over(base), time.Now()
		for i := range 2 {
			resp, err := transport.RoundTrip(post(t))
			require.NoError(t, err)
			require.Same(t, want, resp)
			require.Equal(t, i+1, base.count())
		}
		require.NoError(t, want.Body.Close())
		require.Zero(t, time.Since(start), "and nobody waits")
	}
}

// errorIsTheBases: http.Client asserts the type of what RoundTrip returns, where
// errors.As would find more, and wraps it in a *url.Error itself.
func errorIsTheBases(t contractTest) {
	for _, want := range []error{http.ErrSkipAltProtocol, x509.UnknownAuthorityError{}} {
		_, err := t.over(newScript(fails(want))).RoundTrip(get(t))
		require.True(t, err == want, "not wrapped after one attempt") //nolint:errorlint,testifylint // identity
	}
	base := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("TLS does not get through") })
	_, err := (&http.Client{Transport: t.over(base)}).Do(newRequest(t, http.MethodGet, "https://api.test/", ""))
	require.ErrorIs(t, err, http.ErrSchemeMismatch)

	_, err = t.over(newScript(fails(io.EOF))).RoundTrip(get(t))
	require.ErrorIs(t, err, io.EOF, "after several attempts")
	require.NotErrorAs(t, err, new(*url.Error))
}

func proxyErrorPassesThrough(t contractTest) {
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "api.test:443" {
			t.Errorf("%s %s went past the proxy", r.Method, r.Host)
		}
		w.WriteHeader(http.StatusProxyAuthRequired)
	})
	base.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test"})
	_, err := t.over(base).RoundTrip(newRequest(t, http.MethodGet, "https://api.test/", ""))
	require.ErrorContains(t, err, "Proxy Authentication Required")
}

func informationalResponses(t contractTest) {
	hits := 0
	base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		hits++
		w.WriteHeader(http.StatusProcessing)
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		if hits == 1 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	var codes []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && h.Get("Link") == "" {
				t.Error("the hint is lost")
			}
			codes = append(codes, code)
			return nil
		},
	})
	resp, err := t.over(base).RoundTrip(get(t).WithContext(ctx))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, []int{102, 103, 102, 103}, codes)
}

func responsesWithoutABody(t contractTest) {
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "1000")
		}
		w.WriteHeader(status)
	})
	transport, start := t.over(base, resilient.WithMaxAttempts(1)), time.Now()
	for _, tt := range []struct {
		method string
		status int
		length int64
	}{
		{http.MethodHead, 200, 1000},
		{http.MethodHead, 404, 1000},
		{http.MethodHead, 500, 1000},
		{http.MethodGet, 204, 0},
		{http.MethodGet, 304, 0},
		{http.MethodGet, 500, 0},
	} {
		resp, err := transport.RoundTrip(newRequest(t, tt.method, fmt.Sprint("http://api.test/", tt.status), ""))
		if tt.status >= 400 {
			resp = t.settle(tt.status, resp, err)
		}
		if resp != nil {
			require.Equal(t, tt.status, resp.StatusCode)
			require.Equal(t, tt.length, resp.ContentLength)
			require.Equal(t, http.NoBody, resp.Body, "net/http looks for it")
		}
	}
	require.Zero(t, time.Since(start), "nobody waits for a body")
}

func trailersBothWays(t contractTest) {
	for _, last := range []int{200, 404} {
		hits := 0
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			hits++
			_, _ = io.Copy(io.Discard, r.Body)
			if got := r.Trailer.Get("X-Sum"); got != "7" {
				t.Errorf("attempt %d has the trailer %q", hits, got)
			}
			if hits == 1 {
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			w.Header().Set("Trailer", "X-Told")
			w.WriteHeader(last)
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Told", "1")
			w.Header().Set(http.TrailerPrefix+"X-Untold", "2")
		})
		req := post(t)
		req.ContentLength = -1
		req.Trailer = http.Header{"X-Sum": nil}
		open := func() (io.ReadCloser, error) {
			sum := readerFunc(func([]byte) (int, error) {
				req.Trailer.Set("X-Sum", "7") // known at the end and no sooner
				return 0, io.EOF
			})
			return io.NopCloser(io.MultiReader(strings.NewReader("payload"), sum)), nil
		}
		req.Body, _ = open()
		req.GetBody = open
		resp, err := t.over(base).RoundTrip(req)
		if last >= 400 {
			resp = t.settle(last, resp, err)
		}
		if resp != nil {
			require.Equal(t, "body", readAll(t, resp))
			require.Equal(t, http.Header{"X-Told": {"1"}, "X-Untold": {"2"}}, resp.Trailer)
		}
		require.Equal(t, 2, hits)
	}
}

// gzipIsTransparent unless the caller asks for it: then what comes is the
// caller's to decode.
func gzipIsTransparent(t contractTest) {
	const object = `{"code":"c","message":"m"}`
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, object)
	require.NoError(t, z.Close())
	base := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body := []byte(object)
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			body = packed.Bytes()
		}
		status, _ := strconv.Atoi(r.URL.Path[1:])
		w.WriteHeader(status)
		_, _ = w.Write(body)
	})
	for _, status := range []int{200, 404} {
		for name, tt := range map[string]struct {
			edit         func(*http.Request)
			want, coding string
			unpacked     bool
		}{
			"net/http asks":   {func(*http.Request) {}, object, "", true},
			"the caller asks": {func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") }, packed.String(), "gzip", false},
			"nobody asks":     {func(r *http.Request) { r.Header.Set("Accept-Encoding", "identity") }, object, "", false},
		} {
			req := newRequest(t, http.MethodGet, fmt.Sprint("http://api.test/", status), "")
			tt.edit(req)
			resp, err := t.over(base).RoundTrip(req)
			if status >= 400 {
				if resp = t.settle(status, resp, err); resp != nil {
					apiErr, _ := resilient.ErrorFromResponse(resp)
					require.True(t, tt.want != object || apiErr.Code == "c", name)
				}
			}
			if resp != nil {
				require.Equal(t, tt.unpacked, resp.Uncompressed, name)
				require.Equal(t, tt.unpacked, resp.ContentLength == -1, name)
				require.Equal(t, tt.coding, resp.Header.Get("Content-Encoding"), name)
				require.Equal(t, tt.want, readAll(t, resp), name)
			}
		}
	}
}

func errorBodyIsWhole(t contractTest) {
	object := `{"code":"c","message":"m"}` + strings.Repeat(" ", 100_000)
	for _, status := range []int{404, 500} { // at once, and after retries
		base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(object)))
			w.Header().Set("Content-Type", "text/html") // as a proxy may claim
			w.WriteHeader(status)
			_, _ = io.WriteString(w, object)
		})
		resp, err := t.over(base).RoundTrip(get(t))
		if resp = t.settle(status, resp, err); resp == nil {
			apiErr, _ := errors.AsType[*resilient.APIError](err)
			require.Equal(t, "c", apiErr.Code)
			continue
		}
		apiErr, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, "c", apiErr.Code)
		require.EqualValues(t, len(object), resp.ContentLength)
		require.Equal(t, object, readAll(t, resp))
	}
}

// errorTextIsOneLine, whatever the server sends, of characters that do nothing:
// it ends up in logs.
func errorTextIsOneLine(t contractTest) {
	for _, body := range []string{
		``, `null`, `"text"`, `[{}]`, `{"message":`, `<html>`, "\x00\xff",
		`{"code":"a","code":"b","Code":"c","message":"m"}`,
		`{"code":"a"} {"code":"b"}`,
		`{"code":"\ud800","type":"\udfff\ud800","message":"\ud83d"}`,
		"{\"code\":\"\xff\",\"message\":\"caf\xe9\"}",
		`{"message":"\r\n\u0000\u001b[31m\u0085\u2028\u2029\u202e\u200b\ufeff"}`,
		`{"message":"` + strings.Repeat("long ", 10_000) + `"}`,
	} {
		resp, err := t.over(newScript(answerWith(400, body, "X-Request-Id", "a\nb"))).RoundTrip(get(t))
		apiErr, ok := errors.AsType[*resilient.APIError](err)
		if resp = t.settle(400, resp, err); resp != nil {
			apiErr, ok = resilient.ErrorFromResponse(resp)
			require.Equal(t, body, readAll(t, resp))
		}
		require.True(t, ok, body)
		require.Equal(t, 400, apiErr.StatusCode)
		require.ErrorIs(t, apiErr, resilient.ErrInvalidRequest)
		require.True(t, utf8.ValidString(apiErr.Error()), "%q", apiErr.Error())
		require.Less(t, len(apiErr.Error()), 1000)
		require.False(t, strings.ContainsFunc(apiErr.Error(), func(r rune) bool { return !unicode.IsPrint(r) }), "%q", apiErr.Error())
	}
}

func shortBodyIsAnError(t contractTest) {
	for _, status := range []int{200, 404} {
		hits := 0
		base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			hits++
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "short")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		resp, err := t.over(base).RoundTrip(get(t))
		if status >= 400 {
			resp = t.settle(status, resp, err)
		}
		if resp != nil {
			b, err := io.ReadAll(resp.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, "short", string(b))
			require.NoError(t, resp.Body.Close())
		}
		require.Equal(t, 1, hits, "nothing is sent again under a reader")
	}
}

func closedBody(t contractTest) {
	for _, status := range []int{200, 404} {
		base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "body")
		})
		resp, err := t.over(base).RoundTrip(get(t))
		if status >= 400 {
			resp = t.settle(status, resp, err)
		}
		if resp != nil {
			require.NoError(t, resp.Body.Close())
			require.NoError(t, resp.Body.Close(), "a second Close is harmless")
			_, err = resp.Body.Read(make([]byte, 1))
			require.Error(t, err)
			require.NotErrorIs(t, err, io.EOF, "which would pass for a whole body")
		}
	}
}

func retriedResponsesAreClosed(t contractTest) {
	var bodies []*trackedBody
	failed := errors.New("cut")
	with := func(status int, r io.Reader) step {
		return func(*http.Request) (*http.Response, error) {
			for i, b := range bodies {
				require.Equal(t, 1, b.closes(), "of response %d, when the next request is sent", i+1)
			}
			bodies = append(bodies, &trackedBody{Reader: r})
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: bodies[len(bodies)-1], ContentLength: -1}, nil
		}
	}
	base := newScript(
		with(429, strings.NewReader("whole")),
		with(500, io.MultiReader(strings.NewReader("half"), failingReader{failed})), // does not fail the retry
		with(503, failingReader{failed}),
		with(200, strings.NewReader("answer")))
	resp, err := t.over(base).RoundTrip(get(t))
	require.NoError(t, err)
	require.Len(t, bodies, 4)
	require.Zero(t, bodies[3].closes(), "it is the caller's")
	require.Equal(t, "answer", readAll(t, resp))
	for _, b := range bodies {
		require.Equal(t, 1, b.closes())
	}
}

// abandonedResponse: a caller who forgets to close a body keeps a connection
// busy, but no goroutine of the Transport's, or the bubble would not end.
func abandonedResponse(t contractTest) {
	transport := t.over(newScript(answer(200), answer(404), answer(500)), unbounded())
	for range 20 {
		_, _ = transport.RoundTrip(get(t))
	}
}

type closer struct {
	http.RoundTripper
	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }

func closesIdleConnections(t contractTest) {
	base := &closer{RoundTripper: newScript(answer(500))}
	client := &http.Client{Transport: t.over(base)}
	_, _ = client.Do(get(t))
	require.Zero(t, base.closed, "a peer flushes everybody's idle connections when it gives up")
	client.CloseIdleConnections()
	require.Equal(t, 1, base.closed)
	require.NotPanics(t, t.over(newScript()).CloseIdleConnections, "a base without the method")
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

// layer is a RoundTripper over another one, as middleware is made.
type layer func(http.RoundTripper) http.RoundTripper

func TestLayers(t *testing.T) {
	transport := func(base http.RoundTripper) http.RoundTripper {
		return resilient.NewTransport(base, every(0))
	}
	signed := 0
	signer := func(base http.RoundTripper) http.RoundTripper { // as oauth2's
		return step(func(req *http.Request) (*http.Response, error) {
			signed++
			req = req.Clone(req.Context())
			req.Header.Add("Signature", strconv.Itoa(signed))
			return base.RoundTrip(req)
		})
	}
	tracer := func(base http.RoundTripper) http.RoundTripper { // as otelhttp's
		return step(func(req *http.Request) (*http.Response, error) {
			ctx, cancel := context.WithCancel(req.Context())
			resp, err := base.RoundTrip(req.WithContext(ctx))
			if err != nil {
				cancel()
				return nil, err
			}
			body := resp.Body
			resp.Body = struct {
				io.Reader
				io.Closer
			}{body, closerFunc(func() error { cancel(); return body.Close() })}
			return resp, nil
		})
	}
	cache := func(base http.RoundTripper) http.RoundTripper {
		kept := map[string]step{}
		return step(func(req *http.Request) (*http.Response, error) {
			if again, ok := kept[req.URL.Path]; ok {
				return again(req)
			}
			resp, err := base.RoundTrip(req)
			if err == nil && resp.StatusCode == http.StatusOK {
				b, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				kept[req.URL.Path] = answerWith(200, string(b))
				return kept[req.URL.Path](req)
			}
			return resp, err
		})
	}
	for _, tt := range []struct {
		name         string
		outer, inner layer
		signatures   []string
		asked        int // in the end
		why          string
	}{
		{"signer inside", transport, signer, []string{"1", "2", "3"}, 4, "each attempt has one signature, and its own"},
		{"signer outside", signer, transport, []string{"1", "1", "1"}, 4, "a call is signed once"},
		{"tracer inside", transport, tracer, []string{"", "", ""}, 4, "a span for each attempt"},
		{"tracer outside", tracer, transport, []string{"", "", ""}, 4, "a span for each call"},
		{"cache inside", transport, cache, []string{"", "", ""}, 3, "errors are not kept"},
		{"cache outside", cache, transport, []string{"", "", ""}, 3, "a hit is no attempt"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signed = 0
				base := newScript(answer(429), answer(503), answer(200))
				client := &http.Client{Transport: tt.outer(tt.inner(base))}
				for range 2 {
					resp, err := client.Do(get(t))
					require.NoError(t, err)
					require.JSONEq(t, `{"ok":true}`, readAll(t, resp))
				}
				require.Equal(t, tt.asked, base.count(), tt.why)
				for i, want := range tt.signatures {
					require.Equal(t, want, strings.Join(base.sent[i].header.Values("Signature"), " "), tt.why)
				}

				resp, err := (&http.Client{Transport: tt.outer(tt.inner(newScript(answer(404))))}).Do(get(t))
				require.NoError(t, err)
				apiErr, ok := resilient.ErrorFromResponse(resp)
				require.True(t, ok)
				require.Equal(t, "m", apiErr.Message, "through the layers")
				require.Equal(t, 1, apiErr.Attempts)
				require.NotEmpty(t, readAll(t, resp))
			})
		})
	}
}

func TestOneTransportOverAnother(t *testing.T) {
	for _, tt := range []struct {
		name     string
		base     step
		inner    []resilient.Option
		sent     int
		attempts int // of the APIError
		why      string
	}{
		{"error status", answer(500), nil, 4, 4, "retried below"},
		{"final status", answer(404), nil, 1, 1, "final status"},
		{"final after a retry", nil, nil, 2, 2, "final status"},
		{"transport error", fails(io.EOF), nil, 4, 0, "retried below"},
		{"status errors", answer(500), []resilient.Option{resilient.WithStatusErrors(true)}, 4, 4, "retried below"},
		{"a limit", answer(500), []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1, 0))}, 0, 0, "retried below"},
		{"meant", answer(500), []resilient.Option{resilient.WithMaxAttempts(1)}, 4, 4, "out of attempts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.base)
				if tt.base == nil {
					base = newScript(answer(500), answer(404))
				}
				var r recorder
				transport := resilient.NewTransport(resilient.NewTransport(base, tt.inner...), resilient.WithTrace(r.trace()))
				resp, err := transport.RoundTrip(get(t))
				apiErr, _ := errors.AsType[*resilient.APIError](err)
				if resp != nil {
					apiErr, _ = resilient.ErrorFromResponse(resp)
					require.NoError(t, resp.Body.Close())
				}
				require.Equal(t, tt.sent, base.count())
				require.Equal(t, tt.attempts > 0, apiErr != nil)
				if apiErr != nil {
					require.Equal(t, tt.attempts, apiErr.Attempts, "those of both")
				}
				require.Equal(t, tt.why, r.why(t))
			})
		})
	}
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// TestNoRetryMark looks at what an SDK above is told, and at the header that the
// base still holds.
func TestNoRetryMark(t *testing.T) {
	marks := http.Header{"X-Should-Retry": {"false"}, "Stripe-Should-Retry": {"false"}}
	tests := []struct {
		name   string
		answer step
		method string
		sent   int
		marked bool
		why    string
	}{
		{"final", answer(404), "GET", 1, true, "an SDK may take another view of it"},
		{"out of attempts", answer(500), "GET", 4, true, "all attempts there are to be were made"},
		{"not idempotent", answer(500), "POST", 1, true, "an SDK that sends it again may do it twice"},
		{"the server says to retry", answer(500, "X-Should-Retry", "true"), "GET", 4, true, "it was done"},
		{"success", answer(200), "GET", 1, false, "it is the base's response, untouched"},
		{"redirect", answer(304), "GET", 1, false, "the same"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, on := range []bool{true, false} {
				var kept http.Header // as a base does that answers from a cache
				base := newScript(func(req *http.Request) (*http.Response, error) {
					resp, err := tt.answer(req)
					resp.Header.Set("X-Other", "o")
					kept = resp.Header
					return resp, err
				})
				resp, err := resilient.NewTransport(base, every(0), resilient.WithNoRetryMark(on)).
					RoundTrip(newRequest(t, tt.method, "http://api.test/v1", ""))
				require.NoError(t, err)
				require.Equal(t, tt.sent, base.count())
				want := kept.Clone()
				if on && tt.marked {
					maps.Copy(want, marks)
					require.NotEqual(t, "false", kept.Get("X-Should-Retry"), "written into the base's header")
				}
				require.Equal(t, want, resp.Header, tt.why)
				readAll(t, resp)
			}
		})
	}

	t.Run("no header at all", func(t *testing.T) {
		base := newScript(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 404, Request: req}, nil
		})
		resp, err := resilient.NewTransport(base, resilient.WithNoRetryMark(true)).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, marks, resp.Header)
	})

	t.Run("the error object", func(t *testing.T) {
		p := resilient.Profile{Rules: []resilient.Rule{{Status: 500, Kind: resilient.KindRateLimit, Wait: time.Second}}}
		var seen *resilient.APIError
		transport := resilient.NewTransport(newScript(answer(500)), resilient.WithMaxAttempts(1),
			resilient.WithProfile(p), resilient.WithNoRetryMark(true),
			resilient.WithTrace(&resilient.Trace{AttemptDone: func(a resilient.AttemptInfo) { seen = a.APIError }}))
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		got, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, time.Second, got.RetryAfter, "the mark is for SDKs: it says nothing new of the error")
		got.Header = seen.Header
		require.Equal(t, seen, got)
		require.NotContains(t, seen.Header, "X-Should-Retry", "as received")
	})
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
		"limiter func":     func() { resilient.WithLimiterFor(nil) },
		"limit key":        func() { resilient.WithLimitKey(nil) },
		"trace":            func() { resilient.WithTrace(nil) },
		"added trace":      func() { resilient.NewTransport(nil).AddTrace(nil) },
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
		require.Equal(t, "temporary status", r.attempts[0].Verdict.Reason)
		require.Equal(t, "r2", r.attempts[1].APIError.RequestID)
		require.Equal(t, 2, r.attempts[1].APIError.Attempts)
		require.True(t, r.attempts[1].Verdict.Unprocessed)
		require.Equal(t, io.EOF, r.attempts[2].Err)
		require.Equal(t, 200, r.attempts[3].StatusCode)
		require.Equal(t, []resilient.WaitInfo{{Request: req, Path: req.URL.Path, Attempt: 3, Reason: "retry-after", Duration: 7 * time.Second}}, r.waits)
		require.Equal(t, []resilient.DoneInfo{{
			Request: req, Path: req.URL.Path, Attempts: 4, StatusCode: 200, Reason: "success", Duration: 7 * time.Second,
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

// The table in the documentation of WithLogger is what people write their
// queries and alerts from.
func TestLoggerWritesWhatIsDocumented(t *testing.T) {
	source, err := parser.ParseFile(token.NewFileSet(), "option.go", nil, parser.ParseComments)
	require.NoError(t, err)
	var documented []string
	for _, decl := range source.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != "WithLogger" {
			continue
		}
		for line := range strings.Lines(f.Doc.Text()) {
			if row, ok := strings.CutPrefix(line, "\t"); ok && !strings.HasPrefix(row, "message") {
				column := regexp.MustCompile(` {2,}`).Split(strings.TrimSpace(row), -1)
				require.Len(t, column, 3, row)
				documented = append(documented, column[0]+" | "+column[1]+" | method, host, path, "+column[2])
			}
		}
	}

	written := map[string]bool{}
	logger := slog.New(recordHandler(func(r slog.Record) {
		var attrs []string
		r.Attrs(func(a slog.Attr) bool {
			attrs = append(attrs, a.Key)
			return true
		})
		written[r.Message+" | "+strings.ToLower(r.Level.String())+" | "+strings.Join(attrs, ", ")] = true
	}))
	synctest.Test(t, func(t *testing.T) {
		for _, base := range []*script{
			newScript(answer(200)),
			newScript(answer(500), fails(io.EOF), answer(200)),
			newScript(answer(404)),
			newScript(fails(errors.New("no"))),
		} {
			resp, err := resilient.NewTransport(base, resilient.WithLogger(logger)).RoundTrip(get(t))
			if err == nil {
				_ = resp.Body.Close()
			}
		}
	})
	require.ElementsMatch(t, documented, slices.Collect(maps.Keys(written)))
}

// recordHandler is a slog.Handler that takes every record.
type recordHandler func(slog.Record)

func (recordHandler) Enabled(context.Context, slog.Level) bool        { return true }
func (h recordHandler) Handle(_ context.Context, r slog.Record) error { h(r); return nil }
func (h recordHandler) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h recordHandler) WithGroup(string) slog.Handler                 { return h }

func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200), answer(500), answer(429, "Retry-After", "3"), answer(200), answer(404))
		transport := resilient.NewTransport(base, every(time.Second), resilient.WithRateLimit(10, 5))
		require.Zero(t, transport.Snapshot().Totals.Calls, "nothing yet")
		require.NotNil(t, transport.Snapshot().Keys, "in JSON it is [], not null")
		for range 3 {
			callers(t, transport, 1)
		}
		s := transport.Snapshot()
		hinted := s.Totals.Waits["retry-after"].Time
		require.True(t, hinted >= 3*time.Second && hinted <= 4*time.Second, "%v, with jitter", hinted)
		require.Equal(t, resilient.Totals{
			Calls: 3, Attempts: 5, Retries: 2,
			Ended:    map[string]int64{"success": 2, "final status": 1},
			Failures: map[string]int64{"temporary status": 1, "rate limited": 1, "final status": 1},
			Waits:    map[string]resilient.WaitTotal{"backoff": {1, time.Second}, "retry-after": {1, hinted}},
		}, s.Totals)
		require.Len(t, s.Keys, 1)
		k := s.Keys[0]
		require.Equal(t, s.Totals, k.Totals, "with a rate limit, the key is known from the first request on")
		require.InDelta(t, 3, k.Tokens, 1e-6, "two of them went in this instant")
		require.InDelta(t, 10.05, k.Budget, 1e-6, "the last call was answered at once")
		k.Tokens, k.Budget, k.Totals = 0, 0, resilient.Totals{}
		require.Equal(t, resilient.KeySnapshot{Key: "http://api.test", Limit: 10, Burst: 5}, k)
	})
}

func TestSnapshotOfAKeyInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200), answer(429, "Retry-After", "5"), answer(200))
		transport := resilient.NewTransport(base)
		callers(t, transport, 1)
		require.Empty(t, transport.Snapshot().Keys, "nothing is remembered of a key that never failed")
		start := time.Now()
		during := make(chan resilient.Snapshot, 1)
		time.AfterFunc(time.Second, func() { during <- transport.Snapshot() })
		callers(t, transport, 8)
		s := <-during
		require.Len(t, s.Keys, 1)
		require.Equal(t, start.Add(5*time.Second), s.Keys[0].PausedUntil)
		require.Equal(t, 7, s.Keys[0].Waiting, "all but the one that was refused, which waits for itself")
		require.True(t, s.Keys[0].Reopening)
		require.Equal(t, int64(1), s.Totals.Calls, "those who wait have not ended")
		require.Equal(t, map[string]int64{"rate limited": 1}, s.Keys[0].Totals.Failures)
		s = transport.Snapshot()
		require.Equal(t, int64(9), s.Totals.Calls)
		require.Equal(t, int64(8), s.Keys[0].Totals.Calls, "the first was before the key was known")
		require.Zero(t, s.Keys[0].PausedUntil)
		require.Zero(t, s.Keys[0].Waiting)
		pause := s.Totals.Waits["pause"]
		require.GreaterOrEqual(t, pause.Count, int64(7))
		require.GreaterOrEqual(t, pause.Time, 7*4*time.Second, "the time that was really waited")
	})
}

func TestSnapshotOfALearnedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := rate.NewLimiter(20, 5)
		base := step(func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * time.Millisecond)
			if !server.Allow() {
				return answer(429)(req)
			}
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithMaxAttempts(10))
		callers(t, transport, 400)
		require.InEpsilon(t, 20, transport.Snapshot().Keys[0].LearnedLimit, 0.3, "it may be trying more")
		time.Sleep(2 * time.Minute)
		require.Zero(t, transport.Snapshot().Keys[0].LearnedLimit, "it is forgotten where nobody has to wait")
	})
}

func TestSnapshotNamesItsKeys(t *testing.T) {
	for name, tt := range map[string]struct {
		opts   []resilient.Option
		url    string
		header string
		want   string
	}{
		"host":       {url: "http://api.test/v1?q=secret", want: `^http://api\.test$`},
		"port":       {url: "https://API.test:8443/", want: `^https://api\.test:8443$`},
		"credential": {url: "http://api.test/", header: "Bearer secret", want: `^http://api\.test #[0-9a-f]{8}$`},
		"userinfo":   {url: "http://secret:secret@api.test/", want: `^http://api\.test #[0-9a-f]{8}$`},
		"own key": {
			opts: []resilient.Option{resilient.WithLimitKey(func(*http.Request) string { return "account 42" })},
			url:  "http://api.test/", want: `^account 42$`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			transport := resilient.NewTransport(newScript(answer(200)), append(tt.opts, resilient.WithRateLimit(1, 1))...)
			req := newRequest(t, http.MethodGet, tt.url, "")
			if tt.header != "" {
				req.Header.Set("Authorization", tt.header)
			}
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			s := transport.Snapshot()
			require.Regexp(t, tt.want, s.Keys[0].Key)
			text, err := json.Marshal(s)
			require.NoError(t, err)
			require.NotContains(t, string(text), "secret")
		})
	}
}

// A Classifier that put a request's id into its reason would have grown the
// counters without end.
func TestSnapshotIsBounded(t *testing.T) {
	n := 0
	transport := resilient.NewTransport(newScript(answer(404)), resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
		n++
		v := a.Verdict
		v.Reason = fmt.Sprint("reason ", n)
		return v
	}))
	for range 1000 {
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	s := transport.Snapshot()
	require.Len(t, s.Totals.Failures, 64)
	require.Equal(t, int64(1000-63), s.Totals.Failures["other"])
	require.Equal(t, int64(1000-63), s.Totals.Ended["other"])
	require.Equal(t, int64(1000), s.Totals.Attempts)
}

func TestSnapshotAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(500), answer(200)), every(time.Second),
			resilient.WithRetryBudget(inf, 0))
		callers(t, transport, 1)
		text, err := json.Marshal(expvar.Func(func() any { return transport.Snapshot() }).Value())
		require.NoError(t, err)
		const totals = `{"calls":1,"attempts":2,"retries":1,"ended":{"success":1},"failures":{"temporary status":1},` +
			`"waits":{"backoff":{"count":1,"time_ns":1000000000}}}`
		require.JSONEq(t, `{"totals":`+totals+`,
			"keys":[{"key":"http://api.test","tokens":0,"waiting":0,"budget":-1,"totals":`+totals+`}]}`, string(text))
	})
}

func TestAddTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var own, first, second, one recorder
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithTrace(own.trace()))
		callers(t, transport, 1)
		transport.AddTrace(first.trace())
		callers(t, transport, 1)
		transport.AddTrace(second.trace())
		ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(one.trace()))
		resp, err := transport.RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Len(t, own.done, 3)
		require.Len(t, first.done, 2, "from then on")
		require.Len(t, second.done, 1)
		require.Len(t, one.done, 1, "the request's own hooks are called too")
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
