package resilient_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// tokens costs what the header of a request says.
func tokens(req *http.Request) float64 {
	cost, err := strconv.ParseFloat(req.Header.Get("Tokens"), 64)
	if err != nil {
		return math.NaN()
	}
	return cost
}

func costing(tb testing.TB, cost string) *http.Request {
	tb.Helper()
	req := get(tb)
	req.Header.Set("Tokens", cost)
	return req
}

// TestCosts sends requests one after the other, at 10 tokens a second and 100 at once,
// and 1 request a second and 50 at once.
func TestCosts(t *testing.T) {
	for _, tt := range []struct {
		why   string
		costs []string
		at    []time.Duration
	}{
		{"as many as there are go at once", []string{"40", "60"}, []time.Duration{0, 0}},
		{"and the next ones wait for theirs", []string{"100", "10", "20.5"}, []time.Duration{0, time.Second, 3050 * ms}},
		{"one that is larger than the burst waits for a full bucket", []string{"50", "130", "10"}, []time.Duration{0, 5 * time.Second, 9 * time.Second}},
		{"the largest number there is takes no longer than it must", []string{"1", "+Inf", "10"}, []time.Duration{0, 100 * ms, 1100 * ms}},
		{"a cost of nothing", []string{"100", "0", "0"}, []time.Duration{0, 0, 0}},
		{"a cost that makes no sense is 0", []string{"100", "-5", "NaN"}, []time.Duration{0, 0, 0}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, start := newScript(answer(200)), time.Now()
				transport := resilient.NewTransport(base, resilient.WithLimit("tokens", 10, 100, tokens), resilient.WithRateLimit(1, 50))
				for _, cost := range tt.costs {
					resp, err := transport.RoundTrip(costing(t, cost))
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				require.Equal(t, tt.at, since(base, start))
			})
		})
	}
}

// TestLimitsTogether: a request takes from all its limits in one instant or from none,
// and nobody overtakes it.
func TestLimitsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, start := newScript(answer(200)), time.Now()
		transport := resilient.NewTransport(base, resilient.WithLimit("tokens", 10, 100, tokens), resilient.WithRateLimit(1, 2))
		var wg sync.WaitGroup
		for _, cost := range []string{"100", "100", "1"} {
			wg.Go(func() {
				resp, err := transport.RoundTrip(costing(t, cost))
				if err == nil {
					_ = resp.Body.Close()
				}
			})
			synctest.Wait()
		}
		k := transport.Snapshot().Keys[0]
		require.InDelta(t, 1, k.Tokens, 1e-9, "one that waits for tokens holds no request back")
		require.Equal(t, []resilient.BucketSnapshot{{Name: "tokens", Limit: 10, Burst: 100}}, k.Buckets)
		require.Equal(t, []resilient.QueueSnapshot{{Flows: 1, Waiting: 2}}, k.Queues)
		wg.Wait()
		require.Equal(t, []time.Duration{0, 10 * time.Second, 10100 * ms}, since(base, start))
	})
}

// TestGivenBack: an attempt that the server did not charge for costs nothing, of what is
// counted by a function. It was an attempt all the same.
func TestGivenBack(t *testing.T) {
	dial := fails(&net.OpError{Op: "dial", Err: io.EOF})
	for _, tt := range []struct {
		why      string
		first    step
		tokens   float64
		requests float64
	}{
		{"refused for its rate", answer(429), 60, 8},
		{"never sent", dial, 60, 9},
		{"it may have been processed", answer(500), 20, 8},
		{"wrong, which the server had to find out", answer(400), 60, 9},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.first, answer(200))
				// So slow that nothing comes in the meantime.
				transport := resilient.NewTransport(base, every(0), resilient.WithLimit("tokens", 1e-9, 100, tokens), resilient.WithRateLimit(1e-9, 10))
				resp, err := transport.RoundTrip(costing(t, "40"))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				k := transport.Snapshot().Keys[0]
				require.InDelta(t, tt.tokens, k.Buckets[0].Tokens, 1e-3)
				require.InDelta(t, tt.requests, k.Tokens, 1e-3)
			})
		})
	}
}

