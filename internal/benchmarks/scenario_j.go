package main

import (
	"slices"
	"time"
)

// flightLimits is scenario j: limits on how many requests may be under way.
func flightLimits() scenario {
	return scenario{
		letter: "j",
		title:  "Limits on requests under way",
		model: "A number of requests may be under way, others are refused after 5 ms. Workers without think time (100 ms after a failed call), or calls at a steady rate where it is said, for a minute; no hint, 4 attempts. " +
			"Good is the part of the limit's time that was used (workers), or of the calls that were answered in the minute.",
		variants: slices.Concat(flightOpen(), flightClosed(), flightChanges(), shed()),
	}
}

func flightParams(most, workers int, latency time.Duration, more ...func(*params)) params {
	p := defaults()
	p.server, p.flight, p.workers, p.latency, p.attempts, p.length = "flight", most, workers, latency, 4, time.Minute
	for _, f := range more {
		f(&p)
	}
	return p
}

func exponential(p *params) { p.service = "exponential" }

// occupied returns how long a call was under way, to the end of the run.
func occupied(r *run, c *call) float64 {
	return min(c.service, r.params.length-r.since(c.accepted)).Seconds()
}

func flightOpen() []variant {
	w := want(0.98, none(), 0.0005)
	twice := func(p *params) float64 { return 2 * p.trip().Seconds() }
	return []variant{
		setup{}.variant("j.open100", "10, exponential 50 ms; 100 calls a second of 200", flightParams(10, 0, 50*time.Millisecond, exponential, steady(100)), w).scaled("p50", twice),
		setup{}.variant("j.open180", "10, exponential 50 ms; 180 calls a second of 200", flightParams(10, 0, 50*time.Millisecond, exponential, steady(180)), w).scaled("p50", twice),
	}
}

func flightClosed() []variant {
	full := func(p *params) float64 { return float64(p.flight) * p.length.Seconds() }
	s := setup{optimum: full, weight: occupied}
	bimodal := func(p *params) { p.service, p.share = "bimodal", 0.05 }
	ms := time.Millisecond
	hint := func(p *params) { p.hint = "retry-after" }
	shaky := func(p *params) { p.jitter = 10 * ms }
	w := want(0.95, 0.02, 0.0005)
	return []variant{
		s.variant("j.8", "8, exponential 80 ms; 32 workers", flightParams(8, 32, 80*ms, exponential), w),
		s.variant("j.8-503", "8, exponential 80 ms, refusals are 503; 32 workers", flightParams(8, 32, 80*ms, exponential, overload), w),
		s.variant("j.8-constant", "8, always 80 ms; 32 workers", flightParams(8, 32, 80*ms), w),
		s.variant("j.8-jitter", "8, exponential 80 ms, each way takes up to 10 ms more; 32 workers", flightParams(8, 32, 80*ms, exponential, shaky), want(0.85, 0.12, none())),
		s.variant("j.4-bimodal", "4, one of twenty takes 3.05 s, the others 50 ms; 64 workers, 2 min", flightParams(4, 64, 200*ms, bimodal, lasting(2*time.Minute)), want(0.85, 0.05, 0.0005)),
		s.variant("j.16-hint", "16, exponential 200 ms, a refusal says Retry-After: 1; 64 workers", flightParams(16, 64, 200*ms, exponential, hint), w),
		s.variant("j.1", "1, always 100 ms; 8 workers", flightParams(1, 8, 100*ms), w),
		s.variant("j.100", "100, exponential 100 ms; 256 workers", flightParams(100, 256, 100*ms, exponential), w),
		s.variant("j.3", "3, exponential 1 s; 12 workers, 2 min", flightParams(3, 12, time.Second, exponential, lasting(2*time.Minute)), w),
		s.variant("j.20", "20, exponential 10 ms; 64 workers, 30 s", flightParams(20, 64, 10*ms, exponential, lasting(30*time.Second)), w),
	}
}

// flightChanges are limits that change, or that are shared.
func flightChanges() []variant {
	change := setup{
		load: func(r *run, all *tally) {
			timer := time.AfterFunc(r.params.length/2, func() { r.srv.setRate(float64(r.params.then)) })
			defer timer.Stop()
			closedLoad(r, all)
			all.wg.Wait()
		},
		optimum: func(p *params) float64 { return float64(p.flight+p.then) / 2 * p.length.Seconds() },
		weight:  occupied,
	}
	two := setup{
		load: func(r *run, all *tally) {
			for process := range r.params.clients {
				do := r.newClient()
				for w := range r.params.workers {
					all.work(do, process*r.params.workers+w, process, r.at(r.params.length))
				}
			}
		},
		optimum: func(p *params) float64 { return float64(p.flight) * p.length.Seconds() },
		weight:  occupied,
	}
	long := lasting(2 * time.Minute)
	then := func(most int) func(*params) { return func(p *params) { p.then = most } }
	w := want(0.95, 0.02, 0.0005)
	return []variant{
		change.variant("j.10-to-30", "10, and after a minute 30; exponential 100 ms; 64 workers, 2 min", flightParams(10, 64, 100*time.Millisecond, exponential, then(30), long), w),
		change.variant("j.30-to-10", "30, and after a minute 10; exponential 100 ms; 64 workers, 2 min", flightParams(30, 64, 100*time.Millisecond, exponential, then(10), long), w),
		two.variant("j.shared", "10 for two clients with 16 workers each; exponential 100 ms, 2 min",
			flightParams(10, 16, 100*time.Millisecond, exponential, long, func(p *params) { p.clients = 2 }), want(0.9, 0.05, 0.0005)),
	}
}

// shed are servers with a few workers and a short queue, that answer 503 when it is
// full.
func shed() []variant {
	capacity := func(p *params) float64 { return float64(p.n) / p.latency.Seconds() }
	s := setup{
		prepare: func(r *run) {
			r.srv.capacity, r.srv.workers = capacity(&r.params), r.params.n
			r.srv.latency = 0
		},
		optimum: func(p *params) float64 { return capacity(p) * p.length.Seconds() },
	}
	four := func(p *params) { p.n = 4 }
	w := want(0.95, 0.03, 0.001)
	return []variant{
		s.variant("j.shed", "4 server workers of 20 ms and a queue of 16, refusals are 503; 128 workers", flightParams(20, 128, 20*time.Millisecond, overload, four), w),
		s.variant("j.shed-open", "the same server; 240 calls a second of 200", flightParams(20, 0, 20*time.Millisecond, overload, four, steady(240)), w),
	}
}
