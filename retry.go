package resilient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/peek"
	"github.com/resilienthttp/resilient/internal/replay"
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

	// lowQuota is where what remains of a quota begins to matter. Nothing is
	// remembered of a key with more than that.
	lowQuota = 1000
)

// call is one RoundTrip: what its attempts share.
type call struct {
	t            *Transport
	cfg          *config
	req          *http.Request   // the caller's, never written to
	path         string          // of the URL, as it may be shown; "" if nobody is shown it
	ctx          context.Context //nolint:containedctx // the caller's, see waitContext
	stop         func()          // ends ctx; nil: it is the caller's own
	header       http.Header     // sent in place of the caller's; nil: the caller's
	idempotent   bool            // may be sent again though it may have been processed
	keyed        bool            // by an idempotency key
	unsure       bool            // an attempt before may have been processed
	unsent       io.ReadCloser   // the body of the attempt to come: closed if there is none
	record       *replay.Body    // of a body without GetBody; nil: none
	key          *keyState       // nil: nothing is known about the limit key yet
	limiter      Limiter         // nil: none of the caller's
	observer     observer        // that limiter, if it learns; else nil
	policy       backoff.BackOff
	last         error          // the outcome of the attempt before the one under way
	held         *http.Response // in our hands: closed if a hook or a policy panics
	charged      int            // tokens of the budget this call has used up
	chargedAhead int            // of those, for the attempt under way
	stamp        gate.Stamp     // of the attempt under way
	arrived      time.Time      // at the gate, of a call that was refused for its rate
	begin        time.Time      // if there are hooks
	timed        bool           // the durations of attempts are kept
	answered     time.Time      // when the last attempt ended, if that failed or timed
}

