package resilient_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// TestHTTP2: a 429 over HTTP/2 is retried, and a stream that was reset is sent
// again only if the request is idempotent.
func TestHTTP2(t *testing.T) {
	var mu sync.Mutex
	var bodies []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, r.Proto+" "+string(b))
		switch len(bodies) {
		case 1:
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			panic(http.ErrAbortHandler) // the stream is reset
		}
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	for _, tt := range []struct {
		key  string
		want int
	}{{"", 2}, {"k", 3}} {
		bodies = nil
		req := newRequest(t, http.MethodPost, srv.URL, "payload")
		if tt.key != "" {
			req.Header.Set("Idempotency-Key", tt.key)
		}
		resp, err := resilient.NewTransport(srv.Client().Transport, every(0)).RoundTrip(req)
		require.Equal(t, tt.key != "", err == nil, "a stream reset may be of a request that was processed: %v", err)
		if err == nil {
			require.NoError(t, resp.Body.Close())
		}
		mu.Lock()
		require.Len(t, bodies, tt.want)
		for _, b := range bodies {
			require.Equal(t, "HTTP/2.0 payload", b)
		}
		mu.Unlock()
	}
}

// layer is a RoundTripper over another one, as middleware is made.
type layer func(http.RoundTripper) http.RoundTripper

// TestLayers: a Transport works among other RoundTrippers, inside and outside
// of them. Stand-ins for a signer, a tracer and a cache are enough to show it.
func TestLayers(t *testing.T) {
	transport := func(base http.RoundTripper) http.RoundTripper {
		return resilient.NewTransport(base, every(0))
	}
	signed := 0
	signer := func(base http.RoundTripper) http.RoundTripper { // as oauth2's
		return step(func(req *http.Request) (*http.Response, error) {
			signed++
			req = req.Clone(req.Context())
			req.Header.Add("Signature", strconv.Itoa(signed))
			return base.RoundTrip(req)
		})
	}
	tracer := func(base http.RoundTripper) http.RoundTripper { // as otelhttp's
		return step(func(req *http.Request) (*http.Response, error) {
			ctx, cancel := context.WithCancel(req.Context())
			resp, err := base.RoundTrip(req.WithContext(ctx))
			if err != nil {
				cancel()
				return nil, err
			}
			body := resp.Body
			resp.Body = struct {
				io.Reader
				io.Closer
			}{body, closerFunc(func() error { cancel(); return body.Close() })}
			return resp, nil
		})
	}
	cache := func(base http.RoundTripper) http.RoundTripper {
		kept := map[string]step{}
		return step(func(req *http.Request) (*http.Response, error) {
			if again, ok := kept[req.URL.Path]; ok {
				return again(req)
			}
			resp, err := base.RoundTrip(req)
			if err == nil && resp.StatusCode == http.StatusOK {
				b, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				kept[req.URL.Path] = answerWith(200, string(b))
				return kept[req.URL.Path](req)
			}
			return resp, err
		})
	}
	for _, tt := range []struct {
		name         string
		outer, inner layer
		signatures   []string
		asked        int // in the end
		why          string
	}{
		{"signer inside", transport, signer, []string{"1", "2", "3"}, 4, "each attempt has one signature, and its own"},
		{"signer outside", signer, transport, []string{"1", "1", "1"}, 4, "a call is signed once"},
		{"tracer inside", transport, tracer, []string{"", "", ""}, 4, "a span for each attempt"},
		{"tracer outside", tracer, transport, []string{"", "", ""}, 4, "a span for each call"},
		{"cache inside", transport, cache, []string{"", "", ""}, 3, "errors are not kept"},
		{"cache outside", cache, transport, []string{"", "", ""}, 3, "a hit is no attempt"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				signed = 0
				base := newScript(answer(429), answer(503), answer(200))
				client := &http.Client{Transport: tt.outer(tt.inner(base))}
				for range 2 {
					resp, err := client.Do(get(t))
					require.NoError(t, err)
					require.JSONEq(t, `{"ok":true}`, readAll(t, resp))
				}
				require.Equal(t, tt.asked, base.Count(), tt.why)
				for i, want := range tt.signatures {
					require.Equal(t, want, strings.Join(base.Attempts()[i].Header.Values("Signature"), " "), tt.why)
				}

				resp, err := (&http.Client{Transport: tt.outer(tt.inner(newScript(answer(404))))}).Do(get(t))
				require.NoError(t, err)
				apiErr, ok := resilient.ErrorFromResponse(resp)
				require.True(t, ok)
				require.Equal(t, "m", apiErr.Message, "through the layers")
				require.Equal(t, 1, apiErr.Attempts)
				require.NotEmpty(t, readAll(t, resp))
			})
		})
	}
}

