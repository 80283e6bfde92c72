package main

import (
	"net/http"

	"github.com/hashicorp/go-retryablehttp"
)

func retryableHTTP() client {
	return client{"go-retryablehttp", func(base http.RoundTripper) doer {
		c := retryablehttp.NewClient()
		c.HTTPClient = &http.Client{Transport: base}
		c.Logger = nil
		c.RetryMax = attempts - 1
		c.RetryWaitMin = backOff
		c.ErrorHandler = retryablehttp.PassthroughErrorHandler
		return func(req *http.Request) (*http.Response, error) {
			r, err := retryablehttp.FromRequest(req)
			if err != nil {
				return nil, err
			}
			return c.Do(r)
		}
	}}
}
