package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// hedges is scenario m: requests that are slow by chance, and a second one for them.
func hedges() scenario {
	return scenario{
		letter: "m",
		title:  "Hedged requests",
		model: "Calls come at a steady rate, whether or not earlier ones have ended, and requests are slow independently of each other. Extra is the number of requests beyond one for each call. " +
			"A request counts even if it is canceled. All columns but the first hedge above resilient. The targets for p99 and p99.9 are those of m.slow, and otherwise 6 and 10 % above what 5.75 % of hedges can reach if the distribution is known.",
		peers:    []string{"resilient", "hedge over resilient", "hedgedhttp over resilient", "hedgedhttp, delay known"},
		variants: slices.Concat(slowByChance(), slowTogether(), refusedByChance()),
	}
}

// requests returns how many requests a call may be, each with its attempts.
func (s *scenario) requests() int {
	if s.letter == "m" {
		return 2
	}
	return 1
}

// hedging is a server and a load of hedged calls.
type hedging struct {
	takes  func(*rand.Rand) time.Duration // until the answer to a request
	factor func(since time.Duration) float64
	heavy  bool     // all requests of a call take the same time
	count  interval // of the calls that are measured; zero: all
	more   []figure
}

func hedgeParams(perSecond float64, length time.Duration) params {
	p := defaults()
	p.rate, p.clients, p.each, p.attempts, p.length, p.refusal = 0, 1, perSecond, 4, length, 0
	return p
}

// hedgeTargets are those of the metrics of scenario m; times are in milliseconds.
type hedgeTargets struct{ extra, failed, p99, p999 float64 }

func (h hedging) variant(name, model string, p params, w hedgeTargets) variant {
	v := variant{name: name, model: model, params: p, measure: h.measure, metrics: []metric{
		atMost("extra", "%", w.extra),
		atMost("failed", "%", w.failed),
		atMost("p50", "ms", none()),
		atMost("p99", "ms", w.p99),
		atMost("p99.9", "ms", w.p999),
	}}
	for _, f := range h.more {
		v.metrics = append(v.metrics, f.metric)
	}
	return v
}

func (h hedging) measure(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	r := bubble(t, p, pr, func(r *run) {
		known := h.p95(p.seed)
		r.known = func(c *config) { c.known.p95 = known }
		r.srv.service = h.serve(r)
		all := &tally{r: r}
		if h.heavy {
			rng := r.rand(lattice)
			all.prepare = func(c *call) { c.takes = h.takes(rng) }
		}
		openLoad(r, all)
		all.wg.Wait()
		time.Sleep(11 * time.Second) // for hedgedhttp, whose goroutines stay for 10 s
	})
	measured := h.count
	if measured == (interval{}) || p.length < measured.to {
		measured = interval{0, forever}
	}
	calls, requests, failed := 0, 0, 0
	counts := func(c *call) bool { return measured.holds(r.since(c.begin)) }
	for _, c := range r.calls {
		if !counts(c) {
			continue
		}
		calls++
		requests += c.attempts
		if !c.ok {
			failed++
		}
	}
	values := []float64{
		float64(requests)/float64(max(calls, 1)) - 1,
		float64(failed) / float64(max(calls, 1)),
	}
	for _, q := range []float64{0.5, 0.99, 0.999} {
		values = append(values, 1000*r.latency(q, counts).Seconds())
	}
	for _, f := range h.more {
		values = append(values, f.value(r))
	}
	return values, r
}

func (h hedging) serve(r *run) func(*rand.Rand) time.Duration {
	if h.factor == nil {
		return h.takes
	}
	return func(rng *rand.Rand) time.Duration {
		return time.Duration(h.factor(r.since(time.Now())) * float64(h.takes(rng)))
	}
}

// p95 returns what 5 % of the requests outlast.
func (h hedging) p95(seed uint64) time.Duration {
	rng := rand.New(rand.NewPCG(seed, 3))
	d := make([]time.Duration, 100_000)
	for i := range d {
		d[i] = h.takes(rng)
	}
	return quantile(d, 0.95)
}

