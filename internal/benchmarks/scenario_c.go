package main

import (
	"testing"
	"time"
)

// isolated is scenario c: independent failures.
func isolated() scenario {
	p := defaults()
	p.rate, p.n, p.attempts = 0, 200_000, 4
	p.latency = 50 * time.Millisecond
	return scenario{
		letter: "c",
		title:  "Isolated failures",
		model:  "1 % random 500s, 50 ms until each answer, 64 workers, no limit, no queue. Added is the time beyond 50 ms.",
		variants: []variant{{
			name: "c.isolated", model: "200,000 requests", params: p,
			metrics: []metric{
				atMost("failed, share", "%", 1e-6),
				atMost("added p99.5", "ms", none()),
				// Two round trips and the smallest backoff, which is half of the
				// first interval because the transport's jitter is 50 %.
				atMost("added p99.9", "ms", 150),
			},
			measure: func(t *testing.T, p params, pr *peer) ([]float64, *run) {
				t.Helper()
				r := bubble(t, p, pr, func(r *run) {
					r.srv.flaky, r.srv.failRate = interval{0, forever}, 0.01
					r.backlog(r.newClient(), p.workers, p.n, nil)
				})
				added := func(q float64) float64 {
					return 1000 * (r.latency(q, all) - p.latency).Seconds()
				}
				return []float64{float64(r.failed()) / float64(p.n), added(0.995), added(0.999)}, r
			},
		}},
	}
}
