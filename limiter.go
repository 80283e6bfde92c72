package resilient

import (
	"container/list"
	"context"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/pace"
	"github.com/resilienthttp/resilient/internal/plain"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// Limiter holds a request back until it may be sent. *rate.Limiter is one. An
// error ends the call without a further attempt; when the context did not end,
// it reaches the caller as a [*LimitError].
//
// A Limiter that knows how long it will wait announces that with [ReportWait].
// One that learns from what the server says has a method
//
//	Observe(AttemptInfo)
//
// which is called after each attempt that waited for it. To learn is left to it
// then: a pace that the Transport would learn by itself ([WithLearnedRate]) would
// be one more on top of it.
type Limiter interface{ Wait(context.Context) error }

// observer is a Limiter that learns.
type observer interface{ Observe(AttemptInfo) }

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

// WithLearnedRate learns the server's limit from its answers, for each limit
// key, and paces the attempts to it: from RateLimit fields with a policy, or
// else from what is accepted between two refusals. Nothing is learned, and
// nothing costs anything, before the server refuses an attempt for its rate or
// says that little is left of a quota. One attempt in a hundred or so is then
// refused, to notice when the limit rises; where several clients share a quota,
// up to three. A rate of [WithRateLimit] is never exceeded.
//
// Given false, a key is paused by the server's hints and nothing else, and each
// refused request comes back after its own wait. The default is true. It holds
// for a whole Transport and cannot be set in [ContextWithOptions].
func WithLearnedRate(on bool) Option {
	return func(c *config) { c.shared.set, c.shared.unlearned = true, !on }
}

// WithLimiter makes every attempt wait for l, before the Transport's own rate
// limit and pauses. The context l is given ends with the request's, or after
// [WithMaxWait]. A limiter that has a method Allow() bool, as *rate.Limiter has,
// is asked by that first. It panics if l is nil. The default is none.
func WithLimiter(l Limiter) Option {
	mustBe(l != nil, "WithLimiter", "not nil", l)
	return WithLimiterFor(func(*http.Request) Limiter { return l })
}

// WithLimiterFor is [WithLimiter] with a limiter for each request, such as one
// for each account. f is called once for each call; if it returns nil, there is
// none to wait for. What shares a pause and a retry budget is another matter:
// see [WithLimitKey]. It panics if f is nil. The default is none.
func WithLimiterFor(f func(*http.Request) Limiter) Option {
	mustBe(f != nil, "WithLimiterFor", "not nil", "nil")
	return func(c *config) { c.limiterFor = f }
}

// ReportWait calls the Wait hooks ([Trace]) of the attempt that waits with the
// context, with the reason "limiter". It is for the Wait method of a [Limiter],
// to be called in its goroutine, with its context, before each wait, which will
// take d. With any other context, or if d is not above 0, it does nothing.
func ReportWait(ctx context.Context, d time.Duration) {
	if r, ok := ctx.Value(reportKey{}).(*waitReport); ok && d > 0 {
		r.made = true
		r.wait.begins("limiter", d)
	}
}

type reportKey struct{}

// waitReport is what a Limiter has announced.
type waitReport struct {
	wait wait
	made bool
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
		msg += ": " + plain.Error(e.Err)
	}
	return msg
}

// Unwrap returns the limiter's own error.
func (e *LimitError) Unwrap() error { return e.Err }

// NonRetriable marks the error as final for the Azure SDK: another try would be
// refused as well.
func (e *LimitError) NonRetriable() {}

// RetryableError returns false, which the AWS SDK asks for.
func (e *LimitError) RetryableError() bool { return false }

// ErrorType returns "limited", for OpenTelemetry's error.type.
func (e *LimitError) ErrorType() string { return "limited" }

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
	totals counters

	troubled atomic.Bool // something has ever failed, or little was left of a quota
}

func (s *keyState) snapshot(now time.Time, cfg *sharedConfig) KeySnapshot {
	k := s.gate.snapshot(now)
	k.Key = s.key.String()
	if cfg.limit > 0 {
		k.Limit, k.Burst = float64(cfg.limit), cfg.burst
	}
	k.Budget = s.budget.left(now, cfg)
	k.Totals = s.totals.snapshot()
	return k
}

