package otelresilient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/otelresilient"
	"github.com/resilienthttp/resilient/profile"
	"github.com/resilienthttp/resilient/resilienttest"
)

const api = "https://api.example.com/v1/people"

// withIntervals makes the backoff of each call exact.
func withIntervals(all ...time.Duration) resilient.Option {
	return resilient.WithBackOff(func() backoff.BackOff {
		own := intervals(all)
		return &own
	})
}

// get sends a GET and reads the whole answer.
func get(t *testing.T, rt http.RoundTripper, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := rt.RoundTrip(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp
}

func TestSpanTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		script := resilienttest.New(
			resilienttest.Answer{Status: 503, Delay: 20 * time.Millisecond},
			resilienttest.Answer{Status: 429, Header: http.Header{"Retry-After": {"1"}}, Delay: 30 * time.Millisecond},
			resilienttest.Answer{Status: 200, Delay: 40 * time.Millisecond, BodyDelay: 2 * time.Second},
		)
		get(t, tel.transport(script, with(withIntervals(500*time.Millisecond))), api)
		require.Equal(t, `
0s resilient GET INTERNAL response.status_code=200 attempts=3 outcome=success for 3.59s
  0s GET CLIENT response.status_code=503 error.type=503 for 20ms
  20ms resilient.wait backoff 0.5
  520ms GET CLIENT response.status_code=429 error.type=429 request.resend_count=1 for 30ms
  550ms resilient.wait retry-after 1
  1.55s GET CLIENT response.status_code=200 request.resend_count=2 for 2.04s
`, "\n"+tree(tel.spans.GetSpans(), true))
	})
}

// A package above that sends the request again says how often it had been sent.
func TestResendCountOfARequestSentBefore(t *testing.T) {
	tel := newTelemetry()
	script := resilienttest.New(resilienttest.Status(503), resilienttest.Status(200))
	req, err := http.NewRequestWithContext(
		resilient.ContextWithOptions(t.Context(), resilient.WithResend(2, "new token")), http.MethodGet, api, nil)
	require.NoError(t, err)
	resp, err := tel.transport(script, with(withIntervals())).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	attempts := tel.attempts()
	require.Len(t, attempts, 2)
	require.EqualValues(t, 2, value(attempts[0], "http.request.resend_count").AsInt64())
	require.EqualValues(t, 3, value(attempts[1], "http.request.resend_count").AsInt64())
}

func TestSpansInTrace(t *testing.T) {
	tel := newTelemetry()
	ctx, parent := tel.tracerProvider().Tracer("test").Start(t.Context(), "parent")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
	require.NoError(t, err)
	resp, err := tel.transport(resilienttest.New(resilienttest.Status(204))).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	call, attempts := tel.call(t), tel.attempts()
	require.Len(t, attempts, 1)
	require.Equal(t, parent.SpanContext().SpanID(), call.Parent.SpanID())
	require.Equal(t, call.SpanContext.SpanID(), attempts[0].Parent.SpanID())
	require.Equal(t, parent.SpanContext().TraceID(), attempts[0].SpanContext.TraceID())
	require.Equal(t, "github.com/resilienthttp/resilient/otelresilient", call.InstrumentationScope.Name)
	require.NotEmpty(t, call.InstrumentationScope.SchemaURL, "the version of the conventions can be told")
}

func TestResendCountOfRedirects(t *testing.T) {
	tel := newTelemetry()
	script := resilienttest.New(
		resilienttest.Status(302, "Location", "/v2/people"),
		resilienttest.Status(503),
		resilienttest.Status(200),
	)
	client := &http.Client{Transport: tel.transport(script, with(withIntervals()))}
	resp, err := client.Get(api)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	require.Len(t, tel.ofKind(oteltrace.SpanKindInternal), 2, "one for each call of RoundTrip")
	counts := map[string][]int64{}
	for _, s := range tel.attempts() {
		path := value(s, "url.full").AsString()
		counts[path] = append(counts[path], value(s, "http.request.resend_count").AsInt64())
	}
	require.Equal(t, map[string][]int64{
		"https://api.example.com/v1/people": {0},
		"https://api.example.com/v2/people": {1, 2},
	}, counts, "the conventions count a request again whatever the cause, a redirect for one")
}

