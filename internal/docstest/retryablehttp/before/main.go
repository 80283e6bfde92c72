// Confirm confirms the open orders of a shop, with go-retryablehttp.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "confirm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, api string, out io.Writer) error {
	client := retryablehttp.NewClient()
	client.Logger = nil
	client.RetryMax = 3
	client.RetryWaitMin = 500 * time.Millisecond
	client.RetryWaitMax = 10 * time.Second
	client.HTTPClient.Timeout = 30 * time.Second // of each attempt
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	client.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if resp != nil && resp.StatusCode == http.StatusLocked {
			return true, nil // somebody has the order open
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	client.RequestLogHook = func(_ retryablehttp.Logger, req *http.Request, n int) {
		if n > 0 {
			fmt.Fprintf(out, "%s again, %d\n", req.URL.Path, n)
		}
	}

	var orders []string
	if err := call(ctx, client, http.MethodGet, api+"/orders", nil, &orders); err != nil {
		return err
	}
	for _, id := range orders {
		body := []byte(`{"state":"confirmed"}`)
		if err := call(ctx, client, http.MethodPost, api+"/orders/"+id, body, nil); err != nil {
			fmt.Fprintf(out, "order %s: %v\n", id, err)
			continue
		}
		fmt.Fprintf(out, "order %s: confirmed\n", id)
	}
	return nil
}

func call(ctx context.Context, client *retryablehttp.Client, method, url string, body []byte, answer any) error {
	req, err := retryablehttp.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		var e struct{ Message string }
		if json.Unmarshal(text, &e) != nil || e.Message == "" {
			e.Message = string(text)
		}
		return fmt.Errorf("%s: %s", resp.Status, e.Message)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
