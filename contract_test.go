package resilient_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"reflect"
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

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// configuration is one way to set up a Transport. All have to keep the contract.
type configuration struct {
	name     string
	opts     []resilient.Option
	twice    bool // one Transport over another, as by mistake
	asErrors bool // error statuses are errors
	copies   bool // also the first attempt is a copy of the request
	watches  bool // request bodies are wrapped, to see when they are read
	holds    bool // successes are returned with their whole body
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

func configurations() []configuration {
	return []configuration{
		{name: "default"},
		{name: "nil option", opts: []resilient.Option{nil}},
		{name: "rate limit", opts: []resilient.Option{resilient.WithRateLimit(1000, 1000)}},
		{name: "limiter", opts: []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1000, 1000))}},
		{name: "replay buffer", opts: []resilient.Option{resilient.WithReplayBuffer(1 << 20)}},
		{name: "status errors", opts: []resilient.Option{resilient.WithStatusErrors(true)}, asErrors: true},
		{name: "no retry mark", opts: []resilient.Option{resilient.WithNoRetryMark(true)}},
		{name: "attempt timeout", opts: []resilient.Option{resilient.WithAttemptTimeout(time.Minute)}, copies: true, watches: true},
		{name: "idle timeout", opts: []resilient.Option{resilient.WithIdleTimeout(time.Minute)}, copies: true},
		{name: "whole body", opts: []resilient.Option{resilient.WithWholeBody(1 << 20)}, holds: true},
		{name: "trace and log", opts: []resilient.Option{
			resilient.WithTrace((&recorder{}).trace()), resilient.WithTrace(&resilient.Trace{}),
			resilient.WithLogger(slog.New(slog.DiscardHandler)), resilient.WithLogPath((*http.Request).UserAgent),
			resilient.WithLogLevel(func(resilient.DoneInfo) slog.Level { return slog.LevelInfo }), resilient.WithResend(1, "test"),
		}},
		{name: "idempotency key", opts: []resilient.Option{resilient.WithIdempotencyKey(func(*http.Request) string { return "k" })}},
		{name: "profile", opts: []resilient.Option{resilient.WithProfile(resilient.Profile{
			Failed:     func([]byte) bool { return false }, // so that every JSON body is looked at
			Event:      func(string, []byte) (resilient.EventKind, int) { return resilient.EventEnd, 0 },
			Repeatable: func(*http.Request) bool { return false },
		})}},
		{name: "stacked twice", twice: true},
	}
}

// TestContract is the contract that a RoundTripper owes its caller, by the
// documentation of net/http and by the habits that http.Client and SDKs rely
// on. Every check holds for every configuration, and its doc comment is the
// promise. Each runs in virtual time, in a bubble of its own, which also fails
// if it leaves a goroutine behind.
//
//	go test -run TestContract/gzip .              # one check
//	go test -run 'TestContract//stacked twice' .  # one configuration
func TestContract(t *testing.T) {
	for _, check := range contract {
		for _, c := range configurations() {
			t.Run(check.name+"/"+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { check.run(contractTest{t, c}) })
			})
		}
	}
}

