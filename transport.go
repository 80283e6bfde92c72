// Package resilient is an [http.RoundTripper] that knows what an API's
// documented errors mean: it retries what can succeed, fails fast on what
// cannot, paces itself, and hands the caller the parsed error object.
//
// Set it as the Transport of an http.Client, your own or the one an SDK takes:
//
//	client := &http.Client{Transport: resilient.NewTransport(nil)}
//	resp, err := client.Do(req)
//	if err != nil {
//		return err // no response at all
//	}
//	defer resp.Body.Close()
//	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
//		return apiErr // 400, 402, 403, 404, 429, 500 ..., parsed
//	}
//
// # Retries
//
// 429 and 500 are retried, like 408, 425, 502, 503, 504 and 529; every other
// status from 400 on is final after one attempt, and statuses below 400 pass
// through untouched, whatever headers they carry. Two things are more exact than
// a status: a code in the body that speaks of a limit, by which a 400 or a 403
// can be a rate limit and a 429 a quota that does not come back, and a field by
// which the server says outright whether to retry (X-Should-Retry,
// Stripe-Should-Retry). What may be sent twice is decided by what is known about
// the first time:
//
//   - rejected unprocessed (429 and other rate limits; 503 with Retry-After, RFC
//     9110 section 15.6.4): any method;
//   - provably never sent (the dial failed, or net/http/httptrace shows that
//     nothing was written): any method;
//   - anything else (500, a lost connection, an attempt that timed out): the
//     idempotent methods of RFC 9110 section 9.2.2, and requests that carry an
//     Idempotency-Key or X-Idempotency-Key header.
//
// Certificates that do not verify, unknown hosts, malformed requests and the
// caller's own cancellation are never retried. The wait is the server's hint,
// to which jitter only adds, or the interval of a backoff policy
// ([WithBackOff]). A wait that cannot end well, because it is longer than
// [WithMaxWait] or than the context's deadline, is not begun: the caller gets
// the response at once, hint included. Retries are bounded by [WithMaxAttempts]
// and by a budget ([WithRetryBudget]), so that an outage is not amplified. As
// long as no retry fails, failures are isolated, and the first retry comes after
// the smallest interval there is.
//
// # Rate limits
//
// [WithRateLimit] puts a token bucket in front of every attempt, retries
// included, for each limit key: scheme, host and credential, unless
// [WithLimitKey] says otherwise. Waiters are served in order, first attempts
// before retries, of which a ninth goes nevertheless; what was refused for its
// rate goes back to where it stood. A
// rejection that names a wait pauses its key for all goroutines, and the release
// is paced: one request goes ahead, and each one that is accepted lets two more
// follow. A wait that would be too long is refused at once with a [*LimitError],
// and nothing is sent.
//
// The server's limit need not be known: from the second refusal on it is
// measured by what is accepted, and the key is paced to it, so that a backlog
// uses the whole of it and about one request in a hundred is refused
// ([WithLearnedRate]). RateLimit fields with a policy are used before anything
// is refused, by a client that is seen to be alone with its quota. What is learned
// holds for one Transport; several that share a quota find shares of it that are
// about alike, and a limit in Redis, module redislimit, does it exactly.
//
// # Errors
//
// By default an error status is a response with a nil error, as the contract of
// http.RoundTripper asks and generated SDKs expect; the last response arrives
// as it was received, its body whole. The parsed error object is had in three
// ways: [ErrorFromResponse]; [WithStatusErrors], which turns statuses from 400
// on into Go errors; and a [Trace] in the request's context
// ([ContextWithOptions]), which works through any SDK that passes the context
// on. All three give an [*APIError], which matches [ErrRateLimit] and its
// sisters with errors.Is.
//
// An SDK that retries by itself is best told not to, or attempts multiply. Some
// can be told that what was given up here is final: by [WithNoRetryMark], and by
// methods of the error types that those of Azure and AWS look for.
//
// The error object may have any of the shapes that are usual: the documented
// {"code","type","message","invalid"}, problem+json, an "error" object or word,
// lists and maps of "errors", a Kubernetes Status, the names that AWS puts into
// headers, plain text. Message text decides nothing. What is special about one
// API, such as errors in a 200, is a [Profile] ([WithProfile]); package profile
// has some.
//
// A call that ends without a response returns the base's own error after one
// attempt, and a [*RetryError] around it after several. http.Client wraps both
// in a *url.Error, whose text holds the URL with its query: a transport cannot
// redact that.
//
// # Bodies
//
// A request body is replayed from Request.GetBody, which http.NewRequest sets
// for the in-memory readers; else from up to [WithReplayBuffer] bytes recorded
// while the first attempt reads them; else the request is sent once. Every
// attempt reads its own copy, since the base may still be reading the last
// one. A discarded response is read up to 64 KiB and for at most a second,
// which overlaps the wait, then closed, so that its connection is reused.
//
// # Compatibility
//
// The caller's request is never written to. The first attempt of an idempotent
// request is the caller's own *Request and costs nothing: no allocation, copy
// or goroutine. Streams, upgraded connections (101), trailers, redirects and
// cookies are left alone; the cookies of a retried response go with it. A
// ClientTrace of net/http/httptrace sees every attempt. Over another Transport,
// what that one has retried in vain is final, so attempts do not multiply.
//
// net/http may send a request again by itself, below this package and unseen by
// its counters and limits: on a reused connection that turns out dead (also a
// POST, if it has an idempotency key), and after an HTTP/2 GOAWAY or
// REFUSED_STREAM, without pause until the context ends (go.dev/issue/52459). Set
// a deadline or [WithAttemptTimeout].
package resilient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/plain"
	"github.com/resilienthttp/resilient/internal/suspect"
)

