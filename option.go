package resilient

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/redact"
)

const (
	defaultMaxAttempts = 4
	defaultMaxWait     = time.Minute

	// Half a second doubled: the third retry comes 3.5 s after the first
	// failure, which outlives a restart or a failover and is not yet annoying.
	defaultInitialInterval = 500 * time.Millisecond
	defaultMultiplier      = 2
	defaultMaxInterval     = 30 * time.Second

	defaultBudgetRatio = 0.05
	defaultBudgetFloor = 0.2
)

// Option configures a [Transport], or through [ContextWithOptions] a request.
// An option panics when it is given a value that makes no sense, so that the
// stack names the line.
type Option func(*config)

type config struct {
	maxAttempts        int
	newBackOff         func() backOff // which may return nil
	maxWait            time.Duration
	attemptTimeout     time.Duration
	idleTimeout        time.Duration
	wholeBody          int64
	retryNonIdempotent bool
	idempotencyKey     func(*http.Request) string
	replayBuffer       int64
	classifier         Classifier
	profile            *Profile
	statusErrors       bool
	noRetryMark        bool
	limiterFor         func(*http.Request) Limiter
	limitKey           func(*http.Request) string
	class              func(*http.Request) Class
	logPath            func(*http.Request) string
	resends            int
	resendReason       Reason
	trace              *Trace
	logger             *slog.Logger
	logLevel           func(DoneInfo) slog.Level
	logTrace           *Trace // the hooks of WithLogger, apart because the last logger wins
	hooks              *Trace // trace and logTrace together, see apply
	shared             sharedConfig
}

// sharedConfig holds for all requests of a Transport together, and so cannot be
// set for one of them.
type sharedConfig struct {
	setBy       string      // the last of these options; "": none
	limits      []costLimit // at most gate.MaxLimits, with different names
	inFlight    int         // 0: any number
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

func (c *config) setLogger(l *slog.Logger, level func(DoneInfo) slog.Level) {
	c.logger, c.logLevel, c.logTrace = l, level, nil
	if l != nil {
		c.logTrace = logTrace(l, level)
	}
}

type optionsKey struct{}

// contextOptions is what ContextWithOptions adds to a context.
type contextOptions struct {
	opts   []Option
	ledger *ledger // shared with the contexts derived from it
}

// ContextWithOptions returns a context whose requests are sent with opts on top of
// the Transport's own options and of those that ctx already carries. It
// reaches through any SDK that passes the context on. Options that hold for all
// requests of a Transport together cannot be set for one: ContextWithOptions
// panics if opts has [WithRateLimit], [WithLimit], [WithMaxInFlight],
// [WithLearnedRate] or [WithRetryBudget]. The costs of the requests of the context
// can be corrected with [Settle].
func ContextWithOptions(ctx context.Context, opts ...Option) context.Context {
	var probe config
	probe.apply(opts)
	mustBe(probe.shared.setBy == "", "ContextWithOptions", "without options that hold for a whole Transport", probe.shared.setBy)
	outer, ok := ctx.Value(optionsKey{}).(*contextOptions)
	if !ok {
		outer = &contextOptions{ledger: new(ledger)}
	}
	return context.WithValue(ctx, optionsKey{}, &contextOptions{slices.Concat(outer.opts, opts), outer.ledger})
}

// WithMaxAttempts sets how often a request is sent at most, the first time
// included; 1 switches retries off. It panics if n is less than 1. The default
// is 4.
func WithMaxAttempts(n int) Option {
	mustBe(n >= 1, "WithMaxAttempts", "at least 1", n)
	return func(c *config) { c.maxAttempts = n }
}

// WithBackOff sets the backoff policy: one of any version of cenkalti/backoff, or your
// own. newBackOff is called once for each request that is retried, because policies keep
// state, and Reset is called on the policy first if it has that method. A policy that
// returns a negative interval, such as backoff.Stop, ends the call, as does a nil policy.
// WithBackOff panics if newBackOff is nil.
//
// As long as no retry fails, failures are isolated, and a first retry comes after
// the smallest interval that a *backoff.ExponentialBackOff has: 250 to 275 ms by
// default. Once a retry has failed, the policy's own intervals hold. If it was found that
// the server refuses by chance ([WithLearnedRate]), no wait makes the next attempt more
// likely to be accepted: it comes after any part of the smallest interval, unless the
// server has said when, and only the last one waits longer. The MaxInterval of such a policy
// is never exceeded, jitter included. All of this needs the type of cenkalti/backoff/v4,
// unwrapped: any other policy is asked for its interval, and no more is known of it.
//
// A random part of the interval is added to a hint of the server, as far as
// WithMaxWait and the context's deadline have room.
//
// The default is exponential: 500 ms, doubled each time up to 30 s, each with
// 50 % jitter.
func WithBackOff[B interface{ NextBackOff() time.Duration }](newBackOff func() B) Option {
	mustBe(newBackOff != nil, "WithBackOff", "not nil", "nil")
	return func(c *config) {
		c.newBackOff = func() backOff {
			b := newBackOff()
			if v := reflect.ValueOf(b); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
				return nil
			}
			return b
		}
	}
}

