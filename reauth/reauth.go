// Package reauth is an [http.RoundTripper] that gets a new credential when the server
// refuses one with a 401, and sends the request once more. Put it around the transport
// that retries:
//
//	refresh := func(ctx context.Context, _ *http.Request) (http.Header, error) {
//		token, err := fetchToken(ctx)
//		return http.Header{"Authorization": {"Bearer " + token}}, err
//	}
//	client := &http.Client{Transport: reauth.New(resilient.NewTransport(nil), refresh)}
package reauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/cause"
	"github.com/resilienthttp/resilient/internal/peek"
	"github.com/resilienthttp/resilient/internal/redact"
	"github.com/resilienthttp/resilient/internal/redirect"
	"github.com/resilienthttp/resilient/reauth/internal/token"
)

var _ http.RoundTripper = (*Transport)(nil)

// ReasonNewCredential is the ResendReason that the hooks of a resilient.Transport are
// told of a request that is sent again with a new credential.
const ReasonNewCredential resilient.Reason = "new credential"

// Refresh gets a new credential in place of one that the server has refused. It returns
// the header fields that hold it, which replace those of the requests that carry the old
// one. If it returns none, the requests are sent again as they are: a transport below
// this one sets the credential.
//
// stale is a copy of a request that was refused, with the header that was sent, without a
// body. It says which of several accounts it is, and its context has the values of the
// caller's. If stale was sent to a host that must not get the credential, return an error.
//
// ctx ends after 30 seconds. Refresh must heed it, and use it for requests of its own:
// those are passed on as they are, even through the client that it serves. It is called
// once at a time for each credential.
type Refresh func(ctx context.Context, stale *http.Request) (http.Header, error)

// Transport is an http.RoundTripper that renews credentials. Make it with [New].
//
// # A refused credential
//
// The first request that gets a 401 starts one refresh. All that carried the same
// credential wait for it, each as long as its own context lasts, and a caller that gives
// up ends it for nobody. Then each is sent once more, whatever its method: a request that
// gets a 401 "has not been applied" (RFC 9110 section 15.5.2). A second 401 is final. A
// request whose body cannot be sent again, because it has no GetBody, gets its 401 when the
// refresh is over, so that its caller can send it anew.
//
// If the refresh fails, all of them get their 401. errors.Is and errors.As find the error
// of the refresh in that of resilient.ErrorFromResponse, or with resilient.WithStatusErrors
// in the error itself. It is not tried again for 10 seconds, nor if the new credential is
// refused at once: a server that says 401 and means 403 costs a refresh every 10 seconds.
//
// # What is remembered
//
// Later requests with the old credential are sent with the new one at once. So a caller
// that goes on setting the old one, such as golang.org/x/oauth2 until it expires, is
// refused once. A request that was under way during the refresh and is refused after it is
// sent again without another.
//
// A credential is the userinfo of the URL and the values of Authorization, X-Api-Key and
// other fields that usually hold one. Requests without any share one for each scheme
// and host: the first 401 gets it for a client that sets none itself. With several
// accounts, set a credential in each request, if only an old one. The 1,024 credentials
// used last are remembered, old ones as a hash.
//
// A request that a redirect has led to another host, or from https to http, is passed on
// as it is.
//
// # Other transports
//
// Each of the two requests is a call of the resilient.Transport below, with retries of its
// own. Its hooks are told of the second one as a resend, with [ReasonNewCredential].
//
// An oauth2.Transport stands above, and has this one as its Base. A transport that signs
// requests stands below the resilient.Transport:
//
//	reauth.New(resilient.NewTransport(signer), refresh)
//
// So every attempt is signed anew, and a signature with a date is fresh after a wait.
//
// # Cost
//
// Until a credential is refused a call costs nothing, not even an allocation. From then on
// its credential is looked up, which takes no allocation, and a request with an old one is
// copied with its header. A response other than a 401 is the base's own.
//
// A Transport is safe for concurrent use. If it is known when a token expires, use a source
// that renews it before; a Transport is for tokens that are revoked.
type Transport struct {
	base   http.RoundTripper
	tokens *token.Store
}

// New returns a Transport that sends its requests through base. A nil base is
// http.DefaultTransport, looked up at each request. fields names header fields that hold
// a credential, beside those that usually do. If refresh returns another field it has
// failed: requests that differ in that alone would get each other's credentials. New
// panics if refresh is nil or a field has no name.
func New(base http.RoundTripper, refresh Refresh, fields ...string) *Transport {
	if refresh == nil {
		panic("reauth: the Refresh of New must be not nil, got nil")
	}
	names := make([]string, len(fields))
	for i, name := range fields {
		if name == "" || strings.ContainsAny(name, " \t\r\n:") {
			panic(fmt.Sprintf("reauth: a field of New must be the name of a header field, got %q", name))
		}
		names[i] = http.CanonicalHeaderKey(name)
	}
	return &Transport{base: base, tokens: token.New(refresh, names)}
}

