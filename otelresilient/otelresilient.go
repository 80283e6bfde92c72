// Package otelresilient is a [resilient.Transport] that tells OpenTelemetry what
// it does: a span for each call, in it one for each attempt and an event for each
// wait, and metrics.
//
//	client := &http.Client{Transport: otelresilient.NewTransport(nil)}
//
// Retries are invisible to instrumentation that is put around a Transport, and to
// one that is put below it they are requests that have nothing to do with each
// other. Here is what a call looks like that was answered with 503, then with 429
// and Retry-After: 1, then with 200:
//
//	resilient GET              INTERNAL   resilient.attempts=3 resilient.outcome="success"
//	├─ GET                     CLIENT     503, error.type="503"
//	├─ resilient.wait          event      resilient.wait.reason="backoff"
//	├─ GET                     CLIENT     429, error.type="429", http.request.resend_count=1
//	├─ resilient.wait          event      resilient.wait.reason="retry-after"
//	└─ GET                     CLIENT     200, http.request.resend_count=2
//
// # Spans
//
// They follow the semantic conventions of OpenTelemetry for HTTP clients, which
// want one CLIENT span for each time a request is sent, and none around them.
//
// An attempt's span has http.request.method, server.address, server.port,
// url.full, http.request.resend_count from the second time on, redirects that
// http.Client follows included, and of the response http.response.status_code and
// network.protocol.version. From status 400 on, or if there is no response, its
// status is Error and error.type says why. Its context is what the server gets, by
// the propagators in use, so that each attempt has spans of its own there.
//
// A call's span has the kind INTERNAL, the same request attributes but for
// url.full, and resilient.attempts, resilient.outcome and the final
// http.response.status_code. The outcome is the Reason of a [resilient.DoneInfo]:
// "success", "final status", "out of attempts" and so on. With any other one than
// "success" the status is Error, and error.type is set.
//
// A span lasts until the response body is read to its end, fails or is closed,
// and that of a call as long as that of its last attempt. A body that is never
// closed, which leaks its connection too, leaves its spans unfinished. An upgraded
// connection (101) is left as it is: the spans end with the headers.
//
// An event resilient.wait has resilient.wait.reason, which is that of a
// [resilient.WaitInfo], and resilient.wait.duration in seconds. It is dated at the
// beginning of the wait.
//
// Functions that are given a request, such as the hooks of a [resilient.Trace] or
// that of [resilient.WithLimitKey], get a copy of the caller's whose context has
// the call's span. So [resilient.WithLogger], with a handler that looks for it,
// writes records that carry its trace id. Response.Request is the caller's.
//
// # Metrics
//
//   - http.client.request.duration: histogram, seconds. The attempts, by the
//     conventions.
//   - resilient.call.duration: histogram, seconds. The calls, by
//     http.request.method, server.address, server.port, resilient.outcome,
//     http.response.status_code, and error.type of what failed.
//   - resilient.wait.duration: histogram, seconds. The waits, by
//     resilient.wait.reason and the three request attributes above.
//   - resilient.retries: counter. The attempts but for the first of each call, by
//     resilient.retry.reason, which is the Reason of the [resilient.Verdict] on the
//     attempt before, and the request attributes.
//   - resilient.budget: gauge, tokens. What is left of the retry budget.
//   - resilient.limit.learned: gauge, attempts a second. The pace that is in
//     force, while there is one.
//   - resilient.limit.waiting: up-down counter. The attempts that stand in line.
//
// The durations of attempts and calls are those of their spans. A wait lasts as
// long as it really took, also when it was cut short; only for the reason
// "limiter" it is what the limiter told, as nobody else knows. The last three are
// read from [resilient.Transport.Snapshot] when metrics are collected, of at most
// the 100 limit keys used last, see [WithKeyName]; what else there is in a
// Snapshot may be observed by the program's own instruments.
//
// Of Transports for the same host, the metrics run into each other, unless they
// are told apart by [WithAttributes].
//
// # Secrets
//
// No span and no metric has header values, userinfo, values of the query, bodies,
// or the text of an error, which may have all of these. In the path of url.full,
// "***" stands for segments that look like secrets, such as those of a webhook;
// [resilient.WithLogPath] changes that for logs and spans alike, and [WithURL] for
// spans alone.
//
// # Cost
//
// A call that succeeds at once is two spans and two measurements. That takes 1.4
// to 1.7 times as long as otelhttp's one of each if metrics are collected, the
// more if the trace is sampled too, and not longer than those if neither is.
// Module internal/bench measures it.
//
// # With otelhttp
//
// Not around a Transport: an otelhttp.Transport on top of this one is a CLIENT
// span too many, and counts each call as one more request. If it is to stay, as in
// a client that is made elsewhere, put it below, and leave the attempts to it:
//
//	base := otelhttp.NewTransport(nil)
//	transport := otelresilient.NewTransport(base, otelresilient.WithAttemptSpans(false))
//
// The tree is the same then. But otelhttp does not know http.request.resend_count,
// and shows the values of the query, such as an access_token.
package otelresilient

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/resilienthttp/resilient"
)

// scope is the name of the instrumentation.
const scope = "github.com/resilienthttp/resilient/otelresilient"

var _ http.RoundTripper = (*Transport)(nil)

// Transport is a [resilient.Transport] whose calls and attempts are told to
// OpenTelemetry. Make it with [NewTransport]. It is safe for concurrent use.
type Transport struct {
	// Transport is what does the work. It is there for its methods, and for
	// what takes one; a request that is given to it, and not to the Transport
	// around it, is sent, but nothing is told of it.
	*resilient.Transport

	tel *telemetry
}

