package reauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/reauth"
	"github.com/resilienthttp/resilient/resilienttest"
)

// TestRevoked: 100 requests are under way when the token is revoked. There is one
// refresh, each is sent once more, and nobody notices.
func TestRevoked(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, r := newAPI(t, "T2"), refreshes("T2")
				base.latency, r.takes = 20*ms, 200*ms
				transport := over(base, r)
				var wg sync.WaitGroup
				for i := range 100 {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * ms / 10)
						begun := time.Now()
						if got := status(t, transport, newRequest(t, method, "T1", "payload")); got != 200 {
							t.Error(got)
						}
						if got, want := time.Since(begun), 240*ms-time.Duration(i)*ms/10; got != want {
							t.Errorf("request %d took %v, not %v", i, got, want)
						}
					})
				}
				wg.Wait()
				require.Equal(t, []string{"T1"}, r.asked())
				require.Len(t, base.tokens(), 200)
			})
		})
	}
}

// TestRefused is what follows a 401.
func TestRefused(t *testing.T) {
	const refused = "resilient: status 401: 401"
	for _, tt := range []struct {
		name     string
		request  func(*http.Request)
		accepted string
		refresh  reauth.Refresh // nil: a token T2
		status   int
		sent     []string
		err      string // "": there is none
		why      string
	}{
		{"GET", nil, "T2", nil, 200, []string{"T1", "T2"}, "", "the usual case"},
		{"POST", func(req *http.Request) { req.Method = http.MethodPost }, "T2", nil, 200, []string{"T1", "T2"}, "", "RFC 9110 section 15.5.2: it was not applied"},
		{"no token", func(req *http.Request) { req.Header.Del("Authorization") }, "T2", nil, 200, []string{"", "T2"}, "", "a client that sets none"},
		{"no body", func(req *http.Request) { req.Body, req.GetBody, req.ContentLength = nil, nil, 0 }, "T2", nil, 200, []string{"T1", "T2"}, "", "nothing need be sent again"},
		{"http.NoBody", func(req *http.Request) { req.Body, req.GetBody, req.ContentLength = http.NoBody, nil, 0 }, "T2", nil, 200, []string{"T1", "T2"}, "", "the same"},
		{"accepted", nil, "T1", nil, 200, []string{"T1"}, "", "no 401"},
		{"a stream", func(req *http.Request) { req.GetBody = nil }, "T2", nil, 401, []string{"T1"}, refused + "; reauth: there is a new credential, but the request body cannot be sent again", "it is gone"},
		{"a body that is gone", func(req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		}, "T2", nil, 401, []string{"T1"}, refused + "; reauth: there is a new credential, but the request body cannot be sent again: gone", "GetBody fails"},
		{"refused again", nil, "T3", nil, 401, []string{"T1", "T2"}, refused + "; reauth: the new credential was refused as well", "a second 401 is final"},
		{"no refresh", nil, "T2", func(context.Context, *http.Request) (http.Header, error) { return nil, errDown }, 401, []string{"T1"}, refused + "; reauth: refresh failed: the token server is down", "there is nothing to send"},
		{"the same token", nil, "T2", func(context.Context, *http.Request) (http.Header, error) {
			return http.Header{"Authorization": {"T1"}}, nil
		}, 401, []string{"T1"}, refused + "; reauth: refresh failed: it returned the credential that was refused", "a source that believes it valid"},
		{"nothing", nil, "T2", func(context.Context, *http.Request) (http.Header, error) { return nil, nil }, 401, []string{"T1", "T1"}, refused + "; reauth: the new credential was refused as well", "the credential may be set below"},
		{"a field in small letters", nil, "T2", func(context.Context, *http.Request) (http.Header, error) {
			return http.Header{"authorization": {"T2"}}, nil
		}, 200, []string{"T1", "T2"}, "", "names have no case"},
		{"an unknown field", nil, "T2", func(context.Context, *http.Request) (http.Header, error) {
			return http.Header{"X-Session": {"T2"}}, nil
		}, 401, []string{"T1"}, refused + `; reauth: refresh failed: it returned the field "X-Session", which must be given to New`, "requests of others would get it"},
		{"a line break", nil, "T2", func(context.Context, *http.Request) (http.Header, error) {
			return http.Header{"Authorization": {"T2\n"}}, nil
		}, 401, []string{"T1"}, refused + "; reauth: refresh failed: it returned a control character in Authorization", "net/http would refuse every request"},
		{"no value", nil, "", func(context.Context, *http.Request) (http.Header, error) {
			return http.Header{"Authorization": nil}, nil
		}, 200, []string{"T1", ""}, "", "a field without values is not sent"},
		{"a panic", nil, "T2", func(context.Context, *http.Request) (http.Header, error) { panic("at the disco") }, 401, []string{"T1"}, refused + "; reauth: refresh failed: it panicked: at the disco", "it has a goroutine of its own"},
		{"an end of the goroutine", nil, "T2", func(context.Context, *http.Request) (http.Header, error) {
			runtime.Goexit()
			return nil, nil
		}, 401, []string{"T1"}, refused + "; reauth: refresh failed: it did not return", "nobody waits for ever"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refresh := tt.refresh
			if refresh == nil {
				refresh = refreshes("T2").refresh
			}
			for _, asErrors := range []bool{false, true} {
				base := newAPI(t, tt.accepted)
				transport := reauth.New(resilient.NewTransport(base, resilient.WithStatusErrors(asErrors)), refresh)
				req := newRequest(t, http.MethodPut, "T1", "payload")
				if tt.request != nil {
					tt.request(req)
				}
				code, err := outcome(t, transport, req)
				require.Equal(t, tt.sent, base.tokens(), tt.why)
				if tt.err == "" {
					require.NoError(t, err, tt.why)
					require.Equal(t, tt.status, code, tt.why)
					continue
				}
				require.EqualError(t, err, tt.err, tt.why)
				require.ErrorIs(t, err, resilient.ErrAuthentication)
				apiErr, ok := errors.AsType[*resilient.APIError](err)
				require.True(t, ok)
				require.Equal(t, tt.status, apiErr.StatusCode)
				require.Equal(t, tt.name == "no refresh", errors.Is(err, errDown))
			}
		})
	}
}

