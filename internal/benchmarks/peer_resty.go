package main

import (
	"net/http"

	"resty.dev/v3"
)

func restyV3() peer {
	return peer{
		name:   "resty",
		module: "resty.dev/v3",
		cannot: "no budget; a limiter that learns nothing; backoff of at most 2 s by default",
		client: func(base http.RoundTripper, cfg config) doer {
			c := resty.NewWithClient(&http.Client{Transport: base}).
				SetRetryCount(cfg.attempts-1).
				SetRetryWaitTime(cfg.backoff).
				AddRetryConditions(resty.RetryConditionStatusTooManyRequests, resty.RetryConditionStatus5XX).
				SetResponseDoNotParse(true)
			return func(req *http.Request) (*http.Response, error) {
				r := c.R().SetContext(req.Context()).SetHeaderMultiValues(req.Header)
				if req.Body != nil {
					r.SetBody(req.Body)
				}
				resp, err := r.Execute(req.Method, req.URL.String())
				if err != nil {
					return nil, err
				}
				return resp.RawResponse, nil
			}
		},
	}
}
