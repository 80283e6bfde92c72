// Package redislimit shares a rate limit between processes through Redis: a
// limit belongs to an account, and an account may be used by a fleet.
//
//	client := redis.NewClient(&redis.Options{
//		Addr:                  "redis.internal:6379",
//		ContextTimeoutEnabled: true, // a call ends when its time is up
//		MaxRetries:            -1,   // a call that is repeated may reserve twice
//	})
//	limiter := redislimit.New(client, "account-42", 200, 20) // 200 a second, 20 at once
//	transport := resilient.NewTransport(nil, resilient.WithLimiter(limiter))
//
// Each attempt waits its turn in the fleet. A rejection with a Retry-After that
// one process receives holds back all of them, and a limit of the server's that
// is lower than the one given is learned by all at once. Where there are many
// accounts, [NewKeyed] has a limiter for each.
//
// # When to use it
//
// When more than one process spends the same quota, and their load is uneven or
// their number changes. With one process, [resilient.WithRateLimit] does the
// same for nothing. With a fixed number of evenly loaded processes, give each its
// part of the limit instead; if the load is uneven, that leaves most of the quota
// unused. It is not for protecting a server from clients that are not yours:
// they need not ask. And it is not for limits that must not be exceeded by a
// single request, ever: the server may count otherwise, and requests spend a
// varying time on their way to it.
//
// # How it works, and what it costs
//
// A script on Redis reserves for each request the instant at which it may go, on
// Redis's own clock, by the generic cell rate algorithm. So nobody asks twice, and
// the clocks of the processes do not matter. Those of a process that can go at
// once share a call, and so do those that wait if Redis is far away: a request
// costs one round trip when Redis is near, and a fraction of one when it is not.
// That is also what it costs in time when the limit is not reached. The instant is
// counted from when the answer arrives, so requests are late by up to a round
// trip and never early.
//
// # Who goes first
//
// Within a process, who came first. Between the processes it goes by turns, so a
// request that has nobody before it in its process does not wait for the lines of
// the others: each process reserves one request ahead, or as many as go in three
// round trips to Redis, if that is more. All go by the longest round trip, so that
// their shares are alike: the same if it is one request, and about the same if
// Redis is far away and it is many.
//
// A process that takes less than one in 32 of the requests, such as one that
// sends two a second of a hundred, need not wait its turn either. While there are
// others, a process that takes more uses a quarter of the burst only, and the
// rest is there for such requests. They wait for one interval of the limit at
// most, 10 ms at 100 a second, if the rest is as large as the number of busy
// processes. With a burst of 1 they wait a turn of each busy process, an interval
// of the limit each.
//
// How long a request will wait is told to the Wait hook of a [resilient.Trace] as
// soon as that can be foreseen: exactly if this process is the only one.
//
// # A limit of the server's that is lower
//
// If the server refuses requests for their rate (429), its limit is lower than the
// one given, at least for now, and the fleet learns it: the first refusal takes a
// fifth of the limit, and then what is accepted from one refusal to the next shows
// what it is. A refusal counts once for all who sent before it was known. What is
// learned is kept in Redis, so it holds for all processes with their next call,
// and for one that starts later from its first. A little more is tried with every
// request that had to wait, so one in some 200 is refused as long as the limit
// stays, and a limit that rises is found within seconds. Where a refusal says for
// how long it will be, the whole fleet pauses: then this is tried 32 times such a
// pause apart, and a limit that rises is found as much later. It is never above
// the limit given; when it comes back to that, nothing is left of it. What is not
// needed for a while is forgotten. As long as nothing is refused, nothing of this
// is in force, or costs anything. [WithLearnedRate] switches it off.
//
// The learned limit is that of a key. It replaces that which a Transport would
// learn by itself; RateLimit fields are not looked at.
//
// After a stall of a process, such as a suspended machine, what it has reserved
// and missed by more than its burst makes up for is reserved anew.
//
// The requests of retries wait like all others. The pauses and the reopening of
// each Transport are in force too, behind the limiter.
//
// # When Redis does not answer
//
// Redis does not answer if a call fails, or takes longer than [WithTimeout].
// Nobody waits for a call longer than that, or than the own deadline, whatever
// the client's settings. What was reserved before goes when it may; for the rest
// [WithFallback] decides: refused with an [*UnavailableError], let go without a
// limit, or held to the process's share of it. From then on that is done at once,
// while one request in a while, each second at least, looks whether Redis is
// back. It takes no restart, nor anybody to notice. That Redis does not answer
// and that it does again is logged, see [WithLogger], and [Limiter.Stats] counts
// the requests that went without.
//
// What Redis loses, because it was restarted empty or a replica took over, is
// told to it again by each process with its next call: what that process had
// reserved last, and the pause. Processes that had reserved nothing lately may
// use the burst once more. While two servers both take themselves for the master,
// each grants the whole limit.
//
// With go-redis, ContextTimeoutEnabled ends a call in time. Without it a call that
// hangs is abandoned, but the next one has to wait until the client gives it up:
// with the defaults of DialTimeout, ReadTimeout and MaxRetries after several
// seconds, in which Redis may have come back unnoticed. [New] logs a warning
// then. A pool should have a connection to spare: a limiter uses one at a time.
//
// # What Redis needs
//
//   - Redis 5 or newer, or what is compatible with its Lua scripts; it is tested
//     on 7.0. The script is called by its hash, and sent again to a server that
//     does not know it.
//   - A user may be restricted to these rights:
//     resetkeys ~resilient:limit:* -@all +evalsha +eval +time +get +set
//   - In a cluster each limit is one key, thus on one node: any key will do, with
//     or without a hash tag. Reads are not sent to replicas.
//   - TLS, Sentinel and addresses are the client's: all of a
//     [redis.UniversalClient] work, but of a Ring the limits of a shard that is
//     lost move to another one and begin anew.
//   - Memory: one string of about 40 bytes for each limit in use, 120 with all
//     overhead for a key of 10 letters, and the script, 10 KiB. The key vanishes a
//     second after its burst is whole again. Where a limit is learned the string
//     has about 110 bytes, and stays for a minute. No key is searched for.
//   - Its clock may be set back, or be another's after a failover: what is to be
//     waited stays the same. Set ahead, it ends waits that were not reserved yet:
//     once, there is a burst.
//   - The value names its version, "v1", or "v2" where a limit is learned or Redis
//     is far away. A process reads what it knows of a later version, so a fleet can
//     be upgraded one by one, but for those that know of "v1" alone: while the
//     value is "v2" these find that it is not theirs, and [WithFallback] decides.
package redislimit