var _ http.RoundTripper = (*Transport)(nil)

// Transport is an http.RoundTripper that retries, paces and explains the
// requests it passes to another one. Make it with [NewTransport]; the zero
// Transport sends each request once through http.DefaultTransport.
//
// A Transport is safe for concurrent use, and is meant to be shared: its rate
// limits, pauses and retry budgets hold across all requests that go through it.
// It must not be copied after first use.
type Transport struct {
	base     http.RoundTripper
	cfg      config
	traced   atomic.Pointer[config] // cfg with the hooks of AddTrace; nil: there are none
	keys     keyTable
	totals   counters
	suspects suspect.Set // HTTP/2 connections on which an attempt timed out
}

// NewTransport returns a Transport that sends its requests through base. A nil
// base is http.DefaultTransport, looked up at each call. Nil options are
// skipped; of two that set the same thing, the last one wins.
func NewTransport(base http.RoundTripper, opts ...Option) *Transport {
	cfg := config{
		maxAttempts: defaultMaxAttempts,
		newBackOff:  defaultBackOff,
		maxWait:     defaultMaxWait,
		shared: sharedConfig{
			budgetRatio: defaultBudgetRatio,
			budgetFloor: defaultBudgetFloor,
		},
	}
	cfg.apply(opts)
	return &Transport{base: base, cfg: cfg}
}

// RoundTrip implements http.RoundTripper. It returns the last response as it
// was received, also when its status is an error (but see [WithStatusErrors]),
// or the error that left the call without one: never both, never neither.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := checkRequest(req); err != nil {
		closeBody(req.Body)
		return nil, err
	}
	var c call
	c.set(t, t.settings(req.Context()), req)
	return c.run()
}

// CloseIdleConnections closes the idle connections of the base, if the base
// has such a method. http.Client.CloseIdleConnections calls it; the Transport
// itself never does.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.roundTripper().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *Transport) roundTripper() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}

// checkRequest refuses what cannot be looked at without a panic. Everything
// else that may be wrong with a request is the base's to say.
func checkRequest(req *http.Request) error {
	if req.URL == nil {
		return errors.New("resilient: nil Request.URL")
	}
	if req.Header == nil {
		return errors.New("resilient: nil Request.Header")
	}
	return nil
}

// settings returns the configuration in force for a request with this context.
func (t *Transport) settings(ctx context.Context) *config {
	own := t.traced.Load()
	if own == nil {
		own = &t.cfg
	}
	opts, _ := ctx.Value(optionsKey{}).([]Option)
	if len(opts) == 0 {
		return own
	}
	cfg := *own
	cfg.apply(opts)
	return &cfg
}

// AddTrace adds hooks to a Transport that is in use, for the calls that begin
// from then on. They are called as those of [WithTrace] are, and cannot be taken
// away again. It panics if tr is nil.
func (t *Transport) AddTrace(tr *Trace) {
	add := []Option{WithTrace(tr)}
	for {
		was := t.traced.Load()
		cfg := t.cfg
		if was != nil {
			cfg = *was
		}
		cfg.apply(add)
		if t.traced.CompareAndSwap(was, &cfg) {
			return
		}
	}
}

// Option configures a [Transport], or through [ContextWithOptions] a request.
// An option panics when it is given a value that makes no sense, so that the
// stack names the line.
type Option func(*config)

