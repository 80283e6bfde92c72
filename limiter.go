package resilient

import (
	"container/list"
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/waithint"
)

// Limiter holds a request back until it may be sent. *rate.Limiter is one. An
// error ends the call without a further attempt; when the context did not end,
// it reaches the caller as a [*LimitError].
type Limiter interface{ Wait(context.Context) error }

// WithRateLimit puts a token bucket in front of every attempt: limit attempts a
// second in the long run, burst of them at once. Each limit key has a bucket of
// its own (see [WithLimitKey]), shared by all requests through the Transport.
// It panics if limit is not above 0 or burst is less than 1. rate.Inf is no
// limit, which is the default.
//
// It holds for a whole Transport and cannot be set in [ContextWithOptions]. It
// does not see what net/http sends again by itself.
func WithRateLimit(limit rate.Limit, burst int) Option {
	mustBe(limit > 0, "WithRateLimit", "a limit above 0", limit) // NaN is not above 0
	mustBe(burst >= 1 || limit == rate.Inf, "WithRateLimit", "a burst of at least 1", burst)
	if limit == rate.Inf {
		limit = 0
	}
	return func(c *config) { c.shared.set, c.shared.limit, c.shared.burst = true, limit, burst }
}

// WithLimiter makes every attempt wait for l, before the Transport's own rate
// limit and pauses. The context l is given ends with the request's, or after
// [WithMaxWait]. A limiter that has a method Allow() bool, as *rate.Limiter has,
// is asked by that first. It panics if l is nil. The default is none.
func WithLimiter(l Limiter) Option {
	mustBe(l != nil, "WithLimiter", "not nil", l)
	return func(c *config) { c.limiter = l }
}

// WithLimitKey sets what shares a rate limit, a pause and a retry budget: all
// requests for which f returns the same string. It panics if f is nil.
//
// The default is scheme, host and credential: the userinfo of the URL, the
// X-Api-Key header, and the Authorization header up to the first comma or
// colon, which is all of a Basic or Bearer credential and the part of a signed
// one (SigV4, Digest, SharedKey) that stays the same. Credentials are kept as
// a seeded hash. A credential that the base adds is not seen. The 1,024 keys
// used last are remembered.
func WithLimitKey(f func(*http.Request) string) Option {
	mustBe(f != nil, "WithLimitKey", "not nil", "nil")
	return func(c *config) { c.limitKey = f }
}

// LimitError is the refusal to wait for a rate limit or a pause: the wait would
// have been longer than [WithMaxWait], or than the context lasts. Nothing was
// sent. It is neither a timeout nor an [*APIError], which are a server's.
type LimitError struct {
	Reason string        // "rate limit", "pause" or "limiter", as in WaitInfo
	Wait   time.Duration // the wait that was refused, estimated; 0: not known
	Err    error         // what the Limiter of WithLimiter returned; else nil
}