// TestOneTransportOverAnother: the attempts of two Transports do not multiply.
// A request that the one below has given up on is final.
func TestOneTransportOverAnother(t *testing.T) {
	for _, tt := range []struct {
		name     string
		base     step
		inner    []resilient.Option
		sent     int
		attempts int // of the APIError
		why      string
	}{
		{"error status", answer(500), nil, 4, 4, "retried below"},
		{"final status", answer(404), nil, 1, 1, "final status"},
		{"final after a retry", nil, nil, 2, 2, "final status"},
		{"transport error", fails(io.EOF), nil, 4, 0, "retried below"},
		{"status errors", answer(500), []resilient.Option{resilient.WithStatusErrors(true)}, 4, 4, "retried below"},
		{"a limit", answer(500), []resilient.Option{resilient.WithLimiter(rate.NewLimiter(1, 0))}, 0, 0, "retried below"},
		{"meant", answer(500), []resilient.Option{resilient.WithMaxAttempts(1)}, 4, 4, "out of attempts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.base)
				if tt.base == nil {
					base = newScript(answer(500), answer(404))
				}
				var r recorder
				transport := resilient.NewTransport(resilient.NewTransport(base, tt.inner...), resilient.WithTrace(r.trace()))
				resp, err := transport.RoundTrip(get(t))
				apiErr, _ := errors.AsType[*resilient.APIError](err)
				if resp != nil {
					apiErr, _ = resilient.ErrorFromResponse(resp)
					require.NoError(t, resp.Body.Close())
				}
				require.Equal(t, tt.sent, base.Count())
				require.Equal(t, tt.attempts > 0, apiErr != nil)
				if apiErr != nil {
					require.Equal(t, tt.attempts, apiErr.Attempts, "those of both")
				}
				require.Equal(t, tt.why, r.why(t))
			})
		})
	}
}

// TestDefaultBaseIsLookedUpAtCallTime: a nil base is http.DefaultTransport as
// it is at the time of the call.
func TestDefaultBaseIsLookedUpAtCallTime(t *testing.T) {
	saved := http.DefaultTransport
	defer func() { http.DefaultTransport = saved }()
	transport, zero := resilient.NewTransport(nil), &resilient.Transport{}
	base := newScript(answer(503))
	http.DefaultTransport = base // as mocking libraries do
	synctest.Test(t, func(t *testing.T) {
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 4, base.Count())
		resp, err = zero.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 5, base.Count(), "the zero Transport does not retry")
	})
}

// TestZeroTransportDoesNotPause: the zero Transport sends each request once.
func TestZeroTransportDoesNotPause(t *testing.T) {
	base := newScript(answer(429, "Retry-After", "1"))
	transport := &resilient.Transport{}
	saved := http.DefaultTransport
	defer func() { http.DefaultTransport = saved }()
	http.DefaultTransport = base
	callers(t, transport, 3)
	require.Equal(t, 3, base.Count(), "each request is sent once")
}

// TestNonsensePanics: an option panics if its value makes no sense, and prints the value.
func TestNonsensePanics(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func()
		got  string
	}{
		{"attempts", func() { resilient.WithMaxAttempts(0) }, "0"},
		{"backoff", func() { resilient.WithBackOff[fixed](nil) }, "nil"},
		{"max wait", func() { resilient.WithMaxWait(-1) }, "-1ns"},
		{"attempt timeout", func() { resilient.WithAttemptTimeout(-1) }, "-1ns"},
		{"budget ratio", func() { resilient.WithRetryBudget(-1, 0) }, "-1"},
		{"budget NaN", func() { resilient.WithRetryBudget(nan, 0) }, "NaN"},
		{"budget floor", func() { resilient.WithRetryBudget(0, inf) }, "+Inf"},
		{"key func", func() { resilient.WithIdempotencyKey(nil) }, "nil"},
		{"replay buffer", func() { resilient.WithReplayBuffer(-1) }, "-1"},
		{"classifier", func() { resilient.WithClassifier(nil) }, "nil"},
		{"rate", func() { resilient.WithRateLimit(0, 1) }, "0"},
		{"rate NaN", func() { resilient.WithRateLimit(rate.Limit(nan), 1) }, "NaN"},
		{"burst", func() { resilient.WithRateLimit(1, 0) }, "0"},
		{"limiter", func() { resilient.WithLimiter(nil) }, "nil"},
		{"limiter func", func() { resilient.WithLimiterFor(nil) }, "nil"},
		{"limit key", func() { resilient.WithLimitKey(nil) }, "nil"},
		{"log level", func() { resilient.WithLogLevel(nil) }, "nil"},
		{"resend", func() { resilient.WithResend(0, "again") }, "0"},
		{"trace", func() { resilient.WithTrace(nil) }, "nil"},
		{"added trace", func() { resilient.NewTransport(nil).AddTrace(nil) }, "nil"},
		{"shared in ctx", func() { resilient.ContextWithOptions(t.Context(), resilient.WithRateLimit(1, 1)) }, "WithRateLimit"},
		{"no budget in ctx", func() { resilient.ContextWithOptions(t.Context(), resilient.WithRetryBudget(0, 0)) }, "WithRetryBudget"},
		{"budget in ctx", func() { resilient.ContextWithOptions(t.Context(), resilient.WithRetryBudget(1, 1)) }, "WithRetryBudget"},
		{"idle timeout", func() { resilient.WithIdleTimeout(-1) }, "-1ns"},
		{"whole body", func() { resilient.WithWholeBody(1<<30 + 1) }, "1073741825"},
		{"profile wait", func() { resilient.WithProfile(resilient.Profile{Rules: []resilient.Rule{{Wait: -1}}}) }, "-1ns"},
		{"profile unit", func() {
			resilient.WithProfile(resilient.Profile{WaitHeaders: map[string]time.Duration{"W": -1}})
		}, "-1ns"},
		{"no name", func() { resilient.WithLimit("", 1, 1, nil) }, `""`},
		{"in flight", func() { resilient.WithMaxInFlight(-1) }, "-1"},
		{"in flight in ctx", func() { resilient.ContextWithOptions(t.Context(), resilient.WithMaxInFlight(1)) }, "WithMaxInFlight"},
		{"learned in ctx", func() { resilient.ContextWithOptions(t.Context(), resilient.WithLearnedRate(true)) }, "WithLearnedRate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				require.Regexp(t, `^resilient: \w+ must be .*, got .*`+regexp.QuoteMeta(tt.got), recover())
			}()
			tt.make()
		})
	}
	require.NotPanics(t, func() {
		resilient.NewTransport(nil, nil, resilient.WithLogger(nil), resilient.WithRateLimit(rate.Inf, 0))
	})
}

