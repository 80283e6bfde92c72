package budget_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/budget"
)

var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

func TestBudget(t *testing.T) {
	for _, tt := range []struct {
		name         string
		ratio, floor float64
		run          func(b *budget.Budget) (time.Time, bool)
		balance      float64
		allowed      bool // the last retry
		why          string
	}{
		{"new", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			ok, charged := b.TryWithdraw(at(0), 1)
			return at(0), ok && charged == 0
		}, 10, true, "an isolated failure is retried on credit"},
		{"a retry failed", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 1)
			ok, charged := b.TryWithdraw(at(1), 1)
			return at(1), ok && charged == 1
		}, 8, true, "then each is charged ahead"},
		{"long ago", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 1)
			ok, charged := b.TryWithdraw(at(10), 1)
			return at(10), ok && charged == 0
		}, 9, true, "for ten seconds"},
		{"a timeout", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			ok, charged := b.TryWithdraw(at(0), 2)
			return at(0), ok && charged == 2
		}, 8, true, "the server may still be at work, so it is never on credit"},
		{"used up", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 10)
			ok, _ := b.TryWithdraw(at(0), 1)
			return at(0), ok
		}, 0, false, "without a token there is no retry"},
		{"overdrawn", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 100)
			ok, _ := b.TryWithdraw(at(0), 1)
			return at(0), ok
		}, 0, false, "there are no debts, which a long outage would run up"},
		{"with time", 0, 0.2, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 10)
			ok, _ := b.TryWithdraw(at(5), 1)
			return at(5), ok
		}, 0, true, "one in five seconds"},
		{"never above the start with time", 0, 0.2, func(*budget.Budget) (time.Time, bool) { return at(1e6), true }, 10, true, "time alone earns no more"},
		{"with traffic", 0.5, 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 10)
			b.Answered(at(0))
			b.Answered(at(0))
			ok, _ := b.TryWithdraw(at(0), 1)
			return at(0), ok
		}, 0, true, "half a token for each call"},
		{"it fades", 1, 0, func(b *budget.Budget) (time.Time, bool) {
			for range 100 {
				b.Answered(at(0))
			}
			return at(10), true
		}, 10 + 100/math.E, true, "a good hour is not spent on a bad minute"},
		{"recovered", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 3)
			b.Recovered(at(1), 3)
			ok, charged := b.TryWithdraw(at(1), 1)
			return at(1), ok && charged == 0 && !b.Correlated(at(1))
		}, 11, true, "failures are isolated again, and it earns a token"},
		{"not while call after call fails", 0, 0.2, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 10)
			for i := range 30 {
				if ok, _ := b.TryWithdraw(at(float64(i)), 1); ok {
					return at(float64(i)), ok
				}
			}
			return at(29), false
		}, 0, false, "an outage of 30 s costs a client that makes a call a second no more than a busy one"},
		{"the last token is enough", 0, 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 9)
			ok, charged := b.TryWithdraw(at(0), 2)
			return at(0), ok && charged == 1
		}, 0, true, "for a timeout too"},
		{"switched off", math.Inf(1), 0, func(b *budget.Budget) (time.Time, bool) {
			b.Failed(at(0), 100)
			b.Deposit(at(0), 1)
			ok, charged := b.TryWithdraw(at(0), 2)
			return at(0), ok && charged == 0
		}, -1, true, "no bound"},
		{"a huge ratio", math.MaxFloat64, math.MaxFloat64, func(b *budget.Budget) (time.Time, bool) {
			b.Answered(at(1))
			b.Answered(at(1))
			return at(1), true
		}, 1e9, true, "infinity is no JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := budget.New(tt.ratio, tt.floor, 10, start)
			now, allowed := tt.run(b)
			require.Equal(t, tt.allowed, allowed, tt.why)
			require.InDelta(t, tt.balance, b.Balance(now), 1e-9, tt.why)
			_, err := json.Marshal(b.Balance(now))
			require.NoError(t, err)
		})
	}
}

func TestIdle(t *testing.T) {
	b := budget.New(0, 1, 10, start)
	require.True(t, b.Idle(at(0)))
	b.Failed(at(0), 3)
	require.False(t, b.Idle(at(5)), "a failure is remembered, though the balance is back")
	require.True(t, b.Idle(at(10)))
	b.Failed(at(10), 3)
	b.Recovered(at(10), 1)
	require.False(t, b.Idle(at(10)), "a token is missing")
	require.True(t, budget.New(math.Inf(1), 0, 10, start).Idle(start))
}

// FuzzBudget: whatever happens, the balance stays in its bounds, and no more
// retries go than there were tokens.
func FuzzBudget(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, 0.05, 0.2)
	f.Fuzz(func(t *testing.T, ops []byte, ratio, floor float64) {
		if !(ratio >= 0 && ratio <= 1e6 && floor >= 0 && floor <= 1e6) {
			t.Skip("WithRetryBudget panics, or it is as good as no bound")
		}
		b, now := budget.New(ratio, floor, 10, start), start
		tokens, charged := 10.0, 0.0 // there can have been no more than that
		for _, op := range ops {
			d := time.Duration(op) * 10 * time.Millisecond
			switch op % 5 {
			case 0:
				now = now.Add(d)
				tokens += floor * d.Seconds()
			case 1:
				b.Answered(now)
				tokens += ratio
			case 2:
				if ok, ahead := b.TryWithdraw(now, 1+int(op>>7)); ok {
					charged += float64(ahead)
				}
			case 3:
				b.Failed(now, int(op>>7))
			case 4:
				b.Recovered(now, 0)
				tokens++
			}
			balance := b.Balance(now)
			require.GreaterOrEqual(t, balance, 0.0)
			require.LessOrEqual(t, balance+charged, tokens*(1+1e-9))
		}
	})
}
