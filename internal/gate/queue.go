package gate

import (
	"container/list"
	"time"
)

// waiter is an attempt in the queue; passed is closed when it may be sent.
type waiter struct {
	Attempt
	stamp   Stamp // once it has passed
	queued  time.Time
	maxWait time.Duration
	passed  chan struct{}
	line    *line // nil: it is in none
	place   *list.Element
}

// firstsPerRetry first attempts go before a retry that waits. So retries get a
// ninth of the places, which is more than the default budget allows: they do not
// pile up.
const firstsPerRetry = 8

// queue has the attempts that wait, first attempts before retries: a call without
// any answer yet goes before one with a bad answer. Every ninth place is a retry's,
// or else a retry would never get its turn in a backlog. Within a class the
// order is that of arrival, and a request that was refused for its rate has the
// arrival it had. All operations but those on an attempt that arrived long ago
// take constant time, so that thousands of waiters can give up at once.
type queue struct {
	classes      [2]list.List // of *waiter: first attempts, retries
	firstsInARow int          // first attempts that went while a retry waited
}

func (q *queue) class(retry bool) *list.List {
	if retry {
		return &q.classes[1]
	}
	return &q.classes[0]
}

func (q *queue) len() int    { return q.classes[0].Len() + q.classes[1].Len() }
func (q *queue) empty() bool { return q.len() == 0 }

// position returns the last waiter of its class that goes before a, or nil, and
// how many do.
func (q *queue) position(a Attempt) (before *list.Element, n int) {
	class := q.class(a.Retry)
	if front := class.Front(); front != nil && at(front).Arrived.After(a.Arrived) {
		return nil, 0
	}
	before, n = class.Back(), class.Len()
	for before != nil && at(before).Arrived.After(a.Arrived) {
		before, n = before.Prev(), n-1
	}
	return before, n
}

func (q *queue) push(w *waiter) {
	class := q.class(w.Retry)
	if before, _ := q.position(w.Attempt); before != nil {
		w.place = class.InsertAfter(w, before)
	} else {
		w.place = class.PushFront(w)
	}
}

func (q *queue) remove(w *waiter) { q.class(w.Retry).Remove(w.place) }

// all calls yield with each waiter in the queue.
func (q *queue) all(yield func(*waiter) bool) {
	for i := range q.classes {
		for e := q.classes[i].Front(); e != nil; e = e.Next() {
			if !yield(at(e)) {
				return
			}
		}
	}
}

// ahead returns how many go before an attempt that is not in the queue yet.
func (q *queue) ahead(a Attempt) int {
	_, n := q.position(a)
	firsts, retries := q.classes[0].Len(), q.classes[1].Len()
	if a.Retry {
		return n + min(firsts, (n+1)*firstsPerRetry-q.firstsInARow)
	}
	return n + min(retries, (n+q.firstsInARow)/firstsPerRetry)
}

// first returns the waiter that goes next, or nil. If fewest is true it is the
// one with the fewest attempts behind it: while the server refuses everything,
// the few in front would use up all their attempts to find out whether that is
// over.
func (q *queue) first(fewest bool) *waiter {
	firsts, retries := &q.classes[0], &q.classes[1]
	class := firsts
	if firsts.Len() == 0 || retries.Len() > 0 && q.firstsInARow >= firstsPerRetry {
		class = retries
	}
	e := class.Front()
	if e == nil {
		return nil
	}
	w := at(e)
	for ; fewest && e != nil; e = e.Next() {
		if at(e).Number < w.Number {
			w = at(e)
		}
	}
	return w
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

// pass counts a waiter that goes.
func (q *queue) pass(w *waiter) {
	if q.firstsInARow++; w.Retry || q.classes[1].Len() == 0 {
		q.firstsInARow = 0
	}
}

func at(e *list.Element) *waiter {
	return e.Value.(*waiter) //nolint:forcetypeassert // the lists hold nothing else
}
