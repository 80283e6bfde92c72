package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// handWritten is the loop that users write with package backoff.
func handWritten() client {
	return client{"hand-written", func(base http.RoundTripper) doer {
		return func(req *http.Request) (*http.Response, error) {
			b := backoff.NewExponentialBackOff(
				backoff.WithInitialInterval(backOff),
				backoff.WithMultiplier(2),
				backoff.WithMaxInterval(maxBackOff),
				backoff.WithMaxElapsedTime(0),
			)
			for attempt := 1; ; attempt++ {
				resp, err := base.RoundTrip(req)
				failed := err != nil || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
				if !failed || attempt == attempts {
					return resp, err
				}
				wait := b.NextBackOff()
				if resp != nil {
					if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
						wait = time.Duration(s) * time.Second
					}
					discard(resp)
				}
				if err := sleep(req.Context(), wait); err != nil {
					return nil, err
				}
			}
		}
	}}
}