// contractTest is one check of one configuration.
type contractTest struct {
	*testing.T
	configuration
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

var contract = []struct {
	name string
	run  func(contractTest)
}{
	// The request.
	{"request untouched", requestUntouched},
	{"every field", everyFieldReachesEveryAttempt},
	{"first attempt", firstAttemptIsTheCallersRequest},
	{"malformed request", malformedRequest},
	{"request reused", requestReused},
	{"httptrace", httptraceOfEveryAttempt},

	// Its body.
	{"request body", requestBodyIsPassedOn},
	{"length", lengthStaysKnown},
	{"body closed", requestBodyClosedOnce},
	{"every body closed", everyReplayedBodyIsClosed},
	{"upload given up", uploadGivenUp},
	{"100-continue", expectContinue},
	{"streams", streamsBothWays},
	{"CONNECT", connectIsATunnel},

	// The response.
	{"response or error", responseOrError},
	{"broken base", brokenBase},
	{"pass through", passThrough},
	{"1xx", informationalResponses},
	{"101", upgradedConnection},
	{"no body", responsesWithoutABody},
	{"trailers", trailersBothWays},
	{"gzip", gzipIsTransparent},
	{"error body", errorBodyIsWhole},
	{"error text", errorTextIsOneLine},
	{"short body", shortBodyIsAnError},
	{"closed body", closedBody},
	{"retried responses", retriedResponsesAreClosed},
	{"abandoned response", abandonedResponse},

	// Errors and the context.
	{"error is the base's", errorIsTheBases},
	{"proxy", proxyErrorPassesThrough},
	{"context", contextCause},
	{"client timeout", clientTimeout},

	// http.Client, and many at once.
	{"redirects", redirectsAreTheClients},
	{"cookies", cookiesOfTheLastResponse},
	{"idle connections", closesIdleConnections},
	{"64 at once", manyAtOnce},
	{"not one by one", nobodyWaitsForAnother},
}

// outcome is a way in which a call can end, with the number of attempts that it
// takes, of a POST whose body can be replayed.
type outcome struct {
	name     string
	base     *resilienttest.Script
	attempts int
}

func outcomes() []outcome {
	return []outcome{
		{"success", newScript(answer(200)), 1},
		{"redirect", newScript(answer(302, "Location", "/")), 1},
		{"final status", newScript(answer(404)), 1},
		{"retried", newScript(answer(429), answer(429, "Retry-After", "1"), answer(200)), 3},
		{"out of attempts", newScript(answer(429)), 4},
		{"hint too long", newScript(answer(429, "Retry-After", "3600")), 1},
		{"transport error", newScript(fails(&net.OpError{Op: "dial", Err: io.EOF})), 4},
		{"permanent error", newScript(fails(x509.UnknownAuthorityError{})), 1},
		{"response, error", newScript(answer(429, "Retry-After", "1"), fails(x509.UnknownAuthorityError{})), 2},
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

// requestUntouched: the caller's Request is not written to in any field, header
// or URL, however the call ends, and it is the one in Response.Request. GetBody
// is called once for each further attempt, and for nothing else.
func requestUntouched(t contractTest) {
	for _, o := range outcomes() {
		req := wholeRequest(t)
		opened := 0
		getBody := req.GetBody
		req.GetBody = func() (io.ReadCloser, error) { opened++; return getBody() }
		body, before := req.Body, snapshot(req)

		resp, _ := t.over(o.base).RoundTrip(req)

		requireSameFields(t, before, *req, o.name)
		require.True(t, body == req.Body, "%s: the Body field is not replaced", o.name) //nolint:testifylint // identity
		require.Equal(t, o.attempts, o.base.Count(), o.name)
		require.Equal(t, o.attempts-1, opened, "%s: GetBody is for further attempts", o.name)
		_, _ = req.GetBody()
		require.Equal(t, o.attempts, opened, "%s: GetBody is still the caller's", o.name)
		if resp != nil {
			require.Same(t, req, resp.Request, o.name)
			require.NoError(t, resp.Body.Close())
			requireSameFields(t, before, *req, o.name)
		}
	}
}

// everyFieldReachesEveryAttempt: each attempt has every field of the Request,
// with the values of its context and the Cancel field, which is how http.Client
// may end a call. The Trailer is the caller's own map, which may be filled in
// while the body is read. No two attempts share a body, because the base may
// still be reading the first.
func everyFieldReachesEveryAttempt(t contractTest) {
	type key struct{}
	req := wholeRequest(t)
	req = req.WithContext(context.WithValue(req.Context(), key{}, "value"))
	want := snapshot(req)
	base := newScript(answer(429), answer(429, "Retry-After", "1"), answer(200))

	resp, err := t.over(base).RoundTrip(req)

	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 3, base.Count())
	bodies := map[io.ReadCloser]bool{}
	for i, s := range base.Attempts() {
		require.Equal(t, "value", s.Request.Context().Value(key{}))
		require.Equal(t, "payload", string(s.Body), "every attempt sends the whole body")
		require.NotNil(t, s.Request.GetBody, "HTTP/2 replays through it after GOAWAY")
		bodies[s.Request.Body] = true
		got := *s.Request.WithContext(req.Context())
		got.Header = got.Header.Clone()
		got.Header.Del("Idempotency-Key") // by WithIdempotencyKey
		requireSameFields(t, want, got, fmt.Sprint("attempt ", i+1))
		s.Request.Trailer["X-Sum"] = []string{"x"}
		require.Equal(t, "x", req.Trailer.Get("X-Sum"), "Trailer is shared: the caller fills it in while the body is read")
		delete(s.Request.Trailer, "X-Sum")
		s.Request.Trailer["X-Sum"] = nil
	}
	require.Len(t, bodies, 3, "a base may still be reading the body of the attempt before")
}

// firstAttemptIsTheCallersRequest: the first attempt is the caller's own
// pointer. A request with an attempt timeout or a recorded body costs a shallow
// copy, and so does one that is not idempotent, for the proof that it was never
// sent.
func firstAttemptIsTheCallersRequest(t contractTest) {
	if t.copies {
		t.Skip("an attempt with a timeout has a context of its own")
	}
	for _, req := range []*http.Request{get(t), newRequest(t, http.MethodPut, "http://api.test/", "payload")} {
		base := newScript(answer(429), answer(200))
		resp, err := t.over(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Same(t, req, base.Attempts()[0].Request, "as net/http knows it by its pointer")
		require.NotSame(t, req, base.Attempts()[1].Request, "which the base may not have done with")
	}
}

// malformedRequest: a malformed request is an error after at most one attempt,
// which quotes no header value, and its body is closed even if the base was
// never called. It is left to net/http to say what is wrong, except that a nil
// URL or header does not get that far.
func malformedRequest(t contractTest) {
	for _, tt := range []struct {
		name string
		edit func(*http.Request)
	}{
		{"nil URL", func(r *http.Request) { r.URL = nil }},
		{"nil header", func(r *http.Request) { r.Header = nil }},
		{"no host", func(r *http.Request) { r.URL.Host, r.Host = "", "" }},
		{"bad scheme", func(r *http.Request) { r.URL.Scheme = "gopher" }},
		{"bad method", func(r *http.Request) { r.Method = "P UT" }},
		{"bad header name", func(r *http.Request) { r.Header["X Secret"] = []string{"secret"} }},
		{"bad header value", func(r *http.Request) { r.Header.Set("X", "secret\r\nX-Injected: 1") }},
	} {
		attempts := 0
		base := serve(t, func(http.ResponseWriter, *http.Request) { t.Error(tt.name, "was sent") })
		counted := step(func(req *http.Request) (*http.Response, error) {
			attempts++
			return base.RoundTrip(req)
		})
		body := &trackedBody{Reader: strings.NewReader("x")}
		req := newRequest(t, http.MethodPut, "http://api.test/", "")
		req.Body, req.ContentLength = body, 1
		tt.edit(req)
		resp, err := t.over(counted).RoundTrip(req)
		require.Nil(t, resp, tt.name)
		require.Error(t, err, tt.name)
		require.NotContains(t, err.Error(), "secret", "net/http does not quote values either")
		require.LessOrEqual(t, attempts, 1, tt.name)
		require.Equal(t, 1, body.Closes(), tt.name)
	}
}

// requestReused: nobody looks at a Request any more once its response is
// closed, so that it may be sent again and again. With -race this finds who
// does.
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

// httptraceOfEveryAttempt: the hooks of net/http/httptrace see every attempt.
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

// requestBodyIsPassedOn: a nil body stays nil, http.NoBody stays itself, and
// another body keeps its type. An attempt timeout is the exception: it has to
// see when the body is read.
func requestBodyIsPassedOn(t contractTest) {
	for _, tt := range []struct {
		name string
		body io.ReadCloser
	}{
		{"nil", nil},
		{"NoBody", http.NoBody},
	} {
		base := newScript(answer(429), answer(200))
		req := post(t)
		req.Body, req.GetBody, req.ContentLength = tt.body, nil, 0
		resp, err := t.over(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		for _, s := range base.Attempts() {
			require.Equal(t, tt.body, s.Request.Body, "%s: another would be sent in chunks", tt.name)
			require.Zero(t, s.Request.ContentLength)
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
	require.True(t, req.Body == base.Attempts()[0].Request.Body, "net/http asks for its type") //nolint:testifylint // identity
}

// lengthStaysKnown: a length that is known stays known, and a body without one
// is sent in chunks.
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

// requestBodyClosedOnce: the body is closed once on every path, even if the
// base was never called.
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
		require.Equal(t, 1, body.Closes(), tt.name)
	}
}

// everyReplayedBodyIsClosed: GetBody is called once for each further attempt,
// and the body that it returned is closed, sent or not.
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
		require.Equal(t, 1, b.Closes(), "also the one that was never sent")
	}
}

// uploadGivenUp: an early answer wins over the error of writing the rest of the
// body. Whoever writes a body that nobody reads any more is let go.
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

// expectContinue: behind Expect: 100-continue the body is sent only to the
// server that asks for it. The 100 is no answer.
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

// streamsBothWays: a request body is sent as it is written, for as long as the
// base reads it, and a response body is not read ahead: each byte is there when
// it has come. The timeout of an attempt ends at the headers, and does not cut
// an upload. Each byte is sent only when the one before it has come back.
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

// connectIsATunnel: CONNECT is a tunnel that works both ways, and is sent once.
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

// responseOrError: a call ends with a response, whatever its status, or with an
// error, never with both or neither. WithStatusErrors is the opt-out, and gives
// an error in place of an error status.
func responseOrError(t contractTest) {
	for _, o := range outcomes() {
		resp, err := t.over(o.base).RoundTrip(post(t))
		require.NotEqual(t, resp == nil, err == nil, o.name)
		require.Equal(t, o.attempts, o.base.Count(), "%s: also of two Transports", o.name)
		if resp != nil {
			require.NotNil(t, resp.Body, o.name)
			require.NoError(t, resp.Body.Close())
			if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
				require.Equal(t, o.attempts, apiErr.Attempts, o.name)
			}
		}
	}
}

// brokenBase: a call ends with a response or an error, and a response has a
// body that is not nil, whatever the base returns. A response beside an error
// is closed.
func brokenBase(t contractTest) {
	body := &trackedBody{Reader: strings.NewReader("")}
	for _, tt := range []struct {
		name string
		base step
	}{
		{"neither", func(*http.Request) (*http.Response, error) { return nil, nil }},
		{"both", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: body}, x509.UnknownAuthorityError{}
		}},
		{"an error and a response without a body", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200}, x509.UnknownAuthorityError{}
		}},
	} {
		script := newScript(tt.base)
		resp, err := t.over(script).RoundTrip(get(t))
		require.Error(t, err, tt.name)
		require.Nil(t, resp, tt.name)
		require.Equal(t, 1, script.Count(), "%s: a defect of the base does not pass", tt.name)
	}
	require.Equal(t, 1, body.Closes(), "nothing is lost: the dropped response is closed")

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

