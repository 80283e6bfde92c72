package resilient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient/internal/deadline"
	"github.com/resilienthttp/resilient/internal/plain"
	"github.com/resilienthttp/resilient/internal/suspect"
	"github.com/resilienthttp/resilient/internal/waithint"
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

	// peekTimeout bounds how long a response is held to read the beginning of
	// its error body. Bodies of errors are small and come with the headers; one
	// that takes longer than a second is not worth waiting for.
	peekTimeout = time.Second

	// closeGrace is how long it may take to close an error body that is still
	// being read. Closing the connection ends the Read at once; the body that does
	// not end by it must not hold up the retry.
	closeGrace = 20 * time.Millisecond
)

func defaultBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(defaultInitialInterval),
		backoff.WithMultiplier(defaultMultiplier),
		backoff.WithMaxInterval(defaultMaxInterval),
		backoff.WithMaxElapsedTime(0), // attempts and the context bound a call; the package's default is 15 minutes
	)
}

// WithBackOff sets the backoff policy. newBackOff is called once for each
// request that is retried, since policies keep state; its Reset is called
// first. A policy that returns backoff.Stop ends the call, as does a nil one.
// The MaxInterval of a *backoff.ExponentialBackOff is never exceeded, jitter
// included; of a policy that is wrapped, it cannot be seen. WithBackOff panics
// if newBackOff is nil.
//
// As long as no retry fails, failures are isolated, and a first retry comes after
// the smallest interval that a *backoff.ExponentialBackOff has: 250 to 275 ms by
// default. Once one has failed, the intervals are what the policy says.
//
// After a hint of the server, a random part of the interval is added to it, as
// far as WithMaxWait and the context's deadline have room.
//
// The default is exponential: 500 ms, doubled each time up to 30 s, each with
// 50 % jitter.
func WithBackOff(newBackOff func() backoff.BackOff) Option {
	mustBe(newBackOff != nil, "WithBackOff", "not nil", "nil")
	return func(c *config) { c.newBackOff = newBackOff }
}

// WithMaxWait bounds each single wait. When the server asks for a longer one,
// the call ends at once with its response; when the rate limit or a pause would
// take longer, with a [*LimitError]. A time in which the server refuses everything
// is one wait, and the time in line behind it another. A backoff interval that no
// server asked for is shortened to it. At 0 nothing is ever waited for, so nothing that would
// need a wait is retried. It panics if d is negative. The default is 1 minute.
func WithMaxWait(d time.Duration) Option {
	mustBe(d >= 0, "WithMaxWait", "0 or more", d)
	return func(c *config) { c.maxWait = d }
}

// WithRetryNonIdempotent retries, given true, requests of any method after any
// temporary failure, also if they may have been processed: POSTs are then sent
// twice. The default is false.
func WithRetryNonIdempotent(on bool) Option {
	return func(c *config) { c.retryNonIdempotent = on }
}

// WithIdempotencyKey sends an Idempotency-Key header with each request whose
// method is not idempotent, which may then be retried like one that is. f is
// called once for each call, and all attempts carry the same key. An
// Idempotency-Key or X-Idempotency-Key of the caller's is left alone, and if f
// returns "" there is none. net/http also goes by the header, and may send such
// a request again by itself when a reused connection turns out dead. The API
// must honour the key: see draft-ietf-httpapi-idempotency-key-header. It panics
// if f is nil. The default is none.
func WithIdempotencyKey(f func(*http.Request) string) Option {
	mustBe(f != nil, "WithIdempotencyKey", "not nil", "nil")
	return func(c *config) { c.idempotencyKey = f }
}

// WithReplayBuffer records up to maxBytes of each request body that has no
// GetBody, as the first attempt reads it, so that it can be sent again. A body
// that turns out longer is streamed on and sent once. It panics if maxBytes is
// negative; 0 is the default, nothing is recorded.
func WithReplayBuffer(maxBytes int64) Option {
	mustBe(maxBytes >= 0, "WithReplayBuffer", "0 or more", maxBytes)
	return func(c *config) { c.replayBuffer = maxBytes }
}

// WithRetryBudget bounds the retries of temporary failures, for each limit key,
// to a share of the traffic: from the first failure on, each call that is
// answered at the first attempt earns ratio tokens, and minPerSecond tokens a second come by themselves, so
// that a small client can always retry. A retry that fails costs a token, and one
// that follows or is a timeout two, as the server may still be at work; a call
// that succeeds in the end gets back what it paid. Without a token a failure is
// returned at once. Rejections for rate are not counted: the
// limiter governs those.
//
// It panics if a value is negative or NaN; a ratio of math.Inf(1) switches the
// budget off. The default is 0.05 and 0.2, and 10 tokens to begin with. It holds
// for a whole Transport and cannot be set in [ContextWithOptions].
func WithRetryBudget(ratio, minPerSecond float64) Option {
	mustBe(ratio >= 0, "WithRetryBudget", "a ratio of 0 or more", ratio)
	mustBe(minPerSecond >= 0 && !math.IsInf(minPerSecond, 1), "WithRetryBudget", "a rate of 0 or more", minPerSecond)
	return func(c *config) {
		c.shared.set, c.shared.budgetRatio, c.shared.budgetFloor = true, ratio, minPerSecond
	}
}

// RetryError is the end, without a response, of a call that had been attempted
// more than once or was waiting for another attempt. errors.Is and errors.As
// find what ended it and, if the attempt before was different, that one's
// outcome too, so that a context that ended does not hide the server's answer.
type RetryError struct {
	Attempts int   // attempts made
	Err      error // what ended the call: a transport's error, a context's cause, a *LimitError
	Last     error // the outcome of the last attempt before that, an *APIError if there was a response; may be nil
}