// TestContextWithOptions: options in a context hold for its requests and for no
// other.
func TestContextWithOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500))
		var all, one recorder
		transport := resilient.NewTransport(base, unbounded(), resilient.WithTrace(all.trace()))
		ctx := resilient.ContextWithOptions(t.Context(), resilient.WithMaxAttempts(3), resilient.WithTrace(one.trace()))
		ctx = resilient.ContextWithOptions(ctx, resilient.WithMaxAttempts(2), nil)

		resp, err := transport.RoundTrip(get(t).WithContext(ctx))

		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2, base.Count(), "the innermost wins")
		require.Len(t, one.attempts, 2, "outer options stay")
		require.Len(t, all.attempts, 2, "the Transport's hooks are called too")

		resp, err = transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2+4, base.Count(), "other requests are as before")
		require.Len(t, one.attempts, 2)
	})
}

// TestConcurrentUse is for -race: 64 goroutines use one Transport, with
// everything that is shared in use. Every call is accounted for.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			mu.Lock()
			n++
			i := n
			mu.Unlock()
			switch i % 10 {
			case 1:
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
			case 2:
				w.WriteHeader(http.StatusInternalServerError)
			case 3:
				panic(http.ErrAbortHandler)
			}
		})
		var r recorder
		transport := resilient.NewTransport(base, resilient.WithRateLimit(500, 10), resilient.WithMaxAttempts(20),
			resilient.WithTrace(r.trace()), resilient.WithMaxWait(time.Hour), unbounded())
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 10 {
					resp, err := transport.RoundTrip(newRequest(t, http.MethodPut, "http://api.test/", "payload"))
					if err != nil || resp.StatusCode != 200 {
						t.Errorf("got %v, %v", resp, err)
						return
					}
					_ = resp.Body.Close()
				}
			})
		}
		wg.Wait()
		require.Len(t, r.done, 640, "every call is accounted for")
		require.Len(t, r.attempts, r.starts)
	})
}