// String returns the name of the key for people.
func (k limitKey) String() string {
	if k.scheme == "" {
		return k.host
	}
	name := k.scheme + "://" + k.host
	if k.credential != 0 {
		name += fmt.Sprintf(" #%08x", uint32(k.credential))
	}
	return name
}

// keyTable holds the state of the keys used last. Its zero value is ready.
type keyTable struct {
	known  atomic.Bool              // false: no key was ever added, so none need be looked up
	last   atomic.Pointer[keyState] // the key used last, which is never evicted
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
	return t.lookup(t.keyOf(cfg, req))
}

// lookup is find for a caller that has the key.
func (t *keyTable) lookup(key limitKey) *keyState {
	if s := t.last.Load(); s != nil && s.key == key {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.get(key)
}

// get is lookup for a caller that holds t.mu.
func (t *keyTable) get(key limitKey) *keyState {
	e := t.states[key]
	if e == nil {
		return nil
	}
	t.recent.MoveToFront(e)
	s := e.Value.(*keyState) //nolint:forcetypeassert // recent holds nothing else
	t.last.Store(s)
	return s
}

// findOrAdd returns the state of the key of req, a new one if there is none.
func (t *keyTable) findOrAdd(cfg *config, req *http.Request) *keyState {
	key := t.keyOf(cfg, req)
	if s := t.lookup(key); s != nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.get(key); s != nil { // added meanwhile
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
	t.last.Store(s)
	t.known.Store(true)
	t.evict()
	return s
}

// list returns the states, the one used last in front.
func (t *keyTable) list() []*keyState {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*keyState, 0, len(t.states))
	for e := t.recent.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*keyState)) //nolint:forcetypeassert // recent holds nothing else
	}
	return all
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

// gate decides when an attempt of one limit key may be sent. Four things hold
// attempts back, each before the next:
//
//   - a pause: the server said until when it refuses everything;
//   - the reopening after a refusal or a pause: at first one attempt may go;
//     each accepted one lets two more follow, so the flow doubles with every
//     round trip until nobody waits, and a limit that is still in force costs
//     one refusal, not one for each waiter. An attempt that hangs must not hold
//     up the rest, so each second lets one more go;
//   - the pace, once a second refusal has shown what the limit is;
//   - the token bucket.
//
// Whoever is held back stands in line, first attempts before retries; but after
// retryTurn of them a retry goes, else it would never get its turn in a backlog.
// What was refused for its rate has not had its turn, and goes back to where it
// stood. The line is served by a timer that is set to the next instant at which
// somebody may go, or by an attempt that is accepted. There is no goroutine while
// nobody waits, and at most one token is reserved ahead, for whoever is first in
// line when it falls due: a waiter that gives up takes nothing with it.
type gate struct {
	mu          sync.Mutex
	pace        *pace.Pace    // nil: there is nothing to learn from
	bucket      *rate.Limiter // nil: no limit
	token       *rate.Reservation
	pausedUntil time.Time
	refusedTill time.Time     // what the server said, which may be longer than we pause
	scoutAt     time.Time     // when an attempt goes in spite of the pause
	scout       int64         // that attempt
	scouted     bool          // it was refused, and none accepted since
	apart       time.Duration // hints up to it are about the request they come with
	hint        time.Duration // of the pause
	reopening   bool
	credit      int       // attempts that may go while reopening
	creditAt    time.Time // when credit last grew with time
	reopened    time.Time // what was sent before says nothing about the time after it
	line        [2][]*waiter
	overtaken   int // first attempts that went since a retry waits
	timer       *time.Timer
}

// waiter is an attempt that stands in line; pass is closed when it may be sent.
type waiter struct {
	arrived time.Time
	attempt int    // 1 is the first
	ticket  ticket // once it has passed
	pass    chan struct{}
}

// ticket is what a gate knows of an attempt that it let go while it was
// learning. The zero ticket is one from before.
type ticket struct {
	pace.Ticket
	arrived time.Time // at the gate
}