// stragglers draws log-normal times in milliseconds with the given mean and standard
// deviation; a share of them is longer by a factor.
func stragglers(mean, deviation, share, factor float64) func(*rand.Rand) time.Duration {
	variance := math.Log(1 + deviation*deviation/(mean*mean))
	usual := logNormal(mean/math.Exp(variance/2), math.Sqrt(variance), math.Inf(1))
	return func(rng *rand.Rand) time.Duration {
		d := usual(rng) * float64(time.Millisecond)
		if rng.Float64() < share {
			d *= factor
		}
		return time.Duration(d)
	}
}

func slowByChance() []variant {
	const a = "log-normal, mean 5 ms, standard deviation 2 ms, 5 % take 10 times as long; 1,000 calls a second for a minute"
	return []variant{
		hedging{takes: stragglers(5, 2, 0.05, 10)}.variant("m.slow", a, hedgeParams(1000, time.Minute), hedgeTargets{0.06, 0, 20, 50}),
		hedging{takes: stragglers(50, 15, 0.01, 20)}.variant("m.rare", "mean 50 ms, standard deviation 15 ms, 1 % take 20 times as long; 200 calls a second for 5 minutes",
			hedgeParams(200, 5*time.Minute), hedgeTargets{0.06, 0, 121, 163}),
		hedging{takes: stragglers(20, 2, 0.04, 20)}.variant("m.bimodal", "mean 20 ms, standard deviation 2 ms, 4 % take 20 times as long; 300 calls a second for 3 minutes",
			hedgeParams(300, 3*time.Minute), hedgeTargets{0.06, 0, 49, 417}),
		hedging{takes: stragglers(40, 60, 0, 1)}.variant("m.tail", "mean 40 ms, standard deviation 60 ms, none slower than that; 100 calls a second for 10 minutes",
			hedgeParams(100, 10*time.Minute), hedgeTargets{0.06, 0, 172, 257}),
		hedging{takes: stragglers(5, 2, 0.1, 10)}.variant("m.many", "as m.slow, 10 % take 10 times as long", hedgeParams(1000, time.Minute), hedgeTargets{0.06, 0, 53, 81}),
		hedging{takes: stragglers(5, 2, 0.05, 10), heavy: true}.variant("m.heavy", "as m.slow, but a hedge takes as long as its first request, which asks for much", hedgeParams(1000, time.Minute), hedgeTargets{0.02, 0, none(), none()}),
	}
}

func slowTogether() []variant {
	slow := func(from, length time.Duration) hedging {
		return hedging{
			takes: stragglers(5, 2, 0.05, 10),
			factor: func(since time.Duration) float64 {
				if (interval{from, from + length}).holds(since) {
					return 20
				}
				return 1
			},
			count: interval{from + time.Second, from + length},
		}
	}
	return []variant{
		slow(20*time.Second, 10*time.Second).variant("m.all-slow", "as m.slow, 500 calls a second; after 20 s the whole server is 20 times slower, for 10 s. The calls after the first second of these are measured.",
			hedgeParams(500, 30*time.Second), hedgeTargets{0.01, none(), none(), none()}),
		slow(20*time.Second, 10*time.Second).variant("m.all-slow-50", "as m.all-slow, 50 calls a second", hedgeParams(50, 30*time.Second), hedgeTargets{0.01, none(), none(), none()}),
	}
}

func refusedByChance() []variant {
	refused := func(share float64, perSecond float64) params {
		p := hedgeParams(perSecond, time.Minute)
		p.server, p.share, p.status, p.rate = "chance", share, 503, 1
		return p
	}
	lost := figure{atMost("failed beside an accepted request", "n", 0), func(r *run) float64 {
		n := 0
		for _, c := range r.calls {
			if !c.ok && !c.accepted.IsZero() {
				n++
			}
		}
		return float64(n)
	}}
	h := hedging{takes: stragglers(5, 2, 0.05, 10), more: []figure{lost}}
	var all []variant
	for _, v := range []struct {
		name  string
		share float64
	}{{"m.refused", 0.2}, {"m.refused5", 0.05}} {
		// Without a hedge a call fails if four attempts are refused. Of 60,000 calls a few
		// more may do so by chance.
		fail := math.Pow(v.share, 4)
		w := hedgeTargets{none(), fail + 3*math.Sqrt(fail/60_000), none(), none()}
		all = append(all, h.variant(v.name, fmt.Sprintf("as m.slow, %.0f %% of all requests are answered 503 at once", 100*v.share), refused(v.share, 1000), w))
	}
	return all
}
