package main

import (
	"math"
	"testing"
	"time"
)

// change is scenario d: the limit changes without notice.
func change() scenario {
	with := func(f func(*params)) params {
		p := defaults()
		p.workers, p.length = 256, time.Minute
		if f != nil {
			f(&p)
		}
		return p
	}
	metrics := func(used, refused float64) []metric {
		return []metric{
			atLeast("used of the limit", "", used),
			atMost("refused per success", "", refused),
			atMost("new limit found after", "s", 10),
			atMost("failed", "n", 0),
		}
	}
	return scenario{
		letter: "d",
		title:  "The limit changes: 100, 20, 200 requests a second, 60 s each",
		model: "256 workers without think time (100 ms after a failed call); burst 10, no queue. The new limit is found when " +
			"in 2 s (or the time of 10 requests) at least 0.9 of it was accepted and less than 0.1 refused per success: the slower of the two changes.",
		variants: []variant{
			{
				name: "d.change", model: "token bucket, no hint",
				params: with(nil), metrics: metrics(0.93, 0.03), measure: measureChange,
				picture: &picture{length: 3 * time.Minute, top: 400, limit: changing},
			},
			{
				name: "d.ratelimit", model: "token bucket, every answer has RateLimit fields; refusals of the first 0.1 s are not counted",
				params:  with(func(p *params) { p.hint = "ratelimit" }),
				metrics: metrics(0.99, 0.001), measure: measureChange,
			},
			{
				name: "d.retry-after", model: "token bucket, a refusal says Retry-After: 1",
				params:  with(func(p *params) { p.hint = "retry-after" }),
				metrics: metrics(none(), none()), measure: measureChange,
			},
			{
				name: "d.costly", model: "token bucket, a refusal takes the rest of a token, no hint",
				params:  with(func(p *params) { p.costly = true }),
				metrics: metrics(none(), none()), measure: measureChange,
			},
			{
				name: "d.window", model: "fixed windows of 1 s, no hint",
				params:  with(func(p *params) { p.server, p.period = "window", time.Second }),
				metrics: metrics(none(), none()), measure: measureChange,
			},
		},
	}
}

// rates returns the limits in order.
func (p *params) rates() []float64 { return []float64{p.rate, p.rate / 5, p.rate * 2} }

func changing(p params, d time.Duration) float64 {
	rates := p.rates()
	return rates[min(int(d/p.length), len(rates)-1)]
}

func measureChange(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	rates := p.rates()
	length := time.Duration(len(rates)) * p.length
	r := bubble(t, p, pr, func(r *run) {
		for k, rate := range rates {
			if k > 0 {
				timer := time.AfterFunc(time.Duration(k)*p.length, func() { r.srv.setRate(rate) })
				defer timer.Stop()
			}
		}
		all := &tally{r: r}
		do := r.newClient()
		for id := range p.workers {
			all.work(do, id, 0, r.at(length))
		}
		all.wg.Wait()
	})
	limit := float64(p.burst)
	var found time.Duration
	for k, rate := range rates {
		q := p
		q.rate = rate
		limit += q.quota(p.length, p.workers)
		if k > 0 {
			found = max(found, r.found(rate, time.Duration(k)*p.length, p.length))
		}
	}
	return []float64{
		float64(r.srv.count(interval{0, length}).accepted) / limit,
		r.refusedPerSuccess(length),
		found.Seconds(),
		float64(r.failed()),
	}, r
}

// found returns the time after from until the limit is used but not exceeded.
func (r *run) found(rate float64, from, length time.Duration) time.Duration {
	// At a low rate, span is long enough for ten requests to be accepted.
	span := max(2*time.Second, time.Duration(10/rate*float64(time.Second)).Truncate(binWidth))
	for d := span; d <= length; d += binWidth {
		sum := r.srv.count(interval{from + d - span, from + d})
		if float64(sum.accepted) >= 0.9*rate*span.Seconds() && float64(sum.refused) < 0.1*float64(sum.accepted) {
			return d
		}
	}
	return math.MaxInt64
}
