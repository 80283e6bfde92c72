package resilient

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/resilienthttp/resilient/internal/errorobject"
	"github.com/resilienthttp/resilient/internal/gate"
	"github.com/resilienthttp/resilient/internal/limit"
	"github.com/resilienthttp/resilient/internal/peek"
	"github.com/resilienthttp/resilient/internal/suspect"
)

// attempt is one attempt of a call, from its body to its verdict. It knows nothing
// of the next one.
type attempt struct {
	AttemptInfo // as hooks are told it

	body    io.ReadCloser  // to be sent; nil once the base has it, which closes it
	resp    *http.Response // nil: there is none, or it is the caller's now
	stamp   gate.Stamp     // of the gate that it passed
	ended   time.Time      // if it failed, or times are kept
	conn    net.Conn       // of HTTP/2, if WithIdleTimeout may come to suspect it
	charged int            // tokens of the budget that it was charged ahead
	cause   limit.Cause    // of a refusal, as far as the gate knows

	errored  bool   // there is an error response, whose APIError may not have been made
	attempts int    // made when that came, with those of a Transport below
	prefix   []byte // of its body, as far as it was read
}

func (a *AttemptInfo) failed() bool { return a.Err != nil || a.APIError != nil }

func (a *attempt) failed() bool { return a.Err != nil || a.errored }

// refused reports whether the server has refused the attempt for its rate.
func (a *AttemptInfo) refused() bool {
	return a.Verdict.Kind == KindRateLimit && a.Verdict.Unprocessed
}

// outcome is how an attempt has failed. An error is made of it if a later attempt ends
// without a response.
type outcome struct {
	err      error
	status   int // of the error response whose APIError was not made; 0: none
	header   http.Header
	prefix   []byte
	received time.Time
	attempts int
}

func (a *attempt) outcome() outcome {
	switch {
	case !a.errored:
		return outcome{err: a.Err}
	case a.APIError != nil:
		return outcome{err: a.APIError}
	}
	return outcome{
		status: a.StatusCode, header: a.resp.Header, prefix: a.prefix, received: a.ended, attempts: a.attempts,
	}
}

// error returns the error, or nil if there was no attempt.
func (o *outcome) error(p *Profile) error {
	if o.status == 0 {
		return o.err
	}
	e, _ := p.read(o.status, o.header, o.prefix, errorobject.Decode(o.header, o.prefix), o.received)
	e.Attempts = o.attempts
	return e
}

// cost returns how many tokens of the budget a retry takes that follows, or is,
// this failed attempt: two after a timeout, because the server may still be at
// work on it and has the more to do the slower it is.
func (a *AttemptInfo) cost() int {
	if t, ok := errors.AsType[net.Error](a.Err); ok && t.Timeout() && !a.Verdict.Unprocessed {
		return 2
	}
	return 1
}

// discard closes the response, if it is still ours.
func (a *attempt) discard() {
	if a.resp != nil {
		closeBody(a.resp.Body)
		a.resp = nil
	}
}

// try sends the request once and judges the outcome.
func (c *call) try(a *attempt) {
	if h := c.cfg.hooks; h != nil && h.AttemptStart != nil {
		h.AttemptStart(a.AttemptInfo)
	}
	var start time.Time
	if c.timed {
		start = time.Now()
	}
	body := a.body
	a.body = nil
	state := c.send(a, body)
	hold := a.Err == nil && c.holds(a.resp)
	if c.timed || a.Err != nil || hold || a.resp.StatusCode >= 400 {
		a.ended = time.Now()
	}
	if c.timed {
		a.Duration = a.ended.Sub(start)
	}
	if hold {
		c.hold(a)
	}
	switch {
	case a.Err != nil && c.over() != nil:
		a.Verdict = Verdict{Reason: ReasonCanceled}
	case a.Err != nil:
		a.Verdict = classifyError(c.req, a.Err, state)
	case a.resp.StatusCode >= 400 || c.cfg.profile.mayFail(a.resp):
		c.judge(a)
	default:
		a.StatusCode, a.Verdict.Reason = a.resp.StatusCode, ReasonSuccess
	}
	if a.failed() {
		a.stopNested()
		c.askClassifier(a)
	}
	if h := c.cfg.hooks; h != nil && h.AttemptDone != nil {
		h.AttemptDone(a.AttemptInfo)
	}
}

