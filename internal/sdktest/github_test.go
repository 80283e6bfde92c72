package sdktest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-github/v89/github"
)

func TestGitHub(t *testing.T) {
	sdk{
		ok: answer(200, `{"login":"`+value+`"}`),
		call: func(ctx context.Context, at endpoint) result {
			base := at.url + "/"
			client, err := github.NewClient(github.WithHTTPClient(at.client()), github.WithURLs(&base, nil))
			if err != nil {
				return result{err: err}
			}
			user, resp, err := client.Users.Get(ctx, "octocat")
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
