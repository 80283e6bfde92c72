// Package hedge is an [http.RoundTripper] that sends a request a second time when the
// first is slower than usual, and returns the answer that comes first. Put it around
// the transport that retries:
//
//	client := &http.Client{Transport: hedge.New(resilient.NewTransport(nil))}
//
// The doc of [Transport] says when a second request is sent, and how many at most.
package hedge

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge/internal/usual"
	"github.com/resilienthttp/resilient/internal/lru"
)

// Reason is why a second request is sent, as the hooks and the log of a
// resilient.Transport are told it.
const Reason resilient.Reason = "hedge"

const (
	// defaultShare is 5 %, and some more. If exactly that many requests are slow, the
	// delay has to be below the fastest of them, and the budget above all of them.
	defaultShare = 0.0575

	maxKeys = 1024 // remembered; each takes 3 KiB
)

var _ http.RoundTripper = (*Transport)(nil)

// Transport is an http.RoundTripper that hedges: if a request is not answered within
// the delay that is usual, it sends the same request again, and returns the answer that
// comes first. The other request is canceled. Make a Transport with [New]; the zero
// Transport is of no use.
//
// # The delay
//
// The delay is a quantile of how long the calls of a key take until their response
// headers come: 5.75 % of them outlast it ([WithShare]). A key is scheme and host, without
// the credential, because the server is as slow for one account as for another
// ([WithKey]). The last 8,192 to 16,384 calls count, and the first 32 are not hedged. So
// what is usual does not change within seconds: a server that becomes slow has to be slow
// for thousands of calls before that is usual.
//
// When a hedge wins, nobody learns how long the first request would have taken. It counts
// for as long as it ran until it was canceled. That is more than the delay, and a quantile
// depends on how many calls are longer, not on how much longer. So the hedges do not
// distort the delay from which they follow, and their own times do not count.
//
// # The budget
//
// A call that ends before the delay earns a part of a token, and every request that
// outlasts the delay costs one: the first of a call, even if it is not hedged, and the
// hedge too. So does a hedge that fails. Calls earn a little more than they cost while
// requests are slow by chance, each for itself. If more are slow than usual, or hedges are
// as slow as the requests that they were to overtake, the balance falls, and without a
// token nothing is hedged. This is the only bound, and it means several things:
//
//   - Beyond the first 20, at most 7 requests are added to 100, and usually less than 6.
//   - If the whole server is slow, hedging ends after at most 20 hedges, and begins again
//     when the server is fast or its slowness is usual.
//   - If a request is slow because of what it asks for, its hedge is as slow. Hedging then
//     goes on with one or two calls in 100.
//
// Nothing is hedged while a resilient.Transport below has no room for it: while the key is
// paused, a limit is short, or retries fail. Any base that has the method
// Spare(*http.Request) bool is asked, just before a hedge would be sent.
//
// # Requests and answers
//
// GET, HEAD and OPTIONS without a body are hedged, and with [WithIdempotencyKeys] more
// than these. Requests with an Upgrade field never are.
//
// An answer is a response whose status is below 500, except 408, 425 and 429, or an
// *resilient.APIError with such a status. If the request has an idempotency key, 409 and 423
// are none either, because they may be about the other request. The first answer wins.
// Anything else is a failure, which never wins against an answer. If the second request fails, the first goes
// on. If the first fails, the second is waited for, but for no longer than the delay. If
// there is no answer, the outcome of the first is returned. A request that fails before
// the delay is not hedged, because retrying is the base's work.
//
// The caller's context governs both requests, and its hooks of net/http/httptrace see
// both, maybe at the same time. A resilient.Transport below takes each for a call of its
// own: its hooks and its log say of the second that it is sent again because of [Reason],
// and of the one that lost that it was canceled. With HTTP/1 that one costs its connection.
//
// # Use
//
// A Transport is safe for concurrent use, and must not be copied. A call that cannot be
// hedged, because too little is known or there is no token, allocates nothing. Any other
// call costs a context, a timer and a copy of the request, and only a hedge costs a
// goroutine.
//
// The base has to return when a context ends, as net/http does. If it does not, hedges
// gain nothing, because the first request runs in the goroutine of the caller. A panic of
// the base in a hedge is a failure.
type Transport struct {
	base        http.RoundTripper
	share       float64
	delay       time.Duration // 0: it is learned
	keyOf       func(*http.Request) string
	keyed       bool // WithIdempotencyKeys
	hedged, won atomic.Int64

	last atomic.Pointer[entry] // the key used last
	mu   sync.Mutex
	keys lru.Table[key, *entry]
}

// key names what shares a delay and a budget: scheme and host, or the string of WithKey
// in host.
type key struct{ scheme, host string }

type entry struct {
	key   key
	calls *usual.Calls
}

// Option configures a [Transport]. An option panics when it is given a value that makes
// no sense, so that the stack names the line.
type Option func(*Transport)

// New returns a Transport that sends its requests through base. A nil base is
// http.DefaultTransport, looked up at each call. Nil options are skipped; of two that
// set the same thing, the last one wins.
func New(base http.RoundTripper, opts ...Option) *Transport {
	t := &Transport{base: base, share: defaultShare}
	t.keys.Size, t.keys.Limit, t.keys.Idle = maxKeys, maxKeys, func(*entry) bool { return true }
	for _, opt := range opts {
		if opt != nil {
			opt(t)
		}
	}
	return t
}

// WithShare sets the share of the calls that may be hedged. The delay is what this share
// outlasts, so a smaller share means a longer delay. WithShare panics if share is not above
// 0 and at most 0.1. The default is 0.0575, which suffices for one slow request in 20.
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
// the key even if both requests arrive at once. The field has to be the caller's:
// resilient.WithIdempotencyKey gives each of the two a key of its own. The default is
// false.
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
	if !t.hedges(req) {
		return base.RoundTrip(req)
	}
	calls := t.entry(req).calls
	if delay, ok := calls.Delay(); ok {
		c := &call{transport: t, base: base, calls: calls, req: req, delay: delay}
		return c.run()
	}
	o := send(base, req)
	calls.Ended(o.ran, o.answered, false)
	return o.resp, o.err
}

func (t *Transport) roundTripper() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}

// hedges reports whether req is one that may be sent twice.
func (t *Transport) hedges(req *http.Request) bool {
	if req.URL == nil || req.Method == http.MethodConnect || len(req.Header["Upgrade"]) > 0 {
		return false
	}
	if !hasBody(req) && (req.Method == "" || req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions) {
		return true
	}
	// A caller fills in trailers while the body is read, which two requests would do.
	return t.keyed && hasKey(req) && (!hasBody(req) || req.GetBody != nil && len(req.Trailer) == 0)
}

func hasKey(req *http.Request) bool {
	return req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != ""
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// entry returns the entry of the key of req, a new one if there is none.
func (t *Transport) entry(req *http.Request) *entry {
	var k key
	if t.keyOf != nil {
		k.host = t.keyOf(req)
	} else {
		k = key{strings.ToLower(req.URL.Scheme), strings.ToLower(req.URL.Host)}
	}
	if e := t.last.Load(); e != nil && e.key == k {
		return e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.keys.Get(k)
	if !ok {
		// The strings may be parts of a longer one, a URL with its query.
		k = key{strings.Clone(k.scheme), strings.Clone(k.host)}
		e = &entry{key: k, calls: usual.New(t.share, t.delay)}
		t.keys.Add(k, e)
	}
	t.last.Store(e)
	return e
}
