// Package gate decides when an attempt of one limit key may be sent.
//
// Two things hold attempts back: the limits that are believed to be the server's,
// see package limit, and the token bucket of a limit that the user set. An attempt
// that is held back waits in the queue of its limit. A timer is set to the next
// instant at which the first of them may go, and an attempt that ends may let others
// go before. There is no goroutine, and no token is taken ahead, so a waiter that
// gives up takes nothing with it.
package gate

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/pace"
)

// The reasons for which attempts are held back.
const (
	Pause     = "pause"      // a pause, or a limit that is looked for
	RateLimit = "rate limit" // a limit or the token bucket
)

// Attempt is an attempt that wants to pass.
type Attempt struct {
	Route   limit.Route
	Retry   bool
	Number  int       // of the attempt within its call, from 1
	Last    bool      // the call has no other one
	Arrived time.Time // an attempt that was refused keeps its place; zero: now
}

// Stamp identifies an attempt that passed. The zero Stamp is one that passed when
// there was nothing to learn.
type Stamp struct {
	limit.Stamp
	Arrived time.Time
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
	mu     sync.Mutex
	bucket *rate.Limiter // nil: no limit of the user's
	key    *limit.Key    // nil: nobody was ever refused
	lines  []*line       // with attempts that wait
	timer  *time.Timer   // until the first of them may go
}

// line is the queue before a limit, nil: before the token bucket only.
type line struct {
	queue
	limit *limit.Limit
}

// New returns a gate with a token bucket of its own; with a limit of 0 it has
// none.
func New(limit rate.Limit, burst int) *Gate {
	g := new(Gate)
	if limit > 0 {
		g.bucket = rate.NewLimiter(limit, burst)
	}
	return g
}

// TryAdmit lets an attempt pass that need not wait, and fills in its stamp.
func (g *Gate) TryAdmit(s *Stamp, a Attempt) bool {
	now := time.Now()
	if s.Arrived = a.Arrived; a.Arrived.IsZero() {
		s.Arrived = now
	}
	g.mu.Lock()
	ok := g.tryAdmit(now, s, a)
	g.mu.Unlock()
	return ok
}

func (g *Gate) tryAdmit(now time.Time, s *Stamp, a Attempt) bool {
	if g.key == nil {
		return len(g.lines) == 0 && (g.bucket == nil || g.bucket.AllowN(now, 1))
	}
	if g.moved() {
		g.serve(now) // those who wait go first
	}
	l := g.key.Limit(a.Route)
	if g.line(l) != nil || a.Last && l != nil && l.Opens(now).After(now) || g.hold(now, l) > 0 {
		return false
	}
	s.Stamp = g.pass(now, l, a, false)
	return true
}

// hold returns how long the next attempt before a limit is held back.
func (g *Gate) hold(now time.Time, l *limit.Limit) time.Duration {
	d := g.bucketDelay(now, 0)
	if l == nil {
		return d
	}
	return max(d, l.Hold(now))
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
	g.mu.Lock()
	if g.tryAdmit(now, &w.stamp, a) { // since it was tried
		g.mu.Unlock()
		return w.stamp, nil
	}
	e := g.estimate(now, a)
	switch {
	case e.bound != believed && PastDeadline(ctx, now, e.wait):
		g.mu.Unlock()
		return Stamp{}, &RefusalError{Reason: e.reason, Wait: e.wait, Deadline: true}
	case maxWait == 0, e.bound == certain && e.wait > maxWait, e.bound != unbounded && g.closedFor(now, a.Route) > maxWait:
		g.mu.Unlock()
		return Stamp{}, &RefusalError{Reason: e.reason, Wait: e.wait}
	}
	g.push(w)
	g.serve(now)
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
			if g.held(w) {
				waits++
			}
			if waits > maxWaits {
				err = &RefusalError{Reason: e.reason, Wait: maxWait}
			}
			timer.Reset(maxWait)
		}
	}
	if !g.leave(w) {
		return w.stamp, nil
	}
	return Stamp{}, err
}

// maxWaits is how often an attempt waits for maxWait. A time in which everything is
// refused is a wait, and the queue after it is another one. Until a limit is confirmed,
// a queue that is too long is no more than a belief.
const maxWaits = 2

// held reports whether a limit that the user did not set holds the waiter. Its turn may
// have come in this same instant.
func (g *Gate) held(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve(time.Now())
	return w.line != nil && w.line.limit != nil
}

// push lets a waiter wait in the queue of its limit.
func (g *Gate) push(w *waiter) {
	var l *limit.Limit
	if g.key != nil {
		l = g.key.Limit(w.Route)
	}
	q := g.line(l)
	if q == nil {
		q = &line{limit: l}
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
		g.lines = slices.DeleteFunc(g.lines, func(other *line) bool { return other == q })
	}
}

// leave takes w out of the queue and reports whether it was still in one.
func (g *Gate) leave(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := w.line
	if q == nil {
		return false
	}
	first := q.first(false) == w
	if g.remove(w); first || q.empty() {
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
			if g.key.Limit(w.Route) != q.limit {
				moved = append(moved, w)
			}
		}
	}
	for _, w := range moved {
		g.remove(w)
		g.push(w)
	}
}

