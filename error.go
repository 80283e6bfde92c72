package resilient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"weak"

	"github.com/resilienthttp/resilient/internal/cause"
	"github.com/resilienthttp/resilient/internal/errorobject"
	"github.com/resilienthttp/resilient/internal/noted"
	"github.com/resilienthttp/resilient/internal/peek"
	"github.com/resilienthttp/resilient/internal/redact"
)

// Kind is the meaning of an error response to the caller. The zero Kind, "none",
// is not an error response: a success, or no response at all.
type Kind uint8

// The kinds of error responses.
const (
	KindInvalidRequest  Kind = iota + 1 // 400, and every 4xx that has no kind of its own
	KindPaymentRequired                 // 402: the account is cancelled or unpaid
	KindAuthentication                  // 401, 403, 407: the credentials are wrong
	KindNotFound                        // 404, 410
	KindRateLimit                       // 429, a code that names a limit, a 503 with nothing left of a quota
	KindServer                          // 5xx, and 408 and 425, which are as temporary
	KindQuota                           // a quota or a balance is used up: waiting a little does not help
)

// String returns the name of the kind, such as "rate limit".
func (k Kind) String() string {
	switch k {
	case KindInvalidRequest:
		return "invalid request"
	case KindPaymentRequired:
		return "payment required"
	case KindAuthentication:
		return "authentication"
	case KindNotFound:
		return "not found"
	case KindRateLimit:
		return "rate limit"
	case KindServer:
		return "server"
	case KindQuota:
		return "quota"
	}
	return "none"
}

// Errors that an [*APIError] of the kind matches with errors.Is. One of
// KindQuota matches ErrRateLimit.
var (
	ErrInvalidRequest  = errors.New("resilient: invalid request")
	ErrPaymentRequired = errors.New("resilient: payment required")
	ErrAuthentication  = errors.New("resilient: authentication failed")
	ErrNotFound        = errors.New("resilient: not found")
	ErrRateLimit       = errors.New("resilient: rate limited")
	ErrServer          = errors.New("resilient: server error")
)

// APIError is an error response, parsed, whichever of the usual shapes its body
// has. It matches the sentinel of its Kind with errors.Is. Header and Body are
// shared with the response: read only.
type APIError struct {
	finalMark

	StatusCode int
	Kind       Kind

	// Code, Type and Message are from the error object in the body, empty
	// where there is none. A numeric code is kept as it was written.
	Code, Type, Message string

	// Invalid names the parameters that are wrong, usually with a 400. Either
	// part of one may be empty.
	Invalid []InvalidParam

	// RetryAfter is the wait that the server asked for, rounded up to the
	// millisecond and at most 365 days; 0: no hint, or a time that has passed.
	// It comes from the first of these that can be understood: Retry-After-Ms
	// and X-Ms-Retry-After-Ms; Retry-After, in seconds, as a date or as a
	// duration; a hint in the body, such as "retry_after"; and, on a rate limit,
	// the RateLimit fields and those like X-RateLimit-Reset, of quotas of which
	// nothing remains. A 503 with nothing left of a quota is a rate limit.
	RetryAfter time.Duration

	// RequestID is the server's name for the request, from the first header
	// of X-Request-Id, Request-Id, X-Correlation-Id, X-Amzn-Requestid and
	// others, or from the body.
	RequestID string

	// Attempts is how many attempts there had been when this one was answered,
	// itself included; 0: not known, because the response came from elsewhere.
	Attempts int

	// Reason is why there was no further attempt, as in a [DoneInfo]; "": the call has
	// not ended, as in the hooks of an attempt, or the response came from elsewhere.
	Reason Reason

	// Unprocessed reports whether the server has certainly acted upon no attempt of
	// the call: it refused them for their rate, a [Rule] or X-Should-Retry says so, or
	// nothing was sent. Otherwise a request that is not idempotent may have had its
	// effect, and it is not known until the call has ended.
	Unprocessed bool

	Header http.Header

	// Body is the beginning of the body, up to 64 KiB. It may be truncated,
	// and compressed if the caller asked for an encoding.
	Body []byte

	cause error // that a package above the Transport has added, see package reauth
}

// InvalidParam is one parameter that the server found wrong.
type InvalidParam struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Error returns the status and the error object in one line of bounded length:
// no header values, no raw body, control characters replaced. The error of [APIError.Unwrap]
// follows.
func (e *APIError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "resilient: status %d", e.StatusCode)
	if e.Type != "" {
		b.WriteString(" " + redact.Line(e.Type, 64))
	}
	if e.Code != "" && e.Code != strconv.Itoa(e.StatusCode) {
		b.WriteString(" (" + redact.Line(e.Code, 64) + ")")
	}
	if e.Message != "" {
		b.WriteString(": " + redact.Line(e.Message, 200))
	}
	for i, p := range e.Invalid {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Invalid)-i)
			break
		}
		b.WriteString("; " + redact.Line(p.Name, 64) + ": " + redact.Line(p.Reason, 100))
	}
	if e.cause != nil {
		b.WriteString("; " + inner(e.cause))
	}
	return b.String()
}