type config struct {
	maxAttempts        int
	newBackOff         func() backoff.BackOff
	maxWait            time.Duration
	attemptTimeout     time.Duration
	retryNonIdempotent bool
	idempotencyKey     func(*http.Request) string
	replayBuffer       int64
	classifier         Classifier
	profile            *Profile
	statusErrors       bool
	noRetryMark        bool
	limiterFor         func(*http.Request) Limiter
	limitKey           func(*http.Request) string
	trace              *Trace
	logTrace           *Trace // the hooks of WithLogger, apart because the last logger wins
	hooks              *Trace // trace and logTrace together, see apply
	shared             sharedConfig
}

// sharedConfig is what holds for all requests of a Transport together and so
// cannot be set for one of them.
type sharedConfig struct {
	set         bool       // by an option
	limit       rate.Limit // 0: none
	burst       int
	budgetRatio float64
	budgetFloor float64
	unlearned   bool // WithLearnedRate(false)
}

func (c *config) apply(opts []Option) {
	for _, opt := range opts {
		if opt != nil {
			opt(c)
		}
	}
	c.hooks = c.trace.compose(c.logTrace)
}

// WithMaxAttempts sets how often a request is sent at most, the first time
// included; 1 switches retries off. It panics if n is less than 1. The default
// is 4.
func WithMaxAttempts(n int) Option {
	mustBe(n >= 1, "WithMaxAttempts", "at least 1", n)
	return func(c *config) { c.maxAttempts = n }
}

// WithAttemptTimeout bounds how long each attempt waits for its response headers.
// It never cuts a response body, and the next attempt starts afresh on the
// caller's context. When the last attempt times out, the error's Timeout method
// reports true, but it is not context.DeadlineExceeded, which is the caller's
// own. WithAttemptTimeout panics if d is negative. The default is 0, no timeout.
//
// The timeout does not cut an upload. The time stands still while the request
// body is read, and starts anew when the body ends. After an upload over a slow
// line it is longer by what the last of the body may need to arrive. An attempt
// whose connection takes nothing more of the body ends after 10 seconds, or after
// d if that is longer.
//
// A dead HTTP/2 connection is replaced. If it answered nothing at all while an
// attempt timed out on it, the next attempt for the host is sent with
// Request.Close set. net/http then uses another connection for the requests that
// follow, and the streams that are open on the old one go on. This needs a base
// that passes the context on to net/http.
//
// http.Client.Timeout is another thing: it bounds all attempts and waits of a
// call together, including the reading of the body.
func WithAttemptTimeout(d time.Duration) Option {
	mustBe(d >= 0, "WithAttemptTimeout", "0 or more", d)
	return func(c *config) { c.attemptTimeout = d }
}

// WithStatusErrors makes RoundTrip return, given true, a nil response and an
// [*APIError] for every status from 400 on, and for what a [Profile] finds in a
// success. The error holds up to 64 KiB of the
// body, which is closed. It is meant for code that calls an http.Client itself:
// generated SDKs expect the response, and some take an error for a lost
// connection and retry. The default is false.
func WithStatusErrors(on bool) Option {
	return func(c *config) { c.statusErrors = on }
}

// WithNoRetryMark adds, given true, the fields X-Should-Retry: false and
// Stripe-Should-Retry: false to every error response that is returned, whether
// it is final or the retries are over, so that an SDK above does not start over.
// SDKs made by Stainless, such as openai-go and anthropic-sdk-go, go by the
// first. Stripe's API says the second, but stripe-go hardly looks at it; those of
// AWS, Azure, Elasticsearch, MinIO and Vault look at neither, and Kubernetes goes
// by Retry-After alone. Where the SDK's own retries can be switched off, that is
// better. The rest of the response stays as it was received. The default is
// false.
func WithNoRetryMark(on bool) Option {
	return func(c *config) { c.noRetryMark = on }
}

// WithTrace adds hooks that are called for every request. Traces add up: those
// of the Transport and those of a request's context are all called. It panics
// if t is nil. The default is none.
func WithTrace(t *Trace) Option {
	mustBe(t != nil, "WithTrace", "not nil", t)
	return func(c *config) { c.trace = c.trace.compose(t) }
}

