package main

import (
	"math"
	"slices"
	"testing"
	"time"
)

const (
	leadIn   = 10 * time.Second // of ordinary traffic, before the outage
	headroom = 1.3              // capacity / load
	share500 = 0.2              // of the requests, in b.errors
)

// outage is scenario b: the server fails, and the clients continue to call.
func outage() scenario {
	with := func(length time.Duration) params {
		p := defaults()
		p.rate, p.clients, p.each, p.attempts, p.length = 0, 100, 10, 4, length
		return p
	}
	s := scenario{
		letter: "b",
		title:  "Outage",
		model: "100 clients make 10 calls a second each, whether or not earlier ones have ended. The server answers 1300 a second (1.3 times the load) behind " +
			"an unbounded FIFO queue, and does not notice if a client has given up. Attempts time out after 1 s. " +
			"10 s of ordinary traffic, the outage, 120 s of ordinary traffic. Calls that begin in the outage are counted.",
	}
	kinds := []struct {
		name, model string
		length      time.Duration
		metrics     []metric
		set         func(*server, interval)
		measure     func(*run, interval) []float64
	}{
		{
			"outage", "30 s of 503", 30 * time.Second,
			[]metric{atMost("amplification", "x", 1.1), atMost("failed after it", "n", 0)},
			func(s *server, i interval) { s.down = i },
			func(r *run, i interval) []float64 {
				return []float64{r.amplification(i), float64(r.lost(interval{i.to, forever}))}
			},
		},
		{
			"stall", "the queue is not served for 10 s", 10 * time.Second,
			[]metric{atMost("amplification", "x", none()), atMost("recovery", "s", 35)},
			func(s *server, i interval) { s.stall = i },
			func(r *run, i interval) []float64 {
				return []float64{r.amplification(i), r.recovery(i).Seconds()}
			},
		},
		{
			"errors", "20 % random 500s for 60 s", 60 * time.Second,
			[]metric{atMost("amplification", "x", none()), atMost("lost", "n", 600)},
			func(s *server, i interval) { s.flaky, s.failRate = i, share500 },
			func(r *run, i interval) []float64 {
				return []float64{r.amplification(i), float64(r.lost(i))}
			},
		},
	}
	for _, k := range kinds {
		for _, shared := range []bool{false, true} {
			v := variant{
				name: "b." + k.name, model: k.model + ", one transport per client",
				params: with(k.length), metrics: k.metrics,
			}
			if !shared {
				v.picture = &picture{
					length: leadIn + k.length + 80*time.Second, top: 4000,
					limit: func(p params, _ time.Duration) float64 { return p.capacity() },
				}
			} else {
				v.name, v.model = v.name+"-shared", k.model+", one transport for all"
			}
			v.measure = func(t *testing.T, p params, pr *peer) ([]float64, *run) {
				t.Helper()
				trouble := interval{leadIn, leadIn + p.length}
				r := bubble(t, p, pr, func(r *run) {
					r.srv.capacity, r.srv.timeout = p.capacity(), time.Second
					k.set(r.srv, trouble)
					r.openLoop(shared, trouble.to+2*time.Minute)
				})
				return k.measure(r, trouble), r
			}
			s.variants = append(s.variants, v)
		}
	}
	return s
}

// capacity returns the answers a second of the server in scenario b.
func (p *params) capacity() float64 { return headroom * float64(p.clients) * p.each }

// openLoop makes each client call at its rate, whether or not earlier calls have
// returned.
func (r *run) openLoop(shared bool, length time.Duration) {
	all := &tally{r: r}
	newID := ids(r.params.clients)
	common := r.newClient()
	for k := range r.params.clients {
		do := common
		if !shared {
			do = r.newClient()
		}
		all.stream(do, k, r.params.each, interval{0, length}, newID)
	}
	all.wg.Wait()
}

// amplification returns the average number of attempts of the calls that begin in
// the interval.
func (r *run) amplification(i interval) float64 {
	calls, attempts := 0, 0
	for _, c := range r.calls {
		if i.holds(r.since(c.begin)) {
			calls++
			attempts += c.attempts
		}
	}
	return float64(attempts) / float64(max(calls, 1))
}

// lost returns the number of calls that begin in the interval and fail.
func (r *run) lost(i interval) (n int) {
	for _, c := range r.calls {
		if i.holds(r.since(c.begin)) && !c.ok {
			n++
		}
	}
	return n
}

// recovery returns the time after the interval from which on 95 % of the calls that
// begin in each second succeed.
func (r *run) recovery(i interval) time.Duration {
	type tally struct{ calls, failed int }
	var seconds []tally
	for _, c := range r.calls {
		d := r.since(c.begin) - i.to
		if d < 0 {
			continue
		}
		for len(seconds) <= int(d/time.Second) {
			seconds = append(seconds, tally{})
		}
		s := &seconds[d/time.Second]
		s.calls++
		if !c.ok {
			s.failed++
		}
	}
	for k, s := range slices.Backward(seconds) {
		if float64(s.failed) > 0.05*float64(s.calls) {
			if k == len(seconds)-1 {
				return math.MaxInt64 // never
			}
			return time.Duration(k+1) * time.Second
		}
	}
	return 0
}