// judge judges a response that may be an error. The error object is made if somebody is
// shown it, and otherwise when the caller asks for it. Until then no more is read than the
// verdict depends on: of most final statuses nothing, else the beginning of the body.
func (c *call) judge(a *attempt) {
	a.StatusCode, a.attempts = a.resp.StatusCode, a.Attempt
	open := a.resp.Body != http.NoBody
	if a.Attempt == 1 && !c.shows() && finalByHeader(a.resp) && !c.cfg.profile.readsObjects() {
		if open {
			a.resp.Body = newErrorBody(a.resp, a.ended)
		}
		a.errored, a.Verdict = true, classifyStatus(a.StatusCode, kindOf(a.StatusCode))
		return
	}
	if open {
		a.prefix = c.peek(a)
	}
	if c.shows() || a.StatusCode < 400 {
		if a.APIError, a.Verdict = c.cfg.profile.judge(a.resp, a.prefix, a.ended); a.APIError == nil {
			return
		}
		a.APIError.Attempts = a.Attempt
	} else {
		a.Verdict = c.cfg.profile.verdict(a.StatusCode, a.resp.Header, a.prefix, a.ended)
	}
	a.errored = true
	c.judgeOwnDoing(a)
}

// shows reports whether somebody is shown the error object of an attempt.
func (c *call) shows() bool {
	return c.cfg.hooks != nil || c.cfg.classifier != nil || c.cfg.statusErrors || c.learner != nil
}

// peek returns the beginning of a body that may be an error, which comes with the
// headers: one that takes longer than a second is not worth waiting for.
func (c *call) peek(a *attempt) []byte {
	if held, ok := a.resp.Body.(*peek.Body); ok {
		return held.Kept()
	}
	body := newErrorBody(a.resp, a.ended)
	a.resp.Body = body
	prefix, _ := body.Ahead(c.waitContext(), peek.Bounds{Bytes: peek.Max, Total: time.Second})
	return prefix
}

// judgeOwnDoing corrects the verdict on an answer that is final when it comes to
// a first attempt, but here is about an earlier attempt of the same call.
func (c *call) judgeOwnDoing(a *attempt) {
	switch {
	case a.Verdict.Retry:
	case a.StatusCode == http.StatusConflict || a.StatusCode == http.StatusLocked:
		// draft-ietf-httpapi-idempotency-key-header section 2.6: a request with
		// this key is being processed, and that is an earlier attempt.
		if c.unsure && hasKey(c.sentHeader()) && !serverSaid(a.resp.Header) {
			a.Verdict.Retry, a.Verdict.Reason = true, ReasonInProgress
		}
	case a.StatusCode == http.StatusExpectationFailed:
		// RFC 9110 section 10.1.1: the request is to be repeated without it.
		if expectsContinue(c.sentHeader()) && !serverSaid(a.resp.Header) {
			c.header = c.sentHeader().Clone()
			c.header.Del("Expect")
			a.Verdict.Retry, a.Verdict.Unprocessed, a.Verdict.Reason = true, true, ReasonExpectation
		}
	}
}

// serverSaid reports whether the server says itself whether to retry.
func serverSaid(h http.Header) bool {
	_, said := shouldRetry(h)
	return said
}

// stopNested makes an attempt final that a Transport below this one has given up,
// be it the base by mistake or that of a token source: their attempts would
// multiply.
func (a *attempt) stopNested() {
	below := isType[*RetryError](a.Err) || isType[*LimitError](a.Err) || isType[*APIError](a.Err)
	if a.errored {
		if n := records.Of(a.resp); n.attempts > 1 && n.status == a.resp.StatusCode {
			a.attempts += n.attempts - 1
			below = true
		}
		if a.APIError != nil {
			a.APIError.Attempts = a.attempts
		}
	}
	if below && a.Verdict.Retry {
		a.Verdict.Retry, a.Verdict.Reason = false, ReasonRetriedBelow
	}
}

