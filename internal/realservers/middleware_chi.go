package main

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5/middleware"
)

// chiScenarios are limits on requests in flight, without and with a queue. Nothing is
// told when to come again.
func chiScenarios() []scenario {
	throttle := func() (func(http.Handler) http.Handler, error) { return middleware.Throttle(10), nil }
	backlog := func() (func(http.Handler) http.Handler, error) {
		return middleware.ThrottleBacklog(8, 8, 50*time.Millisecond), nil
	}
	return []scenario{
		{
			name: "chi.throttle", about: "Throttle(10), the upstream takes 50 ms, exponentially distributed",
			loads: closed(40), rate: 200,
			start: behind(throttle, exponential(50*time.Millisecond)),
		},
		{
			name: "chi.throttle", about: "Throttle(10), the upstream takes 50 ms, exponentially distributed",
			loads: open(100), rate: 200,
			start: behind(throttle, exponential(50*time.Millisecond)),
		},
		{
			name: "chi.throttle", about: "Throttle(10), the upstream takes 50 ms, exponentially distributed",
			loads: open(180), rate: 200,
			start: behind(throttle, exponential(50*time.Millisecond)),
		},
		{
			// Some of the queue waits in vain, which is why it is refused later than at once.
			name: "chi.backlog", about: "ThrottleBacklog(8, 8, 50ms), the upstream takes 80 ms",
			loads: closed(32), rate: 100,
			start: behind(backlog, constant(80*time.Millisecond)),
		},
	}
}
