// Confirm confirms the open orders of a shop, with resilient.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "confirm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, api string, out io.Writer) error {
	client := &http.Client{Transport: resilient.NewTransport(nil,
		resilient.WithMaxAttempts(4), // RetryMax does not count the first
		resilient.WithBackOff(func() backoff.BackOff {
			return backoff.NewExponentialBackOff(
				backoff.WithInitialInterval(500*time.Millisecond),
				backoff.WithMaxInterval(10*time.Second),
				backoff.WithMultiplier(2),
			)
		}),
		resilient.WithAttemptTimeout(30*time.Second),
		resilient.WithStatusErrors(true),
		resilient.WithIdempotencyKey(func(*http.Request) string { return rand.Text() }), // for the POSTs
		resilient.WithProfile(resilient.Profile{Rules: []resilient.Rule{
			{Status: http.StatusLocked, Kind: resilient.KindServer}, // somebody has the order open
		}}),
		resilient.WithTrace(&resilient.Trace{AttemptStart: func(a resilient.AttemptInfo) {
			if a.Attempt > 1 {
				fmt.Fprintf(out, "%s again, %d\n", a.Path, a.Attempt-1)
			}
		}}),
	)}

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

func call(ctx context.Context, client *http.Client, method, url string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err // an error status too
	}
	defer func() { _ = resp.Body.Close() }()
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}