// TestOtherAnswers: nothing but a 401 is an occasion.
func TestOtherAnswers(t *testing.T) {
	for _, code := range []int{200, 204, 302, 400, 403, 407, 429, 500} {
		base := newAPI(t)
		want := answer(code)
		base.also = func(*http.Request) *http.Response { return want }
		resp, err := reauth.New(base, unasked(t)).RoundTrip(get(t, "T1"))
		require.NoError(t, err)
		require.Same(t, want, resp)
		require.NoError(t, resp.Body.Close())
	}
	_, err := reauth.New(roundTripper(func(*http.Request) (*http.Response, error) { return nil, errDown }), unasked(t)).RoundTrip(get(t, "T1"))
	require.Equal(t, errDown, err, "an error is the base's own")
}

// unasked is a Refresh that is not to be called.
func unasked(t *testing.T) reauth.Refresh {
	t.Helper()
	return func(context.Context, *http.Request) (http.Header, error) {
		t.Error("refreshed")
		return nil, errDown
	}
}

// TestRemembered: an old credential is replaced at once from then on.
func TestRemembered(t *testing.T) {
	base, r := newAPI(t, "T2"), refreshes("T2", "T3")
	transport := over(base, r)
	send := func(token string) { require.Equal(t, 200, status(t, transport, get(t, token))) }
	send("T1")
	send("T1")
	send("T2")
	require.Equal(t, []string{"T1", "T2", "T2", "T2"}, base.tokens(), "one 401")
	base.accept("T3")
	send("T1")
	require.Equal(t, []string{"T1", "T2"}, r.asked(), "what is refreshed is the one that was sent")
	send("T2")
	send("T1")
	send("T3")
	require.Equal(t, []string{"T2", "T3", "T3", "T3", "T3"}, base.tokens()[4:], "by way of the one between")
	base.accept("other")
	send("other")
	require.Len(t, r.asked(), 2, "another credential is no business of theirs")
}

