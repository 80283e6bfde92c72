package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/resilienthttp/resilient/resilienttest"
)

func gitlabClient(at endpoint, opts ...gitlab.ClientOptionFunc) *gitlab.Client {
	client, err := gitlab.NewClient("token", append([]gitlab.ClientOptionFunc{
		gitlab.WithBaseURL(at.url), gitlab.WithHTTPClient(at.client()),
	}, opts...)...)
	if err != nil {
		panic(err) // the URL of the test's server is valid
	}
	return client
}

func gitlabIssue(ctx context.Context, client *gitlab.Client, title string) (*gitlab.Issue, *gitlab.Response, error) {
	return client.Issues.CreateIssue("project", &gitlab.CreateIssueOptions{Title: &title}, gitlab.WithContext(ctx))
}

func gitlabError(status int) resilienttest.Answer {
	return answer(status, fmt.Sprintf(`{"message":%q}`, errorMessage))
}

func TestGitLab(t *testing.T) {
	failed := func(resp *gitlab.Response, err error) result {
		got := result{err: err}
		e, ok := errors.AsType[*gitlab.ErrorResponse](err)
		switch {
		case errors.Is(err, gitlab.ErrNotFound): // has no response of its own
			got.status, got.resp = 404, resp.Response
		case ok && e.Response == resp.Response:
			got.status, got.resp = e.StatusCode, e.Response
		}
		return got
	}
	get := sdk{
		ok:   answer(200, `{"version":"`+value+`"}`),
		fail: gitlabError,
		call: func(ctx context.Context, at endpoint) result {
			version, resp, err := gitlabClient(at, gitlab.WithoutRetries()).Version.GetVersion(gitlab.WithContext(ctx))
			got := failed(resp, err)
			if err == nil {
				got.value = version.Version
			}
			return got
		},
		stored: answer(201, `{}`),
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, _, err := gitlabIssue(again(ctx), gitlabClient(at, gitlab.WithoutRetries()), payload)
			return err
		},
		response: true,
	}
	post := get
	post.post, post.upload = true, nil
	post.ok = answer(201, `{"title":"`+value+`"}`)
	post.call = func(ctx context.Context, at endpoint) result {
		issue, resp, err := gitlabIssue(ctx, gitlabClient(at, gitlab.WithoutRetries()), "t")
		got := failed(resp, err)
		if err == nil {
			got.value = issue.Title
		}
		return got
	}
	t.Run("GET", get.check)
	t.Run("POST", post.check)
}
