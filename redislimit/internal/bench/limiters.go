//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/goredisstore.v9"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

// limiter makes one of the limiters that are compared. The peers only say whether a
// request may go now, and if not, when to ask again. As their documentation
// suggests, they are asked again and again.
func limiter(name string, client redis.UniversalClient, limit, burst int) (resilient.Limiter, error) {
	const key = "bench"
	switch name {
	case "redislimit":
		return redislimit.New(client, key, rate.Limit(limit), burst,
			redislimit.WithTimeout(time.Second)), nil // a busy machine is no failure here
	case "redis_rate":
		l := redis_rate.NewLimiter(client)
		quota := redis_rate.Limit{Rate: limit, Burst: burst, Period: time.Second}
		return polled(func(ctx context.Context) (time.Duration, error) {
			r, err := l.Allow(ctx, key, quota)
			if err != nil || r.Allowed > 0 {
				return 0, err
			}
			return r.RetryAfter, nil
		}), nil
	case "throttled":
		store, err := goredisstore.NewCtx(client, "")
		if err != nil {
			return nil, err
		}
		l, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{
			MaxRate: throttled.PerSec(limit), MaxBurst: burst - 1,
		})
		if err != nil {
			return nil, err
		}
		l.SetMaxCASAttemptsLimit(1000) // by default contention is an error
		return polled(func(ctx context.Context) (time.Duration, error) {
			limited, r, err := l.RateLimitCtx(ctx, key, 1)
			if err != nil || !limited {
				return 0, err
			}
			return r.RetryAfter, nil
		}), nil
	}
	return nil, fmt.Errorf("unknown limiter %q", name)
}

// polled is a limiter that asks again and again.
type polled func(context.Context) (retryAfter time.Duration, err error)

func (ask polled) Wait(ctx context.Context) error {
	for {
		d, err := ask(ctx)
		if d <= 0 || err != nil {
			return err
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
