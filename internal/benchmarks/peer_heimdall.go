package main

import (
	"net/http"

	"github.com/gojek/heimdall/v7"
	"github.com/gojek/heimdall/v7/httpclient"
)

func heimdallV7() peer {
	return peer{
		name:   "heimdall",
		module: "github.com/gojek/heimdall/v7",
		cannot: "does not retry a 429 nor read Retry-After; no budget, no limiter; retries every method",
		client: func(base http.RoundTripper, cfg config) doer {
			return httpclient.NewClient(
				httpclient.WithHTTPClient(&http.Client{Transport: base}),
				httpclient.WithRetryCount(cfg.attempts-1),
				httpclient.WithRetrier(heimdall.NewRetrier(
					heimdall.NewExponentialBackoff(cfg.backoff, maxBackoff, 2, cfg.backoff))),
			).Do
		},
	}
}
