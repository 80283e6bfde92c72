package otelresilient_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/otelresilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// A call that needs three attempts, and the spans that a tracing backend shows.
func ExampleNewTransport() {
	exporter := tracetest.NewInMemoryExporter() // an OTLP exporter in production
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
	server := resilienttest.New(
		resilienttest.Status(503),
		resilienttest.Status(429, "Retry-After-Ms", "20"),
		resilienttest.Status(200),
	)

	client := &http.Client{Transport: otelresilient.NewTransport(server,
		otelresilient.WithTracerProvider(provider),
		otelresilient.WithTransportOptions(
			resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(10 * time.Millisecond) }),
		),
	)}
	resp, err := client.Get("https://api.example.com/v1/people?access_token=secret")
	if err != nil {
		panic(err)
	}
	resp.Body.Close() // ends the spans

	fmt.Print(tree(exporter.GetSpans(), false))
	// Output:
	// resilient GET INTERNAL response.status_code=200 attempts=3 outcome=success
	//   GET CLIENT response.status_code=503 error.type=503
	//   resilient.wait backoff
	//   GET CLIENT response.status_code=429 error.type=429 request.resend_count=1
	//   resilient.wait retry-after
	//   GET CLIENT response.status_code=200 request.resend_count=2
}
