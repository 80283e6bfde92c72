package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// load is a source of calls: a number of workers that each make one call after the
// other, or a stream of calls that does not wait for their ends.
type load struct {
	workers   int
	perSecond float64
	path      string
	free      bool // the server does not limit this path
}

func closed(workers int) []load     { return []load{{workers: workers, path: "/"}} }
func open(perSecond float64) []load { return []load{{perSecond: perSecond, path: "/"}} }

func (l load) String() string {
	text := fmt.Sprintf("%g/s", l.perSecond)
	if l.workers > 0 {
		text = fmt.Sprintf("%d workers", l.workers)
	}
	if l.path != "/" {
		text = l.path + " " + text
	}
	return text
}

// failurePause is the time that a worker waits after a failed call. Without it, a
// client that fails at once would fail without end in no time.
const failurePause = 100 * time.Millisecond

// drive makes calls until ctx ends, and returns when all have ended.
func (l load) drive(ctx context.Context, do doer, url string, t *tally) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range l.workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if !call(ctx, do, url+l.path, t) {
					_ = sleep(ctx, failurePause)
				}
			}
		})
	}
	if l.workers > 0 {
		return
	}
	interval := float64(time.Second) / l.perSecond
	start := time.Now()
	for k := 0; ; k++ {
		// The start of each call varies by a fifth of the interval.
		due := start.Add(time.Duration((float64(k) + rand.Float64()/5) * interval))
		if sleep(ctx, time.Until(due)) != nil {
			return
		}
		wg.Go(func() { call(ctx, do, url+l.path, t) })
	}
}

// call makes one call, reads its response to the end, as a caller would, and reports
// whether it succeeded.
func call(ctx context.Context, do doer, url string, t *tally) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err) // the URL is valid
	}
	begin := time.Now()
	resp, err := do(req)
	why := ""
	if err != nil {
		why = err.Error()
	} else {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		switch {
		case err != nil:
			why = err.Error()
		case resp.StatusCode != http.StatusOK:
			why = resp.Status
		}
	}
	t.ended(time.Since(begin), why, ctx.Err() != nil)
	return why == ""
}

func discard(resp *http.Response) {
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

// sleep returns early, with an error, only if the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
