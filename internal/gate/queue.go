package gate

import (
	"cmp"
	"container/list"
	"slices"
	"time"
)

// Class says which attempts go before others that wait.
type Class struct {
	Priority int    // the higher goes first
	Flow     string // flows of one priority take turns
}

// waiter is an attempt in the queue; passed is closed when it may be sent.
type waiter struct {
	Attempt
	stamp    Stamp // once it has passed
	queued   time.Time
	maxWait  time.Duration
	deadline time.Time // of its context; zero: none
	passed   chan struct{}
	line     *line // nil: it is in none
	late     bool  // its context ends before an answer would come
	flow     *flow
	place    *list.Element // in the flow
}

// tooLate reports whether it is given up before an answer that comes at the given time.
func (w *waiter) tooLate(answer time.Time) bool {
	return !w.deadline.IsZero() && !answer.Before(w.deadline)
}

const (
	// perLower is how many go before one of those that wait behind them: attempts of
	// a priority before one of a lower one, and first attempts before a retry. So the
	// lower get a ninth of the places, and are never starved. For retries it is
	// more than the default budget allows: they do not pile up.
	perLower = 8

	// maxFlows bounds the flows of a priority that wait. Attempts of further ones
	// share a flow.
	maxFlows = 1024
)

// streaks counts, by priority, the attempts that went in a row while a lower one waited,
// before whichever limit. They are counted apart from the queues: a priority of which one
// attempt waits at a time would begin anew with each, and never give way.
type streaks map[int]int

// over reports whether it is the turn of a lower priority.
func (s streaks) over(priority int) bool { return s[priority] >= perLower }

// pass counts an attempt of a priority that goes, if a lower one waits.
func (s streaks) pass(priority, lowest int) {
	for higher := range s {
		if higher > priority {
			delete(s, higher)
		}
	}
	if lowest < priority {
		s[priority]++
	} else {
		delete(s, priority)
	}
}

// before reports whether w goes before another waiter that may go as well.
func (s streaks) before(w, other *waiter) bool {
	switch p, q := w.Class.Priority, other.Class.Priority; {
	case p > q:
		return !s.over(p)
	case p < q:
		return s.over(q)
	}
	return w.Arrived.Before(other.Arrived)
}

// queue has the attempts that wait: the higher priority first, flows of one priority in
// turn, and in a flow first attempts before retries, each in the order of arrival. All
// operations take constant time, so that thousands of waiters can give up at once, except
// those on an attempt that arrived long ago, and an estimate, which looks at each flow.
type queue struct {
	levels  []*level // with attempts that wait, the highest priority first
	streaks streaks  // of all queues of a gate
	n       int

	costs       Costs // of all of them
	least, most Costs // of one, since the queue was empty
}

// level has the flows of one priority.
type level struct {
	priority int
	turns    list.List // of *flow, the next one in front
	flows    map[string]*flow
	n        int
}

// flow has attempts that go one after the other, first attempts before retries: a call
// without any answer yet goes before one with a bad answer. A request that was refused
// for its rate has the arrival it had.
type flow struct {
	level   *level
	name    string
	classes [2]list.List  // of *waiter: first attempts, retries
	inARow  int           // first attempts that went while a retry waited
	turn    *list.Element // in the level
}

func (q *queue) len() int    { return q.n }
func (q *queue) empty() bool { return q.n == 0 }

// find returns the index of the level of a priority, or where it would be.
func (q *queue) find(priority int) (i int, ok bool) {
	return slices.BinarySearchFunc(q.levels, priority, func(l *level, priority int) int {
		return cmp.Compare(priority, l.priority)
	})
}

func (q *queue) push(w *waiter) {
	i, ok := q.find(w.Class.Priority)
	if !ok {
		l := &level{priority: w.Class.Priority, flows: make(map[string]*flow, 1)}
		q.levels = slices.Insert(q.levels, i, l)
	}
	q.levels[i].push(w)
	if q.n++; q.n == 1 {
		q.costs, q.least, q.most = Costs{}, w.Costs, w.Costs
	}
	for i, c := range w.Costs {
		q.costs[i] += c
		q.least[i], q.most[i] = min(q.least[i], c), max(q.most[i], c)
	}
}

func (q *queue) remove(w *waiter) {
	l := w.flow.level
	l.remove(w)
	if q.n--; l.n == 0 {
		i, _ := q.find(l.priority)
		q.levels = slices.Delete(q.levels, i, i+1)
	}
	for i, c := range w.Costs {
		q.costs[i] -= c
	}
}

// all calls yield with each waiter in the queue.
func (q *queue) all(yield func(*waiter) bool) {
	for _, l := range q.levels {
		for e := l.turns.Front(); e != nil; e = e.Next() {
			if !flowOf(e).all(yield) {
				return
			}
		}
	}
}

// ahead returns how many go before an attempt that is not in the queue yet, and what
// they cost at least, as far as that can be foreseen.
func (q *queue) ahead(a *Attempt) (n int, costs Costs) {
	if q.n == 0 {
		return 0, costs
	}
	i, ok := q.find(a.Class.Priority)
	higher, lower := q.levels[:i], q.levels[i:]
	if ok {
		n, lower = q.levels[i].ahead(a), q.levels[i+1:]
	}
	n += min(count(lower), (n+q.streaks[a.Class.Priority])/perLower)
	gone := 0 // before the next turn of this priority
	for _, l := range higher {
		gone = max(gone, min(q.streaks[l.priority], perLower))
	}
	n += min(count(higher), (n+1)*perLower-gone)
	behind := float64(q.n - n)
	for i, c := range q.costs {
		costs[i] = max(q.least[i]*float64(n), c-q.most[i]*behind)
	}
	return n, costs
}

