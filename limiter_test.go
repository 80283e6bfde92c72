package resilient_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// callers sends n requests at once, a nanosecond apart so that their order is
// known, and returns when all have ended.
func callers(t *testing.T, transport http.RoundTripper, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			resp, err := transport.RoundTrip(get(t))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
		})
		time.Sleep(time.Nanosecond)
	}
	wg.Wait()
}

// since returns the times at which requests were sent, to the millisecond.
func (s *script) since(start time.Time) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at []time.Duration
	for _, note := range s.sent {
		at = append(at, note.at.Sub(start).Truncate(time.Millisecond))
	}
	return at
}

const ms = time.Millisecond

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		var r recorder
		transport := resilient.NewTransport(base, resilient.WithRateLimit(10, 3), resilient.WithTrace(r.trace()))
		start := time.Now()
		callers(t, transport, 6)
		require.Equal(t, []time.Duration{0, 0, 0, 100 * ms, 200 * ms, 300 * ms}, base.since(start))
		require.Len(t, r.waits, 3)
		for i, w := range r.waits {
			require.Equal(t, "rate limit", w.Reason)
			require.InDelta(t, time.Duration(i+1)*100*ms, w.Duration, float64(ms))
		}
	})
}

func TestAWaitAsLongAsMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		start := time.Now()
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithMaxWait(time.Second))
		for range 3 {
			callers(t, transport, 1)
		}
		require.Equal(t, []time.Duration{0, time.Second, 2 * time.Second}, base.since(start))
	})
}

func TestRateLimitAppliesToRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500))
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(0), resilient.WithRateLimit(1, 1)).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}, base.since(start))
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		base := step(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			order = append(order, req.URL.Path)
			mu.Unlock()
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1))
		var want []string
		var wg sync.WaitGroup
		for i := range 20 {
			path := fmt.Sprint("/", i)
			want = append(want, path)
			wg.Go(func() {
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
				if err == nil {
					_ = resp.Body.Close()
				}
			})
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		require.Equal(t, want, order)
	})
}

// failsFirst answers the first request with status and the others with 200, and
// notes the paths in the order in which they come.
func failsFirst(status int, order *[]string) step {
	var mu sync.Mutex
	return func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if *order = append(*order, req.URL.Path); len(*order) == 1 {
			return answer(status)(req)
		}
		return answer(200)(req)
	}
}

func TestFirstAttemptsGoBeforeRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		transport := resilient.NewTransport(failsFirst(500, &order), every(100*ms), resilient.WithRateLimit(1, 1))
		var wg sync.WaitGroup
		for i, path := range []string{"/retried", "/a", "/b"} {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 200 * ms) // the retry is in line first
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
				if err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		wg.Wait()
		require.Equal(t, []string{"/retried", "/a", "/b", "/retried"}, order)
	})
}

// In a backlog there is always a first attempt in line. A retry of a 502 stood
// behind all of them until WithMaxWait was over.
func TestARetryGetsItsTurnInABacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		var r recorder
		transport := resilient.NewTransport(failsFirst(502, &order), every(time.Second), resilient.WithRateLimit(10, 1))
		stop := time.Now().Add(5 * time.Second)
		var wg sync.WaitGroup
		wg.Go(func() {
			req := newRequest(t, http.MethodGet, "http://api.test/retried", "")
			ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(r.trace()))
			resp, err := transport.RoundTrip(req.WithContext(ctx))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
		})
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i+1) * time.Microsecond)
				for time.Now().Before(stop) {
					callers(t, transport, 1)
				}
			})
		}
		wg.Wait()
		require.InDelta(t, 18, slices.Index(order[1:], "/retried"), 1, "10 went in the second it backed off, and 8 before it")
		require.Equal(t, "rate limit", r.waits[1].Reason)
		require.InDelta(t, 900*ms, r.waits[1].Duration, float64(100*ms), "and that was foreseen")
	})
}

func TestWaitersWhoGiveUpLeaveNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithMaxWait(time.Hour))
		start := time.Now()
		callers(t, transport, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone, req := errors.New("gone"), get(t).WithContext(ctx)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				_, err := transport.RoundTrip(req)
				if err != gone { //nolint:errorlint // the cause itself: nothing was sent
					t.Error(err)
				}
			})
		}
		time.Sleep(10 * ms)
		cancel(gone)
		wg.Wait()
		callers(t, transport, 2)
		require.Equal(t, []time.Duration{0, time.Second, 2 * time.Second}, base.since(start), "as if they had never been")

		ended, end := context.WithCancel(t.Context())
		end()
		time.Sleep(time.Minute)
		start = time.Now()
		_, err := transport.RoundTrip(get(t).WithContext(ended))
		require.ErrorIs(t, err, context.Canceled)
		callers(t, transport, 1)
		require.Zero(t, time.Since(start).Truncate(ms), "one who comes with an ended context takes no token")
	})
}

func TestLimitError(t *testing.T) {
	for _, tt := range []struct {
		name     string
		opts     []resilient.Option
		deadline time.Duration
	}{
		{"over WithMaxWait", []resilient.Option{resilient.WithMaxWait(time.Second)}, 0},
		{"over the deadline", nil, time.Second},
		{"never wait", []resilient.Option{resilient.WithMaxWait(0)}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answer(200))
				var r recorder
				transport := resilient.NewTransport(base, append(tt.opts, resilient.WithRateLimit(0.5, 1))...)
				callers(t, transport, 1)
				ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(r.trace()))
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				start := time.Now()
				_, err := transport.RoundTrip(get(t).WithContext(ctx))
				var limited *resilient.LimitError
				require.ErrorAs(t, err, &limited)
				require.InDelta(t, 2*time.Second, limited.Wait, float64(ms))
				require.Equal(t, "rate limit", limited.Reason)
				require.NotErrorIs(t, err, context.DeadlineExceeded, "would is not did")
				require.NotErrorIs(t, err, resilient.ErrRateLimit, "the server said nothing")
				require.NotImplements(t, (*interface{ Timeout() bool })(nil), err)
				require.Contains(t, err.Error(), "client-side rate limit")
				require.Zero(t, time.Since(start), "at once")
				require.Equal(t, 1, base.count(), "nothing was sent")
				require.Equal(t, "limited", r.why(t))
				require.Zero(t, r.done[0].Attempts)
				require.Empty(t, r.waits)
			})
		})
	}
}

func TestRetryThatTheLimitWouldHoldTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500))
		for name, ctx := range map[string]func() (context.Context, context.CancelFunc){
			"max wait": func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) },
			"deadline": func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 9*time.Second) },
		} {
			var r recorder
			longest := 9500 * ms
			if name == "deadline" {
				longest = time.Minute
			}
			transport := resilient.NewTransport(base, every(0), resilient.WithRateLimit(0.1, 1), resilient.WithMaxWait(longest), resilient.WithTrace(r.trace()))
			ctx, cancel := ctx()
			resp, err := transport.RoundTrip(get(t).WithContext(ctx))
			require.NoError(t, err, "the response now, rather than an error later")
			require.Equal(t, 500, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, name, r.why(t))
			cancel()
		}
	})
}

func TestHintAndLimitAreWaitedForTogether(t *testing.T) {
	// The next token comes in 70 s, longer than the limiter may hold anybody;
	// but 50 s of that are the server's.
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500, "Retry-After", "50"), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(0), resilient.WithRateLimit(rate.Limit(1.0/70), 1)), 1)
		require.Equal(t, []time.Duration{0, 70 * time.Second}, base.since(start))
	})
}

func TestRetriesQueueBehindRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500), answer(500), answer(200))
		var r recorder
		transport := resilient.NewTransport(base, every(10*ms), resilient.WithRateLimit(1, 2), resilient.WithTrace(r.trace()))
		callers(t, transport, 2)
		require.Len(t, r.waits, 4)
		require.Equal(t, "rate limit", r.waits[2].Reason)
		require.InDelta(t, 990*ms, r.waits[2].Duration, float64(ms))
		require.InDelta(t, 1990*ms, r.waits[3].Duration, float64(ms), "one retry is ahead")
	})
}

func TestRetryOvertakenTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := step(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/retried" {
				return answer(500)(req)
			}
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, every(0), resilient.WithRateLimit(1, 1), resilient.WithMaxWait(5*time.Second))
		stop, req := make(chan struct{}), get(t)
		var wg sync.WaitGroup
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(900 * ms): //nolint:forbidigo // the test's clock is virtual
					wg.Go(func() {
						if resp, err := transport.RoundTrip(req); err == nil {
							_ = resp.Body.Close()
						}
					})
				}
			}
		}()
		start := time.Now()
		_, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test/retried", ""))
		close(stop)
		var limited *resilient.LimitError
		require.ErrorAs(t, err, &limited)
		require.ErrorIs(t, err, resilient.ErrServer, "what the server said is not lost")
		require.Equal(t, 5*time.Second, time.Since(start), "no wait is longer than WithMaxWait")
		wg.Wait()
	})
}

func TestKeys(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*http.Request)
		shared bool
	}{
		{"the same", func(*http.Request) {}, true},
		{"another path and query", func(r *http.Request) { r.URL.Path, r.URL.RawQuery = "/v2", "a=b" }, true},
		{"another method", func(r *http.Request) { r.Method = "PUT" }, true},
		{"another case", func(r *http.Request) { r.URL.Host = "API.test" }, true},
		{"another host", func(r *http.Request) { r.URL.Host = "b.test" }, false},
		{"another scheme", func(r *http.Request) { r.URL.Scheme = "https" }, false},
		{"another token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer b") }, false},
		{"no token", func(r *http.Request) { r.Header.Del("Authorization") }, false},
		{"an API key", func(r *http.Request) { r.Header.Set("X-Api-Key", "b") }, false},
		{"a user's password", func(r *http.Request) {
			r.Header.Del("Authorization")
			r.URL.User = url.UserPassword("", "c")
		}, false},
		{"a user", func(r *http.Request) { r.URL.User = url.UserPassword("b", "c") }, false},
		{"another signature by the same key", func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer a, Signature=1234") // as SigV4 is made up
		}, true},
		{"the default port", func(r *http.Request) { r.URL.Host = "api.test:80" }, true},
		{"an empty port", func(r *http.Request) { r.URL.Host = "api.test:" }, true},
		{"an absolute name", func(r *http.Request) { r.URL.Host = "Api.Test." }, true},
		{"an absolute name and the default port", func(r *http.Request) { r.URL.Host = "api.test.:80" }, true},
		{"another port", func(r *http.Request) { r.URL.Host = "api.test:8080" }, false},
		{"the port of another scheme", func(r *http.Request) { r.URL.Host = "api.test:443" }, false},
		{"a scheme in capitals", func(r *http.Request) { r.URL.Scheme = "HTTP" }, true},
		{"another cookie", func(r *http.Request) { r.Header.Set("Cookie", "session=b") }, true},
		{"GitLab's token", func(r *http.Request) { r.Header.Set("Private-Token", "b") }, false},
		{"Azure OpenAI's key", func(r *http.Request) { r.Header.Set("api-key", "b") }, false},
		{"Google's key", func(r *http.Request) { r.Header.Set("x-goog-api-key", "b") }, false},
		{"OpenStack's token", func(r *http.Request) { r.Header.Set("X-Auth-Token", "b") }, false},
		{"Shopify's token", func(r *http.Request) { r.Header.Set("X-Shopify-Access-Token", "b") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1))
				start := time.Now()
				for _, edit := range []func(*http.Request){func(*http.Request) {}, tt.edit} {
					req := get(t)
					req.Header.Set("Authorization", "Bearer a")
					edit(req)
					resp, err := transport.RoundTrip(req)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				require.Equal(t, tt.shared, time.Since(start) == time.Second)
			})
		})
	}
}

func TestKeysOfIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport, start := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1)), time.Now()
		for i, host := range []string{"[::1]", "[::1]:80", "[::1]:"} {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://"+host, ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, time.Duration(i)*time.Second, time.Since(start))
		}
	})
}

