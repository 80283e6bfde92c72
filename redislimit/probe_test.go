package redislimit_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

// chanceAPI refuses by chance, and beyond a bucket.
type chanceAPI struct {
	mu           sync.Mutex
	rnd          *rand.Rand
	chance       float64
	bucket       *rate.Limiter
	way, service time.Duration
	jitter       time.Duration
	hint         string
	good, bad    []time.Time
}

func (a *chanceAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	j := time.Duration(0)
	if a.jitter > 0 {
		j = time.Duration(a.rnd.Int64N(int64(a.jitter)))
	}
	a.mu.Unlock()
	time.Sleep(a.way/2 + j)
	a.mu.Lock()
	now := time.Now()
	ok := a.rnd.Float64() >= a.chance && (a.bucket == nil || a.bucket.AllowN(now, 1))
	resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}
	if ok {
		a.good = append(a.good, now)
	} else {
		a.bad = append(a.bad, now)
		resp.StatusCode = 429
		resp.Body = io.NopCloser(strings.NewReader(`{}`))
		if a.hint != "" {
			resp.Header.Set("Retry-After", a.hint)
		}
	}
	a.mu.Unlock()
	if ok {
		time.Sleep(a.service)
	}
	time.Sleep(a.way / 2)
	return resp, nil
}

func countIn(ts []time.Time, from, to time.Time) (n int) {
	for _, t := range ts {
		if !t.Before(from) && t.Before(to) {
			n++
		}
	}
	return n
}

type scen struct {
	name         string
	R, L         float64
	B, SB        int
	chance       float64
	procs, work  int
	way, service time.Duration
	jitter       time.Duration
	hint         string
	attempts     int
	redis        time.Duration
	secs         int
	lateL        bool
}

func runScen(t *testing.T, s scen, seed uint64) string {
	var out string
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		n.delay.Store(int64(s.redis / 2))
		api := &chanceAPI{rnd: rand.New(rand.NewPCG(seed, 1)), chance: s.chance, way: s.way, service: s.service, jitter: s.jitter, hint: s.hint}
		if s.L > 0 {
			api.bucket = rate.NewLimiter(rate.Limit(s.L), s.SB)
		}
		if s.lateL {
			api.bucket.SetLimitAt(time.Now(), rate.Inf)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		log, logged := logger()
		var ls []*redislimit.Limiter
		start := time.Now()
		for range s.procs {
			l := redislimit.New(n.client(), "k", rate.Limit(s.R), s.B, redislimit.WithLogger(log))
			ls = append(ls, l)
			at := s.attempts
			if at == 0 {
				at = 1
			}
			client := &http.Client{Transport: resilient.NewTransport(api, resilient.WithLimiter(l), resilient.WithMaxAttempts(at))}
			for range s.work {
				wg.Go(func() {
					for ctx.Err() == nil {
						req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.example/", http.NoBody)
						if resp, err := client.Do(req); err == nil {
							resp.Body.Close()
						}
					}
				})
			}
		}
		if s.lateL {
			time.Sleep(20 * time.Second)
			api.mu.Lock()
			api.bucket.SetLimitAt(time.Now(), rate.Limit(s.L))
			api.mu.Unlock()
			start = time.Now()
		}
		if s.secs == 0 {
			s.secs = 20
		}
		for k := range s.secs * 5 {
			time.Sleep(200 * ms)
			if os.Getenv("TRACE") != "" {
				v, _ := n.Get("resilient:limit:k")
				fmt.Println(float64(k)*.2, v)
			}
		}
		lim := s.R
		if s.L > 0 && s.L < lim {
			lim = s.L
		}
		var calls uint64
		for _, l := range ls {
			calls += l.Stats().Calls
		}
		end := time.Now()
		// found: the first second from which on the refused part of sent is below 10% + chance in each 200ms with traffic
		found := -1.0
		if s.L > 0 {
			for k := s.secs*5 - 1; k >= 0; k-- {
				f, u := start.Add(time.Duration(k)*200*ms), start.Add(time.Duration(k+1)*200*ms)
				g, b := countIn(api.good, f, u), countIn(api.bad, f, u)
				if float64(b) > float64(g+b)*(s.chance+.15)+3 {
					found = float64(k+1) * .2
					break
				}
			}
		}
		sent := func(a, b float64) (g, bad float64) {
			f, u := start.Add(time.Duration(a*1e9)), start.Add(time.Duration(b*1e9))
			return float64(countIn(api.good, f, u)), float64(countIn(api.bad, f, u))
		}
		var sb strings.Builder
		g, b := sent(0, float64(s.secs))
		fmt.Fprintf(&sb, "sent %.3f good %.3f of limit; ", (g+b)/float64(s.secs)/lim, g/float64(s.secs)/lim)
		g, b = sent(float64(s.secs)/2, float64(s.secs))
		fmt.Fprintf(&sb, "2nd half good %.3f refused/good %.4f; ", g/(float64(s.secs)/2)/lim, b/max(g, 1))
		for _, x := range []float64{.25, .5, 1, 2, 5} {
			_, b := sent(0, x)
			fmt.Fprintf(&sb, "bad<%gs %.0f ", x, b)
		}
		fmt.Fprintf(&sb, "found %.1f learned %.1f log %d calls/sent %.2f", found, ls[0].Stats().LearnedLimit, strings.Count(logged(), "\n"), float64(calls)/float64(len(api.good)+len(api.bad)))
		_ = end
		out = sb.String()
		cancel()
		wg.Wait()
	})
	return out
}

