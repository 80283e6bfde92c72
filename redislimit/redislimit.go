// Package redislimit shares a rate limit between processes through Redis. It is for
// APIs that limit an account which a fleet of processes uses.
//
//	client := redis.NewClient(&redis.Options{
//		Addr:                  "redis.internal:6379",
//		ContextTimeoutEnabled: true, // a call ends when its time is up
//		MaxRetries:            -1,   // a repeated call may reserve twice
//	})
//	limiter := redislimit.New(client, "account-42", 200, 20) // 200 a second, 20 at once
//	transport := resilient.NewTransport(nil, resilient.WithLimiter(limiter))
//
// Each attempt waits for its turn in the fleet. If one process receives a
// rejection with a Retry-After, all processes are held back. If the server's limit
// is lower than the configured one, all processes learn it at once. Refusals by
// chance have no such effect. [NewKeyed] has a limiter for each of many accounts.
//
// # When to use it
//
// Use this package if several processes spend the same quota, and their load is
// uneven or their number changes. With one process, [resilient.WithRateLimit] does
// the same at no cost. With a fixed number of evenly loaded processes, give each
// its part of the limit instead. If the load is uneven, fixed parts leave most of
// the quota unused.
//
// The package cannot protect a server from clients that are not yours, because
// they need not ask. It is not suited to limits that must never be exceeded, not
// even by a single request: the server may count in another way, and requests
// spend a varying time on their way to it.
//
// # How it works, and its costs
//
// A script on Redis reserves for each request the instant at which it may go, on
// Redis's own clock, by the generic cell rate algorithm. So no request asks twice,
// and the clocks of the processes do not matter. The requests of a process that
// can go at once share a call. If Redis is far away, the requests that wait share
// calls too. A request costs one round trip if Redis is near, and a fraction of
// one if it is not. If the limit is not reached, this is also the time it costs.
// The instant is counted from the arrival of the answer, so requests are late by
// up to a round trip and never early.
//
// # Order of requests
//
// Within a process, requests go in order of arrival. The processes take turns, so
// the first request in the queue of a process does not wait for the queues of the
// others. Each process reserves one request ahead, or as many as go in three round
// trips to Redis, if that is more. All use the longest round trip, so that their
// shares are equal if they reserve one request ahead, and nearly equal if Redis is
// far away and they reserve many.
//
// A process that takes less than one in 32 of the requests, such as one that
// sends two a second of a hundred, need not wait for its turn either. While there
// are others, a process that takes more uses only a quarter of the burst. The rest
// is kept for the light processes. Their requests wait for at most one interval of
// the limit, 10 ms at 100 a second, if the rest is as large as the number of busy
// processes. With a burst of 1 they wait for one turn of each busy process, which
// is an interval of the limit each.
//
// The Wait hook of a [resilient.Trace] receives the wait of a request as soon as
// it can be foreseen. It is exact if this process is the only one.
//
// # If the server's limit is lower
//
// If the server refuses requests for their rate (429), either its limit is lower
// than the configured one, or it refuses some requests by chance: one of its backends
// is bad, or another route has a limit. A trial tells which. At the instant of a
// refusal, the bucket of a limit is empty. So right after it, a volley of requests
// goes ahead of its turn: four, and one more for each 250 a second, 64 at most. A
// limit refuses most of them. Chance refuses as few as of any others. The requests
// behind them wait for the turns that they took, so only the burst is exceeded. There
// is no trial while nobody waits, because the fleet cannot send more then.
//
// Nothing is lowered before a trial has found a limit, and no Retry-After of a 429
// causes a pause if requests wait with which it can be tested. If a trial finds
// chance, each refusal concerns only its own request, until 8 s later, then 32 s,
// then 120 s, or until clearly more requests are refused. The next refusal then
// begins another trial. If a trial finds a limit, the fleet learns it. The limit is
// tested again after the same times, or when it has become half as high. If there is
// chance beside a limit, each refusal is tested before it lowers the limit further.
//
// The number of requests accepted from one refusal to the next shows the server's
// limit. A refusal counts only once for all requests that were sent before it was
// known. The learned limit and the trial are kept in Redis. Other processes use the
// limit from their next call on, and a process that starts later uses it from its
// first.
//
// With every request that has to wait, the fleet tries a slightly higher rate. So
// about one request in 200 is refused as long as the server's limit stays, and a
// limit that rises is found within seconds. With chance beside it, about one in ten
// is. If a refusal says how long to wait, the whole fleet pauses. The next refusal is
// then provoked only after 32 times that pause, and a limit that rises is found
// correspondingly later.
//
// The learned limit is never above the configured one. When it has risen to it, it
// is removed. A learned limit that is not needed for a while is forgotten. As long
// as no request is refused, learning costs nothing. [WithLearnedRate] switches it
// off.
//
// Each key has its own learned limit. It replaces the rate that a Transport would
// learn by itself. RateLimit fields are not read.
//
// # Stalls and retries
//
// After a stall of a process, such as a suspended machine, it may use as many of
// the reservations that it missed as its burst covers. The others are made again.
//
// Retries wait like first attempts. The pauses of each Transport, and the gradual
// start after them, are in force too, after the limiter.
//
// # Tokens and other costs
//
// [WithLimit] adds limits that count something else than requests, such as the tokens
// of a model. A function says what a request costs. All limits of a key are one value
// in Redis, and one call of the script takes from all of them. A request takes from
// all in one instant, or from none.
//
// The truth may be known only afterwards. [resilient.Settle] then corrects the cost.
// A correction goes along with the next call to Redis, or in a call of its own after
// 10 ms. It costs no request any time, because it is not waited for. All corrections
// that go in a call are one sum for each limit. Requests that wait in the same process
// hear of it with that call, and those of others within a second.
//
// A correction counts when it is made, however late that is. If less was used, as much
// is given back as there is room for in the burst. If more was used, it is owed, and
// those that follow wait for it. When the key has expired in Redis, the bursts are
// whole, so that nothing can be given back. A second correction of a request does
// nothing.
//
// With such limits some things are different:
//
//   - The instant of a request is not reserved long before, because corrections move
//     it. Redis grants requests that are due within three round trips, or 1 ms. A
//     process whose requests have to wait longer has a place in a queue in Redis. It
//     asks again just before their time comes, and after a second in any case. If its
//     costs are mostly settled for less, it asks earlier.
//   - The processes take turns, a request each or as many as go in three round trips.
//     So their shares are equal in requests, not in tokens: a process gets more tokens
//     if its requests cost more. Nothing overtakes a request that costs much.
//   - No part of the burst is kept for light processes. Their requests wait for one
//     request of each busy process.
//   - A process that ends while it has a place delays the others by up to a second and
//     a half.
//   - A lower limit of the server's is still learned in requests, whichever limit of
//     the server's it is.
//   - An attempt that is not sent gives everything back, and one that is refused for
//     its rate gives back the costs of cost functions.
//   - [LocalShare] is a share of each limit. Requests that are sent while Redis does
//     not answer are not charged for afterwards.
//   - If a call to Redis fails, corrections for more are sent again with the next one.
//     Corrections for less are given up, because the call may have made them.
//
// The server may hear of the truth somewhat earlier or later than Redis. A burst that is
// a few percent smaller than the server's allows for that, and for requests that spend
// a varying time on their way. [resilient.WithMaxWait] bounds the wait for all limits
// together, and is a minute by default.
//
// # When Redis does not answer
//
// Redis does not answer if a call fails, or takes longer than [WithTimeout]. A
// request waits for a call no longer than that, and not beyond its own deadline,
// whatever the settings of the client are. Requests with a reservation go at its
// time. [WithFallback] decides on the others: they are refused with an
// [*UnavailableError], sent without a limit, or limited to the process's share.
// While Redis is down this decision takes no time, and a call about once a second
// finds out whether Redis is back. Recovery needs no restart and no operator. An
// outage and its end are logged, see [WithLogger], and [Limiter.Stats] counts the
// requests that went without Redis.
//
// If Redis loses its data, because it was restarted empty or a replica took over,
// each process sends its last reservation and the pause again with its next call.
// Processes without a recent reservation may use the burst once more. For the limits of
// [WithLimit] it is recent if the process has called Redis within two seconds. While two
// servers both act as the master, each grants the whole limit.
//
// With go-redis, ContextTimeoutEnabled ends a call in time. Without it, a call that
// hangs is abandoned, but the next one has to wait until the client gives it up.
// With the defaults of DialTimeout, ReadTimeout and MaxRetries that takes several
// seconds, during which a recovery of Redis goes unnoticed. [New] logs a warning
// in this case. A limiter uses one connection at a time, and the pool should have
// one to spare.
//
// # Requirements on Redis
//
//   - Redis 5 or newer, or a server that is compatible with its Lua scripts. It is
//     tested on 7.0. The script is called by its hash, and sent again to a server
//     that does not know it.
//   - A user may be restricted to these rights:
//     resetkeys ~resilient:limit:* -@all +evalsha +eval +time +get +set
//   - In a cluster each limit is one key and therefore on one node, so any key
//     works, with or without a hash tag. Reads are not sent to replicas.
//   - TLS, Sentinel and addresses are settings of the client. Every kind of
//     [redis.UniversalClient] works. If a Ring loses a shard, the limits of that
//     shard move to another one and start afresh.
//   - Each limit in use takes one string of about 40 bytes, or 120 with all
//     overhead for a key of 10 letters. The script takes 25 KiB. The key expires a
//     second after its burst is full again. After a refusal the string has up to
//     200 bytes, and stays for a minute. Each limit of [WithLimit] adds its name and
//     about 15 bytes, and each process that waits about 30 bytes. Such a key stays for
//     three seconds at least. Keys are never searched for.
//   - With limits of [WithLimit], each process that waits adds 4 µs to each call, in
//     which Redis does nothing else. So they suit hundreds of processes, not thousands.
//   - A process needs 0.7 KiB for each limiter, or 1 KiB with limits of [WithLimit]. Of
//     a [Keyed], the 1,024 limiters used last are kept, and those in use.
//   - The clock of Redis may be set back, or be that of another server after a
//     failover. The remaining waits stay the same. If it is set ahead, it ends
//     waits that were not reserved yet, so that there is one burst.
//   - The value starts with its version, "v1", or "v2" after a refusal or if Redis
//     is far away, or "v3" if there are limits of [WithLimit]. A process reads the fields that it knows in a value with more of
//     them, so the processes of a fleet can be upgraded one by one. Processes
//     without trials lower the limit at each refusal, and lose what a trial found.
//     Processes that know no "v3" drop its other limits with each call, and the
//     processes that have them tell Redis again what they have seen last. So these
//     limits are kept only roughly until all are upgraded. Processes that know only
//     "v1" are the exception. While the value is "v2" or "v3", they cannot read it, and
//     [WithFallback] decides on their requests.
package redislimit