// TestALimitIsHeldWhateverTheCredential: where a token is minted, or a signature
// made, for each request, each request had a limit of its own.
func TestALimitIsHeldWhateverTheCredential(t *testing.T) {
	segment := base64.RawURLEncoding.EncodeToString
	for _, tt := range []struct {
		name string
		of   func(n int) string // the Authorization of a request
	}{
		{"a JWT that is minted anew", func(n int) string {
			claims := fmt.Sprintf(`{"iat":%d,"jti":"%x","iss":"https://id.test","sub":"42"}`, 1700000000+n, n)
			return "Bearer " + segment([]byte(`{"alg":"HS256"}`)) + "." + segment([]byte(claims)) + "." + segment([]byte(fmt.Sprint("signed", n)))
		}},
		{"Cosmos DB", func(n int) string { return fmt.Sprintf("type%%3dmaster%%26ver%%3d1.0%%26sig%%3dAbC%d", n) }},
		{"Azure App Configuration", func(n int) string {
			return fmt.Sprintf("HMAC-SHA256 Credential=a&SignedHeaders=x-ms-date;host&Signature=%d", n)
		}},
		{"SigV4", func(n int) string {
			return fmt.Sprintf("AWS4-HMAC-SHA256 Credential=AKIA/202601%02d/eu/s3/aws4_request, SignedHeaders=host, Signature=%d", n, n)
		}},
		{"OAuth 1", func(n int) string {
			return fmt.Sprintf(`OAuth oauth_nonce="%d", oauth_consumer_key="k", oauth_signature="%d"`, n, n)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport, start := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1)), time.Now()
				for n := range 20 {
					req := get(t)
					req.Header.Set("Authorization", tt.of(n))
					resp, err := transport.RoundTrip(req)
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				require.Equal(t, 19*time.Second, time.Since(start))
			})
		})
	}
}

// TestANewCredentialIsTriedOnce: a token that is refreshed is another key, and
// would have ended the pause of its account for all requests at once.
func TestANewCredentialIsTriedOnce(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tokens  []string // that were used before
		new     string
		limit   resilient.Option
		accepts bool
		want    int // of 20 requests under the new token, sent at once
		why     string
	}{
		{"the same account", []string{"a"}, "b", nil, false, 1, "one finds out, and the pause is theirs too"},
		{"another account", []string{"a"}, "b", nil, true, 1, "one finds out, then all go"},
		{"under a limit", []string{"a"}, "b", resilient.WithRateLimit(1000, 1000), false, 1, "the same"},
		{"one of several", []string{"a", "b"}, "c", nil, true, 20, "credentials of a host are accounts of their own"},
		{"without a credential", []string{"a"}, "", nil, true, 20, "no account at all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(func(req *http.Request) (*http.Response, error) {
					if strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ") == tt.new && tt.accepts {
						time.Sleep(10 * ms)
						return answer(200)(req)
					}
					return answer(429, "Retry-After", "30")(req)
				})
				transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1), tt.limit)
				call := func(token string) {
					req := get(t)
					if token != "" {
						req.Header.Set("Authorization", "Bearer "+token)
					}
					resp, err := transport.RoundTrip(req)
					if err == nil {
						_ = resp.Body.Close()
					}
				}
				for _, token := range tt.tokens {
					call(token)
				}
				before, start := base.count(), time.Now()
				var calls sync.WaitGroup
				for range 20 {
					calls.Go(func() { call(tt.new) })
				}
				synctest.Wait()
				require.Equal(t, tt.want, base.count()-before, tt.why)
				calls.Wait()
				require.Equal(t, tt.accepts, time.Since(start) < time.Second)
			})
		})
	}
}

// TestKeysThatAreNotUsedAgain: a WithLimitKey that names each request was never
// told of.
func TestKeysThatAreNotUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		logger := slog.New(recordHandler(func(r slog.Record) {
			if strings.Contains(r.Message, "keys") {
				said = append(said, r.Level.String()+" "+r.Message)
			}
		}))
		n := 0
		nonce := resilient.WithLimitKey(func(*http.Request) string { n++; return strconv.Itoa(n) })
		transport := resilient.NewTransport(newScript(answer(200)), nonce, resilient.WithRateLimit(1, 1), resilient.WithLogger(logger))
		call := func() {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		for range 1024 {
			call()
		}
		require.Empty(t, said)
		require.Nil(t, transport.Snapshot().KeyChurn)
		for range 2000 {
			call()
		}
		require.Len(t, said, 1, "once")
		require.Equal(t, "WARN limit keys are made faster than they are used again: 1025 made, 0 used by a second call; requests that share a limit need one key, see WithLimitKey", said[0])
		require.Equal(t, &resilient.KeyChurn{Made: 3024}, transport.Snapshot().KeyChurn)
	})
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(100, 1))
		for range 3 {
			for i := range 1500 {
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, fmt.Sprintf("http://h%d.test", i), ""))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
		}
		require.Nil(t, transport.Snapshot().KeyChurn, "many hosts are no fault")
	})
}

// TestKeysHaveABound: what holds something is kept, but not without end.
func TestKeysHaveABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		logger := slog.New(recordHandler(func(r slog.Record) {
			if r.Level == slog.LevelWarn {
				said = append(said, r.Message)
			}
		}))
		n := 0
		nonce := resilient.WithLimitKey(func(*http.Request) string { n++; return strconv.Itoa(n) })
		transport := resilient.NewTransport(newScript(answer(200)), nonce, resilient.WithRateLimit(0.001, 1), resilient.WithLogger(logger))
		for range 66_000 {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		require.Len(t, transport.Snapshot().Keys, 65_536)
		require.Len(t, said, 2)
		require.Equal(t, "more than 65536 limit keys have something to remember: one was dropped with its limit", said[1])
	})
}

func TestLimitKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		byPath := resilient.WithLimitKey(func(r *http.Request) string { return r.URL.Path })
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1), byPath)
		start := time.Now()
		for _, target := range []string{"http://a.test/x", "http://a.test/y", "http://b.test/x"} {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, target, ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		require.Equal(t, time.Second, time.Since(start))
	})
}

func TestKeysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(100, 1))
		for i := range 5000 {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, fmt.Sprintf("http://h%d.test", i), ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			time.Sleep(10 * ms) // the bucket is full again
		}
		s := transport.Snapshot()
		require.Len(t, s.Keys, 1024)
		require.Equal(t, "http://h4999.test", s.Keys[0].Key)
		require.Equal(t, "http://h3976.test", s.Keys[1023].Key, "those used last are kept")
	})
}

// TestALimitInForceIsNotForgotten: with more hosts than keys are remembered, each
// host's limit of one a minute was forgotten before its minute was over.
func TestALimitInForceIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, start := newScript(answer(200)), time.Now()
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1.0/60, 1), resilient.WithMaxWait(0))
		for range 5 {
			for i := range 1500 {
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, fmt.Sprintf("http://h%d.test", i), ""))
				if err == nil {
					require.NoError(t, resp.Body.Close())
				}
			}
		}
		require.Zero(t, time.Since(start))
		require.Equal(t, 1500, base.count())
		time.Sleep(time.Minute)
		for i := range 1000 {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, fmt.Sprintf("http://other%d.test", i), ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		require.LessOrEqual(t, len(transport.Snapshot().Keys), 1024, "once they hold nothing, they go")
	})
}

func TestAKeyWithWaitersIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(0.001, 1), resilient.WithMaxWait(time.Hour))
		call := func(host string) {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://"+host, ""))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
		}
		start := time.Now()
		var waiting sync.WaitGroup
		call("waited.test")
		waiting.Go(func() { call("waited.test") })
		synctest.Wait()
		call("old.test")
		for i := range 1023 {
			call(fmt.Sprintf("h%d.test", i))
		}
		require.Zero(t, time.Since(start))
		call("old.test")
		require.Equal(t, 1000*time.Second, time.Since(start), "its bucket was empty")
		call("waited.test")
		require.Equal(t, 2000*time.Second, time.Since(start), "nor was that of a key with waiters forgotten")
		waiting.Wait()
	})
}

func TestLimiterOption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500), answer(200))
		var r recorder
		transport := resilient.NewTransport(base, every(0), resilient.WithLimiter(rate.NewLimiter(1, 1)), resilient.WithTrace(r.trace()))
		start := time.Now()
		callers(t, transport, 1)
		require.Equal(t, []time.Duration{0, time.Second}, base.since(start), "retries take tokens too")
		require.Equal(t, "limiter", r.waits[0].Reason)
		require.Equal(t, time.Second, r.waits[0].Duration)

		// x/time/rate refuses with an error that has no type.
		for name, ctx := range map[string]func() (context.Context, context.CancelFunc){
			"deadline": func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), time.Millisecond)
			},
			"max wait": func() (context.Context, context.CancelFunc) {
				return resilient.ContextWithOptions(t.Context(), resilient.WithMaxWait(time.Millisecond)), func() {}
			},
		} {
			ctx, cancel := ctx()
			now := time.Now()
			_, err := transport.RoundTrip(get(t).WithContext(ctx))
			var limited *resilient.LimitError
			require.ErrorAs(t, err, &limited, name)
			require.Equal(t, "limiter", limited.Reason)
			require.ErrorContains(t, err, "would exceed context deadline")
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, now, time.Now(), "at once")
			cancel()
		}
	})
}

type limiterFunc func(context.Context) error

func (f limiterFunc) Wait(ctx context.Context) error { return f(ctx) }

func TestLimiterOfAnyKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("redis is gone")
		_, err := resilient.NewTransport(newScript(answer(200)),
			resilient.WithLimiter(limiterFunc(func(context.Context) error { return broken }))).RoundTrip(get(t))
		require.ErrorIs(t, err, broken)
		require.NotContains(t, err.Error(), "wait:", "which nobody knows")

		stuck := resilient.WithLimiter(limiterFunc(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }))
		start := time.Now()
		_, err = resilient.NewTransport(newScript(answer(200)), stuck).RoundTrip(get(t))
		var limited *resilient.LimitError
		require.ErrorAs(t, err, &limited)
		require.Equal(t, time.Minute, time.Since(start), "WithMaxWait holds for it too")
		require.NotErrorIs(t, err, context.DeadlineExceeded, "the caller's deadline has not passed")

		cause := errors.New("shutting down")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err = resilient.NewTransport(newScript(answer(200)), stuck).RoundTrip(get(t).WithContext(ctx))
		require.Equal(t, cause, err)
	})
}

func TestReportWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		announces := limiterFunc(func(ctx context.Context) error {
			for range 2 {
				resilient.ReportWait(ctx, time.Second)
				require.NotEmpty(t, r.waits, "before the wait")
				time.Sleep(time.Second)
			}
			resilient.ReportWait(ctx, 0)
			return nil
		})
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithLimiter(announces), resilient.WithTrace(r.trace()))
		callers(t, transport, 1)
		require.Len(t, r.waits, 2, "those announced, and none for what they were in all")
		for _, w := range r.waits {
			require.Equal(t, resilient.WaitInfo{Request: w.Request, Path: w.Request.URL.Path, Attempt: 1, Reason: "limiter", Duration: time.Second}, w)
		}
		require.Equal(t, map[string]resilient.WaitTotal{"limiter": {1, 2 * time.Second}}, transport.Snapshot().Totals.Waits)
		resilient.ReportWait(t.Context(), time.Second) // of no attempt: nothing happens
	})
}

func TestLimiterFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		accounts := map[string]resilient.Limiter{"/a": rate.NewLimiter(1, 1), "/b": rate.NewLimiter(1, 1), "/none": nil}
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithLimiterFor(func(req *http.Request) resilient.Limiter {
			return accounts[req.URL.Path]
		}))
		start := time.Now()
		for _, path := range []string{"/a", "/b", "/none", "/none", "/a"} {
			resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		require.Equal(t, []time.Duration{0, 0, 0, 0, time.Second}, base.since(start))
	})
}

// learner is a Limiter that learns.
type learner struct {
	limiterFunc
	observed []resilient.AttemptInfo
}

func (l *learner) Observe(a resilient.AttemptInfo) { l.observed = append(l.observed, a) }

func TestLimiterThatLearns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &learner{limiterFunc: func(context.Context) error { return nil }}
		slow := func(next step) step {
			return func(req *http.Request) (*http.Response, error) {
				time.Sleep(10 * time.Millisecond)
				return next(req)
			}
		}
		base := newScript(slow(answer(429)), slow(answer(429)), slow(answer(200)), slow(answer(200)))
		transport := resilient.NewTransport(base, every(0), resilient.WithLimiter(l))
		callers(t, transport, 1)
		var got []string
		for _, a := range l.observed {
			require.Equal(t, 10*time.Millisecond, a.Duration, "when it was sent can be told")
			got = append(got, fmt.Sprint(a.Attempt, " ", a.StatusCode, " ", a.Verdict.Reason))
		}
		require.Equal(t, []string{"1 429 rate limited", "2 429 rate limited", "3 200 success"}, got)
		require.Empty(t, transport.Snapshot().Keys, "it is left to the limiter: no pace on top of its own")

		callers(t, transport, 1)
		require.Len(t, l.observed, 4, "a success at once is observed too")
	})
}

func TestLimiterIsAskedOnceForEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(500), answer(429), fails(io.EOF), answer(200))
		asked := 0
		counting := limiterFunc(func(context.Context) error {
			require.Equal(t, asked, base.count(), "before the attempt")
			asked++
			return nil
		})
		callers(t, resilient.NewTransport(base, resilient.WithLimiter(counting)), 1)
		require.Equal(t, 4, asked)
	})
}

func TestPauseThatBeginsInTheLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "30"), answer(200))
		slow := limiterFunc(func(context.Context) error { time.Sleep(5 * time.Second); return nil })
		transport := resilient.NewTransport(base, every(0), resilient.WithLimiter(slow))
		start := time.Now()
		callers(t, transport, 1+1)
		at := base.since(start)
		require.Equal(t, 5*time.Second, at[0])
		for _, d := range at[1:] {
			require.True(t, d == 5*time.Second || d >= 35*time.Second, "%v", at)
		}
	})
}

func TestPauseIsShared(t *testing.T) {
	for name, rejection := range map[string]step{
		"429": answer(429, "Retry-After", "2"),
		"503": answer(503, "Retry-After", "2"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rejected := false
				base := newScript(func(req *http.Request) (*http.Response, error) {
					if !rejected {
						rejected = true
						return rejection(req)
					}
					time.Sleep(10 * ms)
					return answer(200)(req)
				})
				var r recorder
				transport := resilient.NewTransport(base, every(0), resilient.WithTrace(r.trace()))
				start := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() { callers(t, transport, 1) })
				time.Sleep(time.Second)
				wg.Go(func() { callers(t, transport, 7) })
				other, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://other.test/", ""))
				require.NoError(t, err)
				require.NoError(t, other.Body.Close())
				require.Less(t, time.Since(start), 1100*ms, "other keys go on")
				wg.Wait()
				// One scout, then twice as many with each round trip.
				require.Equal(t, []time.Duration{
					0, 1000 * ms,
					2000 * ms,
					2010 * ms, 2010 * ms,
					2020 * ms, 2020 * ms, 2020 * ms, 2020 * ms,
					2030 * ms,
				}, base.since(start))
				require.Equal(t, "pause", r.waits[len(r.waits)-1].Reason)
				callers(t, transport, 20)
				require.Equal(t, base.since(start)[10], base.since(start)[29], "then it is open")
			})
		})
	}
}

func TestPauseCostsOneRefusal(t *testing.T) {
	// The limit is still in force when the pause ends: the scout finds out.
	synctest.Test(t, func(t *testing.T) {
		open := time.Now().Add(6 * time.Second)
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if time.Now().Before(open) {
				return answer(429, "Retry-After", "2")(req)
			}
			return answer(200)(req)
		})
		callers(t, resilient.NewTransport(base, every(0), resilient.WithMaxAttempts(10)), 64)
		refused := base.count() - 64
		require.LessOrEqual(t, refused, 4, "not one for each of 64 callers")
	})
}

func TestPauseOfARateLimitedKeyIsNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rejected := false
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if !rejected {
				rejected = true
				return answer(429, "Retry-After", "10")(req)
			}
			time.Sleep(10 * ms)
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, every(0), resilient.WithRateLimit(20, 20))
		start := time.Now()
		callers(t, transport, 4)
		require.Equal(t, []time.Duration{0, 10 * time.Second, 10010 * ms, 10010 * ms, 10020 * ms}, base.since(start))
	})
}

func TestAScoutThatHangsDoesNotHoldUpTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(req *http.Request) (*http.Response, error) {
			time.Sleep(30 * time.Second)
			return answer(200)(req)
		}
		base := newScript(answer(429, "Retry-After", "5"), hangs, hangs, answer(200))
		transport := resilient.NewTransport(base, every(0))
		start := time.Now()
		callers(t, transport, 4)
		require.Equal(t, []time.Duration{
			0, 5 * time.Second, 6 * time.Second, 7 * time.Second, 7 * time.Second,
		}, base.since(start), "one more goes each second, and two for each that is accepted")
	})
}

func TestReopeningHoldsBackNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * ms)
			return answer(200)(req)
		}
		base := newScript(answer(429, "Retry-After", "5"), slow)
		var r recorder
		transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1), resilient.WithTrace(r.trace()))
		start := time.Now()
		callers(t, transport, 1)
		time.Sleep(5500 * ms) // nobody waits when the pause ends
		callers(t, transport, 3)
		require.Equal(t, []time.Duration{0, 5500 * ms, 5510 * ms, 5510 * ms}, base.since(start))
		require.Len(t, r.waits, 2)
		require.Equal(t, "pause", r.waits[0].Reason)
		require.InDelta(t, 500*ms, r.waits[0].Duration, float64(ms), "the next goes a second after the scout might have")
	})
}

func TestAScoutWithoutAnAnswerIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "5"), fails(io.EOF), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(0)), 1)
		require.Equal(t, 5*time.Second, time.Since(start).Truncate(ms))
	})
}

func TestPauseLongerThanMaxWait(t *testing.T) {
	// Nobody can wait for it, so callers are told at once; but the key is not
	// shut for an hour on one server's word: after WithMaxWait one call goes
	// and finds out.
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "3600"), answer(200))
		transport := resilient.NewTransport(base)
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, 429, resp.StatusCode)
		require.NoError(t, resp.Body.Close())

		time.Sleep(59 * time.Second)
		_, err = transport.RoundTrip(get(t))
		var limited *resilient.LimitError
		require.ErrorAs(t, err, &limited)
		require.Equal(t, resilient.LimitError{Reason: "pause", Wait: 3541 * time.Second}, *limited)
		require.Equal(t, 1, base.count(), "nothing was sent")

		time.Sleep(time.Second)
		resp, err = transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
	})
}