// backOff is a backoff policy.
type backOff interface{ NextBackOff() time.Duration }

// WithMaxWait bounds each single wait that the server or a learned limit is the reason
// for, and a backoff. If the server asks for a longer wait, the call ends at once with
// its response. If a pause or a confirmed limit would take longer, it ends with a
// [*LimitError]. A limit that is no more than a belief refuses nobody at once: an
// attempt waits for it up to twice as long. If everything has been refused for longer
// than d, newcomers are told at once, and one finds out when that ends.
//
// The limit of [WithRateLimit] is your own: only the context bounds a wait for it. A
// retry that it would hold longer than d is not made, because there is a response.
//
// A backoff interval that no server asked for is shortened to d. If d is 0, nothing
// is ever waited for, so no request is retried that would need a wait. WithMaxWait
// panics if d is negative. The default is 1 minute.
func WithMaxWait(d time.Duration) Option {
	mustBe(d >= 0, "WithMaxWait", "0 or more", d)
	return func(c *config) { c.maxWait = d }
}

// WithAttemptTimeout bounds how long each attempt waits for its response headers.
// It never cuts a response body, and the next attempt starts afresh on the
// caller's context. When the last attempt times out, the error's Timeout method
// reports true, but it is not context.DeadlineExceeded, which is the caller's own.
// WithAttemptTimeout panics if d is negative. The default is 0, no timeout.
//
// The timeout does not cut an upload. The time stands still while the request body
// is read, and starts anew when the body ends. After an upload over a slow line it
// is longer by the time that the last of the body may need to arrive. An attempt
// whose connection takes nothing more of the body ends after 10 seconds, or after d
// if that is longer.
//
// A dead HTTP/2 connection is replaced. If it answered nothing at all while an
// attempt timed out on it, the next attempt for the host is sent with Request.Close
// set. net/http then uses another connection for the requests that follow, and the
// streams that are open on the old one go on. This needs a base that passes the
// context on to net/http.
//
// http.Client.Timeout is another thing: it bounds all attempts and waits of a call
// together, including the reading of the body.
func WithAttemptTimeout(d time.Duration) Option {
	mustBe(d >= 0, "WithAttemptTimeout", "0 or more", d)
	return func(c *config) { c.attemptTimeout = d }
}

// WithIdleTimeout bounds how long a Read of the response body waits for a byte. A body
// that is silent for longer ends with an error that says for how long and after how
// many bytes, and whose Timeout method reports true. Its connection is not used again:
// one of HTTP/2, whose other streams go on, is replaced as one is on which an attempt
// timed out ([WithAttemptTimeout]). The silence is at least d, and at most a
// sixteenth more.
//
// The time runs only while a Read waits, so a caller who reads slowly never meets it,
// and a stream may last for days. The body of an upgraded connection (101) is left
// alone. WithIdleTimeout also bounds the silence of a body that is read before
// RoundTrip returns ([WithWholeBody], or an event stream, see [Profile]): the attempt
// is then lost, and the request is sent again if it may be. It does not bound the time
// until the response headers. WithIdleTimeout panics if d is negative. The default is
// 0, no timeout.
func WithIdleTimeout(d time.Duration) Option {
	mustBe(d >= 0, "WithIdleTimeout", "0 or more", d)
	return func(c *config) { c.idleTimeout = d }
}