// TestRefusedTwice: a second refusal of a call says that the server has less left than was
// thought, and that stays so until somebody pays for it.
func TestRefusedTwice(t *testing.T) {
	for _, tt := range []struct {
		why, cost string
		took      time.Duration
		left      float64
	}{
		{"the first has cost what comes in 10 ms, the second attempt pays, and the third", "40", 0, 10},
		{"what is beyond a full bucket is given back, or the third would wait longer", "130", 110 * ms, -30},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, start := newScript(answer(429), answer(429), answer(200)), time.Now()
				transport := resilient.NewTransport(base, every(0), resilient.WithLearnedRate(false), resilient.WithLimit("tokens", 1000, 100, tokens))
				resp, err := transport.RoundTrip(costing(t, tt.cost))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Len(t, base.Attempts(), 3)
				require.Equal(t, tt.took, time.Since(start))
				require.InDelta(t, tt.left, transport.Snapshot().Keys[0].Buckets[0].Tokens, 1e-3)
			})
		})
	}
}

// TestSettle corrects the cost of one request, which was estimated at 40 of 100 tokens.
func TestSettle(t *testing.T) {
	for _, tt := range []struct {
		why   string
		used  []float64
		name  string
		left  float64
		plain bool // the context is not one of ContextWithOptions
	}{
		{"not at all: the estimate stands", nil, "tokens", 60, false},
		{"less", []float64{10}, "tokens", 90, false},
		{"nothing", []float64{0}, "tokens", 100, false},
		{"more", []float64{70}, "tokens", 30, false},
		{"more than there is: it is owed", []float64{250}, "tokens", -150, false},
		{"below zero is zero", []float64{-1000}, "tokens", 100, false},
		{"twice: the second has nothing to settle", []float64{10, 50}, "tokens", 90, false},
		{"no number", []float64{math.NaN(), math.Inf(1), math.Inf(-1)}, "tokens", 60, false},
		{"no number, and then one", []float64{math.NaN(), 10}, "tokens", 90, false},
		{"another limit", []float64{10}, "words", 60, false},
		{"a limit that counts attempts", []float64{10}, "requests", 60, false},
		{"a context that nobody prepared", []float64{10}, "tokens", 60, true},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := resilient.NewTransport(newScript(answer(200)),
					resilient.WithLimit("tokens", 1e-9, 100, tokens), resilient.WithRateLimit(1e-9, 10))
				ctx := t.Context()
				if !tt.plain {
					ctx = resilient.ContextWithOptions(ctx)
				}
				inner := resilient.ContextWithOptions(ctx, resilient.WithMaxAttempts(2)) // by an SDK, say
				if tt.plain {
					inner = ctx
				}
				resp, err := transport.RoundTrip(costing(t, "40").WithContext(inner))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				for _, used := range tt.used {
					resilient.Settle(ctx, tt.name, used)
				}
				k := transport.Snapshot().Keys[0]
				require.InDelta(t, tt.left, k.Buckets[0].Tokens, 1e-3)
				require.InDelta(t, 9, k.Tokens, 1e-3)
			})
		})
	}
}