// TestAPauseFarLongerThanMaxWait: a hint of more than four times WithMaxWait,
// when it came again, held the key for twice as long as it should.
func TestAPauseFarLongerThanMaxWait(t *testing.T) {
	for _, hint := range []string{"241", "300", "480", "3600", "2400"} {
		synctest.Test(t, func(t *testing.T) {
			base, start := newScript(answer(429, "Retry-After", hint)), time.Now()
			transport := resilient.NewTransport(base)
			for range 10 * 60 { // a call a second, that comes to nothing
				if resp, err := transport.RoundTrip(get(t)); err == nil {
					require.NoError(t, resp.Body.Close())
				}
				time.Sleep(time.Second)
			}
			for i, at := range base.since(start) {
				require.Equal(t, time.Duration(i)*time.Minute, at, hint)
			}
			require.Equal(t, 10, base.count(), "one goes each time WithMaxWait has passed")
		})
	}
	synctest.Test(t, func(t *testing.T) {
		slowly := func(req *http.Request) (*http.Response, error) {
			time.Sleep(10 * ms)
			return answer(429, "Retry-After", "480")(req)
		}
		base, start := newScript(slowly, slowly, answer(200)), time.Now()
		transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1))
		callers(t, transport, 1)
		time.Sleep(time.Minute)
		var calls sync.WaitGroup
		for range 3 { // one goes; the others are in the queue when the next pause begins
			calls.Go(func() {
				if resp, err := transport.RoundTrip(get(t)); err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		calls.Wait()
		require.Equal(t, []time.Duration{0, time.Minute + 10*ms, 2*time.Minute + 20*ms, 2*time.Minute + 20*ms}, base.since(start))
	})
}

// TestLoneRefusalsMeasureNothing: two refusals an hour apart were taken for a rate
// of one an hour, and nothing was sent for that long.
func TestLoneRefusalsMeasureNothing(t *testing.T) {
	lost := fails(&net.OpError{Op: "read", Err: syscall.ECONNRESET})
	for _, tt := range []struct {
		name  string
		opts  []resilient.Option
		req   func(testing.TB) *http.Request
		steps []step // the first are one call, and come again after the gap
		gap   time.Duration
	}{
		{"single attempts", []resilient.Option{resilient.WithMaxAttempts(1)}, get, []step{answer(429)}, time.Hour},
		{"POSTs that cannot be replayed", nil, stream, []step{answer(429)}, 30 * time.Minute},
		{"half an hour of nothing, with resets", nil, get, []step{answer(429), lost, lost, lost}, 30 * time.Minute},
		{"a few seconds", []resilient.Option{resilient.WithMaxAttempts(1)}, get, []step{answer(429)}, 4 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(append(slices.Concat(tt.steps, tt.steps), answer(200))...)
				transport := resilient.NewTransport(base, tt.opts...)
				for _, gap := range []time.Duration{tt.gap, time.Second} {
					resp, err := transport.RoundTrip(tt.req(t))
					if err == nil {
						require.NoError(t, resp.Body.Close())
					}
					time.Sleep(gap)
				}
				require.Equal(t, 2*len(tt.steps), base.count())
				for i := range 100 { // a call a second
					start := time.Now()
					resp, err := transport.RoundTrip(get(t))
					require.NoError(t, err, i)
					require.NoError(t, resp.Body.Close())
					require.Zero(t, time.Since(start), i)
					time.Sleep(time.Second)
				}
				require.Zero(t, transport.Snapshot().Keys[0].LearnedLimit)
			})
		})
	}
}

// stream is a POST whose body cannot be sent again.
func stream(tb testing.TB) *http.Request {
	tb.Helper()
	req := post(tb)
	req.GetBody = nil
	return req
}

// TestAStrayRefusalUnderALargeQuota: with 900 left of 1,000 a day a single 429 set
// the pace to one in 86 seconds, and most calls of a job at one a second failed.
func TestAStrayRefusalUnderALargeQuota(t *testing.T) {
	for _, strays := range [][]int{{10}, {10, 12}, {10, 11, 40}, {100, 200, 300}} {
		synctest.Test(t, func(t *testing.T) {
			left, n := 900, 0
			base := newScript(func(req *http.Request) (*http.Response, error) {
				left--
				n++
				fields := []string{"RateLimit", fmt.Sprintf(`"day";r=%d;t=43200`, left), "RateLimit-Policy", `"day";q=1000;w=86400`}
				if slices.Contains(strays, n) {
					return answer(429, fields...)(req)
				}
				return answer(200, fields...)(req)
			})
			transport := resilient.NewTransport(base)
			for i := range 600 {
				start := time.Now()
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err, i)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, 200, resp.StatusCode)
				require.Less(t, time.Since(start), 4*time.Second, "%d: no more than the backoff of two retries", i)
				time.Sleep(time.Second)
			}
		})
	}
}

// TestManyWaitersGiveUpAtOnce: 40,000 of them took seconds, each of them looking
// for its place among the others.
func TestManyWaitersGiveUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(0.001, 1), resilient.WithMaxWait(1<<62))
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range 40_000 {
			waiting.Go(func() {
				if resp, err := transport.RoundTrip(get(t).WithContext(ctx)); err == nil {
					_ = resp.Body.Close()
				}
			})
		}
		synctest.Wait()
		require.Equal(t, 39_999, transport.Snapshot().Keys[0].Waiting)
		cancel()
		waiting.Wait()
		require.Zero(t, transport.Snapshot().Keys[0].Waiting)
		require.Equal(t, 1, base.count())
	})
}

func TestASlowKeyDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(0.1, 1))
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { callers(t, transport, 5) })
		time.Sleep(time.Second)
		resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://other.test/", ""))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, time.Second, time.Since(start))
		wg.Wait()
	})
}

// TestConcurrentUse is for -race: 64 goroutines on one Transport, with all that
// is shared in use.
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

func TestNonsenseHeadersBlockNobody(t *testing.T) {
	// Whatever a header makes of it, a wait is at most WithMaxWait, for the call
	// that is told and for the next one.
	for _, header := range [][]string{
		{"Retry-After", "-1"},
		{"Retry-After", "99999999999999999999"},
		{"Retry-After", strings.Repeat("9", 64<<10)},
		{"Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"},
		{"Retry-After", "120, 240"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "0"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "-9223372036854775808"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "NaN"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1e400"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "946684830"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "946684830000"},
		{"X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1"},
		{"X-Ratelimit-Remaining", "0"},
		{"X-Ratelimit-Reset", "9223372036854775807"},
		{"X-Ratelimit-Limit", "0", "X-Ratelimit-Remaining", "-5"},
		{"Ratelimit", `"default";r=0;t=9223372036854775807`},
		{"Ratelimit", `"default";r=NaN;t=-1`},
		{"Ratelimit", `;;;`},
		{"Ratelimit-Policy", `"default";q=0;w=0`},
		{"Ratelimit-Remaining", "0", "Ratelimit-Reset", "1e400"},
	} {
		for _, opts := range [][]resilient.Option{nil, {resilient.WithRateLimit(10, 10)}} {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answer(429, header...), answer(200))
				transport := resilient.NewTransport(base, append(opts, every(time.Second))...)
				start := time.Now()
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				took := time.Since(start)
				require.LessOrEqual(t, took, time.Minute, header)
				if resp.StatusCode == 200 {
					require.GreaterOrEqual(t, took, time.Second, "%v: nonsense is no reason to hurry", header)
				}
				time.Sleep(time.Minute - took)
				callers(t, transport, 1)
				require.LessOrEqual(t, time.Since(start), time.Minute+ms, header)
			})
		}
	}
}

