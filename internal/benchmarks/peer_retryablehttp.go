package main

import (
	"net/http"

	"github.com/hashicorp/go-retryablehttp"
)

func retryableHTTP() peer {
	return peer{
		name:   "go-retryablehttp",
		module: "github.com/hashicorp/go-retryablehttp",
		cannot: "no budget, no limiter; no jitter by default; retries every method",
		client: func(base http.RoundTripper, cfg config) doer {
			c := retryablehttp.NewClient()
			c.HTTPClient = &http.Client{Transport: base}
			c.Logger = nil
			c.RetryMax = cfg.attempts - 1
			c.RetryWaitMin = cfg.backoff
			c.ErrorHandler = retryablehttp.PassthroughErrorHandler
			return func(req *http.Request) (*http.Response, error) {
				r, err := retryablehttp.FromRequest(req)
				if err != nil {
					return nil, err
				}
				return c.Do(r)
			}
		},
	}
}
