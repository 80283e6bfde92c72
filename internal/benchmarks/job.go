package main

import (
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// The names of what a bound counts.
const (
	tokens   = "tokens"
	requests = "requests"
)

// bound is a token bucket of the server's. One of the name tokens counts these, and
// all others count requests.
type bound struct {
	name        string
	rate, burst float64
}

// bounds are all limits of a server, each of which has to accept a request.
type bounds struct {
	buckets  []bound
	inFlight int // requests that may be under way; 0: any number
	counts   counting
	told     bool // the peers know no number, but the server says them all
	learned  bool // the peers know no number, and nobody says one
	settles  bool // the answer says what a request has cost
}

// prepare gives the server its limits, and tells the peer of them.
func (b bounds) prepare(r *run) {
	var all every
	var meters []*meter
	for _, l := range b.buckets {
		m := newMeter(l.name, l.rate, l.burst, l.name == tokens, r.start)
		m.counts = b.counts
		meters, all = append(meters, m), append(all, m)
	}
	if b.inFlight > 0 {
		all = append(all, &inFlight{most: b.inFlight})
	}
	if r.params.share > 0 {
		all = append(all, newChance(&r.params))
	}
	r.srv.limit = all
	if b.told {
		r.srv.tells = func(h http.Header, now time.Time) {
			for _, m := range meters {
				m.tell(h, now)
			}
		}
	}
	r.known = b.tell
}

func (b bounds) tell(cfg *config) {
	cfg.limit, cfg.burst = rate.Inf, 0
	cfg.known = known{inFlight: b.inFlight, fields: b.told, settles: b.settles}
	for _, l := range b.buckets {
		switch limit := rate.Limit(l.rate); {
		case (b.told || b.learned) && l.name == tokens:
			cfg.known.limits = append(cfg.known.limits, knownLimit{tokens, rate.Inf, 0, true})
		case b.told, b.learned:
		case l.name == requests:
			cfg.limit, cfg.burst = limit, int(l.burst)
		default:
			cfg.known.limits = append(cfg.known.limits, knownLimit{l.name, limit, int(l.burst), l.name == tokens})
		}
	}
}

// job is a backlog of calls that are of different cost or length.
type job struct {
	bounds
	cost  func(*rand.Rand) float64
	guess func(*rand.Rand) float64                         // times the cost; nil: it is known
	takes func(rng *rand.Rand, part float64) time.Duration // of a call at some part of the job; nil: params.latency
}

// jobTargets are the targets of a job. The makespan and the quantiles are multiples of
// those of an ideal queue.
type jobTargets struct{ makespan, refused, p99, longest float64 }

// job returns a variant that measures j. No call may fail.
func (j job) variant(name, model string, p params, w jobTargets) variant {
	return variant{name: name, model: model, params: p, measure: j.measure, metrics: []metric{
		atMost("optimum", "time", none()),
		atMost("makespan / optimum", "", w.makespan),
		atMost("refused", "n", w.refused),
		atMost("failed", "n", 0),
		atMost("FIFO p99", "time", none()),
		atMost("p99 / FIFO", "", w.p99),
		atMost("longest / FIFO", "", w.longest),
	}}
}

func (j job) measure(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	r := bubble(t, p, pr, func(r *run) {
		j.prepare(r)
		rng := rand.New(rand.NewPCG(p.seed, 9))
		r.backlog(r.newClient(), p.workers, p.n, func(c *call) { j.prepareCall(rng, &p, c, len(r.calls)) })
	})
	var last time.Duration
	for _, c := range r.calls {
		last = max(last, r.since(c.end))
	}
	best, ideal := j.fifo(&p, r.calls)
	answered := slices.DeleteFunc(slices.Clone(r.calls), func(c *call) bool { return !c.ok })
	least, _ := j.fifo(&p, answered)
	values := []float64{
		best,
		last.Seconds() / least,
		float64(r.srv.count(interval{0, forever}).refused),
		float64(r.failed()),
		quantile(ideal, 0.99).Seconds(),
		ratio(r.latency(0.99, all), quantile(ideal, 0.99)),
		ratio(r.latency(1, all), quantile(ideal, 1)),
	}
	if r.failed() > p.n/10 {
		values[1] = none()
	}
	return values, r
}

func ratio(d, ideal time.Duration) float64 {
	if d == forever {
		return forever.Seconds() // there is none
	}
	return d.Seconds() / ideal.Seconds()
}

// prepareCall draws the cost and the length of a call, the same for all peers.
func (j *job) prepareCall(rng *rand.Rand, p *params, c *call, k int) {
	if j.cost != nil {
		c.cost = math.Ceil(j.cost(rng))
	}
	if c.guess = c.cost; j.guess != nil {
		c.guess *= j.guess(rng)
	}
	if c.takes = p.latency; j.takes != nil {
		c.takes = j.takes(rng, float64(k)/float64(p.n))
	}
}

// fifo returns how long an ideal queue takes for the calls, in seconds, and for each of
// them. It knows their costs, and lets each go, in order, in the instant in which the
// server would accept it. As long as there is enough to do, nothing is faster.
func (j *job) fifo(p *params, calls []*call) (makespan float64, each []time.Duration) {
	workers := make([]float64, p.workers) // when each is free
	places := make([]float64, j.inFlight) // the same
	levels := make([]float64, len(j.buckets))
	for i, b := range j.buckets {
		levels[i] = b.burst
	}
	last := 0.0 // when the call before went
	for _, c := range calls {
		worker := earliest(workers)
		begin, place := *worker, new(float64)
		if j.inFlight > 0 {
			place = earliest(places)
		}
		at := max(begin, last, *place)
		costs := make([]float64, len(j.buckets))
		for i, b := range j.buckets {
			if costs[i] = 1; b.name == tokens {
				costs[i] = c.cost
			}
			at = max(at, last+(min(costs[i], b.burst)-levels[i])/b.rate)
		}
		for i, b := range j.buckets {
			levels[i] = min(levels[i]+(at-last)*b.rate, b.burst) - costs[i]
		}
		end := at + c.takes.Seconds()
		last, *worker, *place = at, end, end
		makespan = max(makespan, end)
		each = append(each, time.Duration((end-begin)*float64(time.Second)))
	}
	return makespan, each
}

// earliest returns the smallest of the times.
func earliest(times []float64) *float64 { return &times[slices.Index(times, slices.Min(times))] }

// logNormal returns costs with a median and a sigma, up to a largest one.
func logNormal(median, sigma, most float64) func(*rand.Rand) float64 {
	return func(rng *rand.Rand) float64 { return min(median*math.Exp(rng.NormFloat64()*sigma), most) }
}

// times returns a guess that is always wrong by the same factor.
func times(factor float64) func(*rand.Rand) float64 {
	return func(*rand.Rand) float64 { return factor }
}
