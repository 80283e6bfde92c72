// Package docstest_test has the code of the pages in docs, and runs it. What stands
// between "// docs: name" and "// end" is a block of a page, and so is each main.go.
package docstest_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/resilienttest"
)

// answer puts a Script in the place of http.DefaultTransport, which code like that of
// the pages uses. So tests here are not parallel.
func answer(t *testing.T, answers ...resilienttest.Answer) *resilienttest.Script {
	t.Helper()
	script := resilienttest.New(answers...)
	was := http.DefaultTransport
	http.DefaultTransport = script
	t.Cleanup(func() { http.DefaultTransport = was })
	return script
}

// stream is the answer of a model that streams.
func stream(events ...string) resilienttest.Answer {
	return resilienttest.Answer{
		Header: http.Header{"Content-Type": {"text/event-stream"}},
		Body:   strings.Join(events, ""),
	}
}

// post sends a POST, and reads the answer.
func post(ctx context.Context, t *testing.T, client *http.Client, url, body string) (status int, text string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	return send(client, req)
}

// get sends a GET, and reads the answer.
func get(ctx context.Context, t *testing.T, client *http.Client, url string) (status int, text string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	return send(client, req)
}

func send(client *http.Client, req *http.Request) (status int, text string, err error) {
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
