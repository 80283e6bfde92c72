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
	add := func(ops []byte, settings ...byte) {
		var s [6]byte
		copy(s[:], settings)
		f.Add(ops, s[0], s[1], s[2], s[3], s[4], s[5])
	}
	add([]byte{0, 0, 0, 8, 1, 3, 0, 0, 2, 9, 9, 9, 4, 5, 6}, 5, 2, 0)
	add([]byte{0, 3, 0, 0, 0, 9, 9, 6, 9, 9, 0, 0, 9, 7, 9}, 0, 0, 0)
	add([]byte{0, 0, 0, 2, 2, 2, 5, 5, 9, 9, 9, 4, 0, 0, 9}, 0, 0, 2)
	add([]byte{0, 3, 0, 3, 0, 3, 0, 0, 2, 2, 109, 249, 5, 249, 249, 0, 1, 2}, 0, 0, 0)
	add([]byte{0, 4, 0, 4, 0, 4, 0, 4, 11, 12, 22, 10, 11, 109, 4, 109, 4, 109, 8, 4, 109, 5, 5}, 3, 2, 3)
	add([]byte("2!0Y2222\xf92"), 'G', 0, 0)
	add([]byte{0, 41, 82, 120, 9, 18, 28, 9, 200, 161, 18, 38, 119, 8, 19, 18, 18, 18}, 5, 2, 0, 3, 2, 0)
	add([]byte{0, 41, 82, 120, 9, 18, 28, 9, 200, 161, 18, 38, 119, 8, 19, 18, 18, 18}, 5, 2, 0, 3, 0, 3)
	add([]byte{0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 18, 18, 18, 28, 109, 18, 18, 4, 4, 249}, 0, 0, 2, 0, 3, 2)
	add([]byte{0, 3, 0, 3, 0, 3, 18, 18, 18, 10, 31, 52, 18, 109, 38, 18, 249, 28, 28}, 7, 4, 3, 11, 2, 2)
	add([]byte{0, 14, 0, 24, 0, 34, 0, 44, 11, 12, 22, 10, 11, 109, 4, 109, 24, 109, 5, 109, 5, 8, 5}, 3, 2, 0, 9, 7, 0)
	f.Fuzz(func(t *testing.T, ops []byte, rate, burst, routes, second, slots, classes byte) {
		if len(ops) > 200 {
			t.Skip("long enough")
		}
		var s gate.Settings
		if rate %= 20; rate > 0 {
			s.Limits = append(s.Limits, gate.Limit{Rate: float64(rate), Burst: float64(burst%5) + 1})
		}
		if second %= 20; second > 0 {
			s.Limits = append(s.Limits, gate.Limit{Rate: float64(second) / 2, Burst: float64(burst/5%5) + 1})
		}
		s.InFlight = int(slots % 5)
		if slots/5%2 == 1 {
			s.Learned = min(len(s.Limits), 1)
		}
		synctest.Test(t, func(t *testing.T) { play(t, ops, s, int(routes%4), int(classes%4)) })
	})
}

// crowd is what fuzzed operations do to a gate.
type crowd struct {
	t        *testing.T
	gate     *gate.Gate
	settings gate.Settings
	ctx      context.Context
	cancel   []context.CancelFunc

	mu       sync.Mutex
	arrivals int
	ended    int // Admits that have returned
	waiting  int // that have not
	queued   map[kind]map[int]time.Time
	pauses   map[pauseOf]int // attempts that passed in a pause
	accounts []account       // of the buckets
	open     []open          // passed, and not answered yet
	slots    []int           // of those that have passed, and are not over yet
}

// kind has the attempts that pass in the order of their arrival.
type kind struct {
	route limit.Route
	retry bool
	class gate.Class
}

type pauseOf struct {
	route limit.Route
	until time.Time
}

type open struct {
	route limit.Route
	stamp gate.Stamp
}

// account counts the tokens of a bucket.
type account struct {
	gate.Limit
	tokens float64
	at     time.Time
}

