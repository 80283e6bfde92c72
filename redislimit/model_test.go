package redislimit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient/internal/bucket"
	"github.com/resilienthttp/resilient/redislimit"
)

// words costs what another header says.
func words(req *http.Request) float64 {
	return tokens(&http.Request{Header: http.Header{"Tokens": req.Header["Words"]}})
}

func costing2(ctx context.Context, t, w float64) *http.Request {
	req := costing(ctx, fmt.Sprint(t))
	req.Header.Set("Words", fmt.Sprint(w))
	return req
}

// FuzzOneProcess: a process that is alone sends its requests at the instants of a single
// queue before buckets in its memory.
func FuzzOneProcess(f *testing.F) {
	f.Add(10.0, uint16(100), 3.0, uint16(20), []byte{10, 200, 30, 255, 3, 7, 90, 1, 2, 4, 250, 250, 9})
	f.Add(1000.0, uint16(1), 0.5, uint16(500), []byte{0, 255, 0, 255, 12, 13, 14, 15, 16, 17, 18, 19})
	f.Add(0.01, uint16(1), 1e6, uint16(1), []byte{100, 101, 102, 103})
	f.Fuzz(func(t *testing.T, rate1 float64, burst1 uint16, rate2 float64, burst2 uint16, ops []byte) {
		if !(rate1 >= 1e-3 && rate1 <= 1e6 && rate2 >= 1e-3 && rate2 <= 1e6) || burst1 == 0 || burst2 == 0 || len(ops) > 100 {
			t.Skip("tolerances are of this range")
		}
		synctest.Test(t, func(t *testing.T) {
			const requestRate, requestBurst = 20, 5
			n := newNetwork(t)
			l := redislimit.New(n.client(), "k", requestRate, requestBurst,
				redislimit.WithLimit("tokens", rate.Limit(rate1), int(burst1), tokens), redislimit.WithLimit("words", rate.Limit(rate2), int(burst2), words))
			start := time.Now()
			buckets := []*bucket.Bucket{
				bucket.New(requestRate, requestBurst), bucket.New(rate1, float64(burst1)), bucket.New(rate2, float64(burst2)),
			}
			goes := start
			var all []*waiting
			var want []time.Duration
			for i, op := range ops {
				if op%4 == 0 {
					time.Sleep(time.Duration(op) * 10 * ms)
					continue
				}
				costs := []float64{1, float64(burst1) * float64(op) / 200, float64(burst2) * float64(ops[(i+1)%len(ops)]/8) / 30}
				if now := time.Now(); now.After(goes) {
					goes = now
				}
				var held time.Duration
				for k, b := range buckets {
					held = max(held, b.Delay(goes, costs[k], 0))
				}
				goes = goes.Add(held)
				if goes.Sub(start) > time.Hour {
					t.Skip("nobody has such patience")
				}
				for k, b := range buckets {
					b.Take(goes, costs[k])
				}
				want = append(want, goes.Sub(start))
				all = append(all, wait(t.Context(), l.For(costing2(t.Context(), costs[1], costs[2])), start))
			}
			for i, w := range all {
				<-w.done
				require.NoError(t, w.err)
				// The script's clock counts microseconds, and the values thousandths of them.
				tolerance := 5*time.Microsecond*time.Duration(i+1) + want[i]/1e9
				require.InDelta(t, want[i], w.at, float64(tolerance), "request %d", i)
			}
		})
	})
}

// settling is called with the corrections of the first limit when Redis executes them.
// A server that hears of them at another time has another bucket: one of the two may be
// full then.
type settling func(more float64)

func (settling) DialHook(next redis.DialHook) redis.DialHook { return next }

func (settling) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (settled settling) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	const args, more = 3, 26 // the arguments of the script follow its keys
	return func(ctx context.Context, cmd redis.Cmder) error {
		if a := cmd.Args(); len(a) > args+more {
			n, err := strconv.ParseFloat(a[args+more].(string), 64)
			if err != nil {
				return err
			}
			if n != 0 {
				settled(n)
			}
		}
		return next(ctx, cmd)
	}
}

