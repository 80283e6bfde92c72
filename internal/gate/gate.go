// Package gate decides when an attempt of one limit key may be sent.
//
// Two things hold attempts back: the limits that are believed to be the server's,
// see package limit, and those that the user has set: token buckets, and a number of
// attempts in flight. An attempt that is held back waits in the queue of its limit of
// the server's. A timer is set to the next
// instant at which the first of them may go, and an attempt that ends may let others
// go before. There is no goroutine, and no token is taken ahead, so a waiter that
// gives up takes nothing with it.
package gate

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/resilienthttp/resilient/internal/limit"
)

// The reasons for which attempts are held back.
const (
	Pause     = "pause"      // a pause, or a limit that is looked for
	RateLimit = "rate limit" // a limit, or one of the token buckets
	InFlight  = "in flight"  // as many are in flight as may be
)

// Attempt is an attempt that wants to pass.
type Attempt struct {
	Route   limit.Route
	Retry   bool
	Number  int       // of the attempt within its call, from 1
	Last    bool      // the call has no other one
	Arrived time.Time // an attempt that was refused keeps its place; zero: now
	Costs   Costs     // for each limit of Settings
	Class   Class
}

// Stamp identifies an attempt that passed. The zero Stamp is one that passed when
// there was nothing to learn.
type Stamp struct {
	limit.Stamp
	Arrived time.Time
	Slot    int // to be given to Release when the attempt is over; 0: none

	Question Question // to be given to Answered when it is answered
}

// RefusalError is the error of an attempt that would have to wait too long.
type RefusalError struct {
	Reason   string
	Wait     time.Duration // estimated
	Deadline bool          // it is the context that does not last so long
}

func (r *RefusalError) Error() string { return r.Reason }

// Gate holds the attempts of one limit key. Its zero value lets all of them pass.
type Gate struct {
	mu      sync.Mutex
	common  common
	key     *limit.Key  // nil: nobody was ever refused
	lines   []*line     // with attempts that wait
	streaks streaks     // of those
	next    *waiter     // that goes as soon as the limits of the user's let it
	timer   *time.Timer // until the first of them may go
}

// line is the queue before a limit, nil: before those that the user has set only.
type line struct {
	queue
	limit *limit.Limit
}

// New returns a gate with the limits that the user has set.
func New(s Settings) *Gate { return &Gate{common: newCommon(s)} }

// TryAdmit lets an attempt pass that need not wait, and fills in its stamp.
func (g *Gate) TryAdmit(s *Stamp, a Attempt) bool {
	now := time.Now()
	if s.Arrived = a.Arrived; a.Arrived.IsZero() {
		s.Arrived = now
	}
	g.mu.Lock()
	ok := g.tryAdmit(now, s, &a)
	g.mu.Unlock()
	return ok
}

func (g *Gate) tryAdmit(now time.Time, s *Stamp, a *Attempt) bool {
	if g.key != nil && g.moved() {
		g.serve(now) // those who wait go first
	}
	if len(g.lines) > 0 && g.common.any() {
		return false // they may wait for what is common
	}
	l := g.limit(a.Route)
	if g.line(l) != nil || l != nil && (a.Last && l.Opens(now).After(now) || g.hold(now, l, a) > 0) || g.common.hold(now, &a.Costs) > 0 {
		return false
	}
	g.pass(now, l, s, a, false)
	return true
}

// limit returns the limit of the server's that holds back the attempts of a route, or nil.
func (g *Gate) limit(route limit.Route) *limit.Limit {
	if g.key == nil {
		return nil
	}
	return g.key.Limit(route)
}

// hold returns how long a limit of the server's holds back an attempt that is the next one.
func (g *Gate) hold(now time.Time, l *limit.Limit, a *Attempt) time.Duration {
	return l.Hold(now, g.common.cost(1, &a.Costs))
}

// line returns the queue before a limit, or nil if nobody waits in it.
func (g *Gate) line(l *limit.Limit) *line {
	for _, line := range g.lines {
		if line.limit == l {
			return line
		}
	}
	return nil
}