import (
	"container/list"
	"fmt"
	"log/slog"
	"net/http"
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
//	keyed := redislimit.NewKeyed(client, 10, 1)
//	transport := resilient.NewTransport(nil, resilient.WithLimiterFor(keyed.For(account)))
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

// For returns a function that chooses the limiter for a request by its key, which
// is what f returns; for [resilient.WithLimiterFor]. It panics if f is nil.
//
// With [resilient.WithLimitKey](f) too, what else the Transport knows, such as a
// pause, is told apart by the same key.
func (k *Keyed) For(f func(*http.Request) string) func(*http.Request) resilient.Limiter {
	mustBe(f != nil, "For", "not nil", "nil")
	return func(req *http.Request) resilient.Limiter { return k.Limiter(f(req)) }
}

// Stats returns what happened so far, over all keys, and the lowest limit that
// was learned for one of the keys in use.
func (k *Keyed) Stats() Stats {
	k.mu.Lock()
	limiters := make([]*Limiter, 0, len(k.limiters))
	for e := k.recent.Front(); e != nil; e = e.Next() {
		limiters = append(limiters, e.Value.(*Limiter)) //nolint:forcetypeassert // recent holds nothing else
	}
	k.mu.Unlock()
	s := k.store.snapshot()
	for _, l := range limiters {
		if x := l.learned(); x > 0 && (s.LearnedLimit == 0 || x < s.LearnedLimit) {
			s.LearnedLimit = x
		}
	}
	return s
}

// Option configures [New] and [NewKeyed]. An option panics when it is given a
// value that makes no sense, so that the stack names the line.
type Option func(*config)

type config struct {
	prefix   string
	timeout  time.Duration
	maxPause time.Duration
	fallback Fallback
	logger   *slog.Logger

	unlearned bool // WithLearnedRate(false)
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
// level warn, and that it does again, at info; that a limit was learned and that
// the one given is in force again, at info; and at warn when [New] finds a
// client whose settings let a call outlast its time. Neither keys nor addresses
// are added to what the client's error says. It panics if l is nil. The default
// is slog.Default(), since a limit that is not kept is not to go unnoticed.
func WithLogger(l *slog.Logger) Option {
	mustBe(l != nil, "WithLogger", "not nil", "nil")
	return func(c *config) { c.logger = l }
}

// WithLearnedRate lowers the limit, given true, for all processes to what the
// server lets through: see [Limiter.Observe]. It is found from what is accepted
// between two refusals, and is looked for again by requests a little too many,
// one in a hundred or so. It is never above the limit given, and the burst is not
// learned: that should be no larger than the server's. As long as the server
// refuses nothing for its rate, it costs nothing.
//
// Given false, what this process is refused teaches nobody anything, and it goes
// by the limit given whatever the others learn. The default is true.
func WithLearnedRate(on bool) Option {
	return func(c *config) { c.unlearned = !on }
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

	// LearnedLimit is the limit in force, in requests a second, as this process
	// heard last, if that is lower than the one given; 0: nothing is learned.
	LearnedLimit float64
}

var _ interface {
	resilient.Limiter
	Observe(resilient.AttemptInfo)
} = (*Limiter)(nil)

// mustBe panics if ok is false: a nonsense value is a mistake in the program,
// and the stack should name its line.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("redislimit: %s must be %s, got %v", name, want, got))
	}
}
