package gate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/waithint"
)

var errEnough = errors.New("enough")

// costing returns an attempt that takes so much from each limit.
func costing(costs ...float64) gate.Attempt {
	a := gate.Attempt{Number: 1}
	copy(a.Costs[:], costs)
	return a
}

// on returns the attempt for a route.
func on(r limit.Route, a gate.Attempt) gate.Attempt {
	a.Route = r
	return a
}

// buckets returns a gate with token buckets, by their rates and bursts in turn.
func buckets(numbers ...float64) *gate.Gate {
	var s gate.Settings
	for i := 0; i < len(numbers); i += 2 {
		s.Limits = append(s.Limits, gate.Limit{Rate: numbers[i], Burst: numbers[i+1]})
	}
	return gate.New(s)
}

// inFlight returns a gate that lets so many be in flight.
func inFlight(n int) *gate.Gate { return gate.New(gate.Settings{InFlight: n}) }

// release gives back the slot of an attempt that has passed.
func (p *passes) release(name string) {
	synctest.Wait()
	p.mu.Lock()
	slot := p.stamps[name].Slot
	p.mu.Unlock()
	p.Release(slot)
	synctest.Wait()
}

// pause sends attempts that are refused. The third one begins a pause, and keeps its
// place.
func (p *passes) pause(hint time.Duration) {
	for i := range 3 {
		s, _ := p.Admit(context.Background(), costing(0), time.Hour, ignore)
		p.Done(s, limit.Route{}, time.Now(), limit.Result{Outcome: limit.Refused, Hint: hint, MaxWait: maxWait})
		if s.Slot > 0 && i < 2 {
			p.Release(s.Slot)
		}
	}
}

// quota tells of a quota of the server's. Whether the attempt was accepted it does not
// tell, because one that was ends some limits.
func (p *passes) quota(name string, remaining, rate float64) {
	p.mu.Lock()
	s, r := p.stamps[name], p.routes[name]
	p.mu.Unlock()
	p.Done(s, r, time.Now(), limit.Result{
		Told: true, Quota: waithint.Quota{Remaining: remaining, Rate: rate}, MaxWait: maxWait,
	})
}

// tokens returns how many tokens there are.
func (p *passes) tokens() gate.Costs { return p.Snapshot(time.Now()).Tokens }

