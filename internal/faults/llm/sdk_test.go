package llm_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
)

// sdk is a published SDK and the API that it is for.
type sdk struct {
	name    string
	profile resilient.Profile
	api     api

	// ask and stream ask the model, and return the text of the answer. retries leaves
	// the SDK's own retries as they are by default.
	ask, stream func(ctx context.Context, client *http.Client, url string, retries bool) (string, error)
}

var sdks = []sdk{
	{"openai-go", profile.OpenAI(), openaiAPI, askOpenAI, streamOpenAI},
	{"anthropic-sdk-go", profile.Anthropic(), anthropicAPI, askAnthropic, streamAnthropic},
}

var openaiAPI = api{
	whole:      `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"` + answer + `"},"finish_reason":"stop"}]}`,
	preamble:   event("", `{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}`),
	part:       event("", `{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"forty"},"finish_reason":null}]}`),
	rest:       event("", `{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"-two"},"finish_reason":null}]}`),
	last:       event("", `{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`) + event("", "[DONE]"),
	overloaded: event("", `{"error":{"message":"Overloaded","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}`),
	failure: func(status int) string {
		return fmt.Sprintf(`{"error":{"message":"status %d","type":"server_error","param":null,"code":null}}`, status)
	},
	invalid: `{"error":{"message":"max_tokens is too large","type":"invalid_request_error","param":"max_tokens","code":null}}`,
	tooLong: `{"error":{"message":"m","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`,
}

var anthropicAPI = api{
	whole: `{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"` + answer + `"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":2}}`,
	preamble: event("message_start", `{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":1,"output_tokens":1}}}`) +
		event("ping", `{"type":"ping"}`),
	part: event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`) +
		event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"forty"}}`),
	rest: event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"-two"}}`) +
		event("content_block_stop", `{"type":"content_block_stop","index":0}`),
	last: event("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}`) +
		event("message_stop", `{"type":"message_stop"}`),
	overloaded: event("error", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`),
	failure: func(status int) string {
		kinds := map[int]string{429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}
		return fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":"m"}}`, kinds[status])
	},
	invalid: `{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: must be positive"}}`,
	tooLong: `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}`,
}

// event returns an event of a stream. A name that is "" is left out.
func event(name, data string) string {
	if name != "" {
		name = "event: " + name + "\n"
	}
	return name + "data: " + data + "\n\n"
}

func newOpenAI(client *http.Client, url string, retries bool) (openai.Client, openai.ChatCompletionNewParams) {
	opts := []openaioption.RequestOption{
		openaioption.WithHTTPClient(client), openaioption.WithBaseURL(url + "/v1"), openaioption.WithAPIKey("none"),
	}
	if !retries {
		opts = append(opts, openaioption.WithMaxRetries(0))
	}
	return openai.NewClient(opts...), openai.ChatCompletionNewParams{
		Model: "m", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is the answer?")},
	}
}

func askOpenAI(ctx context.Context, client *http.Client, url string, retries bool) (string, error) {
	c, question := newOpenAI(client, url, retries)
	completion, err := c.Chat.Completions.New(ctx, question)
	if e, ok := errors.AsType[*openai.Error](err); ok {
		return "", fmt.Errorf("%w %s", err, e.RawJSON())
	}
	if err != nil {
		return "", err
	}
	return completion.Choices[0].Message.Content, nil
}

func streamOpenAI(ctx context.Context, client *http.Client, url string, retries bool) (string, error) {
	c, question := newOpenAI(client, url, retries)
	stream := c.Chat.Completions.NewStreaming(ctx, question)
	defer stream.Close()
	var text strings.Builder
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text.WriteString(choice.Delta.Content)
		}
	}
	return text.String(), stream.Err()
}

func newAnthropic(client *http.Client, url string, retries bool) (anthropic.Client, anthropic.MessageNewParams) {
	opts := []anthropicoption.RequestOption{
		anthropicoption.WithHTTPClient(client), anthropicoption.WithBaseURL(url), anthropicoption.WithAPIKey("none"),
	}
	if !retries {
		opts = append(opts, anthropicoption.WithMaxRetries(0))
	}
	return anthropic.NewClient(opts...), anthropic.MessageNewParams{
		Model: "m", MaxTokens: 100,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("What is the answer?"))},
	}
}

func askAnthropic(ctx context.Context, client *http.Client, url string, retries bool) (string, error) {
	c, question := newAnthropic(client, url, retries)
	message, err := c.Messages.New(ctx, question)
	if err != nil {
		return "", err
	}
	return message.Content[0].Text, nil
}

func streamAnthropic(ctx context.Context, client *http.Client, url string, retries bool) (string, error) {
	c, question := newAnthropic(client, url, retries)
	stream := c.Messages.NewStreaming(ctx, question)
	defer stream.Close()
	var text strings.Builder
	for stream.Next() {
		text.WriteString(stream.Current().Delta.Text)
	}
	return text.String(), stream.Err()
}