// Error returns the attempts, what ended the call, and the last outcome, in one
// line of bounded length: errors of a transport may hold what a server sent, and
// the URL with its query.
func (e *RetryError) Error() string {
	msg := fmt.Sprintf("resilient: gave up after attempt %d: %s", e.Attempts, plain.Error(e.Err))
	if e.Last != nil && e.Last.Error() != e.Err.Error() {
		msg += fmt.Sprintf(" (before: %s)", plain.Error(e.Last))
	}
	return msg
}

// Unwrap returns Err and Last.
func (e *RetryError) Unwrap() []error {
	if e.Last == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Last}
}

// Timeout reports whether what ended the call was a timeout, which a
// [*LimitError] is not. *url.Error asks for it one level down and no further.
func (e *RetryError) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Err)
	return ok && t.Timeout() && !isType[*LimitError](e.Err)
}

// NonRetriable marks the error as final for the Azure SDK: the retries were
// made here.
func (e *RetryError) NonRetriable() {}

// RetryableError returns false, which the AWS SDK asks for: the retries were
// made here.
func (e *RetryError) RetryableError() bool { return false }

// ErrorType returns what OpenTelemetry calls error.type, of what ended the call:
// "limited", "timeout", "canceled", or the Go type of Err.
func (e *RetryError) ErrorType() string {
	typed, ok := errors.AsType[interface {
		error
		ErrorType() string
	}](e.Err)
	switch {
	case ok:
		return typed.ErrorType()
	case e.Timeout():
		return "timeout"
	case errors.Is(e.Err, context.Canceled):
		return "canceled"
	}
	return fmt.Sprintf("%T", e.Err)
}

// call is one RoundTrip: what its attempts share.
type call struct {
	t          *Transport
	cfg        *config
	req        *http.Request // the caller's, never written to
	header     http.Header   // sent in place of the caller's, with an idempotency key; nil: the caller's
	idempotent bool          // may be sent again though it may have been processed
	record     *recording    // of a body without GetBody; nil: none
	key        *keyState     // nil: nothing is known about the limit key yet
	limiter    Limiter       // nil: none of the caller's
	observer   observer      // that limiter, if it learns; else nil
	policy     backoff.BackOff
	last       error          // the outcome of the attempt before the one under way
	held       *http.Response // in our hands: closed if a hook or a policy panics
	paid       int            // tokens of the budget this call has used up
	prepaid    int            // what was paid of that for the attempt under way
	ticket     ticket         // of the attempt under way
	arrived    time.Time      // at the gate, of a call that was refused for its rate
	begin      time.Time      // if there are hooks
	timed      bool           // the durations of attempts are kept
	answered   time.Time      // when the last attempt ended, if that failed or timed
}

// set makes c ready to run. It works in place, as to copy a call would be a good
// part of what one costs that succeeds.
func (c *call) set(t *Transport, cfg *config, req *http.Request) {
	c.t, c.cfg, c.req = t, cfg, req
	c.idempotent = cfg.retryNonIdempotent || idempotent(req)
	if cfg.idempotencyKey != nil && !idempotent(req) && method(req) != http.MethodConnect {
		if key := cfg.idempotencyKey(req); key != "" && len(req.Header["Idempotency-Key"]) == 0 {
			c.header = req.Header.Clone()
			c.header.Set("Idempotency-Key", key)
			c.idempotent = true
		}
	}
	if hasBody(req) && req.GetBody == nil && cfg.replayBuffer > 0 {
		c.record = newRecording(req.Body, cfg.replayBuffer)
	}
	if cfg.shared.limit > 0 {
		c.key = t.keys.findOrAdd(cfg, req)
	} else {
		c.key = t.keys.find(cfg, req)
	}
	if cfg.limiterFor != nil {
		c.limiter = cfg.limiterFor(req)
		c.observer, _ = c.limiter.(observer)
	}
	// Nobody would see the times of a call that succeeds, and reading the
	// clock is half of what such a call costs.
	c.timed = cfg.hooks != nil || cfg.classifier != nil || c.observer != nil
	if cfg.hooks != nil {
		c.begin = time.Now()
	}
}

// run is the loop: wait, send, judge, and again. Whatever ends it, the body in
// hand is closed, and there is one Done.
func (c *call) run() (*http.Response, error) {
	if c.record != nil {
		defer c.record.end()
	}
	defer c.letGo()
	body := c.firstBody()
	for n := 1; ; n++ {
		if err := c.admit(n); err != nil {
			closeBody(body)
			return c.failed(n-1, err)
		}
		a := AttemptInfo{Request: c.req, Attempt: n}
		resp := c.attempt(&a, body)
		c.observe(&a, resp)
		c.count(&a)
		if !a.failed() {
			return c.done(resp, &a, "success")
		}
		wait, next, why := c.next(&a)
		if why != "" {
			return c.done(resp, &a, why)
		}
		body, c.last = next, a.Err
		if resp != nil {
			c.last = a.APIError
			c.letGo() // what is worth reading of it has been read, see peek
		}
		if err := c.sleep(wait, &a); err != nil {
			closeBody(body)
			return c.failed(n, err)
		}
	}
}

// letGo closes the response in hand, if there is one.
func (c *call) letGo() {
	if c.held != nil {
		closeBody(c.held.Body)
		c.held = nil
	}
}