func TestManyHints(t *testing.T) {
	// The first of them or none; not the sum, and not the work of reading all.
	synctest.Test(t, func(t *testing.T) {
		var header []string
		for range 500 {
			header = append(header, "Retry-After", "7")
		}
		base := newScript(answer(429, header...), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(0)), 1)
		require.Contains(t, []time.Duration{0, 7 * time.Second}, base.since(start)[1])
	})
}

func TestALongPauseIsForgotten(t *testing.T) {
	// The longest hint ever given was taken for that of every later pause.
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "86400"), answer(200), answer(429, "Retry-After", "2"), answer(200))
		transport := resilient.NewTransport(base, every(0))
		callers(t, transport, 1)
		time.Sleep(2 * time.Minute)
		callers(t, transport, 1)
		start := time.Now()
		callers(t, transport, 1)
		require.Equal(t, 4, base.count())
		require.Equal(t, 2*time.Second, time.Since(start).Truncate(ms))
	})
}

func TestTheRetryThatSucceedsReopensTheKey(t *testing.T) {
	// Without hooks it was not known when the retry had been sent, so it did
	// not count, and the next call waited for a second.
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429, "Retry-After", "1"), answer(200))
		start := time.Now()
		transport := resilient.NewTransport(base, every(0))
		callers(t, transport, 1)
		callers(t, transport, 2)
		require.Equal(t, []time.Duration{0, time.Second, time.Second, time.Second}, base.since(start))
	})
}

func TestARetryMindsAPauseThatBeganMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(429), answer(429, "Retry-After", "10"), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(time.Second)), 2)
		at := base.since(start)
		require.Len(t, at, 4)
		require.GreaterOrEqual(t, at[2], 10*time.Second)
	})
}

func TestTinyRates(t *testing.T) {
	// The wait overflowed, and callers queued for nothing.
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(500)), every(0), resilient.WithRateLimit(1e-10, 1))
		start := time.Now()
		callers(t, transport, 1)
		_, err := transport.RoundTrip(get(t))
		var limited *resilient.LimitError
		require.ErrorAs(t, err, &limited)
		require.Equal(t, year, limited.Wait)
		require.Zero(t, time.Since(start).Truncate(ms))
	})
}

func TestAPanickingWaitHookLeavesTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1))
		start := time.Now()
		callers(t, transport, 1)
		hook := resilient.WithTrace(&resilient.Trace{Wait: func(resilient.WaitInfo) { panic("hook") }})
		require.PanicsWithValue(t, "hook", func() {
			_, _ = transport.RoundTrip(get(t).WithContext(resilient.ContextWithOptions(t.Context(), hook)))
		})
		callers(t, transport, 1)
		require.Equal(t, []time.Duration{0, time.Second}, base.since(start))
	})
}

func TestALimiterThatRefusesCostsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := true
		limiter := limiterFunc(func(context.Context) error {
			if refuse {
				return errors.New("no")
			}
			return nil
		})
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1), resilient.WithLimiter(limiter))
		_, err := transport.RoundTrip(get(t))
		require.Error(t, err)
		refuse = false
		start := time.Now()
		callers(t, transport, 1)
		require.Zero(t, time.Since(start).Truncate(ms))
	})
}

func TestAPauseGivesBackTheReservedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pause := answer(429, "Retry-After", "10")
		late := func(req *http.Request) (*http.Response, error) {
			time.Sleep(500 * ms)
			return pause(req)
		}
		base := newScript(late, answer(200))
		transport := resilient.NewTransport(base, resilient.WithRateLimit(0.1, 1), resilient.WithMaxAttempts(1), resilient.WithMaxWait(time.Hour))
		var wg sync.WaitGroup
		wg.Go(func() { callers(t, transport, 1) })
		time.Sleep(100 * ms)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		time.AfterFunc(10200*ms, cancel) // in the pause, after its token fell due
		_, err := transport.RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		wg.Wait()
		start := time.Now()
		callers(t, transport, 1)
		require.Less(t, time.Since(start), time.Second, "the token is there")
	})
}

func TestZeroTransportDoesNotPause(t *testing.T) {
	base := newScript(answer(429, "Retry-After", "1"))
	transport := &resilient.Transport{}
	saved := http.DefaultTransport
	defer func() { http.DefaultTransport = saved }()
	http.DefaultTransport = base
	callers(t, transport, 3)
	require.Equal(t, 3, base.count(), "each request is sent once")
}

// bucket is a server with a limit, 20 ms away.
type bucket struct {
	mu       sync.Mutex
	limit    *rate.Limiter
	header   func(h http.Header, left float64)
	accepted []time.Time
	refused  int
}

func (b *bucket) RoundTrip(req *http.Request) (*http.Response, error) {
	b.mu.Lock()
	now := time.Now()
	ok := b.limit.AllowN(now, 1)
	step, wait := answer(200), 20*ms
	if ok {
		b.accepted = append(b.accepted, now)
	} else {
		b.refused++
		step, wait = answer(429), 5*ms
	}
	resp, err := step(req)
	if b.header != nil {
		b.header(resp.Header, b.limit.TokensAt(now))
	}
	b.mu.Unlock()
	time.Sleep(wait)
	return resp, err
}

