// People prints the names of all people, page by page, with a loop written by hand.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "people:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, api string, out io.Writer) error {
	limiter := rate.NewLimiter(50, 5)
	for page := 1; ; page++ {
		names, err := fetch(ctx, limiter, fmt.Sprintf("%s/people?page=%d", api, page))
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			fmt.Fprintln(out, name)
		}
	}
}

func fetch(ctx context.Context, limiter *rate.Limiter, url string) (names []string, err error) {
	policy := backoff.NewExponentialBackOff()
	for attempt := 1; ; attempt++ {
		if err := limiter.Wait(ctx); err != nil {
			return nil, err
		}
		var wait time.Duration
		names, wait, err = try(ctx, url)
		if wait < 0 || attempt == 4 {
			return names, err
		}
		timer := time.NewTimer(max(wait, policy.NextBackOff()))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// try returns how long to wait at least before the next try; below 0: there is none.
func try(ctx context.Context, url string) (names []string, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, -1, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err // also of a bad certificate and an unknown host
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		err = json.Unmarshal(text, &names)
		return names, -1, err
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		wait = time.Duration(seconds) * time.Second
	default:
		wait = -1
	}
	var e struct{ Type, Message string }
	if json.Unmarshal(text, &e) != nil {
		e.Message = string(text)
	}
	return nil, wait, fmt.Errorf("status %d %s: %s", resp.StatusCode, e.Type, e.Message)
}
