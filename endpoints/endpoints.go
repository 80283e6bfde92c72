// Package endpoints is an [http.RoundTripper] for one API that has several endpoints, such
// as regions: it goes to the next one when the first is down, and comes back by itself. Put
// it around the transport that retries:
//
//	transport := endpoints.New(
//		resilient.NewTransport(nil, resilient.WithAttemptTimeout(5*time.Second)),
//		[]endpoints.Endpoint{{URL: "https://eu.example.com"}, {URL: "https://us.example.com"}})
//	client := &http.Client{Transport: transport}
//	resp, err := client.Get("https://api.example.com/v1/things") // from eu, or from us
package endpoints

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints/internal/health"
	"github.com/resilienthttp/resilient/internal/credential"
	"github.com/resilienthttp/resilient/internal/peek"
	"github.com/resilienthttp/resilient/internal/redirect"
)

var _ http.RoundTripper = (*Transport)(nil)

// The reasons that the hooks of a resilient.Transport are told.
const (
	// ReasonNextEndpoint is that of the Verdict on an attempt that is followed by one to
	// another endpoint, and the ResendReason of that one.
	ReasonNextEndpoint resilient.Reason = "next endpoint"

	// ReasonProbe is the ResendReason of a probe.
	ReasonProbe resilient.Reason = "probe"
)

const probeTimeout = 10 * time.Second // if no attempt timeout is shorter

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

	// Base, which is or wraps a resilient.Transport, takes the place of the base of New. It
	// is for an endpoint with a tls.Config of its own, or with a credential that changes (an
	// oauth2.Transport, package reauth).
	Base http.RoundTripper
}

// Transport is an http.RoundTripper that sends each request to the first endpoint that is
// up. Make it with [New].
//
// Every request is taken for one to the API, whatever its host, and only its path and
// query are kept. A redirect to a path and the cookies come back to the endpoints, so if
// the URL of an endpoint has a path, the server must not repeat that in them. A request
// that a redirect has led to another host goes there as it is, through the base.
//
// # When a request goes to the next endpoint
//
// An endpoint fails if it cannot be connected to, its name is unknown, its certificate
// does not verify, the connection is lost, an attempt times out, or it answers 502, 503 or
// 529. The request then goes to the next endpoint that is up, at once, if it may. If it may
// not, or no other is up, the resilient.Transport retries as always. A 429, a 500, a 504,
// and a 503 that tells a limit, are left to that Transport: nothing says that another
// endpoint would answer better.
//
// A request may go if its method is idempotent (RFC 9110 section 9.2.2) or nothing of it
// was sent, and if its body can be sent again. A POST that may have been acted upon stays,
// even if it has an Idempotency-Key: two regions seldom know each other's keys. See
// [WithNonIdempotent]. A call asks each endpoint once.
//
// # Down and up
//
// An endpoint is down after one failure, unless that was by chance: there were ten answers
// since the last failure, and one since the request was sent. Calls begin with the first
// endpoint that is up. If none is, they begin with the one that was asked in vain the
// least, and ask the others before they give up. So nobody fails because of what is believed.
//
// No call waits to find out whether an endpoint is back. That is done by a probe beside a
// call: a copy of it if it is a GET or HEAD without a body, and otherwise a HEAD of the
// endpoint's URL with the credential of the call. The probes come after 250 ms, after 500 ms
// more, and then every second, as long as there are calls. Any answer that is no failure in
// the sense above brings the endpoint back. A probe is one attempt. It has 10 seconds, waits
// for no pause or limit, and has no options or hooks of the call's context.
//
// An endpoint that fails again within 10 seconds has to answer for a second before it is
// back, and each time this happens for twice as long, up to 16 seconds.
//
// # Other transports
//
// It stands above a resilient.Transport, whose limit keys have the host in them. So each
// endpoint has limits, pauses and retries of its own, and the hooks are told of a call for
// each endpoint that is asked, with [ReasonNextEndpoint], and for each probe, with
// [ReasonProbe]. The host is in their Request. That of a Response is the caller's.
//
// Set WithAttemptTimeout, or an endpoint that is silent is never noticed. Packages reauth
// and hedge stand below, with a credential and a delay for each endpoint. To spread calls
// over servers that are alike, use a load balancer.
//
// A call makes 11 allocations, for copies of the request, the URL and the context. There
// is no goroutine and no timer while all endpoints are up. A Transport is safe for
// concurrent use.
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
	health health.Health
}

// Option configures a [Transport].
type Option func(*Transport)

// WithNonIdempotent controls whether requests of any method go to the next endpoint, even if
// the one before may have acted upon them: POSTs are then done twice. The default is false.
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
	if isForeign(req) {
		return t.base.RoundTrip(req)
	}
	t.startProbes(req)
	c := call{t: t, req: req}
	e, _ := c.next()
	resp, err := c.send(e, req.Body)
	for c.goesOn(resp, err) {
		body := req.Body
		if hasBody(req) {
			again, failed := req.GetBody()
			if failed != nil {
				break
			}
			body = again
		}
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
		next, doubt := c.next()
		opts := []resilient.Option{resilient.WithResend(c.sends, ReasonNextEndpoint)}
		if doubt > 0 {
			opts = append(opts, resilient.WithMaxAttempts(1)) // the retries have been made elsewhere
		}
		resp, err = c.send(next, body, opts...)
	}
	return resp, err
}