// admit waits until attempt n may be sent: the caller's Limiter, then the gate
// of its key. In this order a pause that begins meanwhile is waited for, and an
// attempt that the Limiter refuses has not used up a token of the gate.
func (c *call) admit(n int) error {
	ctx := c.req.Context()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	class := firstAttempt
	if n > 1 && c.arrived.IsZero() {
		class = retryAttempt
	}
	c.ticket = ticket{}
	if c.limiter != nil {
		if err := waitFor(ctx, c.limiter, c.cfg.maxWait, c.wait(n)); err != nil {
			return err
		}
	}
	if c.key == nil { // another call may have paused it since
		c.key = c.t.keys.find(c.cfg, c.req)
	}
	if c.key == nil {
		return nil
	}
	if c.key.gate.pass(&c.ticket, c.arrived) {
		return nil
	}
	var err error
	c.ticket, err = c.key.gate.wait(ctx, class, c.arrived, c.cfg.maxWait, c.wait(n))
	return err
}

// attempt sends the request once and judges what came of it.
func (c *call) attempt(a *AttemptInfo, body io.ReadCloser) *http.Response {
	if h := c.cfg.hooks; h != nil && h.AttemptStart != nil {
		h.AttemptStart(*a)
	}
	var start time.Time
	if c.timed {
		start = time.Now()
	}
	resp, f, err := c.send(a.Attempt, body)
	c.held = resp
	suspect := err == nil && (resp.StatusCode >= 400 || c.cfg.profile.mayFail(resp))
	if c.timed || err != nil || suspect {
		c.answered = time.Now()
	}
	if c.timed {
		a.Duration = c.answered.Sub(start)
	}
	switch {
	case err != nil:
		a.Err = err
		a.Verdict = classifyError(c.req, err, f)
	default:
		a.StatusCode = resp.StatusCode
		a.Verdict.Why = "success"
		if !suspect {
			break
		}
		prefix := peek(c.req.Context(), resp, c.answered)
		if a.APIError, a.Verdict = c.cfg.profile.judge(resp, prefix, c.answered); a.APIError != nil {
			a.APIError.Attempts = a.Attempt
		}
	}
	a.mindBelow(resp)
	if c.cfg.classifier != nil && (err != nil || a.APIError != nil) && c.req.Context().Err() == nil {
		a.Verdict = c.cfg.classifier(*a)
		if a.Verdict.Why == "" {
			a.Verdict.Why = "classifier"
		}
		if a.APIError != nil && a.Verdict.Kind != 0 {
			a.APIError.Kind = a.Verdict.Kind
		}
	}
	if h := c.cfg.hooks; h != nil && h.AttemptDone != nil {
		h.AttemptDone(*a)
	}
	return resp
}

// send hands the request to the base. The first attempt is the caller's own
// *Request if nothing has to be different about it. Otherwise it is a shallow
// copy, because Request.Clone would copy Trailer, which the caller fills in while
// the body is read.
func (c *call) send(n int, body io.ReadCloser) (*http.Response, fate, error) {
	ctx := c.req.Context()
	var limit *attemptLimit
	if c.cfg.attemptTimeout > 0 {
		limit, ctx = newAttemptLimit(ctx, c.cfg.attemptTimeout)
	}
	var d *delivery
	if !c.idempotent || limit != nil {
		d = &delivery{limit: limit}
		ctx = httptrace.WithClientTrace(ctx, d.trace())
	}
	out := c.req
	if n > 1 || d != nil || c.header != nil || c.record != nil {
		out = c.req.WithContext(ctx)
		out.Body = body
		if c.header != nil {
			out.Header = c.header
		}
		if c.record != nil {
			out.GetBody = c.record.open // HTTP/2 replays through it after GOAWAY
		}
	}
	if limit != nil {
		limit.watchBody(out)
		if c.t.suspects.Take(host(c.req)) {
			out.Close = true // nothing more goes to the connection that takes it
			limit.closes = true
		}
	}
	resp, err := repair(c.t.roundTripper().RoundTrip(out))
	if limit != nil {
		resp, err = limit.stop(resp, err)
		c.judgeConnection(d, limit.began, err)
	}
	if c.idempotent {
		d = nil // no proof is needed
	}
	switch {
	case err == nil:
		if out != c.req {
			resp.Request = c.req // as if the caller's had been sent
		}
		return resp, unknown, nil
	case c.record != nil && c.record.failure() != nil:
		return nil, bodyFailed, err
	case d.provesUnsent(err):
		return nil, neverSent, err
	}
	return nil, unknown, err
}

// judgeConnection notes what an attempt that ended with err says about its HTTP/2
// connection. An attempt that the base has sent on a second connection says
// nothing: the first one was refused, so something has answered.
func (c *call) judgeConnection(d *delivery, began time.Time, err error) {
	conn := d.http2Conn()
	switch {
	case conn == nil:
	case err == nil:
		c.t.suspects.Answered(host(c.req), conn)
	case isType[*attemptTimeoutError](err) && d.conns.Load() == 1:
		c.t.suspects.TimedOut(host(c.req), conn, began)
	}
}

func host(req *http.Request) suspect.Host {
	return suspect.Host{Scheme: req.URL.Scheme, Addr: req.URL.Host}
}

// mindBelow takes for final what a Transport below this one has given up: the
// base by mistake, or that of a token source. Their attempts would multiply.
func (a *AttemptInfo) mindBelow(resp *http.Response) {
	ended := isType[*RetryError](a.Err) || isType[*LimitError](a.Err) || isType[*APIError](a.Err)
	if a.APIError != nil {
		if below := recall(resp).attempts; below > 1 {
			a.APIError.Attempts += below - 1
			ended = true
		}
	}
	if ended && a.Verdict.Retry {
		a.Verdict.Retry, a.Verdict.Why = false, "retried below"
	}
}

