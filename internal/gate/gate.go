// Package gate decides when an attempt of one limit key may be sent.
//
// Four things hold attempts back, each before the next:
//
//   - a pause, because the server said until when it refuses everything;
//   - the reopening after a pause or a refusal, see the states;
//   - the pace, once the limit is known and told from chance, see package pace
//     and trial;
//   - the token bucket of a limit that the user set.
//
// An attempt that is held back waits in a queue. A timer is set to the next
// instant at which the first of them may go, and an attempt that is accepted may
// let others go before. There is no goroutine, and no token is taken ahead, so a
// waiter that gives up takes nothing with it.
package gate

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/pace"
)

// The reasons for which attempts are held back.
const (
	Pause     = "pause"      // a pause or a reopening
	RateLimit = "rate limit" // the pace or the token bucket
)

// Attempt is an attempt that wants to pass.
type Attempt struct {
	Retry   bool
	Number  int       // of the attempt within its call, from 1
	Arrived time.Time // an attempt that was refused keeps its place; zero: now
}

// Stamp identifies an attempt that passed. The zero Stamp is one that passed when
// there was nothing to learn.
type Stamp struct {
	pace.Stamp
	Arrived time.Time
}

// RefusalError is the error of an attempt that would have to wait too long.
type RefusalError struct {
	Reason string
	Wait   time.Duration // estimated
}

func (r *RefusalError) Error() string { return r.Reason }

// Gate holds the attempts of one limit key. Its zero value lets all of them pass.
type Gate struct {
	mu     sync.Mutex
	bucket *rate.Limiter // nil: no limit
	pace   *pace.Pace    // nil: there is nothing to learn from
	queue  queue
	timer  *time.Timer // until the first in the queue may go

	machine
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
func (g *Gate) TryAdmit(s *Stamp, arrived time.Time) bool {
	now := time.Now()
	if s.Arrived = arrived; arrived.IsZero() {
		s.Arrived = now
	}
	g.mu.Lock()
	ok := g.tryAdmit(now, s)
	g.mu.Unlock()
	return ok
}

func (g *Gate) tryAdmit(now time.Time, s *Stamp) bool {
	if !g.queue.empty() {
		return false
	}
	if g.pace == nil { // nobody was ever refused: only the bucket counts
		return g.bucket == nil || g.bucket.AllowN(now, 1)
	}
	if d, _ := g.hold(now); d > 0 {
		return false
	}
	g.pace.Undelayed(now)
	s.Stamp = g.pass(now)
	return true
}

// Admit returns when an attempt may be sent, or the reason why not: a *RefusalError if
// the wait would be longer than maxWait or than the context lasts, else the cause
// of the context. It calls begins before it waits.
func (g *Gate) Admit(ctx context.Context, a Attempt, maxWait time.Duration, begins func(reason string, d time.Duration)) (Stamp, error) {
	now := time.Now()
	if a.Arrived.IsZero() {
		a.Arrived = now
	}
	w := &waiter{Attempt: a, stamp: Stamp{Arrived: a.Arrived}, passed: make(chan struct{})}
	g.mu.Lock()
	if g.tryAdmit(now, &w.stamp) { // since it was tried
		g.mu.Unlock()
		return w.stamp, nil
	}
	d, reason := g.estimate(now, a)
	if d > maxWait || maxWait == 0 || PastDeadline(ctx, now, d) {
		g.mu.Unlock()
		return Stamp{}, &RefusalError{Reason: reason, Wait: d}
	}
	g.queue.push(w)
	g.serve(now)
	g.mu.Unlock()
	defer g.leave(w) // if begins panics
	begins(reason, d)

	// The estimate may prove too short: a pause begins, others go first. Then
	// maxWait is enforced here. A time in which everything is refused is a wait
	// of its own, and the time in the queue after it another one.
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	var err error
	for last := false; err == nil; last = true {
		select {
		case <-w.passed:
			return w.stamp, nil
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-timer.C:
			more := g.overtime(maxWait)
			if last || more <= 0 {
				err = &RefusalError{Reason: reason, Wait: maxWait}
			}
			timer.Reset(more)
		}
	}
	if !g.leave(w) {
		return w.stamp, nil
	}
	return Stamp{}, err
}

// overtime returns how much longer than maxWait a waiter stays, because
// everything was refused meanwhile.
func (g *Gate) overtime(maxWait time.Duration) time.Duration {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve(now) // its turn may have come in this same instant
	return maxWait + max(g.pausedUntil.Sub(now), g.pace.BlockedUntil().Sub(now))
}

// leave takes w out of the queue and reports whether it was still in it.
func (g *Gate) leave(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := g.queue.first(false) == w
	if !g.queue.remove(w) {
		return false
	}
	if first || g.queue.empty() {
		g.serve(time.Now())
	}
	return true
}

// RetryDelay returns how long a retry would be held back at least.
func (g *Gate) RetryDelay(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, _ := g.estimate(now, Attempt{Retry: true, Arrived: now})
	return d
}

// serve lets all attempts pass that may go now, and sets the timer for the next
// one. It is called whenever something has changed.
func (g *Gate) serve(now time.Time) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	for !g.queue.empty() {
		d, _ := g.hold(now)
		if d > 0 {
			g.timer = time.AfterFunc(d, func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.serve(time.Now())
			})
			return
		}
		_, blocked := g.pace.BlockedFor(now)
		w := g.queue.pop(blocked)
		w.stamp.Stamp = g.pass(now)
		close(w.passed)
	}
}