// TestBuckets is about several buckets, and attempts that cost more than others.
func TestBuckets(t *testing.T) {
	tell(t, []story{
		{"two buckets", buckets(10, 10, 1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(1, 1))
			p.admit(t.Context(), "b", costing(5, 1))
			time.Sleep(500 * ms)
			require.Equal(t, gate.Costs{10, 0.5}, p.tokens(), "the one that waits for the second has none of the first")
			time.Sleep(500 * ms)
			synctest.Wait()
			require.Equal(t, gate.Costs{5, 0}, p.tokens(), "both are taken in one instant")
		}, []pass{{"a", 0}, {"b", time.Second}}, "one goes when it has all of its tokens"},
		{"the slower bucket", buckets(10, 10, 1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(10, 1))
			p.admit(t.Context(), "b", costing(5, 1))
			p.admit(t.Context(), "c", costing(10, 0))
			p.admit(t.Context(), "d", costing(0, 1))
		}, []pass{{"a", 0}, {"b", time.Second}, {"c", 1500 * ms}, {"d", 2 * time.Second}}, "each waits for what it takes last"},
		{"one that gives up", buckets(10, 10, 1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "a", costing(1, 1))
			p.admit(ctx, "b", costing(5, 1))
			time.Sleep(500 * ms)
			cancel(errEnough)
			synctest.Wait()
			p.admit(t.Context(), "c", costing(10, 0.5))
		}, []pass{{"a", 0}, {"b: enough", 500 * ms}, {"c", 500 * ms}}, "it takes nothing with it"},
		{"an expensive one", limited(10, 10), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(5))
			p.admit(t.Context(), "big", costing(10))
			p.admit(t.Context(), "small", costing(1))
			p.admit(t.Context(), "small too", costing(1))
			require.InDelta(t, 5, p.tokens()[0], 0, "there is enough for the small ones")
		}, []pass{{"a", 0}, {"big", 500 * ms}, {"small", 600 * ms}, {"small too", 700 * ms}}, "nobody overtakes it, or it would wait for ever"},
		{"more than the burst", limited(10, 10), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(1))
			p.admit(t.Context(), "huge", costing(30))
			p.admit(t.Context(), "b", costing(1))
			p.admit(t.Context(), "c", costing(1))
		}, []pass{{"a", 0}, {"huge", 100 * ms}, {"b", 2200 * ms}, {"c", 2300 * ms}}, "it waits for a full bucket, and the next one until its debt is paid"},
		{"an expensive one before another limit", limited(1, 4), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", on(users, costing(4)))
			p.refused("a", time.Hour)
			time.Sleep(time.Second)
			p.admit(t.Context(), "big", on(users, costing(4)))
			time.Sleep(ms)
			p.admit(t.Context(), "small", on(items, costing(1)))
			time.Sleep(time.Second)
			p.admit(t.Context(), "small too", on(items, costing(1)))
		}, []pass{{"a", 0}, {"big", 4 * time.Second}, {"small", 5 * time.Second}, {"small too", 6 * time.Second}}, "nor by those before another limit, nor by a newcomer on a free route"},
		{"a newcomer on a free route", limited(1, 4), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", on(users, costing(1)))
			p.refused("a", time.Hour)
			p.admit(t.Context(), "b", on(users, costing(1)))
			p.admit(t.Context(), "held", on(users, costing(4)))
			p.admit(t.Context(), "free", on(items, costing(2)))
			p.admit(t.Context(), "free too", on(items, costing(0.5)))
		}, []pass{{"a", 0}, {"b", 0}, {"free", 0}, {"free too", 500 * ms}, {"held", 4500 * ms}}, "those whom the server holds back do not stand in its way"},
		{"one that is refused at once", limited(1, 10), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			p.admit(t.Context(), "a", costing(10))
			p.admit(t.Context(), "b", costing(1))
			p.admit(ctx, "big", gate.Attempt{Number: 1, Arrived: p.start.Add(-time.Second), Costs: gate.Costs{10}})
			time.Sleep(2 * time.Second)
		}, []pass{{"a", 0}, {"big: rate limit", 0}, {"b", time.Second}}, "those behind it do not wait for its tokens: they did, as the timer was set for it"},
		{"costs that were too low", limited(1, 10), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(10))
			p.admit(t.Context(), "b", costing(1))
			time.Sleep(500 * ms)
			p.Settle(gate.Stamp{}, 0, 0, 0, 2)
		}, []pass{{"a", 0}, {"b", 3 * time.Second}}, "those that wait pay for them"},
		{"costs that were too high", limited(1, 10), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(10))
			p.admit(t.Context(), "b", costing(5))
			p.admit(t.Context(), "c", costing(1))
			time.Sleep(time.Second)
			p.Settle(gate.Stamp{}, 0, 0, 0, -4)
		}, []pass{{"a", 0}, {"b", time.Second}, {"c", 2 * time.Second}}, "those that wait go earlier"},
		{"costs of a bucket that is full", limited(1, 2), func(t *testing.T, p *passes) {
			t.Helper()
			p.Settle(gate.Stamp{}, 0, 0, 0, -10)
			for _, name := range []string{"a", "b", "c"} {
				p.admit(t.Context(), name, costing(1))
			}
		}, []pass{{"a", 0}, {"b", 0}, {"c", time.Second}}, "there is room for its burst"},
		{"an attempt that was not sent", limited(10, 5), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(5))
			p.GiveBack(&gate.Costs{5}, false)
			p.admit(t.Context(), "b", costing(5))
		}, []pass{{"a", 0}, {"b", 0}}, "it has taken nothing"},
		{"an attempt that was refused", limited(10, 5), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(5))
			p.GiveBack(&gate.Costs{5}, true)
			p.admit(t.Context(), "b", costing(5))
			p.GiveBack(&gate.Costs{0.05}, true)
			p.admit(t.Context(), "c", costing(1))
		}, []pass{{"a", 0}, {"b", 10 * ms}, {"c", 110 * ms}}, "it came a moment too early, and so would the next one; no more is lost than it has taken"},
		{"costs of no limit", new(gate.Gate), func(t *testing.T, p *passes) {
			t.Helper()
			p.GiveBack(&gate.Costs{1}, false)
			p.admit(t.Context(), "a", costing(1))
		}, []pass{{"a", 0}}, "nothing is counted"},
		{"a rate without end", buckets(math.Inf(1), math.MaxFloat64, 1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			for _, name := range []string{"a", "b", "c", "d"} {
				p.admit(t.Context(), name, costing(math.MaxFloat64, 1))
			}
			p.Settle(gate.Stamp{}, 0, 0, 0, math.MaxFloat64)
			p.Settle(gate.Stamp{}, 0, 0, 0, math.MaxFloat64)
		}, []pass{{"a", 0}, {"b", time.Second}, {"c", 2 * time.Second}, {"d", 3 * time.Second}}, "it holds nobody, whatever is taken"},
	})
}