func TestAttributes(t *testing.T) {
	for _, tt := range []struct {
		name, method, url string
		proto             [2]int
		opts              []otelresilient.Option
		span              string
		want              map[string]any
		why               string
	}{
		{
			name: "https", method: "GET", url: "https://api.example.com/a?b=c", proto: [2]int{2, 0}, span: "GET",
			want: map[string]any{
				"http.request.method": "GET", "server.address": "api.example.com", "server.port": int64(443),
				"url.full": "https://api.example.com/a?b=REDACTED", "http.response.status_code": int64(200),
				"network.protocol.version": "2",
			},
			why: "server.port is required, also if it is the scheme's; the version has no minor one from 2 on",
		},
		{
			name: "port", method: "DELETE", url: "http://API.example.com:8080/", proto: [2]int{1, 1}, span: "DELETE",
			want: map[string]any{
				"http.request.method": "DELETE", "server.address": "api.example.com", "server.port": int64(8080),
				"url.full": "http://API.example.com:8080/", "http.response.status_code": int64(200),
				"network.protocol.version": "1.1",
			},
			why: "names of hosts have no case, and the URL is as it was sent",
		},
		{
			name: "address", method: "", url: "http://[::1]/", span: "GET",
			want: map[string]any{
				"http.request.method": "GET", "server.address": "::1", "server.port": int64(80),
				"url.full": "http://[::1]/", "http.response.status_code": int64(200),
			},
			why: "an empty method is GET for net/http; a base need not say its protocol",
		},
		{
			name: "unknown method", method: "get", url: "https://api.example.com/", span: "HTTP",
			want: map[string]any{
				"http.request.method": "_OTHER", "http.request.method_original": "get",
				"server.address": "api.example.com", "server.port": int64(443),
				"url.full": "https://api.example.com/", "http.response.status_code": int64(200),
			},
			why: "methods are case-sensitive, RFC 9110 section 9.1, and any word would be a new series",
		},
		{
			name: "no protocol of today", method: "GET", url: "https://api.example.com:99999/", proto: [2]int{1, 0}, span: "GET",
			want: map[string]any{
				"http.request.method": "GET", "server.address": "api.example.com", "url.full": "https://api.example.com:99999/",
				"http.response.status_code": int64(200), "network.protocol.version": "1.0",
			},
			why: "a port that is none is not reported as another one",
		},
		{
			name: "no host", method: "GET", url: "unix:///run/api", span: "GET",
			want: map[string]any{
				"http.request.method": "GET", "url.full": "unix:///run/api", "http.response.status_code": int64(200),
			},
			why: "what is not known is left out",
		},
		{
			name: "options", method: "GET", url: "https://api.example.com/secret?page=2", span: "GET",
			opts: []otelresilient.Option{
				otelresilient.WithAttributes(attribute.String("peer", "billing")),
				otelresilient.WithAttributes(attribute.Int("shard", 7)),
				otelresilient.WithURL(func(*url.URL) string { return "" }),
			},
			want: map[string]any{
				"peer": "billing", "shard": int64(7),
				"http.request.method": "GET", "server.address": "api.example.com", "server.port": int64(443),
				"http.response.status_code": int64(200),
			},
			why: "attributes add up; a URL that is \"\" is left out",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tel := newTelemetry()
			base := roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, ProtoMajor: tt.proto[0], ProtoMinor: tt.proto[1], Body: http.NoBody}, nil
			})
			u, err := url.Parse(tt.url)
			require.NoError(t, err)
			_, err = tel.transport(base, tt.opts...).RoundTrip(&http.Request{Method: tt.method, URL: u, Header: http.Header{}})
			require.NoError(t, err)

			attempts := tel.attempts()
			require.Len(t, attempts, 1)
			require.Equal(t, tt.span, attempts[0].Name, tt.why)
			require.Equal(t, tt.want, attributes(attempts[0]), tt.why)

			call := tel.call(t)
			require.Equal(t, "resilient "+tt.span, call.Name)
			for _, key := range []string{"url.full", "http.request.method_original", "network.protocol.version"} {
				delete(tt.want, key) // only attempts have it
			}
			tt.want["resilient.attempts"], tt.want["resilient.outcome"] = int64(1), "success"
			require.Equal(t, tt.want, attributes(call))
		})
	}
}

