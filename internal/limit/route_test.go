package limit_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

// TestRoute has what a route is called, and that one limit holds all that are called
// alike.
func TestRoute(t *testing.T) {
	for _, tt := range []struct{ path, want, why string }{
		{"", "GET /", "the root"},
		{"/", "GET /", "the root"},
		{"/users", "GET /users", "a name stays"},
		{"/users/", "GET /users", "a slash at its end says nothing"},
		{"/users/42", "GET /users/*", "a number is an id"},
		{"/users/42/posts/7", "GET /users/*/posts/*", "wherever it is"},
		{"/users/me@example.com", "GET /users/*", "an address is an id"},
		{"/orders/550e8400-e29b-41d4-a716-446655440000", "GET /orders/*", "a UUID is an id"},
		{"/orders/ord4x", "GET /orders/*", "a digit makes an id"},
		{"/files/" + strings.Repeat("x", 33), "GET /files/*", "a name is not so long"},
		{"/organizationmembershipinvitation", "GET /organizationmembershipinvitation", "but so long"},
		{"/v1/users", "GET /v1/users", "a version is none"},
		{"/v2.1/users", "GET /v2.1/users", "a version is none"},
		{"/1/users", "GET /*/users", "a number alone is no version"},
		{"/v1beta1/users", "GET /*/users", "a name that is taken for an id puts routes into one, which costs little"},
		{"/a/b/c/d/e/f/g/h/i/j", "GET /a/b/c/d/e/f/g/h", "its beginning counts"},
		{"/token/abcdefgh", "GET /token/***", "a secret is not shown"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			r := limit.Route{Method: "GET", Path: tt.path}
			require.Equal(t, tt.want, r.String(), tt.why)
		})
	}
	require.Empty(t, all.String(), "it is the whole key")
}

// TestRoutesThatAreAlike: requests of one route have one limit, whatever their ids are.
func TestRoutesThatAreAlike(t *testing.T) {
	for _, tt := range []struct {
		name  string
		route limit.Route
		alike bool
	}{
		{"another id", limit.Route{Method: "GET", Path: "/users/43"}, true},
		{"with a slash at its end", limit.Route{Method: "GET", Path: "/users/43/"}, true},
		{"another method", limit.Route{Method: "POST", Path: "/users/42"}, false},
		{"another path", limit.Route{Method: "GET", Path: "/items/42"}, false},
		{"a longer path", limit.Route{Method: "GET", Path: "/users/42/posts"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDesk(t)
			d.row(3, limit.Route{Method: "GET", Path: "/users/42"}, refused())
			require.Equal(t, tt.alike, d.key.Limit(tt.route) != nil)
		})
	}
}

// TestAnUntroubledRouteAllocatesNothing: to look a known route up costs no memory.
func TestAnUntroubledRouteAllocatesNothing(t *testing.T) {
	d := newDesk(t)
	d.row(1, search, refused())
	require.Zero(t, testing.AllocsPerRun(100, func() {
		s := d.key.Sent(d.now, search, d.key.Limit(search), false, 1)
		d.key.Done(s, search, d.now, accepted())
	}))
}