// TestEstimatesThatAreTooLow: each request that was estimated too low was sent before the
// server had what it takes, and it was so for the next one, however often that was told.
func TestEstimatesThatAreTooLow(t *testing.T) {
	for _, tt := range []struct {
		why  string
		cost string
		used []float64 // by requests before
		want float64   // taken for the next one
	}{
		{"as estimated", "40", []float64{40, 40}, 40},
		{"more, by as much", "40", []float64{80, 80}, 80},
		{"more in the mean", "40", []float64{100, 20}, 60},
		{"less: some servers take what was asked for at first", "40", []float64{10, 10}, 40},
		{"less in the mean", "40", []float64{50, 10}, 40},
		{"a number gone wrong", "40", []float64{1e12, 40}, 40 * (16 + 1) / 2},
		{"nothing", "40", []float64{0, 0}, 40},
		{"an estimate of nothing", "0", []float64{80, 80}, 0},
		{"nobody says", "40", nil, 40},
	} {
		t.Run(tt.why, func(t *testing.T) {
			transport := resilient.NewTransport(newScript(answer(200)), resilient.WithLimit("tokens", 1e-9, 1e15, tokens))
			left := func() float64 { return transport.Snapshot().Keys[0].Buckets[0].Tokens }
			ctx := resilient.ContextWithOptions(t.Context())
			call := func() {
				resp, err := transport.RoundTrip(costing(t, tt.cost).WithContext(ctx))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			for range tt.used {
				call()
			}
			for _, used := range tt.used {
				resilient.Settle(ctx, "tokens", used)
			}
			call()
			before := left()
			call()
			require.InDelta(t, tt.want, before-left(), 0.5)
		})
	}
}

// TestSettleWakesThoseWhoWait: what turns out to be there is used at once.
func TestSettleWakesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, start := newScript(answer(200)), time.Now()
		transport := resilient.NewTransport(base, resilient.WithLimit("tokens", 1, 100, tokens))
		ctx := resilient.ContextWithOptions(t.Context())
		resp, err := transport.RoundTrip(costing(t, "100").WithContext(ctx))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		time.AfterFunc(3*time.Second, func() { resilient.Settle(ctx, "tokens", 20) })
		resp, err = transport.RoundTrip(costing(t, "50"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []time.Duration{0, 3 * time.Second}, since(base, start))
	})
}

// TestSettleManyOfOneContext: each settlement is for another request, and the sum is
// right. Of those that nobody settles only the last are remembered.
func TestSettleManyOfOneContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithLimit("tokens", 1e-9, 1e6, tokens))
		ctx := resilient.ContextWithOptions(t.Context())
		const n = 1500
		for range n {
			resp, err := transport.RoundTrip(costing(t, "100").WithContext(ctx))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		for range n {
			resilient.Settle(ctx, "tokens", 10)
		}
		require.InDelta(t, 1e6-100*n+90*1024, transport.Snapshot().Keys[0].Buckets[0].Tokens, 1e-3)
	})
}

// TestSettleAfterEviction: a limit that is forgotten has nothing to correct.
func TestSettleAfterEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := resilient.NewTransport(newScript(answer(200)), resilient.WithLimit("tokens", 1000, 100, tokens),
			resilient.WithLimitKey(func(req *http.Request) string { return req.Header.Get("Key") }))
		ctx := resilient.ContextWithOptions(t.Context())
		call := func(ctx context.Context, key string) {
			req := costing(t, "40").WithContext(ctx)
			req.Header.Set("Key", key)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		call(ctx, "mine")
		time.Sleep(time.Hour)
		for i := range 1100 {
			call(t.Context(), strconv.Itoa(i))
		}
		resilient.Settle(ctx, "tokens", 1e9)
		start := time.Now()
		call(t.Context(), "mine")
		require.Zero(t, time.Since(start))
	})
}

// TestLimitOptions: nonsense panics in the line that says it.
func TestLimitOptions(t *testing.T) {
	require.PanicsWithValue(t, "resilient: WithLimit must be a name that is not empty, got \"\"", func() { resilient.WithLimit("", 1, 1, nil) })
	require.PanicsWithValue(t, "resilient: WithLimit must be a limit above 0, got 0", func() { resilient.WithLimit("a", 0, 1, nil) })
	require.PanicsWithValue(t, "resilient: WithLimit must be a limit above 0, got NaN", func() { resilient.WithLimit("a", rate.Limit(nan), 1, nil) })
	require.PanicsWithValue(t, "resilient: WithLimit must be a burst of at least 1, got 0", func() { resilient.WithLimit("a", 1, 0, nil) })
	require.PanicsWithValue(t, "resilient: WithMaxInFlight must be 0 or more, got -1", func() { resilient.WithMaxInFlight(-1) })
	require.PanicsWithValue(t, "resilient: WithClass must be not nil, got nil", func() { resilient.WithClass(nil) })
	var nine []resilient.Option
	for i := range 9 {
		nine = append(nine, resilient.WithLimit(strconv.Itoa(i), 1, 1, nil))
	}
	require.NotPanics(t, func() { resilient.NewTransport(nil, nine[:8]...) })
	require.PanicsWithValue(t, "resilient: WithLimit must be used for at most 8 names, got 9", func() { resilient.NewTransport(nil, nine...) })
	for _, opt := range []resilient.Option{resilient.WithLimit("a", 1, 1, nil), resilient.WithMaxInFlight(1)} {
		require.Panics(t, func() { resilient.ContextWithOptions(t.Context(), opt) }, "it holds for a whole Transport")
	}

	transport := resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1), resilient.WithLimit("requests", 20, 10, nil))
	callers(t, transport, 1)
	require.InDelta(t, 20, transport.Snapshot().Keys[0].Limit, 0, "the last one of a name")
	transport = resilient.NewTransport(newScript(answer(200)), resilient.WithRateLimit(1, 1), resilient.WithRateLimit(rate.Inf, 0))
	callers(t, transport, 9)
	require.Empty(t, transport.Snapshot().Keys, "no limit at all")
}