// set makes c ready to run. It works in place, as to copy a call would be a good
// part of what one costs that succeeds.
func (c *call) set(t *Transport, cfg *config, req *http.Request) {
	c.t, c.cfg, c.req, c.ctx, c.unsent = t, cfg, req, req.Context(), req.Body
	c.keyed = hasKey(req.Header)
	c.idempotent = cfg.retryNonIdempotent || idempotent(req)
	if cfg.idempotencyKey != nil && !idempotent(req) && method(req) != http.MethodConnect {
		if key := cfg.idempotencyKey(req); key != "" && len(req.Header["Idempotency-Key"]) == 0 {
			c.header = req.Header.Clone()
			c.header.Set("Idempotency-Key", key)
			c.idempotent, c.keyed = true, true
		}
	}
	if hasBody(req) && req.GetBody == nil && cfg.replayBuffer > 0 {
		c.record, c.unsent = replay.New(req.Body, cfg.replayBuffer), nil
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
	if cfg.hooks != nil || cfg.classifier != nil {
		c.path = cfg.shownPath(req)
	}
}

// run is the loop: wait, send, judge, and again. Whatever ends it, end closes
// the bodies in hand, and there is one Done.
func (c *call) run() (*http.Response, error) {
	if c.record != nil {
		c.unsent, _ = c.record.Open() // cannot fail before anything was read
	}
	for n := 1; ; n++ {
		if err := c.admit(n); err != nil {
			return c.failed(n-1, err)
		}
		a := AttemptInfo{Request: c.req, Path: c.path, Attempt: n}
		resp := c.attempt(&a)
		c.observe(&a, resp)
		c.count(&a)
		if !a.failed() {
			return c.done(resp, &a, ReasonSuccess)
		}
		wait, why := c.next(&a)
		if why != "" {
			return c.done(resp, &a, why)
		}
		c.unsure = c.unsure || !a.Verdict.Unprocessed
		c.last = a.Err
		if resp != nil {
			c.last = a.APIError
			c.letGo() // what is worth reading of it has been read, see attempt
		}
		if err := c.sleep(wait, &a); err != nil {
			return c.failed(n, err)
		}
	}
}

// end lets go of all that a call still holds, also if a hook, a limiter or a
// policy of the caller's has panicked.
func (c *call) end() {
	c.letGo()
	closeBody(c.unsent)
	if c.record != nil {
		c.record.End()
	}
	if c.stop != nil {
		c.stop()
	}
}

// letGo closes the response in hand, if there is one.
func (c *call) letGo() {
	if c.held != nil {
		closeBody(c.held.Body)
		c.held = nil
	}
}

// waitContext returns the context of the call for a wait: one that also ends with
// the deprecated Request.Cancel. http.Client sets that for its Timeout, so a call
// that never waits is spared the goroutine.
func (c *call) waitContext() context.Context {
	canceled := c.req.Cancel //nolint:staticcheck // SA1019: deprecated, and promised to work
	if canceled == nil || c.stop != nil {
		return c.ctx
	}
	ctx, cancel := context.WithCancelCause(c.ctx)
	c.ctx, c.stop = ctx, func() { cancel(nil) }
	go func() {
		select {
		case <-canceled:
			cancel(cancelCause(ctx))
		case <-ctx.Done():
		}
	}()
	return ctx
}

// cancelCause returns the reason for a Request.Cancel that is closed: with
// http.Client's Timeout it may be closed an instant before the deadline is seen.
func cancelCause(ctx context.Context) error {
	if pastDeadline(ctx, time.Now(), 0) {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// over returns the reason if the caller has ended the call, or nil.
func (c *call) over() error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	select {
	case <-c.req.Cancel: //nolint:staticcheck // SA1019: deprecated, and promised to work
		return cancelCause(c.ctx)
	default:
		return nil
	}
}

// admit waits until attempt n may be sent: the caller's Limiter, then the gate
// of its key. In this order a pause that begins meanwhile is waited for, and an
// attempt that the Limiter refuses has not used up a token of the gate.
func (c *call) admit(n int) error {
	if err := c.over(); err != nil {
		return err
	}
	c.stamp = gate.Stamp{}
	if c.limiter != nil && !allows(c.limiter) {
		w := c.wait(n)
		if err := waitFor(c.waitContext(), c.limiter, c.cfg.maxWait, &w); err != nil {
			return err
		}
	}
	if c.key == nil { // another call may have paused it since
		c.key = c.t.keys.find(c.cfg, c.req)
	}
	if c.key == nil {
		return nil
	}
	if c.key.gate.TryAdmit(&c.stamp, c.arrived) {
		return nil
	}
	return c.queue(n)
}

// queue waits at the gate.
func (c *call) queue(n int) error {
	w := c.wait(n)
	defer w.ended()
	a := gate.Attempt{Retry: n > 1 && c.arrived.IsZero(), Number: n, Arrived: c.arrived}
	stamp, err := c.key.gate.Admit(c.waitContext(), a, c.cfg.maxWait, w.begins)
	if refusal, ok := err.(*gate.RefusalError); ok { //nolint:errorlint // Admit returns it bare
		return &LimitError{Reason: refusal.Reason, Wait: refusal.Wait}
	}
	c.stamp = stamp
	return err
}

// attempt sends the request once and judges what came of it.
func (c *call) attempt(a *AttemptInfo) *http.Response {
	if h := c.cfg.hooks; h != nil && h.AttemptStart != nil {
		h.AttemptStart(*a)
	}
	var start time.Time
	if c.timed {
		start = time.Now()
	}
	body := c.unsent
	c.unsent = nil // the base's to close from here on
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
		a.Verdict = Verdict{Reason: ReasonCanceled}
		if c.over() == nil {
			a.Verdict = classifyError(c.req, err, f)
		}
	default:
		a.StatusCode = resp.StatusCode
		a.Verdict.Reason = ReasonSuccess
		if !suspect {
			break
		}
		var prefix []byte
		if resp.Body != http.NoBody {
			body := peek.New(resp, c.answered)
			resp.Body = body
			prefix = body.Ahead(c.waitContext())
		}
		if a.APIError, a.Verdict = c.cfg.profile.judge(resp, prefix, c.answered); a.APIError != nil {
			a.APIError.Attempts = a.Attempt
			c.judgeOwnDoing(a, resp.Header)
		}
	}
	a.mindBelow(resp)
	if c.cfg.classifier != nil && (err != nil || a.APIError != nil) && c.over() == nil {
		a.Verdict = c.cfg.classifier(*a)
		if a.Verdict.Reason == "" {
			a.Verdict.Reason = ReasonClassifier
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

// judgeOwnDoing corrects the verdict on an answer that is final when it comes to
// a first attempt, but here is about what this call has done itself.
func (c *call) judgeOwnDoing(a *AttemptInfo, h http.Header) {
	if _, said := shouldRetry(h); said || a.Verdict.Retry {
		return
	}
	switch a.StatusCode {
	case http.StatusConflict, http.StatusLocked:
		// draft-ietf-httpapi-idempotency-key-header section 2.6: a request with
		// this key is being processed, and that is an earlier attempt.
		if c.keyed && c.unsure {
			a.Verdict.Retry, a.Verdict.Reason = true, ReasonInProgress
		}
	case http.StatusExpectationFailed:
		// RFC 9110 section 10.1.1: the request is to be repeated without it.
		if expectsContinue(c.sentHeader()) {
			c.header = c.sentHeader().Clone()
			c.header.Del("Expect")
			a.Verdict.Retry, a.Verdict.Unprocessed, a.Verdict.Reason = true, true, ReasonExpectation
		}
	}
}

// sentHeader returns the header that attempts are sent with.
func (c *call) sentHeader() http.Header {
	if c.header != nil {
		return c.header
	}
	return c.req.Header
}

// send hands the request to the base. The first attempt is the caller's own
// *Request if nothing has to be different about it; else a shallow copy, since
// Request.Clone would copy Trailer, which the caller fills in while the body is
// read.
func (c *call) send(n int, body io.ReadCloser) (*http.Response, fate, error) {
	ctx := c.req.Context()
	var limit *attemptLimit
	if c.cfg.attemptTimeout > 0 {
		limit, ctx = newAttemptLimit(ctx, c.cfg.attemptTimeout)
	}
	var d *delivery
	if !c.idempotent {
		d = new(delivery)
		ctx = httptrace.WithClientTrace(ctx, d.trace())
	}
	out := c.req
	if n > 1 || limit != nil || d != nil || c.header != nil || c.record != nil {
		out = c.req.WithContext(ctx)
		out.Body = body
		if c.header != nil {
			out.Header = c.header
		}
		if c.record != nil {
			out.GetBody = c.record.Open // HTTP/2 replays through it after GOAWAY
		}
	}
	resp, err := repair(c.t.roundTripper().RoundTrip(out))
	if limit != nil {
		resp, err = limit.stop(resp, err)
	}
	switch {
	case err == nil:
		if out != c.req {
			resp.Request = c.req // as if the caller's had been sent
		}
		return resp, unknown, nil
	case c.record != nil && c.record.Err() != nil:
		return nil, bodyFailed, err
	case d.provesUnsent(err):
		return nil, neverSent, err
	}
	return nil, unknown, err
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
		a.Verdict.Retry, a.Verdict.Reason = false, ReasonRetriedBelow
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
	asked := v.Pause && v.RetryAfter > 0
	rejected := resp != nil && (asked || limited && learn)
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
		c.key.gate.Advertised(c.stamp, now, quota)
	}
	switch {
	case rejected:
		// The bound is the Transport's, as the pause is everybody's.
		hint := time.Duration(0)
		if asked {
			hint = v.RetryAfter - now.Sub(c.answered)
		}
		c.key.gate.Refused(c.stamp, now, hint, c.t.cfg.maxWait, limited && learn)
		if c.arrived.IsZero() && limited && learn {
			if c.arrived = c.stamp.Arrived; c.arrived.IsZero() {
				c.arrived = c.answered
			}
		}
	case !limited:
		c.key.gate.Ended(c.stamp, now, resp != nil)
	}
	switch {
	case limited || a.Err != nil && !v.Retry:
		// Not the budget's business, nor a sign of the server's health.
		c.refund(now)
	case temporary && a.Attempt > 1:
		due := 0
		if c.chargedAhead == 0 {
			due = a.cost()
		}
		c.charged += due
		c.key.budget.Failed(now, due)
	case !temporary && a.Attempt > 1:
		c.key.budget.Recovered(now, c.charged)
	case !temporary:
		c.key.budget.Answered(now)
	}
	c.chargedAhead = 0
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
	if c.chargedAhead > 0 {
		c.key.budget.Deposit(now, float64(c.chargedAhead))
		c.charged -= c.chargedAhead
		c.chargedAhead = 0
	}
}

// next decides whether a failed attempt is followed by another, and after which
// wait, or why not. Nothing is spent until all else agrees.
func (c *call) next(a *AttemptInfo) (wait time.Duration, why Reason) {
	v := a.Verdict
	if c.over() != nil {
		return 0, ReasonCanceled
	}
	if !v.Retry {
		return 0, v.Reason
	}
	if a.Attempt >= c.cfg.maxAttempts {
		return 0, ReasonOutOfAttempts
	}
	if !v.Unprocessed && !c.idempotent || method(c.req) == http.MethodConnect {
		return 0, ReasonNotIdempotent // it may have been processed, or is a tunnel
	}
	if !c.replayable() {
		return 0, ReasonBodyNotReplayable
	}
	if wait, why = c.backoff(a); why != "" {
		return 0, why
	}
	// The rate limit's wait comes on top. Better to give the caller this
	// response now than an error later.
	if c.key != nil {
		if held := c.key.gate.RetryDelay(time.Now()); held-wait > c.cfg.maxWait {
			return 0, ReasonMaxWait
		} else if pastDeadline(c.ctx, time.Now(), held) {
			return 0, ReasonDeadline
		}
	}
	if c.unsent, why = c.freshBody(); why != "" {
		return 0, why
	}
	if v.Kind != KindRateLimit {
		ok, charged := c.key.budget.TryWithdraw(time.Now(), a.cost())
		if !ok {
			return 0, ReasonBudget
		}
		c.chargedAhead = charged
		c.charged += charged
	}
	return wait, ""
}

// backoff returns how long to wait before the next attempt, or why there is
// none. A hint is a floor: jitter, a random part of the policy's interval, is
// only added, and only as far as the deadline and WithMaxWait have room.
func (c *call) backoff(a *AttemptInfo) (wait time.Duration, why Reason) {
	v := a.Verdict
	if v.Unprocessed && a.StatusCode == http.StatusExpectationFailed {
		return 0, "" // nothing has to pass first: the next attempt is another request
	}
	if c.policy == nil && c.cfg.newBackOff != nil {
		if c.policy = c.cfg.newBackOff(); c.policy != nil {
			c.policy.Reset()
		}
	}
	if c.policy == nil {
		return 0, ReasonBackOffStopped
	}
	interval := c.policy.NextBackOff()
	if interval < 0 { // Stop is -1
		return 0, ReasonBackOffStopped
	}
	if e, ok := c.policy.(*backoff.ExponentialBackOff); ok {
		spread := min(e.RandomizationFactor, 1)
		switch {
		case a.Attempt == 1 && v.Kind != KindRateLimit && !c.key.budget.Correlated(time.Now()):
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
		return 0, ReasonMaxWait
	}
	ctx, from := c.ctx, c.answered // the wait runs from there, see sleep
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
		return 0, ReasonDeadline
	}
	return wait, ""
}

// sleep waits for the next attempt, or until the context ends. The wait runs
// from the answer, so the time it took to read that one's body is not added.
func (c *call) sleep(d time.Duration, a *AttemptInfo) error {
	if d -= time.Since(c.answered); d <= 0 {
		return nil
	}
	reason := ReasonBackOff
	if a.Verdict.RetryAfter > 0 {
		reason = ReasonRetryAfter
	}
	w := c.wait(a.Attempt + 1)
	defer w.ended()
	w.begins(reason, d)
	ctx := c.waitContext()
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
	w := wait{req: c.req, path: c.path, attempt: n, totals: c.totals()}
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
func (c *call) countEnd(why Reason) {
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
func (c *call) done(resp *http.Response, a *AttemptInfo, why Reason) (*http.Response, error) {
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
	why := ReasonCanceled
	if isType[*LimitError](err) {
		why = ReasonLimited
	}
	c.refund(time.Now())
	if n > 0 {
		err = &RetryError{Attempts: n, Err: err, Last: c.last}
	}
	c.countEnd(why)
	c.report(n, 0, err, why)
	return nil, err
}

func (c *call) report(attempts, status int, err error, why Reason) {
	if h := c.cfg.hooks; h != nil && h.Done != nil {
		h.Done(DoneInfo{
			Request: c.req, Path: c.path, Attempts: attempts, StatusCode: status,
			Err: err, Reason: why, Duration: time.Since(c.begin),
		})
	}
}

// delivery watches whether anything of a request was written, by the hooks of
// net/http/httptrace. It may be called by other goroutines, and after the
// attempt.
type delivery struct{ sought, connected, wrote atomic.Bool }

func (d *delivery) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { d.sought.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { d.connected.Store(true) },
		// Called when a field is put into the buffer, so before any of the
		// header can be on the wire.
		WroteHeaderField: func(string, []string) { d.wrote.Store(true) },
		WroteHeaders:     func() { d.wrote.Store(true) },
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				d.wrote.Store(true)
			}
		},
	}
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
	ctx     context.Context //nolint:containedctx // lives as long as the attempt
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout *attemptTimeoutError
}

func newAttemptLimit(parent context.Context, d time.Duration) (*attemptLimit, context.Context) {
	l := &attemptLimit{timeout: &attemptTimeoutError{d}}
	l.ctx, l.cancel = context.WithCancelCause(parent)
	l.timer = time.AfterFunc(d, func() { l.cancel(l.timeout) })
	return l, l.ctx
}

// stop ends the limit when the base has returned. The context of a response
// must outlive it until the body is read, or the body would be cut.
func (l *attemptLimit) stop(resp *http.Response, err error) (*http.Response, error) {
	inTime := l.timer.Stop()
	if err == nil && inTime {
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
		err = l.timeout
	}
	l.cancel(nil) // too late to be the cause if there is one
	if errors.Is(context.Cause(l.ctx), l.timeout) {
		err = l.timeout
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

// attemptTimeoutError is an attempt that had no response headers in time. It
// is a net.Error.
type attemptTimeoutError struct{ after time.Duration }

func (e *attemptTimeoutError) Error() string {
	return fmt.Sprintf("resilient: no response headers after %v", e.after)
}
func (e *attemptTimeoutError) Timeout() bool   { return true }
func (e *attemptTimeoutError) Temporary() bool { return true }

func closeBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}

// replayable reports whether the body can be sent again from its beginning.
func (c *call) replayable() bool {
	return !hasBody(c.req) || c.req.GetBody != nil || c.record != nil && !c.record.Overflown()
}

// freshBody returns a body for another attempt: never the one before, which the
// base may still be reading.
func (c *call) freshBody() (body io.ReadCloser, why Reason) {
	if !hasBody(c.req) {
		return c.req.Body, ""
	}
	open := c.req.GetBody
	if c.record != nil {
		open = c.record.Open
	}
	body, err := open()
	if err != nil || body == nil {
		closeBody(body)
		return nil, ReasonBodyError
	}
	return body, ""
}