// rounding is what a sum of costs may be off.
const rounding = 1e-6

func (a *account) take(tokens float64) {
	a.tokens = min(a.Burst, a.now()-tokens)
	a.at = time.Now()
}

func (a *account) now() float64 {
	return min(a.Burst, a.tokens+a.Rate*time.Since(a.at).Seconds())
}

func play(t *testing.T, ops []byte, settings gate.Settings, routes, classes int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c := &crowd{
		t: t, gate: gate.New(settings), settings: settings, ctx: ctx,
		queued: make(map[kind]map[int]time.Time), pauses: make(map[pauseOf]int),
	}
	for _, l := range settings.Limits {
		c.accounts = append(c.accounts, account{l, l.Burst, time.Now()})
	}
	for _, op := range ops {
		a := gate.Attempt{Number: 1, Costs: gate.Costs{1}} // a zero Route: the whole key
		more := int(op / 10)
		if routes > 0 {
			a.Route = limit.Route{Method: "GET", Path: "/" + string('a'+byte(more%routes))}
		}
		if len(settings.Limits) > 1 {
			a.Costs = gate.Costs{float64(more % 4), float64(more % 7)}
		}
		if classes > 0 {
			a.Class = gate.Class{Priority: more / 3 % classes, Flow: [...]string{"", "a", "b"}[more%3]}
		}
		switch op % 10 {
		case 0, 1:
			c.arrive(a)
		case 2:
			a.Number, a.Retry, a.Last = 2, true, op > 200
			c.arrive(a)
		case 3:
			c.answer(limit.Result{Outcome: limit.Refused, Hint: time.Duration(op) * 100 * ms})
		case 4:
			c.answer(limit.Result{Outcome: limit.Refused})
		case 5:
			c.answer(limit.Result{Outcome: limit.Accepted})
		case 6:
			c.answer(limit.Result{Outcome: limit.Accepted, Told: op > 200, Quota: waithint.Quota{Remaining: float64(op % 16), Rate: 1 + float64(op)/10}})
		case 7:
			c.answer(limit.Result{Outcome: [...]limit.Outcome{limit.Unanswered, limit.Shed, limit.Closed}[more%3], Hint: time.Duration(op%40) * 100 * ms})
		case 8:
			switch n := len(c.cancel); {
			case more%4 == 1:
				c.release(more)
			case more%4 == 2:
				c.correct(gate.Costs{float64(more) - 12, float64(more%5) - 2})
			case n > 0:
				c.cancel[int(op)%n]()
			}
		case 9:
			time.Sleep(time.Duration(op) * 10 * ms)
		}
		synctest.Wait()
		c.check()
	}
	// The longest wait, another one, the longest pause, and all of the buckets.
	for range 1 + 2*len(ops) {
		for c.release(0) {
			synctest.Wait()
		}
		time.Sleep(3*maxWait + 200*time.Second)
		synctest.Wait()
		if c.check(); c.gate.Snapshot(time.Now()).Waiting == 0 && c.full() {
			break
		}
	}
	c.finish()
}

// full reports whether the buckets are full, and all places free.
func (c *crowd) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.slots) == 0 && !slices.ContainsFunc(c.accounts, func(a account) bool { return a.now() < a.Burst })
}

// finish checks that nothing is left.
func (c *crowd) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	require.Equal(c.t, c.arrivals, c.ended, "no waiter is lost")
	s := c.gate.Snapshot(time.Now())
	require.Zero(c.t, s.Waiting)
	require.Empty(c.t, s.Queues)
	require.Zero(c.t, s.Flying)
	for i, l := range c.settings.Limits {
		require.InDelta(c.t, l.Burst, s.Tokens[i], rounding, "no token is lost")
	}
	for kind, passed := range c.queued {
		var last time.Time
		for _, id := range slices.Sorted(maps.Keys(passed)) {
			require.False(c.t, passed[id].Before(last), "order is kept within a kind: %v", kind)
			last = passed[id]
		}
	}
}