// TestMaxInFlight: a request is in flight as long as its body is open.
func TestMaxInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var at []time.Duration
		var mu sync.Mutex
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			at = append(at, time.Since(start))
			mu.Unlock()
			sendsParts(part{time.Second, "a"}, part{time.Minute, "b"})(w, r)
		})
		var r recorder
		transport := resilient.NewTransport(base, resilient.WithMaxInFlight(2), resilient.WithTrace(r.trace()))
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i == 3 { // it leaves the queue, and no hole in it
					time.AfterFunc(10*time.Second, cancel)
				}
				resp, err := transport.RoundTrip(get(t).WithContext(ctx))
				if i == 3 {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if i == 0 {
					_, _ = resp.Body.Read(make([]byte, 1))
					_ = resp.Body.Close() // after a second
					_ = resp.Body.Close()
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body) // to its end
			})
			synctest.Wait()
		}
		k := transport.Snapshot().Keys[0]
		require.Equal(t, 2, k.MaxInFlight)
		require.Equal(t, 2, k.InFlight)
		require.Equal(t, start, k.OldestInFlight)
		require.Equal(t, 3, k.Waiting)
		wg.Wait()
		require.Equal(t, []time.Duration{0, 0, time.Second, 61 * time.Second}, at)
		require.Len(t, r.waits, 3)
		for _, w := range r.waits {
			require.Equal(t, resilient.ReasonInFlight, w.Reason)
			require.Zero(t, w.Duration, "it depends on the others")
		}
		k = transport.Snapshot().Keys[0]
		require.Zero(t, k.InFlight)
		require.Zero(t, k.OldestInFlight)
	})
}

// TestWhatIsInFlight: a place is held until nothing of the attempt is left, however it
// ends.
func TestWhatIsInFlight(t *testing.T) {
	for _, tt := range []struct {
		why  string
		base http.RoundTripper
		opts []resilient.Option
		held int // when RoundTrip has returned
	}{
		{"a body", newScript(answer(200)), nil, 1},
		{"an error response", newScript(answer(404)), nil, 1},
		{"an error in its place", newScript(answer(404)), []resilient.Option{resilient.WithStatusErrors(true)}, 0},
		{"no body", newScript(answerWith(204, "")), nil, 0},
		{"no response", newScript(fails(errors.New("no"))), nil, 0},
		{"an attempt that is made again", newScript(answer(500), fails(io.EOF), answer(200)), []resilient.Option{every(time.Second)}, 1},
		{"a base that panics", step(func(*http.Request) (*http.Response, error) { panic("base") }), nil, 0},
		{"a hook that panics", newScript(answer(200)), []resilient.Option{resilient.WithTrace(&resilient.Trace{
			Done: func(resilient.DoneInfo) { panic("hook") },
		})}, 0},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := resilient.NewTransport(tt.base, append(tt.opts, resilient.WithMaxInFlight(1))...)
				for range 3 {
					resp, _ := func() (resp *http.Response, err error) {
						defer func() { _ = recover() }()
						return transport.RoundTrip(get(t))
					}()
					require.Equal(t, tt.held, transport.Snapshot().Keys[0].InFlight)
					if resp != nil {
						require.NoError(t, resp.Body.Close())
					}
					require.Zero(t, transport.Snapshot().Keys[0].InFlight)
				}
			})
		})
	}
}

