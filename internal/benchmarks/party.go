package main

import "time"

// party is callers of the same class. Those that come at random have a rate, the others
// are workers without think time.
type party struct {
	name      string
	priority  int
	workers   int
	perSecond float64

	p99     float64 // target for the time that a call waits, without that until its answer
	longest float64 // target for the longest of these
}

// parties is a load of several parties through one client. A flow is named after its party.
func parties(all []party, flows bool) func(*run, *tally) {
	return func(r *run, t *tally) {
		t.prepare = func(c *call) {
			if c.priority = all[c.process].priority; flows {
				c.flow = all[c.process].name
			}
		}
		do, newID, end := r.newClient(), ids(lattice/2), r.at(r.params.length)
		id := 0
		for process, p := range all {
			for range p.workers {
				t.work(do, id, process, end)
				id++
			}
			if p.perSecond > 0 {
				t.poisson(do, process, p.perSecond, end, newID)
			}
		}
	}
}

// sharing measures parties that share a server with the given limits.
func sharing(b bounds, all []party, flows bool) setup {
	s := setup{
		prepare: b.prepare,
		load:    parties(all, flows),
		optimum: b.accept,
		weight:  func(*run, *call) float64 { return 1 },
	}
	if b.inFlight > 0 {
		s.optimum, s.weight = func(p *params) float64 { return float64(b.inFlight) * p.length.Seconds() }, occupied
	}
	for process, p := range all {
		s.more = append(s.more,
			figure{atMost(p.name+" p99 wait", "time", p.p99), func(r *run) float64 { return r.waited(0.99, process) }},
			figure{atMost(p.name+" longest wait", "time", p.longest), func(r *run) float64 { return r.waited(1, process) }},
		)
	}
	return s
}

// accept returns how many requests the first bucket can accept.
func (b bounds) accept(p *params) float64 {
	return b.buckets[0].rate*p.length.Seconds() + b.buckets[0].burst
}

// waited returns a quantile of the times that the calls of a party took longer than
// their answers.
func (r *run) waited(q float64, process int) float64 {
	var d []time.Duration
	for _, c := range r.calls {
		switch {
		case c.process != process:
		case c.ok:
			d = append(d, c.end.Sub(c.begin)-c.service)
		default:
			d = append(d, forever)
		}
	}
	return quantile(d, q).Seconds()
}

// share is the part of all accepted calls that were a party's.
func share(of []party, process int, least float64) figure {
	return figure{atLeast(of[process].name+" share", "", least), func(r *run) float64 {
		own, sum := 0, 0
		for _, c := range r.calls {
			if !c.ok {
				continue
			}
			if sum++; c.process == process {
				own++
			}
		}
		return float64(own) / float64(max(sum, 1))
	}}
}
