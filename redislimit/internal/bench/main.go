//go:build unix

// Bench measures the costs of sharing a limit through Redis, with redislimit and
// with its peers, in one run:
//
//	cd redislimit/internal/bench && go run . [-for 20s] [-only limits|fleet|tokens] [-check]
//
// It starts its own redis-server, and some worker processes for each row of a
// table. For the first table the goroutines of the workers wait for the limiter
// again and again. For the second table the workers are a fleet that calls an API
// with a limit, see fleet.go. For the third table the API has a limit of tokens
// and one of requests, see tokens.go. With -check it fails if redislimit misses the
// expected figures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/resilienthttp/resilient/redislimit/internal/redistest"
)

// workerEnv is the environment variable with the load of a worker process.
const workerEnv = "REDISLIMIT_BENCH_LOAD"

// settle is the time at the beginning that is not counted, because of the burst and
// the first connections.
const settle = 2 * time.Second

// load is one row of the table.
type load struct {
	Limiter    string
	Limit      int
	Burst      int
	RTT        time.Duration
	Goroutines int
	Addr       string
	API        string        // the API of the fleet, see fleet.go
	Every      time.Duration // between two requests of a light process
	Tokens     *tokenLoad    // see tokens.go, or nil
	Start, End time.Time
}

// report is the result of a worker.
type report struct {
	Departures []int64         // as Unix time in nanoseconds
	Waits      []time.Duration // of each departure
	Calls      int64           // round trips after settle
	Failed     int
}

// figures are a row of the table, measured after settle.
type figures struct {
	rate     float64
	most     int // in one second
	calls    float64
	p50, p99 time.Duration
	failed   int
}

