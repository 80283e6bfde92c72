package resilient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient"
)

// newAPI answers each request with the next of its statuses, and the last one
// for ever.
func newAPI(statuses ...int) *httptest.Server {
	bodies := map[int]string{
		200: `{"count":42}`,
		400: `{"code":"400","type":"INVALID_REQUEST_ERROR","message":"The request was invalid.","invalid":[{"name":"limit","reason":"Limit must be less than 500."}]}`,
		404: `{"code":"404","type":"NOT_FOUND_ERROR","message":"Not found."}`,
		429: `{"code":"insufficient_quota","type":"RATE_LIMIT_ERROR","message":"The month's quota is used up."}`,
		500: `{"code":"500","type":"SERVER_ERROR","message":"Unexpected error."}`,
	}
	n := 0
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		status := statuses[min(n, len(statuses)-1)]
		n++
		w.WriteHeader(status)
		_, _ = io.WriteString(w, bodies[status])
	}))
}

// quick keeps the examples short: the default policy begins with half a second. It waits
// longer than any step before it takes, so that there is a wait to be seen.
func quick() backoff.BackOff { return backoff.NewConstantBackOff(100 * time.Millisecond) }

// By default an error status is a response, as SDKs expect, and the error
// object is parsed on request.
func ExampleErrorFromResponse() {
	api := newAPI(400)
	defer api.Close()
	client := &http.Client{Transport: resilient.NewTransport(nil)}

	resp, err := client.Get(api.URL)
	if err != nil {
		fmt.Println("no response:", err)
		return
	}
	defer resp.Body.Close()
	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
		fmt.Println(apiErr.StatusCode, apiErr.Type, apiErr.Message)
		for _, p := range apiErr.Invalid {
			fmt.Println(p.Name, "-", p.Reason)
		}
	}
	// Output:
	// 400 INVALID_REQUEST_ERROR The request was invalid.
	// limit - Limit must be less than 500.
}

// Code that calls an http.Client itself may like Go errors better.
func ExampleWithStatusErrors() {
	api := newAPI(404)
	defer api.Close()
	client := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithStatusErrors(true))}

	resp, err := client.Get(api.URL)
	if err == nil {
		defer resp.Body.Close()
	}
	if apiErr, ok := errors.AsType[*resilient.APIError](err); ok {
		fmt.Println(apiErr)
		fmt.Println("not found:", errors.Is(err, resilient.ErrNotFound))
	}
	// Output:
	// resilient: status 404 NOT_FOUND_ERROR: Not found.
	// not found: true
}

// A trace in the context sees the error object of every attempt, also of those
// that were retried, through any SDK that passes the context on.
func ExampleWithTrace() {
	api := newAPI(500, 200)
	defer api.Close()
	client := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithBackOff(quick))}

	ctx := resilient.ContextWithOptions(context.Background(), resilient.WithTrace(&resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) {
			fmt.Println("attempt", a.Attempt, "-", a.StatusCode, a.Verdict.Reason)
			if a.APIError != nil {
				fmt.Println("  ", a.APIError)
			}
		},
		Wait: func(w resilient.WaitInfo) { fmt.Println("wait -", w.Reason) },
		Done: func(d resilient.DoneInfo) { fmt.Println("done -", d.Reason) },
	}))
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, nil)
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	// Output:
	// attempt 1 - 500 temporary status
	//    resilient: status 500 SERVER_ERROR: Unexpected error.
	// wait - backoff
	// attempt 2 - 200 success
	// done - success
}

// Two requests a second and no more, whoever makes them; one that would have to
// wait for longer than 100 ms is refused instead.
func ExampleWithRateLimit() {
	api := newAPI(200)
	defer api.Close()
	client := &http.Client{Transport: resilient.NewTransport(nil,
		resilient.WithRateLimit(2, 1),
	)}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	for range 2 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, nil)
		if err != nil {
			panic(err)
		}
		resp, err := client.Do(req) // the context is all that bounds the wait
		if limited, ok := errors.AsType[*resilient.LimitError](err); ok {
			fmt.Println("not sent:", limited.Reason)
			continue
		}
		fmt.Println(resp.StatusCode)
		resp.Body.Close()
	}
	// Output:
	// 200
	// not sent: rate limit
}

// This 429 will not clear by waiting: its code says so.
func ExampleWithClassifier() {
	api := newAPI(429)
	defer api.Close()
	client := &http.Client{Transport: resilient.NewTransport(nil,
		resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			v := a.Verdict // the default one
			if a.APIError != nil && a.APIError.Code == "insufficient_quota" {
				v.Retry, v.Reason = false, "the quota is used up"
			}
			return v
		}),
	)}
	resp, err := client.Get(api.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	apiErr, _ := resilient.ErrorFromResponse(resp)
	fmt.Println(apiErr.Code, "after", apiErr.Attempts, "attempt")
	// Output:
	// insufficient_quota after 1 attempt
}

// One request, made through an SDK or not, with options of its own.
func ExampleContextWithOptions() {
	api := newAPI(500)
	defer api.Close()
	client := &http.Client{Transport: resilient.NewTransport(nil)}

	ctx := resilient.ContextWithOptions(context.Background(), resilient.WithMaxAttempts(1))
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, api.URL, nil)
	resp, err := client.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	apiErr, _ := resilient.ErrorFromResponse(resp)
	fmt.Println(apiErr.StatusCode, "after", apiErr.Attempts, "attempt")
	// Output:
	// 500 after 1 attempt
}
