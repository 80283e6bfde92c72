// Package peek reads the beginning of a response body and leaves the body whole.
package peek

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
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
	size     int // of buf to begin with

	mu      sync.Mutex
	taken   bool          // rc is being read or closed
	changed chan struct{} // closed when taken, closed or first changes; nil: nobody waits for that
	buf     []byte
	off     int       // where the caller reads in buf
	err     error     // of rc
	first   time.Time // when a byte was read ahead for the first time; zero: never
	last    time.Time // and for the last
	enough  bool      // reading ahead is to stop
	closed  bool
	empty   int // Reads of the caller in a row that got nothing
}

// New returns a Body over that of a response, of which nothing was read yet.
func New(resp *http.Response, received time.Time) *Body {
	b := new(Body)
	b.Init(resp, received)
	return b
}

// Init makes a Body in place, as New does.
func (b *Body) Init(resp *http.Response, received time.Time) {
	b.rc, b.received, b.size = resp.Body, received, 512
	if resp.ContentLength > 0 {
		b.size = int(min(resp.ContentLength, Max-1)) + 1 // the end is read too
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
	if !b.take() {
		return b.snapshot(), nil
	}
	go b.readAhead(bounds)
	// Most error bodies are short and come with the headers. The goroutine is done with
	// such a one if it goes first, and there is nothing to wait for.
	runtime.Gosched()
	var began time.Time
	var timer *time.Timer
	for {
		b.mu.Lock()
		if !b.taken { // it was given back
			prefix, err := b.prefix(), b.err
			b.mu.Unlock()
			return prefix, err
		}
		now := time.Now()
		if began.IsZero() {
			began = now
		}
		left, err := b.left(now, began, bounds)
		changed := b.change()
		b.mu.Unlock()
		if left <= 0 {
			return b.snapshot(), err
		}
		if timer == nil {
			timer = time.NewTimer(left)
			defer timer.Stop()
		} else {
			timer.Reset(left)
		}
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return b.snapshot(), context.Cause(ctx)
		}
	}
}

// left returns how long reading ahead may go on, and with which error it ends then. The
// caller holds b.mu.
func (b *Body) left(now, began time.Time, bounds Bounds) (left time.Duration, err error) {
	left = math.MaxInt64
	if bounds.Total > 0 {
		left = bounds.Total - now.Sub(began)
	}
	if bounds.Flow > 0 && !b.first.IsZero() {
		left = min(left, bounds.Flow-now.Sub(b.first))
	}
	if bounds.Silence > 0 {
		last := b.last
		if last.IsZero() {
			last = began
		}
		if silent := bounds.Silence - now.Sub(last); silent < left {
			return silent, ErrSilent
		}
	}
	return left, nil
}

// readAhead fills the prefix and gives the turn back. If the body panics, that becomes
// an error: nobody could recover from it in a goroutine of its own.
func (b *Body) readAhead(bounds Bounds) {
	defer func() {
		if p := recover(); p != nil {
			b.fail(fmt.Errorf("resilient: reading the response body panicked: %v", p))
		}
		b.giveBack()
	}()
	b.fill(bounds)
}

// fill reads until the prefix has bounds.Bytes, the body ends or it has enough.
func (b *Body) fill(bounds Bounds) {
	for empty := 0; ; {
		b.mu.Lock()
		if b.enough || b.closed || b.err != nil || len(b.buf) >= bounds.Bytes {
			b.mu.Unlock()
			return
		}
		if len(b.buf) == cap(b.buf) {
			b.buf = slices.Grow(b.buf, min(max(b.size, len(b.buf)), bounds.Bytes-len(b.buf)))
		}
		spare := b.buf[len(b.buf):min(cap(b.buf), bounds.Bytes)]
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
		if n > 0 && (bounds.Flow > 0 || bounds.Silence > 0) { // or else nobody asks when
			b.arrived(time.Now())
		}
		b.mu.Unlock()
		if n > 0 && bounds.Enough != nil && bounds.Enough(prefix) {
			return
		}
	}
}

// arrived notes that bytes have come, for a caller that holds b.mu.
func (b *Body) arrived(now time.Time) {
	if b.last = now; b.first.IsZero() {
		b.first = now
		b.wake() // the time since then is bounded
	}
}

// snapshot returns the bytes read so far, and stops reading ahead.
func (b *Body) snapshot() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.prefix()
}

// prefix is snapshot for a caller that holds b.mu.
func (b *Body) prefix() []byte {
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

func (b *Body) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// Prefix returns the first Max bytes of the body, and reads on if need be,
// which blocks as reading the body would.
func (b *Body) Prefix() []byte {
	if !b.take() {
		return b.snapshot()
	}
	defer b.giveBack()
	b.mu.Lock()
	b.enough = false
	b.mu.Unlock()
	b.fill(Bounds{Bytes: Max})
	prefix := b.snapshot()
	return prefix[:min(len(prefix), Max)]
}

// Read reads the body from its beginning, even if some was read ahead.
func (b *Body) Read(p []byte) (int, error) {
	if n, err, ok := b.kept(p); ok {
		return n, err
	}
	if !b.take() {
		return 0, http.ErrBodyReadAfterClose
	}
	defer b.giveBack()
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

// take waits for the turn to read, and reports whether it got it before the body was
// closed. The turn is given back by giveBack.
func (b *Body) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.taken {
		if b.closed {
			return false
		}
		changed := b.change()
		b.mu.Unlock()
		<-changed
		b.mu.Lock()
	}
	b.taken = true
	return true
}

func (b *Body) giveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = false
	b.wake()
}

// change returns a channel that is closed by the next wake. The caller holds b.mu.
func (b *Body) change() <-chan struct{} {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

// wake wakes all who wait for a change, for a caller that holds b.mu.
func (b *Body) wake() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// Close closes the body. It waits at most closeGrace for a Read in progress to end:
// while net/http reads the beginning of a gzip body, up to Go 1.26, its Close waits
// for that Read, which waits for the server (go.dev/issue/81404). A body with a
// method Abort is then aborted.
func (b *Body) Close() error {
	b.mu.Lock()
	b.closed = true
	b.wake()
	reading := b.taken
	b.taken = true
	b.mu.Unlock()
	if !reading { // and nobody begins any more
		defer b.giveBack()
		return b.rc.Close()
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