// repair makes of a base that breaks the contract of http.RoundTripper one that
// keeps it: a response or an error, and a body in a response.
func repair(resp *http.Response, err error) (*http.Response, error) {
	switch {
	case err != nil:
		if resp != nil {
			closeBody(resp.Body)
		}
		return nil, err
	case resp == nil:
		return nil, errNoAnswer
	case resp.Body == nil:
		resp.Body = http.NoBody
	}
	return resp, nil
}

// observe tells the limiter and the budget of the key what came of an attempt.
// Nothing is remembered of a key that never failed.
func (c *call) observe(a *AttemptInfo, resp *http.Response) {
	v, timed := a.Verdict, c.timed
	// Who never waits cannot be paced, and a limiter that learns does it better.
	learn := !c.t.cfg.shared.unlearned && c.t.cfg.maxWait > 0 && c.observer == nil
	if c.observer != nil {
		c.observer.Observe(*a)
	}
	limited := v.Kind == KindRateLimit
	rejected := resp != nil && v.Unprocessed && (v.RetryAfter > 0 || limited && learn)
	temporary := v.Retry && !limited
	quota, told := waithint.Quota{}, false
	if resp != nil && learn {
		quota, told = waithint.Remaining(resp.Header)
		told = told && quota.Rate > 0 && quota.Remaining <= lowQuota
	}
	trouble := rejected || temporary || told
	if c.key == nil && trouble {
		c.key = c.t.keys.findOrAdd(c.cfg, c.req)
	}
	if c.key == nil || !trouble && a.Attempt == 1 && !c.key.troubled.Load() {
		return
	}
	if trouble {
		c.key.troubled.Store(true)
	}
	now := c.answered
	if a.APIError != nil || !timed {
		now = time.Now() // its body may have taken a while, or nobody asked yet
	}
	if told {
		c.key.gate.told(c.ticket, now, quota)
	}
	switch {
	case rejected:
		// The bound is the Transport's, as the pause is everybody's.
		hint := v.RetryAfter - now.Sub(c.answered)
		c.key.gate.refused(c.ticket, now, hint, c.t.cfg.maxWait, limited && learn)
		if c.arrived.IsZero() && limited && learn {
			if c.arrived = c.ticket.arrived; c.arrived.IsZero() {
				c.arrived = c.answered
			}
		}
	case !limited:
		c.key.gate.ended(c.ticket, now, resp != nil)
	}
	switch {
	case limited || a.Err != nil && !v.Retry:
		// Not the budget's business, nor a sign of the server's health.
		c.refund(now)
	case temporary && a.Attempt > 1:
		due := 0
		if c.prepaid == 0 {
			due = a.cost()
		}
		c.paid += due
		c.key.budget.failed(now, due)
	case !temporary && a.Attempt > 1:
		c.key.budget.earn(now, &c.cfg.shared, float64(c.paid), true)
	case !temporary:
		c.key.budget.earn(now, &c.cfg.shared, c.cfg.shared.budgetRatio, false)
	}
	c.prepaid = 0
}

func (a *AttemptInfo) failed() bool { return a.Err != nil || a.APIError != nil }

// cost is what a retry that follows, or is, this failed attempt takes of the
// budget: double after a timeout, since the server may still be at work on it
// and has the more to do the slower it is.
func (a *AttemptInfo) cost() int {
	if t, ok := errors.AsType[net.Error](a.Err); ok && t.Timeout() {
		return 2
	}
	return 1
}

// refund gives back the token of a retry that was not one in the end.
func (c *call) refund(now time.Time) {
	if c.prepaid > 0 {
		c.key.budget.earn(now, &c.cfg.shared, float64(c.prepaid), false)
		c.paid -= c.prepaid
		c.prepaid = 0
	}
}

// next decides whether a failed attempt is followed by another: after which
// wait and with which body, or why not. Nothing is spent until all else agrees.
func (c *call) next(a *AttemptInfo) (wait time.Duration, body io.ReadCloser, why string) {
	v := a.Verdict
	ctx := c.req.Context()
	if ctx.Err() != nil {
		return 0, nil, "canceled"
	}
	if !v.Retry {
		return 0, nil, v.Why
	}
	if a.Attempt >= c.cfg.maxAttempts {
		return 0, nil, "out of attempts"
	}
	if !v.Unprocessed && !c.idempotent || method(c.req) == http.MethodConnect {
		return 0, nil, "not idempotent" // it may have been processed, or is a tunnel
	}
	if !c.replayable() {
		return 0, nil, "body not replayable"
	}
	wait, why = c.backoff(a)
	if why != "" {
		return 0, nil, why
	}
	// The rate limit's wait comes on top. Better to give the caller this
	// response now than an error later.
	if c.key != nil {
		if held := c.key.gate.foresee(time.Now()); held-wait > c.cfg.maxWait {
			return 0, nil, "max wait"
		} else if pastDeadline(ctx, time.Now(), held) {
			return 0, nil, "deadline"
		}
	}
	if body, why = c.freshBody(); why != "" {
		return 0, nil, why
	}
	if v.Kind != KindRateLimit {
		ok, prepaid := c.key.budget.take(time.Now(), &c.cfg.shared, a.cost())
		if !ok {
			closeBody(body)
			return 0, nil, "budget"
		}
		c.prepaid = prepaid
		c.paid += prepaid
	}
	return wait, body, ""
}