// drain makes n calls with 64 workers and returns how long they took.
func drain(t *testing.T, transport *resilient.Transport, n int) time.Duration {
	t.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for w := range 64 {
		wg.Go(func() {
			time.Sleep(time.Duration(w) * time.Microsecond)
			for left.Add(-1) >= 0 {
				resp, err := transport.RoundTrip(get(t))
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("%v, %v", resp, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func TestLearnedRate(t *testing.T) {
	const limit, burst, n = 100, 10, 1500
	optimum := (n - burst) * time.Second / limit
	for _, tt := range []struct {
		name    string
		header  func(h http.Header, left float64)
		opts    []resilient.Option
		within  float64 // times the optimum
		refused int
	}{
		{name: "from refusals", within: 1.05, refused: 100},
		{
			name: "from RateLimit fields", within: 1.02, refused: 64, // those of the first burst, and no other
			header: func(h http.Header, left float64) {
				h.Set("RateLimit-Policy", `"p";q=100;w=1`)
				h.Set("RateLimit", fmt.Sprintf(`"p";r=%d;t=1`, int(left)))
			},
		},
		{
			name: "with a hint on each refusal", within: 1.3, refused: 150,
			header: func(h http.Header, left float64) {
				if left < 1 {
					h.Set("Retry-After", "1")
				}
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &bucket{limit: rate.NewLimiter(limit, burst), header: tt.header}
				opts := append([]resilient.Option{resilient.WithMaxAttempts(10)}, tt.opts...)
				took := drain(t, resilient.NewTransport(srv, opts...), n)
				require.Less(t, took.Seconds(), tt.within*optimum.Seconds())
				require.LessOrEqual(t, srv.refused, tt.refused)
			})
		})
	}
}

// A server that counts by the minute has given out all it has after some seconds.
// Calls failed because the rest of the minute and the time until their turn came
// were taken for one wait, longer than WithMaxWait; and without a hint, because
// those in front were refused again and again until they had no attempts left.
func TestAMinuteThatIsUsedUp(t *testing.T) {
	for name, tell := range map[string]bool{"with Retry-After": true, "without a hint": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				start, accepted, refused := time.Now(), map[int]int{}, 0
				base := step(func(req *http.Request) (*http.Response, error) {
					mu.Lock()
					minute := int(time.Since(start) / time.Minute)
					ok := accepted[minute] < 600
					if ok {
						accepted[minute]++
					} else {
						refused++
					}
					mu.Unlock()
					time.Sleep(20 * ms)
					switch {
					case ok:
						return answer(200)(req)
					case tell:
						left := time.Until(start.Add(time.Duration(minute+1) * time.Minute))
						return answer(429, "Retry-After", strconv.Itoa(int(left.Seconds())+1))(req)
					}
					return answer(429)(req)
				})
				drain(t, resilient.NewTransport(base, resilient.WithMaxAttempts(10)), 2000) // fails if a call does
				require.Equal(t, map[int]int{0: 600, 1: 600, 2: 600, 3: 200}, accepted)
				require.Less(t, refused, 600, "it is asked, but not all the time")
			})
		})
	}
}

func TestLearnedRateOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &bucket{limit: rate.NewLimiter(100, 10)}
		var r recorder
		drain(t, resilient.NewTransport(srv, resilient.WithLearnedRate(false), resilient.WithMaxAttempts(100), resilient.WithTrace(r.trace())), 500)
		require.Greater(t, srv.refused, 200, "each finds out for itself")
		for _, w := range r.waits {
			require.Equal(t, "backoff", w.Reason)
		}
	})
}

// TestLearnedRateNeverExceedsTheLimitSet has a server that refuses one request
// in fifty, so that there is a pace, and then none, so that the pace rises.
func TestLearnedRateNeverExceedsTheLimitSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sent []time.Time
		base := step(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			sent = append(sent, time.Now())
			n := len(sent)
			mu.Unlock()
			time.Sleep(20 * ms)
			if n <= 200 && n%50 == 0 {
				return answer(429)(req)
			}
			return answer(200)(req)
		})
		drain(t, resilient.NewTransport(base, resilient.WithRateLimit(100, 5), resilient.WithMaxAttempts(10)), 1000)
		require.Greater(t, len(sent), 1000, "some were refused")
		for i := 105; i < len(sent); i++ {
			require.GreaterOrEqual(t, sent[i].Sub(sent[i-105]), time.Second-ms)
		}
	})
}

// TestRefusedGoesBeforeThoseBehindIt: what is refused for its rate keeps its
// place among those that arrived after it.
func TestRefusedGoesBeforeThoseBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		base := step(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			order = append(order, req.URL.Path)
			n := len(order)
			mu.Unlock()
			if n == 1 {
				time.Sleep(10 * ms) // while the others get in line
				return answer(429)(req)
			}
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithRateLimit(10, 1), every(0))
		var wg sync.WaitGroup
		for _, path := range []string{"/a", "/b", "/c", "/d"} {
			wg.Go(func() {
				resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://api.test"+path, ""))
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
			})
			time.Sleep(ms)
		}
		wg.Wait()
		require.Equal(t, []string{"/a", "/a", "/b", "/c", "/d"}, order)
	})
}

// TestRefusedGoBackToTheirPlace: in a backlog, calls whose refused attempt went
// behind all others starved there.
func TestRefusedGoBackToTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &bucket{limit: rate.NewLimiter(100, 10)}
		transport := resilient.NewTransport(srv, resilient.WithMaxAttempts(10))
		var mu sync.Mutex
		longest := time.Duration(0)
		var wg sync.WaitGroup
		for w := range 64 {
			wg.Go(func() {
				time.Sleep(time.Duration(w) * time.Microsecond)
				for range 20 {
					start := time.Now()
					resp, err := transport.RoundTrip(get(t))
					if err != nil || resp.StatusCode != 200 {
						t.Errorf("%v, %v", resp, err)
						return
					}
					mu.Lock()
					longest = max(longest, time.Since(start))
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		// 64 workers at 100 a second are 0.64 s each. A call that is refused more
		// than once has its backoff on top; the whole takes 12.7 s.
		require.Less(t, longest, 6*time.Second)
	})
}

// TestNothingIsLearnedWithoutARefusal: a key that was never refused, or has much
// left of its quota, costs nothing and waits for nothing.
func TestNothingIsLearnedWithoutARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &bucket{limit: rate.NewLimiter(rate.Inf, 1), header: func(h http.Header, _ float64) {
			h.Set("RateLimit-Policy", `"p";q=5000;w=3600`)
			h.Set("RateLimit", `"p";r=4000;t=1800`)
		}}
		var r recorder
		took := drain(t, resilient.NewTransport(srv, resilient.WithTrace(r.trace())), 640)
		require.Less(t, took, 250*ms, "ten round trips each")
		require.Empty(t, r.waits)
	})
}
