package resilient

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/budget"
	"github.com/resilienthttp/resilient/internal/credential"
	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/lru"
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
		r.wait.announce("limiter", d)
	}
}

type reportKey struct{}

// waitReport is what a Limiter has announced.
type waitReport struct {
	wait *wait
	made bool
}

// WithLimitKey sets what shares a rate limit, a pause and a retry budget: all
// requests for which f returns the same string. It panics if f is nil.
//
// The default key is made of scheme, host and credential:
//
//	scheme, host   in lower case, without a default port and a final dot
//	userinfo       of the URL
//	Authorization  the part that is the same each time: of a JSON Web Token the
//	               claims iss and sub, of a signature the parameters that name
//	               the account (Credential, keyId, username, oauth_consumer_key
//	               and the like) or what stands before it, else all of it
//	API keys       X-Api-Key, Api-Key, X-Goog-Api-Key, X-Auth-Token, Private-Token,
//	               X-Shopify-Access-Token and other fields of that kind
//
// Cookies, parameters of the query and credentials that the base adds are not
// seen. Credentials are kept as a seeded hash.
//
// An opaque token that was refreshed is another key, since nothing shows that it
// is the same account's. But if the only other credential of the host is paused,
// a new one is tried with one request, and the others wait for its answer.
//
// The 1,024 keys used last are remembered, and all those that hold something: a
// bucket that is not full, a pause, a learned rate, a budget that was drawn on.
// More than 65,536 are never kept. If keys are made faster than they are used
// again, a warning is logged once ([WithLogger]) and [Snapshot] shows it.
func WithLimitKey(f func(*http.Request) string) Option {
	mustBe(f != nil, "WithLimitKey", "not nil", "nil")
	return func(c *config) { c.limitKey = f }
}

const (
	// maxKeys bounds the keys remembered that hold nothing, so that a stream of
	// new hosts or credentials cannot grow memory.
	maxKeys = 1024

	// maxBusyKeys bounds all of them, at some 100 MB.
	maxBusyKeys = 64 * maxKeys
)

// limitKey names a limit: scheme, host and hashed credential, or the string of
// WithLimitKey in host.
type limitKey struct {
	scheme, host string
	credential   uint64
}

// anonymous returns the key of the host without a credential.
func (k limitKey) anonymous() limitKey {
	k.credential = 0
	return k
}

// keyState is what is known about a limit key.
type keyState struct {
	key    limitKey
	gate   *gate.Gate
	budget *budget.Budget
	totals counters

	reused   atomic.Bool // by a second call
	troubled atomic.Bool // something has ever failed, or little was left of a quota
}

// idle reports whether nothing is lost if the key is forgotten.
func (s *keyState) idle() bool {
	now := time.Now()
	return s.gate.Idle(now) && s.budget.Idle(now)
}

func (s *keyState) snapshot(now time.Time, cfg *sharedConfig) KeySnapshot {
	g := s.gate.Snapshot(now)
	k := KeySnapshot{
		Key: s.key.String(), Tokens: g.Tokens, LearnedLimit: g.Rate, PausedUntil: g.PausedUntil,
		Reopening: g.Reopening, Waiting: g.Waiting, Budget: s.budget.Balance(now), Totals: s.totals.snapshot(),
	}
	if cfg.limit > 0 {
		k.Limit, k.Burst = float64(cfg.limit), cfg.burst
	}
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
	known atomic.Bool              // false: no key was ever added, so none need be looked up
	last  atomic.Pointer[keyState] // the key used last, which is never dropped
	seed  atomic.Pointer[maphash.Seed]

	mu           sync.Mutex
	states       lru.Table[limitKey, *keyState]
	hosts        map[limitKey]host // by the keys without credential
	made, reused int64             // keys, and those of them that a second call has used
	churns       bool              // it was said that keys are not used again
	overflows    bool              // it was said that one was dropped that was not idle
}

// host is what is known of the credentials that are used with a host.
type host struct {
	credentials int
	only        *keyState // if there is one and has never been another
}