func attributes(s tracetest.SpanStub) map[string]any {
	all := map[string]any{}
	for _, a := range s.Attributes {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

// typedError is an error with an error.type of its own.
type typedError struct{ error }

func (typedError) ErrorType() string { return "quota" }

func TestFailures(t *testing.T) {
	status := func(codes ...int) http.RoundTripper {
		answers := make([]resilienttest.Answer, len(codes))
		for i, code := range codes {
			answers[i] = resilienttest.Status(code)
		}
		return resilienttest.New(answers...)
	}
	fails := func(err error) http.RoundTripper {
		return roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
	}
	type want struct {
		code codes.Code
		typ  string
	}
	ok := want{codes.Unset, ""}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, tt := range []struct {
		name    string
		base    http.RoundTripper
		opts    []resilient.Option
		timeout time.Duration // of the context, or 0
		cause   error         // the context is canceled with it after a second, unless it is nil
		attempt []want
		call    want
		outcome string
		why     string
	}{
		{
			name: "400", base: status(400), attempt: []want{{codes.Error, "400"}}, call: want{codes.Error, "400"},
			outcome: "final status",
		},
		{name: "200", base: status(200), attempt: []want{ok}, call: ok, outcome: "success"},
		{name: "304", base: status(304), attempt: []want{ok}, call: ok, outcome: "success"},
		{
			name: "404", base: status(404), attempt: []want{{codes.Error, "404"}}, call: want{codes.Error, "404"},
			outcome: "final status", why: "the conventions want Error from 400 on for a client",
		},
		{
			name: "500, then 200", base: status(500, 200), attempt: []want{{codes.Error, "500"}, ok}, call: ok,
			outcome: "success", why: "what was got over is no failure of the call",
		},
		{
			name: "500 twice", base: status(500), opts: []resilient.Option{resilient.WithMaxAttempts(2)},
			attempt: []want{{codes.Error, "500"}, {codes.Error, "500"}}, call: want{codes.Error, "500"}, outcome: "out of attempts",
		},
		{
			name: "as an error", base: status(403), opts: []resilient.Option{resilient.WithStatusErrors(true)},
			attempt: []want{{codes.Error, "403"}}, call: want{codes.Error, "403"}, outcome: "final status",
			why: "an APIError says its error.type",
		},
		{
			name: "no connection", base: fails(refused), opts: []resilient.Option{resilient.WithMaxAttempts(2)},
			attempt: []want{{codes.Error, "*net.OpError"}, {codes.Error, "*net.OpError"}},
			call:    want{codes.Error, "*net.OpError"}, outcome: "out of attempts",
			why: "a RetryError is not what went wrong",
		},
		{
			name: "typed", base: fails(fmt.Errorf("base: %w", typedError{errors.New("no")})), opts: []resilient.Option{resilient.WithMaxAttempts(1)},
			attempt: []want{{codes.Error, "quota"}}, call: want{codes.Error, "quota"}, outcome: "out of attempts",
			why: "an error that has a word for itself is believed",
		},
		{
			name:    "attempt timeout",
			base:    resilienttest.New(resilienttest.Answer{Delay: time.Hour}, resilienttest.Status(200)),
			opts:    []resilient.Option{resilient.WithAttemptTimeout(time.Second)},
			attempt: []want{{codes.Error, "timeout"}, ok}, call: ok, outcome: "success",
			why: "each attempt has its own",
		},
		{
			name: "attempt timeout, not told",
			base: roundTripper(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}),
			opts:    []resilient.Option{resilient.WithAttemptTimeout(time.Second), resilient.WithMaxAttempts(1)},
			attempt: []want{{codes.Error, "timeout"}}, call: want{codes.Error, "timeout"}, outcome: "out of attempts",
			why: "a base may say no more than that the context was canceled",
		},
		{
			name: "canceled with a cause", base: resilienttest.New(resilienttest.Answer{Delay: time.Hour}), cause: errors.New("bye"),
			attempt: []want{{codes.Error, "canceled"}}, call: want{codes.Error, "canceled"}, outcome: "canceled",
			why: "a cause may be any error",
		},
		{
			name: "deadline", base: resilienttest.New(resilienttest.Answer{Delay: time.Hour}), timeout: time.Second,
			attempt: []want{{codes.Error, "timeout"}}, call: want{codes.Error, "timeout"}, outcome: "canceled",
		},
		{
			name: "refused by the limiter", base: status(200),
			opts:    []resilient.Option{resilient.WithLimiter(rate.NewLimiter(0, 0))},
			attempt: nil, call: want{codes.Error, "limited"}, outcome: "limited", why: "nothing was sent",
		},
		{
			name: "a success that is none", base: resilienttest.New(resilienttest.Answer{Body: `{"ok":false,"error":"invalid_auth"}`}),
			opts:    []resilient.Option{resilient.WithProfile(profile.Slack())},
			attempt: []want{ok}, call: want{codes.Error, "authentication"}, outcome: "final status",
			why: "to HTTP it is a success, to the call it is not",
		},
		{
			name: "neither response nor error", base: fails(nil), opts: []resilient.Option{resilient.WithMaxAttempts(1)},
			attempt: []want{{codes.Error, "_OTHER"}}, call: want{codes.Error, "*errors.errorString"}, outcome: "base transport",
			why: "a base that breaks its contract must not leave a span open",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tel := newTelemetry()
				ctx := t.Context()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				if tt.cause != nil {
					var cancel context.CancelCauseFunc
					ctx, cancel = context.WithCancelCause(ctx)
					time.AfterFunc(time.Second, func() { cancel(tt.cause) })
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
				require.NoError(t, err)
				resp, err := tel.transport(tt.base, with(append(tt.opts, withIntervals())...)).RoundTrip(req)
				if err == nil {
					require.NoError(t, resp.Body.Close())
				}

				var got []want
				for _, s := range tel.attempts() {
					code, typ := failure(s)
					got = append(got, want{code, typ})
					require.Empty(t, s.Status.Description, "texts of errors may hold secrets")
				}
				require.Equal(t, tt.attempt, got, tt.why)
				call := tel.call(t)
				code, typ := failure(call)
				require.Equal(t, tt.call.code, code, tt.why)
				require.Equal(t, tt.call.typ, typ, tt.why)
				require.Equal(t, tt.outcome, value(call, "resilient.outcome").AsString())
				require.Equal(t, int64(len(tt.attempt)), value(call, "resilient.attempts").AsInt64())
				require.Empty(t, call.Status.Description)
			})
		})
	}
}

func TestCanceledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(10*time.Second, cancel)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
		require.NoError(t, err)
		_, err = tel.transport(resilienttest.New(resilienttest.Status(503)), with(withIntervals(time.Minute))).RoundTrip(req)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, `
0s resilient GET INTERNAL error.type=canceled attempts=1 outcome=canceled for 10s
  0s GET CLIENT response.status_code=503 error.type=503 for 0s
  0s resilient.wait backoff 10
`, "\n"+tree(tel.spans.GetSpans(), true), "a wait that is cut short lasted as long as it did")
	})
}

// announcing is a Limiter that announces its waits.
type announcing time.Duration

func (d announcing) Wait(ctx context.Context) error {
	resilient.ReportWait(ctx, time.Duration(d))
	time.Sleep(time.Duration(d)) // in virtual time
	return nil
}

// silent is a Limiter that does not announce its waits.
type silent time.Duration

func (d silent) Wait(context.Context) error {
	time.Sleep(time.Duration(d)) // in virtual time
	return nil
}

func TestWaits(t *testing.T) {
	for _, tt := range []struct {
		name    string
		opts    []resilient.Option
		answers []resilienttest.Answer // to the second call, 204 if there are none
		want    []string               // of the second call
		why     string
	}{
		{
			name: "rate limit", opts: []resilient.Option{resilient.WithRateLimit(0.125, 1)}, want: []string{"rate limit 8"},
		},
		{
			name: "announced", opts: []resilient.Option{resilient.WithLimiter(announcing(3 * time.Second))}, want: []string{"limiter 3"},
			why: "the hook is called before the wait",
		},
		{
			name: "not announced", opts: []resilient.Option{resilient.WithLimiter(silent(3 * time.Second))}, want: []string{"limiter 3"},
			why: "the hook is called after it",
		},
		{
			name: "one after the other",
			opts: []resilient.Option{resilient.WithRateLimit(0.125, 1), resilient.WithLimiter(silent(3 * time.Second))},
			want: []string{"limiter 3", "rate limit 5"}, why: "the tokens come in while the limiter holds the call",
		},
		{
			name:    "a retry under a rate limit",
			opts:    []resilient.Option{resilient.WithRateLimit(0.125, 1), withIntervals(time.Second)},
			answers: []resilienttest.Answer{resilienttest.Status(503)},
			want:    []string{"rate limit 8", "backoff 1", "rate limit 7"}, why: "one wait ends where the next one begins",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tel := newTelemetry()
				ok := resilienttest.Status(204)
				answers := slices.Concat([]resilienttest.Answer{ok}, tt.answers, []resilienttest.Answer{ok})
				transport := tel.transport(resilienttest.New(answers...), with(tt.opts...))
				get(t, transport, api)
				tel.spans.Reset()
				get(t, transport, api)
				var got []string
				for _, e := range tel.call(t).Events {
					require.Equal(t, "resilient.wait", e.Name)
					set := attribute.NewSet(e.Attributes...)
					reason, _ := set.Value("resilient.wait.reason")
					duration, _ := set.Value("resilient.wait.duration")
					got = append(got, fmt.Sprint(reason.AsString(), " ", duration.AsFloat64()))
				}
				require.Equal(t, tt.want, got, tt.why)
			})
		})
	}
}

