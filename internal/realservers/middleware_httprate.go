package main

import (
	"net/http"
	"time"

	"github.com/go-chi/httprate"
)

// httprateScenarios are windows that slide. What is refused is told Retry-After, always
// as long as the window, and everything is told X-RateLimit fields.
func httprateScenarios() []scenario {
	limit := func(n int, window time.Duration) func() (func(http.Handler) http.Handler, error) {
		return func() (func(http.Handler) http.Handler, error) {
			return httprate.LimitBy(n, window, httprate.Key("all")), nil
		}
	}
	return []scenario{
		{
			name: "httprate.second", about: "100 in 1s",
			loads: closed(32), rate: 100,
			start: behind(limit(100, time.Second), quick()),
		},
		{
			name: "httprate.window", about: "50 in 5s",
			loads: closed(32), rate: 10, burst: 50,
			start: behind(limit(50, 5*time.Second), quick()),
		},
	}
}
