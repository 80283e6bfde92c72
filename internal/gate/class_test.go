package gate_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/limit"
)

// class returns an attempt of a class.
func class(priority int, flow string) gate.Attempt {
	return gate.Attempt{Number: 1, Costs: gate.Costs{1}, Class: gate.Class{Priority: priority, Flow: flow}}
}

// retried returns an attempt as a retry.
func retried(a gate.Attempt) gate.Attempt {
	a.Retry, a.Number = true, 2
	return a
}

func TestClasses(t *testing.T) {
	tell(t, []story{
		{"priorities", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", class(0, ""))
			p.admit(t.Context(), "low", class(-1, ""))
			p.admit(t.Context(), "middle", class(0, ""))
			p.admit(t.Context(), "high", class(1, ""))
			p.admit(t.Context(), "high too", class(1, ""))
		}, []pass{{"a", 0}, {"high", 100 * ms}, {"high too", 200 * ms}, {"middle", 300 * ms}, {"low", 400 * ms}}, "the higher goes first, and then who was first"},
		{"a retry of a higher one", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", class(0, ""))
			p.admit(t.Context(), "low", class(0, ""))
			p.admit(t.Context(), "retry", retried(class(1, "")))
			p.admit(t.Context(), "high", class(1, ""))
			p.admit(t.Context(), "low retry", retried(class(0, "")))
		}, []pass{{"a", 0}, {"high", 100 * ms}, {"retry", 200 * ms}, {"low", 300 * ms}, {"low retry", 400 * ms}}, "it keeps its class"},
		{"the ninth place", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", class(0, ""))
			for i := range 2 {
				p.admit(t.Context(), fmt.Sprintf("low %d", i), class(0, ""))
			}
			for i := range 17 {
				p.admit(t.Context(), strconv.Itoa(i), class(1, ""))
			}
		}, []pass{
			{"a", 0},
			{"0", 100 * ms},
			{"1", 200 * ms},
			{"2", 300 * ms},
			{"3", 400 * ms},
			{"4", 500 * ms},
			{"5", 600 * ms},
			{"6", 700 * ms},
			{"7", 800 * ms},
			{"low 0", 900 * ms},
			{"8", 1000 * ms},
			{"9", 1100 * ms},
			{"10", 1200 * ms},
			{"11", 1300 * ms},
			{"12", 1400 * ms},
			{"13", 1500 * ms},
			{"14", 1600 * ms},
			{"15", 1700 * ms},
			{"low 1", 1800 * ms},
			{"16", 1900 * ms},
		}, "is a lower priority's"},
		{"one that comes late", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			for i := range 9 {
				p.admit(t.Context(), strconv.Itoa(i), class(1, ""))
			}
			time.Sleep(450 * ms)
			p.admit(t.Context(), "low", class(0, ""))
			for i := range 9 {
				p.admit(t.Context(), "more "+strconv.Itoa(i), class(1, ""))
			}
		}, []pass{
			{"0", 0},
			{"1", 100 * ms},
			{"2", 200 * ms},
			{"3", 300 * ms},
			{"4", 400 * ms},
			{"5", 500 * ms},
			{"6", 600 * ms},
			{"7", 700 * ms},
			{"8", 800 * ms},
			{"more 0", 900 * ms},
			{"more 1", 1000 * ms},
			{"more 2", 1100 * ms},
			{"more 3", 1200 * ms},
			{"low", 1300 * ms},
			{"more 4", 1400 * ms},
			{"more 5", 1500 * ms},
			{"more 6", 1600 * ms},
			{"more 7", 1700 * ms},
			{"more 8", 1800 * ms},
		}, "only those that went while it waited count"},
		{"flows", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "0", class(0, "a"))
			for _, name := range []string{"a1", "a2", "a3", "b1", "b2", "c1", "a4"} {
				p.admit(t.Context(), name, class(0, name[:1]))
			}
		}, []pass{
			{"0", 0},
			{"a1", 100 * ms},
			{"b1", 200 * ms},
			{"c1", 300 * ms},
			{"a2", 400 * ms},
			{"b2", 500 * ms},
			{"a3", 600 * ms},
			{"a4", 700 * ms},
		}, "they take turns"},
		{"flows of other priorities", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "0", class(0, "a"))
			p.admit(t.Context(), "a1", class(0, "a"))
			p.admit(t.Context(), "a2", class(0, "a"))
			p.admit(t.Context(), "b1", class(0, "b"))
			p.admit(t.Context(), "high a1", class(1, "a"))
			p.admit(t.Context(), "high a2", class(1, "a"))
			p.admit(t.Context(), "high b1", class(1, "b"))
		}, []pass{
			{"0", 0},
			{"high a1", 100 * ms},
			{"high b1", 200 * ms},
			{"high a2", 300 * ms},
			{"a1", 400 * ms},
			{"b1", 500 * ms},
			{"a2", 600 * ms},
		}, "a flow is one of its priority"},
		{"a retry in a flow", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "0", class(0, "a"))
			p.admit(t.Context(), "a retry", retried(class(0, "a")))
			p.admit(t.Context(), "a first", class(0, "a"))
			p.admit(t.Context(), "b retry", retried(class(0, "b")))
		}, []pass{{"0", 0}, {"a first", 100 * ms}, {"b retry", 200 * ms}, {"a retry", 300 * ms}}, "first attempts go before those of their own flow"},
		{"one that gives up", limited(10, 1), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "0", class(0, ""))
			p.admit(t.Context(), "low", class(0, ""))
			p.admit(ctx, "a1", class(1, "a"))
			p.admit(t.Context(), "b1", class(1, "b"))
			time.Sleep(50 * ms)
			cancel(errEnough)
			synctest.Wait()
		}, []pass{{"0", 0}, {"a1: enough", 50 * ms}, {"b1", 100 * ms}, {"low", 200 * ms}}, "its turn is the next one's"},
		{"an expensive one of a higher priority that gives up", limited(10, 10), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithCancelCause(t.Context())
			p.admit(t.Context(), "0", costing(10))
			p.admit(t.Context(), "cheap", class(0, ""))
			big := class(1, "")
			big.Costs[0] = 10
			p.admit(ctx, "big", big)
			time.Sleep(500 * ms)
			cancel(errEnough)
			synctest.Wait()
		}, []pass{{"0", 0}, {"big: enough", 500 * ms}, {"cheap", 500 * ms}}, "the others do not wait for its tokens"},
		{"an expensive one of a higher priority that is refused", limited(10, 10), func(t *testing.T, p *passes) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 500*ms)
			defer cancel()
			p.admit(t.Context(), "0", costing(10))
			p.admit(t.Context(), "cheap", class(0, ""))
			big := class(1, "")
			big.Costs[0] = 10
			p.admit(ctx, "big", big)
			time.Sleep(time.Second)
		}, []pass{{"0", 0}, {"big: rate limit", 0}, {"cheap", 100 * ms}}, "the others do not wait for its tokens"},
		{"priorities before two limits", limited(1, 1), func(t *testing.T, p *passes) {
			t.Helper()
			p.admit(t.Context(), "a", on(users, class(0, "")))
			p.refused("a", time.Hour)
			time.Sleep(ms)
			p.admit(t.Context(), "low", on(users, class(0, "")))
			p.admit(t.Context(), "high", on(items, class(1, "")))
		}, []pass{{"a", 0}, {"high", time.Second}, {"low", 2 * time.Second}}, "the higher takes what is common"},
	})
}

