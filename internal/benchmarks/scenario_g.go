package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// noLimit is scenario g: refusals that are no limit.
func noLimit() scenario {
	with := func(f func(*params)) params {
		p := defaults()
		p.server, p.rate, p.latency, p.attempts = "chance", 1, 50*time.Millisecond, 4
		p.clients, p.each, p.length, p.patience = 1, 100, time.Minute, 30*time.Second
		if f != nil {
			f(&p)
		}
		return p
	}
	return scenario{
		letter: "g",
		title:  "Refusals that are no limit",
		model: "Calls come at a steady rate, whatever becomes of those before: 15,000 if they are refused by chance (30,000 at 5 %), else those of a minute; 50 ms until an answer, 5 ms until a refusal; 4 attempts; a caller waits for 30 s at most. " +
			"Where it says workers, these have no think time (100 ms after a failed call). Good is the share of the calls that were answered in the time of the run, or the part of what the workers could send.",
		variants: slices.Concat(byChance(with), badBackends(with), blips(with), chanceAndLimit(with), rows(with)),
	}
}

// byChance are servers that refuse a share of the requests at random. The calls that
// fail then are those of a loop without any idea of limits, and a little more.
func byChance(with func(func(*params)) params) (all []variant) {
	// One retry, whose first backoff interval is 100 ms and up to half as much again.
	soon := func(p *params) float64 { return p.onceRefused(345 * time.Millisecond) }
	told := func(p *params) float64 { return p.onceRefused(1545 * time.Millisecond) }
	for _, c := range []struct{ percent, usual int }{{1, 100}, {5, 100}, {20, 100}, {30, 50}, {40, 50}, {60, 50}} {
		share := float64(c.percent) / 100
		more := 0.005 // calls that fail than without any idea of limits
		w := noTargets()
		switch {
		case c.percent <= 5:
			w = want(0.98, none(), 0.0001)
		case c.percent == 20:
			w = want(none(), none(), 0.006)
		case c.percent == 60:
			more = 0.02
		}
		calls := 15_000 // enough to tell half a percent from luck
		if c.percent == 5 {
			calls = 30_000 // a call in 160,000 is refused four times
		}
		for _, perSecond := range []int{5, 50, 100, 500} {
			name := fmt.Sprintf("g.chance%d", c.percent)
			if perSecond != c.usual {
				name += fmt.Sprintf("-%d", perSecond)
			}
			v := setup{}.variant(name, fmt.Sprintf("%d %% refused by chance, %d/s", c.percent, perSecond),
				with(func(p *params) {
					p.share, p.each = share, float64(perSecond)
					p.length = lengthFor(calls, p.each)
				}), w)
			switch {
			case c.percent <= 5:
				v = v.scaled("p99", soon)
			case c.percent >= 30:
				v = v.scaled("failed", func(p *params) float64 { return math.Pow(p.share, float64(p.attempts)) + more })
			}
			all = append(all, v)
		}
	}
	hint := func(p *params) { p.share, p.hint, p.length = 0.05, "retry-after", lengthFor(30_000, p.each) }
	ten := func(p *params) { p.share, p.attempts, p.length = 0.2, 10, lengthFor(15_000, p.each) }
	return append(all,
		setup{}.variant("g.chance5-hint", "5 %, with Retry-After: 1", with(hint), want(0.98, none(), 0.0001)).scaled("p99", told),
		setup{}.variant("g.chance20-10", "20 %, 10 attempts", with(ten), want(none(), none(), 0)))
}

// lengthFor returns how long a stream goes on until it has made the calls.
func lengthFor(calls int, perSecond float64) time.Duration {
	return time.Duration(float64(calls) / perSecond * float64(time.Second))
}

// badBackends are load balancers with a backend that refuses everything.
func badBackends(with func(func(*params)) params) []variant {
	backend := func(share, each float64, f func(*params)) params {
		return with(func(p *params) {
			p.server, p.share, p.each = "backend", share, each
			if f != nil {
				f(p)
			}
		})
	}
	hint := func(p *params) { p.hint = "retry-after" }
	both := func(p *params) { hint(p); overload(p) }
	w := want(none(), none(), 0.006)
	node := setup{prepare: func(r *run) {
		n := &nodes{rng: rand.New(rand.NewPCG(r.params.seed, 6))}
		for range r.params.n {
			n.each = append(n.each, newBucket(r.params.rate, r.params.burst, false, r.start))
		}
		r.srv.limit = n
	}}
	return []variant{
		setup{}.variant("g.backend", "1 of 4 backends refuses all, 50/s", backend(0.25, 50, nil), w),
		setup{}.variant("g.backend-10", "1 of 4 backends refuses all, 50/s, 10 attempts", backend(0.25, 50, func(p *params) { p.attempts = 10 }), want(none(), none(), 0)),
		setup{}.variant("g.backend-hint", "1 of 4 backends refuses all with Retry-After: 1, 50/s", backend(0.25, 50, hint), w),
		setup{}.variant("g.backend-503", "1 of 4 backends refuses all with 503, 50/s", backend(0.25, 50, overload), w),
		setup{}.variant("g.backend-503-hint", "1 of 4 backends refuses all with 503 and Retry-After: 1, 50/s", backend(0.25, 50, both), w),
		setup{}.variant("g.third-503", "1 of 3 backends refuses all with 503, 200/s", backend(1.0/3, 200, overload), want(none(), none(), 0.015)),
		setup{}.variant("g.half", "1 of 2 backends refuses all, 50/s", backend(0.5, 50, nil), noTargets()),
		node.variant("g.nodes", "20 nodes with a bucket of 10/s and burst 2 each, 120/s, 2 min",
			with(func(p *params) { p.n, p.rate, p.burst, p.each, p.length = 20, 10, 2, 120, 2*time.Minute }), want(none(), none(), 0.003)),
	}
}