// Error returns the reason and the wait.
func (e *LimitError) Error() string {
	msg := "resilient: not sent: the client-side " + e.Reason + " does not let the request go in time"
	if e.Wait > 0 {
		msg += fmt.Sprintf(" (wait: %v)", e.Wait)
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

// Unwrap returns the limiter's own error.
func (e *LimitError) Unwrap() error { return e.Err }

// maxKeys bounds the keys remembered, so that a stream of new hosts or
// credentials cannot grow memory. The oldest goes first.
const maxKeys = 1024

// limitKey names a limit: scheme, host and hashed credential, or the string of
// WithLimitKey in host.
type limitKey struct {
	scheme, host string
	credential   uint64
}

// keyState is what is known about a limit key.
type keyState struct {
	key    limitKey
	gate   gate
	budget budget
}

// keyTable holds the state of the keys used last. Its zero value is ready.
type keyTable struct {
	known  atomic.Bool // false: no key was ever added, so none need be looked up
	seed   atomic.Pointer[maphash.Seed]
	mu     sync.Mutex
	states map[limitKey]*list.Element // of *keyState
	recent list.List                  // the key used last in front
}

// find returns the state of the key of req, or nil if there is none.
func (t *keyTable) find(cfg *config, req *http.Request) *keyState {
	if !t.known.Load() {
		return nil
	}
	key := t.keyOf(cfg, req)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lookup(key)
}

// lookup is find for a caller that has the key and holds t.mu.
func (t *keyTable) lookup(key limitKey) *keyState {
	e := t.states[key]
	if e == nil {
		return nil
	}
	t.recent.MoveToFront(e)
	return e.Value.(*keyState) //nolint:forcetypeassert // recent holds nothing else
}

// findOrAdd returns the state of the key of req, a new one if there is none.
func (t *keyTable) findOrAdd(cfg *config, req *http.Request) *keyState {
	key := t.keyOf(cfg, req)
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.lookup(key); s != nil {
		return s
	}
	// The strings may be parts of a longer one, a URL with its query.
	key.scheme, key.host = strings.Clone(key.scheme), strings.Clone(key.host)
	s := &keyState{key: key, budget: newBudget()}
	if l := cfg.shared.limit; l > 0 {
		s.gate.bucket = rate.NewLimiter(l, cfg.shared.burst)
	}
	if t.states == nil {
		t.states = make(map[limitKey]*list.Element)
	}
	t.states[key] = t.recent.PushFront(s)
	t.known.Store(true)
	t.evict()
	return s
}

// evict drops the key not used for longest. A key with waiters stays: there are
// no more of those than calls, and dropping it would set its next caller free.
func (t *keyTable) evict() {
	for e := t.recent.Back(); e != t.recent.Front() && len(t.states) > maxKeys; {
		s, before := e.Value.(*keyState), e.Prev() //nolint:forcetypeassert // recent holds nothing else
		if !s.gate.hasWaiters() {
			t.recent.Remove(e)
			delete(t.states, s.key)
		}
		e = before
	}
}

// keyOf returns the limit key of req, without allocating.
func (t *keyTable) keyOf(cfg *config, req *http.Request) limitKey {
	if cfg.limitKey != nil {
		return limitKey{host: cfg.limitKey(req)}
	}
	key := limitKey{scheme: req.URL.Scheme, host: strings.ToLower(req.URL.Host)}
	authorization, apiKey := first(req.Header["Authorization"]), first(req.Header["X-Api-Key"])
	if i := strings.IndexAny(authorization, ",:"); i >= 0 {
		authorization = authorization[:i]
	}
	user := req.URL.User.Username()
	password, _ := req.URL.User.Password()
	if authorization == "" && apiKey == "" && user == "" && password == "" {
		return key
	}
	var h maphash.Hash
	h.SetSeed(t.hashSeed())
	for _, s := range [...]string{authorization, apiKey, user, password} {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	key.credential = h.Sum64()
	return key
}

func (t *keyTable) hashSeed() maphash.Seed {
	if s := t.seed.Load(); s != nil {
		return *s
	}
	s := maphash.MakeSeed()
	t.seed.CompareAndSwap(nil, &s)
	return *t.seed.Load()
}

// gate decides when an attempt of one limit key may be sent. Three things hold
// attempts back, each before the next:
//
//   - a pause: the server said until when it refuses everything;
//   - the reopening after a pause: at first one attempt, its scout, may go; each
//     accepted one lets two more follow, so the flow doubles with every round
//     trip until nobody waits, and a limit that is still in force costs one
//     refusal, not one for each waiter. An attempt that hangs must not hold up
//     the rest, so each second lets one more go;
//   - the token bucket.
//
// Whoever is held back stands in line, first attempts before retries. The line
// is served by a timer that is set to the next instant at which somebody may
// go, or by an attempt that is accepted. There is no goroutine while nobody
// waits, and at most one token is reserved ahead, for whoever is first in line
// when it falls due: a waiter that gives up takes nothing with it.
type gate struct {
	mu          sync.Mutex
	pace        pace
	bucket      *rate.Limiter // nil: no limit
	token       *rate.Reservation
	pausedUntil time.Time
	refusedTill time.Time // what the server said, which may be longer than we pause
	pauses      int
	scoutAt     time.Time
	scout       int64
	scoped      bool
	reopening   bool
	credit      int       // attempts that may go while reopening
	creditAt    time.Time // when credit last grew with time
	creditStart time.Time // what was sent before says nothing about the time after it
	line        [2][]*waiter
	timer       *time.Timer
}

// waiter is an attempt that stands in line; pass is closed when it may be sent.
type waiter struct {
	arrived time.Time
	ticket  ticket // once it has passed
	pass    chan struct{}
}

// ticket is what a gate knows of an attempt that it let go while it was
// learning. The zero ticket is one from before.
type ticket struct {
	n       int64 // the attempts since learning began, this one included
	at      time.Time
	arrived time.Time // at the gate
}

const (
	firstAttempt = 0 // index into gate.line
	retryAttempt = 1

	// reopenPace is how long an attempt may hang before the next one may go
	// while a key is reopened: as slow as the slowest limits in use, one a
	// second, since nothing else is known.
	reopenPace = time.Second
)

// wait returns when an attempt may be sent, or why it may not. It calls onWait
// before it waits. An attempt that arrived earlier, as one has that was refused,
// goes before the others of its class; the zero time is now.
func (g *gate) wait(ctx context.Context, class int, arrived time.Time, maxWait time.Duration, onWait func(reason string, d time.Duration)) (ticket, error) {
	now := time.Now()
	if arrived.IsZero() {
		arrived = now
	}
	g.mu.Lock()
	if t, ok := g.allowed(now); ok {
		g.mu.Unlock()
		t.arrived = arrived
		return t, nil
	}
	w := &waiter{arrived: arrived, pass: make(chan struct{})}
	d, reason := g.estimate(now, class, arrived)
	if d > maxWait || maxWait == 0 || pastDeadline(ctx, now, d) {
		g.mu.Unlock()
		return ticket{}, &LimitError{Reason: reason, Wait: d}
	}
	g.line[class] = slices.Insert(g.line[class], g.place(class, arrived), w)
	g.serve(now)
	g.mu.Unlock()
	defer g.leave(class, w) // if onWait panics

	onWait(reason, d)
	// The estimate may prove too short: a pause begins, first attempts go
	// before a retry. Then maxWait is enforced here.
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	var err error
	select {
	case <-w.pass:
		return w.ticket, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timer.C:
		err = &LimitError{Reason: reason, Wait: maxWait}
		g.mu.Lock()
		g.serve(time.Now()) // its turn may have come in this same instant
		g.mu.Unlock()
	}
	if !g.leave(class, w) {
		return w.ticket, nil
	}
	return ticket{}, err
}

// place returns how many of a class go before an attempt that arrived then.
func (g *gate) place(class int, arrived time.Time) int {
	i := len(g.line[class])
	for i > 0 && g.line[class][i-1].arrived.After(arrived) {
		i--
	}
	return i
}

// allowed reports whether an attempt may go at once, and counts it if so.
func (g *gate) allowed(now time.Time) (ticket, bool) {
	if g.waiting() || g.paused(now) > 0 {
		return ticket{}, false
	}
	g.grow(now)
	if !now.Before(g.pausedUntil) && (g.reopening && g.credit <= 0 || g.pace.wait(now) > 0) {
		return ticket{}, false
	}
	if g.bucket != nil && !g.bucket.AllowN(now, 1) {
		return ticket{}, false
	}
	return g.send(now), true
}

// paused returns how long the pause still is.
func (g *gate) paused(now time.Time) time.Duration {
	d := g.pausedUntil.Sub(now)
	if d > 0 && !g.scoutAt.IsZero() {
		return g.scoutAt.Sub(now)
	}
	return d
}

// send counts an attempt that goes now.
func (g *gate) send(now time.Time) ticket {
	if g.reopening {
		g.credit--
	}
	t := g.pace.send(now)
	if now.Before(g.pausedUntil) {
		g.scout, g.scoutAt = t.n, time.Time{}
	}
	return t
}

// serve lets everybody go who may go now, and sets the timer for the next. It
// is called with g.mu held whenever something changed.
func (g *gate) serve(now time.Time) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	for {
		class := firstAttempt
		if len(g.line[class]) == 0 {
			class = retryAttempt
		}
		if len(g.line[class]) == 0 {
			if g.token != nil { // reserved for somebody who has left
				g.token.CancelAt(now)
				g.token = nil
			}
			return
		}
		if d := g.blocked(now); d > 0 {
			g.timer = time.AfterFunc(d, func() {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.serve(time.Now())
			})
			return
		}
		w := g.line[class][0]
		g.line[class] = slices.Delete(g.line[class], 0, 1)
		g.token = nil
		w.ticket = g.send(now)
		w.ticket.arrived = w.arrived
		close(w.pass)
	}
}

// blocked returns how long the first in line has to wait as things stand; at 0
// it may go, and its token is the one reserved.
func (g *gate) blocked(now time.Time) time.Duration {
	if d := g.paused(now); d > 0 {
		return d
	}
	g.grow(now)
	if !now.Before(g.pausedUntil) { // else it is the scout of a pause
		if g.reopening && g.credit <= 0 {
			return g.creditAt.Add(reopenPace).Sub(now)
		}
		if d := g.pace.wait(now); d > 0 {
			return d
		}
	}
	if g.bucket == nil {
		return 0
	}
	if g.token == nil {
		g.token = g.bucket.ReserveN(now, 1)
	}
	return g.token.DelayFrom(now)
}

// grow adds the credit that time brings while the key is reopened.
func (g *gate) grow(now time.Time) {
	if n := int(now.Sub(g.creditAt) / reopenPace); g.reopening && n > 0 {
		g.credit += n
		g.creditAt = g.creditAt.Add(time.Duration(n) * reopenPace)
	}
}

// estimate returns how long an attempt that arrives now would wait at least,
// and for what. The reopening after a pause is not foreseen: how long it takes
// is up to the server.
func (g *gate) estimate(now time.Time, class int, arrived time.Time) (time.Duration, string) {
	if now.Before(g.pausedUntil) {
		return g.refusedTill.Sub(now), "pause"
	}
	if g.reopening && g.credit <= 0 {
		return max(g.creditAt.Add(reopenPace).Sub(now), 0), "pause"
	}
	ahead := g.place(class, arrived)
	if class == retryAttempt {
		ahead += len(g.line[firstAttempt])
	}
	d := g.pace.wait(now)
	if g.pace.rate > 0 && g.pace.proof >= 8 && g.pace.row < drought {
		d = max(d, 0) + seconds(float64(ahead)/g.pace.rate)
	}
	if g.bucket != nil {
		missing := float64(ahead+1) - g.bucket.TokensAt(now)
		if g.token != nil {
			missing-- // taken out of the bucket already, for whoever is first
		}
		d = max(d, seconds(missing/float64(g.bucket.Limit())))
	}
	if g.bucket == nil && g.pace.rate == 0 {
		return 0, "pause"
	}
	return d, "rate limit"
}

// seconds is s seconds as a Duration, which a tiny rate would overflow.
func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), waithint.Max.Seconds()) * float64(time.Second))
}

