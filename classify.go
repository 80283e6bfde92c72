package resilient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"weak"
)

// Kind is what an error response means to the caller. The zero Kind, "none",
// is not an error response: a success, or no response at all.
type Kind uint8

// The kinds of error responses.
const (
	KindInvalidRequest  Kind = iota + 1 // 400, and every 4xx that has no kind of its own
	KindPaymentRequired                 // 402: the account is cancelled or unpaid
	KindAuthentication                  // 401, 403, 407: the credentials are wrong
	KindNotFound                        // 404, 410
	KindRateLimit                       // 429: too many requests
	KindServer                          // 5xx, and 408 and 425, which are as temporary
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
	}
	return "none"
}

// Errors that an [*APIError] of the kind matches with errors.Is.
var (
	ErrInvalidRequest  = errors.New("resilient: invalid request")
	ErrPaymentRequired = errors.New("resilient: payment required")
	ErrAuthentication  = errors.New("resilient: authentication failed")
	ErrNotFound        = errors.New("resilient: not found")
	ErrRateLimit       = errors.New("resilient: rate limited")
	ErrServer          = errors.New("resilient: server error")
)

// Verdict is what is to be done about a failed attempt.
type Verdict struct {
	// Kind is what an error response means; 0 when there is no response.
	Kind Kind

	// Retry says that the failure is temporary: the same request can succeed.
	Retry bool

	// Unprocessed says that the request was certainly not acted upon, so that
	// any method may be sent again. A response with Unprocessed and a
	// RetryAfter pauses its limit key for all callers.
	Unprocessed bool

	// RetryAfter is the least time to wait, as the server asked; 0: no hint.
	RetryAfter time.Duration

	// Why is a short reason, for traces and logs.
	Why string
}

// Classifier decides about a failed attempt: a response with a status of 400
// or more, or none. It is given the attempt with the default verdict already
// in it, and returns that, changed or not:
//
//	func(a resilient.AttemptInfo) resilient.Verdict {
//		v := a.Verdict
//		if a.APIError != nil && a.APIError.Code == "insufficient_quota" {
//			v.Retry, v.Why = false, "the quota is used up"
//		}
//		return v
//	}
//
// It is not asked about statuses below 400, nor once the caller's context has
// ended. A verdict to retry is still subject to the method, the body, the
// budget and the time left.
type Classifier func(AttemptInfo) Verdict

// WithClassifier sets a classifier. It panics if f is nil. The default is the
// verdict that a Classifier is given.
func WithClassifier(f Classifier) Option {
	mustBe(f != nil, "WithClassifier", "not nil", "nil")
	return func(c *config) { c.classifier = f }
}

// classifyStatus is the default verdict on a response: the table of documented
// errors, then what RFC 9110 says of the others. hinted tells a Retry-After of
// 0 from none.
func classifyStatus(status int, retryAfter time.Duration, hinted bool) Verdict {
	v := Verdict{Kind: kindOf(status), RetryAfter: retryAfter}
	switch {
	case status < 400:
		return Verdict{Why: "success"}
	case status == http.StatusTooManyRequests:
		// RFC 6585 section 4. The request was counted and turned away.
		v.Retry, v.Unprocessed, v.Why = true, true, "rate limited"
		return v
	case status == http.StatusServiceUnavailable && hinted:
		// RFC 9110 section 15.6.4: a server that says when to come back is one
		// that turns requests away. Without the hint, a 503 is as often a proxy
		// that lost its upstream in the middle of a request.
		v.Retry, v.Unprocessed, v.Why = true, true, "unavailable until a stated time"
		return v
	}
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		v.Retry, v.Why = true, "temporary status"
		return v
	}
	v.Why = "final status"
	return v
}

func kindOf(status int) Kind {
	switch status {
	case http.StatusPaymentRequired:
		return KindPaymentRequired
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return KindAuthentication
	case http.StatusNotFound, http.StatusGone:
		return KindNotFound
	case http.StatusTooManyRequests:
		return KindRateLimit
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return KindServer
	}
	switch {
	case status < 400:
		return 0
	case status < 500:
		return KindInvalidRequest
	}
	return KindServer
}

