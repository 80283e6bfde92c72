package redislimit_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

const ms = time.Millisecond

// network is a miniredis on the clock of a synctest bubble, with a network to it.
type network struct {
	*miniredis.Miniredis

	t     *testing.T
	delay atomic.Int64 // of each message, in each direction
	ahead atomic.Int64 // how far its clock is ahead of the bubble's
	hangs atomic.Bool  // calls are never answered
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{Miniredis: miniredis.NewMiniRedis(), t: t}
	t.Cleanup(n.Close)
	return n
}

// client returns a client with the settings in the package documentation. Each
// process has one.
func (n *network) client() *redis.Client {
	return n.clientWith(redis.Options{ContextTimeoutEnabled: true, MaxRetries: -1})
}

func (n *network) clientWith(o redis.Options) *redis.Client {
	o.Dialer = func(context.Context, string, string) (net.Conn, error) {
		c, err := n.Dial()
		return slowConn{c, n}, err
	}
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c := redis.NewClient(&o)
	n.t.Cleanup(func() {
		time.Sleep(time.Minute) // calls may be under way; virtual
		c.Close()
	})
	return c
}

// slowConn delays all data, in both directions.
type slowConn struct {
	net.Conn
	n *network
}

func (c slowConn) Write(p []byte) (int, error) {
	if c.n.hangs.Load() {
		return len(p), nil
	}
	time.Sleep(time.Duration(c.n.delay.Load())) // virtual
	if d := c.n.ahead.Load(); d != 0 {
		c.n.SetTime(time.Now().Add(time.Duration(d)))
	}
	return c.Conn.Write(p)
}

func (c slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	time.Sleep(time.Duration(c.n.delay.Load()))
	return n, err
}

// waiting is a request that waits, and its outcome.
type waiting struct {
	done chan struct{}
	at   time.Duration // from start
	err  error
}

// wait lets a request wait in a goroutine of its own, and returns when it has joined
// the queue.
func wait(ctx context.Context, l resilient.Limiter, start time.Time) *waiting {
	w := &waiting{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.err = l.Wait(ctx)
		w.at = time.Since(start)
	}()
	synctest.Wait()
	return w
}

// departures queues n requests, one after the other, and returns the times at which
// they went.
func departures(t *testing.T, l resilient.Limiter, n int) []time.Duration {
	t.Helper()
	start := time.Now()
	var all []*waiting
	for range n {
		all = append(all, wait(t.Context(), l, start))
	}
	var went []time.Duration
	for _, w := range all {
		<-w.done
		require.NoError(t, w.err)
		went = append(went, w.at)
	}
	return went
}

func TestPaces(t *testing.T) {
	for _, tt := range []struct {
		why   string
		limit rate.Limit
		burst int
		want  []time.Duration
	}{
		{"a burst at once, then one after the other", 10, 3, []time.Duration{0, 0, 0, 100 * ms, 200 * ms, 300 * ms}},
		{"a burst of 1 is none", 10, 1, []time.Duration{0, 100 * ms, 200 * ms}},
		{"a slow limit", rate.Every(time.Minute), 1, []time.Duration{0, time.Minute, 2 * time.Minute}},
		{"an interval that is not a whole number of microseconds", 3, 1, []time.Duration{0, 333333333, 666666666, time.Second}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := redislimit.New(newNetwork(t).client(), "k", tt.limit, tt.burst)
				got := departures(t, l, len(tt.want))
				for i, want := range tt.want {
					// The script's clock counts microseconds, and its texts thousandths of them.
					require.InDelta(t, want, got[i], float64(time.Microsecond), "%v", got)
				}
			})
		})
	}
}

func TestProcessesShareALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		start := time.Now()
		var all []*waiting
		for range 3 { // requests of each process, which take turns
			for range 4 {
				all = append(all, wait(t.Context(), redislimit.New(n.client(), "k", 10, 2), start))
			}
		}
		for i, w := range all {
			<-w.done
			require.NoError(t, w.err)
			require.Equal(t, time.Duration(max(i-1, 0))*100*ms, w.at, "who asked first goes first")
		}
	})
}

