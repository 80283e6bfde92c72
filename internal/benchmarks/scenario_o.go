package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// failover is scenario o: an API at two endpoints, of which the first is down at times.
func failover() scenario {
	return scenario{
		letter: "o",
		title:  "Two endpoints",
		model: "Calls at a steady rate; 20 ms until an answer, 5 ms until a 503, an attempt timeout of 1 s, 4 attempts. The first endpoint is down from 10 s to 70 s, if nothing else is said. " +
			"Waited is the number of calls that took a second or longer. Back is the time from the end of the outage until the first endpoint answers a call. Away is the share of the calls that it did not answer.",
		peers:    []string{"resilient, attempt timeout", "endpoints over resilient", "hand-written failover"},
		variants: failovers(),
	}
}

// The hosts of scenario o. Calls to any other are for the first region too.
const (
	firstRegion  = "eu.example"
	secondRegion = "us.example"
)

// world is two regions of a server, which answers for both of them.
type world struct {
	server http.RoundTripper
	start  time.Time
	first  region
	second region

	mu     sync.Mutex
	probes []time.Duration  // of the first region
	by     map[*call]string // who has answered
}

// region says what it does with a request at some time: it passes it on if that is "".
type region func(at time.Duration) trouble

// trouble is how a region fails.
type trouble uint8

const (
	fine trouble = iota
	quiet
	unavailable
)

// RoundTrip implements http.RoundTripper. A request without a call is a probe.
func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, at := req.Context(), time.Since(w.start)
	c, called := ctx.Value(callKey{}).(*call)
	host, does := firstRegion, w.first
	if req.URL.Host == secondRegion {
		host, does = secondRegion, w.second
	}
	if !called {
		c = &call{id: lattice - 1}
		if host == firstRegion {
			w.mu.Lock()
			w.probes = append(w.probes, at)
			w.mu.Unlock()
		}
	}
	switch does(at) {
	case quiet:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	case unavailable:
		if err := sleepUntil(ctx, align(time.Now().Add(5*ms), c.id)); err != nil {
			return nil, err
		}
		return answer(req, http.StatusServiceUnavailable, http.Header{}), nil
	case fine:
	}
	if !called {
		if err := sleepUntil(ctx, align(time.Now().Add(20*ms), c.id)); err != nil {
			return nil, err
		}
		return answer(req, http.StatusOK, http.Header{}), nil
	}
	resp, err := w.server.RoundTrip(req)
	if err == nil {
		w.mu.Lock()
		w.by[c] = host
		w.mu.Unlock()
	}
	return resp, err
}

// always is a region without trouble.
func always(time.Duration) trouble { return fine }

// in is a region with trouble for some time.
func in(i interval, what trouble) region {
	return func(at time.Duration) trouble {
		if i.holds(at) {
			return what
		}
		return fine
	}
}

// flapping is a region with trouble every other period, from the first one that it has.
func flapping(period time.Duration, what trouble) region {
	return func(at time.Duration) trouble {
		if at/period%2 == 1 {
			return what
		}
		return fine
	}
}

// moved is how calls fare between two regions.
type moved struct {
	first, second func(*params) region
	down          interval // of the first one; zero: at times
}

// movedTargets are those of the metrics of scenario o.
type movedTargets struct{ waited, failed, longest, probes, back, away float64 }

func (m moved) variant(name, model string, p params, w movedTargets) variant {
	v := variant{name: name, model: model, params: p, measure: m.measure, metrics: []metric{
		atMost("waited", "n", w.waited),
		atMost("failed", "n", w.failed),
		atMost("longest call", "time", w.longest),
		atMost("away", "%", w.away),
	}}
	if m.down != (interval{}) {
		v.metrics = append(v.metrics, atMost("probes a second", "", w.probes), atMost("back", "time", w.back))
	}
	return v
}

