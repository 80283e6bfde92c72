package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"github.com/resilienthttp/resilient/resilienttest"
)

func anthropicClient(at endpoint, opts ...option.RequestOption) anthropic.Client {
	return anthropic.NewClient(append([]option.RequestOption{
		option.WithAPIKey("key"), option.WithBaseURL(at.url), option.WithHTTPClient(at.client()),
	}, opts...)...)
}

func anthropicMessage(ctx context.Context, client anthropic.Client, text string) (*anthropic.Message, error) {
	return client.Messages.New(ctx, anthropic.MessageNewParams{
		Model: "m", MaxTokens: 100,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	})
}

func anthropicError(status int) resilienttest.Answer {
	return answer(status, fmt.Sprintf(`{"type":"error","error":{"type":"t","message":%q}}`, errorMessage))
}

func TestAnthropic(t *testing.T) {
	failed := func(err error) result {
		got := result{err: err}
		if e, ok := errors.AsType[*anthropic.Error](err); ok {
			got.status, got.resp = e.StatusCode, e.Response
		}
		return got
	}
	get := sdk{
		ok:   answer(200, `{"id":"`+value+`","type":"model"}`),
		fail: anthropicError,
		call: func(ctx context.Context, at endpoint) result {
			client := anthropicClient(at, option.WithMaxRetries(0))
			model, err := client.Models.Get(ctx, "m", anthropic.ModelGetParams{})
			got := failed(err)
			if err == nil {
				got.value = model.ID
			}
			return got
		},
		stored: answer(200, `{"id":"m","type":"message","content":[]}`),
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := anthropicMessage(again(ctx), anthropicClient(at, option.WithMaxRetries(0)), payload)
			return err
		},
		code:     "t",
		response: true,
	}
	post := get
	post.post, post.upload = true, nil
	post.ok = answer(200, `{"id":"m","type":"message","content":[{"type":"text","text":"`+value+`"}]}`)
	post.call = func(ctx context.Context, at endpoint) result {
		message, err := anthropicMessage(ctx, anthropicClient(at, option.WithMaxRetries(0)), "?")
		got := failed(err)
		if err == nil {
			got.value = message.Content[0].Text
		}
		return got
	}
	t.Run("GET", get.check)
	t.Run("POST", post.check)
}
