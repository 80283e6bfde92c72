package gate_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// FuzzGate runs whatever order of arrivals, outcomes and cancellations against
// the rules that hold for all of them.
func FuzzGate(f *testing.F) {
	f.Add([]byte{0, 0, 0, 8, 1, 3, 0, 0, 2, 9, 9, 9, 4, 5, 6}, byte(5), byte(2), byte(0))
	f.Add([]byte{0, 3, 0, 0, 0, 9, 9, 6, 9, 9, 0, 0, 9, 7, 9}, byte(0), byte(0), byte(0))
	f.Add([]byte{0, 0, 0, 2, 2, 2, 5, 5, 9, 9, 9, 4, 0, 0, 9}, byte(0), byte(0), byte(2))
	f.Add([]byte{0, 3, 0, 3, 0, 3, 0, 0, 2, 2, 109, 249, 5, 249, 249, 0, 1, 2}, byte(0), byte(0), byte(0))
	f.Add([]byte{0, 4, 0, 4, 0, 4, 0, 4, 11, 12, 22, 10, 11, 109, 4, 109, 4, 109, 8, 4, 109, 5, 5}, byte(3), byte(2), byte(3))
	f.Fuzz(func(t *testing.T, ops []byte, limit, burst, routes byte) {
		if len(ops) > 200 {
			t.Skip("long enough")
		}
		synctest.Test(t, func(t *testing.T) { play(t, ops, float64(limit%20), float64(burst%5)+1, routes%4) })
	})
}

// crowd is what fuzzed operations do to a gate.
type crowd struct {
	t      *testing.T
	gate   *gate.Gate
	limit  float64
	burst  float64
	ctx    context.Context
	cancel []context.CancelFunc
	start  time.Time

	mu       sync.Mutex
	arrivals int
	ended    int // Admits that have returned
	waiting  int // that have not
	queued   map[class]map[int]time.Time
	pauses   map[pauseOf]int // attempts that passed in a pause
	passed   int
	open     []open // passed, and not answered yet
}

// class has the attempts that pass in the order of their arrival.
type class struct {
	route limit.Route
	retry bool
}

type pauseOf struct {
	route limit.Route
	until time.Time
}

type open struct {
	route limit.Route
	stamp gate.Stamp
}

func play(t *testing.T, ops []byte, bucket, burst float64, routes byte) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c := &crowd{
		t: t, gate: limited(bucket, burst), limit: bucket, burst: burst, ctx: ctx, start: time.Now(),
		queued: make(map[class]map[int]time.Time), pauses: make(map[pauseOf]int),
	}
	for _, op := range ops {
		var route limit.Route // of the whole key
		if routes > 0 {
			route = limit.Route{Method: "GET", Path: "/" + string('a'+op/10%routes)}
		}
		switch op % 10 {
		case 0, 1:
			c.arrive(gate.Attempt{Route: route, Number: 1})
		case 2:
			c.arrive(gate.Attempt{Route: route, Number: 2, Retry: true, Last: op > 200})
		case 3:
			c.answer(limit.Result{Outcome: limit.Refused, Hint: time.Duration(op) * 100 * ms})
		case 4:
			c.answer(limit.Result{Outcome: limit.Refused})
		case 5:
			c.answer(limit.Result{Outcome: limit.Accepted})
		case 6:
			c.answer(limit.Result{Outcome: limit.Accepted, Told: op > 200, Quota: waithint.Quota{Remaining: float64(op % 16), Rate: 1 + float64(op)/10}})
		case 7:
			c.answer(limit.Result{Outcome: [...]limit.Outcome{limit.Unanswered, limit.Shed, limit.Closed}[op/10%3], Hint: time.Duration(op%40) * 100 * ms})
		case 8:
			if n := len(c.cancel); n > 0 {
				c.cancel[int(op)%n]()
			}
		case 9:
			time.Sleep(time.Duration(op) * 10 * ms)
		}
		synctest.Wait()
		c.check()
	}
	// The longest wait, another one, the longest pause, and all of the bucket.
	time.Sleep(3*maxWait + 200*time.Second)
	synctest.Wait()
	c.check()
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(t, c.arrivals, c.ended, "no waiter is lost")
	require.Zero(t, c.gate.Snapshot(time.Now()).Waiting)
	if bucket > 0 {
		require.InDelta(t, burst, c.gate.Snapshot(time.Now()).Tokens[0], 1e-6, "no token is lost")
	}
	for class, passed := range c.queued {
		var last time.Time
		for _, id := range slices.Sorted(maps.Keys(passed)) {
			require.False(t, passed[id].Before(last), "order is kept within a class: %v", class)
			last = passed[id]
		}
	}
}

func (c *crowd) check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.limit > 0 {
		require.LessOrEqual(c.t, float64(c.passed), c.burst+c.limit*now.Sub(c.start).Seconds()+1e-6, "tokens are conserved")
	}
	for _, n := range c.pauses {
		require.LessOrEqual(c.t, n, 1+4, "at most one probe in a pause, and one trial")
	}
	require.Equal(c.t, c.waiting, c.gate.Snapshot(now).Waiting, "who waits is known")
}

func (c *crowd) arrive(a gate.Attempt) {
	ctx, cancel := context.WithCancel(c.ctx)
	c.cancel = append(c.cancel, cancel)
	c.mu.Lock()
	c.arrivals++
	id := c.arrivals
	c.mu.Unlock()
	a.Costs = gate.Costs{1}
	var s gate.Stamp
	if c.gate.TryAdmit(&s, a) {
		if a.Route == (limit.Route{}) {
			require.Zero(c.t, c.gate.Snapshot(time.Now()).Waiting, "nobody is overtaken")
		}
		c.mu.Lock()
		c.pass(a, s)
		c.ended++
		c.mu.Unlock()
		return
	}
	c.mu.Lock()
	c.waiting++
	c.mu.Unlock()
	go func() {
		begun, queued := time.Now(), false
		s, err := c.gate.Admit(ctx, a, maxWait, func(string, time.Duration) { queued = true })
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ended++
		c.waiting--
		if d := time.Since(begun); c.limit == 0 && d > 2*maxWait {
			c.t.Errorf("waited for %v", d)
		}
		var refusal *gate.RefusalError
		switch {
		case err == nil:
			if queued && !a.Last {
				k := class{a.Route, a.Retry}
				if c.queued[k] == nil {
					c.queued[k] = make(map[int]time.Time)
				}
				c.queued[k][id] = time.Now()
			}
			c.pass(a, s)
		case errors.As(err, &refusal):
			if !queued && refusal.Wait <= maxWait {
				c.t.Errorf("refused at once to wait for %v", refusal.Wait)
			}
		case !errors.Is(err, context.Canceled):
			c.t.Error(err)
		}
	}()
	synctest.Wait()
}

// pass notes an attempt that has passed. The caller holds the lock.
func (c *crowd) pass(a gate.Attempt, s gate.Stamp) {
	c.passed++
	c.open = append(c.open, open{a.Route, s})
	for _, v := range c.gate.Snapshot(time.Now()).Limits {
		if v.State == limit.Paused && v.Route == a.Route { // it is held by no other limit
			c.pauses[pauseOf{v.Route, v.Until}]++
		}
	}
}

// answer answers the attempt that passed first and was not answered yet.
func (c *crowd) answer(r limit.Result) {
	c.mu.Lock()
	if len(c.open) == 0 {
		c.mu.Unlock()
		return
	}
	o := c.open[0]
	c.open = c.open[1:]
	c.mu.Unlock()
	r.MaxWait = maxWait
	c.gate.Done(o.stamp, o.route, time.Now(), r)
}
