// Github shows go-github over a resilient.Transport. It prints the retries, the
// SDK's own errors, and the parsed error objects beside them.
//
//	cd examples/github && go run .
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/google/go-github/v89/github"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
	"github.com/resilienthttp/resilient/resilienttest"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "github:", err)
		os.Exit(1)
	}
}

// answers are the answers of the server in this program, in the order of the calls.
var answers = []resilienttest.Answer{ //nolint:gochecknoglobals // a table, which is never written to
	{Status: 502, Body: "<html>Unicorn!</html>", Header: http.Header{"Content-Type": {"text/html"}}},
	{Body: `{"login":"octocat","name":"The Octocat"}`},

	{
		Status: 403, Header: http.Header{"Retry-After": {"1"}},
		Body: `{"message":"You have exceeded a secondary rate limit."}`,
	},
	{Status: 201, Body: `{"number":42}`},

	{Status: 404, Body: `{"message":"Not Found","documentation_url":"https://docs.github.com/rest"}`},
}

func run(ctx context.Context, out io.Writer) error {
	srv := httptest.NewServer(resilienttest.New(answers...))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ctx = resilient.ContextWithOptions(ctx, resilient.WithTrace(printer(out)))

	// The one line that makes the client resilient. go-github has no retries of its
	// own that would have to be switched off.
	httpClient := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithProfile(profile.GitHub()))}

	base := srv.URL + "/" // a program that calls GitHub itself needs no WithURLs
	client, err := github.NewClient(github.WithHTTPClient(httpClient), github.WithURLs(&base, nil))
	if err != nil {
		return err
	}

	fmt.Fprintln(out, "1. A GET that meets a 502: go-github sees only the second answer.")
	user, _, err := client.Users.Get(ctx, "octocat")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "   got        %s\n\n", user.GetName())

	fmt.Fprintln(out, "2. A POST that meets the secondary rate limit, a 403: it was not processed, so it is sent again.")
	issue, _, err := client.Issues.Create(ctx, "octocat", "hello", &github.IssueRequest{Title: new("It works")})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "   got        issue %d\n\n", issue.GetNumber())

	fmt.Fprintln(out, "3. A final error: the SDK's own, and the parsed one.")
	_, resp, err := client.Repositories.Get(ctx, "octocat", "missing")
	sdkErr, ok := errors.AsType[*github.ErrorResponse](err)
	if !ok {
		return fmt.Errorf("want an error response, got %w", err)
	}
	fmt.Fprintf(out, "   go-github  %s\n", sdkErr.Message)
	apiErr, ok := resilient.ErrorFromResponse(resp.Response)
	if !ok {
		return fmt.Errorf("want an error response, got %s", resp.Status)
	}
	fmt.Fprintf(out, "   resilient  %s (kind %q, attempts %d)\n", apiErr.Message, apiErr.Kind, apiErr.Attempts)
	return nil
}

// printer returns hooks that print the attempts and waits, which the SDK does not
// see.
func printer(out io.Writer) *resilient.Trace {
	return &resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) {
			fmt.Fprintf(out, "   attempt %d  %d, %s\n", a.Attempt, a.StatusCode, a.Verdict.Reason)
		},
		Wait: func(w resilient.WaitInfo) {
			fmt.Fprintf(out, "   wait       %v, %s\n", w.Duration.Round(time.Millisecond), w.Reason)
		},
	}
}