// backoff returns how long to wait before the next attempt, or why there is
// none. A hint is a floor: jitter, a random part of the policy's interval, is
// only added, and only as far as the deadline and WithMaxWait have room.
func (c *call) backoff(a *AttemptInfo) (wait time.Duration, why string) {
	v := a.Verdict
	if c.policy == nil && c.cfg.newBackOff != nil {
		if c.policy = c.cfg.newBackOff(); c.policy != nil {
			c.policy.Reset()
		}
	}
	if c.policy == nil {
		return 0, "backoff stopped"
	}
	interval := c.policy.NextBackOff()
	if interval < 0 { // Stop is -1
		return 0, "backoff stopped"
	}
	if e, ok := c.policy.(*backoff.ExponentialBackOff); ok {
		spread := min(e.RandomizationFactor, 1)
		switch {
		case a.Attempt == 1 && v.Kind != KindRateLimit && !c.key.budget.correlated(time.Now()):
			// Nobody else fails, so there is nothing to spread out: the smallest
			// interval the policy has, and a tenth of the jitter.
			interval = time.Duration(float64(e.InitialInterval) * (1 - spread + 0.1*spread*rand.Float64()))
		case e.MaxInterval > 0 && interval > e.MaxInterval:
			// It adds its jitter after the cap. Cut off there, half of all
			// clients would come back in the same instant, so it is drawn anew.
			interval = e.MaxInterval - time.Duration(rand.Float64()*spread*float64(e.MaxInterval))
		}
	}
	hint := v.RetryAfter
	if hint > c.cfg.maxWait || interval > 0 && c.cfg.maxWait == 0 {
		return 0, "max wait"
	}
	ctx, from := c.req.Context(), c.answered // the wait runs from there, see sleep
	if hint > 0 {
		jitter := time.Duration(rand.Float64() * float64(interval))
		wait = hint + min(jitter, c.cfg.maxWait-hint)
		if pastDeadline(ctx, from, wait) {
			wait = hint
		}
	} else {
		wait = min(interval, c.cfg.maxWait)
	}
	if pastDeadline(ctx, from, wait) {
		return 0, "deadline"
	}
	return wait, ""
}

// sleep waits for the next attempt, or until the context ends. The wait runs
// from the answer, so the time it took to read that one's body is not added.
func (c *call) sleep(d time.Duration, a *AttemptInfo) error {
	if d -= time.Since(c.answered); d <= 0 {
		return nil
	}
	reason := "backoff"
	if a.Verdict.RetryAfter > 0 {
		reason = "retry-after"
	}
	its := c.wait(a.Attempt + 1)
	its.begins(reason, d)
	defer its.ended(reason, time.Now())
	ctx := c.req.Context()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait returns what a wait of attempt n is told to.
func (c *call) wait(n int) wait {
	w := wait{req: c.req, attempt: n, totals: c.totals()}
	if c.cfg.hooks != nil {
		w.hook = c.cfg.hooks.Wait
	}
	return w
}

// count counts an attempt, but for the only one of a call that succeeds.
func (c *call) count(a *AttemptInfo) {
	if a.Attempt == 1 && !a.failed() {
		return
	}
	for _, t := range c.totals() {
		t.attempt(a)
	}
}

// countEnd counts the end of a call that was not a success at once.
func (c *call) countEnd(why string) {
	for _, t := range c.totals() {
		t.call(why)
	}
}

// totals returns the counters of the Transport and of the key, if it is known.
func (c *call) totals() [2]*counters {
	if c.key == nil {
		return [...]*counters{&c.t.totals, nil}
	}
	return [...]*counters{&c.t.totals, &c.key.totals}
}

// done ends a call with the outcome of its last attempt.
func (c *call) done(resp *http.Response, a *AttemptInfo, why string) (*http.Response, error) {
	err := a.Err
	if err != nil && a.Attempt > 1 {
		err = &RetryError{Attempts: a.Attempt, Err: err, Last: c.last}
	}
	switch {
	case a.APIError == nil:
	case c.cfg.statusErrors:
		c.letGo()
		resp, err = nil, a.APIError
	default:
		if c.cfg.noRetryMark {
			markFinal(resp)
		}
		remember(resp, a.APIError, c.cfg.profile)
	}
	if a.Attempt == 1 && !a.failed() {
		c.t.totals.plain.Add(1)
		if c.key != nil {
			c.key.totals.plain.Add(1)
		}
	} else {
		c.countEnd(why)
	}
	c.report(a.Attempt, a.StatusCode, err, why)
	c.held = nil // the caller's now
	return resp, err
}

// markFinal says in resp that there is to be no other attempt. The header is
// replaced, not written to: the base may keep it, and the APIError shares it.
func markFinal(resp *http.Response) {
	h := make(http.Header, len(resp.Header)+len(shouldRetryFields))
	maps.Copy(h, resp.Header)
	for _, name := range shouldRetryFields {
		h.Set(name, "false")
	}
	resp.Header = h
}

// failed ends a call that could not wait for attempt n+1.
func (c *call) failed(n int, err error) (*http.Response, error) {
	why := "canceled"
	if isType[*LimitError](err) {
		why = "limited"
	}
	c.refund(time.Now())
	if n > 0 {
		err = &RetryError{Attempts: n, Err: err, Last: c.last}
	}
	c.countEnd(why)
	c.report(n, 0, err, why)
	return nil, err
}

func (c *call) report(attempts, status int, err error, why string) {
	if h := c.cfg.hooks; h != nil && h.Done != nil {
		h.Done(DoneInfo{
			Request: c.req, Attempts: attempts, StatusCode: status,
			Err: err, Why: why, Duration: time.Since(c.begin),
		})
	}
}

// budget bounds retries of temporary failures for one limit key.
//
// While the last retry to end was a success, or there was none lately, failures
// look isolated: a retry is let go on credit and costs its token only if it
// fails. A burst of 64 unlucky requests is then retried whole. Once a retry has
// failed, failures look correlated, and each retry must pay in advance, so an
// outage soon uses up the balance and is left to the tokens that come with
// time. Above its floor the balance fades within about budgetWindow: what was
// earned in a good hour is not there to be spent on a bad minute.
type budget struct {
	mu      sync.Mutex
	balance float64
	at      time.Time // when balance was right
	wary    time.Time // until when retries pay in advance
}

const (
	// budgetStart covers the retries of three calls that all fail: enough for
	// a client that makes a call now and then, and for 100 clients that each
	// make 10 calls a second, 3 % of an outage of 30 s.
	budgetStart = 10

	budgetWindow = 10 * time.Second
)

func newBudget() budget { return budget{balance: budgetStart, at: time.Now()} }

// take reports whether a retry may be made, and what has been paid for it.
func (b *budget) take(now time.Time, cfg *sharedConfig, cost int) (ok bool, prepaid int) {
	if math.IsInf(cfg.budgetRatio, 1) {
		return true, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now, cfg)
	if b.balance < float64(cost) {
		return false, 0
	}
	if !now.Before(b.wary) && cost == 1 {
		return true, 0
	}
	b.balance -= float64(cost)
	return true, cost
}

// correlated reports whether a retry has failed lately, so that failures are not
// a matter of chance.
func (b *budget) correlated(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Before(b.wary)
}

// failed charges for a retry that failed what was not paid in advance.
func (b *budget) failed(now time.Time, due int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wary = now.Add(budgetWindow)
	b.balance = max(b.balance-float64(due), 0)
}

// earn adds tokens for a call that was answered, by a retry or at once.
func (b *budget) earn(now time.Time, cfg *sharedConfig, tokens float64, byRetry bool) {
	if math.IsInf(cfg.budgetRatio, 1) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now, cfg)
	b.balance += tokens
	if byRetry {
		b.wary = time.Time{}
	}
}

