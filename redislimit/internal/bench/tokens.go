//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/bucket"
	"github.com/resilienthttp/resilient/redislimit"
)

// The account has a limit of tokens and one of requests, as for models' APIs, but in
// seconds what those have in minutes. The tokens are scarcer.
const (
	tokensPerMinute   = 600_000
	tokenBurst        = 40_000
	requestsPerMinute = 600
	requestBurst      = 20

	// A request takes between the two, evenly spread.
	leastTokens = 200
	mostTokens  = 2200

	// fleetPart of the bursts is what the fleet uses, because a request spends a varying
	// time on its way to the API.
	fleetPart = 0.95

	// thinking is the time that the API takes for an answer, which tells the tokens used.
	thinking = 500 * time.Millisecond

	// longWait is the longest wait of a request for its turn.
	longWait = 10 * time.Minute
)

// tokenAPI enforces the limits, and counts what it is sent.
type tokenAPI struct {
	*httptest.Server

	mu       sync.Mutex
	tokens   *bucket.Bucket
	requests *bucket.Bucket
	accepted []string // the processes, in the order of their requests
	last     time.Time
	refused  int
}

func newTokenAPI() *tokenAPI {
	a := &tokenAPI{
		tokens:   bucket.New(tokensPerMinute/60, tokenBurst),
		requests: bucket.New(requestsPerMinute/60, requestBurst),
	}
	a.Server = httptest.NewServer(a) // on loopback
	return a
}

func (a *tokenAPI) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	used, err := strconv.ParseFloat(req.Header.Get("Use"), 64)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	now := time.Now()
	ok := a.tokens.Delay(now, used, 0) == 0 && a.requests.Delay(now, 1, 0) == 0
	if ok {
		a.tokens.Take(now, used)
		a.requests.Take(now, 1)
		a.accepted, a.last = append(a.accepted, req.Header.Get("Process")), now
	} else {
		a.refused++
	}
	a.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	time.Sleep(thinking)
	w.Header().Set("Used", req.Header.Get("Use"))
}

// tokenLoad is the work of a process: requests of so many tokens.
type tokenLoad struct {
	Process string
	Guess   float64 // the cost of a request is estimated at so many times what it takes
	Uses    []int
}

// runTokens measures fleets that share the limits of an account. missed says which
// expected figures redislimit misses.
func runTokens(base load, duration time.Duration, calls func() (int64, error), flush func() error) (missed, err error) {
	fmt.Fprintf(os.Stdout, "\nprocesses share %d tokens and %d requests a minute (%d and %d at once) for work of %v, with requests of %d to %d tokens\n",
		tokensPerMinute, requestsPerMinute, tokenBurst, requestBurst, duration, leastTokens, mostTokens)
	table := newTable("processes\tcosts\trequests\ts\toptimum s\tratio\trefused\tfailed\tJain\tround trips/request\t")
	for _, guess := range []float64{1, 3} {
		for _, processes := range []int{1, 4, 10} {
			if err := flush(); err != nil {
				return nil, err
			}
			f, err := measureTokens(base, processes, guess, duration, calls)
			if err != nil {
				return nil, err
			}
			costs := "exact"
			if guess != 1 {
				costs = fmt.Sprintf("guessed %vfold, settled", guess)
			}
			fmt.Fprintf(table, "%d\t%s\t%d\t%.1f\t%.1f\t%.3f\t%d\t%d\t%.3f\t%.2f\t\n", processes, costs, f.requests,
				f.took.Seconds(), f.optimum.Seconds(), f.ratio(), f.refused, f.failed, f.jain, f.calls)
			missed = errors.Join(missed, f.expect(fmt.Sprintf("%d processes, %s", processes, costs)))
		}
	}
	return missed, table.Flush()
}

// tokenFigures are a row of the table.
type tokenFigures struct {
	requests      int
	took, optimum time.Duration
	refused       int
	failed        int
	jain          float64 // of the requests of the processes that had to wait
	calls         float64 // to Redis, for each request
}

func (f *tokenFigures) ratio() float64 { return f.took.Seconds() / f.optimum.Seconds() }

// expect returns an error that names the expected figures that f misses.
func (f *tokenFigures) expect(row string) error {
	var missed error
	if f.ratio() > 1.05 {
		missed = errors.Join(missed, fmt.Errorf("%s: it took %.3f of the optimum, not 1.05", row, f.ratio()))
	}
	if f.refused > 0 || f.failed > 0 {
		missed = errors.Join(missed, fmt.Errorf("%s: %d are refused, and %d failed", row, f.refused, f.failed))
	}
	if f.jain < 0.98 {
		missed = errors.Join(missed, fmt.Errorf("%s: Jain's index is %.3f, not 0.98", row, f.jain))
	}
	return missed
}

