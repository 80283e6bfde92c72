package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/resilienthttp/resilient/resilienttest"
)

func vaultClient(at endpoint, retries int) *api.Client {
	cfg := api.DefaultConfig()
	cfg.Address, cfg.HttpClient, cfg.MaxRetries = at.url, at.client(), retries
	client, err := api.NewClient(cfg)
	if err != nil {
		panic(err) // the address of the test's server is valid
	}
	return client
}

func TestVault(t *testing.T) {
	sdk{
		ok: answer(200, `{"data":{"data":{"answer":"`+value+`"},"metadata":{"version":1}}}`),
		fail: func(status int) resilienttest.Answer {
			return answer(status, fmt.Sprintf(`{"errors":[%q]}`, errorMessage))
		},
		call: func(ctx context.Context, at endpoint) result {
			secret, err := vaultClient(at, 0).KVv2("secret").Get(ctx, "path")
			got := result{err: err}
			if err == nil {
				got.value, _ = secret.Data["answer"].(string)
			}
			if e, ok := errors.AsType[*api.ResponseError](err); ok {
				got.status = e.StatusCode
			}
			if errors.Is(err, api.ErrSecretNotFound) {
				got.status = 404
			}
			return got
		},
	}.check(t)
}