// Admit returns when an attempt may be sent, or the reason why not: a *RefusalError if
// the wait would be longer than maxWait or than the context lasts, else the cause
// of the context. It calls begins before it waits.
func (g *Gate) Admit(ctx context.Context, a Attempt, maxWait time.Duration, begins func(reason string, d time.Duration)) (Stamp, error) {
	now := time.Now()
	if a.Arrived.IsZero() {
		a.Arrived = now
	}
	w := &waiter{Attempt: a, stamp: Stamp{Arrived: a.Arrived}, queued: now, maxWait: maxWait, passed: make(chan struct{})}
	w.deadline, _ = ctx.Deadline()
	g.mu.Lock()
	if g.tryAdmit(now, &w.stamp, &w.Attempt) { // since it was tried
		g.mu.Unlock()
		return w.stamp, nil
	}
	e := g.estimate(now, &w.Attempt)
	refusal := g.refusal(ctx, now, e, a.Route, maxWait)
	g.push(w, g.limit(a.Route))
	if g.serve(now); w.line == nil && !w.late { // others wait for a limit that does not bind it
		g.mu.Unlock()
		return w.stamp, nil
	}
	if refusal != nil {
		if !w.late {
			g.remove(w)
		}
		g.serve(now) // the timer may have been set for it
		g.mu.Unlock()
		return Stamp{}, refusal
	}
	g.mu.Unlock()
	defer g.leave(w) // if begins panics
	begins(e.reason, e.wait)

	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	var err error
	for waits := 1; err == nil; {
		select {
		case <-w.passed:
			return w.stamp, nil
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-timer.C:
			reason, held := g.held(w)
			if held {
				waits++
			}
			if waits > maxWaits {
				err = &RefusalError{Reason: reason, Wait: maxWait}
			}
			timer.Reset(maxWait)
		}
	}
	if !g.leave(w) {
		return w.stamp, nil
	}
	return Stamp{}, err
}

// refusal returns why an attempt does not wait, or nil.
func (g *Gate) refusal(ctx context.Context, now time.Time, e estimate, route limit.Route, maxWait time.Duration) error {
	switch {
	case e.bound != believed && PastDeadline(ctx, now, e.wait):
		return &RefusalError{Reason: e.reason, Wait: e.wait, Deadline: true}
	case maxWait == 0, e.bound == certain && e.limit > maxWait, g.closedFor(now, route) > maxWait:
		return &RefusalError{Reason: e.reason, Wait: e.wait}
	}
	return nil
}

// maxWaits is how often an attempt waits for maxWait. A time in which everything is
// refused is a wait, and the queue after it is another one. Until a limit is confirmed,
// a queue that is too long is no more than a belief.
const maxWaits = 2

// held reports whether a limit that the user did not set holds the waiter, and which kind.
// Its turn may have come in this same instant, and what it waited for at first may be over.
func (g *Gate) held(w *waiter) (reason string, held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.serve(now)
	if w.line == nil || w.line.limit == nil || g.hold(now, w.line.limit, &w.Attempt) <= 0 {
		return "", false
	}
	if w.line.limit.Paces() {
		return RateLimit, true
	}
	return Pause, true
}

// push lets a waiter wait in the queue of its limit.
func (g *Gate) push(w *waiter, l *limit.Limit) {
	q := g.line(l)
	if q == nil {
		if g.streaks == nil {
			g.streaks = make(streaks)
		}
		q = &line{queue{streaks: g.streaks}, l}
		g.lines = append(g.lines, q)
	}
	q.push(w)
	w.line = q
	if l != nil {
		l.Waiting++
	}
}

// remove takes a waiter out of its queue.
func (g *Gate) remove(w *waiter) {
	q := w.line
	q.remove(w)
	w.line = nil
	if q.limit != nil {
		q.limit.Waiting--
	}
	if q.empty() {
		if len(g.lines) == 1 {
			clear(g.streaks)
		}
		g.lines = slices.DeleteFunc(g.lines, func(other *line) bool { return other == q })
	}
}

