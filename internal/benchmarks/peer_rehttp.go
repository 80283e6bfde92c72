package main

import (
	"net/http"

	"github.com/PuerkitoBio/rehttp"
)

func reHTTP() peer {
	return peer{
		name:   "rehttp",
		module: "github.com/PuerkitoBio/rehttp",
		cannot: "ignores Retry-After; no budget, no limiter; retries every method",
		client: func(base http.RoundTripper, cfg config) doer {
			return rehttp.NewTransport(base,
				rehttp.RetryAll(
					rehttp.RetryMaxRetries(cfg.attempts-1),
					rehttp.RetryAny(rehttp.RetryStatuses(429, 500, 502, 503, 504), rehttp.RetryTimeoutErr()),
				),
				rehttp.ExpJitterDelay(cfg.backoff, maxBackoff),
			).RoundTrip
		},
	}
}
