package main

import (
	"net/http"

	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
)

// throttledScenarios are token buckets. Everything is told X-RateLimit fields, and what
// is refused Retry-After, in whole seconds.
func throttledScenarios() []scenario {
	return []scenario{{
		name: "throttled.bucket", about: "100/s and a burst of 10",
		loads: closed(32), rate: 100, burst: 11,
		start: behind(func() (func(http.Handler) http.Handler, error) {
			store, err := memstore.NewCtx(1)
			if err != nil {
				return nil, err
			}
			l, err := throttled.NewGCRARateLimiterCtx(store,
				throttled.RateQuota{MaxRate: throttled.PerSec(100), MaxBurst: 10})
			if err != nil {
				return nil, err
			}
			return (&throttled.HTTPRateLimiterCtx{RateLimiter: l}).RateLimit, nil
		}, quick()),
	}}
}
