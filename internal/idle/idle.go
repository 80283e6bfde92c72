// Package idle ends a response body when nothing arrives while a Read waits.
//
// # Which time counts
//
// The time counts in which a Read waits. A reader that takes its time between two
// Reads never meets the limit. A Read that returns ends its wait even if it
// returns 0, nil, since it is then not the network that is silent. The bodies of
// net/http do that for an empty buffer only.
//
// A silence ends the body when it has lasted for the limit, or up to a 16th of the
// limit longer. A shorter one never does.
//
// # Cost
//
// A Read of bytes that are there already is faster than a look at the clock and
// much faster than setting a timer. So a Read does neither. It adds one to a
// number when it begins and when it ends. The number is odd while a Read waits,
// and tells one Read from another.
//
// # Timer
//
// A body has one timer and no goroutine. The first Read notes when it begins, and
// sets the timer to a 16th of the limit. When the timer fires, it finds one of
// three:
//
//	no Read                               it is not set again
//	a Read that waits                     it is set to the begin of the Read + limit
//	a Read that has waited for the limit  the body expires
//
// The begin of the Read is known if the Read set the timer. If it did not, it
// began after that, and the time of the finding is taken for its begin. That is
// up to a 16th of the limit too late.
//
// The next Read after each finding sets the timer as the first one did. So a fast
// stream sets it at most 16 times in each limit, a slow one once for each Read, and
// a body that is neither read nor closed any more has no timer once it has fired.
package idle

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// checks is how often the timer fires, in each limit, while bytes arrive. More
// checks make the limit more exact. 16 of them cost about 16 µs in each limit.
const checks = 16

// The state of a Body is the number of begins and ends of Reads, and two bits.
const (
	number    uint64 = 1<<62 - 1
	unwatched uint64 = 1 << 62 // the next Read sets the timer
	expired   uint64 = 1 << 63 // Reads do not go to rc any more
)

// waits reports whether a Read waits.
func waits(state uint64) bool { return state&1 != 0 }

// Error is a response body of which nothing arrived in time. It is a net.Error.
type Error struct {
	Silence time.Duration // the limit
	Bytes   int64         // that arrived before
}

func (e *Error) Error() string {
	return fmt.Sprintf("resilient: no byte of the response body for %v, after %d bytes", e.Silence, e.Bytes)
}

// Timeout returns true.
func (e *Error) Timeout() bool { return true }

// Temporary returns true.
func (e *Error) Temporary() bool { return true }

// Body is a response body that expires when nothing arrives while a Read waits.
// Close may be called during a Read. Reads must not be concurrent.
type Body struct {
	rc     io.ReadCloser
	limit  time.Duration
	expire func(since time.Time)
	state  atomic.Uint64

	// Only Read uses these.
	bytes int64
	err   *Error

	mu       sync.Mutex
	timer    *time.Timer // nil: there was no Read
	read     uint64      // the number of the Read that is watched
	begun    time.Time   // when it began
	ended    bool        // the timer is not set any more
	closed   bool        // by the caller
	closeErr error       // of rc, when the body expired

	told chan struct{} // made before the body expires, closed after expire
}

// New returns a Body over rc with a limit of d, which must be positive.
//
// When the body expires it calls expire, with the time since when nothing arrived,
// and then closes rc, which ends the Read that waits. The Read returns after
// expire does. Both are called in the goroutine of the timer. If rc has a method
// Abort, it is called before Close, for a body whose Close waits for the Read, see
// package peek.
func New(rc io.ReadCloser, d time.Duration, expire func(since time.Time)) *Body {
	b := &Body{rc: rc, limit: d, expire: expire}
	b.state.Store(unwatched)
	return b
}

// Read reads the body. If the body expires, this Read and all after it return an
// *Error. Bytes that came at that moment are returned with it.
func (b *Body) Read(p []byte) (int, error) {
	if s := b.state.Add(1); s&(unwatched|expired) != 0 {
		if s&expired != 0 {
			return 0, b.tooLate()
		}
		b.watch(s)
	}
	n, err := b.wait(p)
	b.bytes += int64(n)
	if b.state.Load()&expired != 0 {
		return n, b.expiry()
	}
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.end()
	}
	return n, err
}

// wait is the Read of rc. It ends even if rc panics.
func (b *Body) wait(p []byte) (int, error) {
	defer b.state.Add(1)
	return b.rc.Read(p)
}

// watch sets the timer for a Read that begins.
func (b *Body) watch(state uint64) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.And(^unwatched)
	if b.ended {
		return
	}
	b.read, b.begun = state&number, now
	if b.timer == nil {
		b.timer = time.AfterFunc(b.limit/checks, b.fire)
	} else {
		b.timer.Reset(b.limit / checks)
	}
}

// tooLate returns the error of a Read that begins when the body has expired.
func (b *Body) tooLate() error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return http.ErrBodyReadAfterClose
	}
	return b.expiry()
}

// fire is called when the timer fires.
func (b *Body) fire() {
	since, expired := b.check()
	if !expired {
		return
	}
	b.expire(since)
	close(b.told)
	err := b.abort()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closeErr = err
}

// check looks for a Read that waits. It reports whether the body has expired, and
// since when nothing arrived.
func (b *Body) check() (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return time.Time{}, false
	}
	now := time.Now()
	state := b.state.Or(unwatched) | unwatched
	if !waits(state) {
		return time.Time{}, false
	}
	if b.read != state&number {
		b.read, b.begun = state&number, now
	}
	if left := b.limit - now.Sub(b.begun); left > 0 {
		b.timer.Reset(left)
		return time.Time{}, false
	}
	b.told = make(chan struct{})
	if !b.state.CompareAndSwap(state, state|expired) {
		return time.Time{}, false // something arrived just now
	}
	b.end()
	return b.begun, true
}

// end ends the watch. It is called with the lock held.
func (b *Body) end() {
	b.ended = true
	if b.timer != nil {
		b.timer.Stop()
	}
}

// expiry returns the error of a body that has expired.
func (b *Body) expiry() error {
	if b.err == nil {
		<-b.told
		b.err = &Error{Silence: b.limit, Bytes: b.bytes}
	}
	return b.err
}

// abort closes rc. A panic becomes an error, because nobody could recover from it
// in the goroutine of the timer.
func (b *Body) abort() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("resilient: closing the response body panicked: %v", p)
		}
	}()
	if rc, ok := b.rc.(interface{ Abort() }); ok {
		rc.Abort()
	}
	return b.rc.Close()
}

// Close closes the body. When the body has expired, rc is not closed again, and
// Close does not wait for the Close in progress. It returns the error of that if
// there is one.
//
// A Read after Close returns what rc returns then, except that it returns
// [http.ErrBodyReadAfterClose] when the body has expired.
func (b *Body) Close() error {
	b.mu.Lock()
	b.closed = true
	b.end()
	over, err := b.state.Load()&expired != 0, b.closeErr
	b.mu.Unlock()
	if over {
		return err
	}
	return b.rc.Close()
}
