package main

import (
	"net/http"

	"github.com/ulule/limiter/v3"
	"github.com/ulule/limiter/v3/drivers/middleware/stdlib"
	"github.com/ulule/limiter/v3/drivers/store/memory"
)

// ululeScenarios are windows with a fixed begin. Everything is told X-RateLimit fields,
// and nothing is told Retry-After.
func ululeScenarios() []scenario {
	limit := func(format string) func() (func(http.Handler) http.Handler, error) {
		return func() (func(http.Handler) http.Handler, error) {
			rate, err := limiter.NewRateFromFormatted(format)
			if err != nil {
				return nil, err
			}
			return stdlib.NewMiddleware(limiter.New(memory.NewStore(), rate)).Handler, nil
		}
	}
	return []scenario{{
		name: "ulule.second", about: "100 in 1s",
		loads: closed(32), rate: 100,
		start: behind(limit("100-S"), quick()),
	}}
}
