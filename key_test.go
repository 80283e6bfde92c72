package resilient_test

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

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
			return "Bearer " + segment([]byte(`{"alg":"HS256"}`)) + "." + segment([]byte(claims)) + "." + segment(fmt.Append(nil, "signed", n))
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
				before, start := base.Count(), time.Now()
				var calls sync.WaitGroup
				for range 20 {
					calls.Go(func() { call(tt.new) })
				}
				synctest.Wait()
				require.Equal(t, tt.want, base.Count()-before, tt.why)
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

// TestKeysAreBounded: the keys remembered are bounded, and those used last are
// kept.
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
		require.Equal(t, 1500, base.Count())
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