// leave takes w out of the queue and reports whether it has not passed.
func (g *Gate) leave(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := w.line
	if q == nil {
		return w.late
	}
	first := q.first(false) == w || g.next == w
	if g.remove(w); first || q.len() <= 1 { // one that is alone waits for no other to find out
		g.serve(time.Now())
	}
	return true
}

// moved reports whether waiters have to wait before another limit than they do.
func (g *Gate) moved() bool {
	return g.key.Moved || slices.ContainsFunc(g.lines, func(q *line) bool { return q.limit != nil && q.limit.Over() })
}

// move lets the waiters wait before other limits, if theirs have changed.
func (g *Gate) move() {
	g.key.Moved = false
	var moved []*waiter
	for _, q := range g.lines {
		for w := range q.all {
			if g.limit(w.Route) != q.limit {
				moved = append(moved, w)
			}
		}
	}
	for _, w := range moved {
		g.remove(w)
		g.push(w, g.limit(w.Route))
	}
}

// RetryDelay returns how long a retry of an attempt would be held back at least, and
// whether that is certain.
func (g *Gate) RetryDelay(now time.Time, a Attempt) (d time.Duration, certain bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a.Retry, a.Arrived = true, now
	e := g.estimate(now, &a)
	return e.wait, e.bound != believed
}

// serve lets all attempts pass that may go now, and sets the timer for the next
// one. It is called whenever something has changed.
func (g *Gate) serve(now time.Time) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	g.next = nil
	for {
		if g.key != nil && g.moved() {
			g.move()
		}
		if len(g.lines) == 0 {
			return
		}
		w, d := g.choose(now)
		if g.key != nil && g.moved() {
			continue // a limit is over
		}
		if w == nil {
			if d < forever {
				g.timer = time.AfterFunc(d, func() {
					g.mu.Lock()
					defer g.mu.Unlock()
					g.serve(time.Now())
				})
			}
			return
		}
		l := w.line.limit
		if l != nil && l.Waiting > 1 && w.tooLate(now.Add(l.Service())) {
			// It would be given up before it is answered, and all behind it as well, one after
			// the other. It goes on waiting for the end of its context alone.
			w.late = true
			g.remove(w)
			continue
		}
		w.line.pass(w)
		g.streaks.pass(w.Class.Priority, g.lowest())
		g.remove(w)
		g.pass(now, l, &w.stamp, &w.Attempt, true)
		close(w.passed)
	}
}

// forever is longer than any timer need run. It is how long those are held back who wait
// for another attempt to end.
const forever = 365 * 24 * time.Hour

// lowest returns the lowest priority that waits.
func (g *Gate) lowest() int {
	priority := math.MaxInt
	for _, q := range g.lines {
		priority = min(priority, q.levels[len(q.levels)-1].priority)
	}
	return priority
}

// choose returns the waiter that goes now: of those whom no limit of the server's holds
// back, the first by its class and arrival. If none may, it returns nil and how long until one does.
func (g *Gate) choose(now time.Time) (next *waiter, d time.Duration) {
	d = forever
	for _, q := range g.lines {
		w, hold := g.front(now, q)
		switch {
		case hold > 0:
			d = min(d, hold)
		case next == nil || g.streaks.before(w, next):
			next = w
		}
	}
	if next != nil {
		// Nobody overtakes it, or one that costs much would wait for ever.
		if hold := g.common.hold(now, &next.Costs); hold > 0 {
			g.next = next
			return nil, min(d, hold)
		}
	}
	return next, d
}