func TestPropagation(t *testing.T) {
	tel := newTelemetry()
	script := resilienttest.New(resilienttest.Status(503), resilienttest.Status(204))
	transport := tel.transport(script, with(withIntervals()), otelresilient.WithPropagators(propagation.TraceContext{}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api, nil)
	require.NoError(t, err)
	req.Header.Set("Traceparent", "the caller's")
	req.Header.Set("X-Other", "stays")
	_, err = transport.RoundTrip(req)
	require.NoError(t, err)

	spans, sent := tel.attempts(), script.Attempts()
	require.Len(t, spans, 2)
	require.Len(t, sent, 2)
	for i, s := range spans {
		require.Equal(t, fmt.Sprintf("00-%s-%s-01", s.SpanContext.TraceID(), s.SpanContext.SpanID()),
			sent[i].Header.Get("Traceparent"), "the server's spans are below those of their attempt")
		require.Equal(t, "stays", sent[i].Header.Get("X-Other"))
	}
	require.NotEqual(t, sent[0].Header.Get("Traceparent"), sent[1].Header.Get("Traceparent"))
	require.Equal(t, "the caller's", req.Header.Get("Traceparent"))
}

func TestRequestUntouched(t *testing.T) {
	type key struct{}
	tel := newTelemetry()
	var seen []*http.Request
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		seen = append(seen, req)
		b, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		require.Equal(t, "body", string(b))
		code := 503
		if len(seen) > 1 {
			code = 200
		}
		return &http.Response{StatusCode: code, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})
	var hooked []*http.Request
	trace := &resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) { hooked = append(hooked, a.Request) },
		Done:        func(d resilient.DoneInfo) { hooked = append(hooked, d.Request) },
	}
	transport := tel.transport(base, otelresilient.WithPropagators(propagation.TraceContext{}),
		with(withIntervals(), resilient.WithTrace(trace)))
	ctx := context.WithValue(t.Context(), key{}, "value")
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, api, strings.NewReader("body"))
	require.NoError(t, err)
	req.Header["X-Raw"] = []string{"1", "2"}
	before, header, body := *req, req.Header.Clone(), req.Body
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)

	require.Equal(t, header, req.Header)
	require.Same(t, before.URL, req.URL)
	require.Equal(t, body, req.Body)
	require.Equal(t, ctx, req.Context())
	require.Same(t, req, resp.Request, "whoever looks finds what the caller sent")
	require.Len(t, seen, 2)
	for _, r := range seen {
		require.Equal(t, "value", r.Context().Value(key{}))
		require.Equal(t, header["X-Raw"], r.Header["X-Raw"])
		require.True(t, oteltrace.SpanFromContext(r.Context()).SpanContext().IsValid())
	}
	require.Len(t, hooked, 3)
	for _, r := range hooked {
		require.Same(t, hooked[0], r, "one pointer for all hooks of a call")
		require.Equal(t, tel.call(t).SpanContext.SpanID(), oteltrace.SpanContextFromContext(r.Context()).SpanID(),
			"hooks can find the span of the call, and add to it")
	}
}