// TestManyInAFlow: one that sends 200 requests at once does not hold up another one.
func TestManyInAFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(limited(10, 1))
		for i := range 201 {
			p.admit(t.Context(), fmt.Sprintf("many %d", i), class(0, "many"))
		}
		p.admit(t.Context(), "few 0", class(0, "few"))
		p.admit(t.Context(), "few 1", class(0, "few"))
		require.Equal(t, []gate.Queue{{Priority: 0, Flows: 2, Waiting: 202}}, p.Snapshot(time.Now()).Queues)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"many 0", "many 1", "few 0", "many 2", "few 1", "many 3"}, p.order()[:6])
		require.Len(t, p.order(), 203)
	})
}

// TestManyFlows: further ones share a flow.
func TestManyFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := watch(limited(1000, 1))
		ctx, cancel := context.WithCancel(t.Context())
		p.admit(ctx, "", first)
		for i := range 1024 {
			p.admit(ctx, strconv.Itoa(i), class(0, "flow "+strconv.Itoa(i)))
		}
		for i := range 5 {
			p.admit(ctx, "more "+strconv.Itoa(i), class(0, "more "+strconv.Itoa(i)))
		}
		p.admit(ctx, "none", class(0, ""))
		p.admit(ctx, "0 again", class(0, "flow 0"))
		p.admit(ctx, "high", class(1, "more 5"))
		require.Equal(t, []gate.Queue{{Priority: 1, Flows: 1, Waiting: 1}, {Priority: 0, Flows: 1025, Waiting: 1031}}, p.Snapshot(time.Now()).Queues)
		time.Sleep(1027 * ms)
		synctest.Wait()
		require.Equal(t, []string{"1022", "1023", "more 0", "0 again"}, p.order()[1024:], "one of those that share goes in a turn")
		time.Sleep(time.Second)
		require.Len(t, p.order(), 1033)
		require.Empty(t, p.Snapshot(time.Now()).Queues)
		cancel()
	})
}