// left returns the balance; -1 if there is no bound.
func (b *budget) left(now time.Time, cfg *sharedConfig) float64 {
	if math.IsInf(cfg.budgetRatio, 1) {
		return -1
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now, cfg)
	return b.balance
}

// settle brings the balance up to now: it rises to budgetStart by the floor's
// rate, and falls to it exponentially.
func (b *budget) settle(now time.Time, cfg *sharedConfig) {
	elapsed := now.Sub(b.at)
	b.at = now
	if b.balance <= budgetStart {
		b.balance = min(b.balance+cfg.budgetFloor*elapsed.Seconds(), budgetStart)
		return
	}
	b.balance = budgetStart + (b.balance-budgetStart)*math.Exp(-float64(elapsed)/float64(budgetWindow))
}

// delivery watches whether anything of a request was written, and on which
// connection, by the hooks of net/http/httptrace. They may be called by other
// goroutines, and after the attempt.
type delivery struct {
	sought, connected, wrote atomic.Bool
	http2                    atomic.Bool
	limit                    *attemptLimit            // nil: the connection does not matter
	conns                    atomic.Int32             // how often the base got one
	conn                     atomic.Pointer[net.Conn] // the last one
}

func (d *delivery) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { d.sought.Store(true) },
		GotConn: func(i httptrace.GotConnInfo) {
			d.connected.Store(true)
			if d.limit != nil {
				conn := i.Conn
				d.conn.Store(&conn)
				d.limit.gotConn(d.conns.Add(1))
			}
		},
		// Called when a field is put into the buffer, so before any of the
		// header can be on the wire.
		WroteHeaderField: func(name string, _ []string) {
			d.wrote.Store(true)
			if strings.HasPrefix(name, ":") { // RFC 9113 section 8.3: a pseudo-header field
				d.http2.Store(true)
			}
		},
		WroteHeaders: func() { d.wrote.Store(true) },
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				d.wrote.Store(true)
			}
		},
	}
}

// http2Conn returns the connection if it is known to speak HTTP/2, else nil.
func (d *delivery) http2Conn() net.Conn {
	conn := d.conn.Load()
	if conn == nil || !d.http2.Load() {
		return nil
	}
	return *conn
}

// provesUnsent reports whether it is certain that the server got nothing of an
// attempt that ended with err. A nil delivery knows only the error.
func (d *delivery) provesUnsent(err error) bool {
	if d != nil && d.wrote.Load() {
		return false // perhaps by an earlier connection of the base's
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "proxyconnect") {
		return true
	}
	if d == nil || !d.sought.Load() {
		return false // the base does not report to httptrace
	}
	if isType[*attemptTimeoutError](err) {
		return !d.connected.Load() // a writer may just have begun
	}
	return true
}

// attemptLimit ends an attempt that has no response headers in time.
type attemptLimit struct {
	ctx    context.Context //nolint:containedctx // lives as long as the attempt
	cancel context.CancelCauseFunc
	timer  *deadline.Timer
	began  time.Time
	closes bool // Request.Close is set, see suspect
}

// maxConns is how many connections an attempt with Request.Close may use. net/http
// sends a request again that a server refuses, at once and without an end if it
// cannot use the same connection, so each time it would dial.
const maxConns = 2

var errRefused = errors.New("resilient: the server refused the request on every connection")

func newAttemptLimit(parent context.Context, d time.Duration) (*attemptLimit, context.Context) {
	l := &attemptLimit{began: time.Now()}
	l.ctx, l.cancel = context.WithCancelCause(parent)
	l.timer = deadline.Start(d, l.cancel)
	return l, l.ctx
}

// gotConn is told how many connections the base has got for the attempt.
func (l *attemptLimit) gotConn(n int32) {
	if l.closes && n > maxConns {
		l.cancel(errRefused)
	}
}

