package sdktest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/service"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	cloudflareoption "github.com/cloudflare/cloudflare-go/v7/option"
	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/google/go-github/v89/github"
	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/slack-go/slack"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v85"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/storage/v1"
	"google.golang.org/genai"
	k8s "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
	"github.com/resilienthttp/resilient/resilienttest"
)

// post is a POST of an SDK, which the SDK's own retries may send several times.
type post struct {
	sdk, call string

	// do makes the call. If own is true, the SDK retries as it does by default, and
	// else its retries are off, as described in the README.
	do func(ctx context.Context, at endpoint, own bool) error

	fail func(status int, header ...string) resilienttest.Answer // nil: the documented object

	// like gives as many attempts as the SDK has alone, or more. The text is for the
	// README.
	like string
	opts []resilient.Option
}

const (
	twice  = "`WithRetryNonIdempotent(true)`"
	enough = "nothing"
)

func posts() []post {
	repeat := resilient.WithRetryNonIdempotent(true)
	plain := func(fail func(int) resilienttest.Answer) func(int, ...string) resilienttest.Answer {
		return func(status int, _ ...string) resilienttest.Answer { return fail(status) }
	}
	return []post{
		{
			sdk: "anthropic-sdk-go", call: "Messages.New", fail: plain(anthropicError),
			do: func(ctx context.Context, at endpoint, own bool) error {
				client := anthropicClient(at)
				if !own {
					client = anthropicClient(at, anthropicoption.WithMaxRetries(0))
				}
				_, err := anthropicMessage(ctx, client, "?")
				return err
			},
			like: "`profile.Anthropic()`", opts: []resilient.Option{resilient.WithProfile(profile.Anthropic())},
		},
		{
			sdk: "openai-go", call: "Chat.Completions.New", fail: plain(openaiError),
			do: func(ctx context.Context, at endpoint, own bool) error {
				client := openaiClient(at)
				if !own {
					client = openaiClient(at, openaioption.WithMaxRetries(0))
				}
				_, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
					Model: "m", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("?")},
				})
				return err
			},
			like: "`profile.OpenAI()`", opts: []resilient.Option{resilient.WithProfile(profile.OpenAI())},
		},
		{
			sdk: "genai, if `RetryOptions` are set", call: "GenerateContent", fail: plain(googleError),
			do: func(ctx context.Context, at endpoint, own bool) error {
				var retry *genai.HTTPRetryOptions
				if own {
					retry = new(genai.HTTPRetryOptions)
				}
				_, err := genaiContent(ctx, genaiClient(ctx, at, retry), "?")
				return err
			},
			like: "`profile.Gemini()`, `WithMaxAttempts(5)`",
			opts: []resilient.Option{resilient.WithProfile(profile.Gemini()), resilient.WithMaxAttempts(5)},
		},
		{
			sdk: "cloudflare-go", call: "Namespaces.New", fail: plain(cloudflareError),
			do: func(ctx context.Context, at endpoint, own bool) error {
				service := cloudflareKV(at)
				if !own {
					service = cloudflareKV(at, cloudflareoption.WithMaxRetries(0))
				}
				_, err := cloudflareNamespace(ctx, service, "t")
				return err
			},
			like: twice, opts: []resilient.Option{repeat},
		},
		{
			sdk: "GitLab's client-go", call: "CreateIssue", fail: plain(gitlabError),
			do: func(ctx context.Context, at endpoint, own bool) error {
				client := gitlabClient(at)
				if !own {
					client = gitlabClient(at, gitlab.WithoutRetries())
				}
				_, _, err := gitlabIssue(ctx, client, "t")
				return err
			},
			like: twice + ", `WithMaxAttempts(6)`", opts: []resilient.Option{repeat, resilient.WithMaxAttempts(6)},
		},
		{
			sdk: "google-api-go-client", call: "storage Buckets.Insert", fail: plain(googleError),
			do: func(ctx context.Context, at endpoint, _ bool) error {
				_, err := storageService(ctx, at).Buckets.Insert("project", &storage.Bucket{Name: "b"}).Context(ctx).Do()
				return err
			},
			like: enough,
		},
		{
			sdk: "google-api-go-client", call: "an upload with `ChunkSize(0)`", fail: plain(googleError),
			do: func(ctx context.Context, at endpoint, own bool) error {
				call := storageUpload(ctx, at, stream(value), googleapi.ChunkSize(0))
				if own {
					call = call.WithRetry(nil, nil)
				}
				_, err := call.Do()
				return err
			},
			like: "`WithReplayBuffer`", opts: []resilient.Option{resilient.WithReplayBuffer(1 << 20)},
		},
		{
			sdk: "stripe-go", call: "V1Customers.Create",
			do: func(ctx context.Context, at endpoint, own bool) error {
				var retries int64
				if own {
					retries = stripe.DefaultMaxNetworkRetries
				}
				_, err := stripeClient(at, retries).V1Customers.Create(ctx, new(stripe.CustomerCreateParams))
				return err
			},
			fail: func(status int, header ...string) resilienttest.Answer {
				return answer(status, `{"error":{"type":"api_error","message":"m"}}`, header...)
			},
			like: "nothing: it sends an Idempotency-Key",
		},
		{
			sdk: "aws-sdk-go-v2", call: "S3 CreateMultipartUpload", fail: plain(s3Error),
			do: func(ctx context.Context, at endpoint, own bool) error {
				var retryer aws.Retryer = aws.NopRetryer{}
				if own {
					retryer = nil
				}
				_, err := s3Client(at, retryer).CreateMultipartUpload(ctx,
					&s3.CreateMultipartUploadInput{Bucket: aws.String("bucket"), Key: aws.String("key")})
				return err
			},
			like: twice, opts: []resilient.Option{repeat},
		},
		{
			sdk: "azblob", call: "GetUserDelegationCredential",
			do: func(ctx context.Context, at endpoint, own bool) error {
				retry := policy.RetryOptions{MaxRetries: -1}
				if own {
					retry = policy.RetryOptions{}
				}
				client, err := service.NewClientWithNoCredential(at.url, &service.ClientOptions{
					ClientOptions: azcore.ClientOptions{Transport: at.client(), Retry: retry},
				})
				if err != nil {
					return err
				}
				_, err = client.GetUserDelegationCredential(ctx, service.KeyInfo{Start: new(""), Expiry: new("")}, nil)
				return err
			},
			like: twice, opts: []resilient.Option{repeat},
		},
		{
			sdk: "minio-go", call: "NewMultipartUpload", fail: plain(s3Error),
			do: func(ctx context.Context, at endpoint, own bool) error {
				attempts := 1
				if own {
					attempts = minio.MaxRetry
				}
				_, err := minio.Core{Client: minioClient(at, attempts)}.NewMultipartUpload(ctx, "bucket", "key", minio.PutObjectOptions{})
				return err
			},
			like: twice + ", `WithMaxAttempts(10)`", opts: []resilient.Option{repeat, resilient.WithMaxAttempts(10)},
		},
		{
			sdk: "vault/api", call: "Token.Create",
			do: func(ctx context.Context, at endpoint, own bool) error {
				retries := 0
				if own {
					retries = api.DefaultConfig().MaxRetries
				}
				_, err := vaultClient(at, retries).Auth().Token().CreateWithContext(ctx, new(api.TokenCreateRequest))
				return err
			},
			like: twice, opts: []resilient.Option{repeat},
		},
		{
			sdk: "go-elasticsearch", call: "Search",
			do: func(ctx context.Context, at endpoint, own bool) error {
				client := elasticClient(at)
				if !own {
					client = elasticClient(at, elastictransport.WithDisableRetry())
				}
				_, err := client.Search().Index("i").Do(ctx)
				return err
			},
			like: twice, opts: []resilient.Option{repeat},
		},
		{
			sdk: "k8s client-go", call: "Pods.Create",
			do: createPod, fail: kubernetesError,
			like: enough,
		},
		{
			sdk: "k8s client-go, told Retry-After", call: "Pods.Create",
			do: createPod,
			fail: func(status int, _ ...string) resilienttest.Answer {
				return kubernetesError(status, "Retry-After", "1")
			},
			like: twice + ", `WithMaxAttempts(11)`", opts: []resilient.Option{repeat, resilient.WithMaxAttempts(11)},
		},
		{
			sdk: "go-github", call: "Issues.Create",
			do: func(ctx context.Context, at endpoint, _ bool) error {
				_, _, err := githubClient(at).Issues.Create(ctx, "o", "r", new(github.IssueRequest))
				return err
			},
			like: enough,
		},
		{
			sdk: "slack-go", call: "PostMessage",
			do: func(ctx context.Context, at endpoint, _ bool) error {
				_, _, err := slackClient(at).PostMessageContext(ctx, "c", slack.MsgOptionText("t", false))
				return err
			},
			like: enough,
		},
	}
}

