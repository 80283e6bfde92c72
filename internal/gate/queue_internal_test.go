package gate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

// model says who is first of those that wait, in the plainest way: it looks through all
// of them.
type model struct {
	waiting []*waiter        // in the order of arrival
	turns   []flowName       // of the flows that wait: whose turn it is comes first
	firsts  map[flowName]int // first attempts of a flow that went since its last retry did
	streaks map[int]int      // attempts of a priority that went while a lower one waited
}

// flowName names a flow.
type flowName struct {
	limit    *limit.Limit
	priority int
	name     string
}

func flowNameOf(w *waiter, l *limit.Limit) flowName {
	return flowName{l, w.Class.Priority, w.Class.Flow}
}

func newModel() *model { return &model{firsts: make(map[flowName]int), streaks: make(map[int]int)} }

func (m *model) clone() *model {
	return &model{slices.Clone(m.waiting), slices.Clone(m.turns), maps.Clone(m.firsts), maps.Clone(m.streaks)}
}

func (m *model) push(w *waiter, l *limit.Limit) {
	i := len(m.waiting)
	for i > 0 && m.waiting[i-1].Arrived.After(w.Arrived) {
		i--
	}
	m.waiting = slices.Insert(m.waiting, i, w)
	if f := flowNameOf(w, l); !slices.Contains(m.turns, f) {
		m.turns = append(m.turns, f)
	}
}

func (m *model) remove(w *waiter, l *limit.Limit) {
	m.waiting = slices.DeleteFunc(m.waiting, func(other *waiter) bool { return other == w })
	if f := flowNameOf(w, l); len(m.of(f)) == 0 {
		m.turns = slices.DeleteFunc(m.turns, func(other flowName) bool { return other == f })
		delete(m.firsts, f)
	}
	if len(m.waiting) == 0 {
		clear(m.streaks)
	}
}

// of returns the waiters of a flow.
func (m *model) of(f flowName) (of []*waiter) {
	for _, w := range m.waiting {
		if flowNameOf(w, w.line.limit) == f {
			of = append(of, w)
		}
	}
	return of
}

// priority returns the one whose turn it is: the highest that has not used its places up,
// or else the lowest.
func (m *model) priority(waiting []*waiter) int {
	var all []int
	for _, w := range waiting {
		all = append(all, w.Class.Priority)
	}
	slices.Sort(all)
	for _, p := range slices.Backward(all) {
		if m.streaks[p] < 8 {
			return p
		}
	}
	return all[0]
}

// first returns the waiter before a limit that goes first of a priority.
func (m *model) first(l *limit.Limit, priority int) *waiter {
	for _, f := range m.turns {
		if f.limit != l || f.priority != priority {
			continue
		}
		var firsts, retries []*waiter
		for _, w := range m.of(f) {
			if w.Retry {
				retries = append(retries, w)
			} else {
				firsts = append(firsts, w)
			}
		}
		if len(firsts) == 0 || len(retries) > 0 && m.firsts[f] >= 8 {
			return retries[0]
		}
		return firsts[0]
	}
	return nil
}

// fewest returns the waiter with the fewest attempts behind it of those that w is the
// first of.
func (m *model) fewest(w *waiter) *waiter {
	fewest := w
	for _, other := range m.of(flowNameOf(w, w.line.limit)) {
		if other.Retry == w.Retry && other.Number < fewest.Number {
			fewest = other
		}
	}
	return fewest
}

// before returns those that wait before a limit.
func (m *model) before(l *limit.Limit) (before []*waiter) {
	for _, w := range m.waiting {
		if w.line.limit == l {
			before = append(before, w)
		}
	}
	return before
}

// choose returns the waiter that goes first of all. Of those that have arrived at one
// time, it is the one before the limit that somebody waits for longer.
func (m *model) choose(lines []*line) (next *waiter) {
	p := m.priority(m.waiting)
	for _, q := range lines {
		w := m.first(q.limit, p)
		if w != nil && (next == nil || w.Arrived.Before(next.Arrived)) {
			next = w
		}
	}
	return next
}

// pass counts a waiter that goes.
func (m *model) pass(w *waiter, l *limit.Limit) {
	f := flowNameOf(w, l)
	m.turns = append(slices.DeleteFunc(m.turns, func(other flowName) bool { return other == f }), f)
	switch p := w.Class.Priority; {
	case slices.ContainsFunc(m.waiting, func(w *waiter) bool { return w.Class.Priority < p }):
		m.streaks[p]++
	default:
		m.streaks[p] = 0
	}
	for p := range m.streaks {
		if p > w.Class.Priority {
			m.streaks[p] = 0
		}
	}
	retries := slices.ContainsFunc(m.of(f), func(w *waiter) bool { return w.Retry })
	if m.firsts[f]++; w.Retry || !retries {
		m.firsts[f] = 0
	}
	m.remove(w, l)
}

