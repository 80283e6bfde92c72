// Openai shows openai-go over a resilient.Transport. It prints a retry, a stream
// that is passed on unchanged, and the error object in two forms.
//
//	cd examples/openai && go run .
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

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "openai:", err)
		os.Exit(1)
	}
}

// answers are the answers of the server in this program, in the order of the calls.
var answers = []resilienttest.Answer{ //nolint:gochecknoglobals // a table, which is never written to
	{
		Status: 429, Header: http.Header{"Retry-After-Ms": {"300"}},
		Body: `{"error":{"message":"Rate limit reached.","type":"requests","code":"rate_limit_exceeded"}}`,
	},
	{Body: `{"object":"chat.completion","choices":[{"message":{"role":"assistant","content":"Forty-two."}}]}`},

	{
		Header: http.Header{"Content-Type": {"text/event-stream"}}, BodyDelay: 200 * time.Millisecond,
		Body: `data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"Forty-"}}]}` + "\n\n" +
			`data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"three."}}]}` + "\n\n" +
			"data: [DONE]\n\n",
	},

	{
		Status: 429,
		Body:   `{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","code":"insufficient_quota"}}`,
	},
}

func run(ctx context.Context, out io.Writer) error {
	srv := httptest.NewServer(resilienttest.New(answers...))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ctx = resilient.ContextWithOptions(ctx, resilient.WithTrace(printer(out)))

	client := openai.NewClient(
		option.WithHTTPClient(&http.Client{Transport: resilient.NewTransport(nil)}),
		option.WithMaxRetries(0), // otherwise its attempts and those of the Transport multiply
		option.WithBaseURL(srv.URL), option.WithAPIKey("none"),
	)
	question := openai.ChatCompletionNewParams{
		Model:    "m",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is the answer?")},
	}

	fmt.Fprintln(out, "1. A POST that exceeds the rate limit: it was not processed, so it is sent again.")
	completion, err := client.Chat.Completions.New(ctx, question)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "   got        %s\n\n", completion.Choices[0].Message.Content)

	fmt.Fprintln(out, "2. A stream: each event arrives at once.")
	stream := client.Chat.Completions.NewStreaming(ctx, question)
	for stream.Next() {
		fmt.Fprintf(out, "   event      %s\n", stream.Current().Choices[0].Delta.Content)
	}
	if err := errors.Join(stream.Err(), stream.Close()); err != nil {
		return err
	}

	fmt.Fprintln(out, "\n3. A 429 because the quota is used up: waiting does not help, so there is one attempt.")
	_, err = client.Chat.Completions.New(ctx, question)
	sdkErr, ok := errors.AsType[*openai.Error](err)
	if !ok {
		return fmt.Errorf("want an error response, got %w", err)
	}
	fmt.Fprintf(out, "   openai-go  %d %s\n", sdkErr.StatusCode, sdkErr.Message)
	apiErr, ok := resilient.ErrorFromResponse(sdkErr.Response)
	if !ok {
		return fmt.Errorf("want an error response, got %s", sdkErr.Response.Status)
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
