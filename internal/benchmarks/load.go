package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

// setup is what the variants of scenarios g to k have in common: a server, callers,
// and what could have been accepted.
type setup struct {
	prepare func(*run)                // changes the server before the first call; may be nil
	load    func(*run, *tally)        // starts the callers; nil: closed or, if params.each is set, open
	from    time.Duration             // what is before is not measured
	optimum func(*params) float64     // what the limit could accept while it is measured; nil: limitless
	weight  func(*run, *call) float64 // of an accepted call in the optimum; nil: 1
	more    []figure
}

// figure is a metric of some variants only.
type figure struct {
	metric

	value func(*run) float64
}

// limitless is the optimum of a server without a limit.
func limitless(*params) float64 { return math.Inf(1) }

// byRate is the optimum of a limit of params.rate, with its burst.
func byRate(p *params) float64 {
	best := p.quota(p.length, math.MaxInt32)
	if p.server == "bucket" {
		best += float64(p.burst)
	}
	return best
}

// targets are those of the metrics that all variants of scenarios g to k have.
type targets struct{ good, refused, failed float64 }

func noTargets() targets { return targets{none(), none(), none()} }

// want returns the targets for the share of the optimum, the refusals per success and
// the share that fails.
func want(good, refused, failed float64) targets {
	return targets{good, refused, failed}
}

// variant returns a variant that measures the setup.
func (s setup) variant(name, model string, p params, w targets) variant {
	v := variant{name: name, model: model, params: p, measure: s.measure, metrics: []metric{
		atLeast("good", "", w.good),
		atMost("refused per success", "", w.refused),
		atMost("failed", "%", w.failed),
		atMost("p50", "time", none()),
		atMost("p99", "time", none()),
	}}
	for _, f := range s.more {
		v.metrics = append(v.metrics, f.metric)
	}
	return v.with(p)
}

func (s setup) measure(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	from := min(s.from, p.length/2) // a run may be shortened by a flag
	r := bubble(t, p, pr, func(r *run) {
		if s.prepare != nil {
			s.prepare(r)
		}
		all := &tally{r: r}
		switch {
		case s.load != nil:
			s.load(r, all)
		case p.each > 0:
			openLoad(r, all)
		default:
			closedLoad(r, all)
		}
		all.wg.Wait()
	})
	measured := interval{from, p.length}
	counts := func(c *call) bool { return measured.holds(r.since(c.begin)) }
	got, calls, failed := 0.0, 0, 0
	for _, c := range r.calls {
		if c.ok && measured.holds(r.since(c.accepted)) {
			got += s.weightOf(r, c)
		}
		if counts(c) {
			calls++
			if !c.ok {
				failed++
			}
		}
	}
	values := []float64{
		got / s.best(r, measured),
		r.refusedIn(measured),
		float64(failed) / float64(max(calls, 1)),
		r.latency(0.5, counts).Seconds(),
		r.latency(0.99, counts).Seconds(),
	}
	for _, f := range s.more {
		values = append(values, f.value(r))
	}
	return values, r
}

func (s setup) weightOf(r *run, c *call) float64 {
	if s.weight == nil {
		return 1
	}
	return s.weight(r, c)
}

// best returns what could have been accepted: what the limit allows, but no more than
// the callers ask for.
func (s setup) best(r *run, measured interval) float64 {
	optimum := s.optimum
	if optimum == nil {
		optimum = limitless
	}
	best := optimum(&r.params)
	switch {
	case s.weight != nil:
		return best // only accepted calls have a weight
	case s.load == nil && r.params.each == 0:
		return min(best, r.params.demand(r.params.workers)*(measured.to-measured.from).Seconds())
	}
	offered := 0
	for _, c := range r.calls {
		if measured.holds(r.since(c.begin)) {
			offered++
		}
	}
	return min(best, float64(offered))
}

// refusedIn returns the number of refusals for each success in the interval.
func (r *run) refusedIn(i interval) float64 {
	sum := r.srv.count(i)
	return float64(sum.refused) / float64(max(sum.accepted, 1))
}

// closedLoad starts workers without think time that share a client.
func closedLoad(r *run, all *tally) {
	do := r.newClient()
	for id := range r.params.workers {
		all.work(do, id, 0, r.at(r.params.length))
	}
}

// openLoad starts streams of calls, each through a client of its own.
func openLoad(r *run, all *tally) {
	newID := ids(r.params.clients)
	for id := range r.params.clients {
		all.stream(r.newClient(), id, r.params.each, interval{0, r.params.length}, newID)
	}
}

// traffic is a stream of calls to a URL.
type traffic struct {
	url       string
	perSecond float64
	from      time.Duration
}

// streams is a load of several streams through one client.
func streams(from func(*params) []traffic) func(*run, *tally) {
	return func(r *run, all *tally) {
		of := from(&r.params)
		all.prepare = func(c *call) { c.url = of[c.process].url }
		do, newID := r.newClient(), ids(len(of))
		for k, s := range of {
			all.stream(do, k, s.perSecond, interval{s.from, r.params.length}, newID)
		}
	}
}

// to returns the calls to a URL.
func (r *run) to(url string) (calls []*call) {
	for _, c := range r.calls {
		if c.url == url {
			calls = append(calls, c)
		}
	}
	return calls
}

// The figures that end in At are about the calls to a URL.

func quantileAt(q float64, name, url string, bar func(*params) float64) figure {
	return figure{atMost(name, "time", none()).scaled(bar), func(r *run) float64 {
		return r.latency(q, func(c *call) bool { return c.url == url }).Seconds()
	}}
}

func failedAt(name, url string, target float64) figure {
	return figure{atMost(name+" failed", "%", target), func(r *run) float64 {
		some := run{calls: r.to(url)}
		return float64(some.failed()) / float64(max(len(some.calls), 1))
	}}
}

func refusedAt(name, url string, target float64) figure {
	return figure{atMost(name+" refused per success", "", target), func(r *run) float64 {
		some := run{calls: r.to(url)}
		refused := 0
		for _, c := range some.calls {
			refused += c.refused
		}
		return float64(refused) / float64(max(len(some.calls)-some.failed(), 1))
	}}
}

func attemptsAt(name, url string, target float64) figure {
	return figure{atMost(name+" attempts", "n", target), func(r *run) float64 {
		n := 0
		for _, c := range r.to(url) {
			n += c.attempts
		}
		return float64(n)
	}}
}

// mostInFlight returns the largest number of calls that were under way at once.
func (r *run) mostInFlight() float64 {
	type event struct {
		at time.Time
		by int
	}
	var events []event
	for _, c := range r.calls {
		events = append(events, event{c.begin, 1}, event{c.end, -1})
	}
	slices.SortFunc(events, func(a, b event) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.by - b.by
	})
	now, most := 0, 0
	for _, e := range events {
		now += e.by
		most = max(most, now)
	}
	return float64(most)
}