// watchBody stops the time while the base reads the body of out, also the bodies
// that net/http opens to send the request again by itself.
func (l *attemptLimit) watchBody(out *http.Request) {
	if !hasBody(out) {
		return
	}
	out.Body = l.timer.Body(out.Body)
	open := out.GetBody
	if open == nil {
		return
	}
	out.GetBody = func() (io.ReadCloser, error) {
		body, err := open()
		if err != nil || body == nil {
			return body, err
		}
		return l.timer.Body(body), nil
	}
}

// stop ends the limit when the base has returned. The context of a response
// must outlive it until the body is read, or the body would be cut.
func (l *attemptLimit) stop(resp *http.Response, err error) (*http.Response, error) {
	timeout := l.timer.Stop()
	if err == nil && timeout == nil {
		if resp.Body == http.NoBody {
			l.cancel(nil)
			return resp, nil
		}
		if _, upgraded := resp.Body.(io.Writer); !upgraded {
			resp.Body = &releasingBody{resp.Body, l.cancel}
		}
		// An upgraded connection is the caller's, body and all, and must keep
		// its type: the context goes when its parent does.
		return resp, nil
	}
	if err == nil {
		closeBody(resp.Body)
		err = timeout
	}
	l.cancel(nil) // too late to be the cause if there is one
	switch cause := context.Cause(l.ctx); {
	case timeout != nil && errors.Is(cause, timeout):
		err = timeout
	case errors.Is(cause, errRefused):
		err = errRefused
	}
	return nil, err
}

// releasingBody releases the context of an attempt once its body is done with.
type releasingBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b *releasingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.cancel(nil)
	}
	return n, err
}

func (b *releasingBody) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// attemptTimeoutError is an attempt that had no response headers in time.
type attemptTimeoutError = deadline.Error

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

func closeBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}

// firstBody returns the body of the first attempt: the caller's own, or what
// records it.
func (c *call) firstBody() io.ReadCloser {
	if c.record == nil {
		return c.req.Body
	}
	body, _ := c.record.open() // cannot fail before anything was read
	return body
}

// replayable reports whether the body can be sent again from its beginning.
func (c *call) replayable() bool {
	return !hasBody(c.req) || c.req.GetBody != nil || c.record != nil && !c.record.overflown()
}

// freshBody returns a body for another attempt: never the one before, which the
// base may still be reading.
func (c *call) freshBody() (body io.ReadCloser, why string) {
	if !hasBody(c.req) {
		return c.req.Body, ""
	}
	open := c.req.GetBody
	if c.record != nil {
		open = c.record.open
	}
	body, err := open()
	if err != nil || body == nil {
		return nil, "body error"
	}
	return body, ""
}

// recording is a request body that can be read several times, as it is passed
// on: nothing is read before the base asks for it. Its readers take turns at
// the source, so one that is abandoned in the middle of a read loses nothing.
type recording struct {
	src   io.ReadCloser
	limit int64
	turn  chan struct{} // held while reading src

	mu     sync.Mutex
	buf    []byte
	err    error       // of src
	newest *bodyReader // the one that may read src: those before are abandoned
	full   bool        // the limit was passed, and buf given up
	opened int         // readers not closed yet
	ended  bool        // the call is over: the last reader closes src
}

var errNotReplayable = errors.New("resilient: the request body was given to a later attempt, or is larger than the replay buffer")

func newRecording(src io.ReadCloser, limit int64) *recording {
	return &recording{src: src, limit: limit, turn: make(chan struct{}, 1)}
}

// open returns a reader from the beginning. It is a Request.GetBody.
func (r *recording) open() (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		return nil, errNotReplayable
	}
	r.opened++
	r.newest = &bodyReader{rec: r}
	return r.newest, nil
}

func (r *recording) overflown() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.full
}

// failure returns the error that src ended with, if it was not io.EOF.
func (r *recording) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == io.EOF { //nolint:errorlint // readers return it bare
		return nil
	}
	return r.err
}

// end says that there will be no further attempt.
func (r *recording) end() {
	r.mu.Lock()
	r.ended = true
	last := r.opened == 0
	r.mu.Unlock()
	if last {
		closeBody(r.src)
	}
}

// bodyReader reads a recording from its beginning.
type bodyReader struct {
	rec    *recording
	off    int
	closed bool
}

func (b *bodyReader) Read(p []byte) (int, error) {
	r := b.rec
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	if n, err, ok := b.recorded(p); ok {
		return n, err
	}
	n, err := r.src.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	// What an abandoned reader was in the middle of is kept for the newest,
	// even if it is a little too much.
	if int64(len(r.buf)+n) > r.limit && b == r.newest {
		r.full, r.buf = true, nil
	}
	if !r.full {
		r.buf = append(r.buf, p[:n]...)
		b.off += n
	}
	return n, err
}

// recorded reads what is known without asking the source, and reports whether
// there is any such thing.
func (b *bodyReader) recorded(p []byte) (n int, err error, ok bool) { //nolint:revive // ok last, as for maps
	r := b.rec
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose, true
	case b.off < len(r.buf):
		n = copy(p, r.buf[b.off:])
		b.off += n
		return n, nil, true
	case b != r.newest:
		return 0, errNotReplayable, true
	}
	return 0, r.err, r.err != nil
}

func (b *bodyReader) Close() error {
	r := b.rec
	r.mu.Lock()
	if b.closed {
		r.mu.Unlock()
		return nil
	}
	b.closed = true
	r.opened--
	last := r.ended && r.opened == 0
	r.mu.Unlock()
	if last {
		return r.src.Close() // also unblocks a Read of it
	}
	return nil
}