// WithLogger writes what a [Trace] would see as records to l:
//
//	message          level  attributes, after method, host and path
//	attempt started  debug  attempt
//	attempt done     debug  attempt, status, duration, why
//	attempt done     warn   attempt, status, duration, why, kind, type, code, request_id
//	attempt done     warn   attempt, status, duration, why, error
//	waiting          info   attempt, reason, duration
//	call done        debug  attempts, status, duration, why
//	call done        info   attempts, status, duration, why
//	call done        warn   attempts, status, duration, why
//
// An attempt is at warn if there was an error response, whose error object is
// told by its kind, type, code and request id, or if there was no response. A
// call is at debug if its first attempt was a success, at info if a later one
// was, and else at warn. The values are those of [AttemptInfo], [WaitInfo] and
// [DoneInfo]. Never written are other header values, userinfo, query strings and
// bodies, and of the text of an error not what stands in quotes. The default is
// nil: silent.
func WithLogger(l *slog.Logger) Option {
	var hooks *Trace
	if l != nil {
		hooks = logTrace(l)
	}
	return func(c *config) { c.logTrace = hooks }
}

type optionsKey struct{}

// ContextWithOptions returns a context whose requests are sent with opts on top
// of the Transport's own options, and of those that ctx already carries. It
// reaches through any SDK that passes the context on. Options that hold for all
// requests of a Transport together cannot be set for one: ContextWithOptions
// panics if opts has [WithRateLimit], [WithLearnedRate] or [WithRetryBudget].
func ContextWithOptions(ctx context.Context, opts ...Option) context.Context {
	var probe config
	probe.apply(opts)
	mustBe(!probe.shared.set, "ContextWithOptions",
		"without WithRateLimit, WithLearnedRate and WithRetryBudget, which hold for a whole Transport", len(opts))
	outer, _ := ctx.Value(optionsKey{}).([]Option)
	all := make([]Option, 0, len(outer)+len(opts))
	all = append(append(all, outer...), opts...)
	return context.WithValue(ctx, optionsKey{}, all)
}

// mustBe panics if ok is false, as time.NewTicker does: a nonsense value is a
// mistake in the program, and the stack should name its line.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("resilient: %s must be %s, got %v", name, want, got))
	}
}

// Trace is a set of hooks that are called in the course of a request, in the
// manner of httptrace.ClientTrace; any may be nil. They run in the goroutine of
// the request and hold it up, so they should be quick. The Request they are
// given is the caller's own, the same pointer for all hooks of one call, and
// must not be changed.
type Trace struct {
	// AttemptStart is called before each attempt is handed to the base, once
	// the rate limit let it through. Only Request and Attempt are set.
	AttemptStart func(AttemptInfo)

	// AttemptDone is called after each attempt, when the response headers have
	// arrived or there is an error, with the verdict. It is not called when no
	// attempt was made, because the limiter refused or the context had ended.
	AttemptDone func(AttemptInfo)

	// Wait is called before each wait, never after the decision to give up. For
	// a [Limiter] of the caller's that does not announce its waits with
	// [ReportWait], it is called when the wait is over.
	Wait func(WaitInfo)

	// Done is called last, once for each call, before RoundTrip returns. It is
	// not called for a request that is malformed (nil URL or Header).
	Done func(DoneInfo)
}

// AttemptInfo is one attempt and what was made of it.
type AttemptInfo struct {
	Request    *http.Request // the caller's
	Attempt    int           // 1 is the first
	StatusCode int           // 0: no response
	APIError   *APIError     // the parsed error object; nil for a success
	Err        error         // why there is no response
	Verdict    Verdict
	Duration   time.Duration // until the response headers, or the error
}

// WaitInfo is a wait that begins.
type WaitInfo struct {
	Request *http.Request // the caller's
	Attempt int           // the attempt that waits: 1 waits for a limiter only

	// Reason is one of
	//
	//	"backoff"      the interval of the backoff policy
	//	"retry-after"  the server's hint for this request, and jitter
	//	"rate limit"   for a token of WithRateLimit, or the pace of WithLearnedRate
	//	"pause"        a rejection stopped the key, or it is being reopened
	//	"limiter"      for the Limiter of WithLimiter
	Reason string

	// Duration is how long the wait will be. For "rate limit" and "pause" it
	// is an estimate: others may go first. 0: it depends on what the server
	// answers to those who go ahead.
	Duration time.Duration
}

