package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// tokensRevoked is scenario n: a token that the server does not accept any more.
func tokensRevoked() scenario {
	return scenario{
		letter: "n",
		title:  "A token is revoked",
		model: "20 ms until an answer, 5 ms until a 401, 200 ms for a new token. Requests without a token have the first one, which is revoked after a second. " +
			"Refreshes is the number of new tokens that were asked for, and extra that of the requests that got a 401.",
		peers:    []string{"resilient", "reauth over resilient", "oauth2 over reauth over resilient", "oauth2 over resilient", "hand-written refresh"},
		variants: revocations(),
	}
}

// authority gives out tokens and revokes them. It is the API too, over the server.
type authority struct {
	next    http.RoundTripper
	start   time.Time
	takes   time.Duration   // until a new token
	refusal time.Duration   // until a 401
	revoked []time.Duration // when the token changes
	down    interval        // of the token server
	strict  string          // a URL that nobody may read

	mu        sync.Mutex
	refreshes int
	refused   int
}

var errTokenServer = errors.New("the token server is down")

// valid returns the number of the token that is accepted now, from 1 on.
func (a *authority) valid() int {
	n := 1
	for _, at := range a.revoked {
		if time.Since(a.start) >= at {
			n++
		}
	}
	return n
}

// token asks for a new token.
func (a *authority) token(ctx context.Context) (string, error) {
	a.mu.Lock()
	a.refreshes++
	a.mu.Unlock()
	if err := sleepUntil(ctx, time.Now().Add(a.takes)); err != nil {
		return "", err
	}
	if a.down.holds(time.Since(a.start)) {
		return "", errTokenServer
	}
	return strconv.Itoa(a.valid()), nil
}

// RoundTrip implements http.RoundTripper.
func (a *authority) RoundTrip(req *http.Request) (*http.Response, error) {
	token := req.Header.Get("Authorization")
	if token == "" {
		token = "Bearer 1"
	}
	if token == "Bearer "+strconv.Itoa(a.valid()) && (a.strict == "" || req.URL.String() != a.strict) {
		return a.next.RoundTrip(req)
	}
	c := callOf(req)
	a.mu.Lock()
	a.refused++
	a.mu.Unlock()
	if err := sleepUntil(req.Context(), align(time.Now().Add(a.refusal), c.id)); err != nil {
		return nil, err
	}
	return answer(req, http.StatusUnauthorized, http.Header{"Content-Type": {"application/json"}}), nil
}

// revocation is a load, and what becomes of the tokens meanwhile.
type revocation struct {
	prepare func(*authority)
	load    func(*run, *tally, doer)
}

// revocationTargets are those of the metrics of scenario n.
type revocationTargets struct{ refreshes, extra, failed, longest float64 }

func (v revocation) variant(name, model string, p params, w revocationTargets) variant {
	return variant{name: name, model: model, params: p, measure: v.measure, metrics: []metric{
		atMost("refreshes", "n", w.refreshes),
		atMost("extra", "n", w.extra),
		atMost("failed", "n", w.failed),
		atMost("longest call", "time", w.longest),
	}}
}

func (v revocation) measure(t *testing.T, p params, pr *peer) ([]float64, *run) {
	t.Helper()
	var a *authority
	r := bubble(t, p, pr, func(r *run) {
		a = &authority{next: r.srv, start: r.start, takes: 200 * ms, refusal: 5 * ms, revoked: []time.Duration{time.Second}}
		if v.prepare != nil {
			v.prepare(a)
		}
		cfg := p.config()
		cfg.authority = a
		all := &tally{r: r}
		v.load(r, all, pr.client(a, cfg))
		all.wg.Wait()
		time.Sleep(time.Minute) // for a refresh that nobody waits for
	})
	return []float64{
		float64(a.refreshes), float64(a.refused), float64(r.failed()),
		r.latency(1, func(c *call) bool { return c.ok }).Seconds(),
	}, r
}

func revocations() []variant {
	p := defaults()
	p.rate, p.attempts, p.workers, p.clients, p.length = 0, 4, 100, 1, 3*time.Second
	workers := func(r *run, all *tally, do doer) {
		for id := range r.params.workers {
			all.work(do, id, 0, r.at(r.params.length))
		}
	}
	calls := func(r *run, all *tally, do doer) {
		all.stream(do, 0, r.params.each, interval{0, r.params.length}, ids(1))
	}
	open := p
	open.each, open.length = 100, 10*time.Second
	often := open
	often.length = 30 * time.Second
	longer := open
	longer.each, longer.length = 10, time.Minute
	return []variant{
		revocation{load: workers}.variant("n.revoked", "100 workers, so 100 requests are under way when the token is revoked; 3 s", p, revocationTargets{1, 100, 0, 0.23}),
		revocation{load: workers, prepare: func(a *authority) { a.takes = 5 * time.Second }}.variant("n.slow", "as n.revoked, 5 s for a new token", p, revocationTargets{1, 100, 0, 5.03}),
		revocation{load: calls}.variant("n.open", "100 calls a second, whether or not earlier ones have ended; 10 s", open, revocationTargets{1, 25, 0, 0.23}),
		revocation{load: calls, prepare: func(a *authority) {
			a.revoked = nil
			for at := time.Second; at < 30*time.Second; at += 3 * time.Second {
				a.revoked = append(a.revoked, at)
			}
		}}.variant("n.often", "as n.open, revoked every 3 s; 30 s", often, revocationTargets{10, 250, 0, 0.23}),
		revocation{load: calls, prepare: func(a *authority) { a.down = interval{0, 15 * time.Second} }}.variant("n.down", "10 calls a second; the token server is down for 15 s, and the first refresh after that is 20 s after the first; a minute", longer,
			revocationTargets{3, none(), 220, 0.23}),
		revocation{load: func(r *run, all *tally, do doer) {
			all.prepare = func(c *call) {
				if c.url = things; c.process == 1 {
					c.url = search
				}
			}
			all.stream(do, 0, 9, interval{0, r.params.length}, ids(2))
			all.stream(do, 1, 1, interval{0, r.params.length}, ids(5000))
		}, prepare: func(a *authority) { a.revoked, a.strict = nil, search }}.variant("n.forbidden", "10 calls a second, of which one is always refused with 401; a minute", longer,
			revocationTargets{6, none(), 61, 0.23}),
	}
}
