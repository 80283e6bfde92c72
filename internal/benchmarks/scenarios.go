package main

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// scenario is a row of the scoreboard's table of contents.
type scenario struct {
	letter   string
	title    string
	model    string // of the server and the callers, as far as all variants share it
	variants []variant
}

// variant is a way to run a scenario.
type variant struct {
	name    string // such as "a.backlog"
	model   string
	params  params
	metrics []metric
	measure func(*testing.T, params, *peer) ([]float64, *run)

	// together, in place of measure, returns the values of all peers, taken in
	// turns, since the machine is not the same from one second to the next.
	together func(*testing.T, params, []peer) [][]float64

	picture *picture // nil: none
}

// constant is the limit of a picture where it does not change.
func constant(p params, _ time.Duration) float64 { return p.rate }

// metric is a row of the table.
type metric struct {
	name    string
	unit    string
	target  float64 // what the transport is to reach; NaN: none is set
	atLeast bool    // more is better
}

// none is a target that is not set, or a value that there is not.
func none() float64 { return math.NaN() }

func atMost(name, unit string, target float64) metric {
	return metric{name: name, unit: unit, target: target}
}

func atLeast(name, unit string, target float64) metric {
	return metric{name: name, unit: unit, target: target, atLeast: true}
}

func (r *run) failed() (n int) {
	for _, c := range r.calls {
		if !c.ok {
			n++
		}
	}
	return n
}

// refusedPerSuccess is what the clients cost the server, until the given time.
func (r *run) refusedPerSuccess(until time.Duration) float64 {
	from := time.Duration(0)
	if strings.HasSuffix(r.params.hint, "ratelimit") {
		from = binWidth // what is sent before the first answer was not told
	}
	sum := r.srv.count(interval{from, until})
	return float64(sum.refused) / float64(max(sum.accepted, 1))
}

const forever = time.Duration(math.MaxInt64)

// latency returns a quantile of how long the calls took that pick selects. One
// that failed was never answered.
func (r *run) latency(q float64, pick func(*call) bool) time.Duration {
	var d []time.Duration
	for _, c := range r.calls {
		switch {
		case !pick(c):
		case c.ok:
			d = append(d, c.end.Sub(c.begin))
		default:
			d = append(d, forever)
		}
	}
	return quantile(d, q)
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[max(int(math.Ceil(q*float64(len(d))))-1, 0)]
}

func all(*call) bool { return true }

func scenarios() []scenario {
	return []scenario{drain(), outage(), isolated(), change(), fleet(), cost(), noLimit()}
}
