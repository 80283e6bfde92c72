package main

import (
	"math/rand/v2"
	"testing"
	"time"
)

// chance refuses requests that no limit explains: at random, or every one that a
// load balancer hands to a bad backend.
type chance struct {
	share float64
	rng   *rand.Rand
	every int // 0: at random
	n     int
}

func (c *chance) take(time.Time) bool {
	if c.every > 0 {
		c.n++
		return c.n%c.every != 0
	}
	return c.rng.Float64() >= c.share
}

func (*chance) state(time.Time) (remaining int, reset time.Duration) { return 1, time.Second }
func (*chance) quota() (size, window int)                            { return 0, 0 }
func (*chance) setRate(time.Time, float64)                           {}

// noLimit is scenario g: refusals that are no limit.
func noLimit() scenario {
	with := func(f func(*params)) params {
		p := defaults()
		p.server, p.rate, p.latency, p.attempts = "chance", 1, 50*time.Millisecond, 4
		p.clients, p.each, p.length, p.patience = 1, 100, time.Minute, 30*time.Second
		f(&p)
		return p
	}
	metrics := []metric{
		atMost("failed, share", "%", none()),
		atMost("refused per success", "", none()),
		atMost("p50", "ms", none()),
		atMost("p99", "s", none()),
	}
	v := func(name, model string, f func(*params)) variant {
		return variant{name: name, model: model, params: with(f), metrics: metrics, measure: measureNoLimit}
	}
	return scenario{
		letter: "g",
		title:  "Refusals that are no limit",
		model:  "Calls come at a steady rate for 60 s, whatever becomes of those before; 50 ms until an answer, 5 ms until a 429; 4 attempts; a caller waits for 30 s at most.",
		variants: []variant{
			v("g.chance1", "1 % refused by chance, 100/s", func(p *params) { p.share = 0.01 }),
			v("g.chance5", "5 % refused by chance, 100/s", func(p *params) { p.share = 0.05 }),
			v("g.chance5-hint", "5 %, with Retry-After: 1", func(p *params) { p.share, p.hint = 0.05, "retry-after" }),
			v("g.chance20", "20 % refused by chance, 100/s", func(p *params) { p.share = 0.2 }),
			v("g.chance30", "30 % refused by chance, 50/s", func(p *params) { p.share, p.each = 0.3, 50 }),
			v("g.chance40", "40 % refused by chance, 50/s", func(p *params) { p.share, p.each = 0.4, 50 }),
			v("g.chance60", "60 % refused by chance, 50/s", func(p *params) { p.share, p.each = 0.6, 50 }),
			v("g.backend", "1 of 4 backends refuses all, 50/s", func(p *params) { p.server, p.share, p.each = "backend", 0.25, 50 }),
			v("g.backend-hint", "1 of 4 backends refuses all with Retry-After: 1, 50/s", func(p *params) { p.server, p.share, p.each, p.hint = "backend", 0.25, 50, "retry-after" }),
		},
	}
}

func measureNoLimit(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	r := bubble(t, p, pr, func(r *run) {
		all := &tally{r: r}
		newID := ids(p.clients)
		for id := range p.clients {
			all.stream(r.newClient(), id, p.each, r.at(p.length), newID)
		}
		all.wg.Wait()
	})
	return []float64{
		float64(r.failed()) / float64(len(r.calls)),
		r.refusedPerSuccess(forever),
		1000 * r.latency(0.5, all).Seconds(),
		r.latency(0.99, all).Seconds(),
	}, r
}
