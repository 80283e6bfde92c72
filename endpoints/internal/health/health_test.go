package health_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints/internal/health"
)

const ms = time.Millisecond

// lost is an attempt that began some time ago and got no response.
func lost(ago time.Duration) *resilient.AttemptInfo {
	return &resilient.AttemptInfo{Duration: ago, Verdict: resilient.Verdict{Retry: true}}
}

// answered is an attempt with a status.
func answered(status int, v resilient.Verdict) *resilient.AttemptInfo {
	return &resilient.AttemptInfo{StatusCode: status, Verdict: v}
}

// TestObserve: which attempts are failures of the endpoint.
func TestObserve(t *testing.T) {
	again := resilient.Verdict{Retry: true}
	for _, tt := range []struct {
		name string
		a    *resilient.AttemptInfo
		want bool
	}{
		{"lost", lost(0), true},
		{"given up by the caller", answered(0, resilient.Verdict{}), false},
		{"unknown host", answered(0, resilient.Verdict{Reason: resilient.ReasonUnknownHost}), true},
		{"TLS", answered(0, resilient.Verdict{Reason: resilient.ReasonTLS}), true},
		{"502", answered(502, again), true},
		{"503", answered(503, again), true},
		{"529", answered(529, again), true},
		{"503, final", answered(503, resilient.Verdict{}), false},
		{"503 of a limit", answered(503, resilient.Verdict{Retry: true, Kind: resilient.KindRateLimit}), false},
		{"500", answered(500, again), false},
		{"504", answered(504, again), false},
		{"429", answered(429, again), false},
		{"404", answered(404, resilient.Verdict{}), false},
	} {
		var h health.Health
		require.Equal(t, tt.want, h.Observe(tt.a), tt.name)
		require.Equal(t, tt.want, h.Doubt() > 0, tt.name)
	}
}

// TestStates: down after a failure, a probe after 250 ms, 500 ms and each second, and up
// after an answer, or after answers for as long as a relapse requires.
func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h health.Health
		_, ok := h.Schedule()
		require.False(t, ok, "it is up")
		h.Observe(lost(0))
		for i, want := range []time.Duration{250 * ms, 500 * ms, time.Second, time.Second} {
			wait, ok := h.Schedule()
			require.True(t, ok)
			require.Equal(t, want, wait, i)
			_, ok = h.Schedule()
			require.False(t, ok, "one at a time")
			time.Sleep(wait)
			require.True(t, h.Begin())
			h.Observe(lost(0))
		}
		require.Equal(t, time.Second, h.Doubt())
		h.Answered()
		require.Zero(t, h.Doubt())
		require.False(t, h.Begin(), "nobody need know any more")

		time.Sleep(10*time.Second - 1)
		h.Observe(lost(0)) // a relapse
		h.Answered()
		require.NotZero(t, h.Doubt(), "one answer is not enough")
		time.Sleep(time.Second)
		h.Answered()
		require.Zero(t, h.Doubt())
	})
}

// TestChance: ten answers since the last failure, and one since the request was sent, make
// a failure one by chance. A request that was sent before the endpoint was back says nothing.
func TestChance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h health.Health
		for range 10 {
			h.Answered()
		}
		time.Sleep(time.Second)
		h.Observe(lost(2 * time.Second))
		require.Zero(t, h.Doubt())
		h.Observe(lost(2 * time.Second))
		require.NotZero(t, h.Doubt(), "the second in a row")
		h.Answered()
		require.Zero(t, h.Doubt())
		h.Observe(lost(time.Minute))
		require.Zero(t, h.Doubt(), "it has answered others since")
	})
}

// FuzzHealth: whatever happens, an endpoint that is down is probed within a second, by one
// at a time, and is up after 17 seconds of answers.
func FuzzHealth(f *testing.F) {
	f.Add([]byte("fffpffpf....pafpa"))
	f.Add([]byte("aaaaaaaaaaaaf.faf.faf.faf"))
	f.Fuzz(func(t *testing.T, events []byte) {
		synctest.Test(t, func(t *testing.T) {
			var h health.Health
			waits := false
			for _, e := range events[:min(len(events), 500)] {
				switch e % 5 {
				case 0:
					h.Observe(lost(time.Duration(e) * 10 * ms))
				case 1:
					h.Answered()
				case 2:
					time.Sleep(time.Duration(e) * ms)
				case 3:
					wait, ok := h.Schedule()
					require.Equal(t, h.Doubt() > 0 && !waits, ok)
					require.LessOrEqual(t, wait, time.Second)
					waits = waits || ok
				case 4:
					if waits {
						require.Equal(t, h.Doubt() > 0, h.Begin())
						waits = false
					}
				}
			}
			for range 18 {
				h.Answered()
				time.Sleep(time.Second)
			}
			require.Zero(t, h.Doubt())
		})
	})
}