// TestTimersAreStopped: timers are stopped, which forbidigo helps to see to. A
// timer that is not stopped holds on to its attempt until it fires.
func TestTimersAreStopped(t *testing.T) {
	const calls = 10_000
	transport := resilient.NewTransport(answer(200), resilient.WithAttemptTimeout(time.Hour))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	call := func() {
		for range calls {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
	}
	call()
	before := heap()
	call()
	require.Less(t, heap(), before+100*calls, "100 bytes a call")
}

// stub is the cheapest possible base.
type stub struct{ resp *http.Response }

func (s stub) RoundTrip(*http.Request) (*http.Response, error) { return s.resp, nil }

type overStub struct {
	name      string
	transport http.RoundTripper
}

func stubs() []overStub {
	base := stub{&http.Response{StatusCode: 200, Body: http.NoBody}}
	return []overStub{
		{"bare", base},
		{"default", resilient.NewTransport(base)},
		{"rate limit", resilient.NewTransport(base, resilient.WithRateLimit(1e9, 1e9))},
		{"limiter", resilient.NewTransport(base, resilient.WithLimiter(rate.NewLimiter(1e9, 1e9)))},
	}
}

// credentials are opaque, or have parts that the limit key takes.
func credentials() []struct{ name, value string } {
	segment := base64.RawURLEncoding.EncodeToString
	claims := `{"iss":"https://id.test/","sub":"1234567890","aud":"https://api.test/","iat":1700000000,"exp":1700003600,"scope":"` +
		strings.Repeat("read:things ", 30) + `"}`
	return []struct{ name, value string }{
		{"opaque", "Bearer token"},
		{"JWT", "Bearer " + segment([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + segment([]byte(claims)) + "." + segment(make([]byte, 256))},
		{"SigV4", "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=0123456789abcdef"},
	}
}

// TestSuccessAllocatesNothing: a success allocates nothing, however long the
// credential is from which the limit key is made.
func TestSuccessAllocatesNothing(t *testing.T) {
	for _, tt := range stubs() {
		for _, credential := range credentials() {
			t.Run(tt.name+"/"+credential.name, func(t *testing.T) {
				for _, req := range []*http.Request{get(t), newRequest(t, http.MethodPut, "http://api.test/v1", "payload")} {
					req.Header.Set("Authorization", credential.value)
					require.Zero(t, testing.AllocsPerRun(100, func() {
						if _, err := tt.transport.RoundTrip(req); err != nil {
							t.Error(err)
						}
					}))
				}
			})
		}
	}
}

// TestErrorsAllocateLittle: an error response that nobody asks about costs a few
// allocations, whatever other responses are remembered: its object is not made.
func TestErrorsAllocateLittle(t *testing.T) {
	other, err := resilient.NewTransport(newScript(answer(404))).RoundTrip(get(t))
	require.NoError(t, err)
	readAll(t, other) // so that something is noted of it
	for _, tt := range []struct {
		name  string
		steps []step
		want  float64
		why   string
	}{
		{"final by its status", []step{answer(404)}, 3, "the body that keeps its beginning, and a look for notes of the response"},
		{"final unless it names a limit", []step{answer(400)}, 5, "and the goroutine that reads, and what it has read"},
		{"retried", []step{answer(500), answer(500), answer(200)}, 13, "twice as much, the policy, and the requests that are sent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent := 0
			base := step(func(req *http.Request) (*http.Response, error) {
				sent++
				return tt.steps[(sent-1)%len(tt.steps)](req)
			})
			req := get(t)
			allocs := func(transport http.RoundTripper, calls int) float64 {
				return testing.AllocsPerRun(100, func() {
					for range calls {
						resp, err := transport.RoundTrip(req)
						if err != nil {
							t.Fatal(err)
						}
						_ = resp.Body.Close()
					}
				})
			}
			bare := allocs(base, len(tt.steps))
			require.LessOrEqual(t, allocs(resilient.NewTransport(base, every(0), unbounded()), 1)-bare, tt.want, tt.why)
		})
	}
	runtime.KeepAlive(other)
}

// BenchmarkSuccess is what the Transport adds to a request that succeeds, over
// a base that does nothing: compare with bare.
func BenchmarkSuccess(b *testing.B) {
	for _, tt := range stubs() {
		for _, credential := range credentials()[:2] {
			b.Run(tt.name+"/"+credential.name, func(b *testing.B) {
				req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://api.test/v1", nil)
				req.Header.Set("Authorization", credential.value)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := tt.transport.RoundTrip(req); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRetry is a call that is answered 500, 500, 200 without a wait.
func BenchmarkRetry(b *testing.B) {
	n := 0
	failed, fine := answer(500), answer(200)
	base := step(func(req *http.Request) (*http.Response, error) {
		if n++; n%3 == 0 {
			return fine(req)
		}
		return failed(req)
	})
	transport := resilient.NewTransport(base, every(0), unbounded())
	req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://api.test/v1", nil)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := transport.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

// BenchmarkError is a call that ends with an error response, which the caller closes, and
// one that asks for the error object.
func BenchmarkError(b *testing.B) {
	for _, status := range []int{404, 400} {
		for _, asks := range []bool{false, true} {
			b.Run(fmt.Sprint(status, "/asks=", asks), func(b *testing.B) {
				answer := answerWith(status, `{"code":"not_found","type":"NOT_FOUND","message":"there is no such thing"}`, "Content-Type", "application/json")
				transport := resilient.NewTransport(answer)
				req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://api.test/v1", nil)
				b.ReportAllocs()
				for b.Loop() {
					resp, err := transport.RoundTrip(req)
					if err != nil {
						b.Fatal(err)
					}
					if asks {
						_, _ = resilient.ErrorFromResponse(resp)
					}
					_ = resp.Body.Close()
				}
			})
		}
	}
}
