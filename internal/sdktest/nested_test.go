package sdktest_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v85"
	"go.opentelemetry.io/otel/semconv/v1.41.0"
	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// retrying is an SDK whose own retries are left on.
type retrying struct {
	call func(ctx context.Context, at endpoint) error
	sdk  int // attempts of the SDK at what is temporary
}

func retryingSDKs() map[string]retrying {
	return map[string]retrying{
		"openai": {func(ctx context.Context, at endpoint) error {
			client := openaiClient(at)
			_, err := client.Models.Get(ctx, "m")
			return err
		}, 3},
		"aws": {func(ctx context.Context, at endpoint) error {
			_, err := s3Client(at, retry.NewStandard()).GetObject(ctx,
				&s3.GetObjectInput{Bucket: aws.String("bucket"), Key: aws.String("key")})
			return err
		}, 3},
		"azure": {func(ctx context.Context, at endpoint) error {
			_, err := blobClient(at, policy.RetryOptions{}).DownloadStream(ctx, "container", "blob", nil)
			return err
		}, 4},
	}
}

// virtual runs test in a bubble, with script as the base: the waits of the SDKs
// take no time.
func virtual(t *testing.T, name string, script *resilienttest.Script, test func(t *testing.T, at endpoint), opts ...resilient.Option) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, endpoint{"http://api.test", resilient.NewTransport(script, append(defaults(), opts...)...)})
		})
	})
}

// TestMarkedResponses is what an SDK makes of a response with the mark.
func TestMarkedResponses(t *testing.T) {
	tests := []struct {
		sdk     string
		status  int
		without int // hits
		with    int
		why     string
	}{
		{"openai", 503, 3 * attempts, attempts, "it goes by X-Should-Retry"},
		{"openai", 409, 3, 1, "it takes another view of what is temporary"},
		{"aws", 503, 3 * attempts, 3 * attempts, "it does not look at the mark"},
		{"azure", 503, 4 * attempts, 4 * attempts, "it does not look at the mark"},
	}
	for _, tt := range tests {
		for on, hits := range map[bool]int{false: tt.without, true: tt.with} {
			script := resilienttest.New(resilienttest.Status(tt.status))
			virtual(t, tt.sdk+" "+http.StatusText(tt.status), script, func(t *testing.T, at endpoint) {
				require.Error(t, retryingSDKs()[tt.sdk].call(t.Context(), at))
				require.Len(t, script.Attempts(), hits, "marked: %v; %s", on, tt.why)
			}, resilient.WithNoRetryMark(on))
		}
	}
}

// TestStripeIgnoresTheMark is why its retries should be switched off: stripe-go
// looks at Stripe-Should-Retry only if there is no error, which a status of 400
// or more always is.
func TestStripeIgnoresTheMark(t *testing.T) {
	page := answer(503, "<html>", "Content-Type", "text/html") // as of a proxy
	tests := []struct {
		name   string
		answer resilienttest.Answer
		hits   int
	}{
		{"error object", answer(503, `{"error":{"type":"api_error","message":"m"}}`), attempts}, // never retried by stripe-go
		{"page of a proxy", page, 3 * attempts},
	}
	for _, tt := range tests {
		script := resilienttest.New(tt.answer)
		virtual(t, tt.name, script, func(t *testing.T, at endpoint) {
			_, err := stripeClient(at, stripe.DefaultMaxNetworkRetries).V1Customers.Retrieve(t.Context(), "cus_1", nil)
			require.Error(t, err)
			require.Len(t, script.Attempts(), tt.hits)
		}, resilient.WithNoRetryMark(true))
	}
}

// TestKubernetesGoesByRetryAfter is what cannot be switched off in a typed
// client: client-go repeats any 429 and 5xx that has a Retry-After in whole
// seconds, ten times.
func TestKubernetesGoesByRetryAfter(t *testing.T) {
	script := resilienttest.New(kubernetesError(429, "Retry-After", "1"))
	virtual(t, "left on", script, func(t *testing.T, at endpoint) {
		_, err := coreClient(at).Pods("default").Get(t.Context(), "pod", metav1.GetOptions{})
		require.Error(t, err)
		require.Len(t, script.Attempts(), 11*attempts)
	}, resilient.WithNoRetryMark(true))

	script = resilienttest.New(kubernetesError(429, "Retry-After", "1"))
	virtual(t, "a request of its own", script, func(t *testing.T, at endpoint) {
		err := coreClient(at).RESTClient().Get().Resource("pods").MaxRetries(0).Do(t.Context()).Error()
		require.Error(t, err)
		require.Len(t, script.Attempts(), attempts)
	})
}

// TestMarkedErrors is what the retryers of SDKs make of our errors, by the
// methods that they look for: what was given up here is not begun again.
func TestMarkedErrors(t *testing.T) {
	tests := []struct {
		name   string
		answer resilienttest.Answer
		opts   []resilient.Option
		hits   int
		check  func(error) bool
	}{
		{
			name: "APIError", answer: resilienttest.Status(503), hits: attempts,
			opts: []resilient.Option{resilient.WithStatusErrors(true)}, check: is[*resilient.APIError],
		},
		{
			name: "RetryError", answer: resilienttest.Answer{Lost: true}, hits: attempts,
			check: is[*resilient.RetryError],
		},
		{
			name: "LimitError", answer: resilienttest.Status(200), hits: 0,
			opts: []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1, 0))}, check: is[*resilient.LimitError],
		},
	}
	for _, tt := range tests {
		for _, name := range []string{"aws", "azure"} {
			script := resilienttest.New(tt.answer)
			virtual(t, tt.name+" in "+name, script, func(t *testing.T, at endpoint) {
				ctx, seen := watch(t.Context())
				err := retryingSDKs()[name].call(ctx, at)
				require.True(t, tt.check(err), "%T: %v", err, err)
				require.Equal(t, 1, seen.roundTrips(), "the SDK does not start over")
				require.Len(t, script.Attempts(), tt.hits)
			}, tt.opts...)
		}
	}

	// That the SDKs would start over is seen with an error that has no methods:
	// the base's own, after one attempt.
	for name, with := range retryingSDKs() {
		script := resilienttest.New(resilienttest.Answer{Lost: true})
		virtual(t, "no marker in "+name, script, func(t *testing.T, at endpoint) {
			require.Error(t, with.call(t.Context(), at))
			require.Len(t, script.Attempts(), with.sdk)
		}, resilient.WithMaxAttempts(1))
	}
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// TestErrorType is what OpenTelemetry's conventions make of our errors, as
// http.Client returns them.
func TestErrorType(t *testing.T) {
	tests := []struct {
		answer resilienttest.Answer
		opts   []resilient.Option
		want   string
	}{
		{resilienttest.Status(503), []resilient.Option{resilient.WithStatusErrors(true)}, "503"},
		{resilienttest.Status(200), []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1, 0))}, "limited"},
		{resilienttest.Answer{Delay: time.Hour}, []resilient.Option{resilient.WithAttemptTimeout(time.Second)}, "timeout"},
		{resilienttest.Answer{Lost: true}, nil, "*net.OpError"},
	}
	for _, tt := range tests {
		virtual(t, tt.want, resilienttest.New(tt.answer), func(t *testing.T, at endpoint) {
			_, err := at.client().Get(at.url)
			require.Equal(t, semconv.ErrorTypeKey.String(tt.want), semconv.ErrorType(err), "%v", err)
		}, tt.opts...)
	}
}
