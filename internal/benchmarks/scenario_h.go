package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// rateLimits is scenario h: limits on how often, of many kinds.
func rateLimits() scenario {
	return scenario{
		letter: "h",
		title:  "Limits on the rate",
		model: "Workers without think time (100 ms after a failed call), or calls at a steady rate where it is said, for 2 minutes. 20 ms until an answer, 5 ms until a refusal, no hint, 4 attempts. " +
			"Good is the part of the requests that the limit could accept, or the callers could send if that is less.",
		variants: slices.Concat(buckets(), windows(), smallLimits(), farLimits()),
	}
}

// rateParams are the parameters from which the variants of h start.
func rateParams(rate float64, burst, workers int, more ...func(*params)) params {
	p := defaults()
	p.rate, p.burst, p.workers, p.attempts, p.length = rate, burst, workers, 4, 2*time.Minute
	for _, f := range more {
		f(&p)
	}
	return p
}

// overload makes refusals look like those of a server without capacity.
func overload(p *params) { p.status = http.StatusServiceUnavailable }

// steady makes the calls come at a rate.
func steady(perSecond float64) func(*params) {
	return func(p *params) { p.clients, p.each = 1, perSecond }
}

func lasting(d time.Duration) func(*params) { return func(p *params) { p.length = d } }

func buckets() []variant {
	s := setup{optimum: byRate}
	return []variant{
		s.variant("h.bucket", "100/s, burst 10; 64 workers", rateParams(100, 10, 64), want(0.98, none(), 0)),
		s.variant("h.bucket-503", "100/s, burst 10, refusals are 503; 64 workers", rateParams(100, 10, 64, overload), want(0.98, 0.02, 0)),
		s.variant("h.bucket5", "5/s, burst 5; 16 workers", rateParams(5, 5, 16), want(0.98, none(), 0)),
		s.variant("h.bucket1000", "1000/s, burst 100; 256 workers, 1 min", rateParams(1000, 100, 256, lasting(time.Minute)), want(0.98, none(), 0)),
		s.variant("h.leaky-503", "10/s, burst 21 (nginx: 20, because a first request needs none), refusals are 503; 64 workers", rateParams(10, 21, 64, overload), want(0.98, 0.05, 0)),
		s.variant("h.strict100", "100/s without burst; 64 workers", rateParams(100, 1, 64), want(0.9, 0.035, none())),
		s.variant("h.strict100-503", "100/s without burst, refusals are 503; 64 workers", rateParams(100, 1, 64, overload), want(0.9, 0.035, none())),
		s.variant("h.strict20", "20/s without burst; 16 workers", rateParams(20, 1, 16), want(0.9, 0.15, none())),
		s.variant("h.strict5", "5/s without burst; 16 workers", rateParams(5, 1, 16), want(0.9, 0.15, none())),
		s.variant("h.strict2", "2/s without burst; 16 workers", rateParams(2, 1, 16), want(0.9, 0.15, none())),
		s.variant("h.open50", "100/s, burst 10; 50 calls a second", rateParams(100, 10, 0, steady(50)), noTargets()),
		s.variant("h.open90", "100/s, burst 10; 90 calls a second", rateParams(100, 10, 0, steady(90)), noTargets()),
		s.variant("h.open120", "100/s, burst 10; 120 calls a second", rateParams(100, 10, 0, steady(120)), noTargets()),
	}
}