// foresee returns how long a retry would be held back.
func (g *gate) foresee(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, _ := g.estimate(now, retryAttempt, now)
	return d
}

// leave takes w out of the line and reports whether it was still in it.
func (g *gate) leave(class int, w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.line[class], w)
	if i < 0 {
		return false
	}
	g.line[class] = slices.Delete(g.line[class], i, i+1)
	g.serve(time.Now())
	return true
}

// refused tells the gate of an attempt that was refused for its rate, with the
// server's hint if there was one. It stops the key for as long as the hint says,
// or if there is none reopens it at once, from slow.
func (g *gate) refused(t ticket, now time.Time, hint, maxWait time.Duration, learn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if maxWait == 0 {
		return // where nobody waits, nothing is held back
	}
	scouted := t.n > 0 && t.n == g.scout && now.Before(g.pausedUntil)
	news := learn && !scouted && g.pace.refusal(t, now, g.reopening || g.pace.rate > 0)
	if g.pace.row >= drought && now.Sub(g.pace.rowAt) >= hint/4 {
		g.scoped = false
	}
	switch {
	case hint > 0 && !g.scoped:
		g.pause(now, hint, maxWait)
	case news && g.pace.rate > 0:
		g.reopening = false // the pace is better
	case g.pace.quota.rate > 0:
	case news && !g.reopening:
		g.reopen(now)
	}
	g.serve(now)
}

