package token_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/kit"
	"github.com/resilienthttp/resilient/reauth/internal/token"
)

func old(t *testing.T) *http.Request {
	t.Helper()
	return kit.Request(t, http.MethodGet, "http://api.test/v1", "", "Authorization", "old")
}

// issue returns a refresh that takes a second and gives out the credentials "1", "2" and so
// on, and how many it has.
func issue() (refresh func(context.Context, *http.Request) (http.Header, error), issued func() int) {
	var mu sync.Mutex
	n := 0
	return func(context.Context, *http.Request) (http.Header, error) {
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			n++
			return http.Header{"Authorization": {strconv.Itoa(n)}}, nil
		}, func() int {
			mu.Lock()
			defer mu.Unlock()
			return n
		}
}

// TestOneRefresh: however many requests come back with a credential or with one that it has
// replaced, there is one refresh for each that was in use, and all get the newest.
func TestOneRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refresh, issued := issue()
		s := token.New(refresh, nil)
		req := old(t)
		out, used := s.InUse(req)
		require.Same(t, req, out)
		require.Nil(t, used)
		for round := 1; round <= 3; round++ {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					next, err := s.Renewed(req, used)
					if err != nil || next.Request(req).Header.Get("Authorization") != strconv.Itoa(round) {
						t.Error(round, err)
					}
				})
			}
			wg.Wait()
			require.Equal(t, round, issued())
			out, used = s.InUse(old(t))
			require.Equal(t, strconv.Itoa(round), out.Header.Get("Authorization"))
			late, err := s.Renewed(old(t), nil)
			require.NoError(t, err, "it was sent before")
			require.Same(t, used, late)
		}
		require.Equal(t, "old", req.Header.Get("Authorization"))
	})
}

// TestHoldOff: after a refresh in vain there is none for 10 seconds, with the reason.
func TestHoldOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down, asked := errors.New("down"), 0
		s := token.New(func(ctx context.Context, _ *http.Request) (http.Header, error) {
			require.True(t, token.Refreshing(ctx))
			asked++
			return nil, down
		}, nil)
		require.False(t, token.Refreshing(t.Context()))
		for _, want := range []int{1, 1, 2} {
			_, err := s.Renewed(old(t), nil)
			require.ErrorIs(t, err, down)
			require.Equal(t, want, asked)
			time.Sleep(5 * time.Second)
		}
	})
}

// TestUseless: a new credential that is refused at once is not replaced for 10 seconds.
func TestUseless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refresh, issued := issue()
		s := token.New(refresh, nil)
		why := errors.New("refused as well")
		next, err := s.Renewed(old(t), nil)
		require.NoError(t, err)
		s.Useless(next, why)
		_, err = s.Renewed(old(t), next)
		require.ErrorIs(t, err, why)
		time.Sleep(10 * time.Second)
		_, err = s.Renewed(old(t), next)
		require.NoError(t, err)
		require.Equal(t, 2, issued())
	})
}

// TestCheck: what a refresh returns is looked at, and a caller waits no longer than its
// context lasts.
func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name    string
			refresh func(context.Context, *http.Request) (http.Header, error)
			want    string
		}{
			{"another field", func(context.Context, *http.Request) (http.Header, error) {
				return http.Header{"X-Session": {"s"}}, nil
			}, `returned the field "X-Session"`},
			{"a line break", func(context.Context, *http.Request) (http.Header, error) {
				return http.Header{"Authorization": {"s\r\n"}}, nil
			}, "returned a control character in Authorization"},
			{"the same", func(_ context.Context, stale *http.Request) (http.Header, error) { return stale.Header, nil }, "returned the credential that was refused"},
			{"a panic", func(context.Context, *http.Request) (http.Header, error) { panic("p") }, "it panicked: p"},
		} {
			_, err := token.New(tt.refresh, nil).Renewed(old(t), nil)
			require.ErrorContains(t, err, tt.want, tt.name)
			require.NotContains(t, err.Error(), "old")
		}
		refresh, _ := issue()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := token.New(refresh, nil).Renewed(old(t).WithContext(ctx), nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
	})
}

// TestShared: credentials that were replaced by the same one share it from then on, and a
// request that carries it already is not copied.
func TestShared(t *testing.T) {
	s := token.New(func(context.Context, *http.Request) (http.Header, error) {
		return http.Header{"x-session": {"new"}}, nil
	}, []string{"X-Session"})
	first, err := s.Renewed(kit.Request(t, http.MethodGet, "http://api.test", "", "X-Session", "A"), nil)
	require.NoError(t, err)
	second, err := s.Renewed(kit.Request(t, http.MethodGet, "http://api.test", "", "X-Session", "B"), nil)
	require.NoError(t, err)
	require.Same(t, first, second)
	req := kit.Request(t, http.MethodGet, "http://api.test", "", "X-Session", "new")
	require.Same(t, req, first.Request(req))
}

// FuzzCredentials: requests with different credentials never get each other's.
func FuzzCredentials(f *testing.F) {
	f.Add("A", "", "", "", "B", "", "", "")
	f.Add("", "", "http", "api.test", "", "", "", "")
	f.Add("A", "", "", "", "", "", "Authorization", "A")
	f.Add("A", "B", "", "", "B", "A", "", "")
	f.Fuzz(func(t *testing.T, auth1, key1, user1, password1, auth2, key2, user2, password2 string) {
		request := func(auth, key, user, password string) *http.Request {
			req := kit.Get(t)
			if auth != "" {
				req.Header["Authorization"] = []string{auth}
			}
			if key != "" {
				req.Header["X-Api-Key"] = []string{key}
			}
			if user != "" || password != "" {
				req.URL.User = url.UserPassword(user, password)
			}
			return req
		}
		first, second := request(auth1, key1, user1, password1), request(auth2, key2, user2, password2)
		s := token.New(func(context.Context, *http.Request) (http.Header, error) {
			return http.Header{"X-Vault-Token": {"new"}}, nil
		}, nil)
		_, err := s.Renewed(first, nil)
		require.NoError(t, err)
		_, used := s.InUse(second)
		same := auth1 == auth2 && key1 == key2 && user1 == user2 && password1 == password2
		require.Equal(t, same, used != nil)
	})
}
