//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// The fleet is ten processes that share the quota of an API. Half of them have 64
// workers without think time, and half send two requests a second.
const (
	fleetLimit = 100
	apiBurst   = 10
	heavy      = 5
	light      = 5
	workers    = 64
	lightEvery = 500 * time.Millisecond

	// fleetBurst is smaller than the API's burst, because a request spends a varying
	// time on its way to the API, which uses up part of that.
	fleetBurst = 7

	// The times that the API takes for an answer and for a refusal.
	answerTime  = 20 * time.Millisecond
	refusalTime = 5 * time.Millisecond
)

// api enforces the limit, and counts the requests.
type api struct {
	*httptest.Server

	bucket          *rate.Limiter
	served, refused atomic.Int64
}

func newAPI() *api {
	a := &api{bucket: rate.NewLimiter(fleetLimit, apiBurst)}
	a.Server = httptest.NewServer(a) // on loopback
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if a.bucket.Allow() {
		a.served.Add(1)
		time.Sleep(answerTime)
		return
	}
	a.refused.Add(1)
	time.Sleep(refusalTime)
	w.WriteHeader(http.StatusTooManyRequests)
}

// fleetFigures are a row of the fleet's table.
type fleetFigures struct {
	used     float64 // share of the quota
	refused  int64
	p50, p99 time.Duration // of the waits in light processes
	jain     float64       // Jain's index of the requests of the heavy processes
	failed   int
}

// runFleet measures the fleet with each limiter. missed says which expected figures
// redislimit misses.
func runFleet(base load, duration time.Duration, flush func() error) (missed, err error) {
	fmt.Fprintf(os.Stdout, "\n%d processes with %d workers and %d that send %d requests a second share the %d/s of an API, %v each\n",
		heavy, workers, light, time.Second/lightEvery, fleetLimit, duration)
	table := newTable("limiter\tquota used\trefused\tlight wait p50 ms\tp99 ms\theavy Jain\t")
	for _, base.Limiter = range limiters() {
		if err := flush(); err != nil {
			return nil, err
		}
		f, err := measureFleet(base, duration)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(table, "%s\t%.3f\t%d\t%.1f\t%.1f\t%.3f\t\n", base.Limiter, f.used, f.refused, millis(f.p50), millis(f.p99), f.jain)
		if base.Limiter == "redislimit" {
			missed = expectFleet(f)
		}
	}
	return missed, table.Flush()
}

// expectFleet returns an error that names the expected figures that f misses.
func expectFleet(f fleetFigures) error {
	var missed error
	if f.used < 0.97 {
		missed = errors.Join(missed, fmt.Errorf("fleet: %.3f of the quota is used, not 0.97", f.used))
	}
	if f.refused > 0 {
		missed = errors.Join(missed, fmt.Errorf("fleet: %d are refused", f.refused))
	}
	// Without a burst, requests go at this interval. They may wait for two of them,
	// and a busy machine adds some time.
	if most := 2*time.Second/fleetLimit + 5*time.Millisecond; f.p99 > most {
		missed = errors.Join(missed, fmt.Errorf("fleet: light processes wait %v at p99, not %v", f.p99, most))
	}
	if f.failed > 0 {
		missed = errors.Join(missed, fmt.Errorf("fleet: %d requests failed", f.failed))
	}
	return missed
}

func measureFleet(base load, duration time.Duration) (fleetFigures, error) {
	a := newAPI()
	defer a.Close()
	base.API, base.Limit, base.Burst = a.URL, fleetLimit, fleetBurst
	base.Start = time.Now().Add(time.Second)
	base.End = base.Start.Add(duration)
	loads := make([]load, heavy+light)
	for i := range loads {
		loads[i] = base
		if i < heavy {
			loads[i].Goroutines = workers
		} else {
			loads[i].Goroutines, loads[i].Every = 1, lightEvery
			loads[i].Start = base.Start.Add(time.Duration(i-heavy) * lightEvery / light) // not all at once
		}
	}
	reports, err := measureAll(loads)
	if err != nil {
		return fleetFigures{}, err
	}
	f := fleetFigures{
		used:    float64(a.served.Load()) / (fleetLimit*duration.Seconds() + apiBurst),
		refused: a.refused.Load(),
	}
	var waits []time.Duration
	var sum, squares float64
	for i, r := range reports {
		f.failed += r.Failed
		from := base.Start.Add(settle).UnixNano()
		n := 0.0
		for k, d := range r.Departures {
			if d < from {
				continue
			}
			n++
			if i >= heavy {
				waits = append(waits, r.Waits[k])
			}
		}
		if i < heavy {
			sum += n
			squares += n * n
		}
	}
	f.jain = sum * sum / (heavy * max(squares, 1))
	if len(waits) > 0 {
		slices.Sort(waits)
		f.p50, f.p99 = waits[len(waits)/2], waits[len(waits)*99/100]
	}
	return f, nil
}

// workFleet runs a process of the fleet.
func workFleet(l load, limiter resilient.Limiter) report {
	base := &http.Transport{MaxIdleConnsPerHost: l.Goroutines}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: resilient.NewTransport(base, resilient.WithLimiter(limiter))}
	// Requests that still wait at the end give up. This is no deadline, because the
	// limiter would know a deadline in advance.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer time.AfterFunc(time.Until(l.End), cancel).Stop()
	var mu sync.Mutex
	var r report
	var wg sync.WaitGroup
	for range l.Goroutines {
		wg.Go(func() {
			for n := 0; ; n++ {
				due := l.Start.Add(time.Duration(n) * l.Every)
				time.Sleep(time.Until(due))
				if !time.Now().Before(l.End) {
					return
				}
				sent, wait, err := call(ctx, client, l.API)
				mu.Lock()
				switch {
				case err == nil:
					r.Departures = append(r.Departures, sent.UnixNano())
					r.Waits = append(r.Waits, wait)
				case ctx.Err() == nil:
					r.Failed++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return r
}

// call sends one request, and returns the time at which it was sent last, and how
// long it was held back until then.
func call(ctx context.Context, client *http.Client, url string) (sent time.Time, wait time.Duration, err error) {
	start := time.Now()
	ctx = resilient.ContextWithOptions(ctx, resilient.WithTrace(&resilient.Trace{
		AttemptStart: func(resilient.AttemptInfo) { sent = time.Now() },
	}))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return sent, 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return sent, 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return sent, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return sent, 0, errors.New(resp.Status)
	}
	return sent, sent.Sub(start), nil
}