func TestLogHasTrace(t *testing.T) {
	tel := newTelemetry()
	var log bytes.Buffer
	logger := slog.New(withTraceID{slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})})
	get(t, tel.transport(resilienttest.New(resilienttest.Status(204)), with(resilient.WithLogger(logger))), api)
	require.Equal(t, 3, strings.Count(log.String(), "trace="+tel.call(t).SpanContext.TraceID().String()), log.String())
}

// withTraceID is a handler that adds the trace id, as bridges to OpenTelemetry do.
type withTraceID struct{ slog.Handler }

func (h withTraceID) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(slog.String("trace", oteltrace.SpanContextFromContext(ctx).TraceID().String()))
	return h.Handler.Handle(ctx, r)
}

func TestBodyEndsSpans(t *testing.T) {
	half := func(t *testing.T, resp *http.Response) {
		t.Helper()
		_, err := io.ReadFull(resp.Body, make([]byte, 2))
		require.NoError(t, err)
	}
	for _, tt := range []struct {
		name   string
		answer resilienttest.Answer
		end    func(t *testing.T, cancel func(), resp *http.Response)
		took   time.Duration
		typ    string
		why    string
	}{
		{
			name:   "read to the end",
			answer: resilienttest.Answer{Body: "body", BodyDelay: time.Second},
			end: func(t *testing.T, _ func(), resp *http.Response) {
				t.Helper()
				b, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, "body", string(b))
			},
			took: time.Second, why: "io.EOF is the end, even if nobody closes the body",
		},
		{
			name:   "closed",
			answer: resilienttest.Answer{Body: "body", BodyDelay: time.Second},
			end: func(t *testing.T, _ func(), resp *http.Response) {
				t.Helper()
				half(t, resp)
				time.Sleep(time.Minute) // in virtual time
				require.NoError(t, resp.Body.Close())
				require.NoError(t, resp.Body.Close())
			},
			took: time.Minute, why: "who has seen enough has not failed",
		},
		{
			name:   "breaks off",
			answer: resilienttest.Answer{Status: 200, Body: "body", BodyDelay: time.Second, Lost: true},
			end: func(t *testing.T, _ func(), resp *http.Response) {
				t.Helper()
				_, err := io.ReadAll(resp.Body)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			},
			took: time.Second, typ: "*errors.errorString", why: "a body that is cut short is an error of the attempt",
		},
		{
			name:   "canceled",
			answer: resilienttest.Answer{Body: "body", BodyDelay: time.Hour},
			end: func(t *testing.T, cancel func(), resp *http.Response) {
				t.Helper()
				half(t, resp)
				time.AfterFunc(time.Second, cancel)
				_, err := io.ReadAll(resp.Body)
				require.ErrorIs(t, err, context.Canceled)
			},
			took: time.Second, typ: "canceled", why: "no span is left behind",
		},
		{
			name:   "an error status",
			answer: resilienttest.Answer{Status: 404, Body: "body", BodyDelay: time.Second},
			end: func(t *testing.T, _ func(), resp *http.Response) {
				t.Helper()
				require.NoError(t, resp.Body.Close())
			},
			took: time.Second, typ: "404", why: "the error object was read before the caller had it",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tel := newTelemetry()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
				require.NoError(t, err)
				resp, err := tel.transport(resilienttest.New(tt.answer)).RoundTrip(req)
				require.NoError(t, err)
				if resp.StatusCode < 400 {
					require.Empty(t, tel.spans.GetSpans(), "the headers are not the end")
				}
				tt.end(t, cancel, resp)

				require.Len(t, tel.attempts(), 1, tt.why)
				s, call := tel.attempts()[0], tel.call(t)
				require.Equal(t, tt.took, s.EndTime.Sub(s.StartTime), tt.why)
				require.Equal(t, tt.took, call.EndTime.Sub(call.StartTime), "a call lasts as long as its last attempt")
				_, typ := failure(s)
				require.Equal(t, tt.typ, typ, tt.why)
			})
		})
	}
}

