// Package hedge is an [http.RoundTripper] that sends a request a second time when the
// first is slower than usual, and returns the answer that comes first. Put it around
// the transport that retries:
//
//	client := &http.Client{Transport: hedge.New(resilient.NewTransport(nil))}
package hedge

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge/internal/rules"
	"github.com/resilienthttp/resilient/hedge/internal/usual"
)

// Reason is why a second request is sent, as the hooks of a resilient.Transport are told.
const Reason resilient.Reason = "hedge"

// defaultShare is 5 %, and some more. If exactly that many requests are slow, the delay
// has to be below the fastest of them, and the budget above all of them.
const defaultShare = 0.0575

var _ http.RoundTripper = (*Transport)(nil)

// Transport is an http.RoundTripper that hedges: if a request is not answered within
// the delay that is usual, it sends the same request again, and returns the answer that
// comes first. The other request is canceled. Make a Transport with [New].
//
// # The delay
//
// The delay is a quantile of how long the calls of a key take until their response
// headers come: 5.75 % of them outlast it ([WithShare]). A key is scheme and host, without
// the credential, because the server is as slow for one account as for another
// ([WithKey]). The last 8,192 to 16,384 calls count, and the first 32 are not hedged. So
// a server that becomes slow has to be slow for thousands of calls before that is usual.
//
// When a hedge wins, the first request counts for as long as it ran until it was canceled.
// That is more than the delay, and a quantile depends on how many calls are longer, not on
// how much longer. So the hedges do not distort the delay from which they follow.
//
// # The budget
//
// A call that ends before the delay earns a part of a token, and every request that
// outlasts the delay costs one: the first of a call, even if it is not hedged, and the
// hedge too. So does a hedge that fails. Calls earn a little more than they cost while
// requests are slow by chance, each for itself. Beyond the first 20, at most 7 requests are
// added to 100, and usually less than 6 ([WithShare]). Without a token nothing is hedged. If
// the whole server is slow, that is so after at most 20 hedges, until the server is fast or
// its slowness is usual. If a request is slow because of what it asks for, its hedge is as
// slow: then one or two calls in 100 are hedged.
//
// Nothing is hedged either while a resilient.Transport below has no room for it: while the
// key is paused, a limit is short, or retries fail. Any base that has the method
// Spare(*http.Request) bool is asked, just before a hedge would be sent. A transport in
// between has to pass the question on, as those of reauth and endpoints do.
//
// # Requests and answers
//
// GET, HEAD and OPTIONS without a body are hedged, and with [WithIdempotencyKeys] more
// than these. Requests with an Upgrade field never are.
//
// An answer is a response whose status is below 500, except 408, 425 and 429, or an
// *resilient.APIError with such a status. With an idempotency key 409 and 423 are none
// either, because they may be about the other request. Anything else is a failure, which
// never wins against an answer. If the second request fails, the first goes on. If the first
// fails, the second is waited for, but for no longer than the delay, and without an answer
// the outcome of the first is returned. A request that fails before the delay is not hedged,
// because retrying is the base's work.
//
// The caller's context governs both requests, and its hooks of net/http/httptrace see
// both, maybe at the same time. A resilient.Transport below takes each for a call of its
// own: its hooks and its log say of the second that it is sent again because of [Reason],
// and of the one that lost that it was canceled. With HTTP/1 that one costs its connection.
//
// # Use
//
// A Transport is safe for concurrent use. A call that cannot be hedged, because too little
// is known or there is no token, allocates nothing. Any other costs a context, a timer and
// a copy of the request, and only a hedge costs a goroutine.
//
// The base has to return when a context ends, as net/http does, or hedges gain nothing: the
// first request runs in the goroutine of the caller. A panic in a hedge is a failure.
type Transport struct {
	base        http.RoundTripper
	share       float64
	delay       time.Duration // 0: it is learned
	keyOf       func(*http.Request) string
	keyed       bool // WithIdempotencyKeys
	keys        usual.Keys
	hedged, won atomic.Int64
}

// Option configures a [Transport]. An option panics when it is given a value that makes
// no sense, so that the stack names the line.
type Option func(*Transport)

// New returns a Transport that sends its requests through base. A nil base is
// http.DefaultTransport, looked up at each call. Nil options are skipped; of two that
// set the same thing, the last one wins.
func New(base http.RoundTripper, opts ...Option) *Transport {
	t := &Transport{base: base, share: defaultShare}
	for _, opt := range opts {
		if opt != nil {
			opt(t)
		}
	}
	return t
}

// WithShare sets the share of the calls that may be hedged. The delay is what this share
// outlasts, and no more than 1.3 times the share are added: with 0.038 at most 5 requests to
// 100. WithShare panics if share is not above 0 and at most 0.1. The default is 0.0575,
// which suffices for one slow request in 20.
func WithShare(share float64) Option {
	mustBe(share > 0 && share <= 0.1, "WithShare", "above 0 and at most 0.1", share)
	return func(t *Transport) { t.share = share }
}

// WithDelay sets the delay, instead of learning it. The budget remains. WithDelay panics
// if d is not positive. The default is to learn the delay of each key.
func WithDelay(d time.Duration) Option {
	mustBe(d > 0, "WithDelay", "positive", d)
	return func(t *Transport) { t.delay = d }
}

// WithKey sets which requests share a delay and a budget: all those for which f returns
// the same string. The 1,024 keys used last are remembered. If some routes of an API take
// longer than others, give them keys of their own. WithKey panics if f is nil. The default
// key is scheme and host.
func WithKey(f func(*http.Request) string) Option {
	mustBe(f != nil, "WithKey", "not nil", "nil")
	return func(t *Transport) { t.keyOf = f }
}

// WithIdempotencyKeys controls whether requests of any method are hedged that have an
// Idempotency-Key or X-Idempotency-Key field, and no body or a GetBody. The API must honor
// the key even if both requests arrive at once. The field has to be the caller's, because
// resilient.WithIdempotencyKey gives each of the two its own. The default is false.
func WithIdempotencyKeys(on bool) Option {
	return func(t *Transport) { t.keyed = on }
}

// mustBe panics if ok is false: a nonsense value is a mistake in the program.
func mustBe(ok bool, name, want string, got any) {
	if !ok {
		panic(fmt.Sprintf("hedge: %s must be %s, got %v", name, want, got))
	}
}

// Stats counts the hedges of a [Transport].
type Stats struct {
	Hedged int64 // requests that were sent a second time
	Won    int64 // of these, how many were answered first
}

// Stats returns the counts since the Transport was made.
func (t *Transport) Stats() Stats {
	won := t.won.Load() // before Hedged, so that it is not larger
	return Stats{Hedged: t.hedged.Load(), Won: won}
}

// CloseIdleConnections closes the idle connections of the base, if the base has
// such a method. http.Client.CloseIdleConnections calls it.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.roundTripper().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	base := t.roundTripper()
	if !rules.MayBeSentTwice(req, t.keyed) {
		return base.RoundTrip(req)
	}
	key := usual.Key{Scheme: strings.ToLower(req.URL.Scheme), Host: strings.ToLower(req.URL.Host)}
	if t.keyOf != nil {
		key = usual.Key{Host: t.keyOf(req)}
	}
	calls := t.keys.Calls(key, t.share, t.delay)
	if delay, ok := calls.Delay(); ok {
		return (&call{transport: t, base: base, calls: calls, req: req, delay: delay}).run()
	}
	o := rules.Send(base, req)
	calls.Ended(o.Ran, o.Answered, false)
	return o.Resp, o.Err
}

func (t *Transport) roundTripper() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}
