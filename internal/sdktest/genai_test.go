package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genai"

	"github.com/resilienthttp/resilient/resilienttest"
)

// genaiClient returns a client that retries as retry says. If that is nil, as it is by
// default, it does not retry.
func genaiClient(ctx context.Context, at endpoint, retry *genai.HTTPRetryOptions) *genai.Client {
	client, err := genai.NewClient(ctx, &genai.ClientConfig{
		APIKey: "key", Backend: genai.BackendGeminiAPI, HTTPClient: at.client(),
		HTTPOptions: genai.HTTPOptions{BaseURL: at.url, RetryOptions: retry},
	})
	if err != nil {
		panic(err) // the URL of the test's server is valid
	}
	return client
}

func genaiContent(ctx context.Context, client *genai.Client, text string) (*genai.GenerateContentResponse, error) {
	return client.Models.GenerateContent(ctx, "m", genai.Text(text), nil)
}

// googleError is an error of one of Google's APIs.
func googleError(status int) resilienttest.Answer {
	return answer(status, fmt.Sprintf(`{"error":{"code":%d,"message":%q,"status":"S"}}`, status, errorMessage))
}

func TestGenAI(t *testing.T) {
	failed := func(err error) result {
		got := result{err: err}
		if e, ok := errors.AsType[genai.APIError](err); ok && e.Message == errorMessage && e.Status == "S" {
			got.status = e.Code
		}
		return got
	}
	const content = `{"candidates":[{"content":{"parts":[{"text":"` + value + `"}]},"finishReason":"STOP"}]}`
	get := sdk{
		ok:   answer(200, `{"name":"`+value+`"}`),
		fail: googleError,
		call: func(ctx context.Context, at endpoint) result {
			model, err := genaiClient(ctx, at, nil).Models.Get(ctx, "m", nil)
			got := failed(err)
			if err == nil {
				got.value = model.Name
			}
			return got
		},
		stored: answer(200, content),
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := genaiContent(again(ctx), genaiClient(ctx, at, nil), payload)
			return err
		},
		code: "S",
	}
	post := get
	post.post, post.upload = true, nil
	post.ok = get.stored
	post.call = func(ctx context.Context, at endpoint) result {
		response, err := genaiContent(ctx, genaiClient(ctx, at, nil), "?")
		got := failed(err)
		if err == nil {
			got.value = response.Text()
		}
		return got
	}
	t.Run("GET", get.check)
	t.Run("POST", post.check)
}
