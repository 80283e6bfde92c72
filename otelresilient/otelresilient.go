// Package otelresilient is a [resilient.Transport] with OpenTelemetry
// instrumentation. It creates a span for each call, within it a span for each
// attempt and an event for each wait, and metrics.
//
//	client := &http.Client{Transport: otelresilient.NewTransport(nil)}
//
// Instrumentation around a Transport does not see retries, and instrumentation
// below it sees them as unrelated requests. This package shows a call that was
// answered with 503, then with 429 and Retry-After: 1, then with 200, as follows:
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
// The spans follow the semantic conventions of OpenTelemetry for HTTP clients,
// which require one CLIENT span for each time a request is sent, and no CLIENT span
// around them.
//
// The span of an attempt has http.request.method, server.address, server.port,
// url.full, http.response.status_code and network.protocol.version. From the second
// attempt on it also has http.request.resend_count, which includes redirects that
// http.Client follows. If the status is 400 or more, or there is no response, the
// status of the span is Error and error.type gives the reason. The propagators send
// the context of this span to the server, so that each attempt has its own spans
// there.
//
// The span of a call has the kind INTERNAL, the same request attributes except
// url.full, and resilient.attempts, resilient.outcome and the final
// http.response.status_code. The outcome is the Reason of a [resilient.DoneInfo]:
// "success", "final status", "out of attempts" and so on. If it is not "success",
// the status of the span is Error, and error.type is set.
//
// The span of an attempt lasts until the response body is read to its end, fails or
// is closed. The span of a call lasts until the caller is done with the body. If that
// breaks off, falls silent or turns out to hold an error, the status of the span of the
// call is Error, although its outcome is that of the response. A call of package resume
// that goes on with a body has resilient.resumed, which counts them. A body
// that is never closed leaks its connection, and leaves its spans unfinished. The
// spans of an upgraded connection (101) end with the headers.
//
// The event resilient.wait has resilient.wait.reason, which is the Reason of a
// [resilient.WaitInfo], and resilient.wait.duration in seconds. Its time is the
// beginning of the wait.
//
// The hooks of a [resilient.Trace], the function of [resilient.WithLimitKey] and
// other functions with a request receive a copy of the caller's request. The
// context of the copy has the span of the call. So the records of
// [resilient.WithLogger] carry its trace id, if the handler looks for the span.
// Response.Request is the caller's request.
//
// # Metrics
//
//   - http.client.request.duration: histogram, seconds. The attempts, with the
//     attributes of the conventions.
//   - resilient.call.duration: histogram, seconds. The calls, by
//     http.request.method, server.address, server.port, resilient.outcome,
//     http.response.status_code and, for failed calls, error.type.
//   - resilient.wait.duration: histogram, seconds. The waits, by
//     resilient.wait.reason and the three request attributes above.
//   - resilient.retries: counter. The attempts except the first of each call, by
//     resilient.retry.reason and the request attributes. The retry reason is the
//     Reason of the [resilient.Verdict] on the attempt before.
//   - resilient.budget: gauge, tokens. The balance of the retry budget.
//   - resilient.limit.learned: gauge, attempts a second. The rate of a limit that
//     was learned, while one is in force. If it is learned in units of a cost, it is
//     in these, with the name of the limit in resilient.limit.name.
//   - resilient.limit.in_flight: gauge, attempts. How many a limit that was learned
//     allows at one time, while one is in force.
//   - resilient.limit.waiting: up-down counter. The attempts that wait in a queue, with
//     resilient.limit.priority if the program gives priorities other than 0.
//   - resilient.limit.tokens: gauge, tokens. The bucket of a limit that the program has
//     set, with its name in resilient.limit.name; below 0, so many are owed.
//   - resilient.requests.in_flight: up-down counter. The requests in flight, if the
//     program has set a limit for them.
//
// The durations of attempts and calls are those of their spans. The duration of a
// wait is the time that it really took, even if it was cut short. The exception is
// the reason "limiter", where it is the time announced by the limiter, because the
// end of such a wait is not reported.
//
// The last six metrics are read from [resilient.Transport.Snapshot] when metrics are
// collected, for at most the 100 limit keys used last, see [WithKeyName]. They have
// the attribute resilient.limit.key. The two of learned limits also have
// resilient.limit.route if the limit binds only requests of one method and path, such
// as "GET /v1/search". That is the Route of a [resilient.LimitSnapshot], in which "*"
// stands for ids. A key has few limits, and at most 65.
// Programs may observe the rest of a Snapshot with instruments of their own.
//
// The metrics of several Transports for the same host cannot be distinguished,
// unless [WithAttributes] gives them different attributes.
//
// # Secrets
//
// Spans and metrics contain no header values, userinfo, values of the query or
// bodies. They contain no text of errors either, because that may include all of
// these. In the path of url.full, "***" stands for segments that look like secrets,
// such as those of a webhook. [resilient.WithLogPath] changes that for both logs
// and spans, and [WithURL] for spans only.
//
// # Cost
//
// A call that succeeds at once causes two spans and two measurements. They take 1.4
// to 1.7 times as long as the one span and the one measurement of otelhttp if
// metrics are collected, with the larger factor if the trace is sampled too. If
// neither is the case, they take no longer. The module internal/bench measures it.
//
// # With otelhttp
//
// Do not put an otelhttp.Transport around this Transport. It adds a CLIENT span,
// and counts each call as one more request. If you need to keep it, because the
// client is made elsewhere, put it below, and leave the attempts to it:
//
//	base := otelhttp.NewTransport(nil)
//	transport := otelresilient.NewTransport(base, otelresilient.WithAttemptSpans(false))
//
// The tree is then the same. But otelhttp does not set http.request.resend_count,
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