// TestLate: a request that was sent before a refresh and is refused after it is sent again
// without another one.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, r := newAPI(t, "T2"), refreshes("T2")
		base.also = func(req *http.Request) *http.Response {
			if req.URL.Path == "/slow" {
				time.Sleep(time.Minute)
			}
			return nil
		}
		transport := over(base, r)
		slow := get(t, "T1")
		slow.URL.Path = "/slow"
		begun := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { require.Equal(t, 200, status(t, transport, slow)) })
		time.Sleep(time.Second)
		require.Equal(t, 200, status(t, transport, get(t, "T1")))
		wg.Wait()
		require.Equal(t, 2*time.Minute, time.Since(begun))
		require.Len(t, r.asked(), 1)
		require.Equal(t, []string{"T1", "T1", "T2", "T2"}, base.tokens())
	})
}

// TestCircle: a refresh may return a credential that was replaced before.
func TestCircle(t *testing.T) {
	base, r := newAPI(t, "T2"), refreshes("T2", "T1", "T2", "T1")
	transport := over(base, r)
	for _, token := range []string{"T2", "T1", "T2", "T1"} {
		base.accept(token)
		for _, caller := range []string{"T1", "T2", "T1"} {
			require.Equal(t, 200, status(t, transport, get(t, caller)))
		}
	}
	require.Equal(t, []string{"T1", "T2", "T1", "T2"}, r.asked())
	require.Len(t, base.tokens(), 16)
}

// TestShared: credentials that were replaced by the same one are refreshed together from
// then on.
func TestShared(t *testing.T) {
	base, r := newAPI(t, "T2"), refreshes("T2", "T2", "T3")
	transport := over(base, r)
	send := func(token string) { require.Equal(t, 200, status(t, transport, get(t, token))) }
	send("A")
	send("B")
	base.accept("T3")
	send("A")
	send("B")
	require.Equal(t, []string{"A", "B", "T2"}, r.asked())
}

// TestInVain: after a refresh in vain there is no other one for 10 seconds.
func TestInVain(t *testing.T) {
	for _, tt := range []struct {
		name     string
		err      error
		accepted string
		sent     int // requests of the first call
		why      string
	}{
		{"the refresh fails", errDown, "T2", 1, "the token server is down"},
		{"the new one is refused", nil, "nothing", 2, "a 401 that should be a 403"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, r := newAPI(t, tt.accepted), refreshes("T2", "T3")
				r.err = tt.err
				transport := over(base, r)
				refused := func(refreshes int) {
					code, err := outcome(t, transport, get(t, "T1"))
					require.Equal(t, 401, code)
					require.ErrorContains(t, err, "reauth: ")
					require.Equal(t, tt.err != nil, errors.Is(err, errDown))
					require.Len(t, r.asked(), refreshes, tt.why)
				}
				refused(1)
				require.Len(t, base.tokens(), tt.sent)
				time.Sleep(10*time.Second - 1)
				refused(1)
				require.Len(t, base.tokens(), tt.sent+1, "it is asked with the newest one, in case it is accepted")
				require.Equal(t, 401, status(t, transport, get(t, "U1")))
				require.Len(t, r.asked(), 2, "another credential has a time of its own")
				time.Sleep(time.Nanosecond)
				refused(3)
				r.err = nil
				base.accept("T3")
				time.Sleep(10 * time.Second)
				require.Equal(t, 200, status(t, transport, get(t, "T1")))
			})
		})
	}
}

// TestRevokedAgain: a credential that was accepted is refreshed whenever it is refused.
func TestRevokedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, r := newAPI(t, "T2"), refreshes("T2", "T3", "T4")
		transport := over(base, r)
		for _, token := range []string{"T2", "T3", "T4"} {
			base.accept(token)
			require.Equal(t, 200, status(t, transport, get(t, "T1")))
			time.Sleep(time.Second)
		}
		require.Equal(t, []string{"T1", "T2", "T3"}, r.asked())
	})
}

