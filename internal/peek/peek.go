// Package peek reads the beginning of a response body and leaves the body whole.
package peek

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// Max is how much of a body is read ahead and kept.
	Max = 64 << 10

	// timeout bounds how long reading ahead holds a response. Bodies of errors
	// are small and come with the headers; one that takes longer than a second
	// is not worth waiting for.
	timeout = time.Second

	// closeGrace is how long it may take to close a body that is still being
	// read. Closing the connection ends the Read at once; a body that does not
	// end by it must not hold up the retry.
	closeGrace = 20 * time.Millisecond
)

// Body is a response body of which the first Max bytes that come through are kept,
// read ahead or by the caller. So an error object can be parsed at any time, and
// the caller still reads every byte, and the error at the end, as they came.
type Body struct {
	rc       io.ReadCloser
	received time.Time
	turn     chan struct{} // held while reading rc

	mu     sync.Mutex
	done   chan struct{} // closed when the body is; nil: nobody waits for the turn
	buf    []byte
	off    int   // where the caller reads in buf
	err    error // of rc
	enough bool  // reading ahead is to stop
	closed bool
}

// New returns a Body over that of a response, of which nothing was read yet.
func New(resp *http.Response, received time.Time) *Body {
	size := int64(512)
	if resp.ContentLength > 0 {
		size = min(resp.ContentLength, Max)
	}
	return &Body{
		rc: resp.Body, received: received,
		turn: make(chan struct{}, 1), buf: make([]byte, 0, size),
	}
}

// Received returns when the response was received.
func (b *Body) Received() time.Time { return b.received }

// Ahead returns the beginning of the body: up to Max bytes, or as much as has come
// when a second has passed or the context has ended. Reading ahead needs a
// goroutine, because a Read cannot be bounded in time. It ends with its Read, at
// the latest when the body is closed.
func (b *Body) Ahead(ctx context.Context) []byte {
	b.turn <- struct{}{}
	go b.readAhead()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case b.turn <- struct{}{}: // it was given back
		<-b.turn
	case <-timer.C:
	case <-ctx.Done():
	}
	return b.snapshot()
}

// readAhead fills the prefix and gives the turn back. If the body panics, that
// becomes an error: nobody could recover from it in a goroutine of its own.
func (b *Body) readAhead() {
	defer func() {
		if p := recover(); p != nil {
			b.fail(fmt.Errorf("resilient: reading the response body panicked: %v", p))
		}
		<-b.turn
	}()
	b.fill()
}

// fill reads until the prefix is full, the body ends or it has enough.
func (b *Body) fill() {
	for empty := 0; ; {
		b.mu.Lock()
		if b.enough || b.closed || b.err != nil || len(b.buf) >= Max {
			b.mu.Unlock()
			return
		}
		if len(b.buf) == cap(b.buf) {
			b.buf = slices.Grow(b.buf, 512)
		}
		spare := b.buf[len(b.buf):min(cap(b.buf), Max)]
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

// snapshot returns the bytes read so far, and stops reading ahead.
func (b *Body) snapshot() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enough = true
	if len(b.buf) == 0 {
		return nil // as for http.NoBody
	}
	return slices.Clip(b.buf)
}

func (b *Body) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// Prefix returns the first Max bytes of the body. It reads on if need be, and then
// blocks as reading the body would.
func (b *Body) Prefix() []byte {
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

// Read reads the body from its beginning, even if some was read ahead.
func (b *Body) Read(p []byte) (int, error) {
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
	b.buf = append(b.buf, p[:min(n, Max-len(b.buf))]...)
	b.off, b.err = len(b.buf), err
	return n, err
}

// kept reads the bytes that are there already, and reports whether there are any.
func (b *Body) kept(p []byte) (n int, err error, ok bool) { //nolint:revive // ok last, as for maps
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

// takeTurn waits for the turn, and reports whether it got it before the body was
// closed.
func (b *Body) takeTurn() bool {
	select {
	case b.turn <- struct{}{}:
		return true
	default:
	}
	b.mu.Lock()
	if b.done == nil && !b.closed {
		b.done = make(chan struct{})
	}
	done := b.done
	b.mu.Unlock()
	if done == nil {
		return false
	}
	select {
	case b.turn <- struct{}{}:
		return true
	case <-done:
		return false
	}
}

// Close closes the body. It waits at most closeGrace for a Read in progress to end:
// while net/http reads the beginning of a gzip body, up to Go 1.26, its Close waits
// for that Read, which waits for the server (go.dev/issue/81404). A body with a
// method Abort is then aborted.
func (b *Body) Close() error {
	b.mu.Lock()
	if !b.closed && b.done != nil {
		close(b.done)
	}
	b.closed = true
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
	if r, ok := b.rc.(interface{ Abort() }); ok {
		r.Abort()
	}
	return nil
}

// closeRecovered closes a body. A panic becomes an error, because nobody could
// recover from it in a goroutine of its own.
func closeRecovered(body io.Closer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("resilient: closing the response body panicked: %v", p)
		}
	}()
	return body.Close()
}
