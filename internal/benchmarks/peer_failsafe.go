package main

import (
	"net/http"

	"github.com/failsafe-go/failsafe-go/budget"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

const failsafeModule = "github.com/failsafe-go/failsafe-go"

//nolint:bodyclose // there is no response here, only its type
func failsafe() peer {
	return peer{
		name:   "failsafe",
		module: failsafeModule,
		cannot: "no budget, no limiter that learns; no jitter by default; retries every method",
		client: func(base http.RoundTripper, cfg config) doer {
			return failsafehttp.NewRoundTripper(base, failsafePolicy(cfg).Build()).RoundTrip
		},
	}
}

//nolint:bodyclose // there is no response here, only its type
func failsafeBudget() peer {
	return peer{
		name:   "failsafe, budget",
		module: failsafeModule,
		cannot: "as failsafe, with its budget: a fifth of the requests in flight, at least 3",
		client: func(base http.RoundTripper, cfg config) doer {
			retries := failsafePolicy(cfg).WithBudget(budget.New()).Build()
			return failsafehttp.NewRoundTripper(base, retries).RoundTrip
		},
	}
}

//nolint:bodyclose // there is no response here, only its type
func failsafePolicy(cfg config) retrypolicy.Builder[*http.Response] {
	return failsafehttp.NewRetryPolicyBuilder().
		WithMaxAttempts(cfg.attempts).
		WithBackoff(cfg.backoff, maxBackoff).
		ReturnLastFailure()
}