// ahead returns how many go before an attempt that is not there yet, of those that wait
// before its limit, and what they cost.
func (m *model) ahead(q *line, a Attempt) (n int, costs Costs) {
	m = m.clone()
	m.waiting = m.before(q.limit)
	last := &waiter{Attempt: a, line: q}
	m.push(last, q.limit)
	for {
		w := m.first(q.limit, m.priority(m.waiting))
		if w == last {
			return n, costs
		}
		m.pass(w, q.limit)
		n++
		for i, c := range w.Costs {
			costs[i] += c
		}
	}
}

// FuzzQueue compares the queues of a gate with the model, for attempts that come, go and
// give up in any order.
func FuzzQueue(f *testing.F) {
	push := func(kind, more byte) []byte { return []byte{0, kind, more} }
	var streak []byte
	for range 12 {
		streak = append(streak, push(1, 0)...)
	}
	streak = append(streak, push(0, 0)...)
	for range 13 {
		streak = append(streak, 5)
	}
	f.Add(streak)
	f.Add([]byte{0, 0, 0, 0, 9, 0, 0, 18, 0, 0, 27, 0, 5, 5, 0, 36, 0, 3, 1, 5, 5, 5})
	f.Add([]byte{0, 128, 0, 0, 0, 3, 0, 64, 7, 0, 192, 200, 5, 3, 0, 5, 5, 0, 1, 1, 5})
	f.Add([]byte{0, 2, 0, 0, 1, 0, 0, 0, 0, 5, 0, 2, 0, 5, 0, 2, 0, 5, 0, 1, 0, 5, 0, 2, 0, 5})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 200 {
			t.Skip("long enough")
		}
		start := time.Now()
		limits := [3]*limit.Limit{nil, new(limit.Limit), new(limit.Limit)}
		g, m := new(Gate), newModel()
		next := func() (b byte) {
			if len(ops) > 0 {
				b, ops = ops[0], ops[1:]
			}
			return b
		}
		for i := 0; len(ops) > 0; i++ {
			now := start.Add(time.Duration(i) * time.Second)
			switch op := next(); op % 8 {
			case 0, 1, 2:
				a, l := attemptOf(next(), next(), now)
				if q := g.line(limits[l]); q != nil {
					n, costs := q.ahead(&a)
					compareAhead(t, m, q, a, n, costs)
				}
				w := &waiter{Attempt: a}
				g.push(w, limits[l])
				m.push(w, limits[l])
			case 3, 4:
				if n := len(m.waiting); n > 0 {
					w := m.waiting[int(next())%n]
					l := w.line.limit
					g.remove(w)
					m.remove(w, l)
				}
			default:
				if len(m.waiting) == 0 {
					break
				}
				w, _ := g.choose(now)
				require.Same(t, m.choose(g.lines), w)
				q := w.line
				q.pass(w)
				g.streaks.pass(w.Class.Priority, g.lowest())
				m.pass(w, q.limit)
				g.remove(w)
			}
			compare(t, m, g)
		}
	})
}

// attemptOf makes an attempt of two bytes, and the index of its limit.
func attemptOf(kind, more byte, now time.Time) (a Attempt, limit int) {
	a = Attempt{Number: 1 + int(more%3), Arrived: now}
	a.Class = Class{Priority: int(kind % 3), Flow: [...]string{"", "a", "b"}[kind/3%3]}
	a.Retry = kind/9%3 == 2
	if kind >= 128 {
		a.Arrived = now.Add(-time.Duration(more%16) * time.Second)
	}
	a.Costs = Costs{float64(more % 8), float64(more) / 7, 1}
	return a, int(more / 16 % 3)
}

// compare compares who waits and who is first.
func compare(t *testing.T, m *model, g *Gate) {
	t.Helper()
	waiting := 0
	for _, q := range g.lines {
		before := m.before(q.limit)
		waiting += len(before)
		require.NotEmpty(t, before, "nobody waits before a limit that is kept")
		require.Equal(t, len(before), q.len())
		first := m.first(q.limit, m.priority(before))
		require.Same(t, first, q.first(false))
		require.Same(t, m.fewest(first), q.first(true))
		if q.limit != nil {
			require.Equal(t, len(before), q.limit.Waiting)
		}
		all := make(map[*waiter]bool)
		for w := range q.all {
			require.False(t, all[w], "once each")
			all[w] = true
		}
		for _, w := range before {
			require.True(t, all[w])
		}
		require.Len(t, all, len(before))
		compareCosts(t, before, &q.queue)
		compareLevels(t, before, &q.queue)
	}
	require.Equal(t, len(m.waiting), waiting)
	for p, n := range m.streaks {
		require.Equal(t, n, g.streaks[p], "priority %d", p)
	}
	if waiting == 0 {
		require.Empty(t, g.lines)
		require.Empty(t, g.streaks)
	}
}

