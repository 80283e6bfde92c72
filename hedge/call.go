package hedge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge/internal/usual"
	"github.com/resilienthttp/resilient/internal/peek"
)

// errLost is the cause for which a request is canceled that is not needed any more.
var errLost = errors.New("hedge: the other request was answered first")

// drainTime is how long a response that is not needed is read, so that its connection
// can be used again.
const drainTime = time.Second

// The requests of a call.
const (
	first = iota
	second
)

// call is a call that may be hedged. The first request runs in the goroutine of the
// caller. If the delay passes, the second is sent in one of its own, and when that is
// answered first it cancels the first, which makes the caller return.
type call struct {
	transport *Transport
	base      http.RoundTripper
	calls     *usual.Calls
	req       *http.Request // the caller's, never written to
	delay     time.Duration

	mu      sync.Mutex
	decided bool
	winner  int                        // first or second, once it is decided
	cancels [2]context.CancelCauseFunc // of each request; nil: it was not sent
	ended   chan struct{}              // closed when the second has ended; nil: it was not sent
	hedged  outcome                    // of the second, if it wins
}

func (c *call) run() (*http.Response, error) {
	defer c.decide(first) // so that nothing is sent after a panic of the base
	ctx, cancel := context.WithCancelCause(c.req.Context())
	c.cancels[first] = cancel
	timer := time.AfterFunc(c.delay, c.hedge)
	o := send(c.base, c.req.WithContext(ctx))
	slow := !timer.Stop()
	c.calls.Ended(o.ran, o.answered, slow)
	if slow && !o.answered {
		c.await()
	}
	if c.decide(first) {
		return c.own(o, cancel)
	}
	if o.resp != nil {
		go discard(o.resp, cancel)
	}
	return c.hedged.resp, c.hedged.err
}

// await waits for the second request, if one was sent, for no longer than is usual: a call
// that has failed is not to hang.
func (c *call) await() {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended == nil {
		return
	}
	timer := time.NewTimer(c.delay)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	case <-c.req.Context().Done():
	}
}

// hedge sends the second request, if there is a token and room for it.
func (c *call) hedge() {
	if !c.calls.Outlasted() {
		return
	}
	req, cancel := c.prepare()
	if req == nil {
		return
	}
	defer close(c.ended)
	defer func() {
		if p := recover(); p != nil { // a failure: nobody could recover from it in this goroutine
			cancel(fmt.Errorf("hedge: the base panicked: %v", p))
		}
	}()
	if s, ok := c.base.(interface{ Spare(*http.Request) bool }); ok && !s.Spare(req) {
		cancel(nil)
		return
	}
	if hasBody(req) {
		body, err := req.GetBody()
		if err != nil || body == nil {
			cancel(nil)
			return
		}
		req.Body = body
	}
	c.transport.hedged.Add(1)
	o := send(c.base, req)
	if o.ran >= c.delay || !o.answered && req.Context().Err() == nil {
		c.calls.Outlasted()
	}
	if o.answered {
		o.resp, o.err = c.own(o, cancel) //nolint:bodyclose // the caller does, or discard
		if c.hedged = o; c.decide(second) {
			c.transport.won.Add(1)
			return
		}
	}
	discard(o.resp, cancel)
}

// prepare returns the second request, or nil if it is not needed any more. The request is
// a deep copy, because the caller may reuse the first while the second is being canceled.
func (c *call) prepare() (*http.Request, context.CancelCauseFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.decided || c.req.Context().Err() != nil {
		return nil, nil
	}
	ctx, cancel := context.WithCancelCause(c.req.Context())
	c.cancels[second], c.ended = cancel, make(chan struct{})
	return c.req.Clone(resilient.ContextWithOptions(ctx, resilient.WithResend(1, Reason))), cancel
}

// decide decides for a request, unless that was done before, and cancels the other one.
// It reports whether the request is the winner.
func (c *call) decide(which int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.decided {
		c.decided, c.winner = true, which
		if cancel := c.cancels[1-which]; cancel != nil {
			cancel(errLost)
		}
	}
	return c.winner == which
}

// own makes an outcome the caller's: as if the caller's request had been sent, and with a
// context that lasts until the body ends or is closed.
func (c *call) own(o outcome, cancel context.CancelCauseFunc) (*http.Response, error) {
	switch {
	case o.resp == nil:
		cancel(nil)
		return nil, o.err
	case o.resp.Body == http.NoBody:
		cancel(nil)
	case o.resp.StatusCode != http.StatusSwitchingProtocols: // whose body is an io.Writer
		o.resp.Body = &body{o.resp.Body, cancel}
	}
	o.resp.Request = c.req
	return o.resp, nil
}

// body cancels the context of its request when it ends.
type body struct {
	io.ReadCloser

	cancel context.CancelCauseFunc
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.cancel(nil)
	}
	return n, err
}

func (b *body) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// discard reads a response that is not needed, within bounds, and closes it.
func discard(resp *http.Response, cancel context.CancelCauseFunc) {
	defer cancel(nil)
	if resp == nil {
		return
	}
	b := peek.New(resp, time.Time{})
	defer b.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		_, _ = b.Ahead(context.Background(), peek.Bounds{Bytes: peek.Max, Total: drainTime})
	}
}

// outcome is what came of a request.
type outcome struct {
	resp     *http.Response
	err      error
	ran      time.Duration
	answered bool // see the doc of Transport
}

// send sends a request. A base that breaks the contract of http.RoundTripper is made to
// keep it: a response or an error, and a body in a response.
func send(base http.RoundTripper, req *http.Request) (o outcome) {
	began := time.Now()
	o.resp, o.err = base.RoundTrip(req) //nolint:bodyclose // the caller does, or discard
	o.ran = time.Since(began)
	status := 0
	switch {
	case o.err != nil:
		if o.resp != nil && o.resp.Body != nil {
			_ = o.resp.Body.Close()
		}
		o.resp = nil
		if e, ok := errors.AsType[*resilient.APIError](o.err); ok {
			status = e.StatusCode
		}
	case o.resp == nil:
		o.err = errors.New("hedge: the base returned neither a response nor an error")
	default:
		status = o.resp.StatusCode
		if o.resp.Body == nil {
			o.resp.Body = http.NoBody
		}
	}
	switch status {
	case 0, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
	case http.StatusConflict, http.StatusLocked:
		// draft-ietf-httpapi-idempotency-key-header section 2.6: a request with this key
		// is being processed, and that may be the other one.
		o.answered = !hasKey(req)
	default:
		o.answered = status < http.StatusInternalServerError
	}
	return o
}