// passThrough: the response to a success or a redirect is the base's own, and
// is neither followed nor retried, whatever hint it carries.
func passThrough(t contractTest) {
	for _, status := range []int{101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 399} {
		// A 202 that names a time to come back (an Azure habit) was sent four
		// times by a peer.
		want, _ := answer(status, "Retry-After", "5", "Location", "http://other.test/")(get(t))
		base := newScript(func(*http.Request) (*http.Response, error) { return want, nil })
		transport, start := t.over(base), time.Now()
		for i := range 2 {
			resp, err := transport.RoundTrip(post(t))
			require.NoError(t, err)
			require.Same(t, want, resp)
			require.Equal(t, i+1, base.Count())
		}
		require.NoError(t, want.Body.Close())
		require.Zero(t, time.Since(start), "and nobody waits")
	}
}

// informationalResponses: 100, 102 and 103 reach net/http/httptrace, and are no
// answers.
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

// upgradedConnection: an upgraded connection keeps its type, and no timeout
// cuts it.
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

// responsesWithoutABody: a response to HEAD, a 204 and a 304 have http.NoBody
// and their length, and nobody waits for more.
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

// trailersBothWays: a trailer whose value is known when the request body ends
// arrives with each attempt. The trailers of a response are there when its body
// ends.
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

