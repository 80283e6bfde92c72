package resilient

import (
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient/internal/budget"
	"github.com/resilienthttp/resilient/internal/credential"
	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/lru"
)

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

// keyState is the state of a limit key.
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
		Key: s.key.String(), Waiting: g.Waiting, Budget: s.budget.Balance(now), Totals: s.totals.snapshot(),
		InFlight: g.Flying, MaxInFlight: cfg.inFlight, OldestInFlight: g.Oldest,
	}
	for _, q := range g.Queues {
		k.Queues = append(k.Queues, QueueSnapshot(q))
	}
	for _, v := range g.Limits {
		k.Limits = append(k.Limits, cfg.limitSnapshot(v))
	}
	for i, l := range cfg.limits {
		b := BucketSnapshot{Name: l.name}
		if !math.IsInf(g.Rates[i], 1) {
			b.Limit, b.Burst, b.Tokens = g.Rates[i], int(g.Bursts[i]), g.Tokens[i]
		}
		if l.name == requestLimit {
			k.Limit, k.Burst, k.Tokens = b.Limit, b.Burst, b.Tokens
		} else {
			k.Buckets = append(k.Buckets, b)
		}
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
	retries int // a call makes at most

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

// host counts the credentials that are used with a host.
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
		gate: gate.New(cfg.gate()), budget: budget.New(shared.budgetRatio, shared.budgetFloor, t.retries, now),
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

// snapshot returns the states, that of the key used last first, and fills in the
// counts of all keys.
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
