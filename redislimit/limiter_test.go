package redislimit_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/redislimit"
)

// virtual returns a miniredis in the clock of a synctest bubble, and a maker of
// clients for it, one for each process.
func virtual(t *testing.T) (*miniredis.Miniredis, func() *redis.Client) {
	t.Helper()
	m := miniredis.NewMiniRedis()
	t.Cleanup(m.Close)
	return m, func() *redis.Client {
		c := redis.NewClient(&redis.Options{
			Dialer:                   func(context.Context, string, string) (net.Conn, error) { return m.Dial() },
			ContextTimeoutEnabled:    true,
			MaxRetries:               -1,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		})
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// departures lets n goroutines wait, arriving in order, and returns when each
// went, from start.
func departures(t *testing.T, l *redislimit.Limiter, n int) []time.Duration {
	t.Helper()
	start := time.Now()
	went := make([]time.Duration, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			require.NoError(t, l.Wait(t.Context()))
			went[i] = time.Since(start)
		})
		synctest.Wait()
	}
	wg.Wait()
	return went
}

func TestBurstThenPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := virtual(t)
		l := redislimit.New(client(), "k", 10, 3)
		ms := time.Millisecond
		require.Equal(t, []time.Duration{0, 0, 0, 100 * ms, 200 * ms, 300 * ms}, departures(t, l, 6))
	})
}