// WithWholeBody reads the body of a success before RoundTrip returns, up to maxBytes. A
// body that breaks off is then a lost connection, and the request is sent again: the
// caller never sees half of one. It is done for requests that may be sent twice, because
// they are idempotent or one of the options says so; others would gain nothing.
//
// A body that is longer passes as it arrives: at once if Content-Length says so, and
// otherwise after maxBytes. So do event streams, JSON lines and multipart bodies, and
// a body of unknown length that is silent for a second: a Kubernetes watch is JSON, and
// never ends. A body of HTTP/1.0 that ends with its connection cannot be told from one
// that broke off. Each body is held in memory. WithWholeBody panics if maxBytes is
// negative or larger than 1 GiB. The default is 0: bodies are passed on as they arrive.
func WithWholeBody(maxBytes int64) Option {
	mustBe(maxBytes >= 0 && maxBytes <= 1<<30, "WithWholeBody", "from 0 to 1 GiB", maxBytes)
	return func(c *config) { c.wholeBody = maxBytes }
}

// WithRetryBudget bounds the retries of temporary failures, for each limit key, to
// a share of the traffic. From the first failure on, each call that is answered at
// the first attempt earns ratio tokens. A retry that succeeds earns one, and a retry
// that fails costs one, so where more of them succeed than fail they are never cut off.
// A retry that follows a timeout, or is one, costs two, because the server may still be
// at work. Without a token a failure is returned at once. minPerSecond tokens a second
// come by themselves, so that a small client can always retry, but not while call after
// call fails. Refusals by a limit are not counted: the limit governs those.
//
// It panics if a value is negative or NaN; a ratio of math.Inf(1) switches the
// budget off. The default is 0.05 and 0.2. To begin with there are tokens for the
// retries of one call, three by default: in an outage of 30 s a client that makes a call
// a second sends 1.1 attempts for each. It holds for a whole Transport and cannot be set
// in [ContextWithOptions].
func WithRetryBudget(ratio, minPerSecond float64) Option {
	mustBe(ratio >= 0, "WithRetryBudget", "a ratio of 0 or more", ratio)
	mustBe(minPerSecond >= 0 && !math.IsInf(minPerSecond, 1), "WithRetryBudget", "a rate of 0 or more", minPerSecond)
	return func(c *config) {
		c.shared.setBy, c.shared.budgetRatio, c.shared.budgetFloor = "WithRetryBudget", ratio, minPerSecond
	}
}

// WithRetryNonIdempotent controls whether requests of any method are retried after
// any temporary failure, even if they may have been processed: POSTs are then sent
// twice. The default is false.
func WithRetryNonIdempotent(on bool) Option {
	return func(c *config) { c.retryNonIdempotent = on }
}

// WithIdempotencyKey sends an Idempotency-Key field with each request whose method
// is not idempotent, which may then be retried like an idempotent one. f is called
// once for each call, and all attempts carry the same key. An Idempotency-Key or
// X-Idempotency-Key of the caller's is left alone, and no field is added if f
// returns "". An answer to a retry that says a request with this key is in progress
// (409, 423, 425) is not final: the earlier attempt is the one in progress.
//
// net/http also goes by the field, and may send such a request again by itself when
// a reused connection turns out dead. The API must honour the key, see
// draft-ietf-httpapi-idempotency-key-header. WithIdempotencyKey panics if f is nil.
// The default is none.
func WithIdempotencyKey(f func(*http.Request) string) Option {
	mustBe(f != nil, "WithIdempotencyKey", "not nil", "nil")
	return func(c *config) { c.idempotencyKey = f }
}

// WithReplayBuffer records up to maxBytes of each request body that has no
// GetBody, while the first attempt reads it, so that it can be sent again. A body
// that turns out longer is streamed on and sent once. WithReplayBuffer panics if
// maxBytes is negative. The default is 0: nothing is recorded.
func WithReplayBuffer(maxBytes int64) Option {
	mustBe(maxBytes >= 0, "WithReplayBuffer", "0 or more", maxBytes)
	return func(c *config) { c.replayBuffer = maxBytes }
}

