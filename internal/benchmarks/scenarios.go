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
	model    string   // of the server and the callers, for all variants
	peers    []string // the names of the columns; nil: all
	variants []variant
}

// variant is a way to run a scenario.
type variant struct {
	name    string // such as "a.backlog"
	model   string
	params  params
	metrics []metric
	measure func(*testing.T, params, *peer) ([]float64, *run)

	// together is used instead of measure, and returns the values of all peers. It
	// measures them in turns, because the speed of the machine varies.
	together func(*testing.T, params, []peer) [][]float64

	picture *picture // may be nil
	duel    *duel    // may be nil
}

// constant is the limit of a picture if it does not change.
func constant(p params, _ time.Duration) float64 { return p.rate }

// metric is a row of the table.
type metric struct {
	name    string
	unit    string
	target  float64 // the goal of the transport, or NaN
	atLeast bool    // larger values are better
	anySeed float64 // the target for the worst of several seeds; NaN: target

	bar func(*params) float64 // the target, where it depends on the parameters; may be nil
}

// none returns NaN, which stands for a missing target or value.
func none() float64 { return math.NaN() }

func atMost(name, unit string, target float64) metric {
	return metric{name: name, unit: unit, target: target, anySeed: none()}
}

func atLeast(name, unit string, target float64) metric {
	return metric{name: name, unit: unit, target: target, atLeast: true, anySeed: none()}
}

// scaled returns the metric with a target that depends on the parameters.
func (m metric) scaled(bar func(*params) float64) metric {
	m.bar = bar
	return m
}

// with returns the variant with other parameters, and the targets that follow from them.
func (v variant) with(p params) variant {
	v.params, v.metrics = p, slices.Clone(v.metrics)
	for i := range v.metrics {
		if m := &v.metrics[i]; m.bar != nil {
			m.target = m.bar(&p)
		}
	}
	return v
}

// scaled returns the variant with a target that depends on the parameters.
func (v variant) scaled(name string, bar func(*params) float64) variant {
	for i := range v.metrics {
		if v.metrics[i].name == name {
			v.metrics[i].bar = bar
		}
	}
	return v.with(v.params)
}

func (r *run) failed() (n int) {
	for _, c := range r.calls {
		if !c.ok {
			n++
		}
	}
	return n
}

// refusedPerSuccess returns the number of refusals for each success until the given
// time, which is the cost of the clients to the server.
func (r *run) refusedPerSuccess(until time.Duration) float64 {
	from := time.Duration(0)
	if strings.HasSuffix(r.params.hint, "ratelimit") {
		from = binWidth // requests sent before the first answer do not know the limit
	}
	sum := r.srv.count(interval{from, until})
	return float64(sum.refused) / float64(max(sum.accepted, 1))
}

const forever = time.Duration(math.MaxInt64)

// latency returns a quantile of the durations of the calls that pick selects. The
// duration of a failed call is forever.
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
	return []scenario{drain(), outage(), isolated(), change(), fleet(), cost(), noLimit(), rateLimits(), routeLimits(), flightLimits(), downtime(), weights(), hedges(), tokensRevoked(), failover()}
}
