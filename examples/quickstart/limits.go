package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient"
)

// The load on the API while a limit is looked for.
const (
	searches = 30  // as many at once as there are
	readings = 400 // by some workers
	workers  = 32
)

// limits shows what a Transport finds out about the limits of the API, which does not
// say a word about them: a limit of one route, and refusals by chance.
func (p printer) limits(ctx context.Context, base string) error {
	return errors.Join(p.findLimit(ctx, base), p.findChance(ctx, base))
}

// findLimit sends more searches than the API allows. Other requests are sent at the
// same time.
func (p printer) findLimit(ctx context.Context, base string) error {
	const title = "GET /v1/search : %d at once. The API accepts %d a second and does not say so"
	p.section(fmt.Sprintf(title, searches, searchLimit))
	transport := resilient.NewTransport(nil)
	defer transport.CloseIdleConnections()

	beside, stop := context.WithCancel(ctx)
	var others report
	var wg sync.WaitGroup
	wg.Go(func() {
		for beside.Err() == nil {
			others.add(timed(ctx, transport, base+"/v1/sensors/door/visitors"))
			time.Sleep(5 * time.Millisecond)
		}
	})
	time.Sleep(100 * time.Millisecond) // so that they are under way
	begun := time.Now()
	answered := inParallel(searches, searches, func() (time.Duration, error) {
		return timed(ctx, transport, base+"/v1/search")
	})
	took := time.Since(begun)
	stop()
	wg.Wait()

	s := transport.Snapshot()
	p.believed(&s)
	p.line("kept to", "%s in %v; %d attempts were refused on the way", answered, round(took), s.Totals.Failures[resilient.ReasonRateLimited])
	p.line("untouched", "GET /v1/sensors/door/visitors: %s meanwhile, the slowest in %v", &others, round(others.slowest()))
	return errors.Join(answered.err, others.err)
}

// findChance sends readings to a load balancer with a bad server behind it.
func (p printer) findChance(ctx context.Context, base string) error {
	p.section(fmt.Sprintf("GET /v1/weather : 1 of %d servers behind it answers 429, however little is sent", weatherServers))
	transport := resilient.NewTransport(nil, resilient.WithMaxAttempts(8), resilient.WithBackOff(func() backoff.BackOff {
		return backoff.NewConstantBackOff(100 * time.Millisecond) // for a short tour
	}))
	defer transport.CloseIdleConnections()

	answered := inParallel(readings, workers, func() (time.Duration, error) {
		return timed(ctx, transport, base+"/v1/weather")
	})
	s := transport.Snapshot()
	held := s.Totals.Waits[resilient.ReasonRateLimit].Time + s.Totals.Waits[resilient.ReasonPause].Time
	p.believed(&s)
	p.line("harmless", "%s, half of them within %v; on average they waited for each other for %v",
		answered, round(answered.median()), round(held/readings))
	return answered.err
}

// believed prints what a Transport believes of the limits.
func (p printer) believed(s *resilient.Snapshot) {
	label := "found"
	for _, k := range s.Keys {
		for _, l := range k.Limits {
			p.line(label, "%s", p.clean(l.String()))
			label = ""
		}
	}
	if label != "" {
		p.line(label, "nothing: there were too few refusals in a row for a suspicion")
	}
}

// timed makes a GET and returns how long it took.
func timed(ctx context.Context, transport http.RoundTripper, url string) (time.Duration, error) {
	begun := time.Now()
	req, err := call{method: http.MethodGet, url: url, key: goodKey}.request(ctx)
	if err != nil {
		return 0, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, errRefused)
	}
	return time.Since(begun), err
}

var errRefused = errors.New("the API refused it")

// inParallel calls f n times, from the given number of goroutines.
func inParallel(n, goroutines int, f func() (time.Duration, error)) *report {
	var r report
	var wg sync.WaitGroup
	var begun atomic.Int64
	for range goroutines {
		wg.Go(func() {
			for begun.Add(1) <= int64(n) {
				r.add(f())
			}
		})
	}
	wg.Wait()
	return &r
}

// report collects the outcomes of calls.
type report struct {
	mu   sync.Mutex
	took []time.Duration // of those that were answered
	all  int
	err  error // apart from refusals
}

func (r *report) add(took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all++
	switch {
	case err == nil:
		r.took = append(r.took, took)
	case !errors.Is(err, errRefused):
		r.err = err
	}
}

func (r *report) String() string { return fmt.Sprintf("%d of %d answered", len(r.took), r.all) }

func (r *report) slowest() time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	return slices.Max(r.took)
}

func (r *report) median() time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(r.took))[len(r.took)/2]
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}
