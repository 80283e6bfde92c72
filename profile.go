package resilient

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/resilienthttp/resilient/internal/errorobject"
	"github.com/resilienthttp/resilient/internal/peek"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// Profile describes the special traits of an API, which the usual rules do not
// cover. Package profile has some. The zero Profile is the default.
type Profile struct {
	// Rules are tried in order on each error response, and the first that
	// matches is applied.
	Rules []Rule

	// CodeFields are names of members of the error object that hold its code,
	// to be tried after the usual ones.
	CodeFields []string

	// WaitHeaders are names of further header fields that tell how long to
	// wait, or usual ones that count in another unit, and the unit of a number
	// in them. If the unit is 0, a number counts seconds, or if it is too large
	// for that it is a point in time. A field with "Reset" in its name counts
	// only on a rate limit, and only if the field with "Remaining" in its place
	// is 0 or absent. Items of two such fields belong together by position.
	WaitHeaders map[string]time.Duration

	// Failed reports whether the body of a 2xx response is an error all the
	// same. If it is nil, the default, these bodies are not looked at. It is
	// asked about JSON (application/json, or a type ending in +json) of up to
	// 64 KiB, of which it gets the part that arrives within a second: cut
	// short, it is no valid JSON. Failed is never asked about event streams and other types,
	// nor about a response with a greater Content-Length. An error found so is
	// an [*APIError] of KindInvalidRequest, unless its code or a Rule says more.
	Failed func(body []byte) bool

	// Event says what an event of a stream means to the answer that the stream
	// carries, and of an [EventError] which status it stands for: 400 to 599, and
	// anything else is a 500. name is the event's field "event", and data is
	// its data, up to 64 KiB of it, which must not be kept or changed. If Event is
	// nil, the default, streams are not looked at.
	//
	// It is asked about each event of a 2xx response of type text/event-stream. The
	// response is held back until the first event that is no EventPreamble, but at
	// most until 64 KiB or one second of the stream have arrived. If that event is
	// an EventError, the response becomes an error response: it gets the status,
	// the type application/json and the data as its body, and keeps its other
	// fields. It is retried like any other, by its status, its codes and the Rules: a
	// rate limit is proof that a POST was not processed, and an overload is none.
	// A stream that ends or breaks off without such an event is a lost connection.
	//
	// Once the response is returned, nothing is retried and every byte is passed
	// on. An EventError is then the Err of [BodyInfo], and a stream that ends
	// without an EventEnd or EventError fails with an error that is an
	// io.ErrUnexpectedEOF.
	Event func(name string, data []byte) (kind EventKind, status int)

	// Quotas are the header fields that tell how much is left of a limit of
	// [WithLimit], by the name of the limit. What they say governs the limit, as far
	// as its own numbers are not lower, so it may have rate.Inf for a number. The
	// RateLimit fields are read without it, for a limit that is named like a quota
	// unit or a policy in them.
	Quotas map[string]QuotaFields

	// Repeatable reports whether a request may be sent twice although its method is
	// not idempotent, because to do the work again costs something but does no
	// harm: a POST that asks a model for an answer, or that only reads. It is asked
	// about requests of such methods, must not read the body except through
	// GetBody, and must not change anything. If it is nil, the default, none may.
	Repeatable func(*http.Request) bool
}

// QuotaFields are the names of the header fields that tell the state of a quota.
type QuotaFields struct {
	Limit     string // what there is when nothing was used
	Remaining string // what is left; without it nothing is read
	Reset     string // when, or in which time, the quota is whole again, see WaitHeaders
}

// Rule gives a meaning to error responses. Its conditions must all hold; those
// that are zero always do.
type Rule struct {
	Status  int    // the status
	Code    string // a code or type of the error, or of one that it consists of
	Message string // a part of the message, in upper or lower case

	// Kind replaces the kind of the error: KindRateLimit and KindServer are
	// retried, the others are final. KindRateLimit also says that the request
	// was refused unprocessed, so that any method is sent again. 0 leaves the
	// kind as it is.
	Kind Kind

	// Wait is how long to wait if the server does not say; 0: the backoff.
	Wait time.Duration
}

