// Package deadline ends an attempt that takes too long to get response headers,
// and leaves the upload of its request body alone.
//
// # Why the upload is left alone
//
// A timeout says how long a server may take to answer. An upload takes as long as
// the line needs, and the same upload cut short and begun again takes longer. So
// the time stands still while the body is read, and starts anew when the body
// ends.
//
// # States
//
//	waiting   no body is being read, and the time runs
//	reading   a Read of the body is in progress, and the time stands still
//	writing   the body has more to come, and the sender is busy with the last Read
//	over      Stop was called, or the time was up
//
// A Read moves the Timer to reading, its return to writing. The end of the body,
// an error of it or its Close moves it back to waiting. A slow producer keeps it
// in reading for as long as it likes. A dead line keeps it in writing, which is
// bounded by a time of its own, see stall.
//
// # A body that is replayed
//
// net/http may send a request again by itself and opens another body for that.
// The newest body is the one that counts. Only the first one starts the time
// anew: a server that refuses every connection would otherwise be tried forever.
package deadline

import (
	"fmt"
	"io"
	"math"
	"sync"
	"time"
)

const (
	// stall is how long the sender may be busy with one Read of the body. The
	// kernel wakes a writer when a third of its send buffer has drained. The
	// buffer holds up to several MiB, so over a slow line a third takes seconds.
	stall = 10 * time.Second

	// inFlight is how much of a body may still be on its way when its end has
	// been read. Linux keeps up to 4 MiB in a send buffer by default, and the
	// receiver and the proxies between hold some more.
	inFlight = 8 << 20
)

// Error is an attempt that had no response headers in time. It is a net.Error.
type Error struct {
	After   time.Duration
	Stalled bool // the request body was not taken
}

func (e *Error) Error() string {
	if e.Stalled {
		return fmt.Sprintf("resilient: the connection took nothing of the request body for %v", e.After)
	}
	return fmt.Sprintf("resilient: no response headers after %v", e.After)
}

// Timeout returns true.
func (e *Error) Timeout() bool { return true }

// Temporary returns true.
func (e *Error) Temporary() bool { return true }

type state int

const (
	waiting state = iota
	reading
	writing
	over
)

// Timer is the time that one attempt may take. It is safe for concurrent use.
type Timer struct {
	limit  time.Duration
	expire func(error)

	mu      sync.Mutex
	timer   *time.Timer
	state   state
	since   time.Time     // when the state was entered
	due     time.Time     // when the time is up, in waiting and writing
	left    time.Duration // for waiting
	body    *body         // the newest; nil: there is none
	renewed bool          // a body has started the time anew
	err     *Error        // the time was up
}

// Start starts a Timer. It calls expire with an *Error, from another goroutine,
// when the time is up.
func Start(limit time.Duration, expire func(error)) *Timer {
	t := &Timer{limit: limit, expire: expire, left: limit, since: time.Now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due = t.since.Add(limit)
	t.timer = time.AfterFunc(limit, t.fire)
	return t
}

// Stop stops the Timer and returns the *Error if the time was up before.
func (t *Timer) Stop() *Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(over, time.Now())
	return t.err
}

// Body returns rc as a body that the Timer watches. The body before it is no
// longer watched.
func (t *Timer) Body(rc io.ReadCloser) io.ReadCloser {
	b := &body{ReadCloser: rc, timer: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.body != nil {
		t.end(time.Now())
	}
	t.body = b
	return b
}

// set enters a state. It is the only place where the state changes.
func (t *Timer) set(s state, now time.Time) {
	elapsed := now.Sub(t.since)
	switch t.state {
	case waiting:
		t.left = max(t.left-elapsed, 0)
	case writing:
		t.body.blocked += elapsed
	case reading:
	case over:
		return
	}
	t.state, t.since = s, now
	switch s {
	case waiting:
		t.arm(t.left)
	case writing:
		t.arm(max(t.limit, stall))
	case reading, over:
		t.timer.Stop()
	}
}

func (t *Timer) arm(d time.Duration) {
	t.due = t.since.Add(d)
	t.timer.Reset(d)
}

// fire is called when the timer says that the time is up.
func (t *Timer) fire() {
	t.mu.Lock()
	now := time.Now()
	if t.state == reading || t.state == over || now.Before(t.due) {
		t.mu.Unlock() // it was stopped or set anew when it had fired already
		return
	}
	t.err = &Error{After: t.limit}
	if t.state == writing {
		t.err = &Error{After: max(t.limit, stall), Stalled: true}
	}
	t.set(over, now)
	t.mu.Unlock()
	t.expire(t.err)
}

// end moves from a body that was being read to waiting.
func (t *Timer) end(now time.Time) {
	if t.state != reading && t.state != writing {
		return
	}
	t.set(waiting, now)
	if !t.renewed {
		t.renewed = true
		t.left = t.limit + min(t.body.tail(), math.MaxInt64-t.limit)
		t.arm(t.left)
	}
}

// body tells its Timer when it is read.
type body struct {
	io.ReadCloser
	timer *Timer

	// The lock of the timer guards these.
	read    int64         // bytes
	blocked time.Duration // between the Reads
	ended   bool
}

// tail returns how long the last of the body may need to arrive, after its end
// has been read. The time that the sender was blocked is the time in which the
// line took all of the body except the part that is still on its way.
func (b *body) tail() time.Duration {
	taken := max(b.read-inFlight, inFlight)
	return time.Duration(float64(b.blocked) * inFlight / float64(taken))
}

func (b *body) Read(p []byte) (n int, err error) {
	b.begins()
	ended := true // if Read panics
	defer func() { b.ends(n, ended) }()
	n, err = b.ReadCloser.Read(p)
	ended = err != nil
	return n, err
}

func (b *body) Close() error {
	b.ends(0, true)
	return b.ReadCloser.Close()
}

// begins is the begin of a Read.
func (b *body) begins() {
	t := b.timer
	t.mu.Lock()
	defer t.mu.Unlock()
	if b == t.body && !b.ended {
		t.set(reading, time.Now())
	}
}

// ends is the end of a Read of n bytes, or of the body.
func (b *body) ends(n int, ended bool) {
	t := b.timer
	t.mu.Lock()
	defer t.mu.Unlock()
	if b != t.body || b.ended {
		return
	}
	b.read += int64(n)
	b.ended = ended
	switch {
	case ended:
		t.end(time.Now())
	default:
		t.set(writing, time.Now())
	}
}