// RetryDelay returns how long a retry of a route would be held back at least, and
// whether that is certain.
func (g *Gate) RetryDelay(now time.Time, route limit.Route) (d time.Duration, certain bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.estimate(now, Attempt{Route: route, Retry: true, Arrived: now})
	return e.wait, e.bound != believed
}

// serve lets all attempts pass that may go now, and sets the timer for the next
// one. It is called whenever something has changed.
func (g *Gate) serve(now time.Time) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	for {
		if g.key != nil && g.moved() {
			g.move()
		}
		if len(g.lines) == 0 {
			return
		}
		w, d := g.next(now)
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
		w.line.pass(w)
		g.remove(w)
		w.stamp.Stamp = g.pass(now, l, w.Attempt, true)
		close(w.passed)
	}
}

// forever is longer than any timer need run.
const forever = 24 * time.Hour

// next returns the waiter that goes now: of those who may, the first of the queue whose
// first one waits longest. If none may, it returns nil and how long until one does.
func (g *Gate) next(now time.Time) (next *waiter, d time.Duration) {
	d = forever
	for _, q := range g.lines {
		hold := g.hold(now, q.limit)
		w := q.first(hold <= 0 && q.limit != nil && q.limit.Blocked(now))
		if hold <= 0 && w.Last && q.limit != nil {
			// The last attempt of a call is not spent on a server that refuses everything,
			// as long as others can find out when that ends.
			if d := min(w.queued.Add(w.maxWait).Sub(now), q.limit.Opens(now).Sub(now)); d > 0 {
				if other := q.firstNotLast(); other != nil {
					w = other
				} else {
					hold = d
				}
			}
		}
		switch {
		case hold > 0:
			d = min(d, hold)
		case next == nil || w.Arrived.Before(next.Arrived):
			next = w
		}
	}
	return next, d
}

// pass counts an attempt that goes now.
func (g *Gate) pass(now time.Time, l *limit.Limit, a Attempt, waited bool) limit.Stamp {
	if g.bucket != nil {
		g.bucket.AllowN(now, 1)
	}
	if g.key == nil {
		return limit.Stamp{}
	}
	return g.key.Sent(now, a.Route, l, waited)
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
}

// estimate returns how long an attempt would wait. How long it takes to find a limit is
// up to the server, so it is not foreseen.
func (g *Gate) estimate(now time.Time, a Attempt) estimate {
	var l *limit.Limit
	if g.key != nil {
		l = g.key.Limit(a.Route)
	}
	ahead := 0
	if q := g.line(l); q != nil {
		ahead = q.ahead(a)
	}
	d := g.bucketDelay(now, ahead)
	if l == nil {
		return estimate{d, RateLimit, unbounded}
	}
	held, b := l.Hold(now), believed
	if l.Certain(now) {
		b = certain
	}
	if refused := l.Refused(now); refused > 0 {
		return estimate{max(d, refused), Pause, b}
	}
	if !l.Paces() {
		return estimate{d, Pause, b}
	}
	if held >= forever {
		held = 0 // until another attempt ends
	}
	return estimate{max(d, held+l.Behind(ahead)), RateLimit, b}
}

// closedFor returns for how long everything has been refused, if others wait to find out
// when that ends.
func (g *Gate) closedFor(now time.Time, route limit.Route) time.Duration {
	l := g.key.Limit(route)
	if g.line(l) == nil {
		return 0
	}
	// The end of it is found after a tenth of the time it takes.
	return l.ClosedFor(now) * 9 / 10
}

// bucketDelay returns how long until the bucket has a token for an attempt with
// so many before it.
func (g *Gate) bucketDelay(now time.Time, ahead int) time.Duration {
	if g.bucket == nil {
		return 0
	}
	missing := float64(ahead+1) - g.bucket.TokensAt(now)
	return pace.Seconds(max(missing, 0) / float64(g.bucket.Limit()))
}

// Done tells the gate of the outcome of an attempt, and reports whether it was refused
// by a limit that was known before.
func (g *Gate) Done(s Stamp, route limit.Route, now time.Time, r limit.Result) (limited bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.key == nil {
		if (r.Outcome <= limit.Accepted || r.Outcome == limit.Closed && r.Hint <= 0) && !r.Told {
			return false
		}
		g.key = new(limit.Key)
	}
	limited = g.key.Done(s.Stamp, route, now, r)
	g.serve(now)
	return limited
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
	Tokens  float64 // in the bucket
	Waiting int
	Limits  []limit.View
}

// Snapshot returns the state as it is now.
func (g *Gate) Snapshot(now time.Time) Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	var s Snapshot
	for _, q := range g.lines {
		s.Waiting += q.len()
	}
	if g.key != nil {
		s.Limits = g.key.View(now)
	}
	if g.bucket != nil {
		s.Tokens = g.bucket.TokensAt(now)
	}
	return s
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

// Idle reports whether nothing is lost if the gate is forgotten: nobody waits,
// nothing is believed, and the bucket is full.
func (g *Gate) Idle(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.lines) == 0 && (g.key == nil || g.key.Idle(now)) &&
		(g.bucket == nil || g.bucket.TokensAt(now) >= float64(g.bucket.Burst()))
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