// DoneInfo is how a call ended.
type DoneInfo struct {
	Request    *http.Request // the caller's
	Attempts   int           // attempts made; 0: nothing was sent
	StatusCode int           // of the response; 0: none
	Err        error         // what RoundTrip returns

	// Why is the reason for there being no further attempt: "success", the
	// reason of a verdict that is final, or one of
	//
	//	"out of attempts"      WithMaxAttempts is reached
	//	"not idempotent"       the method, and it may have been processed
	//	"body not replayable"  no GetBody, and no WithReplayBuffer or a larger body
	//	"body error"           GetBody returned an error
	//	"budget"               the retry budget is used up
	//	"backoff stopped"      the backoff policy returned backoff.Stop
	//	"max wait"             the wait is longer than WithMaxWait
	//	"deadline"             the wait is longer than the context lasts
	//	"limited"              the limiter refused; Err is or wraps a LimitError
	//	"canceled"             the context ended
	Why string

	Duration time.Duration // of the whole call, up to the response headers
}

// Snapshot is the state of a Transport at one moment. It can be encoded as JSON,
// so this publishes it with package expvar:
//
//	expvar.Publish("resilient", expvar.Func(func() any { return t.Snapshot() }))
type Snapshot struct {
	// Totals are of all requests since the Transport was made.
	Totals Totals `json:"totals"`

	// Keys are the limit keys that have a rate limit or have had a failure, the
	// one used last in front; at most 1,024 are remembered.
	Keys []KeySnapshot `json:"keys"`
}

// KeySnapshot is the state of one limit key.
type KeySnapshot struct {
	// Key is scheme and host, and if there is a credential, a mark behind it
	// that tells it from others in this process: "https://api.example.com
	// #5f3a9c01". With [WithLimitKey] it is the string of that function, as it
	// is.
	Key string `json:"key"`

	Limit        float64   `json:"limit,omitzero"`         // of WithRateLimit, attempts a second; 0: none
	Burst        int       `json:"burst,omitzero"`         // of WithRateLimit
	Tokens       float64   `json:"tokens"`                 // in the bucket of WithRateLimit; below 0: one is reserved for who is first in line
	LearnedLimit float64   `json:"learned_limit,omitzero"` // the pace that was learned, attempts a second; 0: none is known
	PausedUntil  time.Time `json:"paused_until,omitzero"`  // when attempts may go again, by what the server said; zero: now
	Reopening    bool      `json:"reopening,omitzero"`     // one attempt may go at first, and more as they are accepted
	Waiting      int       `json:"waiting"`                // attempts that stand in line
	Budget       float64   `json:"budget"`                 // tokens of the retry budget; -1: it is switched off
	Totals       Totals    `json:"totals"`                 // since the key is remembered
}

// Totals are counters. The maps have at most 64 entries each; what further
// reasons a [Classifier] may give is counted as "other".
type Totals struct {
	Calls    int64                `json:"calls"`    // that have ended
	Attempts int64                `json:"attempts"` // that have ended
	Retries  int64                `json:"retries"`  // attempts that were not the first of their call
	Ended    map[string]int64     `json:"ended"`    // calls, by DoneInfo.Why
	Failures map[string]int64     `json:"failures"` // attempts that failed, by Verdict.Why
	Waits    map[string]WaitTotal `json:"waits"`    // waits that have ended, by WaitInfo.Reason
}

// WaitTotal is how often and how long in all it was waited for one reason. In
// JSON the time is in nanoseconds.
type WaitTotal struct {
	Count int64         `json:"count"`
	Time  time.Duration `json:"time_ns"`
}

// Snapshot returns the state as it is now. Each key is looked at under its lock,
// one after the other, and requests go on meanwhile. Of a call that succeeds at
// once, one addition is all that is done for it.
func (t *Transport) Snapshot() Snapshot {
	s := Snapshot{Totals: t.totals.snapshot(), Keys: []KeySnapshot{}}
	now := time.Now()
	for _, k := range t.keys.list() {
		s.Keys = append(s.Keys, k.snapshot(now, &t.cfg.shared))
	}
	return s
}

// counters count what Totals hold. A call that succeeds at once is the common
// case, and costs one addition. attempt, call and wait may be called on nil.
type counters struct {
	plain atomic.Int64 // calls that were one attempt and a success

	mu                       sync.Mutex
	calls, attempts, retries int64 // but for the plain ones
	ended, failures, waits   tallies
}

// tallies count by reason. There are few of them, and there may be many keys, so
// a list does better than a map.
type tallies []tally

type tally struct {
	reason string
	total  WaitTotal // the time is that of waits
}

// maxReasons bounds tallies, as a Classifier may give a new reason each time.
const maxReasons = 64