func TestBodyKeepsItsKind(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		tel := newTelemetry()
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 204, Body: http.NoBody, Request: req}, nil
		})
		resp := get(t, tel.transport(base), api)
		require.Equal(t, http.NoBody, resp.Body, "net/http compares with it")
		require.Len(t, tel.spans.GetSpans(), 2)
	})
	t.Run("nil", func(t *testing.T) {
		tel := newTelemetry()
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 204, Request: req}, nil
		})
		get(t, tel.transport(base), api)
		require.Len(t, tel.spans.GetSpans(), 2)
	})
	t.Run("upgraded", func(t *testing.T) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_ = rw.Flush()
			line, _ := bufio.NewReader(rw).ReadString('\n')
			_, _ = io.WriteString(conn, line)
		}))
		defer server.Close()
		tel := newTelemetry()
		base := &http.Transport{}
		defer base.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		require.NoError(t, err)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
		resp, err := tel.transport(base).RoundTrip(req)
		require.NoError(t, err)
		require.Len(t, tel.spans.GetSpans(), 2, "HTTP ends here")
		conn, ok := resp.Body.(io.ReadWriteCloser)
		require.True(t, ok, "%T", resp.Body)
		defer conn.Close()
		_, err = io.WriteString(conn, "hello\n")
		require.NoError(t, err)
		b, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(b))
	})
}

func TestPanicEndsSpans(t *testing.T) {
	tel := newTelemetry()
	transport := tel.transport(roundTripper(func(*http.Request) (*http.Response, error) { panic("base") }))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api, nil)
	require.NoError(t, err)
	require.PanicsWithValue(t, "base", func() { _, _ = transport.RoundTrip(req) })
	require.Len(t, tel.attempts(), 1)
	code, typ := failure(tel.attempts()[0])
	require.Equal(t, codes.Error, code)
	require.Equal(t, "_OTHER", typ)
	require.NotZero(t, tel.call(t).EndTime)
}

// Concurrent calls through one Transport, over real connections, have their own
// spans.
func TestConcurrentCalls(t *testing.T) {
	var seen sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, again := seen.LoadOrStore(r.URL.Path, true); !again {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "body")
	}))
	defer server.Close()
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	tel := newTelemetry()
	client := &http.Client{Transport: tel.transport(base, with(withIntervals(), resilient.WithRetryBudget(inf(), 0)),
		otelresilient.WithPropagators(propagation.TraceContext{}))}
	const calls = 50
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			resp, err := client.Get(fmt.Sprintf("%s/%d", server.URL, i))
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	wg.Wait()

	paths := map[oteltrace.SpanID][]string{} // of the attempts of a call
	for _, s := range tel.attempts() {
		call := s.Parent.SpanID()
		paths[call] = append(paths[call], value(s, "url.full").AsString())
	}
	require.Len(t, paths, calls)
	for _, p := range paths {
		require.Len(t, p, 2)
		require.Equal(t, p[0], p[1])
	}
	for _, s := range tel.ofKind(oteltrace.SpanKindInternal) {
		require.Len(t, paths[s.SpanContext.SpanID()], 2)
		require.Equal(t, "success", value(s, "resilient.outcome").AsString())
	}
}

func TestContextOptions(t *testing.T) {
	tel := newTelemetry()
	transport := tel.transport(resilienttest.New(resilienttest.Status(503)), with(withIntervals()))
	attempts := 0
	ctx := resilient.ContextWithOptions(t.Context(), resilient.WithMaxAttempts(2),
		resilient.WithTrace(&resilient.Trace{AttemptDone: func(resilient.AttemptInfo) { attempts++ }}))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	apiErr, ok := resilient.ErrorFromResponse(resp)
	require.True(t, ok)
	require.Equal(t, 2, apiErr.Attempts)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 2, attempts)
	require.Len(t, tel.attempts(), 2, "the options of a request do not replace the instrumentation")
	require.Equal(t, int64(2), value(tel.call(t), "resilient.attempts").AsInt64())
}