// errorBody is the body of an error response. It keeps the first maxPrefix
// bytes that come through it, read ahead or by the caller, so that the error
// object can be parsed at any time and the caller still reads every byte, and
// the error at the end, as they came.
type errorBody struct {
	rc       io.ReadCloser
	received time.Time
	turn     chan struct{} // held while reading rc
	done     chan struct{} // closed when the body is

	mu     sync.Mutex
	buf    []byte
	off    int   // where the caller reads in buf
	err    error // of rc
	enough bool  // reading ahead is to stop
	closed bool
}

func newErrorBody(resp *http.Response, received time.Time) *errorBody {
	size := int64(512)
	if resp.ContentLength > 0 {
		size = min(resp.ContentLength, maxPrefix)
	}
	return &errorBody{
		rc: resp.Body, received: received,
		turn: make(chan struct{}, 1), done: make(chan struct{}), buf: make([]byte, 0, size),
	}
}

// peek returns the beginning of resp's body and leaves it whole. It takes at
// most peekTimeout: of a body that drips, it returns what has come so far.
// Reading ahead needs a goroutine, as a Read cannot be bounded in time; it ends
// with its Read, at the latest when the body is closed. Where the body panics,
// it must be an error instead: in that goroutine nobody could recover.
func peek(ctx context.Context, resp *http.Response, received time.Time) []byte {
	if resp.Body == http.NoBody {
		return nil
	}
	b := newErrorBody(resp, received)
	resp.Body = b
	b.turn <- struct{}{}
	go b.readAhead()
	timer := time.NewTimer(peekTimeout)
	defer timer.Stop()
	select {
	case b.turn <- struct{}{}: // it was given back
		<-b.turn
	case <-timer.C:
	case <-ctx.Done():
	}
	return b.snapshot()
}

// readAhead fills the prefix and gives the turn back. Where the body panics, it
// must be an error instead: in a goroutine of its own nobody could recover.
func (b *errorBody) readAhead() {
	defer func() {
		if p := recover(); p != nil {
			b.fail(fmt.Errorf("resilient: reading the response body panicked: %v", p))
		}
		<-b.turn
	}()
	b.fill()
}

// fill reads until the prefix is full, the body ends or it has enough.
func (b *errorBody) fill() {
	for empty := 0; ; {
		b.mu.Lock()
		if b.enough || b.closed || b.err != nil || len(b.buf) >= maxPrefix {
			b.mu.Unlock()
			return
		}
		if len(b.buf) == cap(b.buf) {
			b.buf = slices.Grow(b.buf, 512)
		}
		spare := b.buf[len(b.buf):min(cap(b.buf), maxPrefix)]
		b.mu.Unlock()

		n, err := b.rc.Read(spare)
		if n < 0 || n > len(spare) {
			n, err = 0, errors.New("resilient: the response body read an impossible number of bytes")
		}
		if empty++; n > 0 {
			empty = 0
		} else if err == nil && empty == 100 {
			err = io.ErrNoProgress
		}
		b.mu.Lock()
		b.buf, b.err = b.buf[:len(b.buf)+n], err
		b.mu.Unlock()
	}
}

// snapshot returns what was read so far, and stops reading ahead.
func (b *errorBody) snapshot() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enough = true
	if len(b.buf) == 0 {
		return nil // as for http.NoBody
	}
	return slices.Clip(b.buf)
}

func (b *errorBody) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// prefix returns the first bytes of the body, reading on if need be.
func (b *errorBody) prefix() []byte {
	if !b.takeTurn() {
		return b.snapshot()
	}
	defer func() { <-b.turn }()
	b.mu.Lock()
	b.enough = false
	b.mu.Unlock()
	b.fill()
	return b.snapshot()
}

func (b *errorBody) Read(p []byte) (int, error) {
	if n, err, ok := b.kept(p); ok {
		return n, err
	}
	if !b.takeTurn() {
		return 0, http.ErrBodyReadAfterClose
	}
	defer func() { <-b.turn }()
	if n, err, ok := b.kept(p); ok {
		return n, err
	}
	n, err := b.rc.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p[:min(n, maxPrefix-len(b.buf))]...)
	b.off, b.err = len(b.buf), err
	return n, err
}

// takeTurn waits for the turn, and reports whether it got it before the body was
// closed.
func (b *errorBody) takeTurn() bool {
	select {
	case b.turn <- struct{}{}:
		return true
	case <-b.done:
		return false
	}
}

// kept reads from what is there already, and reports whether there is any.
func (b *errorBody) kept(p []byte) (n int, err error, ok bool) { //nolint:revive // ok last, as for maps
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose, true
	case b.off < len(b.buf):
		n = copy(p, b.buf[b.off:])
		b.off += n
		return n, nil, true
	}
	return 0, b.err, b.err != nil
}

// Close closes the body. It waits at most closeGrace for a Read in progress to end:
// while net/http reads the beginning of a gzip body, up to Go 1.26, its Close waits
// for that Read, which waits for the server.
func (b *errorBody) Close() error {
	b.mu.Lock()
	if !b.closed {
		b.closed = true
		close(b.done)
	}
	b.mu.Unlock()
	select {
	case b.turn <- struct{}{}: // no Read is in progress, and none begins any more
		defer func() { <-b.turn }()
		return b.rc.Close()
	default:
	}
	closed := make(chan error, 1)
	go func() { closed <- closeRecovered(b.rc) }()
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case err := <-closed:
		return err
	case <-timer.C:
	}
	if r, ok := b.rc.(*releasingBody); ok {
		r.cancel(nil) // ends the Read too
	}
	return nil
}

// closeRecovered closes a body. A panic is an error, because in a goroutine of its
// own nobody could recover.
func closeRecovered(body io.Closer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("resilient: closing the response body panicked: %v", p)
		}
	}()
	return body.Close()
}
