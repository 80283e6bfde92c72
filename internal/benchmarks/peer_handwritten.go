package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"
)

// handWritten is the loop that users write with backoff and x/time/rate.
func handWritten() peer {
	return peer{
		name:   "hand-written",
		module: "github.com/cenkalti/backoff/v4",
		cannot: "no budget; retries every method",
		client: func(base http.RoundTripper, cfg config) doer {
			return loop(base, cfg, rate.NewLimiter(rate.Inf, 0))
		},
	}
}

func handWrittenLimitKnown() peer {
	p := handWritten()
	p.name, p.module = "hand-written, limit known", "golang.org/x/time"
	p.cannot, p.only = "its rate.Limiter is set to the server's limit", "af"
	p.client = func(base http.RoundTripper, cfg config) doer {
		return loop(base, cfg, rate.NewLimiter(cfg.limit, cfg.burst))
	}
	return p
}

func loop(base http.RoundTripper, cfg config, limiter *rate.Limiter) doer {
	return func(req *http.Request) (*http.Response, error) {
		b := backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(cfg.backoff),
			backoff.WithMultiplier(2),
			backoff.WithMaxInterval(maxBackoff),
			backoff.WithMaxElapsedTime(0),
		)
		for attempt := 1; ; attempt++ {
			if err := limiter.Wait(req.Context()); err != nil {
				return nil, err
			}
			if attempt > 1 && req.GetBody != nil {
				body, err := req.GetBody()
				if err != nil {
					return nil, err
				}
				req.Body = body
			}
			resp, err := base.RoundTrip(req)
			failed := err != nil || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
			if !failed || attempt == cfg.attempts {
				return resp, err
			}
			wait := b.NextBackOff()
			if resp != nil {
				if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
					wait = time.Duration(s) * time.Second
				}
				discard(resp)
			}
			select {
			case <-time.After(wait): //nolint:forbidigo // users write it like this
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
		}
	}
}
