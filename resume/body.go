package resume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/resilienthttp/resilient/internal/resumed"
)

const (
	// maxResumptions is how often a body is resumed before it must have got
	// somewhere. A connection that breaks three times in a row will break again.
	maxResumptions = 3

	// progress is how many bytes renew the resumptions. It is some ten times what
	// a request with its TLS handshake costs, so a download that goes on sends
	// mostly content.
	progress = 64 << 10

	// maxSkip is how much of a 200 is read and dropped to get to where the body
	// broke off. Up to there it takes about as long as another request would.
	maxSkip = 1 << 20
)

// body is a response body that is resumed. Positions count from the beginning of
// the representation, even if the caller asked for a range of it.
//
// One goroutine reads. All the state is its own, except for the few fields that
// Close needs. So a Read takes no lock, and Close never waits for a Read.
type body struct {
	transport *Transport
	req       *http.Request // the caller's
	validator validator
	complete  int64 // length of the representation
	end       int64 // where the body ends

	pos         int64
	partEnd     int64 // where rc ends, at most end
	broken      error // of rc, which broke off at pos; nil: it has not
	err         error // the final one; nil: none yet
	resumptions int   // since the last progress
	requests    int   // for the rest, in all
	renewed     int64 // where the first of them began, from which progress counts
	skipped     bool  // a 200 was used

	mu     sync.Mutex    // held to write the rest, or to look at it from Close
	rc     io.ReadCloser // http.NoBody while the next one is asked for
	cancel context.CancelFunc
	closed bool
}

// Read reads the body, and resumes it first if it has broken off. Bytes that come
// together with an error are returned without it: the next Read deals with that.
func (b *body) Read(p []byte) (int, error) {
	for {
		switch {
		case b.err != nil:
			return 0, b.err
		case b.pos == b.end:
			return b.readEnd(p)
		case b.broken == nil && b.pos == b.partEnd:
			b.broken = io.ErrUnexpectedEOF // the server sent less than it was asked for
			fallthrough
		case b.broken != nil:
			b.resume()
			continue
		}
		n, err := b.rc.Read(p[:min(int64(len(p)), b.partEnd-b.pos)])
		b.pos += int64(n)
		if err == nil {
			return n, nil
		}
		if b.pos == b.end {
			b.cancel()
			return n, io.EOF
		}
		if b.broken = err; err == io.EOF {
			b.broken = io.ErrUnexpectedEOF
		}
		if n > 0 {
			return n, nil
		}
	}
}

// readEnd reads on after the last byte, so that the base sees its body read to the
// end. The caller has the whole body, so this is its end even if the base returns an
// error or more bytes than it promised.
func (b *body) readEnd(p []byte) (int, error) {
	_, _ = b.rc.Read(p)
	if b.isClosed() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.cancel()
	return 0, io.EOF
}

// resume asks once for the rest of the body. It leaves a body that can be read on,
// one that broke again, or the final error.
func (b *body) resume() {
	if b.resumptions == 0 || b.pos-b.renewed >= progress {
		b.renewed, b.resumptions = b.pos, 0
	}
	if cause := context.Cause(b.req.Context()); cause != nil {
		b.finish(cause)
		return
	}
	_, givenUp := errors.AsType[*brokenError](b.broken)
	ctx, ok := b.begin()
	switch {
	case givenUp:
		b.finish(b.broken) // by another Transport, inside
		return
	case !ok:
		b.finish(b.broken) // because of Close
		return
	case b.resumptions == maxResumptions:
		b.fail(fmt.Errorf("%d resumptions brought %d bytes", b.resumptions, b.pos-b.renewed))
		return
	}
	b.resumptions++
	b.requests++
	resp, err := b.transport.roundTripper().RoundTrip(b.request(ctx))
	switch {
	case err == nil && resp != nil && resp.Body != nil:
		b.goOn(resp)
	case b.isClosed():
		b.finish(http.ErrBodyReadAfterClose)
	case b.req.Context().Err() != nil:
		b.finish(context.Cause(b.req.Context()))
	case err == nil:
		b.fail(errors.New("the base returned nothing"))
	default:
		b.fail(err)
	}
}

