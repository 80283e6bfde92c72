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
// 429 and 500 are retried, like 408, 425, 502, 503, 504 and 529; every other
// status from 400 on is final after one attempt, and statuses below 400 pass
// through untouched, whatever headers they carry. Two things are more exact than
// a status: a code in the body that speaks of a limit, by which a 400 or a 403
// can be a rate limit and a 429 a quota that does not come back, and a field by
// which the server says outright whether to retry (X-Should-Retry,
// Stripe-Should-Retry). What may be sent twice is decided by what is known about
// the first time:
//
//   - rejected unprocessed (429 and other rate limits; 503 with Retry-After, RFC
//     9110 section 15.6.4): any method;
//   - provably never sent (the dial failed, or net/http/httptrace shows that
//     nothing was written): any method;
//   - anything else (500, a lost connection, an attempt that timed out): the
//     idempotent methods of RFC 9110 section 9.2.2, and requests that carry an
//     Idempotency-Key or X-Idempotency-Key header.
//
// Certificates that do not verify, unknown hosts, malformed requests and the
// caller's own cancellation are never retried. The wait is the server's hint,
// to which jitter only adds, or the interval of a backoff policy
// ([WithBackOff]). A wait that cannot end well, because it is longer than
// [WithMaxWait] or than the context's deadline, is not begun: the caller gets
// the response at once, hint included. Retries are bounded by [WithMaxAttempts]
// and by a budget ([WithRetryBudget]), so that an outage is not amplified. As
// long as no retry fails, failures are isolated, and the first retry comes after
// the smallest interval there is.
//
// # Rate limits
//
// [WithRateLimit] puts a token bucket in front of every attempt, retries
// included, for each limit key: scheme, host and credential, unless
// [WithLimitKey] says otherwise. Waiters are served in order, first attempts
// before retries, of which a ninth goes nevertheless; what was refused for its
// rate goes back to where it stood. A
// rejection that names a wait pauses its key for all goroutines, and the release
// is paced: one request goes ahead, and each one that is accepted lets two more
// follow. A wait that would be too long is refused at once with a [*LimitError],
// and nothing is sent.
//
// The server's limit need not be known: from the second refusal on it is
// measured by what is accepted, and the key is paced to it, so that a backlog
// uses the whole of it and about one request in a hundred is refused
// ([WithLearnedRate]). RateLimit fields with a policy are used before anything
// is refused, by a client that is seen to be alone with its quota. What is learned
// holds for one Transport; several that share a quota find shares of it that are
// about alike, and a limit in Redis, module redislimit, does it exactly.
//
// # Errors
//
// By default an error status is a response with a nil error, as the contract of
// http.RoundTripper asks and generated SDKs expect; the last response arrives
// as it was received, its body whole. The parsed error object is had in three
// ways: [ErrorFromResponse]; [WithStatusErrors], which turns statuses from 400
// on into Go errors; and a [Trace] in the request's context
// ([ContextWithOptions]), which works through any SDK that passes the context
// on. All three give an [*APIError], which matches [ErrRateLimit] and its
// sisters with errors.Is.
//
// An SDK that retries by itself is best told not to, or attempts multiply. Some
// can be told that what was given up here is final: by [WithNoRetryMark], and by
// methods of the error types that those of Azure and AWS look for.
//
// The error object may have any of the shapes that are usual: the documented
// {"code","type","message","invalid"}, problem+json, an "error" object or word,
// lists and maps of "errors", a Kubernetes Status, the names that AWS puts into
// headers, plain text. Message text decides nothing. What is special about one
// API, such as errors in a 200, is a [Profile] ([WithProfile]); package profile
// has some.
//
// A call that ends without a response returns the base's own error after one
// attempt, and a [*RetryError] around it after several. http.Client wraps both
// in a *url.Error, whose text holds the URL with its query: a transport cannot
// redact that.
//
// # Bodies
//
// A request body is replayed from Request.GetBody, which http.NewRequest sets
// for the in-memory readers; else from up to [WithReplayBuffer] bytes recorded
// while the first attempt reads them; else the request is sent once. Every
// attempt reads its own copy, since the base may still be reading the last
// one. A discarded response is read up to 64 KiB and for at most a second,
// which overlaps the wait, then closed, so that its connection is reused.
//
// # Compatibility
//
// The caller's request is never written to. The first attempt of an idempotent
// request is the caller's own *Request and costs nothing: no allocation, copy
// or goroutine. Streams, upgraded connections (101), trailers, redirects and
// cookies are left alone; the cookies of a retried response go with it. A
// ClientTrace of net/http/httptrace sees every attempt. Over another Transport,
// what that one has retried in vain is final, so attempts do not multiply.
//
// net/http may send a request again by itself, below this package and unseen by
// its counters and limits: on a reused connection that turns out dead (also a
// POST, if it has an idempotency key), and after an HTTP/2 GOAWAY or
// REFUSED_STREAM, without pause until the context ends (go.dev/issue/52459). Set
// a deadline or [WithAttemptTimeout].
package resilient

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
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
	base   http.RoundTripper
	cfg    config
	traced atomic.Pointer[config] // cfg with the hooks of AddTrace; nil: there are none
	keys   keyTable
	totals counters
}

// NewTransport returns a Transport that sends its requests through base. A nil
// base is http.DefaultTransport, looked up at each call. Nil options are
// skipped; of two that set the same thing, the last one wins.
func NewTransport(base http.RoundTripper, opts ...Option) *Transport {
	cfg := config{
		maxAttempts: defaultMaxAttempts,
		newBackOff:  defaultBackOff,
		maxWait:     defaultMaxWait,
		shared: sharedConfig{
			budgetRatio: defaultBudgetRatio,
			budgetFloor: defaultBudgetFloor,
		},
	}
	cfg.apply(opts)
	return &Transport{base: base, cfg: cfg}
}

// RoundTrip implements http.RoundTripper. It returns the last response as it
// was received, also when its status is an error (but see [WithStatusErrors]),
// or the error that left the call without one: never both, never neither.
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

// checkRequest refuses what cannot be looked at without a panic. Everything
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
	opts, _ := ctx.Value(optionsKey{}).([]Option)
	if len(opts) == 0 {
		return own
	}
	cfg := *own
	cfg.apply(opts)
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
