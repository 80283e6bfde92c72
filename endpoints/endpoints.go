// Package endpoints is an [http.RoundTripper] for one API that has several endpoints, such
// as regions: it goes to the next one when the first is down, and comes back by itself. Put
// it around the transport that retries:
//
//	transport := endpoints.New(
//		resilient.NewTransport(nil, resilient.WithAttemptTimeout(5*time.Second)),
//		[]endpoints.Endpoint{{URL: "https://eu.example.com"}, {URL: "https://us.example.com"}})
//	client := &http.Client{Transport: transport}
//	resp, err := client.Get("https://api.example.com/v1/things") // from eu, or from us
//
// The doc of [Transport] says which failures are an occasion, and which requests go.
package endpoints

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/redirect"
)

var _ http.RoundTripper = (*Transport)(nil)

// The reasons that the hooks of a resilient.Transport are told.
const (
	// ReasonNextEndpoint is that of the Verdict on an attempt that is followed by one to
	// another endpoint, and the ResendReason of that one.
	ReasonNextEndpoint resilient.Reason = "next endpoint"

	// ReasonProbe is the ResendReason of a request that finds out whether an endpoint is
	// back. No caller waits for it.
	ReasonProbe resilient.Reason = "probe"
)

// Endpoint is one of the places at which an API is to be had.
type Endpoint struct {
	// URL is its scheme and host, and the path that comes before that of a request.
	URL string

	// Host is the Host field of the requests, if it is another than the host of URL. The
	// name in the certificate is always that of the URL, because net/http takes it from
	// there: for another one, set a Base with a tls.Config.ServerName.
	Host string

	// Header has fields that replace those of a request, such as a credential.
	Header http.Header

	// Base sends the requests to this endpoint in place of the base of New. It is, or
	// wraps, a resilient.Transport. It is for an endpoint with a tls.Config of its own, or
	// with a credential that changes (an oauth2.Transport, package reauth).
	Base http.RoundTripper
}

// Transport is an http.RoundTripper that sends each request to the first endpoint that is
// up. Make it with [New].
//
// Every request is taken for one to the API, whatever its host, and only its path and
// query are kept. A request that a redirect has led to another host is the exception: it
// goes there as it is, through the base. A redirect to a path without a host comes back to
// the endpoints, and so do the cookies. If the URL of an endpoint has a path, the server
// must not repeat that in them.
//
// # When a request goes to the next endpoint
//
// An endpoint fails if it cannot be connected to, its name is unknown, its certificate
// does not verify, the connection is lost, an attempt times out, or it answers 502, 503 or
// 529. The request then goes to the next endpoint that is up, at once, if it may. If it may
// not, or no other is up, the resilient.Transport retries as always, and after each failure
// it is asked again. A 429, a 500, a 504, and a 503 that tells a limit, are left to that
// Transport: nothing says that another endpoint would answer better.
//
// A request may go if its method is idempotent (RFC 9110 section 9.2.2) or nothing of it
// was sent, and if its body can be sent again. A POST that may have been acted upon stays,
// even if it has an Idempotency-Key: two regions seldom know each other's keys. See
// [WithNonIdempotent]. A call asks each endpoint once.
//
// # Down and up
//
// An endpoint is down after one failure, unless it answers others. If there were ten
// answers since the last failure, and one since the request was sent, it was chance.
// Calls begin with the first endpoint that is up. If none is, they begin with the one that
// was asked in vain the least, and a call that fails there asks the others before it
// gives up. So nobody fails because of what is believed.
//
// No call waits to find out whether an endpoint is back. That is done by a probe, which
// is sent beside a call: a copy of it if it is a GET or HEAD without a body, which is safe
// (RFC 9110 section 9.2.1), and otherwise a HEAD of the endpoint's URL with the credential
// of the call. The probes come after 250 ms, after 500 ms more, and then every second, as
// long as there are calls. Any answer that is no failure in the sense above brings the
// endpoint back. A probe is one attempt. It has 10 seconds, waits for no pause or limit,
// such as that of a Retry-After, and has no options or hooks of the call's context.
//
// An endpoint that fails again within 10 seconds has to answer for a second before it is
// back, and each time this happens for twice as long, up to 16 seconds. So one that comes
// and goes is left alone until it stays.
//
// # Other transports
//
// It stands above a resilient.Transport, whose limit keys have the host in them. So each
// endpoint has limits, pauses and retries of its own, and the hooks are told of a call for
// each endpoint that is asked, with [ReasonNextEndpoint], and for each probe, with
// [ReasonProbe]. The host is in their Request. That of a Response is the caller's.
//
// Set WithAttemptTimeout, or an endpoint that is silent is never noticed. Package reauth
// stands below, with a credential for each endpoint.
//
// # Cost
//
// A call makes 11 allocations, for copies of the request, the URL and the context. There
// is no goroutine and no timer while all endpoints are up.
//
// A Transport is safe for concurrent use. To spread calls over servers that are alike, use
// a load balancer.
type Transport struct {
	base          http.RoundTripper
	all           []*endpoint
	nonIdempotent bool
}