// TestPatience: each caller waits as long as its own context lasts, and ends nothing for
// the others.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, r := newAPI(t, "T2"), refreshes("T2")
		r.takes = 5 * time.Second
		transport := over(base, r)
		begun := time.Now()
		errOver := errors.New("over")
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Duration(i+1)*time.Second, errOver)
				defer cancel()
				_, err := outcome(t, transport, get(t, "T1").WithContext(ctx))
				require.Equal(t, errOver, err)
				require.Equal(t, time.Duration(i+1)*time.Second, time.Since(begun))
			})
		}
		wg.Go(func() {
			client := &http.Client{Transport: transport, Timeout: 4 * time.Second}
			_, err := client.Do(get(t, "T1"))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		wg.Wait()
		require.Equal(t, 200, status(t, transport, get(t, "T1")), "all have gone, and the refresh goes on")
		require.Equal(t, 5*time.Second, time.Since(begun))
		require.Len(t, r.asked(), 1)
	})
}

// TestSlowRefresh: a refresh ends after 30 seconds.
func TestSlowRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, r := newAPI(t, "T2"), refreshes("T2")
		r.takes = time.Hour
		begun := time.Now()
		code, err := outcome(t, over(base, r), get(t, "T1"))
		require.Equal(t, 401, code)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 30*time.Second, time.Since(begun))
	})
}

// TestStale: a Refresh is told of the request that was refused, and gets a context that is
// its own.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		base := newAPI(t, "T3")
		req := newRequest(t, http.MethodPost, "T1", "payload").WithContext(ctx)
		asked := 0
		transport := reauth.New(base, func(ctx context.Context, stale *http.Request) (http.Header, error) {
			asked++
			require.NotSame(t, req, stale)
			require.Equal(t, http.MethodPost, stale.Method)
			require.Equal(t, req.URL, stale.URL)
			require.Equal(t, fmt.Sprint("T", asked), stale.Header.Get("Authorization"), "as it was sent")
			require.Nil(t, stale.Body)
			require.Nil(t, stale.GetBody)
			require.Zero(t, stale.ContentLength, "net/http refuses a request that has a length and no body")
			require.Equal(t, "value", stale.Context().Value(key{}))
			cancel()
			require.NoError(t, stale.Context().Err())
			require.NoError(t, ctx.Err())
			require.Nil(t, ctx.Value(key{}), "the options of a call are not those of the refresh")
			stale.Header.Set("Authorization", "mine")
			return http.Header{"Authorization": {fmt.Sprint("T", asked+1)}}, nil
		})
		_, err := outcome(t, transport, req)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, "T1", req.Header.Get("Authorization"))
		synctest.Wait()
		require.Equal(t, 200, status(t, transport, req.WithContext(context.WithValue(t.Context(), key{}, "value"))))
		require.Equal(t, 2, asked)
	})
}