func measureTokens(base load, processes int, guess float64, duration time.Duration, calls func() (int64, error)) (f tokenFigures, err error) {
	a := newTokenAPI()
	defer a.Close()
	base.API = a.URL
	base.Start = time.Now().Add(time.Second)
	base.End = base.Start.Add(2*duration + 10*time.Second)
	loads := make([]load, processes)
	for i := range loads {
		loads[i] = base
		loads[i].Goroutines = 40 / processes * (1 + i%3) // uneven
		loads[i].Tokens = &tokenLoad{Process: strconv.Itoa(i), Guess: guess}
	}
	random := rand.New(rand.NewPCG(1, 2))
	sum := 0
	for sum < int(duration.Seconds()*tokensPerMinute/60) {
		for i := range loads {
			n := leastTokens + random.IntN(mostTokens-leastTokens+1)
			loads[i].Tokens.Uses = append(loads[i].Tokens.Uses, n)
			sum += n
			f.requests++
		}
	}
	f.optimum = time.Duration(max(
		float64(sum-tokenBurst)/tokensPerMinute, float64(f.requests-requestBurst)/requestsPerMinute) * float64(time.Minute))
	before, err := calls()
	if err != nil {
		return f, err
	}
	reports, err := measureAll(loads)
	if err != nil {
		return f, err
	}
	after, err := calls()
	if err != nil {
		return f, err
	}
	for _, r := range reports {
		f.failed += r.Failed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f.took, f.refused = a.last.Sub(base.Start), a.refused
	f.calls = float64(after-before) / float64(f.requests)
	// At first those go at once that ask first, and in the end the queues run empty.
	counts := make(map[string]float64)
	atOnce := 2 * tokenBurst / (leastTokens + mostTokens)
	for _, p := range a.accepted[min(atOnce, len(a.accepted)):max(len(a.accepted)*2/3, min(atOnce, len(a.accepted)))] {
		counts[p]++
	}
	var total, squares float64
	for _, n := range counts {
		total += n
		squares += n * n
	}
	f.jain = total * total / (float64(processes) * max(squares, 1))
	return f, nil
}

// workTokens runs a process.
func workTokens(l load, client redis.UniversalClient) report {
	limiter := redislimit.New(client, "bench", requestsPerMinute/60.0, int(requestBurst*fleetPart),
		redislimit.WithTimeout(5*time.Second), // a busy machine is no failure here
		redislimit.WithLimit("tokens", rate.Limit(tokensPerMinute/60), int(tokenBurst*fleetPart), func(req *http.Request) float64 {
			n, err := strconv.ParseFloat(req.Header.Get("Use"), 64)
			if err != nil {
				panic(err)
			}
			return n * l.Tokens.Guess
		}))
	base := &http.Transport{MaxIdleConnsPerHost: l.Goroutines}
	defer base.CloseIdleConnections()
	httpClient := &http.Client{Transport: resilient.NewTransport(base, resilient.WithLimiter(limiter), resilient.WithMaxWait(longWait))}
	uses := make(chan int, len(l.Tokens.Uses))
	for _, n := range l.Tokens.Uses {
		uses <- n
	}
	close(uses)
	ctx, cancel := context.WithCancel(context.Background()) // no deadline, because the limiter would know that in advance
	defer cancel()
	defer time.AfterFunc(time.Until(l.End), cancel).Stop()
	var mu sync.Mutex
	var r report
	var wg sync.WaitGroup
	time.Sleep(time.Until(l.Start))
	for range l.Goroutines {
		wg.Go(func() {
			for n := range uses {
				if err := callTokens(ctx, httpClient, l, n); err != nil {
					mu.Lock()
					r.Failed++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return r
}

// callTokens sends one request, and settles its cost.
func callTokens(ctx context.Context, client *http.Client, l load, n int) error {
	ctx = resilient.ContextWithOptions(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.API, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Use", strconv.Itoa(n))
	req.Header.Set("Process", l.Tokens.Process)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if l.Tokens.Guess == 1 {
		return nil
	}
	used, err := strconv.ParseFloat(resp.Header.Get("Used"), 64)
	if err != nil {
		return err
	}
	resilient.Settle(ctx, "tokens", used)
	return nil
}
