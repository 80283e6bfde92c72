package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/resilienthttp/resilient/resilienttest"
)

func openaiClient(at endpoint, opts ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{
		option.WithAPIKey("key"), option.WithBaseURL(at.url), option.WithHTTPClient(at.client()),
	}, opts...)...)
}

func TestOpenAI(t *testing.T) {
	sdk{
		ok:   answer(200, `{"id":"`+value+`","object":"model"}`),
		fail: openaiError,
		call: func(ctx context.Context, at endpoint) result {
			client := openaiClient(at, option.WithMaxRetries(0))
			model, err := client.Models.Get(ctx, "m")
			got := result{err: err}
			if err == nil {
				got.value = model.ID
			}
			if e, ok := errors.AsType[*openai.Error](err); ok {
				got.status, got.resp = e.StatusCode, e.Response
			}
			return got
		},
		response: true,
	}.check(t)
}

func openaiError(status int) resilienttest.Answer {
	return answer(status, fmt.Sprintf(`{"error":{"message":%q,"type":"t","param":null,"code":null}}`, errorMessage))
}