// TestStaleIsACopy: a Refresh may try the new credential on stale, or send its own with it.
// What it does to stale was once taken for what the request had carried, so that the new
// credential seemed to be the one that was refused.
func TestStaleIsACopy(t *testing.T) {
	base := newAPI(t, "T2")
	transport := reauth.New(base, func(ctx context.Context, stale *http.Request) (http.Header, error) {
		stale.Header.Set("Authorization", "T2")
		resp, err := base.RoundTrip(stale.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		return http.Header{"Authorization": {"T2"}}, resp.Body.Close()
	})
	for range 2 {
		code, err := outcome(t, transport, get(t, "T1"))
		require.NoError(t, err)
		require.Equal(t, 200, code)
	}
	require.Equal(t, []string{"T1", "T2", "T2", "T2"}, base.tokens())
}

// roomy is a base that is asked whether it has room.
type roomy struct {
	http.RoundTripper

	room  bool
	asked []string // the tokens
}

func (r *roomy) Spare(req *http.Request) bool {
	r.asked = append(r.asked, req.Header.Get("Authorization"))
	return r.room
}

// TestSpare: the base is asked about the request that would be sent, which has the limits of
// another credential than the caller's.
func TestSpare(t *testing.T) {
	for _, room := range []bool{true, false} {
		base := &roomy{RoundTripper: newAPI(t, "T2"), room: room}
		transport := reauth.New(base, refreshes("T2").refresh)
		require.Equal(t, room, transport.Spare(get(t, "T1")))
		require.Equal(t, 200, status(t, transport, get(t, "T1")))
		require.Equal(t, room, transport.Spare(get(t, "T1")))
		nowhere := get(t, "T1")
		nowhere.URL = nil
		require.Equal(t, room, transport.Spare(nowhere))
		require.Equal(t, []string{"T1", "T2", "T1"}, base.asked)
	}
	require.True(t, reauth.New(newAPI(t), refreshes("T2").refresh).Spare(get(t, "T1")), "a base that cannot be asked")
}

// TestOwnClient: a Refresh may use the client that it serves.
func TestOwnClient(t *testing.T) {
	base := newAPI(t, "T2")
	var client http.Client
	client.Transport = reauth.New(base, func(ctx context.Context, _ *http.Request) (http.Header, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://api.test/token", nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "T1")
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if apiErr, failed := resilient.ErrorFromResponse(resp); failed {
			return nil, apiErr
		}
		return http.Header{"Authorization": {"T2"}}, nil
	})
	code, err := outcome(t, client.Transport, get(t, "T1"))
	require.Equal(t, 401, code)
	require.EqualError(t, err, "resilient: status 401: 401; reauth: refresh failed: resilient: status 401: 401")
	require.Equal(t, []string{"T1", "T1"}, base.tokens(), "a 401 to it starts no other refresh")
}

// TestAccounts: credentials are told apart by all that usually holds one, and without any
// by the host.
func TestAccounts(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b func(*http.Request)
		same bool
		why  string
	}{
		{"the same token", set("Authorization", "A"), set("Authorization", "A"), true, "one credential"},
		{"at two hosts", set("Authorization", "A"), func(req *http.Request) { set("Authorization", "A")(req); req.URL.Host = "other.test" }, true, "the caller has sent it there"},
		{"another field that is none", func(req *http.Request) { set("Authorization", "A")(req); set("X-Trace", "1")(req) }, set("Authorization", "A"), true, "it is none of the credential"},
		{"no credential", func(*http.Request) {}, func(req *http.Request) { req.URL.Host = "API.test"; req.URL.Path = "/v2" }, true, "one for the host"},
		{"tokens", set("Authorization", "A"), set("Authorization", "B"), false, "two accounts"},
		{"keys", set("X-Api-Key", "A"), set("X-Api-Key", "B"), false, "the usual fields"},
		{"a field of New", set("X-Session", "A"), set("X-Session", "B"), false, "those that are named"},
		{"fields", set("X-Api-Key", "A"), set("X-Auth-Token", "A"), false, "a value of another field is another credential"},
		{"two keys", func(req *http.Request) { set("X-Api-Key", "A")(req); set("X-Auth-Token", "B")(req) }, set("X-Api-Key", "A"), false, "all of them count"},
		{"userinfo", func(req *http.Request) { req.URL.User = url.UserPassword("u", "A") }, func(req *http.Request) { req.URL.User = url.UserPassword("u", "B") }, false, "net/http makes Authorization of it"},
		{"userinfo that names the host", func(*http.Request) {}, func(req *http.Request) {
			req.URL.User, req.URL.Host = url.UserPassword("http", "api.test"), "evil.test"
		}, false, "whoever makes up a URL must not get the credential of another host"},
		{"userinfo that names a field", set("Authorization", "A"), func(req *http.Request) { req.URL.User = url.UserPassword("Authorization", "A") }, false, "it is sent as another one"},
		{"no credential, another host", func(*http.Request) {}, func(req *http.Request) { req.URL.Host = "other.test" }, false, "it must not be sent there"},
		{"no credential, another scheme", func(*http.Request) {}, func(req *http.Request) { req.URL.Scheme = "https" }, false, "nor without TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			base := newAPI(t, "new 1", "new 2")
			base.field = "X-Vault-Token"
			transport := reauth.New(base, func(context.Context, *http.Request) (http.Header, error) {
				asked++
				return http.Header{"X-Vault-Token": {fmt.Sprint("new ", asked)}}, nil
			}, "x-session")
			for _, edit := range []func(*http.Request){tt.a, tt.b, tt.a} {
				req := get(t, "")
				edit(req)
				require.Equal(t, 200, status(t, transport, req))
			}
			if tt.same {
				require.Equal(t, []string{"", "new 1", "new 1", "new 1"}, base.tokens(), tt.why)
			} else {
				require.Equal(t, []string{"", "new 1", "", "new 2", "new 1"}, base.tokens(), tt.why)
			}
		})
	}
}