// classifyError is the default verdict on an attempt without a response. What
// is known to be permanent is listed, by type and never by text; the rest of
// the network's many errors is taken for temporary, as allow-lists of them grow
// for years and are never complete.
func classifyError(req *http.Request, err error, f fate) Verdict {
	if req.Context().Err() != nil {
		return Verdict{Why: "canceled"}
	}
	if f == bodyFailed {
		return Verdict{Why: "request body"}
	}
	if why := permanent(req, err); why != "" {
		return Verdict{Why: why}
	}
	if f == neverSent {
		return Verdict{Retry: true, Unprocessed: true, Why: "never sent"}
	}
	if isType[*attemptTimeoutError](err) {
		return Verdict{Retry: true, Why: "attempt timed out"}
	}
	return Verdict{Retry: true, Why: "no response"}
}

// permanent returns why err would come again, or "".
func permanent(req *http.Request, err error) string {
	if isType[*tls.CertificateVerificationError](err) || isType[x509.UnknownAuthorityError](err) ||
		isType[x509.HostnameError](err) || isType[x509.CertificateInvalidError](err) ||
		isType[tls.RecordHeaderError](err) {
		return "TLS"
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return "unknown host"
	}
	if isType[*net.AddrError](err) {
		return "bad address"
	}
	if errors.Is(err, http.ErrSkipAltProtocol) || errors.Is(err, errNoAnswer) {
		return "base transport"
	}
	// The context of the attempt is the caller's, which has not ended, so the
	// base is giving up for a reason of its own. (Not so for DeadlineExceeded:
	// a token fetched by a base of oauth2 may have a deadline of its own.)
	if errors.Is(err, context.Canceled) {
		return "base transport canceled"
	}
	// net/http says these with errors that have no type.
	if malformed(req) {
		return "malformed request"
	}
	return ""
}

// fate is what is known of a request that got no response.
type fate int

const (
	unknown    fate = iota
	neverSent       // proven: the server got nothing of it
	bodyFailed      // reading its body failed
)

func isType[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// malformed reports whether net/http refuses req whatever the network does.
func malformed(req *http.Request) bool {
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" || req.URL.Host == "" {
		return true
	}
	if !isToken(method(req)) || req.Body == nil && req.ContentLength > 0 {
		return true
	}
	for name, values := range req.Header {
		if !isToken(name) {
			return true
		}
		for _, v := range values {
			if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
				return true
			}
		}
	}
	return false
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// errNoAnswer is a base that returns neither a response nor an error.
var errNoAnswer = errors.New("resilient: the base RoundTripper returned neither a response nor an error")

// method returns the method of req, of which "" is GET.
func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// idempotent reports whether req may be sent twice, by its method (RFC 9110
// section 9.2.2) or because it names a key by which the server knows it again.
// The two headers are those that net/http goes by.
func idempotent(req *http.Request) bool {
	switch method(req) {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace,
		http.MethodPut, http.MethodDelete:
		return true
	}
	return first(req.Header["Idempotency-Key"]) != "" || first(req.Header["X-Idempotency-Key"]) != ""
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// maxPrefix is how much of an error body is read to parse it.
const maxPrefix = 64 << 10

// APIError is an error response, parsed. It matches the sentinel of its Kind
// with errors.Is. Header and Body are shared with the response: read only.
type APIError struct {
	StatusCode int
	Kind       Kind

	// Code, Type and Message are from the error object in the body, empty
	// where there is none. A numeric code is kept as it was written.
	Code, Type, Message string

	// Invalid names the parameters that are wrong, usually with a 400.
	Invalid []InvalidParam

	// RetryAfter is what the server asked for, rounded up to the millisecond
	// and at most 365 days; 0: no hint, or a time that has passed.
	RetryAfter time.Duration

	// RequestID is the server's name for the request, from the first header
	// of X-Request-Id, Request-Id, X-Correlation-Id, X-Amzn-Requestid.
	RequestID string

	// Attempts is how many attempts there had been when this one was answered,
	// itself included; 0: not known, as the response came from elsewhere.
	Attempts int

	Header http.Header

	// Body is the beginning of the body, up to 64 KiB. It may be truncated.
	Body []byte

	hinted bool // a Retry-After was understood, be it 0
}

// InvalidParam is one parameter that the server found wrong.
type InvalidParam struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Error returns the status and the error object in one line of bounded length:
// no header values, no raw body, control characters replaced.
func (e *APIError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "resilient: status %d", e.StatusCode)
	if e.Type != "" {
		b.WriteString(" " + oneLine(e.Type, 64))
	}
	if e.Code != "" && e.Code != strconv.Itoa(e.StatusCode) {
		b.WriteString(" (" + oneLine(e.Code, 64) + ")")
	}
	if e.Message != "" {
		b.WriteString(": " + oneLine(e.Message, 200))
	}
	for i, p := range e.Invalid {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Invalid)-i)
			break
		}
		b.WriteString("; " + oneLine(p.Name, 64) + ": " + oneLine(p.Reason, 100))
	}
	return b.String()
}