func createPod(ctx context.Context, at endpoint, own bool) error {
	client, pod := coreClient(at), new(k8s.Pod)
	if own {
		_, err := client.Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
	return client.RESTClient().Post().Namespace("default").Resource("pods").Body(pod).MaxRetries(0).Do(ctx).Error()
}

// TestPosts counts the attempts of a POST that fails for good: by the SDK alone with its
// retries as they are by default, and with its retries off over a Transport with the
// defaults. A third time the Transport has what the README names, and then makes at
// least as many attempts as the SDK alone. The table in README.md is what is counted.
func TestPosts(t *testing.T) {
	var table strings.Builder
	table.WriteString("| SDK | POST | alone | over ours | and with this | |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, p := range posts() {
		t.Run(p.sdk+" "+p.call, func(t *testing.T) {
			alone := p.count(t, true, func(base http.RoundTripper) http.RoundTripper { return base })
			over := p.count(t, false, func(base http.RoundTripper) http.RoundTripper { return resilient.NewTransport(base) })
			like := p.count(t, false, func(base http.RoundTripper) http.RoundTripper {
				return resilient.NewTransport(base, p.opts...)
			})
			for i := range like {
				require.GreaterOrEqual(t, like[i], alone[i], "%v alone, %v over ours", alone, like)
			}
			fmt.Fprintf(&table, "| %s | %s | %s | %s | %s | %s |\n", p.sdk, p.call, row(alone), row(over), row(like), p.like)
		})
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	if !bytes.Contains(readme, []byte(table.String())) {
		t.Errorf("README.md has another table than this:\n%s", table.String())
	}
}

func row(counts []int) string { return strings.Trim(fmt.Sprint(counts), "[]") }

// count returns the attempts after a 429, a 500, a 503, a 529, and a lost connection.
func (p post) count(t *testing.T, own bool, over func(base http.RoundTripper) http.RoundTripper) []int {
	t.Helper()
	fail := p.fail
	if fail == nil {
		fail = resilienttest.Status
	}
	var counts []int
	for _, a := range []resilienttest.Answer{fail(429), fail(500), fail(503), fail(529), {Lost: true}} {
		synctest.Test(t, func(t *testing.T) {
			script := resilienttest.New(a)
			err := p.do(t.Context(), endpoint{"http://api.test", over(script)}, own)
			require.Error(t, err)
			for _, sent := range script.Attempts() {
				require.Equal(t, http.MethodPost, sent.Method, "%v", err)
				require.Equal(t, script.Attempts()[0].Body, sent.Body)
			}
			require.NotErrorIs(t, err, context.Canceled)
			counts = append(counts, script.Count())
		})
	}
	return counts
}
