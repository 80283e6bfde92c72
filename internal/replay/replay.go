// Package replay makes a request body that can be sent again of one that can be
// read once, by recording it as it is read.
package replay

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// ErrLost is the error of a reader for which the source is gone.
var ErrLost = errors.New("resilient: the request body was given to a later attempt, or is larger than the replay buffer")

// Body records a source as its readers read it: nothing is read before somebody
// asks for it. The readers take turns at the source, so one that is abandoned in
// the middle of a read loses nothing. A source longer than the limit is passed on
// to the reader that has it, and cannot be read again.
type Body struct {
	src   io.ReadCloser
	limit int64
	turn  chan struct{} // held while reading src

	mu     sync.Mutex
	buf    []byte
	err    error   // of src
	newest *reader // the one that may read src: those before are abandoned
	full   bool    // the limit was passed, and buf given up
	opened int     // readers not closed yet
	ended  bool    // no reader will be opened: the last one closes src
}

// New returns a Body that records up to limit bytes of src.
func New(src io.ReadCloser, limit int64) *Body {
	return &Body{src: src, limit: limit, turn: make(chan struct{}, 1)}
}

// Open returns a reader from the beginning. It is a Request.GetBody. The readers
// opened before it get no more than was recorded.
func (b *Body) Open() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full {
		return nil, ErrLost
	}
	b.opened++
	b.newest = &reader{body: b}
	return b.newest, nil
}

// Overflown reports whether the source was longer than the limit.
func (b *Body) Overflown() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.full
}

// Err returns the error of the source, unless it is io.EOF.
func (b *Body) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == io.EOF { //nolint:errorlint // readers return it bare
		return nil
	}
	return b.err
}

// End says that no other reader will be opened. The source is closed with the last
// of them, or now if there is none.
func (b *Body) End() {
	b.mu.Lock()
	b.ended = true
	last := b.opened == 0
	b.mu.Unlock()
	if last {
		_ = b.src.Close()
	}
}

// reader reads a Body from its beginning.
type reader struct {
	body   *Body
	off    int
	closed bool
}

func (r *reader) Read(p []byte) (int, error) {
	b := r.body
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	if n, err, ok := r.recorded(p); ok {
		return n, err
	}
	n, err := b.src.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	// The bytes that an abandoned reader was in the middle of are kept for the
	// newest one, even if they are a few too many.
	if int64(len(b.buf)+n) > b.limit && r == b.newest {
		b.full, b.buf = true, nil
	}
	if !b.full {
		b.buf = append(b.buf, p[:n]...)
		r.off += n
	}
	return n, err
}

// recorded reads the bytes that are there without asking the source, and reports
// whether there are any.
func (r *reader) recorded(p []byte) (n int, err error, ok bool) { //nolint:revive // ok last, as for maps
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.closed:
		return 0, http.ErrBodyReadAfterClose, true
	case r.off < len(b.buf):
		n = copy(p, b.buf[r.off:])
		r.off += n
		return n, nil, true
	case r != b.newest:
		return 0, ErrLost, true
	}
	return 0, b.err, b.err != nil
}

func (r *reader) Close() error {
	b := r.body
	b.mu.Lock()
	if r.closed {
		b.mu.Unlock()
		return nil
	}
	r.closed = true
	b.opened--
	last := b.ended && b.opened == 0
	b.mu.Unlock()
	if last {
		return b.src.Close() // this also unblocks a Read of it
	}
	return nil
}