// TestSeldom: one in 36 hours is a rate, too. No timer ran that long, so one that waited
// went when its longest wait was over.
func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, start := used(1.0/(1<<17))(t), time.Now()
		_, err := g.Admit(t.Context(), first, 100*time.Hour, ignore)
		require.NoError(t, err)
		require.Equal(t, (1<<17)*time.Second, time.Since(start))
	})
}

// TestInFlight is about the number of attempts that are in flight.
func TestInFlight(t *testing.T) {
	tell(t, []story{
		{"two at a time", inFlight(2), func(t *testing.T, p *passes) {
			t.Helper()
			for _, name := range []string{"a", "b", "c", "d", "e"} {
				p.admit(t.Context(), name, first)
			}
			for _, name := range []string{"b", "a", "d"} {
				time.Sleep(time.Second)
				p.release(name)
			}
		}, []pass{{"a", 0}, {"b", 0}, {"c", time.Second}, {"d", 2 * time.Second}, {"e", 3 * time.Second}}, "each that ends lets the next one go"},
		{"several end at once", inFlight(2), func(t *testing.T, p *passes) {
			t.Helper()
			for _, name := range []string{"a", "b", "c", "d"} {
				p.admit(t.Context(), name, first)
			}
			time.Sleep(time.Second)
			p.release("a")
			p.release("b")
			p.release("c")
			p.admit(t.Context(), "e", first)
		}, []pass{{"a", 0}, {"b", 0}, {"c", time.Second}, {"d", time.Second}, {"e", time.Second}}, "there are as many places again"},
		{"one that gives up", inFlight(1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "a", first)
			p.admit(ctx, "b", first)
			p.admit(t.Context(), "c", first)
			time.Sleep(time.Second)
			cancel(errEnough)
			synctest.Wait()
			require.Equal(t, 1, p.Snapshot(time.Now()).Waiting)
			time.Sleep(time.Second)
			p.release("a")
		}, []pass{{"a", 0}, {"b: enough", time.Second}, {"c", 2 * time.Second}}, "it leaves no hole"},
		{"longer than the longest wait", inFlight(1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.admit(t.Context(), "b", first)
			time.Sleep(30 * time.Hour)
			p.release("a")
		}, []pass{{"a", 0}, {"b", 30 * time.Hour}}, "the user's own limit is bounded by the context alone"},
		{"until the context ends", inFlight(1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			p.admit(t.Context(), "a", first)
			p.admit(ctx, "b", first)
			time.Sleep(2 * time.Second)
		}, []pass{{"a", 0}, {"b: context deadline exceeded", time.Second}}, "nobody knows when one ends, so it is not refused at once"},
		{"a bucket and a number", gate.New(gate.Settings{Limits: []gate.Limit{{Rate: 1, Burst: 10}}, InFlight: 1}), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", costing(5))
			p.admit(t.Context(), "b", costing(5))
			time.Sleep(time.Second)
			require.InDelta(t, 6, p.tokens()[0], 0, "the one that waits for its place has no tokens")
			p.release("a")
			require.InDelta(t, 1, p.tokens()[0], 0)
			p.admit(t.Context(), "c", costing(5))
			p.release("b")
			require.Zero(t, p.Snapshot(time.Now()).Flying, "the one that waits for its tokens has no place")
		}, []pass{{"a", 0}, {"b", time.Second}, {"c", 5 * time.Second}}, "both are taken in one instant"},
		{"a pause that began later", inFlight(4), func(t *testing.T, p *passes) {
			t.Helper()
			for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
				p.admit(t.Context(), name, first)
			}
			for _, name := range []string{"a", "b", "c", "d"} {
				p.refused(name, time.Hour)
			}
			p.release("a")
			p.refused("e", time.Hour)
			p.release("b")
			time.Sleep(20 * ms)
			p.refused("f", time.Hour)
			p.release("c")
			time.Sleep(time.Minute)
			p.refused("g", time.Hour)
			time.Sleep(2 * time.Minute)
		}, []pass{{"a", 0}, {"b", 0}, {"c", 0}, {"d", 0}, {"e", 0}, {"f", 10 * ms}, {"g", time.Minute + 20*ms}, {"h: pause", 2 * time.Minute}}, "the reason is the one at the end: it was that at the beginning, a place"},
		{"a server's limit that holds nobody", inFlight(1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", first)
			p.quota("a", 100, 10)
			p.admit(t.Context(), "b", first)
			for range 60 {
				time.Sleep(time.Minute)
				p.quota("a", 100, 10)
			}
			p.release("a")
		}, []pass{{"a", 0}, {"b", time.Hour}}, "the longest wait bounds waits for the server only: it was over after two of them"},
	})
}

