package limit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

// troubled returns a key that has a limit, and a route of it.
func troubled(now time.Time) (*limit.Key, limit.Route) {
	key, route := new(limit.Key), limit.Route{Method: "GET", Path: "/v1/things/1234/parts"}
	for range 3 {
		key.Done(limit.Stamp{}, route, now, limit.Result{Outcome: limit.Refused})
	}
	return key, route
}

// roundTrip sends an attempt that is accepted.
func roundTrip(key *limit.Key, route limit.Route, now time.Time) {
	l := key.Limit(route)
	if l != nil {
		l.Hold(now, 1)
	}
	key.Done(key.Sent(now, route, l, false, 1), route, now.Add(time.Millisecond), limit.Result{Outcome: limit.Accepted})
}

// BenchmarkTroubled is the cost of an attempt of a key that was ever refused.
func BenchmarkTroubled(b *testing.B) {
	now := time.Now()
	key, route := troubled(now)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Millisecond)
		roundTrip(key, route, now)
	}
}

func TestTroubledAllocations(t *testing.T) {
	now := time.Now()
	key, route := troubled(now)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		now = now.Add(10 * time.Millisecond)
		roundTrip(key, route, now)
	}))
}