// Unwrap returns the error because of which the response is final although it need not
// have been, such as that of a refresh in package reauth. There usually is none.
func (e *APIError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.cause
}

// Is reports whether target is the sentinel of e's Kind. That of an [AttemptInfo] may be
// nil, which is none.
func (e *APIError) Is(target error) bool {
	if e == nil {
		return false
	}
	switch e.Kind {
	case KindInvalidRequest:
		return target == ErrInvalidRequest
	case KindPaymentRequired:
		return target == ErrPaymentRequired
	case KindAuthentication:
		return target == ErrAuthentication
	case KindNotFound:
		return target == ErrNotFound
	case KindRateLimit, KindQuota:
		return target == ErrRateLimit
	case KindServer:
		return target == ErrServer
	}
	return false
}

// ErrorType returns the error.type of OpenTelemetry: the status, or the kind of an
// error that came as a success.
func (e *APIError) ErrorType() string {
	if e.StatusCode < 400 {
		return e.Kind.String()
	}
	return strconv.Itoa(e.StatusCode)
}

// ErrorFromResponse returns the parsed error object of a response whose status
// is 400 or more, or in which a [Profile] found an error, and whether it is such
// a response. It works on any response, whether or not it came through a
// [Transport], and even if an SDK hands it out after reading it.
//
// It reads at most 64 KiB of the body and puts them back, so that the body still
// reads from the beginning. A body that says nothing of an error, or is cut short,
// leaves Code, Type, Message and Invalid empty. A body that was read or closed by
// somebody else is missing if the response did not come from a Transport. If the
// caller asked for an encoding itself, gzip and deflate are understood. On a body
// that is still arriving ErrorFromResponse blocks, as reading it would.
func ErrorFromResponse(resp *http.Response) (*APIError, bool) {
	if resp == nil {
		return nil, false
	}
	known, body := lookup(resp)
	if resp.StatusCode < 400 && known.attempts == 0 {
		return nil, false
	}
	if body == nil && resp.Body != nil && resp.Body != http.NoBody {
		if known.attempts == 0 {
			_, _ = resp.Body.Read(nil) // lets an errorBody beneath it note its record
			known, body = lookup(resp)
		}
		if body == nil {
			body = peek.New(resp, time.Now())
			resp.Body = body
		}
	}
	var prefix []byte
	received := time.Now()
	if body != nil {
		prefix, received = body.Prefix(), body.Received()
	}
	if known.attempts == 0 {
		known, _ = lookup(resp) // a body above an errorBody may hold a Read back that asks for nothing
	}
	e, _ := known.profile.read(resp.StatusCode, resp.Header, prefix, errorobject.Decode(resp.Header, prefix), received)
	if known.attempts > 0 {
		e.Attempts, e.Kind, e.Reason, e.Unprocessed = known.attempts, known.kind, known.reason, known.unprocessed
		e.RetryAfter = max(e.RetryAfter, known.wait) // a mark may hide the wait of a Rule
	}
	e.cause = cause.Of(resp)
	return e, true
}

// record is the knowledge about an error response that is not in its bytes.
type record struct {
	status   int
	attempts int // 0: nothing is known
	kind     Kind
	wait     time.Duration
	reason   Reason
	profile  *Profile

	unprocessed bool
}

// errorBody is the body of an error response, and has the record of it. To keep that
// here costs next to nothing. Others may put their own body into the response: an SDK
// does when it has read this one, and http.Client if it has a Timeout. So the first Read
// notes the record in records as well.
type errorBody struct {
	peek.Body
	resp   *http.Response
	record record
	noted  atomic.Bool
}

func newErrorBody(resp *http.Response, received time.Time) *errorBody {
	b := &errorBody{resp: resp}
	b.Init(resp, received)
	return b
}

func (b *errorBody) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	if b.record.attempts > 0 && !b.noted.Swap(true) {
		records.Set(b.resp, notedRecord{b.record, weak.Make(&b.Body)})
	}
	return n, err
}

// records holds the records of error responses as long as they are in use: of those whose
// errorBody was read, of those that have none, and of those that took several attempts. It
// is the one state that is not a Transport's, because a response does not name the
// Transport it came through, and its Request has to be the caller's own.
var records noted.Notes[notedRecord] //nolint:gochecknoglobals // see above

type notedRecord struct {
	record

	// Weak, because a body often leads back to its response, which would then
	// never be let go. It lives as long as something reads from it.
	body weak.Pointer[peek.Body]
}

// remember keeps the record of a response that a Transport returns.
func remember(resp *http.Response, r record) {
	b, ok := resp.Body.(*errorBody)
	if ok {
		b.record = r
	}
	// A Transport above this one has to learn of several attempts without a Read, and
	// ErrorFromResponse of an error in a success.
	if !ok || r.status < 400 || r.attempts > 1 {
		records.Set(resp, notedRecord{r, weak.Make(peeked(resp))})
	}
}