// TestPlaces: a place that is never given back shows by its age.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(inFlight(3))
		start := time.Now()
		state := func() (flying int, oldest time.Duration) {
			s := p.Snapshot(time.Now())
			if s.Oldest.IsZero() {
				return s.Flying, -1
			}
			return s.Flying, s.Oldest.Sub(start)
		}
		require.True(t, p.Idle(time.Now()))
		for i, step := range []struct {
			take, release string
			flying        int
			oldest        time.Duration // since the start; below 0: none
			why           string
		}{
			{"", "", 0, -1, "nothing is in flight"},
			{"a", "", 1, time.Second, "one is"},
			{"b", "", 2, time.Second, "the first is older"},
			{"c", "", 3, time.Second, "the first is older"},
			{"", "b", 2, time.Second, "another one has ended"},
			{"d", "", 3, time.Second, "its place is taken again"},
			{"e", "", 3, time.Second, "one waits"},
			{"", "a", 3, 3 * time.Second, "the one that waited is new"},
			{"", "c", 2, 5 * time.Second, "the place of the second is the fourth's"},
			{"", "d", 1, 7 * time.Second, "it passed when the first one ended"},
			{"", "e", 0, -1, "all have ended"},
		} {
			if step.take != "" {
				p.admit(t.Context(), step.take, first)
			}
			if step.release != "" {
				p.release(step.release)
			}
			flying, oldest := state()
			require.Equal(t, step.flying, flying, "%d: %s", i, step.why)
			require.Equal(t, step.oldest, oldest, "%d: %s", i, step.why)
			require.Equal(t, flying == 0, p.Idle(time.Now().Add(time.Hour)), "%d: %s", i, "a place is lost if the gate is forgotten")
			time.Sleep(time.Second)
		}
		require.Equal(t, []string{"a", "b", "c", "d", "e"}, p.order())

		var s gate.Stamp
		g := limited(1, 1)
		require.True(t, g.TryAdmit(&s, first))
		require.Zero(t, s.Slot, "places are not counted")
		require.Zero(t, g.Snapshot(time.Now()).Flying)
	})
}

// TestAllocations: an attempt that need not wait costs none, whatever limits there are.
func TestAllocations(t *testing.T) {
	g := gate.New(gate.Settings{Limits: []gate.Limit{{Rate: 1e9, Burst: 1e9}, {Rate: 1e9, Burst: 1e9}}, InFlight: 2})
	a := costing(1, 2.5)
	a.Class = gate.Class{Priority: 1, Flow: "flow"}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		var s gate.Stamp
		if !g.TryAdmit(&s, a) {
			t.Error("it waits")
		}
		g.Settle(gate.Stamp{}, 0, 0, 0, -0.5)
		g.Settle(gate.Stamp{}, 1, 0, 0, 0.5)
		g.Release(s.Slot)
	}))
}

func BenchmarkTryAdmit(b *testing.B) {
	g := gate.New(gate.Settings{Limits: []gate.Limit{{Rate: 1e12, Burst: 1e12}, {Rate: 1e12, Burst: 1e12}}, InFlight: 2})
	a := costing(1, 2.5)
	a.Class = gate.Class{Priority: 1, Flow: "flow"}
	b.ReportAllocs()
	for b.Loop() {
		var s gate.Stamp
		if !g.TryAdmit(&s, a) {
			b.Fatal("it waits")
		}
		g.Release(s.Slot)
	}
}

