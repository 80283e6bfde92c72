package main

import (
	"context"
	"slices"
	"time"
)

// downtime is scenario k: servers that refuse everything for a while.
func downtime() scenario {
	return scenario{
		letter: "k",
		title:  "Servers that refuse everything for a while",
		model: "Calls at a steady rate, or workers without think time (100 ms after a failed call); 50 ms until an answer, 5 ms until a refusal, no hint, 4 attempts. " +
			"Good is the part of the calls that were answered in the time of the run.",
		variants: slices.Concat(outages(), quotas(), hints()),
	}
}

func downParams(length time.Duration, more ...func(*params)) params {
	p := defaults()
	p.rate, p.latency, p.attempts, p.length, p.clients = 0, 50*time.Millisecond, 4, length, 1
	for _, f := range more {
		f(&p)
	}
	return p
}

// attemptsIn is the number of attempts of the calls that begin in the interval, for
// each of them.
func attemptsIn(i func(*params) interval, target float64) figure {
	return figure{atMost("attempts per call in it", "", target), func(r *run) float64 { return r.amplification(i(&r.params)) }}
}

func outages() []variant {
	const begin = 20 * time.Second
	trouble := func(p *params) interval { return interval{begin, begin + p.trouble} }
	s := setup{
		prepare: func(r *run) { r.srv.down = trouble(&r.params) },
		more:    []figure{attemptsIn(trouble, 1.1)},
	}
	refused := setup{
		prepare: func(r *run) { r.srv.limit = &closed{from: r.at(begin), to: r.at(begin + r.params.trouble)} },
		more:    []figure{attemptsIn(trouble, none())},
	}
	long := func(p *params) { p.trouble = 30 * time.Second }
	many := func(each float64) func(*params) { return func(p *params) { p.clients, p.each = 100, each } }
	length := 80 * time.Second
	return []variant{
		s.variant("k.outage-10", "503 for 30 s; 100 clients of 10/s", downParams(length, long, many(10)), noTargets()),
		s.variant("k.outage-1", "503 for 30 s; 100 clients of 1/s", downParams(length, long, many(1)), noTargets()),
		s.variant("k.outage-one", "503 for 30 s; one client of 100/s", downParams(length, long, steady(100)), noTargets()),
		refused.variant("k.refused", "429 for 30 s; one client of 100/s", downParams(length, long, steady(100)), noTargets()),
	}
}

func quotas() []variant {
	const begin, end = time.Minute, 10 * time.Minute
	out := func(*params) interval { return interval{begin, end} }
	daily := setup{
		prepare: func(r *run) { r.srv.limit = &closed{from: r.at(begin), to: r.at(end)} },
		more: []figure{
			attemptsIn(out, none()),
			{atMost("p50 until a call fails", "time", none()), func(r *run) float64 {
				var d []time.Duration
				for _, c := range r.calls {
					if !c.ok {
						d = append(d, c.end.Sub(c.begin))
					}
				}
				return quantile(d, 0.5).Seconds()
			}},
			{atMost("most calls in flight", "n", none()), (*run).mostInFlight},
		},
	}
	abuse := func(prolonged bool) setup {
		return setup{
			prepare: func(r *run) {
				r.srv.limit = &ban{limit: newBucket(r.params.rate, r.params.burst, false, r.start), length: r.params.trouble, prolonged: prolonged}
			},
			optimum: byRate,
			more: []figure{{atMost("bans", "n", 2), func(r *run) float64 {
				b, ok := r.srv.limit.(*ban)
				if !ok {
					panic("not this scenario")
				}
				return float64(b.bans)
			}}},
		}
	}
	banned := func(p *params) { p.rate, p.burst, p.trouble, p.workers = 20, 40, time.Minute, 8 }
	return []variant{
		daily.variant("k.quota", "no requests left from 1 min to 10 min; 20 calls a second, 11 min", downParams(11*time.Minute, steady(20)), noTargets()),
		abuse(false).variant("k.ban", "above 20/s (burst 40) everything is refused for a minute; 8 workers, 14 min", downParams(14*time.Minute, banned), noTargets()),
		abuse(true).variant("k.ban-prolonged", "the same, and a request meanwhile begins the minute anew; 8 workers, 14 min", downParams(14*time.Minute, banned), noTargets()),
	}
}

// hints are refusals that say truly when they end.
func hints() []variant {
	const (
		other  = "http://other.example/items"
		jitter = 150 * time.Millisecond // of the first backoff interval, and half as much again
	)
	later := func(p *params) float64 { return (4*p.way + jitter).Seconds() } // two round trips
	undelayed := func(p *params) float64 { return (p.trip() + 5*time.Millisecond).Seconds() }
	s := setup{
		prepare: func(r *run) { r.srv.limit = routes{items: &closed{from: r.start, to: r.at(r.params.trouble)}} },
		load: func(r *run, all *tally) {
			all.prepare = func(c *call) {
				c.url = items
				if c.process == 1 {
					c.url = other
				}
			}
			do := r.newClient()
			one := func(id int, at time.Duration) {
				all.wg.Go(func() {
					_ = sleepUntil(context.Background(), align(r.at(at), id))
					c := &call{id: id}
					all.add(c)
					c.send(do)
				})
			}
			one(0, 0)
			for k := range r.params.workers {
				one(k+1, time.Second)
			}
			all.stream(do, 1, r.params.each, interval{0, r.params.length}, ids(100))
		},
		more: []figure{
			{atMost("refused again", "n", 4), func(r *run) float64 {
				n := -1 // the first one could not know
				for _, c := range r.calls {
					n += c.refused
				}
				return float64(n)
			}},
			{atMost("last answer after the hint", "time", none()).scaled(later), func(r *run) float64 {
				hint := 2*r.params.way + r.params.refusal + r.params.trouble // the first caller's
				last := time.Duration(0)
				for _, c := range r.calls {
					if c.url == items {
						last = max(last, r.since(c.end)-hint)
					}
				}
				return last.Seconds()
			}},
			failedAt("told", items, 0),
			quantileAt(0.99, "other host p99", other, undelayed),
			failedAt("other host", other, 0),
		},
	}
	away := func(p *params) {
		p.hint, p.way, p.latency, p.each = "retry-after", 25*time.Millisecond, 5*time.Millisecond, 10
		p.trouble, p.workers = 10*time.Second, 20
	}
	return []variant{
		s.variant("k.hint", "a host refuses everything for 10 s, and says so with Retry-After; a caller, and 20 more a second later; 50 ms away; 10 calls a second to another host; 20 s",
			downParams(20*time.Second, away), noTargets()),
	}
}