import (
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/lru"
)

// New returns a Limiter for the limit that is named by key. It allows limit
// requests a second in the long run, and burst of them at once, for all processes
// together that use the same key on the same Redis. They should all have the same
// limit and burst. If these differ, each process reserves by its own. [WithLimit] adds
// limits of other things than requests.
//
// It panics if client is nil, limit is not above 0 or is rate.Inf, or burst is
// less than 1. Nil options are skipped. New does not call Redis.
func New(client redis.UniversalClient, key string, limit rate.Limit, burst int, opts ...Option) *Limiter {
	return NewKeyed(client, limit, burst, opts...).Limiter(key)
}

// Keyed provides a limiter for each of many keys, all with the same limit and
// burst. A key may be an account, a tenant or a credential, as for
// [resilient.WithLimitKey] inside a process. The limiter is chosen by the request:
//
//	keyed := redislimit.NewKeyed(client, 10, 1)
//	transport := resilient.NewTransport(nil, resilient.WithLimiterFor(keyed.For(account)))
//
// Make it with [NewKeyed]. It is safe for concurrent use.
type Keyed struct {
	store *store

	mu       sync.Mutex
	limiters lru.Table[string, *Limiter]
}

// maxKeys is the number of limiters that are kept although they are idle. A
// Transport keeps as many keys. There may be more limiters with waiting requests.
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
	mustBe(len(cfg.limits) <= maxUnits, "WithLimit", "used for at most 7 names", len(cfg.limits))
	return &Keyed{
		store:    newStore(client, limit, burst, cfg),
		limiters: lru.Table[string, *Limiter]{Size: maxKeys, Limit: math.MaxInt, Idle: (*Limiter).idle},
	}
}

