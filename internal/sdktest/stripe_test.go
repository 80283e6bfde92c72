package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stripe/stripe-go/v85"

	"github.com/resilienthttp/resilient/resilienttest"
)

func stripeClient(at endpoint, retries int64) *stripe.Client {
	return stripe.NewClient("sk_test", stripe.WithBackends(stripe.NewBackendsWithConfig(&stripe.BackendConfig{
		HTTPClient:        at.client(),
		MaxNetworkRetries: &retries,
		URL:               &at.url,
		LeveledLogger:     &stripe.LeveledLogger{Level: stripe.LevelNull},
	})))
}

func TestStripe(t *testing.T) {
	sdk{
		ok: answer(200, `{"id":"cus_1","name":"`+value+`"}`),
		fail: func(status int) resilienttest.Answer {
			return answer(status, fmt.Sprintf(`{"error":{"type":"api_error","message":%q}}`, errorMessage))
		},
		call: func(ctx context.Context, at endpoint) result {
			customer, err := stripeClient(at, 0).V1Customers.Retrieve(ctx, "cus_1", nil)
			got := result{err: err}
			if err == nil {
				got.value = customer.Name
			}
			if e, ok := errors.AsType[*stripe.Error](err); ok {
				got.status = e.HTTPStatusCode
			}
			return got
		},
		// Its POSTs have a body and a ContentLength of 0, and an Idempotency-Key.
		upload: func(ctx context.Context, at endpoint, payload string) error {
			_, err := stripeClient(at, 0).V1Customers.Create(ctx, &stripe.CustomerCreateParams{Name: &payload})
			return err
		},
	}.check(t)
}
