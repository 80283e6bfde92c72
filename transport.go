// Package resilient is an [http.RoundTripper] that knows what an API's
// documented errors mean: it retries what can succeed, fails fast on what
// cannot, paces itself, and hands the caller the parsed error object.
//
// Set it as the Transport of an http.Client, your own or the one an SDK takes:
//
//	client := &http.Client{Transport: resilient.NewTransport(nil)}
//	resp, err := client.Do(req)
//	if err != nil {
//		return err // no response at all
//	}
//	defer resp.Body.Close()
//	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
//		return apiErr // 400, 402, 403, 404, 429, 500 ..., parsed
//	}
//
// # Retries
//
// 429, 408, 425 and most 5xx are retried. The exceptions are 501, 505, 506, 508,
// 510, 511, 525 and 526. Every other status from 400 on is final after one
// attempt, and statuses below 400 pass through untouched, whatever headers they
// carry. Two things are more exact than a status. A code in the body that names a
// limit makes a rate limit of a 400 or 403, and a final quota of a 429. The
// fields X-Should-Retry and Stripe-Should-Retry say outright whether to retry.
//
// A request is sent again only if that does no harm:
//
//   - A request that was refused for its rate is sent again whatever its method:
//     a 429, or a 400 or 403 with the code of a limit.
//   - So is a request of which provably nothing was sent, because the dial failed
//     or net/http/httptrace shows that nothing was written.
//   - So is a request of which the server says X-Should-Retry: true, or a [Rule]
//     that it was refused for its rate.
//   - After anything else (500, 503, a lost connection, an attempt that timed
//     out) only idempotent requests are: those of a method that the IANA HTTP
//     Method Registry calls idempotent, those with an Idempotency-Key or
//     X-Idempotency-Key field, and those of which a [Profile] says that they do no
//     harm twice.
//
// A 503 with Retry-After belongs to the last group. The server wants to be asked
// again later, and that holds for everybody, but it is no proof that this request
// was not acted upon: a cache sends a 503 when the origin took the request and was
// slow.
//
// Certificates that do not verify, unknown hosts, malformed requests, a proxy that
// refuses, and the caller's own cancellation are never retried. The wait is the
// server's hint, to which jitter only adds, or the interval of a backoff policy
// ([WithBackOff]). A wait that cannot end well, because it is longer than
// [WithMaxWait] or than the context's deadline, is not begun: the caller gets the
// response at once, hint included. Retries are bounded by [WithMaxAttempts] and by
// a budget ([WithRetryBudget]), so that an outage is not amplified. As long as no
// retry fails, failures are isolated, and the first retry comes after the smallest
// interval there is. One of a refusal by chance comes sooner.
//
// # Rate limits
//
// [WithRateLimit] puts a token bucket in front of every attempt, retries included,
// for each limit key: scheme, host and credential, unless [WithLimitKey] says
// otherwise. [WithLimit] adds buckets for what requests cost in other units, and
// [WithMaxInFlight] bounds how many are in flight. Waiters are served in order, or by
// their class ([WithClass]). First attempts go before retries, but
// every ninth place is a retry's, and a request that was refused for its rate
// keeps its place. Only the context bounds a wait for these. A wait beyond the context's
// deadline is refused at once with a [*LimitError], and nothing is sent.
//
// The server's limit need not be known ([WithLearnedRate]). At first a refusal binds
// only the request it comes with. If more is refused than by chance, it is found out
// what refuses: one attempt goes, and each one that is accepted lets two more follow.
// It may be a rate, a number of requests in flight, or a time that the server names,
// of the whole key or of one route (method and path, ids left out). Before it holds
// anybody back for long it is tested: right after a refusal a few attempts go at once,
// which a limit refuses and chance does not. A backlog then uses the whole of the limit,
// about one request in a hundred is refused, and other routes and hosts are left alone.
// Refusals by chance, such as those of one bad backend of several, hold nobody back.
//
// A refusal is a 429, or what means the same, and as far as a limit explains it, a 503
// or 529. A server that answers nothing else than these is down, and the retry
// budget governs it. A hint is the request's own. While it is in force others go one by
// one, the first that is accepted frees them, and three refusals in a row make it a
// pause for all. RateLimit fields with a policy are used before anything is refused, by
// a client that finds itself alone with its quota.
//
// A learned limit holds for one Transport. Several Transports that share a quota find
// shares of it that are about alike. A limit in Redis, module redislimit, does it
// exactly. [Transport.Snapshot] says what is believed, and since when.
//
// # Errors
//
// By default an error status is a response with a nil error, as the contract of
// http.RoundTripper asks and generated SDKs expect. The last response arrives as
// it was received, its body whole. There are three ways to the parsed error
// object: [ErrorFromResponse]; [WithStatusErrors], which turns statuses from 400
// on into Go errors; and a [Trace] in the request's context
// ([ContextWithOptions]), which works through any SDK that passes the context on.
// All three give an [*APIError], which matches [ErrRateLimit] and the other
// sentinels with errors.Is.
//
// Switch the retries of an SDK above off, or attempts multiply. Some SDKs can be
// told that an error is final: by [WithNoRetryMark], and by methods of the error
// types that those of Azure and AWS look for.
//
// The error object may have any of the usual shapes: the documented
// {"code","type","message","invalid"}, problem+json, an "error" object or word,
// lists and maps of "errors", a Kubernetes Status, the names that AWS puts into
// headers, plain text. No rule of this package reads the text of a message. The
// special traits of one API, such as errors in a 200, are a [Profile]
// ([WithProfile]), whose rules may; package profile has some.
//
// A call that ends without a response returns the base's own error after one
// attempt, and a [*RetryError] around it after several. http.Client wraps both in
// a *url.Error, whose text holds the URL with its path and query: a transport
// cannot redact that.
//
// # Bodies
//
// A request body is replayed from Request.GetBody, which http.NewRequest sets for
// the in-memory readers, or from up to [WithReplayBuffer] bytes recorded while the
// first attempt reads them. Otherwise the request is sent once. Every attempt reads
// its own copy, because the base may still be reading the last one. A discarded
// response is read up to 64 KiB and for at most a second, which overlaps the wait,
// and then closed, so that its connection is reused.
//
// A response body is the base's own, unless an option asks for more: [WithIdleTimeout]
// ends one that falls silent, [WithWholeBody] reads it before RoundTrip returns, the Body
// hook of a [Trace] is told how it ended, and [WithMaxInFlight] counts it until then. A
// Profile can read event streams, in which an error comes with status 200. Package
// resume goes on with a download that broke off.
//
// # Compatibility
//
// The caller's request is never written to. The first attempt of an idempotent
// request is the caller's own *Request and costs nothing: no allocation, copy or
// goroutine. Upgraded connections (101), trailers, redirects and cookies are left
// alone, and so are streams without a Profile that reads them; the cookies of a retried response go with it. A ClientTrace of
// net/http/httptrace sees every attempt. If base is, or wraps, another Transport,
// requests it has given up on are not retried again.
//
// net/http may send a request again by itself, below this package and unseen by
// its counters and limits: on a reused connection that turns out dead (a POST too,
// if it has an idempotency key), and after an HTTP/2 GOAWAY or REFUSED_STREAM,
// without pause until the context ends (go.dev/issue/52459). Set a deadline or
// [WithAttemptTimeout].
package resilient

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/resilienthttp/resilient/internal/suspect"
)

