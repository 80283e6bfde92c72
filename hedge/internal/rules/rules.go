// Package rules says which requests may be sent a second time, and which outcomes are
// answers.
package rules

import (
	"errors"
	"net/http"
	"time"

	"github.com/resilienthttp/resilient"
)

// Outcome is what came of a request: a response with a body, or an error.
type Outcome struct {
	Resp     *http.Response
	Err      error
	Ran      time.Duration
	Answered bool // it is no failure: there is no better one to be had from another request
}

// Send sends a request. A base that breaks the contract of http.RoundTripper is made to
// keep it.
func Send(base http.RoundTripper, req *http.Request) (o Outcome) {
	began := time.Now()
	o.Resp, o.Err = base.RoundTrip(req) //nolint:bodyclose // the caller does
	o.Ran = time.Since(began)
	status := 0
	switch {
	case o.Err != nil:
		if o.Resp != nil && o.Resp.Body != nil {
			_ = o.Resp.Body.Close()
		}
		o.Resp = nil
		if e, ok := errors.AsType[*resilient.APIError](o.Err); ok {
			status = e.StatusCode
		}
	case o.Resp == nil:
		o.Err = errors.New("hedge: the base returned neither a response nor an error")
	default:
		status = o.Resp.StatusCode
		if o.Resp.Body == nil {
			o.Resp.Body = http.NoBody
		}
	}
	switch status {
	case 0, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
	case http.StatusConflict, http.StatusLocked:
		// draft-ietf-httpapi-idempotency-key-header section 2.6: a request with this key
		// is being processed, and that may be the other one.
		o.Answered = !hasKey(req)
	default:
		o.Answered = status < http.StatusInternalServerError
	}
	return o
}

// MayBeSentTwice reports whether a request does no harm if it is sent twice, at once. If
// keyed is true the API honors idempotency keys.
func MayBeSentTwice(req *http.Request, keyed bool) bool {
	if req.URL == nil || len(req.Header["Upgrade"]) > 0 {
		return false
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions:
		if !HasBody(req) {
			return true
		}
	case http.MethodConnect:
		return false
	}
	// A caller fills in trailers while the body is read, which two requests would do.
	return keyed && hasKey(req) && (!HasBody(req) || req.GetBody != nil && len(req.Trailer) == 0)
}

// HasBody reports whether a request has a body.
func HasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

func hasKey(req *http.Request) bool {
	return req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != ""
}
