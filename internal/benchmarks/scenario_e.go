package main

import (
	"testing"
	"time"
)

// fleet is scenario e: processes without a common state share a quota.
func fleet() scenario {
	with := func(f func(*params)) params {
		p := defaults()
		p.clients, p.each, p.length = 10, 2, 5*time.Minute
		if f != nil {
			f(&p)
		}
		return p
	}
	metrics := func(used, refused, jain, p99 float64) []metric {
		return []metric{
			atLeast("used of the limit", "", used),
			atMost("refused per success", "", refused),
			atLeast("Jain's index", "", jain),
			atMost("light p99", "s", p99).scaled(func(p *params) float64 { return p99 * 100 / p.rate }),
			atMost("failed", "n", none()),
			atMost("refused, first minute", "", none()),
			atMost("refused, after it", "", none()),
		}
	}
	reached := func(all []metric) []metric {
		all[0].target, all[1].target, all[6].target = 0.97, 0.045, 0.025
		all[2].target, all[2].anySeed = 0.95, 0.9
		return all
	}
	heavy := func(n int, f func(*params)) params {
		return with(func(p *params) {
			p.clients, p.allHeavy = n, true
			if f != nil {
				f(p)
			}
		})
	}
	return scenario{
		letter: "e",
		title:  "A fleet shares one quota",
		model: "10 processes with a transport each and one limit of 100/s, burst 10, for 5 minutes: half of them with 64 workers without " +
			"think time (100 ms after a failed call), half making 2 calls a second. Jain's index is that of the shares that the processes got, relative to their max-min fair shares.",
		variants: []variant{
			{
				name: "e.fleet", model: "token bucket, no hint",
				params: with(nil), metrics: reached(metrics(none(), none(), none(), 1)), measure: measureFleet,
				picture: &picture{length: 2 * time.Minute, top: 400, limit: constant},
			},
			{
				name: "e.retry-after", model: "token bucket, a refusal says Retry-After: 1",
				params:  with(func(p *params) { p.hint = "retry-after" }),
				metrics: metrics(none(), none(), none(), none()), measure: measureFleet,
			},
			{
				name: "e.ratelimit", model: "token bucket, every answer has RateLimit fields",
				params:  with(func(p *params) { p.hint = "ratelimit" }),
				metrics: metrics(none(), none(), none(), none()), measure: measureFleet,
			},
			{
				name: "e.costly", model: "token bucket, a refusal takes the rest of a token, no hint",
				params:  with(func(p *params) { p.costly = true }),
				metrics: metrics(none(), none(), none(), none()), measure: measureFleet,
			},
			{
				name: "e.window", model: "fixed windows of 1 s, no hint",
				params:  with(func(p *params) { p.server, p.period = "window", time.Second }),
				metrics: metrics(none(), none(), none(), none()), measure: measureFleet,
			},
			{
				name: "e.2-heavy", model: "2 processes, both busy; token bucket, no hint",
				params:  heavy(2, nil),
				metrics: reached(metrics(none(), none(), none(), none())), measure: measureFleet,
			},
			{
				name: "e.10-heavy", model: "10 processes, all busy; token bucket, no hint",
				params:  heavy(10, nil),
				metrics: reached(metrics(none(), none(), none(), none())), measure: measureFleet,
			},
			{
				name: "e.10-heavy-retry-after", model: "10 processes, all busy; a refusal says Retry-After: 1",
				params:  heavy(10, func(p *params) { p.hint = "retry-after" }),
				metrics: reached(metrics(none(), none(), none(), none())), measure: measureFleet,
			},
			{
				name: "e.4-heavy-window", model: "4 processes, all busy; fixed windows of 1 s, no hint",
				params:  heavy(4, func(p *params) { p.server, p.period = "window", time.Second }),
				metrics: reached(metrics(none(), none(), none(), none())), measure: measureFleet,
			},
		},
	}
}

func measureFleet(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	heavy := p.clients / 2
	if p.allHeavy {
		heavy = p.clients
	}
	r := bubble(t, p, pr, func(r *run) {
		all := &tally{r: r}
		until := r.at(p.length)
		newID := ids(p.clients + heavy*p.workers)
		for k := range p.clients {
			do := r.newClient()
			if k >= heavy {
				all.stream(do, k, p.each, interval{0, p.length}, newID)
				continue
			}
			for w := range p.workers {
				all.work(do, p.clients+k*p.workers+w, k, until)
			}
		}
		all.wg.Wait()
	})
	light := func(c *call) bool { return c.process >= heavy }
	return []float64{
		float64(r.srv.count(interval{0, p.length}).accepted) / (p.quota(p.length, heavy*p.workers) + float64(p.burst)),
		r.refusedPerSuccess(p.length),
		r.jain(heavy),
		r.latency(0.99, light).Seconds(),
		float64(r.failed()),
		r.refusedIn(interval{0, time.Minute}),
		r.refusedIn(interval{time.Minute, p.length}),
	}, r
}

// jain returns Jain's index of the shares that the processes got, each relative to
// its max-min fair share. The fair share of a light process is its whole demand. The
// heavy processes divide the rest evenly.
func (r *run) jain(heavy int) float64 {
	p := r.params
	light := p.clients - heavy
	fair := make([]float64, p.clients)
	for k := range fair {
		fair[k] = p.each
		if float64(p.clients)*p.each > p.rate {
			fair[k] = p.rate / float64(p.clients)
		}
		if k < heavy {
			fair[k] = min((p.rate-float64(light)*fair[k])/float64(heavy), p.demand(p.workers))
		}
	}
	got := make([]float64, p.clients)
	for _, c := range r.calls {
		if c.ok && r.since(c.end) < p.length {
			got[c.process] += 1 / fair[c.process]
		}
	}
	var sum, squares float64
	for _, x := range got {
		sum += x
		squares += x * x
	}
	return sum * sum / (float64(len(got)) * max(squares, 1e-9))
}
