package debugpage_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/debugpage"
	"github.com/resilienthttp/resilient/resilienttest"
)

// every returns an option that makes each retry wait for exactly d.
func every(d time.Duration) resilient.Option {
	return resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(d) })
}

func newRequest(tb testing.TB, method, target string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, target, nil)
	if err != nil {
		panic(err) // FailNow must not be called from other goroutines
	}
	return req
}

// send makes a call and ignores its outcome.
func send(t http.RoundTripper, req *http.Request) {
	if resp, err := t.RoundTrip(req); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// get returns the page for a query such as "?call=1".
func get(tb testing.TB, h http.Handler, query string) *http.Response {
	tb.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/debug/resilient"+query, nil))
	return w.Result()
}

func body(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(tb, err)
	return string(b)
}

// busy calls look with the handler of a Transport that was busy for some minutes of
// virtual time. 16 workers call an API whose limit changes. Another API gives a
// Retry-After, a POST to it fails, a connection is lost, and a call is still in
// flight.
func busy(t *testing.T, look func(http.Handler)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		people := &limitedAPI{bucket: rate.NewLimiter(40, 5), random: rand.New(rand.NewPCG(1, 2))}
		billing := resilienttest.New(
			resilienttest.Answer{Status: 503, Header: http.Header{"Retry-After": {"5"}}, Delay: 12 * time.Millisecond},
			resilienttest.Answer{Delay: 20 * time.Millisecond},
			resilienttest.Answer{Status: 500, Delay: 80 * time.Millisecond},
			resilienttest.Answer{Status: 404, Delay: 9 * time.Millisecond},
			resilienttest.Answer{Lost: true, Delay: 700 * time.Millisecond},
			resilienttest.Answer{Status: 502, Delay: 30 * time.Millisecond},
			resilienttest.Answer{Delay: 25 * time.Millisecond},
			resilienttest.Answer{Status: 429, Header: http.Header{"Retry-After": {"7200"}, "X-Request-Id": {"req_8Fq2"}}, Delay: 14 * time.Millisecond},
			resilienttest.Answer{Delay: time.Hour},
		)
		transport := resilient.NewTransport(hosts{"api.example.com": people, "billing.example.com": billing})
		page := debugpage.Handler(transport)

		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					target := fmt.Sprintf("https://api.example.com/v1/sensors/%d/visitors", 16*n+i)
					req := newRequest(t, http.MethodGet, target).WithContext(ctx)
					req.Header.Set("Authorization", "Bearer secret")
					send(transport, req)
				}
			})
		}
		pay := func(method, path string) {
			send(transport, newRequest(t, method, "https://billing.example.com"+path).WithContext(ctx))
		}
		time.Sleep(100 * time.Second)
		people.setLimit(15)
		time.Sleep(80 * time.Second)
		people.setLimit(60)
		time.Sleep(60 * time.Second)
		pay(http.MethodGet, "/v2/accounts/42/invoices")
		pay(http.MethodPost, "/v2/accounts/42/invoices")
		pay(http.MethodGet, "/v2/accounts/43")
		pay(http.MethodGet, "/v2/accounts/42/balance")
		pay(http.MethodGet, "/v2/rates")
		wg.Go(func() { pay(http.MethodGet, "/v2/accounts/42/statement") })
		time.Sleep(2300 * time.Millisecond)
		synctest.Wait()
		look(page)
		cancel()
		wg.Wait()
	})
}

// hosts is a base of several servers.
type hosts map[string]http.RoundTripper

func (h hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	return h[req.URL.Host].RoundTrip(req)
}

// limitedAPI is a server with a rate limit that it does not advertise.
type limitedAPI struct {
	mu     sync.Mutex
	bucket *rate.Limiter
	random *rand.Rand
}

func (a *limitedAPI) setLimit(limit rate.Limit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bucket.SetLimitAt(time.Now(), limit)
}

func (a *limitedAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	took := time.Duration(15+a.random.IntN(20)) * time.Millisecond
	a.mu.Unlock()
	timer := time.NewTimer(took)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	status, text := http.StatusOK, `{"count":42}`
	if !a.bucket.AllowN(time.Now(), 1) {
		status, text = http.StatusTooManyRequests, `{"code":"429","type":"RATE_LIMIT_ERROR","message":"Too many requests."}`
	}
	return &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
	}, nil
}