func set(name, value string) func(*http.Request) {
	return func(req *http.Request) { req.Header.Set(name, value) }
}

// TestRedirects: a credential does not follow a redirect to where net/http would not send
// it.
func TestRedirects(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to string
		sent     []string
		status   int
		why      string
	}{
		{"the same host", "http://api.test/a", "http://api.test/b", []string{"", "T2"}, 200, "one server"},
		{"to TLS", "http://api.test/a", "https://api.test/b", []string{"", "T2"}, 200, "the same name"},
		{"another port", "http://api.test/a", "http://API.test:8080/b", []string{"", "T2"}, 200, "net/http sends Authorization there too"},
		{"another host", "http://api.test/a", "http://evil.test/b", []string{""}, 401, "it is nobody's business there"},
		{"from TLS", "https://api.test/a", "http://api.test/b", []string{""}, 401, "everybody could read it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newAPI(t, "T2")
			var sent []string
			r := refreshes("T2")
			transport := over(roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.URL.Path == "/a" {
					resp := answer(http.StatusFound, "Location", tt.to)
					resp.Request = req
					return resp, nil
				}
				sent = append(sent, req.Header.Get("Authorization"))
				return base.RoundTrip(req)
			}), r)
			client := &http.Client{Transport: transport}
			for i, known := range []bool{false, true} {
				if known { // what is known of the host is not used either
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.ReplaceAll(tt.to, "API", "api"), nil)
					require.NoError(t, err)
					require.Equal(t, 200, status(t, transport, req))
					sent = nil
				}
				resp, err := client.Get(tt.from)
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.status, resp.StatusCode, tt.why)
				if i == 0 || tt.status != 200 {
					require.Equal(t, tt.sent, sent, tt.why)
				} else {
					require.Equal(t, []string{"T2"}, sent, tt.why)
				}
			}
		})
	}
}

// TestMemory: the credentials used last are remembered.
func TestMemory(t *testing.T) {
	base, r := newAPI(t, "T2"), refreshes("T2")
	transport := over(base, r)
	for i := range 3000 {
		require.Equal(t, 200, status(t, transport, get(t, fmt.Sprint("old ", i))))
	}
	require.Len(t, r.asked(), 3000)
	for i := 2999; i > 2000; i-- {
		require.Equal(t, 200, status(t, transport, get(t, fmt.Sprint("old ", i))))
	}
	require.Len(t, r.asked(), 3000)
	require.Equal(t, 200, status(t, transport, get(t, "old 0")))
	require.Len(t, r.asked(), 3001)
}

// TestBusy: a credential that is being refreshed is not forgotten for others.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newAPI(t, "T2")
		asked := 0
		transport := reauth.New(base, func(_ context.Context, stale *http.Request) (http.Header, error) {
			if stale.Header.Get("Authorization") == "slow" {
				asked++
				time.Sleep(10 * time.Second)
			}
			return http.Header{"Authorization": {"T2"}}, nil
		})
		var wg sync.WaitGroup
		slow := func() { wg.Go(func() { require.Equal(t, 200, status(t, transport, get(t, "slow"))) }) }
		slow()
		time.Sleep(time.Second)
		for i := range 2000 {
			require.Equal(t, 200, status(t, transport, get(t, fmt.Sprint("old ", i))))
		}
		slow()
		wg.Wait()
		require.Equal(t, 1, asked)
	})
}

// oauth sets the token that it believes valid, as golang.org/x/oauth2 does.
type oauth struct {
	base  http.RoundTripper
	token string
}

func (o *oauth) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+o.token)
	return o.base.RoundTrip(req)
}

