package resilient

import (
	"context"
	"net/http"
	"time"
)

// Limiter holds a request back until it may be sent. *rate.Limiter is one. An error
// ends the call without a further attempt. If the context has not ended, the error
// reaches the caller as a [*LimitError].
//
// A Limiter that knows how long it will wait announces that with [ReportWait]. One
// that learns from the answers is a [LearningLimiter].
type Limiter interface{ Wait(context.Context) error }

// LearningLimiter is a [Limiter] that learns from the server's answers. Observe is
// called after each attempt that waited for it. All learning is left to it: the
// pace that a Transport learns by itself ([WithLearnedRate]) would be one more on
// top.
type LearningLimiter interface {
	Limiter
	Observe(AttemptInfo)
}

// limiterOfRequests is a Limiter whose requests have different costs. The Limiter that
// For returns is the one of the call. Module redislimit has it, and no other need have.
type limiterOfRequests interface {
	Limiter
	For(*http.Request) Limiter
}

// costLimiter is the Limiter of a call that takes what its request costs.
type costLimiter interface {
	Limiter
	Names() []string                  // of the limits that can be settled
	Settle(name string, used float64) // of the last attempt
	GiveBack()                        // the last attempt was not made
}

// ReportWait calls the Wait hooks ([Trace]) of the attempt that waits with the
// context, with the reason "limiter". It is for the Wait method of a [Limiter],
// to be called in its goroutine, with its context, before each wait, which will
// take d. With any other context, or if d is not above 0, it does nothing.
func ReportWait(ctx context.Context, d time.Duration) {
	if r, ok := ctx.Value(reportKey{}).(*waitReport); ok && d > 0 {
		r.made = true
		r.wait.announce(ReasonLimiter, d)
	}
}

type reportKey struct{}

// waitReport notes whether a Limiter has announced its wait.
type waitReport struct {
	wait *wait
	made bool
}

// wait tells the hooks of a wait of one attempt, and counts it.
type wait struct {
	hook    func(WaitInfo) // nil: none
	req     *http.Request
	path    string
	attempt int
	limit   string       // that holds it, in words
	totals  [2]*counters // of the Transport, and of the key if it is known
	reason  Reason       // "": it has not begun
	begun   time.Time
}

// begins is called before the wait.
func (w *wait) begins(reason string, d time.Duration) {
	w.reason, w.begun = reason, time.Now()
	w.announce(reason, d)
}

func (w *wait) announce(reason string, d time.Duration) {
	if w.hook != nil {
		w.hook(WaitInfo{Request: w.req, Path: w.path, Attempt: w.attempt, Reason: reason, Duration: d, Limit: w.limit})
	}
}

// ended counts the wait, if it has begun.
func (w *wait) ended() {
	if w.reason == "" {
		return
	}
	for _, c := range w.totals {
		c.wait(w.reason, time.Since(w.begun))
	}
}

// waitFor waits for the Limiter of WithLimiter. That one's errors cannot be
// told apart by type (x/time/rate has none), so they are told apart by whose
// time has run out.
func waitFor(ctx context.Context, l Limiter, maxWait time.Duration, w *wait) error {
	limited, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	report := waitReport{wait: w}
	if w.hook != nil {
		limited = context.WithValue(limited, reportKey{}, &report)
	}
	w.begun = time.Now()
	err := l.Wait(limited)
	if d := time.Since(w.begun); d > 0 {
		w.reason = ReasonLimiter
		w.ended()
		if err == nil && !report.made {
			w.announce(w.reason, d)
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if limited.Err() != nil {
		return &LimitError{Reason: ReasonLimiter, Wait: maxWait, Bound: boundMaxWait} // our doing, not the caller's deadline
	}
	if refused, ok := err.(*LimitError); ok { //nolint:errorlint // one that says it all is not wrapped
		return refused
	}
	return &LimitError{Reason: ReasonLimiter, Err: err}
}

// limiterOf returns the Limiter of a call.
func (c *config) limiterOf(req *http.Request) Limiter {
	l := c.limiterFor(req)
	if of, ok := l.(limiterOfRequests); ok {
		return of.For(req)
	}
	return l
}

// allows reports whether a Limiter that can say so lets a request go at once.
func allows(l Limiter) bool {
	a, ok := l.(interface{ Allow() bool })
	return ok && a.Allow()
}