const lowQuota = 1000

// told tells the gate of what the server says remains of a quota.
func (g *gate) told(t ticket, now time.Time, q waithint.Quota) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pace.quota.told(t, now, q)
	if g.pace.quota.rate > 0 {
		g.scoped = g.pace.row < drought
		g.reopening = false
		g.serve(now)
	}
}

// reopen lets one attempt go after now, and more as they are accepted.
func (g *gate) reopen(at time.Time) {
	g.reopening, g.credit, g.creditAt, g.creditStart = true, 1, at, at
}

// pause stops the key because the server refuses everything for d. The pause is
// at most maxWait, so that a hint gone wrong does not shut the key for a day:
// until then callers are told at once that the wait is too long for them, and
// then one goes and finds out.
func (g *gate) pause(now time.Time, d, maxWait time.Duration) {
	d = min(d, waithint.Max)
	if !now.Before(g.pausedUntil) {
		g.refusedTill = time.Time{} // of an earlier pause, which has been tried since
	}
	if till := now.Add(d); till.After(g.refusedTill) {
		g.refusedTill = till
	}
	until := now.Add(min(d, maxWait))
	if !until.After(g.pausedUntil) {
		return
	}
	if g.pauses++; g.pauses > 1 && now.Sub(g.pausedUntil) < d {
		g.scoutAt = now.Add(d / 4)
	}
	g.pausedUntil = until
	g.pace.stop(until)
	g.reopening = false
	if g.pace.rate == 0 {
		g.reopen(until)
	}
	if g.token != nil { // it would fall due in the pause, and be lost
		g.token.CancelAt(now)
		g.token = nil
	}
}