// askClassifier gives the caller's Classifier the last word on a failed attempt.
func (c *call) askClassifier(a *attempt) {
	if c.cfg.classifier == nil || c.over() != nil {
		return
	}
	a.Verdict = c.cfg.classifier(a.AttemptInfo)
	if a.Verdict.Reason == "" {
		a.Verdict.Reason = ReasonClassifier
	}
	if a.APIError != nil && a.Verdict.Kind != 0 {
		a.APIError.Kind = a.Verdict.Kind
	}
}

// sentHeader returns the header that attempts are sent with.
func (c *call) sentHeader() http.Header {
	if c.header != nil {
		return c.header
	}
	return c.req.Header
}

// send hands the request to the base, and reports what is known of its delivery if
// there is no response. The first attempt is the caller's own *Request if nothing has
// to be different about it. Otherwise it is a shallow copy, because Request.Clone would
// copy Trailer, which the caller fills in while the body is read.
func (c *call) send(a *attempt, body io.ReadCloser) sentState {
	ctx := c.req.Context()
	var limit *attemptLimit
	if c.cfg.attemptTimeout > 0 || c.cfg.idleTimeout > 0 {
		limit, ctx = newAttemptLimit(ctx, c.cfg.attemptTimeout)
	}
	var d *delivery
	if !c.idempotent || limit != nil {
		d = &delivery{limit: limit}
		ctx = httptrace.WithClientTrace(ctx, d.trace())
	}
	out := c.req
	if a.Attempt > 1 || d != nil || c.header != nil || c.record != nil {
		out = c.req.WithContext(ctx)
		out.Body = body
		if c.header != nil {
			out.Header = c.header
		}
		if c.record != nil {
			out.GetBody = c.record.Open // HTTP/2 replays through it after GOAWAY
		}
	}
	if limit != nil {
		limit.watchBody(out)
		if c.t.suspects.Take(suspectHost(c.req)) {
			out.Close = true // nothing more goes to the connection that takes it
			limit.closes = true
		}
	}
	resp, err := checkResult(c.t.roundTripper().RoundTrip(out)) //nolint:bodyclose // discard does, or the caller
	if limit != nil {
		resp, err = limit.stop(resp, err) //nolint:bodyclose // the same one
		c.judgeConnection(d, limit.began, err)
	}
	a.resp, a.Err = resp, err
	if err == nil {
		if out != c.req {
			resp.Request = c.req // as if the caller's had been sent
		}
		if c.cfg.idleTimeout > 0 {
			a.conn = d.http2Conn()
		}
		return unknown
	}
	if c.idempotent {
		d = nil // no proof is needed
	}
	switch {
	case c.record != nil && c.record.Err() != nil:
		return bodyFailed
	case d.provesUnsent(err):
		return neverSent
	}
	return unknown
}

// judgeConnection notes the meaning of an attempt that ended with err for its HTTP/2
// connection. An attempt that the base has sent on a second connection says
// nothing: the first one was refused, so something has answered.
func (c *call) judgeConnection(d *delivery, began time.Time, err error) {
	conn := d.http2Conn()
	switch {
	case conn == nil:
	case err == nil:
		c.t.suspects.Answered(suspectHost(c.req), conn)
	case isType[*attemptTimeoutError](err) && d.conns.Load() == 1:
		c.t.suspects.TimedOut(suspectHost(c.req), conn, began)
	}
}

func suspectHost(req *http.Request) suspect.Host {
	return suspect.Host{Scheme: req.URL.Scheme, Addr: req.URL.Host}
}

// checkResult makes of a base that breaks the contract of http.RoundTripper one that
// keeps it: a response or an error, and a body in a response.
func checkResult(resp *http.Response, err error) (*http.Response, error) {
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

func closeBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}
