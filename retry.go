package resilient

import (
	"context"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/replay"
)

// call is one RoundTrip: the loop of attempts, and all that they share. The state
// of a single attempt is in its attempt.
type call struct {
	t          *Transport
	cfg        *config
	req        *http.Request   // the caller's, never written to
	path       string          // of the URL, as it may be shown; "" if nobody is shown it
	ctx        context.Context //nolint:containedctx // the caller's, see waitContext
	stop       func()          // ends ctx; nil: it is the caller's own
	header     http.Header     // sent in place of the caller's; nil: the caller's
	idempotent bool            // may be sent again even if it may have been processed
	record     *replay.Body    // of a body without GetBody; nil: none
	key        *keyState       // nil: nothing is known about the limit key yet
	estimates  gate.Costs      // of the costs, by the user
	costs      gate.Costs      // of each attempt
	itsClass   gate.Class
	classed    bool            // itsClass is known
	refusals   int             // of attempts for their rate, if there are limits
	question   gate.Question   // whose answer the gate wants to know
	slot       int             // of WithMaxInFlight, held by the attempt; 0: none
	limiter    Limiter         // nil: none of the caller's
	learner    LearningLimiter // that limiter, if it learns; else nil
	policy     backOff         // nil: there was no failure yet
	begin      time.Time       // if there are hooks
	timed      bool            // the durations of attempts are kept

	attempt attempt   // the one under way
	last    outcome   // of the attempt before it
	unsure  bool      // an attempt before it may have been processed
	arrived time.Time // at the gate, of a call that was refused for its rate
	charged int       // tokens of the budget that the call has used up
}

// init makes c ready to run. It works in place, because to copy a call would be a
// good part of the cost of one that succeeds.
func (c *call) init(t *Transport, cfg *config, req *http.Request) {
	c.t, c.cfg, c.req, c.ctx = t, cfg, req, req.Context()
	c.attempt.body = req.Body // closed if anything below panics
	c.idempotent = cfg.retryNonIdempotent || idempotent(req) || cfg.profile.repeatable(req)
	if cfg.idempotencyKey != nil && !idempotent(req) && method(req) != http.MethodConnect {
		if key := cfg.idempotencyKey(req); key != "" && len(req.Header["Idempotency-Key"]) == 0 {
			c.header = req.Header.Clone()
			c.header.Set("Idempotency-Key", key)
			c.idempotent = true
		}
	}
	if len(cfg.shared.limits) > 0 || cfg.shared.inFlight > 0 {
		c.key = t.keys.findOrAdd(cfg, req)
		c.estimates = cfg.shared.costs(req)
		c.costs = c.key.gate.Likely(c.estimates)
	} else {
		c.key = t.keys.find(cfg, req)
	}
	if cfg.limiterFor != nil {
		c.limiter = cfg.limiterOf(req)
		c.learner, _ = c.limiter.(LearningLimiter)
	}
	// Nobody would see the times of a call that succeeds, and reading the
	// clock is half of the cost of such a call.
	c.timed = cfg.hooks != nil || cfg.classifier != nil || c.learner != nil
	if cfg.hooks != nil {
		c.begin = time.Now()
	}
	if cfg.hooks != nil || cfg.classifier != nil {
		c.path = cfg.shownPath(req)
	}
	if hasBody(req) && req.GetBody == nil && cfg.replayBuffer > 0 {
		c.record = replay.New(req.Body, cfg.replayBuffer)
		c.attempt.body, _ = c.record.Open() // cannot fail before anything was read
	}
	c.attempt.AttemptInfo = c.attemptInfo(1)
}

// attemptInfo describes the nth attempt before it is made.
func (c *call) attemptInfo(n int) AttemptInfo {
	return AttemptInfo{
		Request: c.req, Path: c.path, Attempt: n,
		Resends: c.cfg.resends, ResendReason: c.cfg.resendReason,
	}
}

// run is the loop: wait, send, judge, and again. However it ends, there is one Done,
// and end closes the bodies that are left open.
func (c *call) run() (*http.Response, error) {
	for {
		if err := c.admit(); err != nil {
			return c.failed(err)
		}
		a := &c.attempt
		c.try(a)
		c.observe(a)
		if !a.failed() {
			return c.done(ReasonSuccess)
		}
		next, wait, why := c.next(a)
		if why != "" {
			return c.done(why)
		}
		c.unsure = c.unsure || !a.Verdict.Unprocessed
		c.last = a.outcome()
		hinted, from := a.Verdict.RetryAfter > 0, a.ended
		a.discard() // its beginning has been read, see judge
		c.release()
		c.attempt = next
		if err := c.sleep(wait, from, hinted); err != nil {
			return c.failed(err)
		}
	}
}