func windows() []variant {
	window := func(p *params) { p.server = "window" }
	sliding := func(p *params) { p.server = "sliding" }
	period := func(d time.Duration) func(*params) { return func(p *params) { p.period = d } }
	s := setup{optimum: byRate}
	both := setup{
		prepare: func(r *run) {
			p := &r.params
			r.srv.limit = every{
				newBucket(p.rate, p.burst, false, r.start),
				&fixedWindow{size: windowSize(p.rate/2, p.period), period: p.period, begin: r.start},
			}
		},
		optimum: func(p *params) float64 { q := *p; q.server, q.rate = "window", p.rate/2; return byRate(&q) },
	}
	return []variant{
		s.variant("h.window600", "600 in each fixed minute; 64 workers, 3 min", rateParams(10, 0, 64, window, lasting(3*time.Minute)), want(0.97, 0.12, 0)),
		s.variant("h.window50", "50 in each fixed 10 s; 32 workers", rateParams(5, 0, 32, window, period(10*time.Second)), want(0.97, 0.5, 0)),
		s.variant("h.sliding100", "100 in any 10 s; 64 workers", rateParams(10, 0, 64, sliding, period(10*time.Second)), want(0.97, 0.12, 0)),
		s.variant("h.sliding600", "600 in any minute; 32 workers, 3 min", rateParams(10, 0, 32, sliding, lasting(3*time.Minute)), want(0.97, 0.12, 0)),
		both.variant("h.both", "20/s with burst 20, and 600 in each fixed minute; 64 workers, 3 min", rateParams(20, 20, 64, lasting(3*time.Minute)), want(0.97, 0.12, 0)),
	}
}

// smallLimits are limits with few workers, who feel every wait.
func smallLimits() (all []variant) {
	s := setup{optimum: byRate}
	minute := func(p *params) { p.server, p.period = "window", time.Minute }
	usual := func(p *params) { p.backoff = 500 * time.Millisecond }
	for _, workers := range []int{1, 2, 4, 8} {
		all = append(all,
			s.variant(fmt.Sprintf("h.20-by-%d", workers), fmt.Sprintf("20/s, burst 5; workers: %d; the transport's own backoff", workers),
				rateParams(20, 5, workers, usual), want(0.97, none(), 0)),
			s.variant(fmt.Sprintf("h.minute-by-%d", workers), fmt.Sprintf("60 in each fixed minute; workers: %d, 5 min; the transport's own backoff", workers),
				rateParams(1, 0, workers, minute, usual, lasting(5*time.Minute)), want(0.97, none(), 0)))
	}
	return all
}

// farLimits are servers with long or varying answers, or requests of different cost.
func farLimits() []variant {
	s := setup{optimum: byRate}
	far := func(p *params) { p.way = 100 * time.Millisecond }
	slow := func(p *params) { p.latency = 10 * time.Second }
	shaky := func(p *params) { p.jitter = 10 * time.Millisecond }
	tokens := setup{
		load: func(r *run, all *tally) {
			rng := rand.New(rand.NewPCG(r.params.seed, 7))
			all.prepare = func(c *call) { c.cost = cost1000(rng) }
			closedLoad(r, all)
		},
		optimum: byRate,
		weight:  func(_ *run, c *call) float64 { return c.cost },
	}
	second := func(p *params) { p.latency = time.Second }
	return []variant{
		s.variant("h.far", "100/s, burst 10, 200 ms away; 64 workers", rateParams(100, 10, 64, far), noTargets()),
		s.variant("h.slow", "5/s, burst 5, 10 s until an answer; 64 workers", rateParams(5, 5, 64, slow), noTargets()),
		s.variant("h.jitter", "100/s, burst 10, each way takes up to 10 ms more; 64 workers", rateParams(100, 10, 64, shaky), want(0.88, 0.12, none())),
		s.variant("h.jitter-strict", "100/s without burst, each way takes up to 10 ms more; 64 workers", rateParams(100, 1, 64, shaky), want(0.8, 0.135, none())),
		tokens.variant("h.tokens", "10,000 tokens a second, burst 50,000; a request takes 1,000 in the mean (log-normal, sigma 1), 1 s until an answer; 64 workers; good in tokens",
			rateParams(10_000, 50_000, 64, second), want(0.93, 0.1, 0.003)),
	}
}

// cost1000 draws the cost of a request: log-normal, with a mean of 1000.
func cost1000(rng *rand.Rand) float64 {
	return min(1000*math.Exp(rng.NormFloat64()-0.5), 40_000)
}