// Limiter returns the limiter of a key. It returns the same limiter for as long as
// that is in use. If 1,024 other keys are asked for in between, it may return a new
// one. Callers with different limiters of the same key still share the limit, but
// not their calls to Redis.
func (k *Keyed) Limiter(key string) *Limiter {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l, ok := k.limiters.Get(key); ok {
		return l
	}
	l := &Limiter{store: k.store, key: key, units: newUnits(k.store.limits)}
	k.limiters.Add(key, l)
	return l
}

// For returns a function for [resilient.WithLimiterFor] that chooses the limiter
// of a request by the key that f returns. It panics if f is nil.
//
// Use [resilient.WithLimitKey](f) as well, so that the Transport separates its own
// state, such as pauses, by the same key.
func (k *Keyed) For(f func(*http.Request) string) func(*http.Request) resilient.Limiter {
	mustBe(f != nil, "For", "not nil", "nil")
	return func(req *http.Request) resilient.Limiter { return k.Limiter(f(req)).For(req) }
}

// Stats returns the counts so far over all keys, and the lowest limit that was
// learned for one of the keys in use.
func (k *Keyed) Stats() Stats {
	k.mu.Lock()
	limiters := slices.Collect(k.limiters.All())
	k.mu.Unlock()
	s := k.store.snapshot()
	for _, l := range limiters {
		if x := l.learned(); x > 0 && (s.LearnedLimit == 0 || x < s.LearnedLimit) {
			s.LearnedLimit = x
		}
	}
	return s
}

// Option configures [New] and [NewKeyed]. A With function panics if its argument
// makes no sense, so that the stack trace shows the line.
type Option func(*config)