// blips are servers that refuse for a few seconds.
func blips(with func(func(*params)) params) (all []variant) {
	const from = 20 * time.Second
	for _, b := range []struct {
		name, model string
		share       float64
		length      time.Duration
		each        float64
	}{
		{"g.blip20", "20 % for 10 s", 0.2, 10 * time.Second, 100},
		{"g.blip100", "100 % for 3 s", 1, 3 * time.Second, 100},
		{"g.blip50", "50 % for 3 s", 0.5, 3 * time.Second, 500},
	} {
		s := setup{
			prepare: func(r *run) { r.srv.limit = &during{newChance(&r.params), r.at(from), r.at(from + r.params.trouble)} },
			more: []figure{{atMost("last slow call after its end", "time", 0), func(r *run) float64 {
				last, end := time.Duration(0), from+r.params.trouble
				for _, c := range r.calls {
					if !c.ok || c.end.Sub(c.begin) > 2*r.params.trip() {
						last = max(last, r.since(c.begin)-end)
					}
				}
				return last.Seconds()
			}}},
		}
		all = append(all, s.variant(b.name, fmt.Sprintf("%s, %.0f/s, 2 min", b.model, b.each),
			with(func(p *params) { p.share, p.trouble, p.each, p.length = b.share, b.length, b.each, 2*time.Minute }),
			want(none(), none(), 0.0005)))
	}
	return all
}

// chanceAndLimit are limits with refusals by chance beside them.
func chanceAndLimit(with func(func(*params)) params) []variant {
	const begin = time.Minute
	later := setup{
		from: begin,
		prepare: func(r *run) {
			bucket := newBucket(r.params.rate, r.params.burst, false, r.start)
			r.srv.limit = every{newChance(&r.params), &during{bucket, r.at(begin), r.at(forever)}}
		},
		optimum: func(p *params) float64 { return p.rate * (p.length - begin).Seconds() },
	}
	both := setup{
		prepare: func(r *run) {
			r.srv.limit = every{newChance(&r.params), newBucket(r.params.rate, r.params.burst, false, r.start)}
		},
		optimum: func(p *params) float64 { return p.rate*p.length.Seconds() + float64(p.burst) },
	}
	closed := func(share, rate float64, length time.Duration) params {
		return with(func(p *params) {
			p.share, p.rate, p.each, p.length, p.patience = share, rate, 0, length, 0
		})
	}
	return []variant{
		later.variant("g.chance-then-limit", "5 % for a minute, then also a bucket of 50/s, for 2 min; 64 workers", closed(0.05, 50, 3*time.Minute), want(0.9, 0.15, 0)),
		both.variant("g.chance-and-limit", "2 % and a bucket of 100/s, 64 workers, 2 min", closed(0.02, 100, 2*time.Minute), noTargets()),
	}
}

// rows are servers that refuse a few requests in a row, without a hint, and none ever
// after.
func rows(with func(func(*params)) params) (all []variant) {
	const at = 10 * time.Second
	// before and after are requests a second.
	before := func(r *run) float64 { return float64(r.srv.count(interval{at / 2, at}).accepted) / (at / 2).Seconds() }
	after := func(r *run) float64 {
		end := r.params.length
		return float64(r.srv.count(interval{end - at, end}).accepted) / at.Seconds()
	}
	back := func(r *run) float64 {
		f, ok := r.srv.limit.(*few)
		if !ok {
			panic("not this scenario")
		}
		last := r.since(f.last)
		for d := last.Truncate(binWidth) + binWidth; d < r.params.length-time.Second; d += binWidth {
			if float64(r.srv.count(interval{d, d + time.Second}).accepted) >= 0.95*before(r) {
				return (d - last).Seconds()
			}
		}
		return forever.Seconds()
	}
	for _, n := range []struct {
		name, word string
		n          int
	}{{"two", "Two", 2}, {"five", "Five", 5}} {
		for _, workers := range []int{1, 2, 3, 4, 8} {
			s := setup{
				prepare: func(r *run) { r.srv.limit = &few{from: r.at(at), n: r.params.n} },
				more: []figure{
					{atLeast("rate after / before", "", 0.95), func(r *run) float64 { return after(r) / before(r) }},
					{atMost("back after", "time", 2), back},
				},
			}
			all = append(all, s.variant(fmt.Sprintf("g.%s-%d", n.name, workers),
				fmt.Sprintf("%s 429s in a row after 10 s, then none for 30 s; %d workers, 10 ms until an answer", n.word, workers),
				with(func(p *params) {
					p.n, p.workers, p.each, p.length, p.latency, p.patience = n.n, workers, 0, 4*at, 10*time.Millisecond, 0
				}), noTargets()))
		}
	}
	return all
}