// RoundTrip implements http.RoundTripper. It returns what the base returns, to the request
// or to the one that was sent with a new credential.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !renewable(req) {
		return t.roundTripper().RoundTrip(req)
	}
	out, used := t.tokens.InUse(req)
	resp, err := t.send(req, out)
	if !refused(resp, err) {
		return resp, err
	}
	readAhead(req.Context(), resp)
	next, why := t.tokens.Renewed(req, used)
	if ended := context.Cause(req.Context()); ended != nil {
		closeBody(resp)
		return nil, ended
	}
	var body io.ReadCloser
	if why == nil {
		body, why = replayed(req)
	}
	if why != nil {
		return explained(resp, err, why)
	}
	closeBody(resp)
	out = next.Request(req).WithContext(resilient.ContextWithOptions(req.Context(),
		resilient.WithResend(attempts(resp, err), ReasonNewCredential)))
	out.Body = body
	if resp, err = t.send(req, out); refused(resp, err) {
		t.tokens.Useless(next, errStill)
		return explained(resp, err, errStill)
	}
	return resp, err
}

// CloseIdleConnections closes the idle connections of the base, if the base has such a
// method. http.Client.CloseIdleConnections calls it.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.roundTripper().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// Spare reports whether the base has room for a request that is not needed, such as the
// second of package hedge. A base without this method has.
func (t *Transport) Spare(req *http.Request) bool {
	if renewable(req) {
		req, _ = t.tokens.InUse(req)
	}
	s, ok := t.roundTripper().(interface{ Spare(*http.Request) bool })
	return !ok || s.Spare(req)
}

func (t *Transport) roundTripper() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}

// renewable reports whether a refresh may help a request: it is whole, none of a Refresh's
// own, and where its credential belongs. Like net/http, this goes by the name of the host.
func renewable(req *http.Request) bool {
	if req.URL == nil || req.Header == nil || token.Refreshing(req.Context()) {
		return false
	}
	first := redirect.First(req)
	return strings.EqualFold(first.URL.Hostname(), req.URL.Hostname()) &&
		(first.URL.Scheme != "https" || req.URL.Scheme == "https")
}

// send hands out to the base, in place of the caller's request.
func (t *Transport) send(req, out *http.Request) (*http.Response, error) {
	resp, err := t.roundTripper().RoundTrip(out)
	if resp != nil && out != req {
		resp.Request = req // as if the caller's had been sent
	}
	return resp, err
}

var (
	errStill      = errors.New("reauth: the new credential was refused as well")
	errUnrepeated = errors.New("reauth: there is a new credential, but the request body cannot be sent again")
)

// replayed returns the body of a request once more.
func replayed(req *http.Request) (io.ReadCloser, error) {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return req.Body, nil
	case req.GetBody == nil:
		return nil, errUnrepeated
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnrepeated, err)
	}
	return body, nil
}

// refused reports whether a request was answered with a 401, which is an error with
// resilient.WithStatusErrors.
func refused(resp *http.Response, err error) bool {
	if e, ok := errors.AsType[*resilient.APIError](err); ok {
		return e.StatusCode == http.StatusUnauthorized
	}
	return resp != nil && resp.StatusCode == http.StatusUnauthorized
}

// attempts returns how many attempts led to a 401, whose body is closed: it might be
// waited for otherwise.
func attempts(resp *http.Response, err error) int {
	e, ok := resilient.ErrorFromResponse(resp)
	if !ok {
		e, _ = errors.AsType[*resilient.APIError](err)
	}
	return max(e.Attempts, 1)
}

// explained returns a 401 as the end of the call, and why it is.
func explained(resp *http.Response, err, why error) (*http.Response, error) {
	if err != nil {
		return resp, &finalError{refusal: err, why: why}
	}
	cause.Attach(resp, why)
	return resp, nil
}

// finalError is a 401 that is an error, and why there is no other request.
type finalError struct{ refusal, why error }

func (e *finalError) Error() string   { return e.refusal.Error() + "; " + redact.Error(e.why) }
func (e *finalError) Unwrap() []error { return []error{e.refusal, e.why} }

// readAhead reads a body in bounds, and keeps it. When it has ended it holds no connection
// any more, nor a place of resilient.WithMaxInFlight for which the refresh might wait.
func readAhead(ctx context.Context, resp *http.Response) {
	if resp == nil || resp.Body == nil || resp.Body == http.NoBody {
		return
	}
	body := peek.New(resp, time.Now())
	resp.Body = body
	_, _ = body.Ahead(ctx, peek.Bounds{Bytes: peek.Max, Total: time.Second})
}

func closeBody(resp *http.Response) {
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
}