// TestOAuth: a transport above goes on setting the old token, and then one of its own.
func TestOAuth(t *testing.T) {
	base, r := newAPI(t, "Bearer T2"), refreshes("Bearer T2")
	above := &oauth{over(base, r), "T1"}
	client := &http.Client{Transport: above}
	send := func() {
		resp, err := client.Get("http://api.test/v1")
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
	}
	for range 10 {
		send()
	}
	require.Len(t, base.tokens(), 11)
	above.token = "T3" // T1 has expired
	base.accept("Bearer T3")
	send()
	require.Len(t, r.asked(), 1)
	require.Equal(t, "Bearer T3", base.tokens()[11])
}

// signer signs each attempt with the date, as AWS Signature Version 4 does, and key.
type signer struct {
	base http.RoundTripper
	key  *atomic.Value
}

func (s signer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("X-Date", time.Now().UTC().Format(time.RFC3339))
	req.Header.Set("Authorization", fmt.Sprint("AWS4-HMAC-SHA256 Credential=", s.key.Load()))
	return s.base.RoundTrip(req)
}

// TestSigner: a transport that signs stands below the retries. After a wait of 30 seconds
// the signature is fresh, and a refresh changes its key.
func TestSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newAPI(t, "AWS4-HMAC-SHA256 Credential=K2")
		begun, calls := time.Now(), 0
		base.also = func(req *http.Request) *http.Response {
			signed, err := time.Parse(time.RFC3339, req.Header.Get("X-Date"))
			require.NoError(t, err)
			require.Less(t, time.Since(signed), 2*time.Second, "the signature is fresh")
			if calls++; calls%2 == 1 {
				return answer(503, "Retry-After", "30")
			}
			return nil
		}
		var key atomic.Value
		key.Store("K1")
		below := resilient.NewTransport(signer{base, &key}, resilient.WithBackOff(resilienttest.NoJitter))
		transport := reauth.New(below, func(context.Context, *http.Request) (http.Header, error) {
			key.Store("K2")
			return nil, nil // signer has it
		})
		require.Equal(t, 200, status(t, transport, get(t, "")))
		require.Equal(t, time.Minute, time.Since(begun))
		require.Len(t, base.tokens(), 4)
	})
}

// TestResend: hooks are told of the second request, which has retries of its own.
func TestResend(t *testing.T) {
	for _, asErrors := range []bool{false, true} {
		base, calls := newAPI(t, "T2"), 0
		base.also = func(*http.Request) *http.Response {
			if calls++; calls%2 == 1 {
				return answer(503)
			}
			return nil
		}
		var done []resilient.DoneInfo
		transport := over(base, refreshes("T2"), resilient.WithStatusErrors(asErrors),
			resilient.WithTrace(&resilient.Trace{Done: func(d resilient.DoneInfo) { done = append(done, d) }}))
		ctx := resilient.ContextWithOptions(t.Context(), resilient.WithResend(3, "before"))
		require.Equal(t, 200, status(t, transport, get(t, "T1").WithContext(ctx)))
		require.Len(t, done, 2)
		require.Equal(t, []any{2, 3, "before"}, []any{done[0].Attempts, done[0].Resends, done[0].ResendReason})
		require.Equal(t, []any{2, 5, reauth.ReasonNewCredential}, []any{done[1].Attempts, done[1].Resends, done[1].ResendReason})
	}
}

// TestInFlight: those that wait for a refresh hold no place that it needs.
func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newAPI(t, "T2")
		below := resilient.NewTransport(base, resilient.WithMaxInFlight(1))
		transport := reauth.New(below, func(ctx context.Context, stale *http.Request) (http.Header, error) {
			resp, err := below.RoundTrip(stale.WithContext(ctx))
			if err != nil {
				return nil, err
			}
			return http.Header{"Authorization": {"T2"}}, resp.Body.Close()
		})
		begun := time.Now()
		require.Equal(t, 200, status(t, transport, get(t, "T1")))
		require.Zero(t, time.Since(begun))
	})
}