// endpoint is an Endpoint, ready for use.
type endpoint struct {
	Endpoint

	url    *url.URL // without a slash at the end of its path
	index  int
	health health
}

// Option configures a [Transport].
type Option func(*Transport)

// WithNonIdempotent controls whether requests of any method go to the next endpoint, even if
// the one before may have acted upon them: POSTs are then done twice. The default is
// false.
func WithNonIdempotent(on bool) Option {
	return func(t *Transport) { t.nonIdempotent = on }
}

// New returns a Transport to the endpoints, the one that is preferred first. The base is, or
// wraps, a resilient.Transport; nil is one with its defaults. Nil options are skipped. New
// panics if there are no endpoints or more than 64, or if a URL is not one of http or
// https with a host and perhaps a path.
func New(base http.RoundTripper, all []Endpoint, opts ...Option) *Transport {
	mustBe(len(all) > 0 && len(all) <= 64, "the endpoints", "1 to 64", len(all))
	if base == nil {
		base = resilient.NewTransport(nil)
	}
	t := &Transport{base: base}
	for i, e := range all {
		u, err := url.Parse(e.URL)
		mustBe(err == nil, "a URL", "one of http or https", "one that cannot be parsed")
		mustBe((u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && u.Fragment == "",
			"a URL", "one of http or https with a host and perhaps a path", u.Redacted())
		u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
		if e.Base == nil {
			e.Base = base
		}
		header := make(http.Header, len(e.Header))
		for name, values := range e.Header {
			header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
		}
		e.Header = header
		t.all = append(t.all, &endpoint{Endpoint: e, url: u, index: i})
	}
	for _, opt := range opts {
		if opt != nil {
			opt(t)
		}
	}
	return t
}

// RoundTrip implements http.RoundTripper. It returns the outcome at the endpoint that was
// asked last.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL == nil || req.Header == nil || strays(req) {
		return t.base.RoundTrip(req)
	}
	t.startProbes(req)
	c := call{t: t, req: req}
	for body := req.Body; ; {
		resp, err := c.send(body)
		if !c.goesOn(resp, err) {
			return resp, err
		}
		if hasBody(req) {
			again, failed := req.GetBody()
			if failed != nil {
				return resp, err
			}
			body = again
		}
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
	}
}

// CloseIdleConnections closes the idle connections of the bases that have such a method.
// http.Client.CloseIdleConnections calls it.
func (t *Transport) CloseIdleConnections() {
	for _, e := range t.all {
		if c, ok := e.Base.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
}

// call is one RoundTrip.
type call struct {
	t     *Transport
	req   *http.Request // the caller's, never written to
	tried uint64        // the endpoints, as bits
	sends int           // to those before this one

	mu       sync.Mutex // a base may make attempts side by side
	at       *endpoint
	attempts int  // that have failed there
	mayGo    bool // to another one, after the last of them
}

// next returns the endpoint to ask, or nil if all were.
func (c *call) next() (best *endpoint, doubt time.Duration) {
	for _, e := range c.t.all {
		if c.tried&(1<<e.index) != 0 {
			continue
		}
		if d := e.health.doubt(); best == nil || d < doubt {
			best, doubt = e, d
		}
	}
	return best, doubt
}

// send sends the request to the next endpoint.
func (c *call) send(body io.ReadCloser) (*http.Response, error) {
	e, doubt := c.next()
	c.mu.Lock()
	c.at, c.attempts, c.mayGo = e, 0, false
	c.tried |= 1 << e.index
	c.mu.Unlock()
	opts := make([]resilient.Option, 0, 3)
	opts = append(opts, resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
		return c.judge(e, &a)
	}))
	if c.sends > 0 {
		opts = append(opts, resilient.WithResend(c.sends, ReasonNextEndpoint))
		if doubt > 0 {
			opts = append(opts, resilient.WithMaxAttempts(1)) // the retries have been made elsewhere
		}
	}
	out := e.request(resilient.ContextWithOptions(c.req.Context(), opts...), c.req)
	out.Body = body
	resp, err := e.Base.RoundTrip(out)
	if resp != nil {
		resp.Request = c.req // as if the caller's had been sent
		if err == nil && resp.StatusCode < 400 {
			e.health.answered(time.Now())
		}
	}
	return resp, err
}