// gzipIsTransparent: gzip is net/http's business. It is unpacked if net/http
// asked for it, and left alone if the caller did.
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
		for _, tt := range []struct {
			name         string
			edit         func(*http.Request)
			want, coding string
			unpacked     bool
		}{
			{"net/http asks", func(*http.Request) {}, object, "", true},
			{"the caller asks", func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") }, packed.String(), "gzip", false},
			{"nobody asks", func(r *http.Request) { r.Header.Set("Accept-Encoding", "identity") }, object, "", false},
		} {
			req := newRequest(t, http.MethodGet, fmt.Sprint("http://api.test/", status), "")
			tt.edit(req)
			resp, err := t.over(base).RoundTrip(req)
			if status >= 400 {
				if resp = t.settle(status, resp, err); resp != nil {
					apiErr, _ := resilient.ErrorFromResponse(resp)
					require.True(t, tt.want != object || apiErr.Code == "c", tt.name)
				}
			}
			if resp != nil {
				require.Equal(t, tt.unpacked, resp.Uncompressed, tt.name)
				require.Equal(t, tt.unpacked, resp.ContentLength == -1, tt.name)
				require.Equal(t, tt.coding, resp.Header.Get("Content-Encoding"), tt.name)
				require.Equal(t, tt.want, readAll(t, resp), tt.name)
			}
		}
	}
}

// errorBodyIsWhole: the body of an error still reads as it came, from the first
// byte to the last, and its object is found whatever the Content-Type claims.
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

