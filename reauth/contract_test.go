package reauth_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/kit"
	"github.com/resilienthttp/resilient/reauth"
)

// guard answers whole requests with a 401 in place of the base, unless they have the token.
type guard struct {
	kit.Base

	token string // "": all have
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if g.token == "" || req.URL == nil || req.Header == nil || req.Header.Get("Authorization") == g.token {
		return g.RoundTripper.RoundTrip(req)
	}
	kit.Take(req)
	return answer(401), nil
}

// TestContract is the contract that a RoundTripper owes its caller: for a call that is not
// refused, for one that is, and for one whose credential was replaced before.
func TestContract(t *testing.T) {
	var ways []kit.Way
	for _, tt := range []struct {
		name, token string
		replaced    bool
	}{
		{"accepted", "", false},
		{"refused", "T2", false},
		{"replaced", "T2", true},
	} {
		ways = append(ways, kit.Way{
			Name: tt.name,
			Own:  func(req *http.Request) { req.Header.Del("Authorization") },
			New: func(base http.RoundTripper) http.RoundTripper {
				g := &guard{kit.Base{RoundTripper: instant}, tt.token}
				transport := reauth.New(g, refreshes("T2").refresh)
				for _, user := range []*url.Userinfo{nil, url.UserPassword("user", "pass")} {
					if tt.replaced {
						_, _ = transport.RoundTrip(&http.Request{URL: &url.URL{Scheme: "http", User: user, Host: "api.test"}, Header: http.Header{}})
					}
				}
				g.RoundTripper = resilient.NewTransport(base, resilient.WithMaxAttempts(1))
				return transport
			},
		})
	}
	kit.Contract(t, ways)
}

// TestRequestReused: a caller may change its request once its call has ended, even while
// the refresh goes on.
func TestRequestReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, r := newAPI(t, "T2"), refreshes("T2")
		r.takes = 20 * ms
		transport := over(base, r)
		ctx, cancel := context.WithTimeout(t.Context(), ms)
		defer cancel()
		req := get(t, "T1").WithContext(ctx)
		_, err := outcome(t, transport, req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		req.Header.Set("Authorization", "other")
		req.URL.Host = "other.test"
		require.Equal(t, 200, status(t, transport, get(t, "T1")), "a race, if the refresh looks at the request")
	})
}

// TestDefaultBase: a nil base is http.DefaultTransport.
func TestDefaultBase(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	client := &http.Client{Transport: reauth.New(nil, unasked(t))}
	resp, err := client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, 404, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
}

// TestErrors: an error of the base is its own, before and after a refresh.
func TestErrors(t *testing.T) {
	lost := errors.New("lost")
	for after := range 2 {
		calls := 0
		transport := reauth.New(roundTripper(func(*http.Request) (*http.Response, error) {
			if calls++; calls > after {
				return nil, lost
			}
			return answer(401), nil
		}), refreshes("T2").refresh)
		resp, err := transport.RoundTrip(get(t, "T1"))
		require.Nil(t, resp)
		require.Equal(t, lost, err)
	}
	transport := reauth.New(roundTripper(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 401}, nil // a base without a body
	}), refreshes("T2").refresh)
	resp, err := transport.RoundTrip(get(t, "T1"))
	require.NoError(t, err)
	require.Equal(t, 401, resp.StatusCode)
}

// TestReuse: a 401 gives its connection back, for the refresh and the second request.
func TestReuse(t *testing.T) {
	var mu sync.Mutex
	dialed := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "T2" {
			http.Error(w, strings.Repeat("401", 10_000), http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	base := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dialed++
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer base.CloseIdleConnections()
	client := &http.Client{Transport: reauth.New(base, func(context.Context, *http.Request) (http.Header, error) {
		return http.Header{"Authorization": {"T2"}}, nil
	})}
	resp, err := client.Get(srv.URL)
	require.NoError(t, err)
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, dialed)
}

// TestCost is what a call costs that needs nothing.
func TestCost(t *testing.T) {
	for _, tt := range []struct {
		name  string
		known bool // a credential was refused before
		token string
		want  float64
		why   string
	}{
		{"nothing was ever refused", false, "T2", 0, "the base's own call"},
		{"the new credential", true, "T2", 0, "it is looked up"},
		{"another credential", true, "T3", 0, "it is looked up"},
		{"the old credential", true, "T1", 4, "a copy of the request, and of its header"},
	} {
		transport := reauth.New(instant, refreshes("T2").refresh)
		if tt.known {
			require.Equal(t, 200, send(t, transport, get(t, "T1")))
		}
		req := get(t, tt.token)
		got := testing.AllocsPerRun(100, func() {
			if resp, err := transport.RoundTrip(req); err != nil || resp.StatusCode != 200 {
				t.Error(resp, err)
			}
		})
		require.LessOrEqual(t, got, tt.want, "%s: %s", tt.name, tt.why)
	}
}

var okay = &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}

// instant answers at once, always with the same response unless it refuses T1.
var instant = roundTripper(func(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Authorization") == "T1" {
		return answer(401), nil
	}
	return okay, nil
})

func send(tb testing.TB, transport http.RoundTripper, req *http.Request) int {
	tb.Helper()
	resp, err := transport.RoundTrip(req)
	require.NoError(tb, err)
	require.NoError(tb, resp.Body.Close())
	return resp.StatusCode
}

func BenchmarkTransport(b *testing.B) {
	fresh := reauth.New(instant, refreshes("T2").refresh)
	used := reauth.New(instant, refreshes("T2").refresh)
	send(b, used, get(b, "T1"))
	for _, bb := range []struct {
		name      string
		transport http.RoundTripper
		token     string
	}{
		{"base", instant, "T2"},
		{"never refused", fresh, "T2"},
		{"new credential", used, "T2"},
		{"old credential", used, "T1"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			req := get(b, bb.token)
			req.Header.Set("Accept", "application/json")
			req.Header.Set("User-Agent", "benchmark")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bb.transport.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
