package main

import (
	"testing"
	"time"
)

// drain is scenario a: a backlog through an unknown rate limit.
func drain() scenario {
	with := func(f func(*params)) params {
		p := defaults()
		p.n = 2000
		if f != nil {
			f(&p)
		}
		return p
	}
	atOnce := func(p *params) { p.n, p.workers, p.burst = 1000, 1000, 50 }
	window := func(p *params) { p.server, p.rate, p.n = "window", 10, 2000 }
	metrics := func(makespan, refused, p99 float64) []metric {
		return []metric{
			atMost("makespan / optimum", "x", makespan),
			atMost("refused per success", "", refused),
			atMost("failed", "n", 0),
			atMost("p50", "s", none()),
			atMost("p99", "s", p99),
		}
	}
	return scenario{
		letter: "a",
		title:  "Drain a backlog through a rate limit",
		model: "Workers without think time; token bucket of 100/s and burst 10, no queue, refusals free. " +
			"Makespan is the time until the last call has ended. If more than a tenth of the calls failed, the backlog was not drained and there is no makespan.",
		variants: []variant{
			{
				name: "a.backlog", model: "2000 requests, 64 workers, no hint",
				params: with(nil), metrics: metrics(1.05, 0.05, 0.96), measure: measureDrain,
				picture: &picture{length: time.Minute, top: 300, limit: constant},
			},
			{
				name: "a.at-once", model: "1000 requests, all at t=0, burst 50, no hint",
				params: with(atOnce), metrics: metrics(1.05, 0.1, none()), measure: measureDrain,
			},
			{
				name: "a.backlog-4", model: "as a.backlog, with 4 workers",
				params:  with(func(p *params) { p.workers = 4 }),
				metrics: metrics(none(), none(), none()), measure: measureDrain,
			},
			{
				name: "a.backlog-1", model: "as a.backlog, with 1 worker, and 5 ms until an answer",
				params:  with(func(p *params) { p.workers, p.latency = 1, 5*time.Millisecond }),
				metrics: metrics(none(), none(), none()), measure: measureDrain,
			},
			{
				name: "a.retry-after", model: "as a.backlog, a refusal says Retry-After: 1",
				params:  with(func(p *params) { p.hint = "retry-after" }),
				metrics: metrics(1.15, none(), none()), measure: measureDrain,
				picture: &picture{length: time.Minute, top: 300, limit: constant},
			},
			{
				name: "a.ratelimit", model: "as a.backlog, every answer has RateLimit and RateLimit-Policy; refusals of the first 0.1 s, before the first answer, are not counted",
				params:  with(func(p *params) { p.hint = "ratelimit" }),
				metrics: metrics(1.02, 0.005, none()), measure: measureDrain,
			},
			{
				name: "a.x-ratelimit", model: "as a.ratelimit, with the three X-RateLimit fields",
				params:  with(func(p *params) { p.hint = "x-ratelimit" }),
				metrics: metrics(1.02, 0.005, none()), measure: measureDrain,
			},
			{
				name: "a.costly", model: "as a.at-once, a refusal takes the rest of a token",
				params:  with(func(p *params) { atOnce(p); p.costly = true }),
				metrics: metrics(20/9.5, none(), none()), measure: measureDrain,
			},
			{
				name: "a.window", model: "2000 requests, 64 workers, 600 in each fixed minute, no hint",
				params: with(window), metrics: metrics(none(), none(), none()), measure: measureDrain,
			},
			{
				name: "a.window-retry-after", model: "as a.window, a refusal says when the minute ends",
				params:  with(func(p *params) { window(p); p.hint = "retry-after" }),
				metrics: metrics(none(), none(), none()), measure: measureDrain,
			},
			{
				name: "a.limit", model: "64 workers for 30 s, no hint, as people begin: 4 attempts, first interval 500 ms",
				params: with(func(p *params) { p.length, p.attempts, p.backoff = 30*time.Second, 4, 500*time.Millisecond }),
				metrics: []metric{
					atLeast("used of the limit", "", none()),
					atMost("refused per success", "", none()),
					atMost("failed", "n", none()),
					atMost("p50", "s", none()),
					atMost("p99", "s", none()),
				},
				measure: measureSustained,
				duel: &duel{
					peers:  [2]string{"hand-written", "resilient, defaults"},
					titles: [2]string{"A plain retry loop", "resilient, without an option"},
					length: 30 * time.Second, top: 250,
				},
			},
			{
				name: "a.sustained", model: "64 workers for 10 minutes, no hint",
				params: with(func(p *params) { p.length = 10 * time.Minute }),
				metrics: []metric{
					atLeast("used of the limit", "", 0.98),
					atMost("refused per success", "", 0.01),
					atMost("failed", "n", 0),
					atMost("p50", "s", none()),
					atMost("p99", "s", 0.96).scaled(func(p *params) float64 { return 1.5 * float64(p.workers) / p.rate }),
				},
				measure: measureSustained,
			},
		},
	}
}

func measureDrain(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	r := bubble(t, p, pr, func(r *run) { r.backlog(r.newClient(), p.workers, p.n, nil) })
	var last time.Duration
	for _, c := range r.calls {
		last = max(last, r.since(c.end))
	}
	values := []float64{
		last.Seconds() / p.optimum(p.n).Seconds(),
		r.refusedPerSuccess(forever),
		float64(r.failed()),
		r.latency(0.5, all).Seconds(),
		r.latency(0.99, all).Seconds(),
	}
	if r.failed() > p.n/10 {
		values[0] = none()
	}
	return values, r
}

func measureSustained(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	r := bubble(t, p, pr, func(r *run) {
		all := &tally{r: r}
		do := r.newClient()
		for id := range p.workers {
			all.work(do, id, 0, r.at(p.length))
		}
		all.wg.Wait()
	})
	accepted := r.srv.count(interval{0, p.length}).accepted
	return []float64{
		float64(accepted) / (p.quota(p.length, p.workers) + float64(p.burst)),
		r.refusedPerSuccess(p.length),
		float64(r.failed()),
		r.latency(0.5, all).Seconds(),
		r.latency(0.99, all).Seconds(),
	}, r
}
