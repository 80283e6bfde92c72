package main

import (
	"context"
	"io"
	mathrand "math/rand"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// run is one peer in one variant of a scenario.
type run struct {
	params params
	peer   *peer
	srv    *server
	calls  []*call
	start  time.Time

	known func(*config) // tells a peer more of the server's limits; may be nil
}

// bubble runs f in virtual time, with the clients' server in its initial state.
func bubble(t *testing.T, p params, pr *peer, f func(*run)) *run {
	t.Helper()
	r := &run{params: p, peer: pr}
	synctest.Test(t, func(*testing.T) {
		//lint:ignore SA1019 it has an effect, because of the godebug line in go.mod
		mathrand.Seed(int64(p.seed)) //nolint:staticcheck // as above
		r.srv = newServer(&p)
		r.start = r.srv.start
		f(r)
	})
	return r
}

// since returns t as the time since the start of the run.
func (r *run) since(t time.Time) time.Duration { return t.Sub(r.start) }

// at returns the instant that is d after the start of the run.
func (r *run) at(d time.Duration) time.Time { return r.start.Add(d) }

// newClient makes a client of the peer.
func (r *run) newClient() doer {
	cfg := r.params.config()
	if r.known != nil {
		r.known(&cfg)
	}
	return r.peer.client(r.srv, cfg)
}

// rand returns a source for the given goroutine.
func (r *run) rand(id int) *rand.Rand { return rand.New(rand.NewPCG(r.params.seed, uint64(id)+2)) }

// send makes a call and reads its response to the end, as a caller would.
func (c *call) send(do doer) {
	ctx := context.WithValue(context.Background(), callKey{}, c)
	if c.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.patience)
		defer cancel()
	}
	url := c.url
	if url == "" {
		url = things
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err) // the URL is valid
	}
	c.begin = time.Now()
	resp, err := do(req)
	if err == nil {
		c.ok = resp.StatusCode < 300
		discard(resp)
	}
	c.end = time.Now()
}

func discard(resp *http.Response) {
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

// backlog makes n calls with the given number of workers. prepare gives each its cost,
// and may be nil.
func (r *run) backlog(do doer, workers, n int, prepare func(*call)) {
	r.calls = make([]*call, 0, n)
	var mu sync.Mutex
	next := func(id int) *call {
		mu.Lock()
		defer mu.Unlock()
		if len(r.calls) == n {
			return nil
		}
		c := &call{id: id}
		if prepare != nil {
			prepare(c)
		}
		r.calls = append(r.calls, c)
		return c
	}
	var wg sync.WaitGroup
	for id := range workers {
		wg.Go(func() {
			_ = sleepUntil(context.Background(), align(r.start, id))
			for c := next(id); c != nil; c = next(id) {
				c.send(do)
			}
		})
	}
	wg.Wait()
}

// tally collects the calls of several goroutines.
type tally struct {
	wg sync.WaitGroup
	mu sync.Mutex
	r  *run

	prepare func(*call) // gives a call its URL or cost; may be nil
}

func (t *tally) add(c *call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.prepare != nil {
		t.prepare(c)
	}
	t.r.calls = append(t.r.calls, c)
}

// failurePause is the time that a worker waits after a failed call. Without it, a
// client that fails at once would fail without end in no time.
const failurePause = 100 * time.Millisecond

// work starts a worker that makes calls one after the other until the given time.
func (t *tally) work(do doer, id, process int, until time.Time) {
	t.wg.Go(func() {
		ctx := context.Background()
		_ = sleepUntil(ctx, align(t.r.start, id))
		for time.Now().Before(until) {
			c := &call{id: id, process: process}
			t.add(c)
			c.send(do)
			if !c.ok {
				_ = sleepUntil(ctx, align(time.Now().Add(failurePause), id))
			}
		}
	})
}

// stream starts a client that makes calls at a steady rate in the interval, independently of the
// progress of earlier ones. The start of each call varies by a fifth of the interval.
// newID returns the id of each call's own goroutine.
func (t *tally) stream(do doer, process int, perSecond float64, in interval, newID func() int) {
	interval := time.Duration(float64(time.Second) / perSecond)
	rng := t.r.rand(process)
	phase := time.Duration(rng.Int64N(int64(interval)))
	t.wg.Go(func() {
		ctx := context.Background()
		for k := 0; ; k++ {
			jitter := time.Duration(rng.Int64N(int64(interval)/5 + 1))
			due := t.r.at(in.from + phase + time.Duration(k)*interval + jitter)
			due = align(due, process)
			if !in.holds(t.r.since(due)) {
				return
			}
			_ = sleepUntil(ctx, due)
			c := &call{id: newID(), process: process, patience: t.r.params.patience}
			t.add(c)
			t.wg.Go(func() { c.send(do) })
		}
	})
}

// poisson starts a client that makes calls at random times until the given time, on
// average so many a second.
func (t *tally) poisson(do doer, process int, perSecond float64, until time.Time, newID func() int) {
	rng := t.r.rand(process)
	t.wg.Go(func() {
		for due := t.r.start; ; {
			due = due.Add(time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second)))
			if !due.Before(until) {
				return
			}
			c := &call{id: newID(), process: process}
			_ = sleepUntil(context.Background(), align(due, c.id))
			t.add(c)
			t.wg.Go(func() { c.send(do) })
		}
	})
}

// ids counts goroutines.
func ids(from int) func() int {
	var mu sync.Mutex
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		from++
		return from % lattice
	}
}