// TestReasons: those who wait are told for what, as far as it is known.
func TestReasons(t *testing.T) {
	full := gate.Settings{InFlight: 1}
	both := gate.Settings{InFlight: 1, Limits: []gate.Limit{{Rate: 1, Burst: 1}}}
	for _, tt := range []struct {
		name     string
		settings gate.Settings
		prepare  func(p *passes)
		maxWait  time.Duration
		timeout  time.Duration // of the context; 0: none
		reason   string        // for which it waits; "": it is refused
		wait     time.Duration
		err      *gate.RefusalError
		why      string
	}{
		{"a place", full, nil, maxWait, 0, gate.InFlight, 0, nil, "how long the others take is not known"},
		{"a place, and a deadline", full, nil, maxWait, time.Second, gate.InFlight, 0, nil, "another one may end in time"},
		{"a place, and no wait", full, nil, 0, 0, "", 0, &gate.RefusalError{Reason: gate.InFlight}, "it would have to wait"},
		{"a place and a token", both, nil, maxWait, 0, gate.RateLimit, time.Second, nil, "that is how long it takes at least"},
		{"a place and a token, and a deadline", both, nil, maxWait, 500 * ms, "", 0, &gate.RefusalError{Reason: gate.RateLimit, Wait: time.Second, Deadline: true}, "that cannot end well, whoever ends"},
		{"a place and a token, and no wait", both, nil, 0, 0, "", 0, &gate.RefusalError{Reason: gate.RateLimit, Wait: time.Second}, ""},
		{"a place, and a limit that holds nobody", full, func(p *passes) {
			p.accepted("a")
			p.TryOne(time.Now())
		}, ms, 0, gate.InFlight, 0, nil, "it is the place that it waits for"},
		{"a place, and a limit that holds all", full, func(p *passes) {
			p.release("a")
			p.TryOne(time.Now())
			p.admit(context.Background(), "b", first)
		}, maxWait, 0, gate.Pause, 0, nil, "the server's limit is the other reason"},
		{"a place in a pause", full, func(p *passes) {
			p.release("a")
			p.pause(time.Hour)
		}, maxWait, 0, "", 0, &gate.RefusalError{Reason: gate.Pause, Wait: time.Hour}, "the server has said so"},
		{"a token in a pause that is short", gate.Settings{Limits: []gate.Limit{{Rate: 1.0 / 50, Burst: 1}}}, func(p *passes) {
			p.pause(5 * time.Second)
		}, 10 * time.Second, 0, gate.Pause, 49990 * ms, nil, "the longest wait does not bound that for a token, whatever the server said: with a pause it did"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := watch(gate.New(tt.settings))
				p.admit(t.Context(), "a", first)
				if tt.prepare != nil {
					tt.prepare(p)
				}
				ctx, cancel := context.WithCancel(t.Context())
				if tt.timeout > 0 {
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				}
				defer cancel()
				var reason string
				wait := time.Duration(0)
				go func() { // it cannot go in this instant
					synctest.Wait()
					cancel()
				}()
				_, err := p.Admit(ctx, first, tt.maxWait, func(r string, d time.Duration) { reason, wait = r, d })
				require.Equal(t, tt.reason, reason, tt.why)
				require.Equal(t, tt.wait, wait, tt.why)
				if tt.err != nil {
					require.Equal(t, tt.err, err, tt.why)
				} else {
					require.ErrorIs(t, err, context.Canceled)
				}
			})
		})
	}
}