// pass counts an attempt that goes now.
func (g *Gate) pass(now time.Time) pace.Stamp {
	if g.bucket != nil {
		g.bucket.AllowN(now, 1)
	}
	stamp := g.pace.Sent(now)
	g.sent(now, stamp)
	return stamp
}

// estimate returns how long an attempt would wait at least, and why. How
// long a reopening takes is up to the server, so it is not foreseen.
func (g *Gate) estimate(now time.Time, a Attempt) (time.Duration, string) {
	d, reason := g.hold(now)
	switch {
	case g.state == paused:
		return g.refusedUntil.Sub(now), Pause
	case d > 0 && reason == Pause:
		return d, Pause
	case g.bucket == nil && !g.pace.Known():
		return 0, Pause // behind others, while the key is reopened
	}
	ahead := g.queue.ahead(a)
	d = g.pace.Wait(now) + g.pace.Behind(ahead)
	return max(d, g.bucketDelay(now, ahead)), RateLimit
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

// Snapshot is the state of a gate.
type Snapshot struct {
	Tokens      float64   // in the bucket
	Rate        float64   // that was learned; 0: none is known
	PausedUntil time.Time // zero: it is not paused
	Reopening   bool
	Chance      float64 // part that is refused by chance, as a trial found; 0: none did
	Waiting     int
}

// Snapshot returns the state as it is now.
func (g *Gate) Snapshot(now time.Time) Snapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resume(now)
	s := Snapshot{Rate: g.pace.Rate(now), Reopening: g.state == reopening, Waiting: g.queue.len()}
	if g.state == paused {
		s.PausedUntil = g.pausedUntil
		s.Reopening = !g.pace.Known() // it will be
	}
	if g.state == free {
		s.Chance = g.trial.chance
	}
	if g.bucket != nil {
		s.Tokens = g.bucket.TokensAt(now)
	}
	return s
}

// Idle reports whether nothing is lost if the gate is forgotten: nobody waits,
// nothing was learned, no pause is in force, and the bucket is full.
func (g *Gate) Idle(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resume(now)
	return g.queue.empty() && g.state != paused && g.pace.Rate(now) == 0 && !g.pace.Advertised() &&
		(g.state == open || g.state == free || now.Sub(g.reopenedAt) > forgetting) &&
		(g.bucket == nil || g.bucket.TokensAt(now) >= float64(g.bucket.Burst()))
}

// Paused reports whether a pause is in force.
func (g *Gate) Paused(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resume(now)
	return g.state == paused
}

// PastDeadline reports whether the context will have ended after d.
func PastDeadline(ctx context.Context, now time.Time, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && !now.Add(d).Before(deadline)
}