// begin closes the body that broke off and returns a context for the next request,
// which Close cancels. It reports false if Close was called before.
func (b *body) begin() (context.Context, bool) {
	ctx, cancel := context.WithCancel(b.req.Context())
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		cancel()
		return nil, false
	}
	rc, release := b.rc, b.cancel
	b.rc, b.cancel = http.NoBody, cancel
	b.mu.Unlock()
	_ = rc.Close()
	release()
	return ctx, true
}

// request returns the caller's request, for the rest of the body. The end is
// always named, because the caller may have asked for a range.
func (b *body) request(ctx context.Context) *http.Request {
	req := b.req.WithContext(resumed.With(ctx, b.requests))
	req.Header = b.req.Header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.pos, b.end-1))
	req.Header.Set("If-Range", b.validator.value)
	return req
}

// goOn makes the body of resp the one that is read, if it holds the bytes that are
// missing.
func (b *body) goOn(resp *http.Response) {
	s, err := b.accept(resp)
	if err != nil {
		_ = resp.Body.Close()
		b.fail(err)
		return
	}
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.rc = resp.Body
	}
	b.mu.Unlock()
	if closed {
		_ = resp.Body.Close()
		b.finish(http.ErrBodyReadAfterClose)
		return
	}
	b.broken, b.partEnd = nil, min(s.end, b.end)
	if s.start < b.pos {
		b.skipped = true
		_, err := io.CopyN(io.Discard, resp.Body, b.pos)
		if b.broken = err; errors.Is(err, io.EOF) {
			b.broken = io.ErrUnexpectedEOF
		}
	}
}

// accept returns the part that resp holds. The error says why it must not be used.
func (b *body) accept(resp *http.Response) (span, error) {
	s, err := spanOf(resp)
	whole := resp.StatusCode == http.StatusOK
	switch {
	case err != nil:
		return s, err
	case s.complete != b.complete:
		return s, errors.New("the length has changed")
	case !b.validator.matches(resp.Header):
		return s, errors.New("the validator has changed")
	case whole && b.skipped:
		return s, errors.New("the server sent everything again, twice")
	case whole && b.pos > maxSkip:
		return s, fmt.Errorf("the server sent everything again, after more than %d bytes", maxSkip)
	case !whole && (s.start != b.pos || s.end > b.end):
		return s, errors.New("the server sent another range")
	}
	return s, nil
}

// fail ends the body with the error of the break, and with the reason why it
// cannot go on.
func (b *body) fail(reason error) {
	b.finish(&brokenError{broken: b.broken, reason: reason, pos: b.pos, complete: b.complete})
}

func (b *body) finish(err error) {
	b.err = err
	b.cancel()
}

// Close closes the body. A Read in progress ends, and so does a resumption.
func (b *body) Close() error {
	b.mu.Lock()
	b.closed = true
	rc, cancel := b.rc, b.cancel
	b.mu.Unlock()
	defer cancel()
	return rc.Close()
}

func (b *body) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// brokenError is a body that broke off and cannot go on.
type brokenError struct {
	broken, reason error
	pos, complete  int64
}

func (e *brokenError) Error() string {
	return fmt.Sprintf("resume: the body broke off at byte %d of %d (%v) and cannot go on: %v", e.pos, e.complete, e.broken, e.reason)
}

// Is reports whether one of the two errors is target. It reports false for io.EOF,
// even if the base failed with that: a caller that looks for it would take the body
// for whole.
func (e *brokenError) Is(target error) bool {
	return target != io.EOF && (errors.Is(e.broken, target) || errors.Is(e.reason, target))
}

// As looks for the target of errors.As in both errors. There is no Unwrap, by which
// errors.Is would get to an io.EOF.
func (e *brokenError) As(target any) bool {
	return errors.As(e.broken, target) || errors.As(e.reason, target)
}