const (
	firstAttempt = 0 // index into gate.line
	retryAttempt = 1

	// retryTurn first attempts go before a retry that waits. So retries get a
	// ninth of what goes, which is more of them than the default budget allows:
	// they do not pile up.
	retryTurn = 8

	// reopenPace is how long an attempt may hang before the next one may go
	// while a key is reopened: as slow as the slowest limits in use, one a
	// second, since nothing else is known.
	reopenPace = time.Second

	// scoutPart of a pause goes by before its scout is sent.
	scoutPart = 4

	// lowQuota is where what remains of a quota begins to matter. Nothing is
	// remembered of a key with more than that.
	lowQuota = 1000
)

// pass lets an attempt go that need not wait, and fills in its ticket.
func (g *gate) pass(t *ticket, arrived time.Time) bool {
	now := time.Now()
	if t.arrived = arrived; arrived.IsZero() {
		t.arrived = now
	}
	g.mu.Lock()
	ok := g.allowed(now, &t.Ticket)
	g.mu.Unlock()
	return ok
}

// wait returns when an attempt may be sent, or why it may not. An attempt that
// arrived earlier, as one has that was refused, goes before the others of its
// class; the zero time is now.
func (g *gate) wait(ctx context.Context, class int, arrived time.Time, maxWait time.Duration, its wait) (ticket, error) {
	now := time.Now()
	if arrived.IsZero() {
		arrived = now
	}
	g.mu.Lock()
	t := ticket{arrived: arrived}
	if g.allowed(now, &t.Ticket) { // since it was tried
		g.mu.Unlock()
		return t, nil
	}
	w := &waiter{arrived: arrived, attempt: its.attempt, pass: make(chan struct{})}
	d, reason := g.estimate(now, class, arrived)
	if d > maxWait || maxWait == 0 || pastDeadline(ctx, now, d) {
		g.mu.Unlock()
		return ticket{}, &LimitError{Reason: reason, Wait: d}
	}
	g.line[class] = slices.Insert(g.line[class], g.place(class, arrived), w)
	g.serve(now)
	g.mu.Unlock()
	defer g.leave(class, w) // if a hook panics

	its.begins(reason, d)
	defer its.ended(reason, now)
	// The estimate may prove too short: a pause begins, others go first. Then
	// maxWait is enforced here. A time in which everything is refused is a wait
	// of its own, and what comes after it another one.
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	var err error
	for last := false; err == nil; last = true {
		select {
		case <-w.pass:
			return w.ticket, nil
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-timer.C:
			now := time.Now()
			g.mu.Lock()
			g.serve(now) // its turn may have come in this same instant
			more := maxWait + max(g.pausedUntil.Sub(now), g.pace.DryUntil().Sub(now))
			g.mu.Unlock()
			if last || more <= 0 {
				err = &LimitError{Reason: reason, Wait: maxWait}
			}
			timer.Reset(more)
		}
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
func (g *gate) allowed(now time.Time, t *pace.Ticket) bool {
	if g.waiting() {
		return false
	}
	if g.pace == nil { // nobody was ever refused: there is no pause either
		return g.bucket == nil || g.bucket.AllowN(now, 1)
	}
	if g.paused(now) > 0 {
		return false
	}
	g.grow(now)
	if !now.Before(g.pausedUntil) && (g.reopening && g.credit <= 0 || g.pace.Wait(now) > 0) {
		return false
	}
	if g.bucket != nil && !g.bucket.AllowN(now, 1) {
		return false
	}
	*t = g.send(now)
	return true
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
func (g *gate) send(now time.Time) pace.Ticket {
	if g.reopening {
		g.credit--
	}
	t := g.pace.Send(now)
	if now.Before(g.pausedUntil) {
		g.scout, g.scoutAt = t.N, time.Time{}
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
		if !g.waiting() {
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
		w := g.next(now)
		g.token = nil
		w.ticket = ticket{Ticket: g.send(now), arrived: w.arrived}
		close(w.pass)
	}
}

// next takes out of the line who goes next. While everything is refused, those go
// first who have made the fewest attempts: to find out whether that is over, the
// few in front would use up all they have.
func (g *gate) next(now time.Time) *waiter {
	class := firstAttempt
	if len(g.line[class]) == 0 || len(g.line[retryAttempt]) > 0 && g.overtaken >= retryTurn {
		class = retryAttempt
	}
	if g.overtaken++; class == retryAttempt || len(g.line[retryAttempt]) == 0 {
		g.overtaken = 0
	}
	i := 0
	if _, dry := g.pace.Drought(now); dry {
		least := slices.MinFunc(g.line[class], func(v, w *waiter) int { return v.attempt - w.attempt })
		i = slices.Index(g.line[class], least)
	}
	w := g.line[class][i]
	g.line[class] = slices.Delete(g.line[class], i, i+1)
	return w
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
		if d := g.pace.Wait(now); d > 0 {
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
		ahead += min(len(g.line[firstAttempt]), (ahead+1)*retryTurn-g.overtaken)
	} else {
		ahead += min(len(g.line[retryAttempt]), (ahead+g.overtaken)/retryTurn)
	}
	d := g.pace.Wait(now) + g.pace.Behind(ahead)
	if g.bucket != nil {
		missing := float64(ahead+1) - g.bucket.TokensAt(now)
		if g.token != nil {
			missing-- // taken out of the bucket already, for whoever is first
		}
		tokens := max(missing, 0) / float64(g.bucket.Limit())
		d = max(d, time.Duration(min(tokens, waithint.Max.Seconds())*float64(time.Second))) // a tiny limit would overflow
	}
	if g.bucket == nil && !g.pace.Known() {
		return 0, "pause"
	}
	return d, "rate limit"
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
// server's hint if there was one. A hint stops the key for as long as it says,
// unless such hints were seen to be about one request only; else the key is
// paced, or if the pace is not known, reopened.
func (g *gate) refused(t ticket, now time.Time, hint, maxWait time.Duration, learn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if maxWait == 0 {
		return // where nobody waits, nothing is held back
	}
	if t.N > 0 && t.N == g.scout && now.Before(g.pausedUntil) {
		g.scouted = true
	} else if learn && g.learner().Refused(t.Ticket, now, g.reopening || g.pace.Known()) {
		if d, dry := g.pace.Drought(now); dry && d >= hint/scoutPart {
			g.apart = 0
		}
		if g.pace.Known() {
			g.reopening = false // the pace is better
		} else if !g.reopening {
			g.reopen(now)
		}
	}
	if hint > g.apart {
		g.pause(now, hint, maxWait, learn)
	}
	g.serve(now)
}

// told tells the gate of what the server says remains of its quota. Then a short
// hint is no more than the time until there is one left for the next request.
func (g *gate) told(t ticket, now time.Time, q waithint.Quota) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.learner().Tell(t.Ticket, now, q.Remaining, q.Rate, q.Reset)
	if _, dry := g.pace.Drought(now); !dry {
		g.apart = max(g.apart, 2*time.Second) // hints are in whole seconds
	}
	if !g.pace.Told() {
		return
	}
	g.reopening = false
	g.serve(now)
}

// reopen lets one attempt go at the given time, and more as they are accepted.
func (g *gate) reopen(at time.Time) {
	g.learner() // which counts what is sent
	g.reopening, g.credit, g.creditAt, g.reopened = true, 1, at, at
}

// learner returns the pace of the key, a new one if there is none.
func (g *gate) learner() *pace.Pace {
	if g.pace == nil {
		g.pace = new(pace.Pace)
	}
	return g.pace
}

// pause stops the key because the server refuses everything for d. The pause is
// at most maxWait, so that a hint gone wrong does not shut the key for a day:
// until then callers are told at once that the wait is too long for them, and
// then one goes and finds out.
//
// Some servers put the same hint on every refusal, though they refuse no more
// than what is above their rate: pausing for it would give away most of the
// quota. So in a pause that follows soon after another one, a scout is sent
// ahead. If it is accepted, hints are about the request they come with.
func (g *gate) pause(now time.Time, d, maxWait time.Duration, learn bool) {
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
	if g.scoutAt = (time.Time{}); learn && !g.scouted && now.Sub(g.pausedUntil) < d {
		g.scoutAt = now.Add(d / scoutPart)
	}
	g.pausedUntil, g.hint = until, d
	g.learner().Stop(until)
	if g.reopening = false; !g.pace.Known() {
		g.reopen(until)
	}
	if g.token != nil { // it would fall due in the pause, and be lost
		g.token.CancelAt(now)
		g.token = nil
	}
}

// ended tells the gate of an attempt that was not refused: it was accepted, or
// got no answer, which leaves things as they were before it. What was sent
// before the reopening says nothing about the time after it.
func (g *gate) ended(t ticket, now time.Time, accepted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.N == 0 || g.pace == nil {
		return
	}
	if accepted {
		if t.N == g.scout && now.Before(g.pausedUntil) {
			g.apart, g.pausedUntil, g.refusedTill = 2*g.hint, now, now
			g.pace.Stop(now)
			g.reopen(t.At)
		}
		g.scouted = false
		known := g.pace.Known()
		g.pace.Accepted(t.Ticket, now, g.waiting())
		if known && !g.pace.Known() {
			g.reopen(t.At)
		}
	}
	if g.reopening && !t.At.Before(g.reopened) {
		g.credit++
		if accepted {
			g.credit++
		}
		if accepted && !g.waiting() {
			g.reopening = false // nobody was left to hold back
			if g.pace.Blank() {
				g.pace, g.scout = nil, 0
			}
		}
	}
	g.serve(now)
}

// snapshot fills in what the gate knows.
func (g *gate) snapshot(now time.Time) KeySnapshot {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := KeySnapshot{
		LearnedLimit: g.pace.Rate(now),
		Reopening:    g.reopening,
		Waiting:      len(g.line[firstAttempt]) + len(g.line[retryAttempt]),
	}
	if g.pausedUntil.After(now) {
		k.PausedUntil = g.pausedUntil
	}
	if g.bucket != nil {
		k.Tokens = g.bucket.TokensAt(now)
	}
	return k
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

// wait tells the hooks of a wait of one attempt, and counts it.
type wait struct {
	hook    func(WaitInfo) // nil: none
	req     *http.Request
	path    string
	attempt int
	totals  [2]*counters // of the Transport, and of the key if it is known
}

func (w *wait) begins(reason string, d time.Duration) {
	if w.hook != nil {
		w.hook(WaitInfo{Request: w.req, Path: w.path, Attempt: w.attempt, Reason: reason, Duration: d})
	}
}

func (w *wait) ended(reason string, begun time.Time) {
	for _, c := range w.totals {
		c.wait(reason, time.Since(begun))
	}
}

// waitFor waits for the Limiter of WithLimiter. That one's errors cannot be
// told apart by type (x/time/rate has none), so they are told apart by whose
// time has run out.
func waitFor(ctx context.Context, l Limiter, maxWait time.Duration, its wait) error {
	if a, ok := l.(interface{ Allow() bool }); ok && a.Allow() {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	report := waitReport{wait: its}
	if its.hook != nil {
		limited = context.WithValue(limited, reportKey{}, &report)
	}
	begun := time.Now()
	err := l.Wait(limited)
	d := time.Since(begun)
	if d > 0 {
		its.ended("limiter", begun)
	}
	if err == nil {
		if d > 0 && !report.made {
			its.begins("limiter", d)
		}
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if limited.Err() != nil {
		return &LimitError{Reason: "limiter", Wait: maxWait} // our doing, not the caller's deadline
	}
	if refused, ok := err.(*LimitError); ok { //nolint:errorlint // one that says it all is not wrapped
		return refused
	}
	return &LimitError{Reason: "limiter", Err: err}
}

// pastDeadline reports whether the context will have ended after d.
func pastDeadline(ctx context.Context, now time.Time, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && !now.Add(d).Before(deadline)
}