// NewTransport returns a Transport that sends its requests through base. A nil
// base is http.DefaultTransport, looked up at each call. Without options it uses
// the global providers and propagators of OpenTelemetry, which may be set later.
// Nil options are skipped; of two that set the same thing, the last one wins.
func NewTransport(base http.RoundTripper, opts ...Option) *Transport {
	cfg := config{
		tracers:     otel.GetTracerProvider(),
		meters:      otel.GetMeterProvider(),
		propagators: otel.GetTextMapPropagator(),
		attempts:    true,
		url:         func(u *url.URL, path string) string { return redactURL(u, escaped(u, path), nil) },
		keyName:     defaultKeyName,
	}
	for _, opt := range opts {
		if opt != nil {
			opt(&cfg)
		}
	}
	tel := &telemetry{
		config:      cfg,
		tracer:      cfg.tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		instruments: newInstruments(cfg.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))),
	}
	t := resilient.NewTransport(&attemptTransport{base: base, tel: tel},
		append(slices.Clip(cfg.transport), resilient.WithTrace(hooks()))...)
	tel.observe(t)
	return &Transport{Transport: t, tel: tel}
}

// RoundTrip implements http.RoundTripper. It returns what the RoundTrip of a
// [resilient.Transport] does.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.Header == nil {
		return t.Transport.RoundTrip(req) // refused there, and nothing is sent
	}
	c := t.tel.newCall(req)
	defer c.release()
	resp, err := t.Transport.RoundTrip(req.WithContext(c.ctx))
	if resp != nil {
		resp.Request = req // as if the caller's had been sent
	}
	return resp, err
}

// telemetry is what the calls of a Transport share.
type telemetry struct {
	config
	tracer trace.Tracer
	instruments
}

// Option configures a [Transport]. An option panics when it is given a value that
// makes no sense, so that the stack names the line.
type Option func(*config)

type config struct {
	tracers     trace.TracerProvider
	meters      metric.MeterProvider
	propagators propagation.TextMapPropagator
	transport   []resilient.Option
	attributes  []attribute.KeyValue
	attempts    bool
	url         func(u *url.URL, path string) string
	keyName     func(string) string
}

// WithTransportOptions sets options of the [resilient.Transport]. Those of
// several WithTransportOptions add up, and nil ones are skipped. The default is
// none.
func WithTransportOptions(opts ...resilient.Option) Option {
	opts = slices.Clone(opts)
	return func(c *config) { c.transport = append(c.transport, opts...) }
}

// WithTracerProvider sets where the spans go. It panics if p is nil. The default
// is the global provider.
func WithTracerProvider(p trace.TracerProvider) Option {
	mustBe(p != nil, "WithTracerProvider")
	return func(c *config) { c.tracers = p }
}

// WithMeterProvider sets where the metrics go. It panics if p is nil. The default
// is the global provider.
func WithMeterProvider(p metric.MeterProvider) Option {
	mustBe(p != nil, "WithMeterProvider")
	return func(c *config) { c.meters = p }
}

// WithPropagators sets what the server is told of the span of an attempt, in
// header fields that replace the caller's of the same name. It panics if p is
// nil. The default are the global propagators, which are none until the program
// sets them.
func WithPropagators(p propagation.TextMapPropagator) Option {
	mustBe(p != nil, "WithPropagators")
	return func(c *config) { c.propagators = p }
}

// WithAttributes adds attributes to all spans and metrics, such as the name that
// the API has in the program. They should be the same for all calls: each
// combination is a time series. Those of several WithAttributes add up. The
// default is none.
func WithAttributes(attrs ...attribute.KeyValue) Option {
	attrs = slices.Clone(attrs)
	return func(c *config) { c.attributes = append(c.attributes, attrs...) }
}

// WithAttemptSpans leaves out, given false, all that is told of single attempts:
// their spans, http.client.request.duration, and the header fields of the
// propagators. It is for a base that does this, such as an otelhttp.Transport.
// The default is true.
func WithAttemptSpans(on bool) Option {
	return func(c *config) { c.attempts = on }
}

// WithURL sets how url.full is made of the URL of a request, which f must not
// change. If f returns "" there is no url.full. It panics if f is nil. The default
// is [RedactURL] with the path of a [resilient.WithLogPath], if there is one; f may
// use it for what it does not know better:
//
//	func(u *url.URL) string { return otelresilient.RedactURL(u, "page", "limit") }
//
// A resilient.WithLogPath has no effect on what f returns.
func WithURL(f func(*url.URL) string) Option {
	mustBe(f != nil, "WithURL")
	return func(c *config) { c.url = func(u *url.URL, _ string) string { return f(u) } }
}

// WithKeyName sets what a limit key is called in the attribute
// resilient.limit.key of metrics, given the Key of a [resilient.KeySnapshot]. Of a
// key for which f returns "" nothing is reported. No two keys should have the same
// name: only one would be seen. It panics if f is nil.
//
// The default reports keys that have the form of those that a Transport makes by
// itself, scheme and host and a mark that stands for the credential; and no
// others: the string of a [resilient.WithLimitKey] may itself be a credential,
// and there may be as many as the program has customers. A mark is another one in
// each process, and after each change of the credential.
func WithKeyName(f func(key string) string) Option {
	mustBe(f != nil, "WithKeyName")
	return func(c *config) { c.keyName = f }
}

// mustBe panics if what an option was given is nil, as time.NewTicker does.
func mustBe(ok bool, name string) {
	if !ok {
		panic("otelresilient: " + name + " must not be nil")
	}
}

type callKey struct{}

// callOf returns the call that a request is for; nil if it did not come through
// the RoundTrip of a Transport.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}