func count(levels []*level) int {
	n := 0
	for _, l := range levels {
		n += l.n
	}
	return n
}

// first returns the waiter that goes next, or nil. If fewest is true it is the
// one with the fewest attempts behind it: while refusals are likely, the few in front would
// use up all their attempts to find out when that is over.
func (q *queue) first(fewest bool) *waiter {
	for i, l := range q.levels {
		if i == len(q.levels)-1 || !q.streaks.over(l.priority) {
			return flowOf(l.turns.Front()).first(fewest)
		}
	}
	return nil
}

// firstNotLast returns the first waiter whose call has another attempt after it, or nil.
func (q *queue) firstNotLast() *waiter {
	for w := range q.all {
		if !w.Last {
			return w
		}
	}
	return nil
}

// pass counts a waiter that goes, before it is removed.
func (q *queue) pass(w *waiter) {
	w.flow.level.turns.MoveToBack(w.flow.turn)
	w.flow.pass(w)
}

func (l *level) push(w *waiter) {
	name := w.Class.Flow
	if l.flows[name] == nil && len(l.flows) >= maxFlows {
		name = "" // the flow of those that name none
	}
	f := l.flows[name]
	if f == nil {
		f = &flow{level: l, name: name}
		f.turn = l.turns.PushBack(f)
		l.flows[name] = f
	}
	f.push(w)
	l.n++
}

func (l *level) remove(w *waiter) {
	f := w.flow
	f.remove(w)
	l.n--
	if f.len() == 0 {
		l.turns.Remove(f.turn)
		delete(l.flows, f.name)
	}
}

// ahead returns how many of the level go before an attempt of it: those of its own flow,
// and as many of each other one.
func (l *level) ahead(a *Attempt) int {
	n := 0
	own := l.flows[a.Class.Flow]
	if own != nil {
		n = own.ahead(a)
	}
	if others := l.n - own.len(); others > 0 {
		theirs, turns := 0, n+1
		for e := l.turns.Front(); e != nil; e = e.Next() {
			if f := flowOf(e); f == own {
				turns-- // those behind it have one turn less
			} else {
				theirs += min(f.len(), turns)
			}
		}
		n += theirs
	}
	return n
}

func (f *flow) class(retry bool) *list.List {
	if retry {
		return &f.classes[1]
	}
	return &f.classes[0]
}

func (f *flow) len() int {
	if f == nil {
		return 0
	}
	return f.classes[0].Len() + f.classes[1].Len()
}

// all calls yield with each waiter in the flow, and reports whether it wants more.
func (f *flow) all(yield func(*waiter) bool) bool {
	for i := range f.classes {
		for e := f.classes[i].Front(); e != nil; e = e.Next() {
			if !yield(at(e)) {
				return false
			}
		}
	}
	return true
}

// position returns the last waiter of its class that goes before a, or nil, and
// how many do.
func (f *flow) position(a *Attempt) (before *list.Element, n int) {
	class := f.class(a.Retry)
	if front := class.Front(); front != nil && at(front).Arrived.After(a.Arrived) {
		return nil, 0
	}
	before, n = class.Back(), class.Len()
	for before != nil && at(before).Arrived.After(a.Arrived) {
		before, n = before.Prev(), n-1
	}
	return before, n
}

func (f *flow) push(w *waiter) {
	w.flow = f
	class := f.class(w.Retry)
	if before, _ := f.position(&w.Attempt); before != nil {
		w.place = class.InsertAfter(w, before)
	} else {
		w.place = class.PushFront(w)
	}
}

func (f *flow) remove(w *waiter) { f.class(w.Retry).Remove(w.place) }

// ahead returns how many of the flow go before an attempt of it.
func (f *flow) ahead(a *Attempt) int {
	_, n := f.position(a)
	firsts, retries := f.classes[0].Len(), f.classes[1].Len()
	if a.Retry {
		return n + min(firsts, (n+1)*perLower-f.inARow)
	}
	return n + min(retries, (n+f.inARow)/perLower)
}

func (f *flow) first(fewest bool) *waiter {
	firsts, retries := &f.classes[0], &f.classes[1]
	class := firsts
	if firsts.Len() == 0 || retries.Len() > 0 && f.inARow >= perLower {
		class = retries
	}
	e := class.Front()
	if e == nil {
		return nil
	}
	w := at(e)
	for ; fewest && w.Number > 1 && e != nil; e = e.Next() {
		if at(e).Number < w.Number {
			w = at(e)
		}
	}
	return w
}

// pass counts a waiter that goes.
func (f *flow) pass(w *waiter) {
	if f.inARow++; w.Retry || f.classes[1].Len() == 0 {
		f.inARow = 0
	}
}

func at(e *list.Element) *waiter {
	return e.Value.(*waiter) //nolint:forcetypeassert // the lists hold nothing else
}

func flowOf(e *list.Element) *flow {
	return e.Value.(*flow) //nolint:forcetypeassert // the lists hold nothing else
}