// front returns the waiter of a line that goes next, and how long the limit of the server's
// holds it back.
func (g *Gate) front(now time.Time, q *line) (w *waiter, hold time.Duration) {
	if q.limit == nil {
		return q.first(false), 0
	}
	risk := q.limit.Risk(now)
	w = q.first(risk == limit.Great)
	if hold = g.hold(now, q.limit, &w.Attempt); hold > 0 || !w.Last {
		return w, hold
	}
	// The last attempt of a call is not spent while refusals are likely, as long as others
	// can find out when that ends.
	longest := w.queued.Add(w.maxWait).Sub(now)
	hold = min(longest, q.limit.Opens(now).Sub(now))
	if hold > 0 || longest > 0 && risk > limit.Small {
		if other := q.firstNotLast(); other != nil {
			return other, g.hold(now, q.limit, &other.Attempt)
		}
	}
	return w, hold
}

// pass counts an attempt that goes now, and fills in its stamp.
func (g *Gate) pass(now time.Time, l *limit.Limit, s *Stamp, a *Attempt, waited bool) {
	s.Slot, s.Question = g.common.take(now, &a.Costs)
	if g.key != nil {
		g.key.Unit = g.common.unit()
		s.Stamp = g.key.Sent(now, a.Route, l, waited, g.common.cost(1, &a.Costs))
	}
}

// Release gives back the slot of an attempt that is over, its response with it.
func (g *Gate) Release(slot int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.common.slots.release(slot)
	if len(g.lines) > 0 { // or else nobody needs the time
		g.serve(time.Now())
	}
}

// GiveBack gives back what an attempt has taken from the buckets. If it was refused, the
// server has a little less than they say, which is what comes in a moment: its way to the
// server was shorter than that of the one before it. Without that, each one of a backlog is
// sent when it has just enough, and any that is quicker is refused.
func (g *Gate) GiveBack(costs *Costs, refused bool) {
	const moment = 0.01 // seconds
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for i, b := range g.common.buckets {
		back := costs[i]
		if refused {
			back = max(back-moment*b.Rate(), 0)
		}
		b.Take(now, -back)
	}
	g.serve(now)
}

// Likely returns what an attempt is likely to take from each limit, by its estimate.
func (g *Gate) Likely(estimate Costs) Costs {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.common.likely(estimate)
}

// Settle corrects what an attempt that was accepted has taken from a bucket, by an
// estimate.
func (g *Gate) Settle(s Stamp, i int, estimate, taken, used float64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, more := time.Now(), used-taken
	g.common.settle(i, estimate, used)
	g.common.buckets[i].Settle(now, more)
	if g.key != nil && i == g.common.learned-1 {
		g.key.Settle(s.Stamp, more)
	}
	g.serve(now)
}

// bound is what a wait is bounded by.
type bound uint8

const (
	unbounded bound = iota // the context alone: it is the user's own limit
	believed               // the longest wait, at its end
	certain                // the longest wait, and it is known before that it will be longer
)

// estimate is how long an attempt would wait at least, why, and what bounds that.
type estimate struct {
	wait   time.Duration
	reason string
	bound  bound
	limit  time.Duration // what the server's limit takes of it
}

// estimate returns how long an attempt would wait. How long it takes to find a limit is
// up to the server, so it is not foreseen.
func (g *Gate) estimate(now time.Time, a *Attempt) estimate {
	l := g.limit(a.Route)
	var ahead int
	var costs Costs
	if q := g.line(l); q != nil {
		ahead, costs = q.ahead(a)
	}
	d := g.common.delay(now, &a.Costs, &costs)
	inFlight := d == 0 && g.common.full()
	if l == nil && !inFlight {
		return estimate{d, RateLimit, unbounded, 0}
	}
	if l == nil {
		return estimate{0, InFlight, unbounded, 0} // until another attempt ends
	}
	held, b := g.hold(now, l, a), believed
	if l.Certain(now) {
		b = certain
	}
	if refused := l.Refused(now); refused > 0 {
		return estimate{max(d, refused), Pause, b, refused}
	}
	if inFlight && held <= 0 {
		return estimate{0, InFlight, unbounded, 0}
	}
	if !l.Paces() {
		return estimate{d, Pause, b, 0}
	}
	if held >= forever {
		held = 0 // until another attempt ends
	}
	held += l.Behind(now, ahead, g.common.cost(ahead, &costs))
	return estimate{max(d, held), RateLimit, b, held}
}