// TestEstimateOfCosts asks how long an attempt would wait, and then how long it does. A
// caller is told that a deadline comes before its turn only if it does.
func TestEstimateOfCosts(t *testing.T) {
	for _, tt := range []struct {
		name    string
		waiting []gate.Attempt
		attempt gate.Attempt
		want    time.Duration // estimated
		took    time.Duration
		why     string
	}{
		{"alone", nil, costing(3), 3 * time.Second, 3 * time.Second, "its own costs"},
		{"behind others", []gate.Attempt{costing(1), costing(5)}, costing(2), 8 * time.Second, 8 * time.Second, "and those of all before it"},
		{"the second bucket", []gate.Attempt{costing(1, 8), costing(5, 0)}, costing(2, 2), 20 * time.Second, 20 * time.Second, "whichever takes longest"},
		{"a cheap one with an expensive retry behind", []gate.Attempt{costing(1), {Number: 2, Retry: true, Costs: gate.Costs{100}}}, costing(1), 2 * time.Second, 2 * time.Second, "who is behind costs nothing: it was told of half of that"},
		{"a retry behind expensive ones", []gate.Attempt{costing(10), costing(10), costing(10)}, gate.Attempt{Number: 2, Retry: true, Costs: gate.Costs{1}}, 31 * time.Second, 31 * time.Second, "first attempts go before it"},
		{"more than the burst", []gate.Attempt{costing(25), costing(1)}, costing(10), 36 * time.Second, 36 * time.Second, "the debt is paid before"},
		{"at its place", []gate.Attempt{costing(1), costing(7)}, gate.Attempt{Number: 2, Arrived: time.Unix(1, 0), Costs: gate.Costs{1}}, time.Second, time.Second, "one that was refused goes before both"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := watch(buckets(1, 10, 0.5, 10))
				p.admit(t.Context(), "all", costing(10, 10))
				for _, a := range tt.waiting {
					p.admit(t.Context(), "before", a)
				}
				require.Equal(t, tt.want, estimated(t, p.Gate, tt.attempt), tt.why)
				for _, spare := range []time.Duration{-1, 1} { // the deadline at its turn is too late
					ctx, cancel := context.WithTimeout(t.Context(), tt.took+spare)
					name := fmt.Sprintf("spare %v", spare)
					p.admit(ctx, name, tt.attempt)
					if spare > 0 {
						time.Sleep(tt.took)
						synctest.Wait()
					}
					cancel()
				}
				synctest.Wait()
				require.Contains(t, p.sorted(), pass{"spare -1ns: rate limit", 0}, tt.why)
				require.Contains(t, p.sorted(), pass{"spare 1ns", tt.took}, tt.why)
				time.Sleep(time.Hour)
			})
		})
	}
}

// estimated returns how long an attempt would wait.
func estimated(t *testing.T, g *gate.Gate, a gate.Attempt) time.Duration {
	t.Helper()
	_, err := g.Admit(t.Context(), a, 0, ignore)
	var refusal *gate.RefusalError
	require.ErrorAs(t, err, &refusal)
	return refusal.Wait
}

// TestNobodyIsRefusedWhoWouldHaveMadeIt: of queues of all kinds, nobody goes before the
// time that was estimated.
func TestNobodyIsRefusedWhoWouldHaveMadeIt(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		classes, equal := seed%4 == 3, seed%2 == 0
		attempt := func() gate.Attempt {
			a := costing(1, 1)
			if !equal {
				a = costing(float64(random.IntN(8)), 15*random.Float64())
			}
			if a.Number, a.Retry = 1, random.IntN(4) == 0; a.Retry {
				a.Number = 2
			}
			if random.IntN(8) == 0 {
				a.Arrived = time.Now().Add(-time.Duration(random.IntN(100)) * ms)
			}
			if classes {
				a.Class = gate.Class{Priority: random.IntN(3), Flow: [...]string{"", "a", "b"}[random.IntN(3)]}
			}
			return a
		}
		synctest.Test(t, func(t *testing.T) {
			p := watch(buckets(1, 10, 1.5, 10))
			for range random.IntN(60) {
				p.admit(t.Context(), "", attempt())
				time.Sleep(time.Duration(random.IntN(1000)) * ms)
			}
			a := attempt()
			_, err := p.Admit(t.Context(), a, 0, ignore)
			if refusal, ok := errors.AsType[*gate.RefusalError](err); ok {
				start := time.Now()
				_, err := p.Admit(t.Context(), a, maxWait, ignore)
				require.NoError(t, err)
				took := time.Since(start)
				require.GreaterOrEqual(t, took+ms/1000, refusal.Wait, "seed %d: it would have made it", seed)
				if equal && !classes {
					require.InDelta(t, refusal.Wait, took, float64(ms), "seed %d: as was estimated", seed)
				}
			}
			time.Sleep(time.Hour)
		})
	}
}
