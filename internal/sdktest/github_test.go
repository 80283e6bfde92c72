package sdktest_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-github/v89/github"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/resilienttest"
)

func githubClient(at endpoint) *github.Client {
	base := at.url + "/"
	client, err := github.NewClient(github.WithHTTPClient(at.client()), github.WithURLs(&base, nil))
	if err != nil {
		panic(err) // the URL of the test's server is valid
	}
	return client
}

func TestGitHub(t *testing.T) {
	sdk{
		ok: answer(200, `{"login":"`+value+`"}`),
		call: func(ctx context.Context, at endpoint) result {
			user, resp, err := githubClient(at).Users.Get(ctx, "octocat")
			got := result{value: user.GetLogin(), err: err}
			if e, ok := errors.AsType[*github.ErrorResponse](err); ok {
				got.status = e.Response.StatusCode
				got.resp = resp.Response
			}
			return got
		},
		response: true,
	}.check(t)
}

// TestGitHubRateLimitError tests the error that go-github creates from header
// fields.
func TestGitHubRateLimitError(t *testing.T) {
	reset := time.Now().Add(time.Hour).Truncate(time.Second)
	script := resilienttest.New(resilienttest.Status(403,
		"X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", strconv.FormatInt(reset.Unix(), 10)))
	_, _, err := githubClient(start(t, script)).Users.Get(t.Context(), "octocat")
	limited, ok := errors.AsType[*github.RateLimitError](err)
	require.True(t, ok, "%T: %v", err, err)
	require.True(t, reset.Equal(limited.Rate.Reset.Time))
	require.Len(t, script.Attempts(), 1, "longer than WithMaxWait")
}
