package limit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/limit"
)

// TestIdleAgain: a limit that nobody asks for is forgotten, or else a key is never
// dropped, and a person reads of a limit from hours ago.
func TestIdleAgain(t *testing.T) {
	eight := 8
	for _, tt := range []struct {
		name    string
		server  server
		workers int
		state   limit.State
	}{
		{"a rate", newBucket(20, 5).server(limit.Refused), 32, limit.Rate},
		{"in flight", inFlight(&eight, limit.Refused, 50*ms), 32, limit.Flight},
		{"refused", func(time.Time, limit.Route) (limit.Result, time.Duration, func()) { return refused(), 5 * ms, nil }, 0, limit.Looking},
		{"paused", func(time.Time, limit.Route) (limit.Result, time.Duration, func()) {
			return hinted(10 * time.Second), 5 * ms, nil
		}, 0, limit.Paused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulate(t, tt.server)
			s.workers(tt.workers, one)
			s.run(30 * time.Second)
			for tt.workers == 0 && s.view(all).State != tt.state {
				s.arrive(&request{})
				s.run(5 * ms)
				s.events = nil // it gives up
			}
			require.Equal(t, tt.state, s.view(all).State)
			require.False(t, s.key.Idle(s.now))
			s.over = true
			s.run(time.Hour)
			s.lines, s.events = nil, nil
			s.now = s.now.Add(24 * time.Hour)
			require.True(t, s.key.Idle(s.now))
			require.Empty(t, s.key.View(s.now))
		})
	}
}

// TestABusyKeyThatIsClosed: the first attempt goes at the very instant of the refusal
// with which looking begins. So the first pace was one in a microsecond, and hundreds
// were refused until it had been halved often enough.
func TestABusyKeyThatIsClosed(t *testing.T) {
	s := simulate(t, func(now time.Time, _ limit.Route) (limit.Result, time.Duration, func()) {
		if now.Before(begin().Add(time.Second)) {
			return accepted(), 5 * ms, nil
		}
		return refused(), 5 * ms, nil
	})
	s.every(all, 2000)
	s.run(time.Second)
	got := s.run(time.Second)
	require.Less(t, got.refused, 60, "of 2,000")
}

// TestKnocksBecomeFewer: the same with one after the other: four knocks ever more
// seldom, and then seven at once.
func TestKnocksBecomeFewer(t *testing.T) {
	d := newDesk(t)
	d.row(3, all, refused())
	var last time.Duration
	for range 20 {
		hold := d.wait(all)
		require.GreaterOrEqual(t, 16*hold, last, "no later knock comes much sooner than that before it")
		last = hold
		d.send("", all)
		d.sleep(ms)
		d.refused("", 0)
	}
}