// judge is the Classifier of the request at e. It makes a failure of the endpoint final
// there if the request goes to another one.
func (c *call) judge(e *endpoint, a *resilient.AttemptInfo) resilient.Verdict {
	v := a.Verdict
	may := e.observe(a) && c.may(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != e {
		return v // of an attempt that the base has left behind
	}
	c.attempts, c.mayGo = a.Attempt, may
	if next, doubt := c.next(); may && next != nil && doubt == 0 {
		v.Retry, v.Reason = false, ReasonNextEndpoint
	}
	return v
}

// may reports whether the request may go to another endpoint after this verdict.
func (c *call) may(v resilient.Verdict) bool {
	return (!hasBody(c.req) || c.req.GetBody != nil) &&
		(idempotent(c.req.Method) || v.Unprocessed || unreached(v.Reason) || c.t.nonIdempotent)
}

// goesOn reports whether the call goes on at another endpoint after this outcome.
func (c *call) goesOn(resp *http.Response, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, _ := c.next()
	if next == nil || !c.mayGo || c.req.Context().Err() != nil || err == nil && !unavailable(resp.StatusCode) {
		return false
	}
	c.sends += c.attempts
	return true
}

// observe tells the health of an endpoint of a failed attempt, and reports whether it was
// the endpoint that has failed.
func (e *endpoint) observe(a *resilient.AttemptInfo) bool {
	now := time.Now()
	v := a.Verdict
	switch {
	case a.StatusCode == 0 && (v.Retry || unreached(v.Reason)),
		unavailable(a.StatusCode) && v.Retry && v.Kind != resilient.KindRateLimit:
		e.health.failed(now.Add(-a.Duration), now)
		return true
	case a.StatusCode != 0:
		e.health.answered(now)
	}
	return false
}

// unreached reports whether an attempt has failed for a reason that is final at the
// endpoint, and for which no request was sent.
func unreached(why resilient.Reason) bool {
	return why == resilient.ReasonUnknownHost || why == resilient.ReasonTLS
}

// unavailable reports whether a status says that a server cannot answer for now, whatever
// the request: RFC 9110 sections 15.6.3 and 15.6.4, and Anthropic's "overloaded".
func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == 529
}

// idempotent reports whether RFC 9110 section 9.2.2 says that a method is.
func idempotent(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// request returns a request to the endpoint in place of the caller's. It is a shallow copy,
// because the caller may be filling in Trailer.
func (e *endpoint) request(ctx context.Context, req *http.Request) *http.Request {
	out := req.WithContext(ctx)
	out.URL, out.Host = e.at(req.URL), e.Host
	if len(e.Header) > 0 {
		out.Header = req.Header.Clone()
		maps.Copy(out.Header, e.Header)
	}
	return out
}

// at returns a URL at the endpoint.
func (e *endpoint) at(u *url.URL) *url.URL {
	out := *u
	out.Scheme, out.Host = e.url.Scheme, e.url.Host
	if e.url.User != nil {
		out.User = e.url.User
	}
	if e.url.Path == "" {
		return &out
	}
	slash := ""
	if u.Path != "" && u.Path[0] != '/' {
		slash = "/"
	}
	out.Path = e.url.Path + slash + u.Path
	if u.RawPath != "" || e.url.RawPath != "" {
		out.RawPath = e.url.EscapedPath() + slash + u.EscapedPath()
	}
	return &out
}

// strays reports whether a redirect has led req to another host than the call began with.
func strays(req *http.Request) bool {
	first := redirect.First(req)
	return first != req && !strings.EqualFold(first.URL.Host, req.URL.Host)
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// mustBe panics if ok is false: a nonsense value is a mistake in the program, and the
// stack should name its line.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("endpoints: %s of New must be %s, got %v", name, want, got))
	}
}
