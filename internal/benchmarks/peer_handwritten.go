package main

import (
	"math"
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
			return loop(base, cfg, unlimitedWaits)
		},
	}
}

func handWrittenLimitKnown() peer {
	p := handWritten()
	p.name, p.module = "hand-written, limit known", "golang.org/x/time"
	p.cannot, p.only = "its rate.Limiter is set to the server's limit; in l, one for each limit, with WaitN, and a channel for the number in flight", "afl"
	p.client = func(base http.RoundTripper, cfg config) doer {
		return loop(base, cfg, waits(cfg))
	}
	return p
}

// unlimitedWaits lets every attempt go.
func unlimitedWaits(*http.Request) (release func(), err error) { return func() {}, nil }

// waits returns what an attempt waits for: a place, and then each limit in turn.
func waits(cfg config) func(*http.Request) (release func(), err error) {
	limits := []*rate.Limiter{rate.NewLimiter(cfg.limit, cfg.burst)}
	for _, l := range cfg.known.limits {
		limits = append(limits, rate.NewLimiter(l.limit, l.burst))
	}
	places := make(chan struct{}, max(cfg.known.inFlight, 1))
	return func(req *http.Request) (release func(), err error) {
		release = func() {}
		if cfg.known.inFlight > 0 {
			places <- struct{}{}
			release = func() { <-places }
		}
		for i, l := range limits {
			n := 1
			if i > 0 && cfg.known.limits[i-1].tokens {
				n = min(int(math.Ceil(guessOf(req))), l.Burst()) // WaitN refuses more than the burst
			}
			if err := l.WaitN(req.Context(), n); err != nil {
				release()
				return nil, err
			}
		}
		return release, nil
	}
}

func loop(base http.RoundTripper, cfg config, admit func(*http.Request) (release func(), err error)) doer {
	return func(req *http.Request) (*http.Response, error) {
		b := backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(cfg.backoff),
			backoff.WithMultiplier(2),
			backoff.WithMaxInterval(maxBackoff),
			backoff.WithMaxElapsedTime(0),
		)
		for attempt := 1; ; attempt++ {
			release, err := admit(req)
			if err != nil {
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
			release()
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
