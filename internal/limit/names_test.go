package limit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

// TestNamesOfTheServer: GitHub says with each answer which of its limits the request
// counts for. Routes of one name have one limit, and others are left alone, however
// little was seen of them.
func TestNamesOfTheServer(t *testing.T) {
	now := time.Now()
	key := new(limit.Key)
	issues, pulls := limit.Route{Method: "GET", Path: "/issues"}, limit.Route{Method: "GET", Path: "/pulls"}
	search := limit.Route{Method: "GET", Path: "/search"}
	send := func(r limit.Route, o limit.Outcome, name string) {
		now = now.Add(10 * time.Millisecond)
		s := key.Sent(now, r, key.Limit(r), false, 1)
		key.Done(s, r, now.Add(5*time.Millisecond), limit.Result{Outcome: o, Name: name, MaxWait: time.Minute})
	}
	send(issues, limit.Refused, "core")
	send(pulls, limit.Accepted, "core")
	send(search, limit.Accepted, "search")
	for range 2 {
		send(issues, limit.Refused, "core")
		send(pulls, limit.Refused, "core")
	}
	require.NotNil(t, key.Limit(issues))
	require.Same(t, key.Limit(issues), key.Limit(pulls), "they are one")
	require.Nil(t, key.Limit(search), "the server says that it is another one")
	views := key.View(now)
	require.Len(t, views, 1)
	require.Equal(t, "core", views[0].Route.String())

	for _, name := range []string{"", strings.Repeat("x", 65)} {
		send(search, limit.Accepted, name)
		require.Nil(t, key.Limit(search), "no name, or none that can be meant")
	}
}