// find returns the state of the key of req, or nil if there is none.
func (t *keyTable) find(cfg *config, req *http.Request) *keyState {
	if !t.known.Load() {
		return nil
	}
	key := t.keyOf(cfg, req)
	s, suspect := t.lookup(key)
	if suspect {
		return t.findOrAdd(cfg, req)
	}
	return s
}

// lookup returns the state of a key, or nil. It reports whether a key that is not
// there may be another credential of an account that is paused.
func (t *keyTable) lookup(key limitKey) (s *keyState, suspect bool) {
	if s := t.last.Load(); s != nil && s.key == key && s.reused.Load() {
		return s, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s = t.get(key); s == nil {
		suspect = t.suspect(key)
	}
	return s, suspect
}

// get returns the state of a key, for a caller that holds t.mu.
func (t *keyTable) get(key limitKey) *keyState {
	s, ok := t.states.Get(key)
	if !ok {
		return nil
	}
	if !s.reused.Load() {
		s.reused.Store(true)
		t.reused++
	}
	t.last.Store(s)
	return s
}

// suspect reports whether the only other credential of the host is paused. A new
// one may well be the same account's, whose token was refreshed: then it is tried
// once before all of its requests go. With several accounts on a host nothing of
// the kind can be told.
func (t *keyTable) suspect(key limitKey) bool {
	if key.credential == 0 {
		return false
	}
	only := t.hosts[key.anonymous()].only
	return only != nil && only.gate.Paused(time.Now())
}

// findOrAdd returns the state of the key of req, a new one if there is none.
func (t *keyTable) findOrAdd(cfg *config, req *http.Request) *keyState {
	key := t.keyOf(cfg, req)
	if s, _ := t.lookup(key); s != nil {
		return s
	}
	t.mu.Lock()
	if s := t.get(key); s != nil { // added meanwhile
		t.mu.Unlock()
		return s
	}
	s, warn := t.add(cfg, key)
	t.mu.Unlock()
	if warn != "" && cfg.logger != nil {
		cfg.logger.LogAttrs(req.Context(), slog.LevelWarn, warn)
	}
	return s
}

// add adds a key, and returns a warning if there is one to be given.
func (t *keyTable) add(cfg *config, key limitKey) (s *keyState, warn string) {
	if t.states.Idle == nil {
		t.states.Size, t.states.Limit, t.states.Idle = maxKeys, maxBusyKeys, (*keyState).idle
		t.hosts = make(map[limitKey]host)
	}
	// The strings may be parts of a longer one, a URL with its query.
	key.scheme, key.host = strings.Clone(key.scheme), strings.Clone(key.host)
	now, shared := time.Now(), &cfg.shared
	s = &keyState{
		key:  key,
		gate: gate.New(shared.limit, shared.burst), budget: budget.New(shared.budgetRatio, shared.budgetFloor, now),
	}
	if t.suspect(key) {
		s.troubled.Store(true) // the gate has to learn of the answer
		s.gate.TryOne(now)
	}
	dropped, forced := t.states.Add(key, s)
	for _, old := range dropped {
		t.count(old, -1)
	}
	t.count(s, 1)
	t.made++
	t.last.Store(s)
	t.known.Store(true)
	switch {
	case forced && !t.overflows:
		t.overflows = true
		return s, fmt.Sprintf("more than %d limit keys have something to remember: one was dropped with its limit", maxBusyKeys)
	case t.churn() && !t.churns:
		t.churns = true
		return s, fmt.Sprintf("limit keys are made faster than they are used again: %d made, %d used by a second call; requests that share a limit need one key, see WithLimitKey", t.made, t.reused)
	}
	return s, ""
}

// churn reports whether keys are made faster than they are used again, so that
// nothing is shared by anybody.
func (t *keyTable) churn() bool { return t.made > maxKeys && 2*t.reused < t.made }

// count counts the credentials of a host.
func (t *keyTable) count(s *keyState, n int) {
	if s.key.credential == 0 {
		return
	}
	name := s.key.anonymous()
	h := t.hosts[name]
	h.credentials += n
	h.only = nil
	if h.credentials == 1 && n > 0 {
		h.only = s
	}
	if h.credentials > 0 {
		t.hosts[name] = h
	} else {
		delete(t.hosts, name)
	}
}

// snapshot returns the states, that of the key used last first, and fills in what
// there is to say about all of them.
func (t *keyTable) snapshot(s *Snapshot) []*keyState {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.churn() {
		s.KeyChurn = &KeyChurn{Made: t.made, Reused: t.reused}
	}
	return slices.Collect(t.states.All())
}

// keyOf returns the limit key of req, without allocating.
func (t *keyTable) keyOf(cfg *config, req *http.Request) limitKey {
	if cfg.limitKey != nil {
		return limitKey{host: cfg.limitKey(req)}
	}
	key := limitKey{scheme: strings.ToLower(req.URL.Scheme)}
	key.host = canonicalHost(key.scheme, req.URL.Host)
	var h maphash.Hash
	seeded := false
	add := func(field, value string) {
		if value == "" {
			return
		}
		if !seeded {
			h.SetSeed(t.hashSeed())
			seeded = true
		}
		h.Reset()
		credential.Write(&h, field, value)
		key.credential ^= h.Sum64() // in no order, as that of a map is random
	}
	for field, values := range req.Header {
		if credential.IsField(field) {
			for _, value := range values {
				add(field, value)
			}
		}
	}
	if req.URL.User != nil {
		password, _ := req.URL.User.Password()
		add("user", req.URL.User.Username())
		add("password", password)
	}
	return key
}

// canonicalHost returns a host as RFC 3986 section 6.2.3 normalizes it: in lower
// case, without the port that is the scheme's default, and without the dot behind
// the name that makes it absolute.
func canonicalHost(scheme, host string) string {
	host = strings.ToLower(host)
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port = host[:i], host[i:]
	}
	if port == ":" || port == ":80" && scheme == "http" || port == ":443" && scheme == "https" {
		port = ""
	}
	short := strings.TrimSuffix(name, ".")
	if port == "" {
		return short
	}
	if short == name {
		return host
	}
	return short + port
}