// TestDripping: the body of a 401 that does not end holds nobody up for long.
func TestDripping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, plain := range []bool{false, true} {
			first := true
			var closed atomic.Int32
			base := roundTripper(func(*http.Request) (*http.Response, error) {
				if !first {
					return answer(200), nil
				}
				first = false
				r, w := io.Pipe()
				return &http.Response{StatusCode: 401, Header: http.Header{}, ContentLength: -1, Body: struct {
					io.Reader
					io.Closer
				}{r, closerFunc(func() error { closed.Add(1); return w.Close() })}}, nil
			})
			var below http.RoundTripper = base
			if !plain {
				below = resilient.NewTransport(base)
			}
			begun := time.Now()
			resp, err := reauth.New(below, refreshes("T2").refresh).RoundTrip(get(t, "T1"))
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
			require.LessOrEqual(t, time.Since(begun), 2*time.Second)
			require.EqualValues(t, 1, closed.Load())
		}
	})
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// TestNonsense: what makes no sense panics, and says so.
func TestNonsense(t *testing.T) {
	r := refreshes("T2")
	require.PanicsWithValue(t, "reauth: the Refresh of New must be not nil, got nil", func() { reauth.New(nil, nil) })
	for _, name := range []string{"", "a b", "a:", "a\n"} {
		require.PanicsWithValue(t, fmt.Sprintf("reauth: a field of New must be the name of a header field, got %q", name),
			func() { reauth.New(nil, r.refresh, "X-Session", name) })
	}
}

// TestSecrets: no credential is in the text of an error.
func TestSecrets(t *testing.T) {
	for _, asErrors := range []bool{false, true} {
		base := newAPI(t)
		transport := reauth.New(resilient.NewTransport(base, resilient.WithStatusErrors(asErrors)),
			func(context.Context, *http.Request) (http.Header, error) {
				return http.Header{"Authorization": {"s3cret\n"}, "X-Api-Key": {"s3cret"}}, nil
			})
		_, err := outcome(t, transport, get(t, "s3cret"))
		require.Error(t, err)
		require.NotContains(t, err.Error(), "s3cret")

		down := errors.New("Get \"https://id.test/token?client_secret=s3cret\"\r\nrefused")
		transport = reauth.New(resilient.NewTransport(base, resilient.WithStatusErrors(asErrors)),
			func(context.Context, *http.Request) (http.Header, error) { return nil, down })
		_, err = outcome(t, transport, get(t, "T1"))
		require.ErrorIs(t, err, down)
		require.NotContains(t, err.Error(), "s3cret")
		require.NotContains(t, err.Error(), "\n")
	}
}

// TestServer: over real connections, with a jar, a token is revoked again and again while
// many callers are at work.
func TestServer(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprint("http2 ", http2), func(t *testing.T) {
			var valid, refused atomic.Int64
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				if req.Header.Get("Authorization") != fmt.Sprint("Bearer ", valid.Load()) {
					refused.Add(1)
					w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				_, _ = w.Write(body)
			}))
			if srv.EnableHTTP2 = http2; http2 {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			var refreshed atomic.Int64
			transport := reauth.New(resilient.NewTransport(srv.Client().Transport), func(context.Context, *http.Request) (http.Header, error) {
				refreshed.Add(1)
				return http.Header{"Authorization": {fmt.Sprint("Bearer ", valid.Load())}}, nil
			})
			jar, err := cookiejar.New(nil)
			require.NoError(t, err)
			client := &http.Client{Transport: &oauth{transport, "old"}, Jar: jar}
			for revoked := range 5 {
				valid.Add(1)
				var wg sync.WaitGroup
				for i := range 50 {
					wg.Go(func() {
						want := strings.Repeat(fmt.Sprint(revoked, i, " "), 1000)
						resp, err := client.Post(srv.URL, "text/plain", strings.NewReader(want))
						if err != nil {
							t.Error(err)
							return
						}
						defer resp.Body.Close()
						got, err := io.ReadAll(resp.Body)
						if err != nil || string(got) != want {
							t.Error(resp.Status, err, len(got), len(want))
						}
					})
				}
				wg.Wait()
			}
			require.EqualValues(t, 5, refreshed.Load())
			require.LessOrEqual(t, refused.Load(), int64(250))
		})
	}
}
