package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cloudflare/cloudflare-go/v7/kv"
	"github.com/cloudflare/cloudflare-go/v7/option"

	"github.com/resilienthttp/resilient/resilienttest"
)

// cloudflareKV returns one service of the API. The client that has all of them takes
// the same options, and minutes to build.
func cloudflareKV(at endpoint, opts ...option.RequestOption) *kv.KVService {
	return kv.NewKVService(append([]option.RequestOption{
		option.WithAPIToken("token"), option.WithBaseURL(at.url), option.WithHTTPClient(at.client()),
	}, opts...)...)
}

func cloudflareNamespace(ctx context.Context, service *kv.KVService, title string) (*kv.Namespace, error) {
	var params kv.NamespaceNewParams
	params.AccountID.Value, params.AccountID.Present = "account", true
	params.Title.Value, params.Title.Present = title, true
	return service.Namespaces.New(ctx, params)
}

func cloudflareError(status int) resilienttest.Answer {
	return answer(status, fmt.Sprintf(
		`{"success":false,"errors":[{"code":1003,"message":%q}],"messages":[],"result":null}`, errorMessage))
}

func TestCloudflare(t *testing.T) {
	got := func(namespace *kv.Namespace, err error) result {
		if err == nil {
			return result{value: namespace.Title}
		}
		got := result{err: err}
		if e, ok := errors.AsType[*kv.Error](err); ok {
			got.status, got.resp = e.StatusCode, e.Response
		}
		return got
	}
	get := sdk{
		ok:   answer(200, `{"success":true,"errors":[],"messages":[],"result":{"id":"1","title":"`+value+`"}}`),
		fail: cloudflareError,
		call: func(ctx context.Context, at endpoint) result {
			var params kv.NamespaceGetParams
			params.AccountID.Value, params.AccountID.Present = "account", true
			return got(cloudflareKV(at, option.WithMaxRetries(0)).Namespaces.Get(ctx, "1", params))
		},
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := cloudflareNamespace(again(ctx), cloudflareKV(at, option.WithMaxRetries(0)), payload)
			return err
		},
		code:     "1003",
		response: true,
	}
	post := get
	post.post, post.upload = true, nil
	post.call = func(ctx context.Context, at endpoint) result {
		return got(cloudflareNamespace(ctx, cloudflareKV(at, option.WithMaxRetries(0)), "t"))
	}
	t.Run("GET", get.check)
	t.Run("POST", post.check)
}