func compareCosts(t *testing.T, waiting []*waiter, q *queue) {
	t.Helper()
	var sum Costs
	for _, w := range waiting {
		for i, c := range w.Costs {
			sum[i] += c
		}
	}
	require.InDeltaSlice(t, sum[:], q.costs[:], 1e-9)
}

// compareLevels checks that nothing is left of levels and flows of nobody.
func compareLevels(t *testing.T, waiting []*waiter, q *queue) {
	t.Helper()
	type counts struct{ flows, waiting int }
	want := make(map[int]counts)
	seen := make(map[Class]bool)
	for _, w := range waiting {
		c := want[w.Class.Priority]
		if c.waiting++; !seen[w.Class] {
			c.flows++
			seen[w.Class] = true
		}
		want[w.Class.Priority] = c
	}
	got := make(map[int]counts)
	for _, l := range q.levels {
		require.Equal(t, len(l.flows), l.turns.Len())
		for name, f := range l.flows {
			require.Equal(t, name, f.name)
			require.Positive(t, f.len())
		}
		got[l.priority] = counts{len(l.flows), l.n}
	}
	require.Equal(t, want, got)
	require.True(t, slices.IsSortedFunc(q.levels, func(a, b *level) int { return cmp.Compare(b.priority, a.priority) }))
}

// compareAhead compares how many go before an attempt, and their costs, with what is
// foreseen: never more, and exactly as many if no higher priority waits.
func compareAhead(t *testing.T, m *model, q *line, a Attempt, n int, costs Costs) {
	t.Helper()
	want, sum := m.ahead(q, a)
	higher := slices.ContainsFunc(m.before(q.limit), func(w *waiter) bool { return w.Class.Priority > a.Class.Priority })
	if higher {
		require.LessOrEqual(t, n, want)
	} else {
		require.Equal(t, want, n)
	}
	for i, c := range costs {
		require.LessOrEqual(t, c, sum[i]+1e-9, "who would have made it is not refused")
	}
	if !higher {
		require.InDelta(t, sum[2], costs[2], 1e-9, "with the same costs it is exact")
	}
}

// waitersOf returns waiters that have arrived in their order.
func waitersOf(n int, class func(i int) Class) []*waiter {
	start := time.Now()
	waiters := make([]*waiter, n)
	for i := range waiters {
		a := Attempt{Number: 1, Arrived: start.Add(time.Duration(i)), Costs: Costs{1}, Class: class(i)}
		waiters[i] = &waiter{Attempt: a}
	}
	return waiters
}

// BenchmarkQueue is the cost of each waiter.
func BenchmarkQueue(b *testing.B) {
	for _, flows := range []int{1, 1000} {
		class := func(i int) Class { return Class{Flow: strconv.Itoa(i % flows)} }
		b.Run(fmt.Sprintf("pass/flows=%d", flows), func(b *testing.B) {
			g := new(Gate)
			waiters := waitersOf(10_000, class)
			for _, w := range waiters {
				g.push(w, nil)
			}
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				w, _ := g.choose(now)
				w.line.pass(w)
				g.remove(w)
				g.push(w, nil)
			}
		})
		b.Run(fmt.Sprintf("ahead/flows=%d", flows), func(b *testing.B) {
			g := new(Gate)
			waiters := waitersOf(10_000, class)
			for _, w := range waiters {
				g.push(w, nil)
			}
			a := waiters[len(waiters)-1].Attempt
			b.ReportAllocs()
			for b.Loop() {
				g.line(nil).ahead(&a)
			}
		})
		b.Run(fmt.Sprintf("leave/waiters=40000/flows=%d", flows), func(b *testing.B) {
			waiters := waitersOf(40_000, class)
			for b.Loop() {
				b.StopTimer()
				g := new(Gate)
				g.common = newCommon(Settings{InFlight: 1})
				g.common.take(time.Now(), &Costs{})
				for _, w := range waiters {
					g.push(w, nil)
				}
				b.StartTimer()
				for _, w := range waiters {
					g.leave(w)
				}
			}
		})
	}
}
