package resilient

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/resilienthttp/resilient/internal/redact"
)

// Trace is a set of hooks that are called in the course of a request, in the
// manner of httptrace.ClientTrace; any may be nil. They run in the goroutine of
// the request and hold it up, so they should be quick. The Request they are
// given is the caller's own, the same pointer for all hooks of one call, and
// must not be changed.
type Trace struct {
	// AttemptStart is called before each attempt is handed to the base, once
	// the rate limit let it through. Only Request, Path, Attempt, Resends and
	// ResendReason are set.
	AttemptStart func(AttemptInfo)

	// AttemptDone is called after each attempt, when the response headers have
	// arrived or there is an error, with the verdict. It is not called when no
	// attempt was made, because the limiter refused or the context had ended.
	AttemptDone func(AttemptInfo)

	// Wait is called before each wait, never after the decision to give up. If a
	// [Limiter] of the caller's does not announce its waits with [ReportWait],
	// it is called when the wait is over.
	Wait func(WaitInfo)

	// Done is called once for each call, before RoundTrip returns. It is
	// not called for a request that is malformed (nil URL or Header).
	Done func(DoneInfo)

	// Body is called last, when the body of the response has been read to its end,
	// has failed or is closed, by the goroutine that reads or closes it. It is
	// called if the Body of the DoneInfo is true: not without a response or a body,
	// not for an upgraded connection (101), and not if the body is never closed.
	Body func(BodyInfo)
}

// AttemptInfo is one attempt and its outcome.
type AttemptInfo struct {
	Request    *http.Request // the caller's
	Path       string        // of the URL, as it may be shown, see WithLogPath
	Attempt    int           // 1 is the first
	StatusCode int           // 0: no response
	APIError   *APIError     // the parsed error object; nil for a success
	Err        error         // why there is no response
	Verdict    Verdict
	Duration   time.Duration // until the response headers, or the error

	// Resends is how often the request had been sent before this call, and
	// ResendReason why it is sent again, see WithResend.
	Resends      int
	ResendReason Reason
}

// WaitInfo is a wait that begins.
type WaitInfo struct {
	Request *http.Request // the caller's
	Path    string        // of the URL, as it may be shown, see WithLogPath
	Attempt int           // the attempt that waits: 1 waits for a limiter only

	// Reason is ReasonBackOff, ReasonRetryAfter, ReasonRateLimit, ReasonPause,
	// ReasonInFlight or ReasonLimiter.
	Reason Reason

	// Duration is how long the wait will be. For ReasonRateLimit and ReasonPause
	// it is an estimate, because others may go first. 0: it depends on the
	// answers to the attempts that go ahead.
	Duration time.Duration

	// Limit is what is believed of the limit of the server's that holds the
	// attempt, in the words of [LimitSnapshot], such as "10/s for GET /v1/search,
	// confirmed 8s ago"; "" if none does.
	Limit string
}

// DoneInfo is how a call ended.
type DoneInfo struct {
	Request    *http.Request // the caller's
	Path       string        // of the URL, as it may be shown, see WithLogPath
	Attempts   int           // attempts made; 0: nothing was sent
	StatusCode int           // of the response; 0: none
	APIError   *APIError     // the parsed error object of an error response, nil for a success, or without a response
	Err        error         // the error that RoundTrip returns

	// Reason is why there is no further attempt: ReasonSuccess, the reason of a
	// Verdict that is final, or one of ReasonOutOfAttempts, ReasonNotIdempotent,
	// ReasonBodyNotReplayable, ReasonBodyError, ReasonBudget,
	// ReasonBackOffStopped, ReasonMaxWait, ReasonDeadline, ReasonLimited and
	// ReasonCanceled.
	Reason Reason

	Duration time.Duration // of the whole call, up to the response headers

	// Body reports whether the response has a body, of whose end a Trace's Body is
	// told.
	Body bool

	// Resends is how often the request had been sent before this call, and
	// ResendReason why it is sent again, see WithResend.
	Resends      int
	ResendReason Reason
}

// compose returns a Trace that calls the hooks of t, then those of u; either
// may be nil.
func (t *Trace) compose(u *Trace) *Trace {
	if t == nil {
		return u
	}
	if u == nil {
		return t
	}
	return &Trace{
		AttemptStart: both(t.AttemptStart, u.AttemptStart),
		AttemptDone:  both(t.AttemptDone, u.AttemptDone),
		Wait:         both(t.Wait, u.Wait),
		Done:         both(t.Done, u.Done),
		Body:         both(t.Body, u.Body),
	}
}