// WithClassifier adds a classifier. The last one to be added has the last word: it is
// given the verdict of the one before, and that one the default verdict. It panics if f
// is nil. The default is the verdict that a Classifier is given.
func WithClassifier(f Classifier) Option {
	mustBe(f != nil, "WithClassifier", "not nil", "nil")
	return func(c *config) { c.classifier = c.classifier.then(f) }
}

// WithProfile sets the special traits of the API. It panics if a Wait or a unit is
// negative. Of two profiles the last one counts. A profile does not bear on
// connection errors, nor on [ErrorFromResponse] for responses that did not come
// through a [Transport]. The default is the zero [Profile].
func WithProfile(p Profile) Option {
	for _, r := range p.Rules {
		mustBe(r.Wait >= 0, "WithProfile", "with waits of 0 or more", r.Wait)
	}
	headers := p.WaitHeaders
	p.WaitHeaders = make(map[string]time.Duration, len(headers))
	for name, unit := range headers {
		mustBe(unit >= 0, "WithProfile", "with units of 0 or more", unit)
		p.WaitHeaders[http.CanonicalHeaderKey(name)] = unit
	}
	quotas := p.Quotas
	p.Quotas = make(map[string]QuotaFields, len(quotas))
	for name, f := range quotas {
		p.Quotas[name] = QuotaFields{
			http.CanonicalHeaderKey(f.Limit), http.CanonicalHeaderKey(f.Remaining), http.CanonicalHeaderKey(f.Reset),
		}
	}
	return func(c *config) { c.profile = &p }
}

// WithStatusErrors controls whether RoundTrip returns an [*APIError] instead of the
// response for every status from 400 on, and for an error that a [Profile] finds in
// a success. The error holds up to 64 KiB of the body, which is closed. It is meant
// for code that calls an http.Client itself: generated SDKs expect the response,
// and some take an error for a lost connection and retry. The default is false.
func WithStatusErrors(on bool) Option {
	return func(c *config) { c.statusErrors = on }
}

// WithNoRetryMark controls whether the fields X-Should-Retry: false and
// Stripe-Should-Retry: false are added to every error response that is returned,
// final or after the last retry, so that an SDK above does not start over. SDKs made
// by Stainless, such as openai-go and anthropic-sdk-go, go by the first. Stripe's
// API sends the second, but stripe-go hardly looks at it. The SDKs of AWS, Azure,
// Elasticsearch, MinIO and Vault look at neither, and Kubernetes goes by Retry-After
// alone. It is better to switch the SDK's own retries off if that is possible. The
// rest of the response stays as it was received. The default is false.
func WithNoRetryMark(on bool) Option {
	return func(c *config) { c.noRetryMark = on }
}

// WithRateLimit puts a token bucket in front of every attempt: limit attempts a
// second in the long run, burst of them at once. Each limit key has a bucket of its
// own (see [WithLimitKey]), shared by all requests through the Transport. It panics
// if limit is not above 0 or burst is less than 1. rate.Inf is no limit, which is
// the default. It is WithLimit("requests", limit, burst, nil).
//
// It holds for a whole Transport and cannot be set in [ContextWithOptions]. It does
// not see the requests that net/http sends again by itself.
func WithRateLimit(limit rate.Limit, burst int) Option {
	return withLimit("WithRateLimit", costLimit{requestLimit, limit, burst, nil})
}

