// Backfill sends the requests of a JSONL file to an API that limits requests and tokens a
// minute, and writes the results to another one, as fast as the limits allow and without
// being refused. It can be stopped at any time: when it is started again it goes on
// with what is not in the results yet.
//
//	go run .                                        # 2,000 requests, to a small API in server.go
//	go run . -in requests.jsonl -out results.jsonl -url https://api.example.com/v1/chat/completions \
//		-key "$KEY" -requests 500 -tokens 30000     # to a real one, of that many a minute
//
// A line of the input is {"id":"a","body":{...}}, and one of the results {"id":"a",
// "status":200,"body":{...}}, in no order. A request that the API finds wrong is a
// result. One that fails in another way is not, and is sent when the program is
// started again.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
)

// config is what the flags say.
type config struct {
	in, out, url, key string
	requests, tokens  float64 // a minute
	workers           int
}

func main() {
	var c config
	flag.StringVar(&c.in, "in", "", "`file` with the requests; without it, 2,000 are made up")
	flag.StringVar(&c.out, "out", "results.jsonl", "`file` for the results")
	flag.StringVar(&c.url, "url", "", "`URL` to POST to; without it, a small API is served by this program")
	flag.StringVar(&c.key, "key", "", "API `key` for -url, sent as a Bearer token")
	flag.Float64Var(&c.requests, "requests", 12_000, "requests a minute")
	flag.Float64Var(&c.tokens, "tokens", 900_000, "tokens a minute")
	flag.IntVar(&c.workers, "workers", 64, "requests at one time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, c, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "backfill:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config, out, progress io.Writer) (err error) {
	if c.requests <= 0 || c.tokens <= 0 || c.workers <= 0 {
		return errors.New("-requests, -tokens and -workers must be above 0")
	}
	all, err := readInput(c.in)
	if err != nil {
		return err
	}
	results, err := openResults(c.out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, results.Close()) }()
	if c.url == "" {
		api, stop, err := startAPI(ctx, c.requests, c.tokens)
		if err != nil {
			return err
		}
		defer stop()
		c.url = api
	}
	b := &backfill{config: c, results: results, report: newReport(c)}
	b.client = &http.Client{Transport: resilient.NewTransport(nil,
		resilient.WithRateLimit(rate.Limit(c.requests/60), burst(c.requests)),
		resilient.WithLimit("tokens", rate.Limit(c.tokens/60), burst(c.tokens), cost),
		resilient.WithMaxInFlight(c.workers),
		resilient.WithLearnedRate(false), // there is nothing to be found out: both limits are known
		resilient.WithAttemptTimeout(2*time.Minute),
		resilient.WithProfile(resilient.Profile{ // an answer that is made twice costs twice, and does no harm
			Repeatable: func(*http.Request) bool { return true },
		}),
		resilient.WithTrace(b.report.trace()))}
	defer b.client.CloseIdleConnections()

	todo := results.missing(all)
	fmt.Fprintf(out, "%d requests, %d of them done before\n", len(all), len(all)-len(todo))
	bar := progressbar.NewOptions(len(todo), progressbar.OptionSetWriter(progress), progressbar.OptionShowCount(),
		progressbar.OptionShowIts(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	b.sendAll(ctx, todo, func() { _ = bar.Add(1) })
	_ = bar.Finish()
	b.report.print(out)
	if left := len(results.missing(all)); left > 0 {
		return fmt.Errorf("%d requests are left: start it again to go on", left)
	}
	return nil
}

// burst returns how many of a limit are spent at once: what comes in a quarter of a
// second. Servers take more, but none says how much, and requests do not arrive at the
// intervals at which they were sent.
func burst(perMinute float64) int { return max(int(perMinute/240), 1) }

// cost estimates the tokens of a request: those of its prompt, at four bytes each, and
// those of the answer it asks for.
func cost(req *http.Request) float64 {
	if req.GetBody == nil {
		return 1
	}
	body, err := req.GetBody()
	if err != nil {
		return 1
	}
	defer func() { _ = body.Close() }()
	text, err := io.ReadAll(body)
	if err != nil {
		return 1
	}
	var asks struct {
		MaxTokens float64 `json:"max_tokens"`
	}
	_ = json.Unmarshal(text, &asks) // without it there is the prompt
	return float64(len(text))/4 + asks.MaxTokens
}

// backfill sends requests with a client.
type backfill struct {
	config

	client  *http.Client
	results *results
	report  *report
}

// sendAll sends all requests, and calls done after each.
func (b *backfill) sendAll(ctx context.Context, todo []request, done func()) {
	var wg sync.WaitGroup
	next := make(chan request)
	for range b.workers {
		wg.Go(func() {
			for r := range next {
				if err := b.send(ctx, r); err != nil {
					b.report.fail(err)
				}
				done()
			}
		})
	}
	for _, r := range todo {
		select {
		case next <- r:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
}

// send sends one request and writes its result.
func (b *backfill) send(ctx context.Context, r request) error {
	ctx = resilient.ContextWithOptions(ctx) // so that it can be settled
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url, bytes.NewReader(r.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if b.key != "" {
		req.Header.Set("Authorization", "Bearer "+b.key)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read, so the error does not matter
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	apiErr, failed := resilient.ErrorFromResponse(resp)
	if failed && apiErr.Kind != resilient.KindInvalidRequest {
		return apiErr // the next request would fail as well, or this one may succeed later
	}
	var answer struct {
		Usage struct {
			TotalTokens float64 `json:"total_tokens"`
		}
	}
	if err := json.Unmarshal(body, &answer); err == nil && answer.Usage.TotalTokens > 0 {
		resilient.Settle(ctx, "tokens", answer.Usage.TotalTokens)
		b.report.used(answer.Usage.TotalTokens)
	}
	return b.results.add(result{ID: r.ID, Status: resp.StatusCode, Body: body})
}

// report counts what happened.
type report struct {
	config

	begin                      time.Time
	answered, refused, retried atomic.Int64
	mu                         sync.Mutex
	tokens                     float64
	failed                     map[string]int // by the text of the error
}

func newReport(c config) *report {
	return &report{config: c, begin: time.Now(), failed: make(map[string]int)}
}

func (r *report) trace() *resilient.Trace {
	return &resilient.Trace{AttemptDone: func(a resilient.AttemptInfo) {
		switch {
		case errors.Is(a.APIError, resilient.ErrRateLimit):
			r.refused.Add(1)
		case a.APIError == nil && a.Err == nil:
			r.answered.Add(1)
		}
		if a.Attempt > 1 {
			r.retried.Add(1)
		}
	}}
}

func (r *report) used(tokens float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens += tokens
}

func (r *report) fail(err error) {
	if errors.Is(err, context.Canceled) {
		return // it was stopped
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed[err.Error()]++; len(r.failed) > 100 {
		delete(r.failed, err.Error())
		r.failed["others"]++
	}
}

// optimum returns how long it takes at least at these limits.
func (r *report) optimum() time.Duration {
	minutes := max(float64(r.answered.Load())/r.requests, r.tokens/r.config.tokens)
	return time.Duration(minutes * float64(time.Minute))
}

func (r *report) print(out io.Writer) {
	took := time.Since(r.begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := 0
	for _, n := range r.failed {
		failed += n
	}
	fmt.Fprintf(out, "%-10s %v\n", "time", took.Round(10*time.Millisecond))
	fmt.Fprintf(out, "%-10s %v, at these limits\n", "optimum", r.optimum().Round(10*time.Millisecond))
	fmt.Fprintf(out, "%-10s %d, with %.0f tokens\n", "answered", r.answered.Load(), r.tokens)
	fmt.Fprintf(out, "%-10s %d attempts, for the rate\n", "refused", r.refused.Load())
	fmt.Fprintf(out, "%-10s %d attempts\n", "retried", r.retried.Load())
	fmt.Fprintf(out, "%-10s %d requests\n", "failed", failed)
	for text, n := range r.failed {
		fmt.Fprintf(out, "           %d: %s\n", n, text)
	}
}
