package bench_test

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/otelresilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// TestNesting puts otelhttp above and below this module. The server answers 503,
// then 200.
func TestNesting(t *testing.T) {
	type stack struct {
		traces  oteltrace.TracerProvider
		meters  *metric.MeterProvider
		peer    func(base http.RoundTripper) http.RoundTripper
		ours    func(base http.RoundTripper, opts ...otelresilient.Option) http.RoundTripper
		without func(base http.RoundTripper) http.RoundTripper
	}
	for _, tt := range []struct {
		name  string
		stack func(s stack, server http.RoundTripper) http.RoundTripper
		want  string
		count uint64 // of http.client.request.duration, where 2 were sent
		url   string // of the span whose context the server received
		why   string
	}{
		{
			name:  "ours alone",
			stack: func(s stack, server http.RoundTripper) http.RoundTripper { return s.ours(server) },
			want: `
resilient GET internal
  GET client
  GET client
`,
			count: 2, url: "https://api.example.com/?access_token=REDACTED",
		},
		{
			name:  "otelhttp above a plain Transport",
			stack: func(s stack, server http.RoundTripper) http.RoundTripper { return s.peer(s.without(server)) },
			want: `
HTTP GET client
`,
			count: 1, url: "https://api.example.com/?access_token=secret", why: "the retry is invisible",
		},
		{
			name:  "otelhttp below a plain Transport",
			stack: func(s stack, server http.RoundTripper) http.RoundTripper { return s.without(s.peer(server)) },
			want: `
HTTP GET client
HTTP GET client
`,
			count: 2, url: "https://api.example.com/?access_token=secret", why: "the attempts have nothing to do with each other",
		},
		{
			name: "otelhttp below ours, which leaves the attempts to it",
			stack: func(s stack, server http.RoundTripper) http.RoundTripper {
				return s.ours(s.peer(server), otelresilient.WithAttemptSpans(false))
			},
			want: `
resilient GET internal
  HTTP GET client
  HTTP GET client
`,
			count: 2, url: "https://api.example.com/?access_token=secret", why: "as documented: the tree is the same",
		},
		{
			name:  "otelhttp below ours",
			stack: func(s stack, server http.RoundTripper) http.RoundTripper { return s.ours(s.peer(server)) },
			want: `
resilient GET internal
  GET client
    HTTP GET client
  GET client
    HTTP GET client
`,
			count: 4, url: "https://api.example.com/?access_token=secret", why: "each attempt is told of twice",
		},
		{
			name:  "otelhttp above ours",
			stack: func(s stack, server http.RoundTripper) http.RoundTripper { return s.peer(s.ours(server)) },
			want: `
HTTP GET client
  resilient GET internal
    GET client
    GET client
`,
			count: 3, url: "https://api.example.com/?access_token=REDACTED", why: "a CLIENT span for what was no request",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spans, reader := tracetest.NewInMemoryExporter(), metric.NewManualReader()
				s := stack{
					traces: trace.NewTracerProvider(trace.WithSyncer(spans)),
					meters: metric.NewMeterProvider(metric.WithReader(reader)),
				}
				zero := resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) })
				s.without = func(base http.RoundTripper) http.RoundTripper { return resilient.NewTransport(base, zero) }
				s.peer = func(base http.RoundTripper) http.RoundTripper {
					return otelhttp.NewTransport(base, otelhttp.WithTracerProvider(s.traces), otelhttp.WithMeterProvider(s.meters),
						otelhttp.WithPropagators(propagation.TraceContext{}))
				}
				s.ours = func(base http.RoundTripper, opts ...otelresilient.Option) http.RoundTripper {
					return otelresilient.NewTransport(base, append(opts, otelresilient.WithTransportOptions(zero),
						otelresilient.WithTracerProvider(s.traces), otelresilient.WithMeterProvider(s.meters),
						otelresilient.WithPropagators(propagation.TraceContext{}))...)
				}
				server := resilienttest.New(resilienttest.Status(503), resilienttest.Status(200))
				client := &http.Client{Transport: tt.stack(s, server)}
				resp, err := client.Get("https://api.example.com/?access_token=secret")
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, resp.Body)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())

				all := spans.GetSpans()
				require.Equal(t, tt.want, "\n"+tree(all, oteltrace.SpanID{}, 0), tt.why)
				require.Equal(t, tt.count, requests(t, reader), tt.why)
				id := lastSpan(t, server)
				innermost := all[slices.IndexFunc(all, func(s tracetest.SpanStub) bool {
					return s.SpanContext.SpanID().String() == id
				})]
				require.Contains(t, innermost.Attributes, semconv.URLFull(tt.url))
			})
		})
	}
}

// tree draws the descendants of a span, by time.
func tree(spans tracetest.SpanStubs, parent oteltrace.SpanID, depth int) string {
	below := slices.DeleteFunc(slices.Clone(spans), func(s tracetest.SpanStub) bool { return s.Parent.SpanID() != parent })
	slices.SortFunc(below, func(a, b tracetest.SpanStub) int {
		return cmp.Or(a.StartTime.Compare(b.StartTime), a.EndTime.Compare(b.EndTime))
	})
	var b strings.Builder
	for _, s := range below {
		b.WriteString(strings.Repeat("  ", depth) + s.Name + " " + s.SpanKind.String() + "\n")
		b.WriteString(tree(spans, s.SpanContext.SpanID(), depth+1))
	}
	return b.String()
}

// lastSpan returns the id of the span in the last request to the server.
func lastSpan(t *testing.T, server *resilienttest.Script) string {
	t.Helper()
	attempts := server.Attempts()
	fields := strings.Split(attempts[len(attempts)-1].Header.Get("Traceparent"), "-")
	require.Len(t, fields, 4)
	return fields[2]
}

// requests returns the number of requests in http.client.request.duration.
func requests(t *testing.T, reader *metric.ManualReader) uint64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	n := uint64(0)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != "http.client.request.duration" {
				continue
			}
			data, ok := m.Data.(metricdata.Histogram[float64])
			require.True(t, ok)
			for _, p := range data.DataPoints {
				n += p.Count
			}
		}
	}
	return n
}