// end lets go of all that a call still holds, even if a hook, a limiter or a policy
// of the caller's has panicked.
func (c *call) end() {
	c.attempt.discard()
	closeBody(c.attempt.body)
	c.release()
	if c.attempt.stamp.Stamp != (limit.Stamp{}) { // the base has panicked
		c.key.gate.Done(c.attempt.stamp, c.route(), time.Now(), limit.Result{})
	}
	if c.record != nil {
		c.record.End()
	}
	if c.stop != nil {
		c.stop()
	}
}

// waitContext returns the context of the call for a wait: one that also ends with
// the deprecated Request.Cancel. http.Client sets that for its Timeout, so a call
// that never waits is spared the goroutine.
func (c *call) waitContext() context.Context {
	canceled := c.canceled()
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

// canceled returns the deprecated Request.Cancel, which net/http promises to obey.
func (c *call) canceled() <-chan struct{} {
	//lint:ignore SA1019 as above
	return c.req.Cancel //nolint:staticcheck // as above
}

// cancelCause returns the reason for a Request.Cancel that is closed: with
// http.Client's Timeout it may be closed an instant before the deadline is seen.
func cancelCause(ctx context.Context) error {
	if gate.PastDeadline(ctx, time.Now(), 0) {
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
	case <-c.canceled():
		return cancelCause(c.ctx)
	default:
		return nil
	}
}

// admit waits until the attempt may be sent: the caller's Limiter, then the gate
// of its key. In this order a pause that begins meanwhile is waited for, and an
// attempt that the Limiter refuses has not used up a token of the gate.
func (c *call) admit() error {
	if err := c.over(); err != nil {
		return err
	}
	if c.limiter != nil && !allows(c.limiter) {
		w := c.wait()
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
	if !c.key.gate.TryAdmit(&c.attempt.stamp, c.waiting()) {
		if err := c.queue(); err != nil {
			if l, ok := c.limiter.(costLimiter); ok {
				l.GiveBack()
			}
			return err
		}
	}
	c.slot, c.question = c.attempt.stamp.Slot, c.attempt.stamp.Question
	return nil
}

// release gives back the slot of an attempt that is over.
func (c *call) release() {
	if c.question.Asked() { // the base has panicked
		c.answered(&attempt{})
	}
	if c.slot != 0 {
		c.key.gate.Release(c.slot)
		c.slot = 0
	}
}

// waiting describes the attempt to the gate.
func (c *call) waiting() gate.Attempt {
	n := c.attempt.Attempt
	return gate.Attempt{
		Route: c.route(), Retry: n > 1 && c.arrived.IsZero(), Number: n, Last: n > 1 && n == c.cfg.maxAttempts,
		Arrived: c.arrived, Costs: c.costs, Class: c.class(),
	}
}

// route names the requests that the server may limit apart from others; with
// WithLimitKey the caller has said which these are.
func (c *call) route() limit.Route {
	if c.cfg.limitKey != nil {
		return limit.Route{}
	}
	return limit.Route{Method: method(c.req), Path: c.req.URL.Path}
}

// queue waits at the gate.
func (c *call) queue() error {
	w := c.wait()
	defer w.ended()
	if w.hook != nil {
		if v, ok := c.key.gate.Held(time.Now(), c.route()); ok {
			w.limit = c.cfg.shared.limitSnapshot(v).String()
		}
	}
	stamp, err := c.key.gate.Admit(c.waitContext(), c.waiting(), c.cfg.maxWait, w.begins)
	if refusal, ok := err.(*gate.RefusalError); ok { //nolint:errorlint // Admit returns it bare
		limited := &LimitError{Reason: refusal.Reason, Wait: refusal.Wait, Bound: boundMaxWait}
		if refusal.Deadline {
			limited.Bound = boundDeadline
		}
		return limited
	}
	c.attempt.stamp = stamp
	return err
}

// next decides whether a failed attempt is followed by another, and after which
// wait, or why not. Nothing is spent until all else agrees.
func (c *call) next(a *attempt) (next attempt, wait time.Duration, why Reason) {
	v := a.Verdict
	if c.over() != nil {
		return next, 0, ReasonCanceled
	}
	if !v.Retry {
		return next, 0, v.Reason
	}
	if a.Attempt >= c.cfg.maxAttempts {
		return next, 0, ReasonOutOfAttempts
	}
	if !v.Unprocessed && !c.idempotent || method(c.req) == http.MethodConnect {
		return next, 0, ReasonNotIdempotent // it may have been processed, or is a tunnel
	}
	if !c.replayable() {
		return next, 0, ReasonBodyNotReplayable
	}
	now := time.Now()
	if wait, why = c.backoff(a, now); why != "" {
		return next, 0, why
	}
	// The rate limit's wait comes on top. Better to give the caller this
	// response now than an error later.
	if c.key != nil {
		held, certain := c.key.gate.RetryDelay(now, c.waiting())
		if certain && held-wait > c.cfg.maxWait {
			return next, 0, ReasonMaxWait
		} else if certain && gate.PastDeadline(c.ctx, now, held) {
			return next, 0, ReasonDeadline
		}
	}
	body, ok := c.freshBody()
	if !ok {
		return next, 0, ReasonBodyError
	}
	charged := 0
	if v.Kind != KindRateLimit && a.cause != limit.KnownLimit {
		if ok, charged = c.key.budget.TryWithdraw(time.Now(), a.cost()); !ok {
			closeBody(body)
			return next, 0, ReasonBudget
		}
	}
	c.charged += charged
	return attempt{AttemptInfo: c.attemptInfo(a.Attempt + 1), body: body, charged: charged}, wait, ""
}

// replayable reports whether the body can be sent again from its beginning.
func (c *call) replayable() bool {
	return !hasBody(c.req) || c.req.GetBody != nil || c.record != nil && !c.record.Overflown()
}

// freshBody returns a body for another attempt: never the one before, which the
// base may still be reading.
func (c *call) freshBody() (body io.ReadCloser, ok bool) {
	if !hasBody(c.req) {
		return c.req.Body, true
	}
	open := c.req.GetBody
	if c.record != nil {
		open = c.record.Open
	}
	body, err := open()
	if err != nil || body == nil {
		closeBody(body)
		return nil, false
	}
	return body, true
}

// backoff returns how long to wait before the next attempt, or why there is
// none. A hint is a floor: jitter, a random part of the policy's interval, is
// only added, and only as far as the deadline and WithMaxWait have room.
func (c *call) backoff(a *attempt, now time.Time) (wait time.Duration, why Reason) {
	v := a.Verdict
	if v.Unprocessed && a.StatusCode == http.StatusExpectationFailed {
		return 0, "" // nothing has to pass first: the next attempt is another request
	}
	if c.policy == nil && c.cfg.newBackOff != nil {
		c.policy = c.cfg.newBackOff()
		if p, ok := c.policy.(interface{ Reset() }); ok {
			p.Reset()
		}
	}
	if c.policy == nil {
		return 0, ReasonBackOffStopped
	}
	hint, interval := v.RetryAfter, c.policy.NextBackOff()
	if interval < 0 { // Stop is -1
		return 0, ReasonBackOffStopped
	}
	if e, ok := c.policy.(*backoff.ExponentialBackOff); ok {
		spread := min(e.RandomizationFactor, 1)
		initial := e.InitialInterval
		if e.MaxInterval > 0 {
			initial = min(initial, e.MaxInterval)
		}
		smallest := float64(initial) * (1 - spread)
		switch {
		case a.cause == limit.Chance && hint == 0 && a.Attempt+1 < c.cfg.maxAttempts:
			// The next one is as likely to be refused whenever it goes. It is spread out
			// because that may depend on the load. The last one waits, in case that all are
			// refused now.
			interval = time.Duration(rand.Float64() * smallest)
		case a.Attempt == 1 && (c.key == nil || !c.key.budget.Correlated(now)):
			// Nobody else fails, so there is nothing to spread out: the smallest
			// interval the policy has, and a tenth of the jitter.
			interval = time.Duration(smallest + 0.1*rand.Float64()*spread*float64(initial))
		case e.MaxInterval > 0 && interval > e.MaxInterval:
			// It adds its jitter after the cap. Cut off there, half of all
			// clients would come back in the same instant, so it is drawn anew.
			interval = e.MaxInterval - time.Duration(rand.Float64()*spread*float64(e.MaxInterval))
		}
	}
	if hint > c.cfg.maxWait || interval > 0 && c.cfg.maxWait == 0 {
		return 0, ReasonMaxWait
	}
	ctx, from := c.ctx, a.ended // the wait runs from there, see sleep
	if hint > 0 {
		jitter := time.Duration(rand.Float64() * float64(interval))
		wait = hint + min(jitter, c.cfg.maxWait-hint)
		if gate.PastDeadline(ctx, from, wait) {
			wait = hint
		}
	} else {
		wait = min(interval, c.cfg.maxWait)
	}
	if gate.PastDeadline(ctx, from, wait) {
		return 0, ReasonDeadline
	}
	return wait, ""
}

// sleep waits for the attempt, or until the context ends. The wait runs from the
// answer to the attempt before, so the time it took to read that one's body is not
// added.
func (c *call) sleep(d time.Duration, from time.Time, hinted bool) error {
	if d -= time.Since(from); d <= 0 {
		return nil
	}
	reason := ReasonBackOff
	if hinted {
		reason = ReasonRetryAfter
	}
	w := c.wait()
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

// wait returns the hook and the counters that are told of a wait of the attempt.
func (c *call) wait() wait {
	w := wait{req: c.req, path: c.path, attempt: c.attempt.Attempt, totals: c.totals()}
	if c.cfg.hooks != nil {
		w.hook = c.cfg.hooks.Wait
	}
	return w
}

// totals returns the counters of the Transport and of the key, if it is known.
func (c *call) totals() [2]*counters {
	if c.key == nil {
		return [...]*counters{&c.t.totals, nil}
	}
	return [...]*counters{&c.t.totals, &c.key.totals}
}

// countPlain counts a call that was a success at once, with one addition.
func (c *call) countPlain() {
	c.t.totals.plain.Add(1)
	if c.key != nil {
		c.key.totals.plain.Add(1)
	}
}

// countEnd counts the end of any other call.
func (c *call) countEnd(why Reason) {
	for _, t := range c.totals() {
		t.call(why)
	}
}

// done ends a call with the outcome of its last attempt.
func (c *call) done(why Reason) (*http.Response, error) {
	a := &c.attempt
	resp, err := a.resp, a.Err
	if err != nil && a.Attempt > 1 {
		err = &RetryError{Attempts: a.Attempt, Err: err, Last: c.last.error(c.cfg.profile)}
	}
	if a.errored {
		known := record{
			status: a.StatusCode, attempts: a.attempts, kind: a.Verdict.Kind, wait: a.Verdict.RetryAfter,
			reason: why, profile: c.cfg.profile, unprocessed: a.Verdict.Unprocessed && !c.unsure,
		}
		if a.APIError != nil {
			e := *a.APIError // a hook may have kept the other one
			e.Reason, e.Unprocessed = known.reason, known.unprocessed
			known.kind, known.wait = e.Kind, e.RetryAfter // not those of a Classifier's Verdict
			a.APIError = &e
		}
		if c.cfg.statusErrors {
			a.discard()
			resp, err = nil, a.APIError
		} else {
			if c.cfg.noRetryMark {
				markFinal(resp)
			}
			remember(resp, known)
		}
	}
	if a.Attempt == 1 && !a.failed() {
		c.countPlain()
	} else {
		c.countEnd(why)
	}
	if resp != nil && (len(c.cfg.shared.limits) > 0 || c.limiter != nil) {
		c.charge()
	}
	c.follow(resp)
	c.report(a.Attempt, a.StatusCode, resp, err, why)
	a.resp = nil // the caller's now
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

// failed ends a call whose attempt could not be made.
func (c *call) failed(err error) (*http.Response, error) {
	why := ReasonCanceled
	if isType[*LimitError](err) {
		why = ReasonLimited
	}
	c.refund(&c.attempt, time.Now())
	made := c.attempt.Attempt - 1
	if made > 0 {
		err = &RetryError{Attempts: made, Err: err, Last: c.last.error(c.cfg.profile)}
	}
	c.countEnd(why)
	c.report(made, 0, nil, err, why)
	return nil, err
}

func (c *call) report(attempts, status int, resp *http.Response, err error, why Reason) {
	if h := c.cfg.hooks; h != nil && h.Done != nil {
		h.Done(DoneInfo{
			Request: c.req, Path: c.path, Attempts: attempts, StatusCode: status,
			APIError: c.attempt.APIError, Err: err, Reason: why, Duration: time.Since(c.begin), Body: hasOpenBody(resp),
			Resends: c.cfg.resends, ResendReason: c.cfg.resendReason,
		})
	}
}