// Is reports whether target is the sentinel of e's Kind.
func (e *APIError) Is(target error) bool {
	switch e.Kind {
	case KindInvalidRequest:
		return target == ErrInvalidRequest
	case KindPaymentRequired:
		return target == ErrPaymentRequired
	case KindAuthentication:
		return target == ErrAuthentication
	case KindNotFound:
		return target == ErrNotFound
	case KindRateLimit:
		return target == ErrRateLimit
	case KindServer:
		return target == ErrServer
	}
	return false
}

// oneLine returns s as valid UTF-8 without control, format and line-breaking
// characters, at most limit runes of it. What a server says ends up in logs.
func oneLine(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s { // ranging turns invalid bytes into U+FFFD
		if n == limit {
			b.WriteString("...")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// errorText is the text of an error for a log, without the URLs that a base may
// have put around it.
func errorText(err error) string {
	for u, ok := errors.AsType[*url.Error](err); ok; u, ok = errors.AsType[*url.Error](err) {
		err = u.Err // bases put them inside one another
	}
	return oneLine(err.Error(), 300)
}

// ErrorFromResponse returns the parsed error object of a response whose status
// is 400 or more, and whether it is such a response. It works on any response,
// whether or not it came through a [Transport], also on one that an SDK hands
// out after reading it.
//
// It reads at most 64 KiB of the body and puts them back, so that the body
// still reads from the beginning. A body that is not the documented JSON
// object, or cut short, leaves Code, Type, Message and Invalid empty; a body
// that was read or closed by somebody else is missing if the response did not
// come from a Transport. One that is still compressed, because the caller asked
// for an encoding itself, is not decoded. On a body that is still arriving
// ErrorFromResponse blocks, as reading it would.
func ErrorFromResponse(resp *http.Response) (*APIError, bool) {
	if resp == nil || resp.StatusCode < 400 {
		return nil, false
	}
	known := recall(resp)
	body := known.body.Value()
	if body == nil && resp.Body != nil && resp.Body != http.NoBody {
		body, _ = resp.Body.(*errorBody)
		if body == nil {
			body = newErrorBody(resp, time.Now())
			resp.Body = body
		}
	}
	var e *APIError
	if body == nil {
		e = newAPIError(resp, nil, time.Now())
	} else {
		e = newAPIError(resp, body.prefix(), body.received)
	}
	if known.attempts > 0 {
		e.Attempts, e.Kind = known.attempts, known.kind
	}
	return e, true
}

// verdicts holds what a Transport knows of the error responses it returned, as
// long as they are in use: the way back to it from a response whose body
// somebody has wrapped, as http.Client does when it has a Timeout, or emptied.
// It is the one state that is not a Transport's, since a response does not name
// the Transport it came through, and its Request has to be the caller's own.
var verdicts sync.Map //nolint:gochecknoglobals // see above; of weak.Pointer[http.Response] to verdict

// verdict is what is known of an error response beyond its bytes.
type verdict struct {
	status   int
	attempts int
	kind     Kind
	// Weak, since a body often leads back to its response, which would then
	// never be let go. It lives as long as something reads from it.
	body weak.Pointer[errorBody]
}

func remember(resp *http.Response, e *APIError) {
	key := weak.Make(resp)
	body, _ := resp.Body.(*errorBody)
	verdicts.Store(key, verdict{e.StatusCode, e.Attempts, e.Kind, weak.Make(body)})
	runtime.AddCleanup(resp, func(key weak.Pointer[http.Response]) { verdicts.Delete(key) }, key)
}

func recall(resp *http.Response) verdict {
	v, _ := verdicts.Load(weak.Make(resp))
	known, _ := v.(verdict)
	if known.status != resp.StatusCode {
		return verdict{} // somebody has made another response of it
	}
	return known
}

// newAPIError parses a response of which prefix is the beginning of the body.
func newAPIError(resp *http.Response, prefix []byte, received time.Time) *APIError {
	e := &APIError{
		StatusCode: resp.StatusCode,
		Kind:       kindOf(resp.StatusCode),
		Header:     resp.Header,
		Body:       prefix,
	}
	e.RetryAfter, e.hinted = retryAfter(resp.Header, received)
	for _, name := range []string{"X-Request-Id", "Request-Id", "X-Correlation-Id", "X-Amzn-Requestid"} {
		if e.RequestID = resp.Header.Get(name); e.RequestID != "" {
			break
		}
	}
	e.parse(prefix)
	return e
}

// parse reads the documented error object,
//
//	{"code": ..., "type": ..., "message": ..., "invalid": [{"name": ..., "reason": ...}]}
//
// each field for itself, so that one of another type does not hide the others.
// The content type is not asked: proxies and frameworks get it wrong.
func (e *APIError) parse(body []byte) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	var fields struct{ Code, Type, Message, Invalid json.RawMessage }
	// A Decoder, not Unmarshal, so that what follows the object does no harm.
	if json.NewDecoder(bytes.NewReader(body)).Decode(&fields) != nil {
		return
	}
	e.Code = codeText(fields.Code)
	_ = json.Unmarshal(fields.Type, &e.Type)
	_ = json.Unmarshal(fields.Message, &e.Message)
	// An array in the documentation; some servers send a lone object bare.
	if json.Unmarshal(fields.Invalid, &e.Invalid) != nil {
		e.Invalid = nil
		var one InvalidParam
		if json.Unmarshal(fields.Invalid, &one) == nil {
			e.Invalid = []InvalidParam{one}
		}
	}
}

// codeText returns a code that is a string or a number; the number's digits
// are kept, as a float64 would lose some.
func codeText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

// maxHint is where a server's hint is cut off, far from where it would overflow.
const maxHint = 365 * 24 * time.Hour

// retryAfter returns how long the server asked to wait, and whether it did:
// Retry-After-Ms and X-Ms-Retry-After-Ms first, as they are finer, then
// Retry-After (RFC 9110 section 10.2.3) as seconds, also with a fraction, or
// as a date. A value that cannot be understood is as good as none.
func retryAfter(h http.Header, received time.Time) (time.Duration, bool) {
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if d, ok := decimal(h.Get(name), time.Millisecond); ok {
			return d, true
		}
	}
	value := strings.TrimSpace(h.Get("Retry-After"))
	if d, ok := decimal(value, time.Second); ok {
		return d, true
	}
	at, err := http.ParseTime(value) // the three forms of RFC 9110 section 5.6.7
	if err != nil {
		return 0, false
	}
	return saturate(float64(at.Sub(serverTime(h, received)))), true
}

// serverTime is the server's clock when it answered: the Date of the response,
// unless a cache kept it, which Age tells; then it is ours.
func serverTime(h http.Header, received time.Time) time.Time {
	if h.Get("Age") == "" {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			return date
		}
	}
	return received
}

// decimal parses digits, with a fraction or without. strconv alone would let
// signs, exponents, hex, "Inf" and "NaN" through.
func decimal(s string, unit time.Duration) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	whole, fraction, dot := strings.Cut(s, ".")
	if !isDigits(whole) || dot && !isDigits(fraction) {
		return 0, false
	}
	f, _ := strconv.ParseFloat(s, 64)                    // out of range is +Inf, which saturates
	return saturate(math.Round(f * float64(unit))), true // whole nanoseconds: 0.729 s is not 729.0000001 ms
}

func isDigits(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// saturate brings a wait in nanoseconds into [0, maxHint], rounded up to the
// millisecond: never early, never wrapped around.
func saturate(ns float64) time.Duration {
	ms := math.Ceil(ns / float64(time.Millisecond))
	switch {
	case ms <= 0:
		return 0
	case ms >= float64(maxHint/time.Millisecond):
		return maxHint
	}
	return time.Duration(ms) * time.Millisecond
}
