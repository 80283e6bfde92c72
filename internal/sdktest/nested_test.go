package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/anthropics/anthropic-sdk-go"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v85"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"golang.org/x/time/rate"
	"google.golang.org/genai"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// retrying is an SDK whose own retries are left on.
type retrying struct {
	call func(ctx context.Context, at endpoint) error
	sdk  int // attempts of the SDK after a lost connection
}

func retryingSDKs() map[string]retrying {
	return map[string]retrying{
		"openai": {func(ctx context.Context, at endpoint) error {
			client := openaiClient(at)
			_, err := client.Models.Get(ctx, "m")
			return err
		}, 3},
		"anthropic": {func(ctx context.Context, at endpoint) error {
			client := anthropicClient(at)
			_, err := client.Models.Get(ctx, "m", anthropic.ModelGetParams{})
			return err
		}, 3},
		"cloudflare": {func(ctx context.Context, at endpoint) error {
			_, err := cloudflareNamespace(ctx, cloudflareKV(at), "t")
			return err
		}, 3},
		"genai": {func(ctx context.Context, at endpoint) error {
			_, err := genaiClient(ctx, at, new(genai.HTTPRetryOptions)).Models.Get(ctx, "m", nil)
			return err
		}, 5},
		"gitlab": {func(ctx context.Context, at endpoint) error {
			_, _, err := gitlabClient(at).Version.GetVersion(gitlab.WithContext(ctx))
			return err
		}, 1},
		"aws": {func(ctx context.Context, at endpoint) error {
			_, err := s3Client(at, retry.NewStandard()).GetObject(ctx,
				&s3.GetObjectInput{Bucket: aws.String("bucket"), Key: aws.String("key")})
			return err
		}, 3},
		"azure": {func(ctx context.Context, at endpoint) error {
			_, err := blobClient(at, policy.RetryOptions{}).DownloadStream(ctx, "container", "blob", nil)
			return err
		}, 4},
		"elasticsearch": {func(ctx context.Context, at endpoint) error {
			_, err := elasticClient(at).Info().Do(ctx)
			return err
		}, 4},
		"minio": {func(ctx context.Context, at endpoint) error {
			_, err := minioClient(at, minio.MaxRetry).ListBuckets(ctx)
			return err
		}, 10},
		"vault": {func(ctx context.Context, at endpoint) error {
			_, err := vaultClient(at, api.DefaultConfig().MaxRetries).KVv2("secret").Get(ctx, "path")
			return err
		}, 3},
	}
}

// bubble is a test in virtual time, in which the waits of an SDK take no real time.
type bubble struct {
	*testing.T
	endpoint
}

// virtual runs test over script as the base. There is no retry budget, because that
// would hide some attempts of an SDK.
func virtual(t *testing.T, name string, script *resilienttest.Script, test func(bubble), opts ...resilient.Option) {
	t.Helper()
	opts = slices.Concat(defaults(), []resilient.Option{resilient.WithRetryBudget(math.Inf(1), 0)}, opts)
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(bubble{t, endpoint{"http://api.test", resilient.NewTransport(script, opts...)}})
		})
	})
}

// TestMarkedResponses tests which SDKs obey the mark on a response.
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
		{"anthropic", 503, 3 * attempts, attempts, "it goes by X-Should-Retry too"},
		{"cloudflare", 503, 3, 1, "so does this, of a POST"},
		{"aws", 503, 3 * attempts, 3 * attempts, "it does not look at the mark"},
		{"azure", 503, 4 * attempts, 4 * attempts, "nor does this"},
		{"elasticsearch", 503, 4 * attempts, 4 * attempts, "nor does this"},
		{"minio", 503, 10 * attempts, 10 * attempts, "nor does this"},
		{"vault", 503, 3 * attempts, 3 * attempts, "nor does this"},
		{"genai", 503, 5 * attempts, 5 * attempts, "nor does this"},
		{"gitlab", 503, 6 * attempts, 6 * attempts, "nor does this"},
	}
	for _, tt := range tests {
		for on, hits := range map[bool]int{false: tt.without, true: tt.with} {
			script := resilienttest.New(resilienttest.Status(tt.status))
			name := fmt.Sprintf("%s %d, marked: %v", tt.sdk, tt.status, on)
			virtual(t, name, script, func(t bubble) {
				require.Error(t, retryingSDKs()[tt.sdk].call(t.Context(), t.endpoint))
				require.Len(t, script.Attempts(), hits, tt.why)
			}, resilient.WithNoRetryMark(on))
		}
	}
}