// errorTextIsOneLine: an error object that is malformed, cut or of another kind
// is still an error with its status. Duplicate keys and several documents do no
// harm. The text of the error ends up in logs, so it is one short line of valid
// UTF-8 that can be printed, whatever the server sends.
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

// shortBodyIsAnError: a body that was cut short says so where it ends, and is
// not fetched again. With WithWholeBody a success that is cut short is no response.
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
		} else if t.holds {
			require.Nil(t, resp)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, 4, hits)
			continue
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

// closedBody: to read a closed body is an error, and to close it again is not.
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

// retriedResponsesAreClosed: a retried response is closed once, before the next
// request is sent, even if its body fails.
func retriedResponsesAreClosed(t contractTest) {
	var bodies []*trackedBody
	failed := errors.New("cut")
	with := func(status int, r io.Reader) step {
		return func(*http.Request) (*http.Response, error) {
			for i, b := range bodies {
				require.Equal(t, 1, b.Closes(), "of response %d, when the next request is sent", i+1)
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
	require.Zero(t, bodies[3].Closes(), "it is the caller's")
	require.Equal(t, "answer", readAll(t, resp))
	for _, b := range bodies {
		require.Equal(t, 1, b.Closes())
	}
}

// abandonedResponse: a response that is never closed keeps a connection busy,
// but no goroutine of the Transport's, or the bubble would not end.
func abandonedResponse(t contractTest) {
	transport := t.over(newScript(answer(200), answer(404), answer(500)), unbounded())
	for range 20 {
		_, _ = transport.RoundTrip(get(t))
	}
}

// errorIsTheBases: the error after one attempt is the base's own, never a
// *url.Error of ours. http.Client asserts its type, though errors.As would find
// more, and wraps it in a *url.Error itself. http.ErrSkipAltProtocol passes
// through.
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

// proxyErrorPassesThrough: the error of a proxy passes through.
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

// contextCause: the cause of the context is found in the error, wherever the
// context ended: in an attempt, between two, or in the limiter. Every wait ends
// with the context, so a Transport has nothing to close.
func contextCause(t contractTest) {
	cause := errors.New("shutting down")
	hangs := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	waiting := t.over(newScript(answer(503)), every(time.Hour), resilient.WithMaxWait(2*time.Hour))
	limited := t.over(newScript(answer(200)), resilient.WithRateLimit(1.0/3600, 1), resilient.WithMaxWait(2*time.Hour))
	resp, err := limited.RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	for _, tt := range []struct {
		name      string
		transport http.RoundTripper
	}{
		{"in an attempt", t.over(hangs)},
		{"between attempts", waiting},
		{"in the limiter", limited},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(3*time.Second, func() { cancel(cause) })
		start := time.Now()
		_, err := tt.transport.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, cause, tt.name)
		require.Equal(t, 3*time.Second, time.Since(start), tt.name)
		_, err = tt.transport.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, cause, tt.name)
		require.Equal(t, 3*time.Second, time.Since(start), tt.name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = t.over(hangs).RoundTrip(get(t).WithContext(ctx))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// clientTimeout: the Timeout of http.Client ends a call in time, whichever of
// its two ways to cancel it takes, the context or Request.Cancel, and the error
// says that it was a timeout.
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

// redirectsAreTheClients: a redirect is returned, no retry goes elsewhere, and
// no credential does. http.Client follows it: it replays the body of a 307 or
// 308 through GetBody and strips credentials, and each hop is retried for
// itself. http.ErrUseLastResponse passes through.
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

// cookiesOfTheLastResponse: the cookies of a retried response are dropped with
// it.
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

type closer struct {
	http.RoundTripper
	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }

// closesIdleConnections: CloseIdleConnections reaches the base, and only when
// it is called.
func closesIdleConnections(t contractTest) {
	base := &closer{RoundTripper: newScript(answer(500))}
	client := &http.Client{Transport: t.over(base)}
	_, _ = client.Do(get(t))
	require.Zero(t, base.closed, "a peer flushes everybody's idle connections when it gives up")
	client.CloseIdleConnections()
	require.Equal(t, 1, base.closed)
	require.NotPanics(t, t.over(newScript(answer(200))).CloseIdleConnections, "a base without the method")
}

// manyAtOnce: 64 calls share a Transport without a data race. Every request is
// refused once, and its connection lost once.
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

// nobodyWaitsForAnother: requests do not wait for one another. This ends in a
// deadlock if not all 64 are let through.
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
