package redislimit_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

// logger returns a logger, and a function that returns its output without the time.
func logger() (l *slog.Logger, logged func() string) {
	var buf buffer
	return slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})), buf.String
}

// buffer is safe for concurrent use, because abandoned calls write to it too.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestRefusesWhileRedisHangs(t *testing.T) {
	for _, tt := range []struct {
		why    string
		client redis.Options
	}{
		{"a client that heeds contexts", redis.Options{ContextTimeoutEnabled: true, MaxRetries: -1}},
		{"one that does not: the call outlasts its time, the callers do not wait for it", redis.Options{}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				log, logged := logger()
				l := redislimit.New(n.clientWith(tt.client), "k", 10, 100, redislimit.WithLogger(log))
				require.NoError(t, l.Wait(t.Context()))
				synctest.Wait()
				before := logged()
				n.hangs.Store(true)

				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 30*ms)
				defer cancel()
				require.ErrorIs(t, l.Wait(ctx), context.DeadlineExceeded)
				require.Equal(t, 30*ms, time.Since(start), "the deadline is kept")

				var unavailable *redislimit.UnavailableError
				err := l.Wait(t.Context())
				require.ErrorAs(t, err, &unavailable)
				require.NotErrorIs(t, err, context.DeadlineExceeded, "the caller has none")
				require.LessOrEqual(t, time.Since(start), 200*ms)
				require.Error(t, l.Stats().Err)

				// After the first failure most are refused at once, and one from time to
				// time calls Redis.
				slow := 0
				for range 100 {
					asked := time.Now()
					require.ErrorAs(t, l.Wait(t.Context()), &unavailable)
					if time.Since(asked) > 0 {
						slow++
					}
					require.LessOrEqual(t, time.Since(asked), 100*ms)
					time.Sleep(20 * ms)
				}
				require.LessOrEqual(t, slow, 7)

				n.hangs.Store(false)
				thawed := time.Now()
				for l.Wait(t.Context()) != nil {
					time.Sleep(10 * ms)
				}
				if tt.client.ContextTimeoutEnabled {
					require.LessOrEqual(t, time.Since(thawed), 1200*ms)
				} else {
					require.LessOrEqual(t, time.Since(thawed), 4*4*time.Second, "after its own timeouts")
				}
				require.NoError(t, l.Stats().Err)
				synctest.Wait()
				text := strings.TrimPrefix(logged(), before)
				require.Equal(t, 1, strings.Count(text, `level=WARN msg="redislimit: Redis does not answer" error="no answer in time" fallback=refuse`), text)
				require.Equal(t, 1, strings.Count(text, `level=INFO msg="redislimit: Redis answers again"`), text)
				require.Equal(t, 2, strings.Count(text, "\n"), "nothing else is logged: %s", text)
			})
		})
	}
}

func TestWarnsOfClientSettings(t *testing.T) {
	for _, tt := range []struct {
		client redis.UniversalClient
		want   string
	}{
		{redis.NewClient(&redis.Options{}), "ContextTimeoutEnabled is false"},
		{redis.NewClient(&redis.Options{ContextTimeoutEnabled: true}), "MaxRetries is not -1"},
		{redis.NewClient(&redis.Options{ContextTimeoutEnabled: true, MaxRetries: -1}), ""},
		{redis.NewClusterClient(&redis.ClusterOptions{}), "ContextTimeoutEnabled is false"},
		{redis.NewClusterClient(&redis.ClusterOptions{ContextTimeoutEnabled: true}), ""},
		{redis.NewRing(&redis.RingOptions{}), "ContextTimeoutEnabled is false"},
	} {
		defer tt.client.Close()
		log, logged := logger()
		redislimit.New(tt.client, "k", 1, 1, redislimit.WithLogger(log))
		if tt.want == "" {
			require.Empty(t, logged())
		} else {
			require.Contains(t, logged(), tt.want)
		}
	}
}

func TestOneFailureIsTriedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := redislimit.New(n.client(), "k", 10, 100, redislimit.WithLogger(log))
		n.SetError("LOADING Redis is loading the dataset in memory")
		require.ErrorContains(t, l.Wait(t.Context()), "redislimit: Redis does not answer: LOADING")
		n.SetError("")
		require.NoError(t, l.Wait(t.Context()))
	})
}

func TestUnlimitedWhileRedisIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, logged := logger()
		l := redislimit.New(n.client(), "k", 10, 1, redislimit.WithLogger(log), redislimit.WithFallback(redislimit.Unlimited()))
		require.NoError(t, l.Wait(t.Context()))
		n.SetError("MASTERDOWN Link with MASTER is down")
		require.Equal(t, make([]time.Duration, 50), departures(t, l, 50))
		synctest.Wait()
		require.EqualValues(t, 50, l.Stats().Fallback)
		require.Contains(t, logged(), "fallback=unlimited")

		l.Pause(2 * time.Second)
		require.Equal(t, []time.Duration{2 * time.Second, 2 * time.Second}, departures(t, l, 2), "what the server said holds still")

		n.SetError("")
		time.Sleep(2 * time.Second)
		require.Equal(t, []time.Duration{0, 100 * ms, 200 * ms}, departures(t, l, 3))
		synctest.Wait()
		require.Contains(t, logged(), "requests=52")
	})
}

func TestLocalShareWhileRedisIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, logged := logger()
		l := redislimit.New(n.client(), "k", 40, 8, redislimit.WithLogger(log), redislimit.WithFallback(redislimit.LocalShare(4)))
		require.NoError(t, l.Wait(t.Context()))
		n.SetError("CLUSTERDOWN Hash slot not served")
		want := []time.Duration{0, 100 * ms, 200 * ms, 300 * ms}
		require.Equal(t, want, departures(t, l, 4), "10/s, and no burst at first")
		synctest.Wait()
		require.Contains(t, logged(), `fallback="local share, 1/4"`)
		time.Sleep(time.Second)
		want = []time.Duration{0, 0, 100 * ms, 200 * ms}
		require.Equal(t, want, departures(t, l, 4), "a burst of 2")

		l.Pause(2 * time.Second)
		want = []time.Duration{2000 * ms, 2100 * ms, 2200 * ms}
		require.Equal(t, want, departures(t, l, 3))

		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 250*ms)
		defer cancel()
		all := []*waiting{wait(ctx, l, start), wait(ctx, l, start), wait(ctx, l, start), wait(ctx, l, start)}
		var limitErr *resilient.LimitError
		require.ErrorAs(t, all[3].err, &limitErr, "too late for it, known at once")
		require.Zero(t, all[3].at)
		for _, w := range all[:3] {
			<-w.done
		}
	})
}

func TestLocalShareBeginsAfterWhatWasReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := redislimit.New(n.client(), "k", 10, 1, redislimit.WithLogger(log), redislimit.WithFallback(redislimit.LocalShare(2)))
		start := time.Now()
		var all []*waiting
		for range 2 { // 0, 100 ms
			all = append(all, wait(t.Context(), l, start))
		}
		n.SetError("gone")
		for range 3 {
			all = append(all, wait(t.Context(), l, start))
		}
		for i, want := range []time.Duration{0, 100 * ms, 100 * ms, 300 * ms, 500 * ms} {
			<-all[i].done
			require.InDelta(t, want, all[i].at, float64(time.Microsecond), "request %d", i)
		}
	})
}

func TestRedisComesBackWhileSomeWaitLocally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := redislimit.New(n.client(), "k", 1, 1, redislimit.WithLogger(log), redislimit.WithFallback(redislimit.LocalShare(10)))
		n.SetError("gone")
		start := time.Now()
		all := []*waiting{wait(t.Context(), l, start), wait(t.Context(), l, start), wait(t.Context(), l, start)}
		n.SetError("")
		for _, w := range all {
			<-w.done
			require.NoError(t, w.err)
		}
		require.Zero(t, all[0].at)
		require.Less(t, all[2].at, 4*time.Second, "at the fleet's pace, not the share's of one in 10 s")
	})
}

func TestPauseIsToldWhenRedisComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log, _ := logger()
		l := redislimit.New(n.client(), "k", 10, 1, redislimit.WithLogger(log))
		other := redislimit.New(n.client(), "k", 10, 1, redislimit.WithLogger(log))
		n.SetError("gone")
		start := time.Now()
		l.Pause(10 * time.Second)
		require.Error(t, l.Wait(t.Context()))
		n.SetError("")
		time.Sleep(time.Second)
		mine := wait(t.Context(), l, start)
		its := wait(t.Context(), other, start)
		<-mine.done
		<-its.done
		require.Equal(t, 10000*ms, mine.at)
		require.Equal(t, 10100*ms, its.at)
	})
}

// A handler that blocks, such as one that writes to a full pipe, delays no request.
func TestSlowLogHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		log := slog.New(slowHandler{slog.DiscardHandler})
		l := redislimit.New(n.client(), "k", 10, 1, redislimit.WithLogger(log))
		require.NoError(t, l.Wait(t.Context()))
		n.SetError("gone")
		start := time.Now()
		var unavailable *redislimit.UnavailableError
		for range 3 {
			require.ErrorAs(t, l.Wait(t.Context()), &unavailable)
		}
		require.Zero(t, time.Since(start))
	})
}

type slowHandler struct{ slog.Handler }

func (slowHandler) Enabled(context.Context, slog.Level) bool { return true }

func (slowHandler) Handle(context.Context, slog.Record) error {
	time.Sleep(10 * time.Second) // virtual
	return nil
}

func TestErrorsFromATransport(t *testing.T) {
	err := error(&resilient.LimitError{Reason: "limiter", Err: &redislimit.UnavailableError{Err: errors.New("refused")}})
	var unavailable *redislimit.UnavailableError
	require.ErrorAs(t, err, &unavailable)
}