var _ http.RoundTripper = (*Transport)(nil)

// Transport is an http.RoundTripper that retries, paces and explains the
// requests it passes to another one. Make it with [NewTransport]; the zero
// Transport sends each request once through http.DefaultTransport.
//
// A Transport is safe for concurrent use, and is meant to be shared: its rate
// limits, pauses and retry budgets hold across all requests that go through it.
// It must not be copied after first use.
type Transport struct {
	base     http.RoundTripper
	cfg      config
	traced   atomic.Pointer[config] // cfg with the hooks of AddTrace; nil: there are none
	keys     keyTable
	totals   counters
	suspects suspect.Set // HTTP/2 connections on which an attempt timed out
}

// NewTransport returns a Transport that sends its requests through base. A nil
// base is http.DefaultTransport, looked up at each call. Nil options are
// skipped; of two that set the same thing, the last one wins.
func NewTransport(base http.RoundTripper, opts ...Option) *Transport {
	cfg := config{
		maxAttempts: defaultMaxAttempts,
		newBackOff:  defaultBackOff,
		maxWait:     defaultMaxWait,
		logLevel:    defaultLogLevel,
		shared: sharedConfig{
			budgetRatio: defaultBudgetRatio,
			budgetFloor: defaultBudgetFloor,
		},
	}
	cfg.apply(opts)
	return &Transport{base: base, cfg: cfg, keys: keyTable{retries: cfg.maxAttempts - 1}}
}

// RoundTrip implements http.RoundTripper. It returns the last response as it was
// received, even if its status is an error (but see [WithStatusErrors]), or the
// error that left the call without one: never both, never neither.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := checkRequest(req); err != nil {
		closeBody(req.Body)
		return nil, err
	}
	var c call
	defer c.end()
	c.init(t, t.settings(req.Context()), req)
	return c.run()
}

// CloseIdleConnections closes the idle connections of the base, if the base
// has such a method. http.Client.CloseIdleConnections calls it; the Transport
// itself never does.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.roundTripper().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *Transport) roundTripper() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}

// Spare reports whether a request that is not needed, such as the second of package
// hedge, would take nothing from others: it would be sent at once, none is believed of a
// limit of the server's that binds it, at least half of each limit of the user's would be
// left, and no retry has failed lately. A [Limiter] is not asked, because it would count.
// It costs about as much as a request that finds its rate limit free.
func (t *Transport) Spare(req *http.Request) bool {
	if checkRequest(req) != nil {
		return false
	}
	c := call{cfg: t.settings(req.Context()), req: req}
	key := t.keys.find(c.cfg, req)
	if key == nil {
		return true
	}
	now := time.Now()
	return !key.budget.Strained(now) && key.gate.Spare(now, c.route(), key.gate.Likely(c.cfg.shared.costs(req)))
}

// checkRequest refuses a request that cannot be looked at without a panic. All
// else that may be wrong with a request is the base's to say.
func checkRequest(req *http.Request) error {
	if req.URL == nil {
		return errors.New("resilient: nil Request.URL")
	}
	if req.Header == nil {
		return errors.New("resilient: nil Request.Header")
	}
	return nil
}

// settings returns the configuration in force for a request with this context.
func (t *Transport) settings(ctx context.Context) *config {
	own := t.traced.Load()
	if own == nil {
		own = &t.cfg
	}
	o, _ := ctx.Value(optionsKey{}).(*contextOptions)
	if o == nil || len(o.opts) == 0 {
		return own
	}
	cfg := *own
	cfg.apply(o.opts)
	return &cfg
}

// AddTrace adds hooks to a Transport that is in use, for the calls that begin
// from then on. They are called as those of [WithTrace] are, and cannot be taken
// away again. It panics if tr is nil.
func (t *Transport) AddTrace(tr *Trace) {
	add := []Option{WithTrace(tr)}
	for {
		was := t.traced.Load()
		cfg := t.cfg
		if was != nil {
			cfg = *was
		}
		cfg.apply(add)
		if t.traced.CompareAndSwap(was, &cfg) {
			return
		}
	}
}