// Transport is a [resilient.Transport] with OpenTelemetry instrumentation. Make it
// with [NewTransport]. It is safe for concurrent use.
type Transport struct {
	// Transport does the work. It is exported for its methods, and for functions
	// that take a *resilient.Transport. A request that is sent through it, and not
	// through the Transport around it, has no spans and no measurements.
	*resilient.Transport

	tel *telemetry
}

// NewTransport returns a Transport that sends its requests through base. A nil
// base is http.DefaultTransport, looked up at each call. Without options it uses
// the global providers and propagators of OpenTelemetry, which may be set later.
// Nil options are skipped. If two options set the same thing, the last one wins.
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

// RoundTrip implements http.RoundTripper. It returns the same results as the
// RoundTrip method of a [resilient.Transport].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.Header == nil {
		return t.Transport.RoundTrip(req) // it refuses the request, which is not sent
	}
	c := t.tel.newCall(req)
	defer c.release()
	resp, err := t.Transport.RoundTrip(req.WithContext(c.ctx))
	if resp != nil {
		resp.Request = req // as if the caller's request had been sent
	}
	return resp, err
}

// telemetry is the state that the calls of a Transport share.
type telemetry struct {
	config
	tracer trace.Tracer
	instruments
}

// Option configures a [Transport]. A With function panics if its argument makes no
// sense, so that the stack trace shows the line.
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

// WithTransportOptions sets options of the [resilient.Transport]. The options of
// several WithTransportOptions add up, and nil options are skipped. The default is
// none.
func WithTransportOptions(opts ...resilient.Option) Option {
	opts = slices.Clone(opts)
	return func(c *config) { c.transport = append(c.transport, opts...) }
}

// WithTracerProvider sets the provider of the tracer for the spans. It panics if p
// is nil. The default is the global provider.
func WithTracerProvider(p trace.TracerProvider) Option {
	mustBe(p != nil, "WithTracerProvider")
	return func(c *config) { c.tracers = p }
}

// WithMeterProvider sets the provider of the meter for the metrics. It panics if p
// is nil. The default is the global provider.
func WithMeterProvider(p metric.MeterProvider) Option {
	mustBe(p != nil, "WithMeterProvider")
	return func(c *config) { c.meters = p }
}

// WithPropagators sets the propagators that send the context of an attempt's span
// to the server. Their header fields replace those of the caller with the same
// name. WithPropagators panics if p is nil. The default is the global propagators,
// which do nothing until the program sets them.
func WithPropagators(p propagation.TextMapPropagator) Option {
	mustBe(p != nil, "WithPropagators")
	return func(c *config) { c.propagators = p }
}

// WithAttributes adds attributes to all spans and metrics, such as the name that
// the API has in the program. They are the same for all calls. Each combination is
// a time series. The attributes of several WithAttributes add up. The default is
// none.
func WithAttributes(attrs ...attribute.KeyValue) Option {
	attrs = slices.Clone(attrs)
	return func(c *config) { c.attributes = append(c.attributes, attrs...) }
}

// WithAttemptSpans controls whether attempts have spans, the metric
// http.client.request.duration, and the header fields of the propagators. Set it to
// false if the base does this itself, as an otelhttp.Transport does. The default is
// true.
func WithAttemptSpans(on bool) Option {
	return func(c *config) { c.attempts = on }
}

// WithURL sets the function that returns url.full for the URL of a request. It must
// not change the URL. If f returns "", there is no url.full. WithURL panics if f is
// nil. The default is [RedactURL] with the path of a [resilient.WithLogPath], if
// there is one. f may use RedactURL too:
//
//	func(u *url.URL) string { return otelresilient.RedactURL(u, "page", "limit") }
//
// A resilient.WithLogPath has no effect on the result of f.
func WithURL(f func(*url.URL) string) Option {
	mustBe(f != nil, "WithURL")
	return func(c *config) { c.url = func(u *url.URL, _ string) string { return f(u) } }
}

// WithKeyName sets the function that returns the name of a limit key in the
// attribute resilient.limit.key of metrics. Its argument is the Key of a
// [resilient.KeySnapshot]. Keys for which f returns "" are not reported. Two keys
// must not have the same name, because only one of them would be reported.
// WithKeyName panics if f is nil.
//
// The default reports only keys of the form that a Transport uses by itself: scheme
// and host, and a mark that stands for the credential. The mark differs from
// process to process, and changes with the credential. Keys of another form are not
// reported, because the string of a [resilient.WithLimitKey] may itself be a
// credential, and there may be one for each customer of the program.
func WithKeyName(f func(key string) string) Option {
	mustBe(f != nil, "WithKeyName")
	return func(c *config) { c.keyName = f }
}

// mustBe panics if ok is false, which means that an argument is nil.
func mustBe(ok bool, name string) {
	if !ok {
		panic("otelresilient: " + name + " must not be nil")
	}
}

type callKey struct{}

// callOf returns the call to which a request belongs, or nil if it did not come
// through the RoundTrip of a Transport.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}