// instrumented returns a base that creates spans by itself, as otelhttp does.
func instrumented(tel *telemetry, base http.RoundTripper) http.RoundTripper {
	tracer := tel.tracerProvider().Tracer("base")
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		ctx, span := tracer.Start(req.Context(), "base", oteltrace.WithSpanKind(oteltrace.SpanKindClient))
		defer span.End()
		return base.RoundTrip(req.WithContext(ctx))
	})
}

func TestWithAttemptSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		script := resilienttest.New(resilienttest.Status(503), resilienttest.Answer{BodyDelay: time.Second})
		get(t, tel.transport(instrumented(tel, script), otelresilient.WithAttemptSpans(false),
			otelresilient.WithPropagators(propagation.TraceContext{}), with(withIntervals(time.Second))), api)
		require.Equal(t, `
0s resilient GET INTERNAL response.status_code=200 attempts=2 outcome=success for 2s
  0s base CLIENT for 0s
  0s resilient.wait backoff 1
  1s base CLIENT for 0s
`, "\n"+tree(tel.spans.GetSpans(), true))
		require.Nil(t, tel.metrics(t, "http.client.request.duration"), "or each attempt would be counted twice")
		require.NotNil(t, tel.metrics(t, "resilient.call.duration"))
		require.Empty(t, script.Attempts()[0].Header.Get("Traceparent"), "the base's business")
	})
}

// setGlobal sets the global provider. OpenTelemetry passes it on, once in a process,
// to tracers that were created before.
var setGlobal = sync.OnceValue(func() *telemetry {
	tel := newTelemetry()
	otel.SetTracerProvider(tel.tracerProvider())
	return tel
})

func TestGlobalProviders(t *testing.T) {
	transport := otelresilient.NewTransport(resilienttest.New(resilienttest.Status(204)))
	get(t, transport, api)
	tel := setGlobal()
	tel.spans.Reset()
	get(t, transport, api)
	require.Len(t, tel.spans.GetSpans(), 2, "a provider that is set later is used")
}

// closer is a base with a CloseIdleConnections method.
type closer struct {
	http.RoundTripper
	closed int
}

func (c *closer) CloseIdleConnections() { c.closed++ }

func TestTransportMethods(t *testing.T) {
	tel := newTelemetry()
	base := &closer{RoundTripper: resilienttest.New(resilienttest.Status(204))}
	transport := tel.transport(base)

	(&http.Client{Transport: transport}).CloseIdleConnections()
	require.Equal(t, 1, base.closed)

	done := 0
	transport.AddTrace(&resilient.Trace{Done: func(resilient.DoneInfo) { done++ }})
	get(t, transport, api)
	require.Equal(t, 1, done)
	require.Equal(t, int64(1), transport.Snapshot().Totals.Calls)

	tel.spans.Reset()
	get(t, transport.Transport, api)
	require.Empty(t, tel.spans.GetSpans(), "as documented: nothing is told of it")

	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	standard := tel.transport(nil)
	require.Equal(t, http.StatusNotFound, get(t, standard, server.URL).StatusCode, "a nil base is http.DefaultTransport")
	standard.CloseIdleConnections()
	tel.spans.Reset()

	_, err := transport.RoundTrip(&http.Request{Header: http.Header{}})
	require.EqualError(t, err, "resilient: nil Request.URL")
	require.Empty(t, tel.spans.GetSpans(), "nothing was called")
}

func TestOptionsPanic(t *testing.T) {
	for _, tt := range []struct {
		name   string
		option func()
	}{
		{"WithTracerProvider", func() { otelresilient.WithTracerProvider(nil) }},
		{"WithMeterProvider", func() { otelresilient.WithMeterProvider(nil) }},
		{"WithPropagators", func() { otelresilient.WithPropagators(nil) }},
		{"WithURL", func() { otelresilient.WithURL(nil) }},
		{"WithKeyName", func() { otelresilient.WithKeyName(nil) }},
	} {
		require.PanicsWithValue(t, "otelresilient: "+tt.name+" must not be nil", tt.option)
	}
	require.NotPanics(t, func() { otelresilient.NewTransport(nil, nil, with(nil)) }, "nil options are skipped")
}
