package resilient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/resilienthttp/resilient/internal/deadline"
)

// attemptLimit can end an attempt: one that has no response headers in time, or whose
// body falls silent.
type attemptLimit struct {
	ctx    context.Context //nolint:containedctx // lives as long as the attempt
	cancel context.CancelCauseFunc
	timer  *deadline.Timer // nil: the headers may take any time
	began  time.Time
	closes bool // Request.Close is set, see package suspect
}

// maxConns is how many connections an attempt with Request.Close may use. net/http
// sends a request again that a server refuses, at once and without an end if it
// cannot use the same connection, so each time it would dial.
const maxConns = 2

var errRefused = errors.New("resilient: the server refused the request on every connection")

func newAttemptLimit(parent context.Context, d time.Duration) (*attemptLimit, context.Context) {
	l := &attemptLimit{began: time.Now()}
	l.ctx, l.cancel = context.WithCancelCause(parent)
	if d > 0 {
		l.timer = deadline.Start(d, l.cancel)
	}
	return l, l.ctx
}

// gotConn is told how many connections the base has got for the attempt.
func (l *attemptLimit) gotConn(n int32) {
	if l.closes && n > maxConns {
		l.cancel(errRefused)
	}
}

// watchBody stops the time while the base reads the body of out, or a body that
// net/http opens to send the request again by itself.
func (l *attemptLimit) watchBody(out *http.Request) {
	if l.timer == nil || !hasBody(out) {
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
	var timeout *deadline.Error
	if l.timer != nil {
		timeout = l.timer.Stop()
	}
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

// Abort ends a Read in progress, for packages peek and idle.
func (b *releasingBody) Abort() { b.cancel(nil) }

// attemptTimeoutError is an attempt that had no response headers in time.
type attemptTimeoutError = deadline.Error
