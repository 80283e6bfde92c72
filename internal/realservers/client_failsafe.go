package main

import (
	"net/http"

	"github.com/failsafe-go/failsafe-go/failsafehttp"
)

//nolint:bodyclose // there is no response here, only its type
func failsafe() client {
	return client{"failsafe-go", func(base http.RoundTripper) doer {
		retries := failsafehttp.NewRetryPolicyBuilder().
			WithMaxAttempts(attempts).
			WithBackoff(backOff, maxBackOff).
			ReturnLastFailure()
		return failsafehttp.NewRoundTripper(base, retries.Build()).RoundTrip
	}}
}