// closedFor returns for how long everything has been refused, if others wait to find out
// when that ends.
func (g *Gate) closedFor(now time.Time, route limit.Route) time.Duration {
	l := g.limit(route)
	if l == nil || g.line(l) == nil {
		return 0
	}
	// The end of it is found after a tenth of the time it takes.
	return l.ClosedFor(now) * 9 / 10
}

// Done tells the gate of the outcome of an attempt, and returns what refused it.
func (g *Gate) Done(s Stamp, route limit.Route, now time.Time, r limit.Result) limit.Cause {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.key == nil {
		if (r.Outcome <= limit.Accepted || r.Outcome == limit.Closed && r.Hint <= 0) && !r.Told {
			return limit.Unknown
		}
		g.key = new(limit.Key)
	}
	cause := g.key.Done(s.Stamp, route, now, r)
	g.serve(now)
	return cause
}

// TryOne lets one attempt go, and more as they are accepted, because another gate
// gives reason to think that this one is closed too.
func (g *Gate) TryOne(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.key == nil {
		g.key = new(limit.Key)
		g.key.Look(now)
	}
}

// Snapshot is the state of a gate.
type Snapshot struct {
	Tokens  Costs // in the buckets
	Rates   Costs // of the buckets
	Bursts  Costs
	Waiting int
	Queues  []Queue // by priority, the highest first
	Flying  int     // attempts whose slot is taken
	Oldest  time.Time
	Limits  []limit.View
}

// Queue has the attempts of one priority that wait.
type Queue struct{ Priority, Flows, Waiting int }

// Snapshot returns the state as it is now.
func (g *Gate) Snapshot(now time.Time) Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Snapshot{Flying: g.common.slots.taken(), Oldest: g.common.slots.oldest()}
	for _, q := range g.lines {
		s.Waiting += q.len()
		for _, l := range q.levels {
			s.add(l)
		}
	}
	if g.key != nil {
		s.Limits = g.key.View(now)
	}
	for i, b := range g.common.buckets {
		s.Tokens[i], s.Rates[i], s.Bursts[i] = b.Tokens(now), b.Rate(), b.Burst()
	}
	return s
}

// add counts the waiters of a level.
func (s *Snapshot) add(l *level) {
	i, ok := slices.BinarySearchFunc(s.Queues, l.priority, func(q Queue, priority int) int {
		return cmp.Compare(priority, q.Priority)
	})
	if !ok {
		s.Queues = slices.Insert(s.Queues, i, Queue{Priority: l.priority})
	}
	s.Queues[i].Flows += len(l.flows)
	s.Queues[i].Waiting += l.n
}

// Held returns what is believed of the limit that holds back the attempts of a route.
func (g *Gate) Held(now time.Time, route limit.Route) (v limit.View, held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.key == nil {
		return v, false
	}
	return g.key.Held(now, route)
}

// Spare reports whether an attempt would go at once, nothing is believed of a limit of the
// server's that binds it, and at least half of each limit of the user's would be left.
func (g *Gate) Spare(now time.Time, route limit.Route, costs Costs) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.lines) == 0 && g.limit(route) == nil && g.common.spare(now, &costs)
}

// Idle reports whether nothing is lost if the gate is forgotten: nobody waits,
// nothing is believed, the buckets are full and no slot is taken.
func (g *Gate) Idle(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.lines) == 0 && (g.key == nil || g.key.Idle(now)) && g.common.idle(now)
}

// Paused reports whether a pause of the whole key is in force.
func (g *Gate) Paused(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.key != nil && g.key.Paused(now)
}

// PastDeadline reports whether the context will have ended after d.
func PastDeadline(ctx context.Context, now time.Time, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && !now.Add(d).Before(deadline)
}
