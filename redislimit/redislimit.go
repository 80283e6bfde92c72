package redislimit

import (
	"container/list"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// New returns a Limiter for the limit that is known by key: limit requests a
// second in the long run, burst of them at once, for all processes together
// that use the same key on the same Redis. They should be given the same limit
// and burst; of different ones, each process's own counts for what it reserves.
//
// It panics if client is nil, limit is not above 0 or is rate.Inf, or burst is
// less than 1. Nil options are skipped. New does not call Redis.
func New(client redis.UniversalClient, key string, limit rate.Limit, burst int, opts ...Option) *Limiter {
	return NewKeyed(client, limit, burst, opts...).Limiter(key)
}

// Keyed hands out the limiters of many keys, each with the same limit and
// burst: an account, a tenant or a credential each, as [resilient.WithLimitKey]
// tells them apart inside a process. The limiter is chosen for a request:
//
//	ctx = resilient.ContextWithOptions(ctx, keyed.Limiter(account).Options()...)
//
// Make it with [NewKeyed]. It is safe for concurrent use.
type Keyed struct {
	store *store

	mu       sync.Mutex
	limiters map[string]*list.Element // of *Limiter
	recent   list.List                // the key used last in front
}

// maxKeys bounds the limiters remembered, as the Transport does its keys.
const maxKeys = 1024

// NewKeyed returns a Keyed. It panics as [New] does.
func NewKeyed(client redis.UniversalClient, limit rate.Limit, burst int, opts ...Option) *Keyed {
	mustBe(client != nil, "client", "not nil", "nil")
	mustBe(limit > 0 && limit != rate.Inf, "limit", "above 0 and finite", limit) // NaN is not above 0
	mustBe(burst >= 1, "burst", "at least 1", burst)
	cfg := config{
		prefix:   "resilient:limit:",
		timeout:  100 * time.Millisecond,
		maxPause: time.Minute,
		logger:   slog.Default(),
	}
	for _, opt := range opts {
		if opt != nil {
			opt(&cfg)
		}
	}
	return &Keyed{store: newStore(client, limit, burst, cfg), limiters: make(map[string]*list.Element)}
}

// Limiter returns the limiter of a key, the same one for as long as it is in
// use. Callers that hold different limiters of a key, because 1,024 others were
// asked for in between, share the limit all the same, but not their calls to
// Redis.
func (k *Keyed) Limiter(key string) *Limiter {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.limiters[key]; e != nil {
		k.recent.MoveToFront(e)
		return e.Value.(*Limiter) //nolint:forcetypeassert // recent holds nothing else
	}
	l := &Limiter{store: k.store, key: key}
	k.limiters[key] = k.recent.PushFront(l)
	for e := k.recent.Back(); e != k.recent.Front() && len(k.limiters) > maxKeys; {
		old, before := e.Value.(*Limiter), e.Prev() //nolint:forcetypeassert // recent holds nothing else
		if old.idle() {
			k.recent.Remove(e)
			delete(k.limiters, old.key)
		}
		e = before
	}
	return l
}

// Stats returns what happened so far, over all keys.
func (k *Keyed) Stats() Stats { return k.store.snapshot() }

// Option configures [New] and [NewKeyed]. An option panics when it is given a
// value that makes no sense, so that the stack names the line.
type Option func(*config)

type config struct {
	prefix   string
	timeout  time.Duration
	maxPause time.Duration
	fallback Fallback
	logger   *slog.Logger
}

// WithPrefix sets what the names of the keys in Redis begin with; the key given
// to [New] or [Keyed.Limiter] follows. The default is "resilient:limit:".
func WithPrefix(prefix string) Option {
	return func(c *config) { c.prefix = prefix }
}

// WithTimeout sets how long Redis may take to answer a call. After that, or at
// an error, those who wait for it are dealt with as [WithFallback] says. It
// panics if d is not above 0. The default is 100 ms.
func WithTimeout(d time.Duration) Option {
	mustBe(d > 0, "WithTimeout", "above 0", d)
	return func(c *config) { c.timeout = d }
}

// WithMaxPause bounds a pause, so that a hint gone wrong does not shut out the
// fleet for a day: after d, requests go and find out. It panics if d is not
// above 0. The default is 1 minute, as for [resilient.WithMaxWait].
func WithMaxPause(d time.Duration) Option {
	mustBe(d > 0, "WithMaxPause", "above 0", d)
	return func(c *config) { c.maxPause = d }
}

// WithLogger sets where it is logged, once each, that Redis does not answer, at
// level warn, and that it does again, at info; and at warn when [New] finds a
// client whose settings let a call outlast its time. Neither keys nor addresses
// are added to what the client's error says. It panics if l is nil. The default
// is slog.Default(), since a limit that is not kept is not to go unnoticed.
func WithLogger(l *slog.Logger) Option {
	mustBe(l != nil, "WithLogger", "not nil", "nil")
	return func(c *config) { c.logger = l }
}

// WithFallback sets what becomes of requests while Redis does not answer. The
// default is [Refuse].
func WithFallback(f Fallback) Option {
	return func(c *config) { c.fallback = f }
}

// Fallback is what to do with requests while Redis does not answer: [Refuse],
// [Unlimited] or [LocalShare]. The zero Fallback is Refuse.
type Fallback struct {
	unlimited bool
	processes int // above 0: LocalShare
}

// Refuse fails them with an [*UnavailableError].
func Refuse() Fallback { return Fallback{} }

// Unlimited lets them go without a limit of ours. A pause that this process
// knows of still holds.
func Unlimited() Fallback { return Fallback{unlimited: true} }

// LocalShare limits each process to its share of the limit and of the burst,
// which is at least 1. It panics if processes, the number of processes that
// share, is less than 1.
func LocalShare(processes int) Fallback {
	mustBe(processes >= 1, "LocalShare", "at least 1", processes)
	return Fallback{processes: processes}
}

// String returns the name for logs.
func (f Fallback) String() string {
	switch {
	case f.unlimited:
		return "unlimited"
	case f.processes > 0:
		return fmt.Sprintf("local share, 1/%d", f.processes)
	}
	return "refuse"
}

// UnavailableError is the refusal to let a request go because Redis did not say
// when it may. Nothing was sent. From a Transport it comes inside a
// [*resilient.LimitError].
type UnavailableError struct {
	Err error // what the client said, or that there was no answer in time
}

// Error returns what the client said.
func (e *UnavailableError) Error() string {
	return "redislimit: Redis does not answer: " + e.Err.Error()
}

// Unwrap returns the client's error. It is never context.DeadlineExceeded,
// which is the caller's own.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Stats is what a [Limiter], or all those of a [Keyed], did so far.
type Stats struct {
	Calls    uint64 // calls to Redis, answered or not
	Granted  uint64 // requests let go when Redis said
	Fallback uint64 // requests let go or refused without Redis, see WithFallback
	Lost     uint64 // reservations that nobody used, see Limiter
	Err      error  // why Redis does not answer; nil: the last call was answered
}

var _ resilient.Limiter = (*Limiter)(nil)

// mustBe panics if ok is false: a nonsense value is a mistake in the program,
// and the stack should name its line.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("redislimit: %s must be %s, got %v", name, want, got))
	}
}
