package bench_test

import (
	"io"
	"net/http"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/otelresilient"
)

// nop is a base that answers at once.
type nop struct{}

func (nop) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Body: body{}, Request: req}, nil
}

// body is an empty body that is not http.NoBody.
type body struct{}

func (body) Read([]byte) (int, error) { return 0, io.EOF }
func (body) Close() error             { return nil }

// BenchmarkCall makes calls that succeed at once, so it measures the
// instrumentation. otelhttp creates one span and one measurement for a request, and
// otelresilient two of each.
func BenchmarkCall(b *testing.B) {
	modes := []struct {
		name      string
		providers func() (*trace.TracerProvider, *metric.MeterProvider)
	}{
		{"sampled", func() (*trace.TracerProvider, *metric.MeterProvider) {
			return trace.NewTracerProvider(trace.WithSyncer(tracetest.NewNoopExporter())),
				metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()))
		}},
		{"unsampled", func() (*trace.TracerProvider, *metric.MeterProvider) {
			return trace.NewTracerProvider(trace.WithSampler(trace.NeverSample())),
				metric.NewMeterProvider(metric.WithReader(metric.NewManualReader()))
		}},
		{"unsampled, no metrics", func() (*trace.TracerProvider, *metric.MeterProvider) {
			return trace.NewTracerProvider(trace.WithSampler(trace.NeverSample())), metric.NewMeterProvider()
		}},
	}
	for _, url := range []string{"https://api.example.com/v1/people", "https://user:pass@api.example.com/v1/people?page=2&access_token=secret"} {
		name := "plain URL"
		if len(url) > 40 {
			name = "URL to redact"
		}
		b.Run(name, func(b *testing.B) {
			b.Run("resilient alone", func(b *testing.B) { call(b, resilient.NewTransport(nop{}), url) })
			for _, mode := range modes {
				b.Run(mode.name+"/otelhttp", func(b *testing.B) {
					traces, meters := mode.providers()
					call(b, otelhttp.NewTransport(nop{}, otelhttp.WithTracerProvider(traces), otelhttp.WithMeterProvider(meters),
						otelhttp.WithPropagators(propagation.TraceContext{})), url)
				})
				b.Run(mode.name+"/otelresilient", func(b *testing.B) {
					traces, meters := mode.providers()
					call(b, otelresilient.NewTransport(nop{}, otelresilient.WithTracerProvider(traces),
						otelresilient.WithMeterProvider(meters), otelresilient.WithPropagators(propagation.TraceContext{})), url)
				})
			}
			b.Run("no SDK/otelhttp", func(b *testing.B) { call(b, otelhttp.NewTransport(nop{}), url) })
			b.Run("no SDK/otelresilient", func(b *testing.B) { call(b, otelresilient.NewTransport(nop{}), url) })
		})
	}
}

func call(b *testing.B, rt http.RoundTripper, url string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	b.ReportAllocs()
	for b.Loop() {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}