// TestClass: who goes first of those who wait.
func TestClass(t *testing.T) {
	class := func(req *http.Request) resilient.Class {
		priority, _ := strconv.Atoi(req.Header.Get("Priority"))
		return resilient.Class{Priority: priority, Flow: req.Header.Get("Flow")}
	}
	for _, tt := range []struct {
		why   string
		came  []string // priority or flow
		order []string
	}{
		{"without a class, in order", []string{"a", "b", "c"}, []string{"a", "b", "c"}},
		{"the higher priority", []string{"0", "-1", "0", "1"}, []string{"1", "0", "0", "-1"}},
		{"flows take turns", []string{"x", "x", "x", "x", "y", "y", "z"}, []string{"x", "y", "z", "x", "y", "x", "x"}},
		{"values beyond are the last ones", []string{"127", "999999"}, []string{"127", "999999"}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(answer(200))
				transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithClass(class))
				callers(t, transport, 1)
				var wg sync.WaitGroup
				for _, name := range tt.came {
					req := get(t)
					if _, err := strconv.Atoi(name); err == nil {
						req.Header.Set("Priority", name)
					} else {
						req.Header.Set("Flow", name)
					}
					wg.Go(func() {
						resp, err := transport.RoundTrip(req)
						if err == nil {
							_ = resp.Body.Close()
						}
					})
					synctest.Wait()
				}
				wg.Wait()
				var order []string
				for _, a := range base.Attempts()[1:] {
					order = append(order, a.Header.Get("Priority")+a.Header.Get("Flow"))
				}
				require.Equal(t, tt.order, order)
			})
		})
	}
}

// TestClassOfARequest: the context of a request may have a class of its own, a retry
// keeps it, and it is asked for once.
func TestClassOfARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		base := newScript(answer(200), answer(500), answer(200))
		transport := resilient.NewTransport(base, every(0), resilient.WithRateLimit(1, 1))
		callers(t, transport, 1)
		urgent := resilient.ContextWithOptions(t.Context(), resilient.WithClass(func(*http.Request) resilient.Class {
			asked++
			return resilient.Class{Priority: 1}
		}))
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b", "urgent"} {
			req := get(t)
			if name == "urgent" {
				req = req.WithContext(urgent)
			}
			req.Header.Set("Name", name)
			wg.Go(func() {
				resp, err := transport.RoundTrip(req)
				if err == nil {
					_ = resp.Body.Close()
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		var order []string
		for _, a := range base.Attempts() {
			order = append(order, a.Header.Get("Name"))
		}
		require.Equal(t, []string{"", "urgent", "urgent", "a", "b"}, order)
		require.Equal(t, 1, asked)
	})
}

// TestLimitsCostNothing: a success with two limits, a number in flight and a class
// allocates nothing, if there is no body to be followed.
func TestLimitsCostNothing(t *testing.T) {
	transport, req := limitedTransport(), get(t)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = transport.RoundTrip(req) }))
}

func limitedTransport() *resilient.Transport {
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
	base := step(func(*http.Request) (*http.Response, error) { return resp, nil })
	return resilient.NewTransport(base,
		resilient.WithLimit("tokens", 1e12, 1e9, func(*http.Request) float64 { return 100 }),
		resilient.WithRateLimit(1e12, 1e9), resilient.WithMaxInFlight(10),
		resilient.WithClass(func(*http.Request) resilient.Class { return resilient.Class{Priority: 1} }))
}

// BenchmarkLimits measures a success with two limits, a number in flight and a class,
// beside one without.
func BenchmarkLimits(b *testing.B) {
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}
	base := step(func(*http.Request) (*http.Response, error) { return resp, nil })
	for _, tt := range []struct {
		name      string
		transport http.RoundTripper
	}{{"base", base}, {"none", resilient.NewTransport(base)}, {"limits", limitedTransport()}} {
		b.Run(tt.name, func(b *testing.B) {
			req := get(b)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = tt.transport.RoundTrip(req)
			}
		})
	}
}