// ended tells the gate of an attempt, sent at the given time, that was not
// rejected: it was accepted, or got no answer, which leaves things as they were
// before it. What was sent before the pause ended says nothing about the time
// after it.
func (g *gate) ended(t ticket, now time.Time, accepted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if accepted && t.n > 0 && t.n == g.scout && now.Before(g.pausedUntil) {
		g.scoped, g.pausedUntil, g.refusedTill, g.scoutAt = true, now, now, time.Time{}
		g.reopen(now)
		g.pace.stop(now)
	}
	if accepted && t.n > 0 && g.pace.acceptance(t, now, g.waiting()) {
		g.reopen(now)
		g.serve(now)
		return
	}
	if !g.reopening || t.at.Before(g.creditStart) {
		return
	}
	g.credit++
	if accepted {
		g.credit++
	}
	g.serve(now)
	if accepted && !g.waiting() {
		g.reopening = false // nobody was left to hold back
		g.pace.forget()
	}
}

func (g *gate) hasWaiters() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting()
}

// waiting is hasWaiters for a caller that holds g.mu.
func (g *gate) waiting() bool {
	return len(g.line[firstAttempt]) > 0 || len(g.line[retryAttempt]) > 0
}

// waitFor waits for the Limiter of WithLimiter. That one's errors cannot be
// told apart by type (x/time/rate has none), so they are told apart by whose
// time has run out.
func waitFor(ctx context.Context, l Limiter, maxWait time.Duration, onWait func(reason string, d time.Duration)) error {
	if a, ok := l.(interface{ Allow() bool }); ok && a.Allow() {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	start := time.Now()
	err := l.Wait(limited)
	if err == nil {
		if d := time.Since(start); d > 0 {
			onWait("limiter", d)
		}
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if limited.Err() != nil {
		return &LimitError{Reason: "limiter", Wait: maxWait} // our doing, not the caller's deadline
	}
	return &LimitError{Reason: "limiter", Err: err}
}

// pastDeadline reports whether the context will have ended after d.
func pastDeadline(ctx context.Context, now time.Time, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && !now.Add(d).Before(deadline)
}

// pace is the rate that a server lets through, as learned from its answers. It
// is arithmetic on the times it is given, and waits for nothing itself.
//
// At a refusal the server's bucket is empty. So between two refusals as many
// attempts are accepted as it refills, whatever its size: accepted / elapsed is
// the rate, one attempt more or less. The one more is what is sent: the next
// refusal then comes after about as many again, and each one halves the error.
//
// A limit that rises shows in refusals that do not come. With every attempt that
// is accepted the pace creeps upward, so that one in probeEvery is refused as
// long as the limit stays; without a refusal after so many, it doubles again and
// again. A limit that falls shows in refusals without an attempt accepted
// between them, a drought: the pace is halved with each, until one is accepted.
// Then it is the rate of the long run again, which is right where a server
// counts in fixed windows; if that ends in a drought at once, what was learned
// before is forgotten.
//
// Where others use the same quota, refusals come that the pace does not account
// for. Then it cannot be measured, and is shared: a refusal takes a part of the
// pace, and time gives it back. As the larger share is refused more often, all
// shares become alike.
//
// Only a backlog teaches anything: without one the server's bucket may be full,
// and what is accepted is what was asked for. After a minute without one the
// pace is forgotten.
//
// Where the server says what remains of the quota and how fast it is refilled,
// that is used instead, see allowance.
type pace struct {
	rate  float64   // attempts a second that may go; 0: not known
	base  float64   // the rate as of the last refusal
	proof float64   // the attempts accepted on which base rests
	next  time.Time // when the next attempt may go
	last  time.Time // when the last one went
	held  time.Time // when somebody last had to wait
	idle  bool      // since the last refusal, there was a time without a backlog

	sent, refused int64         // since learning began
	marks         [8]mark       // refusals that the rate is measured from, the oldest first
	n             int           // marks in use
	known         time.Time     // when the last refusal was known: older attempts say nothing new
	row           int           // refusals since an attempt was accepted
	rowAt         time.Time     // when the first of them was sent
	revived       int64         // attempts accepted when the last drought ended
	long          float64       // the rate when the drought began
	dry           time.Duration // how long the longest drought was

	acks  int           // attempts accepted since the last refusal, in a backlog
	ackAt time.Time     // when the last one was
	rtt   time.Duration // until a refusal is known

	strange int     // refusals that the pace does not account for, less those that it does
	peak    float64 // the pace at the last refusal
	level   int     // refusals in a row at the same pace
	quota   allowance
}

// mark is a refusal: an instant at which the server's bucket was empty.
type mark struct {
	at            time.Time
	sent, refused int64
}

const (
	// probeEvery attempts are accepted between two refusals while the limit
	// stays the same: below one in a hundred, and still often enough to notice
	// within 10 s that a limit of 20 a second has become one of 200.
	probeEvery = 120

	// doubling is how fast the pace grows when a limit has risen. Much faster,
	// and it would overshoot while a server's burst hides the limit.
	doubling = 500 * time.Millisecond

	// slowest is a pace at which somebody always goes within WithMaxWait's
	// default. A limit below it is kept by pauses and backoff.
	slowest = 1.0 / 30

	// drought refusals in a row are no chance at a pace that is about right.
	drought = 3

	// A shared pace loses shareCut of itself with a refusal and is given back
	// shareCut * shareGrowth * sqrt(pace) of it each second. So in the balance
	// shareGrowth / sqrt(pace) of the attempts are refused: 2 % at 12 a second.
	// The square root makes large shares grow less, by which they become alike;
	// the cut is how fast they do, and what it costs of the quota.
	shareCut    = 0.2
	shareGrowth = 0.12

	// quotaSpare is what is left of a quota for others.
	quotaSpare = 2

	// catchUp is how much time an attempt that goes late, as timers are late,
	// is made up for.
	catchUp = 10 * time.Millisecond

	// forgetting is how long a pace is kept that holds nobody back.
	forgetting = time.Minute
)

// wait returns how long until the next attempt may go.
func (p *pace) wait(now time.Time) time.Duration {
	if p.quota.rate > 0 {
		return p.quota.wait(now, p.sent)
	}
	if p.rate == 0 {
		return 0
	}
	d := p.next.Sub(now)
	if d > 0 {
		p.held = now
	} else if now.Sub(p.held) > forgetting {
		p.forget()
	}
	return max(d, 0)
}

// forget leaves the pace as it was before the first refusal.
func (p *pace) forget() { *p = pace{sent: p.sent, refused: p.refused, known: p.known, quota: p.quota} }

// send counts an attempt that goes now.
func (p *pace) send(now time.Time) ticket {
	p.sent++
	p.last = now
	if p.rate > 0 {
		gap := seconds(1 / p.rate)
		p.idle = p.idle || now.Sub(p.next) > gap
		if earliest := now.Add(-catchUp); p.next.Before(earliest) {
			p.next = earliest
		}
		p.next = p.next.Add(gap)
	}
	return ticket{n: p.sent, at: now}
}

// refusal takes note of a refusal and reports whether it is news: one of an
// attempt that was sent before the last one was known is not, nor is one of an
// attempt from before learning began.
func (p *pace) refusal(t ticket, now time.Time, learning bool) bool {
	if t.n == 0 && learning {
		return false
	}
	p.refused++
	if learning && t.at.Before(p.known) {
		return false
	}
	if t.n == 0 {
		p.forget()
		t = ticket{n: p.sent, at: now}
	} else {
		p.rtt = now.Sub(t.at)
		p.quota.breach(now, p.acks)
	}
	if p.row++; p.row == 1 {
		p.rowAt = t.at
	}
	p.known = now
	p.judge()
	switch {
	case p.idle:
		p.n = 0 // the bucket was full meanwhile
	case p.rate > 1.25*p.base:
		p.n, p.base = 0, p.rate // the limit has risen
	}
	m := mark{t.at, t.n, p.refused}
	switch {
	case p.row >= drought && !p.shared() || p.row >= 2*drought:
		p.base, p.proof = p.rate/2, 0
	case p.shared() && !p.idle:
		p.base = p.rate * (1 - shareCut)
	case p.n > 0 && !p.shared():
		p.proof = p.accepted(m)
		p.base = (p.proof + 1) / max(m.at.Sub(p.marks[0].at).Seconds(), 1e-6)
	}
	if p.row == 1 && p.proof >= 8 {
		p.long = p.base
	}
	p.add(m)
	p.set(p.base, now)
	p.acks, p.ackAt, p.idle = 0, now, false
	return true
}

// accepted returns how many attempts were accepted from the oldest mark to m.
func (p *pace) accepted(m mark) float64 {
	o := p.marks[0]
	return float64(max(m.sent-o.sent-(m.refused-o.refused), 0))
}

// add adds a mark. The oldest one gives the long base line, until it is old.
func (p *pace) add(m mark) {
	if p.n == len(p.marks) {
		drop := 1
		if m.sent-p.marks[0].sent > int64(len(p.marks)*probeEvery) {
			drop = 0
		}
		copy(p.marks[drop:], p.marks[drop+1:])
		p.n--
	}
	p.marks[p.n] = m
	p.n++
}

// set sets the pace, from the attempt that went last.
func (p *pace) set(rate float64, now time.Time) {
	if p.rate == 0 {
		p.held = now
	}
	if rate > 0 {
		rate = max(rate, slowest)
	}
	p.base, p.rate = rate, rate
	if rate > 0 {
		if p.next = p.last.Add(seconds(1 / rate)); p.next.Before(now) {
			p.next = now
		}
	}
}

// judge tells refusals that the pace accounts for from others. A pace that is
// one's own is refused at about the same height each time.
func (p *pace) judge() {
	if p.rate == 0 || p.row > 1 {
		return
	}
	if p.shared() {
		if p.level++; math.Abs(p.rate-p.peak) > 0.02*p.peak {
			p.level = 0
		}
		p.peak = p.rate
		if p.level >= 4 {
			p.strange, p.level = 0, 0
		}
		return
	}
	if p.idle || float64(p.acks) < p.every()/2 {
		p.strange++
	} else {
		p.strange = max(p.strange-1, 0)
	}
}

// shared reports whether others use the quota too.
func (p *pace) shared() bool { return p.strange >= 5 }

// trust is how well the pace is known, up to 1.
func (p *pace) trust() float64 { return min((2*p.proof+4)/probeEvery, 1) }

// every is how many attempts are accepted between two refusals as long as the
// limit stays. Over a long way many are under way before a refusal is known, so
// it takes several times that.
func (p *pace) every() float64 {
	return max(probeEvery*p.trust(), 8*p.rate*p.rtt.Seconds(), 2*p.rate*p.dry.Seconds())
}

// acceptance takes note of an attempt that was accepted, and reports whether
// learning has to begin again, from slow.
func (p *pace) acceptance(t ticket, now time.Time, backlog bool) (restart bool) {
	if t.at.Before(p.known) {
		return false
	}
	elapsed := now.Sub(p.ackAt)
	dry := p.row >= drought && !p.shared()
	p.row, p.ackAt = 0, now
	switch {
	case p.quota.rate > 0:
		p.acks++
	case p.rate == 0:
	case dry:
		return p.revive(now)
	case p.shared():
		if p.acks++; p.acks > 4*probeEvery {
			p.strange = 0
		}
		growth := shareCut * min(shareGrowth*math.Pow(p.rate, 0.25), p.rate/10)
		p.rate *= math.Exp(growth * elapsed.Seconds())
		p.base = p.rate
	case backlog:
		p.acks++
		p.creep(elapsed)
	}
	return false
}

// creep raises the pace after an attempt was accepted.
func (p *pace) creep(elapsed time.Duration) {
	every, trust := p.every(), p.trust()
	if acks := float64(p.acks); acks <= every {
		p.rate = p.base * (1 + 2*acks/(probeEvery*every)) // so that the sum of it is one attempt
		return
	}
	d := max(doubling.Seconds()*trust, 8*trust/p.rate, max(4*trust, 1)*p.rtt.Seconds(), 2*p.dry.Seconds())
	p.rate *= math.Exp2(min(elapsed.Seconds()/d, 1))
}

// revive ends a drought: with the rate of the long run, or if nothing is known
// of that, by learning anew.
func (p *pace) revive(now time.Time) (restart bool) {
	good := p.sent - p.refused
	if good-p.revived < 16 {
		p.long = 0 // the last time, it was wrong
		if p.n > 0 {
			p.marks[0], p.n = p.marks[p.n-1], 1
		}
	}
	p.revived = good
	p.dry = max(p.dry, now.Sub(p.rowAt))
	if p.long > 0 {
		p.proof = probeEvery
		p.set(p.long, now)
		return false
	}
	p.base, p.rate = 0, 0
	return true
}

// stop says that nothing goes until then, and the server's bucket fills.
func (p *pace) stop(until time.Time) {
	p.n, p.row, p.next = 0, 0, until
}

// allowance is what the server says of a quota, in RateLimit fields: what remained when
// it answered the attempt that it had seen last, and how fast it is refilled. An
// attempt goes when by that there is one left for it. The server's own word,
// renewed with every answer, is exact; only it is not about one client alone.
// Attempts that are refused all the same show that there are others.
type allowance struct {
	rate     float64 // 0: the server does not say
	left     float64
	sent     int64 // the attempt that was answered so
	at       time.Time
	refill   float64 // what comes of it to us, a second
	high     float64 // the most that remained
	breaches int
	void     time.Time // until when it is not believed
}

// told takes note of an answer.
func (q *allowance) told(t ticket, now time.Time, said waithint.Quota) {
	switch {
	case now.Before(q.void):
		return
	case t.n == 0 && q.rate > 0 && (q.sent > 0 || said.Remaining >= q.left):
		return // from before learning began, in an unknown order
	case t.n == 0:
		t.at = now
	case t.n <= q.sent:
		return
	}
	if q.rate != said.Rate || t.n == 0 {
		q.refill = said.Rate
	} else if dt := t.at.Sub(q.at).Seconds(); dt > 0 {
		seen := (said.Remaining - q.left + float64(t.n-q.sent)) / dt
		q.refill += (seen - q.refill) * min(dt, 1)
		q.refill = min(max(q.refill, q.rate/20), q.rate)
	}
	q.high = max(q.high, said.Remaining)
	q.rate, q.left, q.sent, q.at = said.Rate, said.Remaining, t.n, t.at
}

// wait returns how long until there is one left for the next attempt.
func (q *allowance) wait(now time.Time, sent int64) time.Duration {
	need := 1.0
	if q.high >= 8 {
		need += quotaSpare
	}
	return seconds((need - q.expected(now, sent)) / q.refill)
}

// expected returns what is left after so many attempts, if nobody else takes any.
func (q *allowance) expected(now time.Time, sent int64) float64 {
	return q.left - float64(sent-q.sent) + q.refill*now.Sub(q.at).Seconds()
}

// breach takes note of a refusal, after so many attempts that were accepted.
func (q *allowance) breach(now time.Time, acks int) {
	if q.rate == 0 {
		return
	}
	if q.breaches++; acks >= 32 {
		q.breaches = 1
	}
	if q.breaches == 3 {
		*q = allowance{void: now.Add(time.Hour)}
	}
}