// isForeign reports whether a request is none to the endpoints: one that is not whole, or
// that a redirect has led to another host than the call began with.
func isForeign(req *http.Request) bool {
	return req.URL == nil || req.Header == nil || !strings.EqualFold(redirect.First(req).URL.Host, req.URL.Host)
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

// Spare reports whether the base has room for a request that is not needed, such as the
// second of package hedge. A base without this method has.
func (t *Transport) Spare(req *http.Request) bool {
	base := t.base
	if !isForeign(req) {
		e, _ := (&call{t: t}).next()
		base, req = e.Base, e.request(req.Context(), req)
	}
	s, ok := base.(interface{ Spare(*http.Request) bool })
	return !ok || s.Spare(req)
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
		if d := e.health.Doubt(); best == nil || d < doubt {
			best, doubt = e, d
		}
	}
	return best, doubt
}

// send sends the request to an endpoint.
func (c *call) send(e *endpoint, body io.ReadCloser, opts ...resilient.Option) (*http.Response, error) {
	c.mu.Lock()
	c.at, c.attempts, c.mayGo = e, 0, false
	c.tried |= 1 << e.index
	c.mu.Unlock()
	judge := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict { return c.judge(e, &a) })
	all := append(make([]resilient.Option, 0, 4), opts...) // not on the heap
	out := e.request(resilient.ContextWithOptions(c.req.Context(), append(all, judge)...), c.req)
	out.Body = body
	resp, err := e.Base.RoundTrip(out)
	if resp != nil {
		resp.Request = c.req // as if the caller's had been sent
		if err == nil && resp.StatusCode < 400 {
			e.health.Answered()
		}
	}
	return resp, err
}

// judge is the Classifier of the request at e. It tells the health of e, and makes a
// failure of e final there if the request goes to another endpoint.
func (c *call) judge(e *endpoint, a *resilient.AttemptInfo) resilient.Verdict {
	v, failed := a.Verdict, e.health.Observe(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != e {
		return v // of an attempt that the base has left behind
	}
	c.attempts, c.mayGo = a.Attempt, failed && c.may(v)
	if next, doubt := c.next(); c.mayGo && next != nil && doubt == 0 {
		v.Retry, v.Reason = false, ReasonNextEndpoint
	}
	return v
}

// may reports whether the request may go to another endpoint after this verdict.
func (c *call) may(v resilient.Verdict) bool {
	return (!hasBody(c.req) || c.req.GetBody != nil) &&
		(idempotent(c.req.Method) || v.Unprocessed || health.Unreached(v.Reason) || c.t.nonIdempotent)
}

// goesOn reports whether the call goes on at another endpoint after this outcome.
func (c *call) goesOn(resp *http.Response, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, _ := c.next()
	if next == nil || !c.mayGo || c.req.Context().Err() != nil || err == nil && !health.Unavailable(resp.StatusCode) {
		return false
	}
	c.sends += c.attempts
	return true
}

// idempotent reports whether RFC 9110 section 9.2.2 says that a method is.
func idempotent(method string) bool {
	return slices.Contains([]string{"", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete}, method)
}

// request returns a request to the endpoint in place of the caller's. It is a shallow copy,
// because the caller may be filling in Trailer.
func (e *endpoint) request(ctx context.Context, req *http.Request) *http.Request {
	out, u := req.WithContext(ctx), *req.URL
	u.Scheme, u.Host = e.url.Scheme, e.url.Host
	if e.url.User != nil {
		u.User = e.url.User
	}
	if e.url.Path != "" {
		slash := ""
		if u.Path != "" && u.Path[0] != '/' {
			slash = "/"
		}
		u.Path = e.url.Path + slash + u.Path
		if u.RawPath != "" || e.url.RawPath != "" {
			u.RawPath = e.url.EscapedPath() + slash + req.URL.EscapedPath()
		}
	}
	out.URL, out.Host = &u, e.Host
	if len(e.Header) > 0 {
		out.Header = req.Header.Clone()
		maps.Copy(out.Header, e.Header)
	}
	return out
}

// startProbes schedules the next probe of each endpoint that is down, with the request of
// a call. Without calls there are none.
func (t *Transport) startProbes(req *http.Request) {
	for _, e := range t.all {
		if wait, ok := e.health.Schedule(); ok {
			c := &call{t: t, req: harmless(req), tried: math.MaxUint64} // it goes nowhere else
			time.AfterFunc(wait, func() { c.probe(e) })
		}
	}
}

// harmless returns a request that finds out whether an endpoint is back. It shares nothing
// with that of a call, which may be changed when the call is over.
func harmless(req *http.Request) *http.Request {
	u := *req.URL
	out := &http.Request{Method: req.Method, URL: &u, Header: req.Header.Clone()}
	safe := req.Method == "" || req.Method == http.MethodGet || req.Method == http.MethodHead
	if !safe || hasBody(req) || len(req.Header["Upgrade"]) > 0 {
		out.Method, out.URL = http.MethodHead, new(url.URL)
		maps.DeleteFunc(out.Header, func(name string, _ []string) bool { return !credential.IsField(name) })
	}
	return out
}

// probe sends a request to find out whether an endpoint is back. Its context is not that
// of the call: that one may be over, and its hooks expect to be called by its goroutine.
func (c *call) probe(e *endpoint) {
	if !e.health.Begin() {
		return
	}
	defer func() { _ = recover() }() // of a base that panics: nobody could do it here, and the calls can
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	c.req = c.req.WithContext(ctx)
	resp, err := c.send(e, nil, resilient.WithMaxAttempts(1), resilient.WithMaxWait(0), resilient.WithResend(1, ReasonProbe))
	if err != nil || resp == nil || resp.Body == nil {
		return
	}
	body := peek.New(resp, time.Now()) // so that the connection can be used again
	resp.Body = body
	defer resp.Body.Close()
	_, _ = body.Ahead(ctx, peek.Bounds{Bytes: peek.Max, Total: time.Second})
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// mustBe panics if ok is false: a nonsense value is a mistake in the program.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("endpoints: %s of New must be %s, got %v", name, want, got))
	}
}