func (t *keyTable) hashSeed() maphash.Seed {
	if s := t.seed.Load(); s != nil {
		return *s
	}
	s := maphash.MakeSeed()
	t.seed.CompareAndSwap(nil, &s)
	return *t.seed.Load()
}

// wait tells the hooks of a wait of one attempt, and counts it.
type wait struct {
	hook    func(WaitInfo) // nil: none
	req     *http.Request
	path    string
	attempt int
	totals  [2]*counters // of the Transport, and of the key if it is known
	reason  string       // "": it has not begun
	begun   time.Time
}

// begins is called before the wait.
func (w *wait) begins(reason string, d time.Duration) {
	w.reason, w.begun = reason, time.Now()
	w.announce(reason, d)
}

func (w *wait) announce(reason string, d time.Duration) {
	if w.hook != nil {
		w.hook(WaitInfo{Request: w.req, Path: w.path, Attempt: w.attempt, Reason: reason, Duration: d})
	}
}

// ended counts the wait, if it has begun.
func (w *wait) ended() {
	if w.reason == "" {
		return
	}
	for _, c := range w.totals {
		c.wait(w.reason, time.Since(w.begun))
	}
}

// waitFor waits for the Limiter of WithLimiter. That one's errors cannot be
// told apart by type (x/time/rate has none), so they are told apart by whose
// time has run out.
func waitFor(ctx context.Context, l Limiter, maxWait time.Duration, w *wait) error {
	limited, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	report := waitReport{wait: w}
	if w.hook != nil {
		limited = context.WithValue(limited, reportKey{}, &report)
	}
	w.begun = time.Now()
	err := l.Wait(limited)
	if d := time.Since(w.begun); d > 0 {
		w.reason = "limiter"
		w.ended()
		if err == nil && !report.made {
			w.announce(w.reason, d)
		}
	}
	if err == nil {
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

// allows reports whether a Limiter that can say so lets a request go at once.
func allows(l Limiter) bool {
	a, ok := l.(interface{ Allow() bool })
	return ok && a.Allow()
}

// pastDeadline reports whether the context will have ended after d.
func pastDeadline(ctx context.Context, now time.Time, d time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && !now.Add(d).Before(deadline)
}