// TestUnitsKeepTheLimits sends what chance brings from several processes: requests of any
// cost, some of which give up, and which are settled for less or for more, late or never.
// A server with the same limits accepts all of them. In the end nothing is owed or missing.
func TestUnitsKeepTheLimits(t *testing.T) {
	for seed := range uint64(4) { // more of them take minutes with -race
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			n := newNetwork(t)
			settles := seed%2 == 1
			if !settles {
				n.delay.Store(int64(seed%4) * int64(ms) / 2)
			}
			const limit, burst = 1000, 500
			opts := []redislimit.Option{redislimit.WithLimit("tokens", limit, burst, tokens), redislimit.WithLimit("calls", 50, 25, nil)}
			var mu sync.Mutex
			server := []*bucket.Bucket{bucket.New(limit, burst), bucket.New(50, 25), bucket.New(100, 50)}
			// Requests go up to a microsecond early, by the rounding of the clock. With
			// corrections it is some milliseconds. A grant lies up to one ahead, units that
			// are given back meanwhile find room that is not there yet, and one of the two
			// buckets may be full while the other is not. A burst that is smaller by a
			// few percent, as the documentation advises, covers that.
			early := 3 * time.Microsecond
			if settles {
				early = burst / 20 * time.Second / limit
			}
			var fleet []*redislimit.Limiter
			for range 1 + seed%5 {
				client := n.client()
				if settles {
					client.AddHook(settling(func(more float64) {
						settle := func() {
							mu.Lock()
							defer mu.Unlock()
							server[0].Settle(time.Now(), more)
						}
						if more > 0 { // some requests may have been granted already
							time.AfterFunc(2*ms, settle)
							return
						}
						settle()
					}))
				}
				fleet = append(fleet, redislimit.New(client, "k", 100, 50, opts...))
			}
			var wg sync.WaitGroup
			sent, used := 0.0, 0.0
			start := time.Now()
			for range 300 {
				l, cost, patience := fleet[random.IntN(len(fleet))], float64(random.IntN(100)), time.Duration(0)
				switch random.IntN(20) {
				case 0:
					cost *= 8 // more than the burst, perhaps
				case 1:
					cost = 0
				case 2:
					if settles {
						break // what it gives back cannot be told from what is settled
					}
					patience = time.Duration(random.IntN(3000)) * ms
				}
				factor, late := random.Float64()*1.3, time.Duration(random.IntN(2000))*ms
				never := random.IntN(10) == 0 || !settles
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if patience > 0 {
						time.AfterFunc(patience, cancel)
					}
					r := l.For(costing(ctx, fmt.Sprint(cost)))
					if err := r.Wait(ctx); err != nil {
						return
					}
					mu.Lock()
					now := time.Now()
					for i, c := range []float64{cost, 1, 1} {
						if i == 0 && cost > burst {
							c = burst // a full bucket
						}
						if d := server[i].Delay(now, c, 0); d > early && d > now.Sub(start)/1e5 {
							t.Errorf("seed %d: limit %d of the server is exceeded by %v at %v", seed, i, d, now.Sub(start))
						}
					}
					for i, c := range []float64{cost, 1, 1} {
						server[i].Take(now, c)
					}
					sent++
					used += cost
					mu.Unlock()
					if never {
						return
					}
					time.Sleep(late)
					r.(settler).Settle("tokens", cost*factor)
					mu.Lock()
					used += cost * (factor - 1)
					mu.Unlock()
				})
				if random.IntN(3) > 0 {
					time.Sleep(time.Duration(random.IntN(60)) * ms)
				}
			}
			wg.Wait()
			took := time.Since(start).Seconds()
			require.GreaterOrEqual(t, sent, 250.0)
			require.LessOrEqual(t, used, burst+limit*took+2*limit, "those that are sent before they are settled for more")
			time.Sleep(20 * time.Second)
			require.NoError(t, fleet[0].For(costing(t.Context(), "0")).Wait(t.Context()))
			require.InDelta(t, burst, n.left(limit, burst, "tokens"), 1e-3)
			require.InDelta(t, 49, n.left(100, 50, "requests"), 1e-3)
			value, err := n.Get("resilient:limit:k")
			require.NoError(t, err)
			require.NotContains(t, value, "/", "nobody is waited for")
		})
	}
}
