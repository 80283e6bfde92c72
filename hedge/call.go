package hedge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge/internal/rules"
	"github.com/resilienthttp/resilient/hedge/internal/usual"
	"github.com/resilienthttp/resilient/internal/peek"
)

// errLost is the cause for which a request is canceled that is not needed any more.
var errLost = errors.New("hedge: the other request was answered first")

// call is a call that may be hedged. The first request runs in the goroutine of the
// caller. If the delay passes, the second is sent in one of its own, and when that is
// answered first it cancels the first, which makes the caller return.
type call struct {
	transport *Transport
	base      http.RoundTripper
	calls     *usual.Calls
	req       *http.Request // the caller's, never written to
	delay     time.Duration

	mu            sync.Mutex
	first, second try
	winner        *try          // nil: it is not decided
	ended         chan struct{} // closed when the second has ended; nil: it was not sent
}

// try is one of the requests of a call, and what came of it.
type try struct {
	rules.Outcome

	cancel context.CancelCauseFunc // nil: it was not sent
}

func (c *call) run() (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(c.req.Context())
	c.first.cancel = cancel
	timer := time.AfterFunc(c.delay, c.hedge)
	defer func() { // also after a panic of the base
		timer.Stop()
		if c.decide(&c.first); c.first.Resp == nil {
			cancel(nil)
		}
	}()
	c.first.Outcome = rules.Send(c.base, c.req.WithContext(ctx))
	slow := !timer.Stop()
	c.calls.Ended(c.first.Ran, c.first.Answered, slow)
	if slow && !c.first.Answered {
		c.await()
	}
	if c.decide(&c.first) {
		return c.first.own(c.req)
	}
	go c.first.discard()
	return c.second.own(c.req)
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
	ctx, cancel := context.WithTimeout(c.req.Context(), c.delay)
	defer cancel()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// hedge sends the second request, if there is a token and room for it.
func (c *call) hedge() {
	if !c.calls.Outlasted() {
		return
	}
	req := c.prepare()
	if req == nil {
		return
	}
	defer close(c.ended)
	sent := c.send(req)
	o := &c.second
	if o.Ran >= c.delay || sent && !o.Answered && req.Context().Err() == nil {
		c.calls.Outlasted()
	}
	if o.Answered && c.decide(o) {
		c.transport.won.Add(1)
		return
	}
	o.discard()
}

// prepare returns the second request, or nil if it is not needed any more. The request is
// a deep copy, because the caller may reuse the first while the second is being canceled.
func (c *call) prepare() *http.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.winner != nil || c.req.Context().Err() != nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(c.req.Context())
	c.second.cancel, c.ended = cancel, make(chan struct{})
	return c.req.Clone(resilient.ContextWithOptions(ctx, resilient.WithResend(1, Reason)))
}

// send sends the second request, and reports whether it did. A panic is a failure, because
// nobody could recover from it in this goroutine.
func (c *call) send(req *http.Request) (sent bool) {
	defer func() { _ = recover() }()
	if s, ok := c.base.(interface{ Spare(*http.Request) bool }); ok && !s.Spare(req) {
		return false
	}
	if rules.HasBody(req) {
		body, err := req.GetBody()
		if err != nil || body == nil {
			return false
		}
		req.Body = body
	}
	c.transport.hedged.Add(1)
	sent = true
	c.second.Outcome = rules.Send(c.base, req)
	return sent
}

// decide decides for a request, unless that was done before, and cancels the other one.
// It reports whether the request is the winner.
func (c *call) decide(t *try) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.winner == nil {
		c.winner = t
		loser := &c.second
		if t == loser {
			loser = &c.first
		}
		if loser.cancel != nil {
			loser.cancel(errLost)
		}
	}
	return c.winner == t
}

// own makes an outcome that of the caller's request, as if that had been sent, with a
// context that lasts until the body ends or is closed.
func (t *try) own(req *http.Request) (*http.Response, error) {
	if t.Resp == nil {
		return nil, t.Err
	}
	t.Resp.Request = req
	if t.Resp.Body == http.NoBody {
		t.cancel(nil)
	} else if t.Resp.StatusCode != http.StatusSwitchingProtocols { // whose body is an io.Writer
		t.Resp.Body = &body{t.Resp.Body, t.cancel}
	}
	return t.Resp, nil
}

// discard reads a response that is not needed, within bounds, so that its connection can be
// used again, and closes it.
func (t *try) discard() {
	defer t.cancel(nil)
	if t.Resp == nil {
		return
	}
	b := peek.New(t.Resp, time.Time{})
	defer b.Close()
	_, _ = b.Ahead(context.Background(), peek.Bounds{Bytes: peek.Max, Total: time.Second})
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
