package sdktest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/slack-go/slack"
)

func TestSlack(t *testing.T) {
	sdk{
		ok: answer(200, `{"ok":true,"user":"`+value+`"}`),
		call: func(ctx context.Context, at endpoint) result {
			client := slack.New("token", slack.OptionHTTPClient(at.client()), slack.OptionAPIURL(at.url+"/"))
			auth, err := client.AuthTestContext(ctx)
			got := result{err: err}
			if err == nil {
				got.value = auth.User
			}
			if e, ok := errors.AsType[slack.StatusCodeError](err); ok {
				got.status = e.Code
			}
			return got
		},
		post: true,
	}.check(t)
}