// WithLimit puts a token bucket in front of every attempt, beside that of other names: a
// request takes from all of them in one instant, or from none, and in order. cost
// returns what a request takes: the words of its prompt, a price. It is asked once for
// each call, and must not change the request, nor read its body except through GetBody.
// If cost is nil, every attempt takes 1. A cost that is negative or NaN is 0, one that
// is infinite is the burst, and one above 1e15 is that.
//
// A request that costs more than the burst waits for a full bucket and goes alone, and
// those after it wait until that is made up for. One that costs 0 does not wait for the
// limit. An attempt of which nothing was sent gives everything back. One that the server has
// refused for its rate gives back what a cost function has counted, except for what comes in
// 10 ms, if it is the first refusal of the call: more of them mean that the server has less
// left than was thought. What a request has really taken may be told with [Settle].
//
// Each limit key has a bucket of its own for each name. Only the context bounds a wait for
// it. WithLimit panics if limit is not above 0, burst is less than 1, name is empty, or
// there are more than 8 names. A limit with the name of an earlier one replaces it.
// The default is none. It holds for a whole Transport and cannot be set in
// [ContextWithOptions].
//
// With rate.Inf for a limit, and a cost function, the server is asked: the first request
// goes alone, and its answer may tell the limit, by the fields of a [Profile] (its Quotas)
// or by RateLimit fields with a quota unit of this name. Other limits are lowered by
// these fields, never raised. If nothing is told, the limit is learned from refusals, see
// [WithLearnedRate], in units of the cost: in those of the first such limit whose name
// is not "requests". What is learned is then always a rate, so set [WithMaxInFlight] if the
// server also limits how many requests are in flight.
func WithLimit(name string, limit rate.Limit, burst int, cost func(*http.Request) float64) Option {
	mustBe(name != "", "WithLimit", "a name that is not empty", `""`)
	return withLimit("WithLimit", costLimit{name, limit, burst, cost})
}

func withLimit(option string, l costLimit) Option {
	mustBe(l.limit > 0, option, "a limit above 0", l.limit) // NaN is not above 0
	mustBe(l.burst >= 1 || l.limit == rate.Inf, option, "a burst of at least 1", l.burst)
	return func(c *config) {
		c.shared.setBy = option
		c.shared.setLimit(l)
	}
}

// WithMaxInFlight bounds how many requests of a limit key are in flight at one time. A
// request is in flight until the body of its response has been read to its end, has
// failed or is closed: a stream of a minute is in flight for a minute. While it waits to
// be sent again it is not. The requests that wait go in the order of their arrival, see
// [WithClass], and only the context bounds the wait. A body that is never closed holds its
// place for ever; [Snapshot] shows since when. An upgraded connection (101) is in flight
// until its response headers.
//
// WithMaxInFlight panics if n is negative. The default is 0, any number. It holds for a
// whole Transport and cannot be set in [ContextWithOptions].
func WithMaxInFlight(n int) Option {
	mustBe(n >= 0, "WithMaxInFlight", "0 or more", n)
	return func(c *config) { c.shared.setBy, c.shared.inFlight = "WithMaxInFlight", n }
}

// WithClass sets the class of each request, which says who goes first of those that wait
// for a limit, whoever has set it. f is asked at most once for each call, and only if its
// limit key has a limit or has seen a failure. It must not change the request. Retries
// keep the class of their call. In the queue of a [Limiter] of the caller's it has no
// effect. A request gets a class of its own through its context:
//
//	ctx = resilient.ContextWithOptions(ctx, resilient.WithClass(func(*http.Request) resilient.Class {
//		return resilient.Class{Priority: 1}
//	}))
//
// WithClass panics if f is nil. The default is the zero [Class] for all.
func WithClass(f func(*http.Request) Class) Option {
	mustBe(f != nil, "WithClass", "not nil", "nil")
	return func(c *config) { c.class = f }
}

// WithLearnedRate controls whether the server's limits are learned from its answers,
// and attempts are held back by them: a rate, a number of requests in flight, a quota
// that RateLimit fields with a policy tell, of a limit key or of a route. A rate counts
// attempts, or what a limit of [WithLimit] with rate.Inf counts. Nothing is
// learned, and nothing costs anything, before the server refuses an attempt or says
// that little is left of a quota. About one attempt in a hundred is then refused, to
// notice when the limit rises; up to three, if several clients share a quota. A rate of
// [WithRateLimit] is never exceeded.
//
// A route is a method and a path, with ids left out. It has a limit of its own if it is
// refused while others are not. With [WithLimitKey] there are no routes: what f returns
// is what a limit binds.
//
// A limit is told from refusals by chance, such as those of one bad backend of
// several, by a trial: right after a refusal about four attempts that wait go ahead
// of it. If they are refused there is a limit, and the trial is repeated after
// 8 seconds and more. If they are accepted, nobody is held back any more, and a
// refusal binds only the request it comes with, until refusals become more. Chance is
// believed for five minutes. Beside clients that take no notice of a limit this one
// gets less of it than they do.
//
// If on is false, a key is paused by the server's hints and nothing else, and each
// refused request comes back after its own wait. The first hint pauses the whole key at
// once, because nothing is found out about whom it binds. A [Classifier] that sets Pause to
// false leaves it to the request. The default is true. It holds for a whole Transport and
// cannot be set in [ContextWithOptions].
func WithLearnedRate(on bool) Option {
	return func(c *config) { c.shared.setBy, c.shared.unlearned = "WithLearnedRate", !on }
}