// TestNobodyStarves sends as many attempts of each priority as may go, of which always so
// many wait. One of a higher priority waited at a time, and began to count anew with
// each; and the places were counted for each limit of the server's.
func TestNobodyStarves(t *testing.T) {
	for _, tt := range []struct {
		name    string
		waiting []int // by priority
		routes  bool  // the server limits one of them, to more than that
		sent    int
		want    []int // by priority
		why     string
	}{
		{"two", []int{3, 3}, false, 90, []int{10, 80}, "exactly every ninth"},
		{"two, one waits at a time", []int{1, 1}, false, 90, []int{10, 80}, "exactly every ninth"},
		{"three", []int{3, 3, 3}, false, 810, []int{10, 80, 720}, "every ninth of the ninth"},
		{"three, one waits at a time", []int{1, 1, 1}, false, 810, []int{10, 80, 720}, "every ninth of the ninth"},
		{"two before two limits", []int{3, 3}, true, 90, []int{10, 80}, "exactly every ninth"},
		{"two before two limits, one waits at a time", []int{1, 1}, true, 90, []int{10, 80}, "exactly every ninth"},
		{"three before two limits", []int{1, 2, 2}, true, 810, []int{10, 80, 720}, "every ninth of the ninth"},
		{"three before two limits, one waits at a time", []int{1, 1, 1}, true, 810, []int{10, 80, 720}, "every ninth of the ninth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				p := watch(inFlight(1))
				p.admit(ctx, "", on(users, first))
				if tt.routes {
					p.refused("", time.Hour)
					_, held := p.Held(time.Now(), users)
					require.True(t, held)
					_, held = p.Held(time.Now(), items)
					require.False(t, held)
				}
				sent := make([]int, len(tt.waiting))
				more := func(priority int) {
					p.admit(ctx, strconv.Itoa(priority), on([]limit.Route{users, items}[priority%2], class(priority, "")))
				}
				for priority, n := range tt.waiting {
					for range n {
						more(priority)
					}
				}
				before := len(p.order())
				for i := range tt.sent {
					time.Sleep(1001 * ms) // the hint lets one go each second
					p.Release(1)
					synctest.Wait()
					priority, err := strconv.Atoi(p.all[before+i].name)
					require.NoError(t, err)
					sent[priority]++
					more(priority)
				}
				require.Equal(t, tt.want, sent, tt.why)
				cancel()
				synctest.Wait()
			})
		})
	}
}