func (c *crowd) check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.gate.Snapshot(time.Now())
	for i := range c.accounts {
		require.InDelta(c.t, c.accounts[i].now(), s.Tokens[i], rounding, "tokens are conserved")
	}
	for _, n := range c.pauses {
		require.LessOrEqual(c.t, n, 1+4, "at most one probe in a pause, and one trial")
	}
	require.Equal(c.t, c.waiting, s.Waiting, "who waits is known")
	waiting := 0
	for _, q := range s.Queues {
		require.Positive(c.t, q.Flows)
		waiting += q.Waiting
	}
	require.Equal(c.t, s.Waiting, waiting, "by priority, too")
	require.Equal(c.t, len(c.slots), s.Flying, "places are conserved")
	require.Equal(c.t, s.Flying == 0, s.Oldest.IsZero())
	if c.settings.InFlight > 0 {
		require.LessOrEqual(c.t, s.Flying, c.settings.InFlight)
	}
}

// bounded reports whether there are limits of the user's, so that waits are not bounded.
func (c *crowd) bounded() bool { return len(c.settings.Limits) > 0 || c.settings.InFlight > 0 }

func (c *crowd) arrive(a gate.Attempt) {
	ctx, cancel := context.WithCancel(c.ctx)
	c.cancel = append(c.cancel, cancel)
	c.mu.Lock()
	c.arrivals++
	id := c.arrivals
	c.mu.Unlock()
	var s gate.Stamp
	if c.gate.TryAdmit(&s, a) {
		if c.bounded() || a.Route == (limit.Route{}) {
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
		if d := time.Since(begun); !c.bounded() && d > 2*maxWait {
			c.t.Errorf("waited for %v", d)
		}
		var refusal *gate.RefusalError
		switch {
		case err == nil:
			if queued && !a.Last {
				k := kind{a.Route, a.Retry, a.Class}
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
			if refusal.Reason == gate.InFlight {
				c.t.Error("refused for a place")
			}
		case !errors.Is(err, context.Canceled):
			c.t.Error(err)
		}
	}()
	synctest.Wait()
}

// pass notes an attempt that has passed. The caller holds the lock.
func (c *crowd) pass(a gate.Attempt, s gate.Stamp) {
	c.open = append(c.open, open{a.Route, s})
	for i := range c.accounts {
		b := &c.accounts[i]
		// One that costs nothing may have passed before another one of this instant.
		if tokens := b.now(); a.Costs[i] > 0 && tokens < min(a.Costs[i], b.Burst)-rounding {
			c.t.Errorf("passed at the cost of %v of %v tokens", a.Costs[i], tokens)
		}
		b.take(a.Costs[i])
	}
	if s.Slot > 0 {
		if slices.Contains(c.slots, s.Slot) {
			c.t.Errorf("the place %d is taken twice", s.Slot)
		}
		c.slots = append(c.slots, s.Slot)
	}
	for _, v := range c.gate.Snapshot(time.Now()).Limits {
		if v.State == limit.Paused && v.Route == a.Route { // it is held by no other limit
			c.pauses[pauseOf{v.Route, v.Until}]++
		}
	}
}

// release ends an attempt that has passed, and reports whether there was one.
func (c *crowd) release(which int) bool {
	c.mu.Lock()
	if len(c.slots) == 0 {
		c.mu.Unlock()
		return false
	}
	i := which % len(c.slots)
	slot := c.slots[i]
	c.slots = slices.Delete(c.slots, i, i+1)
	c.mu.Unlock()
	c.gate.Release(slot)
	return true
}

// correct settles costs, of one limit after the other, because each may let attempts go.
func (c *crowd) correct(more gate.Costs) {
	for i := range c.accounts {
		var s gate.Stamp
		c.mu.Lock()
		c.accounts[i].take(more[i])
		if len(c.open) > 0 {
			s = c.open[0].stamp
		}
		c.mu.Unlock()
		c.gate.Settle(s, i, 0, 0, more[i])
		synctest.Wait()
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
