package main

import (
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

func azcore() peer {
	return peer{
		name:   "azcore",
		module: "github.com/Azure/azure-sdk-for-go/sdk/azcore",
		cannot: "no budget, no limiter; reads the whole body of every response; retries every method",
		client: func(base http.RoundTripper, cfg config) doer {
			pipeline := runtime.NewPipeline("", "", runtime.PipelineOptions{}, &policy.ClientOptions{
				Transport: &http.Client{Transport: base},
				Retry:     policy.RetryOptions{MaxRetries: int32(cfg.attempts - 1), RetryDelay: cfg.backoff},
				Telemetry: policy.TelemetryOptions{Disabled: true},
			})
			return func(req *http.Request) (*http.Response, error) {
				r, err := runtime.NewRequestFromRequest(req)
				if err != nil {
					return nil, err
				}
				return pipeline.Do(r)
			}
		},
	}
}