func main() {
	duration := flag.Duration("for", 20*time.Second, "duration of each row")
	processes := flag.Int("processes", 4, "processes that share the limit")
	goroutines := flag.Int("goroutines", 16, "goroutines of each")
	only := flag.String("only", "", "measure only one table: limits, fleet or tokens")
	check := flag.Bool("check", false, "fail if redislimit misses its figures")
	flag.Parse()
	var err error
	if text := os.Getenv(workerEnv); text != "" {
		err = work(text)
	} else {
		err = run(*duration, *processes, *goroutines, *only, *check)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(duration time.Duration, processes, goroutines int, only string, check bool) error {
	if duration <= 2*settle {
		return fmt.Errorf("-for must be longer than %v", 2*settle)
	}
	dir, err := os.MkdirTemp("", "redislimit-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := redistest.Start(dir)
	if err != nil {
		return err
	}
	defer server.Stop()
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()

	l := load{Goroutines: goroutines, Addr: server.Addr}
	flush := func() error { return client.FlushAll(context.Background()).Err() }
	var missed error
	if only == "" || only == "limits" {
		if missed, err = runLimits(l, processes, duration, flush); err != nil {
			return err
		}
	}
	if only == "" || only == "fleet" {
		misses, err := runFleet(l, duration, flush)
		if err != nil {
			return err
		}
		missed = errors.Join(missed, misses)
	}
	if only == "" || only == "tokens" {
		misses, err := runTokens(l, duration, func() (int64, error) { return scriptCalls(client) }, flush)
		if err != nil {
			return err
		}
		missed = errors.Join(missed, misses)
	}
	if check {
		return missed
	}
	return nil
}

// scriptCalls returns the number of calls of scripts so far.
func scriptCalls(client *redis.Client) (n int64, err error) {
	info, err := client.Info(context.Background(), "commandstats").Result()
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(info) {
		for _, command := range []string{"eval", "evalsha"} {
			var calls int64
			if _, err := fmt.Sscanf(line, "cmdstat_"+command+":calls=%d", &calls); err == nil {
				n += calls
			}
		}
	}
	return n, nil
}

// limiters returns the names of the limiters that are compared.
func limiters() []string { return []string{"redislimit", "redis_rate", "throttled"} }

// runLimits measures processes whose goroutines wait again and again. missed says
// which expected figures redislimit misses.
func runLimits(base load, processes int, duration time.Duration, flush func() error) (missed, err error) {
	fmt.Fprintf(os.Stdout, "%d processes x %d goroutines, %v each, the first %v not counted\n", processes, base.Goroutines, duration, settle)
	table := newTable("limit/s\tRTT ms\tlimiter\trate/s\tmost in 1 s\tround trips/request\twait p50 ms\tp99 ms\t")
	for _, l := range []load{
		{Limit: 200, Burst: 20},
		{Limit: 2000, Burst: 200, RTT: 5 * time.Millisecond},
	} {
		l.Goroutines, l.Addr = base.Goroutines, base.Addr
		if l.RTT > 0 {
			if l.Addr, err = proxy(base.Addr, l.RTT); err != nil {
				return nil, err
			}
		}
		for _, l.Limiter = range limiters() {
			if err := flush(); err != nil {
				return nil, err
			}
			l.Start = time.Now().Add(time.Second)
			l.End = l.Start.Add(duration)
			f, err := measure(l, processes)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(table, "%d\t%d\t%s\t%.1f\t%d\t%.2f\t%.1f\t%.1f\t\n", l.Limit, l.RTT.Milliseconds(), l.Limiter,
				f.rate, f.most, f.calls, millis(f.p50), millis(f.p99))
			if l.Limiter == "redislimit" {
				missed = errors.Join(missed, expect(l, f))
			}
		}
	}
	return missed, table.Flush()
}

func newTable(head string) *tabwriter.Writer {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, head)
	return table
}

// expect returns an error that names the expected figures that f misses.
func expect(l load, f figures) error {
	var missed error
	within := func(name string, got, least, most float64) {
		if got < least || got > most {
			missed = errors.Join(missed, fmt.Errorf("%d/s: %s is %.3f, not %.3f to %.3f", l.Limit, name, got, least, most))
		}
	}
	limit := float64(l.Limit)
	within("rate", f.rate, 0.995*limit, 1.0005*limit)
	if l.RTT == 0 {
		within("most in 1 s", float64(f.most), limit, limit*1.01)
		within("round trips per request", f.calls, 0, 1.005) // 1.0, and some more at the edges
		within("p99 / p50", float64(f.p99)/float64(f.p50), 1, 1.02)
	} else {
		within("round trips per request", f.calls, 0, 0.3)
	}
	return missed
}

// measure runs the workers, and sums up their reports.
func measure(l load, processes int) (figures, error) {
	reports, err := measureAll(slices.Repeat([]load{l}, processes))
	if err != nil {
		return figures{}, err
	}
	f := sum(l, reports)
	if f.failed > 0 {
		return f, fmt.Errorf("%s: %d waits failed", l.Limiter, f.failed)
	}
	return f, nil
}

// measureAll runs a worker process for each load.
func measureAll(loads []load) ([]report, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(context.Background(), loads[0].End.Add(10*time.Second))
	defer cancel()
	reports := make([]report, len(loads))
	errs := make([]error, len(loads))
	var wg sync.WaitGroup
	for i, l := range loads {
		wg.Go(func() {
			text, err := json.Marshal(l)
			if err != nil {
				errs[i] = err
				return
			}
			cmd := exec.CommandContext(ctx, self)
			cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err == nil {
				err = json.Unmarshal(out, &reports[i])
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return reports, errors.Join(errs...)
}

func sum(l load, reports []report) figures {
	from, until := l.Start.Add(settle).UnixNano(), l.End.UnixNano()
	var departures []int64
	var waits []time.Duration
	var calls int64
	var f figures
	for _, r := range reports {
		f.failed += r.Failed
		calls += r.Calls
		for i, d := range r.Departures {
			if from <= d && d < until {
				departures = append(departures, d)
				waits = append(waits, r.Waits[i])
			}
		}
	}
	if len(departures) == 0 {
		return f
	}
	slices.Sort(departures)
	slices.Sort(waits)
	first := 0
	for i, d := range departures {
		for d-departures[first] >= int64(time.Second) {
			first++
		}
		f.most = max(f.most, i-first+1)
	}
	n := float64(len(departures))
	f.rate = n / time.Duration(until-from).Seconds()
	f.calls = float64(calls) / n
	f.p50, f.p99 = waits[len(waits)/2], waits[len(waits)*99/100]
	return f
}

// work runs a worker, which writes its report to standard output.
func work(text string) error {
	var l load
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{
		Addr: l.Addr, ContextTimeoutEnabled: true, MaxRetries: -1, PoolSize: l.Goroutines,
	})
	defer client.Close()
	var calls counter
	client.AddHook(&calls)
	if l.Tokens != nil {
		return json.NewEncoder(os.Stdout).Encode(workTokens(l, client))
	}
	limiter, err := limiter(l.Limiter, client, l.Limit, l.Burst)
	if err != nil {
		return err
	}
	if l.API != "" {
		return json.NewEncoder(os.Stdout).Encode(workFleet(l, limiter))
	}
	time.Sleep(time.Until(l.Start))
	var before int64
	settled := time.AfterFunc(settle, func() { before = calls.Load() })
	defer settled.Stop()

	ctx, cancel := context.WithDeadline(context.Background(), l.End.Add(5*time.Second))
	defer cancel()
	var mu sync.Mutex
	var r report
	var wg sync.WaitGroup
	var after int64
	for range l.Goroutines {
		wg.Go(func() {
			for {
				asked := time.Now()
				if !asked.Before(l.End) {
					return
				}
				err := limiter.Wait(ctx)
				went := time.Now()
				mu.Lock()
				if err != nil {
					r.Failed++
					mu.Unlock()
					continue
				}
				r.Departures = append(r.Departures, went.UnixNano())
				r.Waits = append(r.Waits, went.Sub(asked))
				if went.Before(l.End) {
					after = calls.Load()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.Calls = after - before
	return json.NewEncoder(os.Stdout).Encode(r)
}

// counter counts round trips.
type counter struct{ atomic.Int64 }

func (c *counter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.Add(1)
		return next(ctx, cmd)
	}
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.Add(1)
		return next(ctx, cmds)
	}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