// WithLimiter makes every attempt wait for l, before the Transport's own rate limit
// and pauses. The context that l is given ends with the request's, or after
// [WithMaxWait]. If l has a method Allow() bool, as *rate.Limiter has, that is asked
// first. WithLimiter panics if l is nil. The default is none.
func WithLimiter(l Limiter) Option {
	mustBe(l != nil, "WithLimiter", "not nil", l)
	return WithLimiterFor(func(*http.Request) Limiter { return l })
}

// WithLimiterFor is [WithLimiter] with a limiter for each request, such as one for
// each account. f is called once for each call; if it returns nil, there is no
// limiter to wait for. It does not bear on the requests that share a pause and a
// retry budget, see [WithLimitKey]. It panics if f is nil. The default is none.
func WithLimiterFor(f func(*http.Request) Limiter) Option {
	mustBe(f != nil, "WithLimiterFor", "not nil", "nil")
	return func(c *config) { c.limiterFor = f }
}

// WithLimitKey sets which requests share a rate limit, a pause and a retry budget:
// all those for which f returns the same string. It panics if f is nil.
//
// The default key is made of scheme, host and credential:
//
//	scheme, host   in lower case, without a default port and a final dot
//	userinfo       of the URL
//	Authorization  the part that is the same each time: the claims iss and sub of
//	               a JSON Web Token, the parameters of a signature that name the
//	               account (Credential, keyId, username, oauth_consumer_key and
//	               the like) or the text in front of the signature, and of any
//	               other credential all of it
//	API keys       X-Api-Key, Api-Key, X-Goog-Api-Key, X-Auth-Token, Private-Token,
//	               X-Shopify-Access-Token and other fields of that kind
//
// Cookies, parameters of the query and credentials that the base adds are not seen.
// Credentials are kept as a seeded hash.
//
// An opaque token that was refreshed is another key, because nothing shows that it
// belongs to the same account. But if the only other credential of the host is
// paused, a new one is tried with one request, and the others wait for its answer.
//
// The 1,024 keys used last are remembered, and in addition every key that holds
// something: a bucket that is not full, a learned limit, a budget that was
// drawn on. More than 65,536 are never kept. If keys are made faster than they are
// used again, a warning is logged once ([WithLogger]) and [Snapshot] shows it.
func WithLimitKey(f func(*http.Request) string) Option {
	mustBe(f != nil, "WithLimitKey", "not nil", "nil")
	return func(c *config) { c.limitKey = f }
}

// WithTrace adds hooks that are called for every request. Traces add up: those of
// the Transport and those of a request's context are all called. It panics if t is
// nil. The default is none.
func WithTrace(t *Trace) Option {
	mustBe(t != nil, "WithTrace", "not nil", t)
	return func(c *config) { c.trace = c.trace.compose(t) }
}