func (t *tallies) add(reason string, d time.Duration) {
	i := slices.IndexFunc(*t, func(e tally) bool { return e.reason == reason })
	switch {
	case i >= 0:
	case len(*t) >= maxReasons-1 && reason != "other":
		t.add("other", d)
		return
	default:
		i = len(*t)
		*t = append(*t, tally{reason: reason})
	}
	e := &(*t)[i].total
	e.Count++
	e.Time += d
}

func (t tallies) counts() map[string]int64 {
	m := make(map[string]int64, len(t))
	for _, e := range t {
		m[e.reason] = e.total.Count
	}
	return m
}

// attempt counts one that failed, or was not the first of its call.
func (c *counters) attempt(a *AttemptInfo) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts++
	if a.Attempt > 1 {
		c.retries++
	}
	if a.failed() {
		c.failures.add(a.Verdict.Why, 0)
	}
}

// call counts a call that has ended and is not plain.
func (c *counters) call(why string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.ended.add(why, 0)
}

// wait counts a wait that has ended.
func (c *counters) wait(reason string, d time.Duration) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waits.add(reason, d)
}

func (c *counters) snapshot() Totals {
	c.mu.Lock()
	defer c.mu.Unlock()
	plain := c.plain.Load()
	t := Totals{
		Calls: c.calls + plain, Attempts: c.attempts + plain, Retries: c.retries,
		Ended: c.ended.counts(), Failures: c.failures.counts(), Waits: make(map[string]WaitTotal, len(c.waits)),
	}
	if plain > 0 {
		t.Ended["success"] += plain
	}
	for _, e := range c.waits {
		t.Waits[e.reason] = e.total
	}
	return t
}

// compose returns a Trace that calls the hooks of t, then those of u; either
// may be nil.
func (t *Trace) compose(u *Trace) *Trace {
	if t == nil {
		return u
	}
	if u == nil {
		return t
	}
	return &Trace{
		AttemptStart: both(t.AttemptStart, u.AttemptStart),
		AttemptDone:  both(t.AttemptDone, u.AttemptDone),
		Wait:         both(t.Wait, u.Wait),
		Done:         both(t.Done, u.Done),
	}
}

func both[T any](f, g func(T)) func(T) {
	if f == nil {
		return g
	}
	if g == nil {
		return f
	}
	return func(v T) { f(v); g(v) }
}

// logTrace returns hooks that write to l. A log is read by more people than a
// response, so it holds the codes an error object carries, not its message.
func logTrace(l *slog.Logger) *Trace {
	write := func(req *http.Request, level slog.Level, msg string, attrs ...slog.Attr) {
		ctx := req.Context()
		if !l.Enabled(ctx, level) {
			return
		}
		all := append([]slog.Attr{
			slog.String("method", method(req)),
			slog.String("host", req.URL.Host),
			slog.String("path", req.URL.Path),
		}, attrs...)
		l.LogAttrs(ctx, level, msg, all...)
	}
	return &Trace{
		AttemptStart: func(a AttemptInfo) {
			write(a.Request, slog.LevelDebug, "attempt started", slog.Int("attempt", a.Attempt))
		},
		AttemptDone: func(a AttemptInfo) {
			level := slog.LevelDebug
			if a.Err != nil || a.APIError != nil {
				level = slog.LevelWarn
			}
			attrs := []slog.Attr{
				slog.Int("attempt", a.Attempt),
				slog.Int("status", a.StatusCode),
				slog.Duration("duration", a.Duration),
				slog.String("why", a.Verdict.Why),
			}
			if e := a.APIError; e != nil {
				attrs = append(attrs, slog.String("kind", e.Kind.String()),
					slog.String("type", plain.Line(e.Type, 64)), slog.String("code", plain.Line(e.Code, 64)),
					slog.String("request_id", plain.Line(e.RequestID, 128)))
			}
			if a.Err != nil {
				attrs = append(attrs, slog.String("error", plain.Unquoted(a.Err)))
			}
			write(a.Request, level, "attempt done", attrs...)
		},
		Wait: func(w WaitInfo) {
			write(w.Request, slog.LevelInfo, "waiting", slog.Int("attempt", w.Attempt),
				slog.String("reason", w.Reason), slog.Duration("duration", w.Duration))
		},
		Done: func(d DoneInfo) {
			level := slog.LevelDebug
			switch {
			case d.Why != "success":
				level = slog.LevelWarn
			case d.Attempts > 1:
				level = slog.LevelInfo
			}
			write(d.Request, level, "call done", slog.Int("attempts", d.Attempts),
				slog.Int("status", d.StatusCode), slog.Duration("duration", d.Duration),
				slog.String("why", d.Why))
		},
	}
}
