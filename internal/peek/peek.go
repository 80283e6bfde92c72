// Package peek reads the beginning of a response body and leaves the body whole.
package peek

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// Max is how much of a body is kept, unless more was read ahead.
	Max = 64 << 10

	// maxEmpty Reads in a row that get nothing are a body that never ends, as in bufio.
	maxEmpty = 100

	// closeGrace is how long it may take to close a body that is still being
	// read. Closing the connection ends the Read at once; a body that does not
	// end by it must not hold up the retry.
	closeGrace = 20 * time.Millisecond
)

// Bounds end reading ahead. A field that is zero bounds nothing.
type Bounds struct {
	Bytes   int                      // so many have been read; more may have, and are kept
	Total   time.Duration            // since the call
	Flow    time.Duration            // since the first byte
	Silence time.Duration            // since the last byte, or the call
	Enough  func(prefix []byte) bool // asked about all that was read, after each Read
}

// ErrSilent says that reading ahead ended because nothing came.
var ErrSilent = errors.New("resilient: the response body fell silent")

// Body is a response body of which the first Max bytes that come through are kept,
// read ahead or by the caller. So an error object can be parsed at any time, and
// the caller still reads every byte, and the error at the end, as they came.
type Body struct {
	rc       io.ReadCloser
	received time.Time
	turn     chan struct{} // held while reading rc

	mu     sync.Mutex
	done   chan struct{} // closed when the body is; nil: nobody waits for the turn
	size   int           // of buf to begin with
	buf    []byte
	off    int       // where the caller reads in buf
	err    error     // of rc
	first  time.Time // when a byte was read ahead for the first time; zero: never
	last   time.Time // and for the last
	enough bool      // reading ahead is to stop
	closed bool
	empty  int // Reads of the caller in a row that got nothing
}

// New returns a Body over that of a response, of which nothing was read yet.
func New(resp *http.Response, received time.Time) *Body {
	size := int64(512)
	if resp.ContentLength > 0 {
		size = min(resp.ContentLength, Max)
	}
	return &Body{
		rc: resp.Body, received: received,
		turn: make(chan struct{}, 1), size: int(size),
	}
}

// Received returns when the response was received.
func (b *Body) Received() time.Time { return b.received }

// Ahead reads the beginning of the body, before anybody else does, until a bound is
// reached, the body ends or the context does. The error is io.EOF or that of the body
// if it has ended, ErrSilent, or the cause of the context, and otherwise nil. Reading
// ahead needs a goroutine, because a Read cannot be bounded in time. It ends with its
// Read, at the latest when the body is closed.
func (b *Body) Ahead(ctx context.Context, bounds Bounds) ([]byte, error) {
	began, first := time.Now(), make(chan struct{})
	b.turn <- struct{}{}
	go b.readAhead(bounds, first)
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	for {
		left, err := b.left(began, bounds)
		if left <= 0 {
			return b.snapshot(), err
		}
		timer.Reset(left)
		select {
		case b.turn <- struct{}{}: // it was given back
			<-b.turn
			return b.snapshot(), b.failure()
		case <-first: // the time since then is bounded
			first = nil
		case <-timer.C:
		case <-ctx.Done():
			return b.snapshot(), context.Cause(ctx)
		}
	}
}

// left returns how long reading ahead may go on, and with which error it ends then.
func (b *Body) left(began time.Time, bounds Bounds) (left time.Duration, err error) {
	b.mu.Lock()
	first, last := b.first, b.last
	b.mu.Unlock()
	now := time.Now()
	left = math.MaxInt64
	if bounds.Total > 0 {
		left = bounds.Total - now.Sub(began)
	}
	if bounds.Flow > 0 && !first.IsZero() {
		left = min(left, bounds.Flow-now.Sub(first))
	}
	if bounds.Silence > 0 {
		if last.IsZero() {
			last = began
		}
		if silent := bounds.Silence - now.Sub(last); silent < left {
			return silent, ErrSilent
		}
	}
	return left, nil
}

// readAhead fills the prefix and gives the turn back. It closes first when a byte
// has come. If the body panics, that becomes an error: nobody could recover from it in
// a goroutine of its own.
func (b *Body) readAhead(bounds Bounds, first chan struct{}) {
	defer func() {
		if p := recover(); p != nil {
			b.fail(fmt.Errorf("resilient: reading the response body panicked: %v", p))
		}
		<-b.turn
	}()
	b.fill(bounds.Bytes, func(prefix []byte) bool {
		now := time.Now()
		b.mu.Lock()
		if b.last = now; b.first.IsZero() {
			b.first = now
			close(first)
		}
		b.mu.Unlock()
		return bounds.Enough != nil && bounds.Enough(prefix)
	})
}

// fill reads until the prefix has size bytes, the body ends or it has enough. It asks
// arrived about all that was read whenever there is more.
func (b *Body) fill(size int, arrived func(prefix []byte) bool) {
	for empty := 0; ; {
		b.mu.Lock()
		if b.enough || b.closed || b.err != nil || len(b.buf) >= size {
			b.mu.Unlock()
			return
		}
		if len(b.buf) == cap(b.buf) {
			b.buf = slices.Grow(b.buf, min(max(b.size, len(b.buf)), size-len(b.buf)))
		}
		spare := b.buf[len(b.buf):min(cap(b.buf), size)]
		b.mu.Unlock()

		n, err := b.read(spare)
		if empty++; n > 0 {
			empty = 0
		} else if err == nil && empty == maxEmpty {
			err = io.ErrNoProgress
		}
		b.mu.Lock()
		b.buf, b.err = b.buf[:len(b.buf)+n], err
		prefix := b.buf
		b.mu.Unlock()
		if n > 0 && arrived(prefix) {
			return
		}
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

// Kept returns the first Max bytes, as far as they have been read.
func (b *Body) Kept() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clip(b.buf[:min(len(b.buf), Max)])
}

func (b *Body) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *Body) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// Prefix returns the first Max bytes of the body, and reads on if need be,
// which blocks as reading the body would.
func (b *Body) Prefix() []byte {
	if !b.takeTurn() {
		return b.snapshot()
	}
	defer func() { <-b.turn }()
	b.mu.Lock()
	b.enough = false
	b.mu.Unlock()
	b.fill(Max, func([]byte) bool { return false })
	prefix := b.snapshot()
	return prefix[:min(len(prefix), Max)]
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
	n, err := b.read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.empty++; n > 0 || len(p) == 0 {
		b.empty = 0
	} else if err == nil && b.empty >= maxEmpty {
		err = io.ErrNoProgress
	}
	b.buf = append(b.buf, p[:min(n, max(Max-len(b.buf), 0))]...)
	b.off, b.err = len(b.buf), err
	return n, err
}

func (b *Body) read(p []byte) (n int, err error) {
	if n, err = b.rc.Read(p); n < 0 || n > len(p) {
		return 0, errors.New("resilient: the response body read an impossible number of bytes")
	}
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