func (m moved) measure(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	w := &world{by: make(map[*call]string), first: m.first(&p), second: always}
	if m.second != nil {
		w.second = m.second(&p)
	}
	r := bubble(t, p, pr, func(r *run) {
		w.server, w.start = r.srv, r.start
		all := &tally{r: r}
		all.stream(pr.client(w, p.config()), 0, p.each, interval{0, p.length}, ids(1))
		all.wg.Wait()
		time.Sleep(11 * time.Second) // for the last probe
	})
	waited, away := 0, 0
	back := forever
	for _, c := range r.calls {
		if c.end.Sub(c.begin) >= patience {
			waited++
		}
		if c.ok && w.by[c] != firstRegion {
			away++
		}
		if c.ok && w.by[c] == firstRegion && r.since(c.end) >= m.down.to {
			back = min(back, r.since(c.end)-m.down.to)
		}
	}
	values := []float64{
		float64(waited), float64(r.failed()), r.latency(1, all).Seconds(),
		float64(away) / float64(max(len(r.calls), 1)),
	}
	if m.down == (interval{}) {
		return values, r
	}
	w.probes = slices.DeleteFunc(w.probes, func(at time.Duration) bool { return at >= m.down.to })
	return append(values, float64(len(w.probes))/(m.down.to-m.down.from).Seconds(), back.Seconds()), r
}

func failovers() []variant {
	p := defaults()
	p.rate, p.attempts, p.clients, p.each, p.length = 0, 4, 1, 10, 80*time.Second
	of := func(each float64, length time.Duration) params {
		q := p
		q.each, q.length = each, length
		return q
	}
	minute := interval{10 * time.Second, 70 * time.Second}
	down := func(what trouble, i interval) moved {
		return moved{first: func(*params) region { return in(i, what) }, down: i}
	}
	flaps := func(period time.Duration, what trouble) moved {
		return moved{first: func(*params) region { return flapping(period, what) }}
	}
	chance := func(share float64) moved {
		return moved{first: func(p *params) region {
			rng := rand.New(rand.NewPCG(p.seed, 11))
			var mu sync.Mutex
			return func(time.Duration) trouble {
				mu.Lock()
				defer mu.Unlock()
				if rng.Float64() < share {
					return unavailable
				}
				return fine
			}
		}}
	}
	both := down(quiet, minute)
	both.second = func(*params) region { return in(interval{30 * time.Second, 35 * time.Second}, unavailable) }
	// What the callers of a second and of one more 100 ms may wait for.
	silent := movedTargets{12, 0, 1.1, 1.05, 1, none()}
	refused := movedTargets{0, 0, 0.03, 1.05, 1, none()}
	return []variant{
		down(quiet, minute).variant("o.silent", "10 calls a second, silent", p, silent),
		down(quiet, interval{10 * time.Second, 69600 * ms}).variant("o.silent-59.6", "as o.silent, for 59.6 s", p, movedTargets{12, 0, 1.1, 1.05, 1.15, none()}),
		down(quiet, minute).variant("o.silent-100", "as o.silent, 100 calls a second", of(100, 80*time.Second), movedTargets{102, 0, 1.1, 1.05, 1.05, none()}),
		down(quiet, minute).variant("o.silent-1", "as o.silent, a call a second", of(1, 80*time.Second), movedTargets{2, 0, 1.1, 1.05, 2.2, none()}),
		down(unavailable, minute).variant("o.503", "10 calls a second, 503", p, refused),
		both.variant("o.both", "as o.silent, and the second one answers 503 from 30 s to 35 s", p, movedTargets{62, 45, none(), 1.05, 1, none()}),
		flaps(2*time.Second, unavailable).variant("o.flap", "10 calls a second, 503 every other 2 s; 2 min", of(10, 2*time.Minute), movedTargets{0, 0, 0.03, none(), none(), none()}),
		flaps(2*time.Second, quiet).variant("o.flap-silent", "as o.flap, silent", of(10, 2*time.Minute), movedTargets{36, 0, 1.1, none(), none(), none()}),
		flaps(20*time.Second, quiet).variant("o.flap-20", "as o.flap, silent every other 20 s; 4 min", of(10, 4*time.Minute), movedTargets{72, 0, 1.1, none(), none(), 0.55}),
		chance(0.01).variant("o.chance", "10 calls a second, 1 % of the requests get a 503; 5 min", of(10, 5*time.Minute), movedTargets{0, 0, 0.05, none(), none(), 0.05}),
		chance(0.01).variant("o.chance-1000", "as o.chance, 1,000 calls a second; 20 s", of(1000, 20*time.Second), movedTargets{0, 0, 0.05, none(), none(), 0.02}),
	}
}