func TestTurns(t *testing.T) {
	const interval = 10 * ms
	for _, tt := range []struct {
		why   string
		burst int
		busy  int
		most  time.Duration // that a light process waits
	}{
		{"three quarters of the burst are as many as the busy processes", 8, 5, interval},
		{"an interval more for each that is missing", 4, 5, 3 * interval},
		{"without a burst, a turn of each", 1, 5, 6 * interval},
		{"one that was alone has used up the burst, and leaves it from then on", 8, 1, 2 * interval},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				went := make([]atomic.Int64, tt.busy)
				start := time.Now()
				for i := range tt.busy {
					l := redislimit.New(n.client(), "k", 100, tt.burst)
					for range 20 + 20*i { // the length of its queue makes no difference
						wg.Go(func() {
							for l.Wait(ctx) == nil {
								went[i].Add(1)
							}
						})
					}
				}
				light := redislimit.New(n.client(), "k", 100, tt.burst)
				time.Sleep(2 * time.Second)
				for range 20 {
					asked := time.Now()
					require.NoError(t, light.Wait(t.Context()))
					require.LessOrEqual(t, time.Since(asked), tt.most)
					time.Sleep(503 * ms)
				}
				took := time.Since(start)
				cancel()
				wg.Wait()
				sum := 0.0
				for i := range went {
					sum += float64(went[i].Load())
				}
				require.InDelta(t, 100*took.Seconds(), sum+20, float64(tt.burst)+3, "all of the limit is used")
				for i := range went {
					require.InDelta(t, sum/float64(tt.busy), went[i].Load(), 0.02*sum, "and in equal parts")
				}
			})
		})
	}
}

func TestFarRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.delay.Store(int64(2500 * time.Microsecond)) // each way, on both ends of the connection
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var fleet []*redislimit.Limiter
		for range 4 {
			l := redislimit.New(n.client(), "k", 2000, 200)
			fleet = append(fleet, l)
			for range 16 {
				wg.Go(func() {
					for l.Wait(ctx) == nil { //nolint:revive // they come back at once
					}
				})
			}
		}
		time.Sleep(2 * time.Second) // until it has settled
		var before []redislimit.Stats
		for _, l := range fleet {
			before = append(before, l.Stats())
		}
		time.Sleep(3 * time.Second)
		var granted, calls float64
		for i, l := range fleet {
			stats := l.Stats()
			its := float64(stats.Granted - before[i].Granted)
			granted += its
			calls += float64(stats.Calls - before[i].Calls)
			require.InDelta(t, 2000*3/4, its, 2000*3/8, "each has about its part")
		}
		cancel()
		wg.Wait()
		require.InDelta(t, 2000*3, granted, 60, "all of the limit is used")
		require.LessOrEqual(t, calls, 0.3*granted)
	})
}

func TestKeysDoNotShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		keyed := redislimit.NewKeyed(n.client(), 10, 1, redislimit.WithPrefix("p:"))
		a := keyed.Limiter("a")
		require.Same(t, a, keyed.Limiter("a"))
		require.Equal(t, []time.Duration{0, 100 * ms}, departures(t, a, 2))
		require.Equal(t, []time.Duration{0, 100 * ms}, departures(t, keyed.Limiter("b"), 2))
		require.Equal(t, []string{"p:a", "p:b"}, n.Keys())
		require.EqualValues(t, 4, keyed.Stats().Granted)
	})
}

func TestKeyedForgetsIdleKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keyed := redislimit.NewKeyed(newNetwork(t).client(), rate.Every(time.Minute), 1)
		busy, idle := keyed.Limiter("busy"), keyed.Limiter("idle")
		require.NoError(t, busy.Wait(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		w := wait(ctx, busy, time.Now())
		for i := range 1024 {
			keyed.Limiter(string(rune('a' + i)))
		}
		require.Same(t, busy, keyed.Limiter("busy"), "somebody waits in it")
		require.NotSame(t, idle, keyed.Limiter("idle"))
		cancel()
		<-w.done
	})
}

func TestCallersShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 1000, 100)
		require.NoError(t, l.Wait(t.Context())) // connects
		n.delay.Store(int64(5 * ms))
		before := l.Stats().Calls
		went := departures(t, l, 50)
		require.EqualValues(t, 2, l.Stats().Calls-before, "one for the first, one for all who came meanwhile")
		require.Equal(t, 10*ms, went[0])
		require.Equal(t, 20*ms, went[49])
	})
}

func TestABatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 1000, 3000)
		require.NoError(t, l.Wait(t.Context()))
		n.delay.Store(int64(ms))
		before := l.Stats().Calls
		departures(t, l, 1+2048)
		require.EqualValues(t, 3, l.Stats().Calls-before)
	})
}

func TestRefusesAtOnceWhatWouldBeTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 10, 1)
		start := time.Now()
		first := wait(t.Context(), l, start)
		second := wait(t.Context(), l, start)
		ctx, cancel := context.WithTimeout(t.Context(), 150*ms)
		defer cancel()
		short := wait(ctx, l, start)
		third := wait(t.Context(), l, start)

		var limitErr *resilient.LimitError
		require.ErrorAs(t, short.err, &limitErr)
		require.Zero(t, short.at)
		require.Equal(t, resilient.LimitError{Reason: "rate limit", Wait: 200 * ms}, *limitErr)
		require.NotErrorIs(t, short.err, context.DeadlineExceeded, "its time has not run out")
		<-first.done
		<-second.done
		<-third.done
		require.Equal(t, 200*ms, third.at, "the refused one used up nothing")
		require.Zero(t, l.Stats().Lost)
	})
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := redislimit.New(newNetwork(t).client(), "k", rate.Every(time.Minute), 1)
		require.NoError(t, l.Wait(t.Context()))
		start := time.Now()
		ctx, cancel := context.WithCancelCause(t.Context())
		w := wait(ctx, l, start)
		time.Sleep(10 * time.Second)
		gone := errors.New("the user closed the page")
		cancel(gone)
		<-w.done
		require.Equal(t, gone, w.err)
		require.Equal(t, 10*time.Second, w.at)
		require.Equal(t, gone, l.Wait(ctx), "it had ended before")
	})
}

func TestWhoGivesUp(t *testing.T) {
	t.Run("leaves its turn to the next in line", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 1), redislimit.New(n.client(), "k", 10, 1)
			require.NoError(t, l.Wait(t.Context()))
			start := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			quitter := wait(ctx, l, start)      // 100 ms
			next := wait(t.Context(), l, start) // reserved later
			its := wait(t.Context(), other, start)
			cancel()
			<-quitter.done
			<-next.done
			<-its.done
			require.Equal(t, 100*ms, next.at)
			require.Equal(t, 200*ms, its.at)
			require.Zero(t, l.Stats().Lost)
		})
	})
	t.Run("leaves it to who comes in time, if others reserved later ones", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 1), redislimit.New(n.client(), "k", 10, 1)
			require.NoError(t, l.Wait(t.Context()))
			start := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			quitter := wait(ctx, l, start)
			its := wait(t.Context(), other, start)
			cancel()
			<-quitter.done
			time.Sleep(50 * ms)
			newcomer := wait(t.Context(), l, start)
			<-newcomer.done
			<-its.done
			require.Equal(t, 100*ms, newcomer.at)
			require.Zero(t, l.Stats().Lost)
		})
	})
	t.Run("hands its reservation back to the fleet", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 1), redislimit.New(n.client(), "k", 10, 1)
			require.NoError(t, l.Wait(t.Context()))
			start := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			quitters := []*waiting{wait(ctx, l, start), wait(ctx, l, start), wait(ctx, l, start)}
			cancel()
			for _, q := range quitters {
				<-q.done
			}
			synctest.Wait()
			require.Equal(t, []time.Duration{100 * ms, 200 * ms}, departures(t, other, 2))
			require.Zero(t, l.Stats().Lost)
		})
	})
	t.Run("costs one request if others reserved later ones and nobody comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 1), redislimit.New(n.client(), "k", 10, 1)
			require.NoError(t, l.Wait(t.Context()))
			start := time.Now()
			ctx, cancel := context.WithCancel(t.Context())
			quitter := wait(ctx, l, start)
			later := wait(t.Context(), other, start)
			cancel()
			<-quitter.done
			<-later.done
			require.Equal(t, 200*ms, later.at)
			require.NoError(t, l.Wait(t.Context()))
			require.Equal(t, 300*ms, time.Since(start))
			require.EqualValues(t, 1, l.Stats().Lost)
		})
	})
	t.Run("before Redis answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 2), redislimit.New(n.client(), "k", 10, 2)
			require.NoError(t, l.Wait(t.Context()))
			time.Sleep(time.Second)
			n.delay.Store(int64(10 * ms))
			ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
			defer cancel()
			require.ErrorIs(t, l.Wait(ctx), context.DeadlineExceeded)
			time.Sleep(30 * ms) // the answer, and the handing back
			n.delay.Store(int64(0))
			require.Equal(t, []time.Duration{0, 0}, departures(t, other, 2), "the burst is whole again")
		})
	})
}