// judge gives the default verdict on a response of which prefix is the beginning
// of the body. The *APIError is nil if mayFail was right to ask, but it is a
// success.
func (p *Profile) judge(resp *http.Response, prefix []byte, received time.Time) (*APIError, Verdict) {
	var body errorobject.Body
	if len(prefix) > 0 {
		body = errorobject.Decode(resp.Header, prefix)
	}
	if resp.StatusCode < 400 && !p.Failed(body.Text) {
		return nil, Verdict{Reason: ReasonSuccess}
	}
	return p.read(resp.StatusCode, resp.Header, prefix, body, received)
}

// verdict is the verdict of judge on an error response. The error object is not read if
// nothing in it can make a difference.
func (p *Profile) verdict(status int, h http.Header, prefix []byte, received time.Time) Verdict {
	if p.readsObjects() || mayMatter(status, h, prefix) {
		_, v := p.read(status, h, prefix, errorobject.Decode(h, prefix), received)
		return v
	}
	return p.verdictOn(status, h, &errorobject.Object{}, nil, received)
}

// read reads an error response, of which body is prefix decoded, and gives the
// default verdict on it. A nil Profile is the zero one.
func (p *Profile) read(status int, h http.Header, prefix []byte, body errorobject.Body, received time.Time) (*APIError, Verdict) {
	if p == nil {
		p = new(Profile)
	}
	o := errorobject.Parse(status, h, body, p.CodeFields...)
	v := p.verdictOn(status, h, &o, body.JSON, received)
	e := &APIError{
		StatusCode: status, Code: o.Code, Type: o.Type, Message: o.Message,
		Kind: v.Kind, RetryAfter: v.RetryAfter,
		RequestID: o.RequestID, Header: h, Body: prefix,
	}
	for _, param := range o.Invalid {
		e.Invalid = append(e.Invalid, InvalidParam(param))
	}
	return e, v
}

// verdictOn is the default verdict on an error response with the error object o, which was
// read from the value body.
func (p *Profile) verdictOn(status int, h http.Header, o *errorobject.Object, body any, received time.Time) Verdict {
	if p == nil {
		p = new(Profile)
	}
	limit := limitOf(status, h, o, p.WaitHeaders)
	rule := p.rule(status, o)
	kind := rule.Kind
	switch {
	case kind != 0:
	case limit != noLimit:
		kind = KindRateLimit
	default:
		kind = kindOf(status)
	}
	wait, hinted := waithint.Asked(h, body, received, p.WaitHeaders)
	if !hinted && kind == KindRateLimit {
		wait, hinted = waithint.Reset(h, received, p.WaitHeaders)
	}
	// A quota that comes back at a stated time is as good as a rate limit.
	if rule.Kind == 0 && (limit > quota || limit == quota && !hinted) {
		kind = KindQuota
	}

	v := classifyStatus(status, kind)
	switch {
	case rule.Kind == KindRateLimit:
		v.Unprocessed = true
	case rule.Kind == KindServer && !v.Retry:
		v.Retry, v.Reason = true, ReasonProfile
	}
	if again, said := shouldRetry(h); said {
		v.Retry, v.Reason = again, ReasonServerSaid
		v.Unprocessed = v.Unprocessed || again
	}
	if !hinted && v.Retry {
		wait = rule.Wait
	}
	v.RetryAfter = wait
	v.Pause = kind == KindRateLimit || hinted && staysAway(status)
	if v.Pause && v.Retry && v.Kind == KindServer {
		v.Reason = ReasonUnavailable
	}
	return v
}

// rule returns the first of the rules that matches, or the zero Rule.
func (p *Profile) rule(status int, o *errorobject.Object) Rule {
	for _, r := range p.Rules {
		if (r.Status == 0 || r.Status == status) &&
			(r.Code == "" || slices.Contains(o.Tokens, r.Code)) &&
			(r.Message == "" || strings.Contains(strings.ToLower(o.Message), strings.ToLower(r.Message))) {
			return r
		}
	}
	return Rule{}
}

// readsObjects reports whether the profile goes by what is in an error response.
func (p *Profile) readsObjects() bool { return p != nil && len(p.Rules) > 0 }

// repeatable reports whether the profile allows a request to be sent twice.
func (p *Profile) repeatable(req *http.Request) bool {
	return p != nil && p.Repeatable != nil && p.Repeatable(req)
}

// mayFail reports whether the body of a success has to be looked at.
func (p *Profile) mayFail(resp *http.Response) bool {
	if p == nil || p.Failed == nil || !hasContent(resp) || resp.ContentLength > peek.Max {
		return false
	}
	t := mediaType(resp.Header)
	return t == "application/json" || strings.HasSuffix(t, "+json")
}
