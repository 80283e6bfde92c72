package sdktest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/slack-go/slack"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

func slackClient(at endpoint) *slack.Client {
	return slack.New("token", slack.OptionHTTPClient(at.client()), slack.OptionAPIURL(at.url+"/"))
}

func TestSlack(t *testing.T) {
	sdk{
		ok: answer(200, `{"ok":true,"user":"`+value+`"}`),
		call: func(ctx context.Context, at endpoint) result {
			auth, err := slackClient(at).AuthTestContext(ctx)
			got := result{err: err}
			if err == nil {
				got.value = auth.User
			}
			if e, ok := errors.AsType[slack.StatusCodeError](err); ok {
				got.status = e.Code
			}
			return got
		},
		post: true,
	}.check(t)
}

// TestSlackRateLimitedError tests the error that slack-go creates from a
// Retry-After.
func TestSlackRateLimitedError(t *testing.T) {
	script := resilienttest.New(resilienttest.Status(429, "Retry-After", "3600"))
	_, err := slackClient(start(t, script)).AuthTestContext(t.Context())
	limited, ok := errors.AsType[*slack.RateLimitedError](err)
	require.True(t, ok, "%T: %v", err, err)
	require.Equal(t, time.Hour, limited.RetryAfter, "the hint of the server, which is longer than WithMaxWait")
	require.Len(t, script.Attempts(), 1)
}

// TestSlackReadsMayBeRepeated tests methods that only read, which are POSTs too.
func TestSlackReadsMayBeRepeated(t *testing.T) {
	script := resilienttest.New(resilienttest.Status(500), answer(200, `{"ok":true,"user":"`+value+`"}`))
	ctx := resilient.ContextWithOptions(t.Context(), resilient.WithRetryNonIdempotent(true))
	auth, err := slackClient(start(t, script)).AuthTestContext(ctx)
	require.NoError(t, err)
	require.Equal(t, value, auth.User)
}