// TestStripeIgnoresTheMark shows why the retries of stripe-go should be switched
// off. It reads Stripe-Should-Retry only if there is no error, and a status of 400 or
// more is always an error.
func TestStripeIgnoresTheMark(t *testing.T) {
	page := answer(503, "<html>", "Content-Type", "text/html") // from a proxy
	tests := []struct {
		name   string
		answer resilienttest.Answer
		hits   int
	}{
		{"error object", answer(503, `{"error":{"type":"api_error","message":"m"}}`), attempts}, // never retried by stripe-go
		{"lock timeout", answer(429, `{"error":{"code":"lock_timeout","message":"m"}}`), 3 * attempts},
		{"page of a proxy", page, 3 * attempts},
	}
	for _, tt := range tests {
		script := resilienttest.New(tt.answer)
		virtual(t, tt.name, script, func(t bubble) {
			_, err := stripeClient(t.endpoint, stripe.DefaultMaxNetworkRetries).V1Customers.Retrieve(t.Context(), "cus_1", nil)
			require.Error(t, err)
			require.Len(t, script.Attempts(), tt.hits)
		}, resilient.WithNoRetryMark(true))
	}
}

// TestKubernetesGoesByRetryAfter shows retries that cannot be switched off in a
// typed client: client-go repeats any 429 and 5xx that has a Retry-After in whole
// seconds, ten times.
func TestKubernetesGoesByRetryAfter(t *testing.T) {
	script := resilienttest.New(kubernetesError(429, "Retry-After", "1"))
	virtual(t, "left on", script, func(t bubble) {
		_, err := coreClient(t.endpoint).Pods("default").Get(t.Context(), "pod", metav1.GetOptions{})
		require.Error(t, err)
		require.Len(t, script.Attempts(), 11*attempts)
	}, resilient.WithNoRetryMark(true))

	script = resilienttest.New(kubernetesError(429, "Retry-After", "1"))
	virtual(t, "a request of its own", script, func(t bubble) {
		err := coreClient(t.endpoint).RESTClient().Get().Resource("pods").MaxRetries(0).Do(t.Context()).Error()
		require.Error(t, err)
		require.Len(t, script.Attempts(), attempts)
	})
}

// TestMarkedErrors shows that the errors of this module have the methods that the
// retryers of SDKs look for, so that an SDK does not retry a call that the Transport
// has given up.
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
			virtual(t, tt.name+" in "+name, script, func(t bubble) {
				ctx, seen := watch(t.Context())
				err := retryingSDKs()[name].call(ctx, t.endpoint)
				require.True(t, tt.check(err), "%T: %v", err, err)
				require.Equal(t, 1, seen.roundTrips(), "the SDK does not start over")
				require.Len(t, script.Attempts(), tt.hits)
			}, tt.opts...)
		}
	}

	// With an error that has no such methods, the base's own after one attempt, the
	// SDKs do retry.
	for name, with := range retryingSDKs() {
		script := resilienttest.New(resilienttest.Answer{Lost: true})
		virtual(t, "no marker in "+name, script, func(t bubble) {
			require.Error(t, with.call(t.Context(), t.endpoint))
			require.Len(t, script.Attempts(), with.sdk)
		}, resilient.WithMaxAttempts(1))
	}
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// TestErrorType tests error.type, as defined by OpenTelemetry's conventions, for the
// errors of this module as http.Client returns them.
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
		virtual(t, tt.want, resilienttest.New(tt.answer), func(t bubble) {
			_, err := t.client().Get(t.url)
			require.Equal(t, semconv.ErrorTypeKey.String(tt.want), semconv.ErrorType(err), "%v", err)
		}, tt.opts...)
	}
}