func both[T any](f, g func(T)) func(T) {
	if f == nil {
		return g
	}
	if g == nil {
		return f
	}
	return func(v T) { f(v); g(v) }
}

// logTrace returns hooks that write to l. A log is read by more people than a
// response, so it holds the codes an error object carries, not its message.
func logTrace(l *slog.Logger, level func(DoneInfo) slog.Level) *Trace {
	outcome := func(attrs []slog.Attr, e *APIError, err error) []slog.Attr {
		if e != nil {
			attrs = append(attrs, slog.String("kind", e.Kind.String()),
				slog.String("type", redact.Line(e.Type, 64)), slog.String("code", redact.Line(e.Code, 64)),
				slog.String("request_id", redact.Line(e.RequestID, 128)))
		} else if err != nil {
			attrs = append(attrs, slog.String("error", redact.Unquoted(err)))
		}
		return attrs
	}
	write := func(req *http.Request, path string, level slog.Level, msg string, attrs ...slog.Attr) {
		ctx := req.Context()
		if !l.Enabled(ctx, level) {
			return
		}
		all := append([]slog.Attr{
			slog.String("method", method(req)),
			slog.String("host", req.URL.Host),
			slog.String("path", path),
		}, attrs...)
		l.LogAttrs(ctx, level, msg, all...)
	}
	return &Trace{
		AttemptStart: func(a AttemptInfo) {
			write(a.Request, a.Path, slog.LevelDebug, "attempt started", slog.Int("attempt", a.Attempt))
		},
		AttemptDone: func(a AttemptInfo) {
			level := slog.LevelDebug
			if a.failed() {
				level = slog.LevelInfo
			}
			attrs := []slog.Attr{
				slog.Int("attempt", a.Attempt),
				slog.Int("status", a.StatusCode),
				slog.Duration("duration", a.Duration),
				slog.String("why", a.Verdict.Reason),
			}
			write(a.Request, a.Path, level, "attempt done", outcome(attrs, a.APIError, a.Err)...)
		},
		Wait: func(w WaitInfo) {
			attrs := []slog.Attr{
				slog.Int("attempt", w.Attempt),
				slog.String("reason", w.Reason), slog.Duration("duration", w.Duration),
			}
			if w.Limit != "" {
				attrs = append(attrs, slog.String("limit", w.Limit))
			}
			write(w.Request, w.Path, slog.LevelInfo, "waiting", attrs...)
		},
		Done: func(d DoneInfo) {
			attrs := []slog.Attr{
				slog.Int("attempts", d.Attempts),
				slog.Int("status", d.StatusCode), slog.Duration("duration", d.Duration),
				slog.String("why", d.Reason),
			}
			if d.Resends > 0 {
				attrs = append(attrs, slog.Int("resends", d.Resends), slog.String("resend_reason", d.ResendReason))
			}
			write(d.Request, d.Path, level(d), "call done", outcome(attrs, d.APIError, d.Err)...)
		},
		Body: func(b BodyInfo) {
			level := slog.LevelDebug
			attrs := []slog.Attr{
				slog.Int("status", b.StatusCode), slog.Int64("bytes", b.Bytes), slog.Duration("duration", b.Duration),
			}
			switch {
			case b.Err != nil:
				level = slog.LevelWarn
				attrs = append(attrs, slog.String("error", redact.Unquoted(b.Err)))
			case b.Resumed > 0:
				level = slog.LevelInfo
				attrs = append(attrs, slog.Int("resumed", b.Resumed))
			}
			write(b.Request, b.Path, level, "body done", attrs...)
		},
	}
}

// defaultLogLevel is the level at which the end of a call is logged, by its consequence.
// A call that its own caller gave up is no failure.
func defaultLogLevel(d DoneInfo) slog.Level {
	switch {
	case d.Reason == ReasonCanceled && errors.Is(d.Request.Context().Err(), context.Canceled):
		return slog.LevelInfo
	case d.Reason != ReasonSuccess:
		return slog.LevelWarn
	case d.Attempts > 1:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