type config struct {
	prefix   string
	timeout  time.Duration
	maxPause time.Duration
	fallback Fallback
	logger   *slog.Logger

	unlearned bool // WithLearnedRate(false)
	limits    []unitLimit
}

// WithPrefix sets the prefix of the keys in Redis. The key given to [New] or
// [Keyed.Limiter] follows it. The default is "resilient:limit:".
func WithPrefix(prefix string) Option {
	return func(c *config) { c.prefix = prefix }
}

// WithTimeout sets the longest time that a call to Redis may take. If it takes
// longer or fails, [WithFallback] decides on the requests that wait for it.
// WithTimeout panics if d is not above 0. The default is 100 ms.
func WithTimeout(d time.Duration) Option {
	mustBe(d > 0, "WithTimeout", "above 0", d)
	return func(c *config) { c.timeout = d }
}

// WithMaxPause limits the length of a pause, so that a wrong Retry-After does not
// stop the fleet for a day. After d, requests are sent again. WithMaxPause panics
// if d is not above 0. The default is 1 minute, as for [resilient.WithMaxWait].
func WithMaxPause(d time.Duration) Option {
	mustBe(d > 0, "WithMaxPause", "above 0", d)
	return func(c *config) { c.maxPause = d }
}

// WithLogger sets the logger for these states, each of which is logged once when it
// begins:
//   - Redis does not answer (warn), and it answers again (info). Failures within a
//     minute of the last ones are logged only if they last for a second.
//   - A lower limit is learned, and the configured limit has been in force again for
//     a minute (info).
//   - The settings of the client given to [New] allow a call to outlast its time
//     (warn).
//
// The records contain the text of the client's error, but no other keys or
// addresses. WithLogger panics if l is nil. The default is slog.Default(), because
// a limit that is not kept should not go unnoticed.
func WithLogger(l *slog.Logger) Option {
	mustBe(l != nil, "WithLogger", "not nil", "nil")
	return func(c *config) { c.logger = l }
}

// WithLearnedRate controls whether refusals lower the limit of all processes to
// that of the server, if they are not by chance, see [Limiter.Observe]. The server's
// limit is found from the number of requests accepted between two refusals. To follow it, the fleet sends
// slightly more requests than that, so that about one in 200 is refused. The
// learned limit is never above the configured one. The burst is not learned, and
// should be no larger than the server's. As long as the server refuses no request
// for its rate, learning costs nothing.
//
// If on is false, refusals of this process's requests do not lower the limit, and
// this process ignores the limit that others have learned. The default is true.
func WithLearnedRate(on bool) Option {
	return func(c *config) { c.unlearned = !on }
}

// WithFallback sets the treatment of requests while Redis does not answer. The
// default is [Refuse].
func WithFallback(f Fallback) Option {
	return func(c *config) { c.fallback = f }
}

// Fallback is the treatment of requests while Redis does not answer: [Refuse],
// [Unlimited] or [LocalShare]. The zero Fallback is Refuse.
type Fallback struct {
	unlimited bool
	processes int // above 0: LocalShare
}

// Refuse makes requests fail with an [*UnavailableError].
func Refuse() Fallback { return Fallback{} }

// Unlimited lets requests go without this limit. A pause that this process knows of
// still holds.
func Unlimited() Fallback { return Fallback{unlimited: true} }

// LocalShare limits each process to its share of each limit and of its burst. The
// share of a burst is at least 1. processes is the number of processes that share
// the limit. LocalShare panics if it is less than 1.
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

// UnavailableError is returned if a request is refused because Redis does not
// answer. The request was not sent. A Transport returns it inside a
// [*resilient.LimitError].
type UnavailableError struct {
	Err error // the client's error, or an error saying that there was no answer in time
}

// Error returns a text with the client's error in it.
func (e *UnavailableError) Error() string {
	return "redislimit: Redis does not answer: " + e.Err.Error()
}

// Unwrap returns the client's error. It is never context.DeadlineExceeded, which
// would look like the caller's own deadline.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Stats counts the work of a [Limiter], or of all limiters of a [Keyed].
type Stats struct {
	Calls    uint64 // calls to Redis, answered or not
	Granted  uint64 // requests that went at the time set by Redis
	Fallback uint64 // requests that went or were refused without Redis, see WithFallback
	Lost     uint64 // reservations that no request used, see Limiter
	Err      error  // why Redis does not answer, or nil if the last call was answered

	// LearnedLimit is the limit in force, in requests a second, according to the
	// last answer to this process. It is 0 if no lower limit is learned.
	LearnedLimit float64
}

var _ resilient.LearningLimiter = (*Limiter)(nil)

// mustBe panics if ok is false. A nonsense value is a mistake in the program, and
// the stack trace should show its line.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("redislimit: %s must be %s, got %v", name, want, got))
	}
}
