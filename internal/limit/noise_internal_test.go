package limit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestNoise: of 100 attempts under a limit of 50 a second 5 were refused, and then a
// trial finds that more is accepted. As many refusals are excused from then on.
func TestNoise(t *testing.T) {
	now := time.Now()
	var n noise
	n.confirmed(50)
	for i := range 100 {
		require.False(t, n.outcome(now, i%20 == 0), "nothing is known yet")
	}
	require.InDelta(t, 62.5, n.denied(now), 1e-9)
	require.InDelta(t, 0.05, n.part, 1e-9)
	excused := 0
	for i := range 400 {
		if n.outcome(now, i%10 == 0) {
			excused++
		}
	}
	require.InDelta(t, 20, excused, 2, "one in twenty, of one in ten")
	for range 100 {
		n.outcome(now, false)
	}
	require.LessOrEqual(t, n.excuses, float64(mostExcuses), "they are not saved up")
	require.False(t, n.outcome(now.Add(noiseFor+time.Second), true), "for two minutes")
	n.confirmed(50)
	for range 10 {
		n.outcome(now, true)
	}
	n.denied(now)
	require.InDelta(t, mostNoise, n.part, 1e-9, "a mistake cannot excuse everything")
}