var scens = []scen{
	{name: "chance5 1p", R: 400, B: 10, chance: .05, procs: 1, work: 32, way: 20 * ms},
	{name: "chance5 4p", R: 400, B: 10, chance: .05, procs: 4, work: 8, way: 20 * ms},
	{name: "chance5 4p slow ok", R: 400, B: 10, chance: .05, procs: 4, work: 16, way: 5 * ms, service: 45 * ms},
	{name: "chance1 4p", R: 400, B: 10, chance: .01, procs: 4, work: 8, way: 20 * ms},
	{name: "chance20 4p", R: 400, B: 10, chance: .2, procs: 4, work: 8, way: 20 * ms},
	{name: "chance20 1p slow ok", R: 400, B: 10, chance: .2, procs: 1, work: 64, way: 5 * ms, service: 45 * ms},
	{name: "chance5 50/s", R: 50, B: 5, chance: .05, procs: 4, work: 8, way: 20 * ms},
	{name: "chance5 2000/s", R: 2000, B: 50, chance: .05, procs: 4, work: 64, way: 20 * ms, secs: 10},
	{name: "chance5 100ms", R: 400, B: 10, chance: .05, procs: 4, work: 32, way: 100 * ms},
	{name: "chance5 hint", R: 400, B: 10, chance: .05, procs: 4, work: 8, way: 20 * ms, hint: "1"},
	{name: "limit100 1p", R: 400, L: 100, B: 10, SB: 10, procs: 1, work: 32, way: 20 * ms},
	{name: "limit100 4p", R: 400, L: 100, B: 10, SB: 10, procs: 4, work: 8, way: 20 * ms},
	{name: "limit200 4p", R: 400, L: 200, B: 10, SB: 10, procs: 4, work: 8, way: 20 * ms},
	{name: "limit360 4p", R: 400, L: 360, B: 10, SB: 10, procs: 4, work: 8, way: 20 * ms},
	{name: "limit40 4p", R: 400, L: 40, B: 10, SB: 10, procs: 4, work: 8, way: 20 * ms},
	{name: "limit100 4p 100ms", R: 400, L: 100, B: 10, SB: 10, procs: 4, work: 32, way: 100 * ms},
	{name: "limit200 4p 5ms", R: 400, L: 200, B: 10, SB: 10, procs: 4, work: 8, way: 5 * ms},
	{name: "limit200 4p slow ok", R: 400, L: 200, B: 10, SB: 10, procs: 4, work: 16, way: 5 * ms, service: 45 * ms},
	{name: "limit1000 2000/s", R: 2000, L: 1000, B: 50, SB: 50, procs: 4, work: 64, way: 20 * ms, secs: 10},
	{name: "limit1800 2000/s", R: 2000, L: 1800, B: 50, SB: 50, procs: 4, work: 64, way: 20 * ms, secs: 10, jitter: 2 * ms},
	{name: "limit25 50/s", R: 50, L: 25, B: 5, SB: 5, procs: 4, work: 8, way: 20 * ms},
	{name: "limit5 50/s", R: 50, L: 5, B: 5, SB: 5, procs: 4, work: 8, way: 20 * ms, secs: 60},
	{name: "limit100 hint 4p", R: 400, L: 100, B: 10, SB: 10, procs: 4, work: 8, way: 20 * ms, hint: "1", secs: 40},
	{name: "limit100 hint 1p", R: 400, L: 100, B: 10, SB: 10, procs: 1, work: 32, way: 20 * ms, hint: "1", secs: 40},
	{name: "limit100 4p far redis", R: 400, L: 100, B: 10, SB: 10, procs: 4, work: 16, way: 20 * ms, redis: 20 * ms},
	{name: "chance5 far redis", R: 400, B: 10, chance: .05, procs: 4, work: 32, way: 20 * ms, redis: 20 * ms},
	{name: "limit5 of 10, 4 single", R: 10, L: 5, B: 1, SB: 1, procs: 4, work: 1, way: 20 * ms, secs: 60},
	{name: "chance5 then limit200", R: 400, L: 200, B: 10, SB: 10, chance: .05, procs: 4, work: 8, way: 20 * ms, lateL: true, secs: 60},
	{name: "chance5 and limit200", R: 400, L: 200, B: 10, SB: 10, chance: .05, procs: 4, work: 8, way: 20 * ms, secs: 60},
	{name: "chance2 and limit100", R: 400, L: 100, B: 10, SB: 10, chance: .02, procs: 4, work: 8, way: 20 * ms, secs: 60},
	{name: "chance20 and limit100", R: 400, L: 100, B: 10, SB: 10, chance: .2, procs: 4, work: 8, way: 20 * ms, secs: 60},
	{name: "equal limit jitter", R: 400, L: 400, B: 10, SB: 10, procs: 4, work: 8, way: 20 * ms, jitter: 20 * ms, secs: 20},
	{name: "chance5 4 attempts", R: 400, B: 10, chance: .05, procs: 4, work: 32, way: 20 * ms, attempts: 4},
	{name: "limit100 4 attempts", R: 400, L: 100, B: 10, SB: 10, procs: 4, work: 32, way: 20 * ms, attempts: 4},
	{name: "chance40 4p", R: 400, B: 10, chance: .4, procs: 4, work: 8, way: 20 * ms, secs: 60},
}

func TestProbe(t *testing.T) {
	seeds, _ := strconv.Atoi(os.Getenv("SEEDS"))
	seeds = max(seeds, 1)
	for _, s := range scens {
		if f := os.Getenv("ONLY"); f != "" && !strings.Contains(s.name, f) {
			continue
		}
		for seed := range seeds {
			fmt.Printf("%-24s %s\n", s.name, runScen(t, s, uint64(seed)))
		}
	}
}