// WithLogger writes records to l at the points at which a [Trace] has hooks:
//
//	message          level  attributes, after method, host and path
//	attempt started  debug  attempt
//	attempt done     debug  attempt, status, duration, why
//	attempt done     info   attempt, status, duration, why, kind, type, code, request_id
//	attempt done     info   attempt, status, duration, why, error
//	waiting          info   attempt, reason, duration
//	waiting          info   attempt, reason, duration, limit
//	call done        debug  attempts, status, duration, why
//	call done        info   attempts, status, duration, why
//	call done        warn   attempts, status, duration, why, kind, type, code, request_id
//	call done        warn   attempts, status, duration, why, error
//	body done        debug  status, bytes, duration
//	body done        info   status, bytes, duration, resumed
//	body done        warn   status, bytes, duration, error
//
// The level is that of the consequence, so a failure is one warning. An attempt is at
// info if there was no response, or an error response: another one may follow. A call is
// at debug if its first attempt was a success, at info if a later one was or if its
// caller canceled it, and at warn otherwise, unless [WithLogLevel] says another level.
// The record of an error response has the kind, type, code and request id of the error
// object. A body is at warn if it failed, and at info if
// package resume went on with it. A wait for a limit of the server's says what is
// believed of it. A call that repeats a request ([WithResend]) also has resends and
// resend_reason. The values are those of [AttemptInfo], [WaitInfo],
// [DoneInfo] and [BodyInfo]; why is their Reason. A warning is also written, once, if limit
// keys are made faster than they are used again, see [WithLimitKey].
//
// Other header values, userinfo, query strings, bodies and the quoted parts of an
// error's text are never written. Segments of a path that look like secrets are
// written as "***": tokens and hashes of 16 characters or more, the tokens of
// webhooks and bots, and segments behind one such as "key" or "password". A secret
// that looks like a word, a number or a UUID cannot be told from a name;
// [WithLogPath] is for APIs that have such paths. The default is nil: silent.
func WithLogger(l *slog.Logger) Option {
	return func(c *config) { c.setLogger(l, c.logLevel) }
}

// WithLogLevel sets the level of the record with which a call ends in the log of
// [WithLogger]. A 404 that is an answer like any other need not be a warning:
//
//	resilient.WithLogLevel(func(d resilient.DoneInfo) slog.Level {
//		if d.StatusCode == http.StatusNotFound {
//			return slog.LevelDebug
//		}
//		return slog.LevelWarn
//	})
//
// It panics if f is nil. The default is that of WithLogger.
func WithLogLevel(f func(DoneInfo) slog.Level) Option {
	mustBe(f != nil, "WithLogLevel", "not nil", "nil")
	return func(c *config) { c.setLogger(c.logger, f) }
}

// WithLogPath sets how the path of a request is shown: in the records of
// [WithLogger], in the Path of [AttemptInfo], [WaitInfo] and [DoneInfo], and so on
// the page of package debugpage and in the spans of module otelresilient. f is
// called once for each call that has hooks or a [Classifier], before anything is
// sent, and must not change the request. An API whose paths hold no secrets can
// have them shown as they are:
//
//	resilient.WithLogPath(func(req *http.Request) string { return req.URL.Path })
//
// WithLogPath does not change the texts of errors, in which the paths of URLs are
// always shown as they are by default. It panics if f is nil. The default is the
// Path of the URL with "***" in place of segments that look like secrets, see
// [WithLogger].
func WithLogPath(f func(*http.Request) string) Option {
	mustBe(f != nil, "WithLogPath", "not nil", "nil")
	return func(c *config) { c.logPath = f }
}

// WithResend says, in the context of a request ([ContextWithOptions]), that it had been
// sent n times before, and why it is sent again. It is for packages above a Transport
// that send a request twice, such as hedge. It changes nothing about the call: hooks are
// told of it ([AttemptInfo], [DoneInfo]), and the resend_count of module otelresilient
// and the records of [WithLogger] have it. If it is given several times, the numbers are
// added, and the last reason counts. It panics if n is less than 1.
func WithResend(n int, why Reason) Option {
	mustBe(n >= 1, "WithResend", "at least 1", n)
	return func(c *config) {
		c.resends += n
		c.resendReason = why
	}
}

func defaultBackOff() backOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(defaultInitialInterval),
		backoff.WithMultiplier(defaultMultiplier),
		backoff.WithMaxInterval(defaultMaxInterval),
		backoff.WithMaxElapsedTime(0), // attempts and the context bound a call; the package's default is 15 minutes
	)
}

// shownPath returns the path of a request as hooks are told it.
func (c *config) shownPath(req *http.Request) string {
	if c.logPath != nil {
		return c.logPath(req)
	}
	return redact.Path(req.URL.Path)
}

// mustBe panics if ok is false, as time.NewTicker does: a nonsense value is a
// mistake in the program, and the stack should name its line.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("resilient: %s must be %s, got %v", name, want, got))
	}
}