// lookup returns what is known of a response, and its body if that keeps its beginning.
func lookup(resp *http.Response) (record, *peek.Body) {
	if b, ok := resp.Body.(*errorBody); ok && b.record.status == resp.StatusCode {
		return b.record, &b.Body
	}
	n := records.Of(resp)
	if n.status != resp.StatusCode {
		return record{}, peeked(resp) // somebody has made another response of it
	}
	if body := n.body.Value(); body != nil {
		return n.record, body
	}
	return n.record, peeked(resp)
}

// peeked returns the body of a response if it keeps its beginning, or nil.
func peeked(resp *http.Response) *peek.Body {
	switch b := resp.Body.(type) {
	case *errorBody:
		return &b.Body
	case *peek.Body:
		return b
	}
	return nil
}

// RetryError is the end, without a response, of a call that had been attempted
// more than once or was waiting for another attempt. errors.Is and errors.As find
// the error that ended it and, if the attempt before it was different, the outcome
// of that one too, so that a context that ended does not hide the server's answer.
type RetryError struct {
	finalMark

	Attempts int   // attempts made
	Err      error // that ended the call: a transport's error, a context's cause, a *LimitError
	Last     error // the outcome of the last attempt before that, an *APIError if there was a response; may be nil
}

// Error returns the attempts, the error that ended the call, and the last outcome,
// in one line of bounded length: errors of a transport may hold text that a server
// sent, and the URL with its query.
func (e *RetryError) Error() string {
	msg := fmt.Sprintf("%sgave up after attempt %d: %s", prefix, e.Attempts, inner(e.Err))
	if e.Last != nil && e.Last.Error() != e.Err.Error() {
		msg += fmt.Sprintf(" (before: %s)", inner(e.Last))
	}
	return msg
}

// prefix begins the text of each error of this package, once.
const prefix = "resilient: "

// inner returns the text of an error within that of another one.
func inner(err error) string { return strings.TrimPrefix(redact.Error(err), prefix) }

// Unwrap returns Err and Last.
func (e *RetryError) Unwrap() []error {
	if e.Last == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Last}
}

// Timeout reports whether Err is a timeout, which a [*LimitError] is not. *url.Error
// asks for it one level down and no further.
func (e *RetryError) Timeout() bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](e.Err)
	return ok && t.Timeout() && !isType[*LimitError](e.Err)
}

// ErrorType returns the error.type of OpenTelemetry, of the error that ended the
// call: "limited", "timeout", "canceled", or the Go type of Err.
func (e *RetryError) ErrorType() string {
	typed, ok := errors.AsType[interface {
		error
		ErrorType() string
	}](e.Err)
	switch {
	case ok:
		return typed.ErrorType()
	case e.Timeout():
		return "timeout"
	case errors.Is(e.Err, context.Canceled):
		return "canceled"
	}
	return fmt.Sprintf("%T", e.Err)
}

// LimitError is the refusal to wait for a limit: the wait would have been longer
// than [WithMaxWait], or than the context lasts. Nothing was sent. It is not an
// [*APIError], which comes from a server, and no timeout. It matches [ErrRateLimit].
//
// Only what is certain refuses at once: the limit of [WithRateLimit], which only a
// context bounds, what the server says, and a learned limit that was confirmed of
// late. Behind a learned limit that is no more than a belief an attempt waits up to
// twice as long as WithMaxWait.
type LimitError struct {
	finalMark

	Reason Reason        // ReasonRateLimit, ReasonPause or ReasonLimiter
	Wait   time.Duration // the wait that was refused, estimated; 0: not known
	Bound  string        // "WithMaxWait", or "deadline": of the context; "": Err says it
	Err    error         // of the Limiter of WithLimiter; else nil
}

// Error returns the reason, the wait, and what bounds it.
func (e *LimitError) Error() string {
	msg := "resilient: not sent: the client-side " + e.Reason
	switch {
	case e.Bound == boundDeadline:
		msg += " would hold it beyond the context's deadline"
	case e.Bound != "":
		msg += " would hold it longer than " + e.Bound + " allows"
	default:
		msg += " does not let it go"
	}
	if e.Wait > 0 {
		msg += fmt.Sprintf(" (wait: %v)", e.Wait.Round(time.Microsecond))
	}
	if e.Err != nil {
		msg += ": " + inner(e.Err)
	}
	return msg
}

// What bounds a wait.
const (
	boundMaxWait  = "WithMaxWait"
	boundDeadline = "deadline"
)

// Is reports whether target is ErrRateLimit: it is a limit that holds the request,
// whoever knows of it.
func (e *LimitError) Is(target error) bool { return target == ErrRateLimit }

// Unwrap returns the limiter's own error.
func (e *LimitError) Unwrap() error { return e.Err }

// ErrorType returns "limited", for OpenTelemetry's error.type.
func (e *LimitError) ErrorType() string { return "limited" }

// finalMark has the methods that SDKs look for before they retry an error. The
// retries were made here, or would be refused again.
type finalMark struct{}

// NonRetriable marks the error as final for the Azure SDK.
func (finalMark) NonRetriable() {}

// RetryableError returns false, which the AWS SDK asks for.
func (finalMark) RetryableError() bool { return false }