func TestPause(t *testing.T) {
	t.Run("holds the fleet, and ends without a burst", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 5), redislimit.New(n.client(), "k", 10, 5)
			l.Pause(2 * time.Second)
			synctest.Wait()
			require.Equal(t, []time.Duration{2000 * ms, 2100 * ms, 2200 * ms}, departures(t, other, 3))
		})
	})
	t.Run("holds those who have a reservation, in both processes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 1, 1), redislimit.New(n.client(), "k", 1, 1)
			require.NoError(t, l.Wait(t.Context()))
			start := time.Now()
			first := wait(t.Context(), l, start)
			second := wait(t.Context(), other, start)
			third := wait(t.Context(), other, start)
			time.Sleep(500 * ms)
			l.Pause(10 * time.Second)
			for i, w := range []*waiting{first, second, third} {
				<-w.done
				// The other process calls Redis after a second, in time for 2 s.
				require.InDelta(t, 10500*ms+time.Duration(i)*time.Second, w.at, float64(time.Microsecond))
			}
		})
	})
	t.Run("is refused to those who have less time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := redislimit.New(newNetwork(t).client(), "k", 10, 5)
			l.Pause(10 * time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			var limitErr *resilient.LimitError
			require.ErrorAs(t, l.Wait(ctx), &limitErr)
			require.Equal(t, resilient.LimitError{Reason: "pause", Wait: 10 * time.Second}, *limitErr)
			require.Zero(t, time.Since(start))
		})
	})
	t.Run("is bounded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := redislimit.New(newNetwork(t).client(), "k", 10, 5, redislimit.WithMaxPause(3*time.Second))
			l.Pause(24 * time.Hour)
			require.Equal(t, []time.Duration{3 * time.Second}, departures(t, l, 1))
		})
	})
	t.Run("the longer of two holds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 5), redislimit.New(n.client(), "k", 10, 5)
			l.Pause(2 * time.Second)
			l.Pause(time.Second)
			synctest.Wait()
			other.Pause(time.Second)
			other.Pause(-time.Second)
			require.Equal(t, []time.Duration{2 * time.Second}, departures(t, other, 1))
		})
	})
	t.Run("begun while a call is under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l := redislimit.New(n.client(), "k", 10, 5)
			require.NoError(t, l.Wait(t.Context()))
			n.delay.Store(int64(10 * ms))
			start := time.Now()
			w := wait(t.Context(), l, start)
			time.Sleep(5 * ms)
			l.Pause(time.Second)
			<-w.done
			require.NoError(t, w.err)
			require.InDelta(t, 1005*ms, w.at, float64(30*ms), "it ends when Redis has heard of it, and a second has passed")
			require.GreaterOrEqual(t, w.at, 1005*ms)
		})
	})
	t.Run("outlives what Redis knew", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 5), redislimit.New(n.client(), "k", 10, 5)
			l.Pause(5 * time.Second)
			synctest.Wait()
			n.FlushAll()
			start := time.Now()
			mine := wait(t.Context(), l, start) // sends the pause to Redis again
			its := wait(t.Context(), other, start)
			<-mine.done
			<-its.done
			require.Equal(t, 5000*ms, mine.at)
			require.Equal(t, 5100*ms, its.at)
		})
	})
}

func TestTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		start := time.Now()
		var sent []time.Duration
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			sent = append(sent, time.Since(start))
			resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}
			if len(sent) == 1 {
				resp.StatusCode = http.StatusTooManyRequests
				resp.Header.Set("Retry-After", "3")
			}
			return resp, nil
		})
		l := redislimit.New(n.client(), "k", 10, 5)
		told := http.Client{Transport: resilient.NewTransport(base, resilient.WithLimiter(l), resilient.WithMaxAttempts(1))}
		resp, err := told.Get("http://api.example/")
		require.NoError(t, err)
		require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
		synctest.Wait()

		keyed := redislimit.NewKeyed(n.client(), 10, 5)
		other := http.Client{Transport: resilient.NewTransport(base, resilient.WithLimiterFor(keyed.For(
			func(req *http.Request) string { return req.Header.Get("X-Account") })))}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.example/", http.NoBody)
		require.NoError(t, err)
		req.Header.Set("X-Account", "k")
		resp, err = other.Do(req)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Len(t, sent, 2)
		require.InDelta(t, 3*time.Second, sent[1], float64(time.Microsecond), "one was told, the other held")
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestRedisForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 10, 3)
		start := time.Now()
		var all []*waiting
		for range 5 { // the last two wait until 200 ms
			all = append(all, wait(t.Context(), l, start))
		}
		n.FlushAll()
		all = append(all, wait(t.Context(), l, start))
		for i, w := range all {
			<-w.done
			require.NoError(t, w.err)
			require.Equal(t, time.Duration(max(i-2, 0))*100*ms, w.at, "what was reserved is told to Redis again")
		}
	})
}

func TestRedisClockSetBack(t *testing.T) {
	for _, back := range []time.Duration{3 * ms, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			l, other := redislimit.New(n.client(), "k", 10, 1), redislimit.New(n.client(), "k", 10, 1)
			start := time.Now()
			first := wait(t.Context(), l, start)
			second := wait(t.Context(), l, start)
			n.ahead.Store(int64(-back))
			third := wait(t.Context(), other, start)
			fourth := wait(t.Context(), l, start)
			for i, w := range []*waiting{first, second, third, fourth} {
				<-w.done
				require.NoError(t, w.err)
				require.InDelta(t, time.Duration(i)*100*ms, w.at, float64(time.Microsecond), "the clock set back by %v", back)
			}
		})
	}
}

func TestKeyVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		l := redislimit.New(n.client(), "k", 10, 20)
		departures(t, l, 20)
		require.Equal(t, 3*time.Second, n.TTL("resilient:limit:k"), "2 s until the burst is whole again, and 1 s")
		n.FastForward(3 * time.Second)
		require.Empty(t, n.Keys())
	})
}

func TestForeignKeyIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		require.NoError(t, n.Set("resilient:limit:k", "something else"))
		l := redislimit.New(n.client(), "k", 10, 20, redislimit.WithLogger(slog.New(slog.DiscardHandler)))
		var unavailable *redislimit.UnavailableError
		require.ErrorAs(t, l.Wait(t.Context()), &unavailable)
		require.ErrorContains(t, unavailable, "something other than a limit")
		got, err := n.Get("resilient:limit:k")
		require.NoError(t, err)
		require.Equal(t, "something else", got)
	})
}

func TestNonsensePanics(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer client.Close()
	for _, tt := range []struct {
		want string
		make func()
	}{
		{"redislimit: client must be not nil, got nil", func() { redislimit.New(nil, "k", 1, 1) }},
		{"redislimit: limit must be above 0 and finite, got 0", func() { redislimit.New(client, "k", 0, 1) }},
		{"redislimit: burst must be at least 1, got 0", func() { redislimit.New(client, "k", 1, 0) }},
		{"redislimit: WithTimeout must be above 0, got 0s", func() { redislimit.WithTimeout(0) }},
		{"redislimit: WithMaxPause must be above 0, got -1s", func() { redislimit.WithMaxPause(-time.Second) }},
		{"redislimit: WithLogger must be not nil, got nil", func() { redislimit.WithLogger(nil) }},
		{"redislimit: LocalShare must be at least 1, got 0", func() { redislimit.LocalShare(0) }},
	} {
		require.PanicsWithValue(t, tt.want, tt.make)
	}
	for _, limit := range []rate.Limit{rate.Inf, -1, rate.Limit(math.NaN())} {
		require.Panics(t, func() { redislimit.New(client, "k", limit, 1) })
	}
}
