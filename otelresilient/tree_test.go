package otelresilient_test

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/otelresilient"
)

// telemetry keeps the spans and metrics of a Transport under test in memory.
type telemetry struct {
	spans   *tracetest.InMemoryExporter
	reader  *metric.ManualReader
	options []otelresilient.Option
}

func newTelemetry() *telemetry {
	tel := &telemetry{spans: tracetest.NewInMemoryExporter(), reader: metric.NewManualReader()}
	tel.options = []otelresilient.Option{
		otelresilient.WithTracerProvider(tel.tracerProvider()),
		otelresilient.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(tel.reader))),
	}
	return tel
}

func (tel *telemetry) tracerProvider() *trace.TracerProvider {
	return trace.NewTracerProvider(trace.WithSyncer(tel.spans))
}

// transport returns a Transport that reports to tel.
func (tel *telemetry) transport(base http.RoundTripper, opts ...otelresilient.Option) *otelresilient.Transport {
	return otelresilient.NewTransport(base, append(slices.Clip(tel.options), opts...)...)
}

// attempts returns the spans of attempts, in the order in which they began.
func (tel *telemetry) attempts() tracetest.SpanStubs { return tel.ofKind(oteltrace.SpanKindClient) }

// call returns the span of the only call.
func (tel *telemetry) call(t *testing.T) tracetest.SpanStub {
	t.Helper()
	calls := tel.ofKind(oteltrace.SpanKindInternal)
	require.Len(t, calls, 1)
	return calls[0]
}

func (tel *telemetry) ofKind(kind oteltrace.SpanKind) tracetest.SpanStubs {
	spans := slices.DeleteFunc(tel.spans.GetSpans(), func(s tracetest.SpanStub) bool { return s.SpanKind != kind })
	slices.SortStableFunc(spans, func(a, b tracetest.SpanStub) int {
		if c := a.StartTime.Compare(b.StartTime); c != 0 {
			return c
		}
		return cmp.Compare(value(a, "http.request.resend_count").AsInt64(), value(b, "http.request.resend_count").AsInt64())
	})
	return spans
}

// metrics returns the data of a metric, or nil if there is none.
func (tel *telemetry) metrics(t *testing.T, name string) metricdata.Aggregation {
	t.Helper()
	for _, m := range tel.collect(t).Metrics {
		if m.Name == name {
			return m.Data
		}
	}
	return nil
}

// collect returns all metrics of the only scope.
func (tel *telemetry) collect(t *testing.T) metricdata.ScopeMetrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, tel.reader.Collect(t.Context(), &all))
	if len(all.ScopeMetrics) == 0 {
		return metricdata.ScopeMetrics{}
	}
	require.Len(t, all.ScopeMetrics, 1)
	return all.ScopeMetrics[0]
}

// value returns an attribute of a span, or the zero Value if the span does not have
// it.
func value(s tracetest.SpanStub, key attribute.Key) attribute.Value {
	set := attribute.NewSet(s.Attributes...)
	v, _ := set.Value(key)
	return v
}

// failure returns the status of a span and its error.type.
func failure(s tracetest.SpanStub) (codes.Code, string) {
	return s.Status.Code, value(s, "error.type").AsString()
}

// tree draws spans, each with its events and child spans, by time. Times are
// counted from the beginning of the first span.
func tree(spans tracetest.SpanStubs, timed bool) string {
	type line struct {
		at   time.Time
		text string
		span *tracetest.SpanStub // nil for an event
	}
	var b strings.Builder
	var zero time.Time
	var draw func(parent oteltrace.SpanID, events []trace.Event, depth int)
	draw = func(parent oteltrace.SpanID, events []trace.Event, depth int) {
		var lines []line
		for i := range spans {
			if s := &spans[i]; s.Parent.SpanID() == parent {
				lines = append(lines, line{s.StartTime, fmt.Sprintf("%s %s", s.Name, strings.ToUpper(s.SpanKind.String())), s})
			}
		}
		for _, e := range events {
			var text strings.Builder
			text.WriteString(e.Name)
			for _, a := range e.Attributes {
				if timed || a.Key != "resilient.wait.duration" {
					text.WriteString(" " + a.Value.String())
				}
			}
			lines = append(lines, line{e.Time, text.String(), nil})
		}
		slices.SortStableFunc(lines, func(a, b line) int { return a.at.Compare(b.at) })
		for _, l := range lines {
			if zero.IsZero() {
				zero = l.at
			}
			b.WriteString(strings.Repeat("  ", depth))
			if timed {
				fmt.Fprintf(&b, "%v ", l.at.Sub(zero))
			}
			b.WriteString(l.text)
			if l.span == nil {
				b.WriteByte('\n')
				continue
			}
			for _, key := range []attribute.Key{
				"http.response.status_code", "error.type", "http.request.resend_count", "resilient.attempts", "resilient.outcome",
			} {
				if v := value(*l.span, key); v.Type() != attribute.EMPTY {
					name := strings.TrimPrefix(strings.TrimPrefix(string(key), "resilient."), "http.")
					fmt.Fprintf(&b, " %s=%s", name, v.String())
				}
			}
			if timed {
				fmt.Fprintf(&b, " for %v", l.span.EndTime.Sub(l.span.StartTime))
			}
			b.WriteByte('\n')
			draw(l.span.SpanContext.SpanID(), l.span.Events, depth+1)
		}
	}
	draw(oteltrace.SpanID{}, nil, 0)
	return b.String()
}

// intervals is a backoff policy without jitter. It returns the given intervals, and
// then 0.
type intervals []time.Duration

func (i *intervals) Reset() {}

func (i *intervals) NextBackOff() time.Duration {
	if len(*i) == 0 {
		return 0
	}
	d := (*i)[0]
	*i = (*i)[1:]
	return d
}

// roundTripper is a base that is a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// with is shorthand for WithTransportOptions.
func with(opts ...resilient.Option) otelresilient.Option {
	return otelresilient.WithTransportOptions(opts...)
}
