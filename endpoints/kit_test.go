package endpoints_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
	"github.com/resilienthttp/resilient/internal/kit"
)

const ms = time.Millisecond

var errLost = errors.New("the connection was lost")

// behaviour is how a server answers.
type behaviour func(*http.Request) (*http.Response, error)

// answers answers with a status.
func answers(status int, header ...string) behaviour {
	return func(req *http.Request) (*http.Response, error) {
		if status >= 500 {
			time.Sleep(5 * ms)
		} else {
			time.Sleep(20 * ms)
		}
		resp := kit.Response(status, `{"message":"`+req.URL.Host+`"}`, header...)
		resp.Request = req
		return resp, nil
	}
}

// silent never answers.
func silent(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, context.Cause(req.Context())
}

// fails answers with an error.
func fails(err error) behaviour {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// during is one behaviour for some time from the start on, and before and after another.
func during(from, to time.Duration, then, other behaviour) behaviour {
	start := time.Now()
	return func(req *http.Request) (*http.Response, error) {
		if at := time.Since(start); at >= from && at < to {
			return then(req)
		}
		return other(req)
	}
}

// attempt is what the hooks of the base were told of one, and when it began.
type attempt struct {
	resilient.AttemptInfo

	at time.Duration
}

// world is the servers, by their hosts. It is a base.
type world struct {
	tb      testing.TB
	servers map[string]behaviour
	start   time.Time

	mu       sync.Mutex
	attempts []attempt
	requests []*http.Request // as they came
	sent     []string        // the bodies that came with them
	bodies   *kit.Bodies
}

func newWorld(tb testing.TB, servers map[string]behaviour) *world {
	tb.Helper()
	return &world{tb: tb, servers: servers, start: time.Now(), bodies: kit.NewBodies(tb)}
}

// between returns two servers, of which the first is preferred.
func between(tb testing.TB, first, second behaviour) *world {
	tb.Helper()
	return newWorld(tb, map[string]behaviour{"a.test": first, "b.test": second})
}

// over returns a Transport to the endpoints, by default to both, over a resilient one.
func (w *world) over(base []resilient.Option, opts ...endpoints.Option) *endpoints.Transport {
	return endpoints.New(w.base(base...), []endpoints.Endpoint{{URL: "http://a.test"}, {URL: "http://b.test"}}, opts...)
}

// base returns a resilient.Transport that waits for a second after a failure.
func (w *world) base(opts ...resilient.Option) *resilient.Transport {
	return resilient.NewTransport(w, append([]resilient.Option{
		resilient.WithAttemptTimeout(time.Second), resilient.WithRetryBudget(math.Inf(1), 0),
		resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(time.Second) }),
		resilient.WithTrace(&resilient.Trace{AttemptDone: w.note}),
	}, opts...)...)
}

func (w *world) note(a resilient.AttemptInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts = append(w.attempts, attempt{a, time.Since(w.start) - a.Duration})
}

// serve changes the first server.
func (w *world) serve(b behaviour) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers["a.test"] = b
}

// forget forgets the attempts so far.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts = nil
}

// attempt returns the attempt with this number.
func (w *world) attempt(i int) attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.attempts[i]
}

// asked returns the hosts that were asked, in the order of the answers.
func (w *world) asked() (hosts []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.attempts {
		host, _, _ := strings.Cut(a.Request.URL.Host, ".")
		if a.ResendReason == endpoints.ReasonProbe {
			host += " probed"
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// probes returns when the first server was probed.
func (w *world) probes() (at []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.attempts {
		if a.Request.URL.Host == "a.test" && a.ResendReason == endpoints.ReasonProbe {
			at = append(at, a.at)
		}
	}
	slices.Sort(at)
	return at
}

func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	body := kit.Take(req)
	w.mu.Lock()
	w.requests, w.sent = append(w.requests, req), append(w.sent, body)
	server := w.servers[req.URL.Host]
	w.mu.Unlock()
	resp, err := server(req)
	if resp != nil {
		w.bodies.Note(resp)
	}
	return resp, err
}

type roundTripper = kit.RoundTripper

func newRequest(tb testing.TB, method, body string) *http.Request {
	tb.Helper()
	return kit.Request(tb, method, "http://api.test/v1", body)
}

func get(tb testing.TB) *http.Request {
	tb.Helper()
	return kit.Get(tb)
}

// outcome sends a request and returns the host that has answered, or the error.
func outcome(tb testing.TB, transport http.RoundTripper, req *http.Request) (string, error) {
	tb.Helper()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		require.Nil(tb, resp)
		return "", err
	}
	require.Same(tb, req, resp.Request)
	defer resp.Body.Close()
	apiErr, failed := resilient.ErrorFromResponse(resp)
	body, err := io.ReadAll(resp.Body)
	require.NoError(tb, err)
	if failed {
		return "", apiErr
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(string(body), `{"message":"`), ".")
	return host, nil
}

// traffic is calls at a steady rate. It returns what became of each.
type result struct {
	at, took time.Duration
	host     string
	err      error
}

func traffic(t *testing.T, transport http.RoundTripper, perSecond int, length time.Duration) []result {
	t.Helper()
	start, gap := time.Now(), time.Second/time.Duration(perSecond)
	results := make([]result, int(length/gap))
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * (gap + time.Microsecond)) // no call begins in the instant in which another ends
			begun := time.Now()
			host, err := outcome(t, transport, get(t))
			results[i] = result{begun.Sub(start), time.Since(begun), host, err}
		})
	}
	wg.Wait()
	return results
}
