// Fleet shows four processes with different loads that share the limit of one
// account through Redis:
//
//	cd examples/fleet && go run . [-redis localhost:6379] [-for 5s] [-shared=false]
//
// It starts an API with a limit on loopback, an embedded Redis unless -redis is set,
// and four processes of itself. With -shared=false each process has a bucket of its
// own, as large as the account's limit, and many requests are refused.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/redislimit"
)

// The account may send 50 requests a second, and 10 at once. The way from the
// limiter to the API takes a varying time, which uses up a part of the burst. So the
// fleet uses a smaller one.
const (
	limit      = 50
	burst      = 10
	fleetBurst = 1
)

// callers are the numbers of goroutines in each process. Each sends one request
// after another.
var callers = [...]int{20, 10, 4, 1} //nolint:gochecknoglobals // an array cannot be a constant

func main() {
	f := fleet{out: os.Stdout}
	flag.StringVar(&f.redis, "redis", "", "`address` of a Redis (default an embedded one)")
	flag.DurationVar(&f.duration, "for", 5*time.Second, "how long to run")
	flag.BoolVar(&f.shared, "shared", true, "share the limit")
	api := flag.String("api", "", "`URL` to call, for the processes of the fleet")
	name := flag.String("name", "", "name of a process, for the processes of the fleet")
	goroutines := flag.Int("callers", 0, "number of goroutines, for the processes of the fleet")
	flag.Parse()
	ctx := context.Background()
	var err error
	if *api != "" {
		err = f.work(ctx, *api, *name, *goroutines)
	} else {
		err = f.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

type fleet struct {
	redis    string
	duration time.Duration
	shared   bool
	out      io.Writer
}

// run starts the processes, and prints the numbers of their requests that were
// served and refused.
func (f *fleet) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.duration+30*time.Second)
	defer cancel()
	if f.redis == "" {
		m := miniredis.NewMiniRedis()
		if err := m.Start(); err != nil { // on loopback
			return err
		}
		defer m.Close()
		f.redis = m.Addr()
	}
	api := newAPI(limit, burst)
	defer api.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	errs := make([]error, len(callers))
	var wg sync.WaitGroup
	for i, n := range callers {
		wg.Go(func() {
			cmd := exec.CommandContext(ctx, self, "-redis", f.redis, "-for", f.duration.String(),
				"-shared="+strconv.FormatBool(f.shared), "-api", api.URL, "-name", name(i), "-callers", strconv.Itoa(n))
			cmd.Stderr = os.Stderr
			errs[i] = cmd.Run()
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.print(api)
}

func name(i int) string { return fmt.Sprintf("process-%d", i+1) }

func (f *fleet) print(api *api) error {
	total, refusals := 0, 0
	for i := range callers {
		served, refused := api.counts(name(i))
		total += served
		refusals += refused
	}
	table := tabwriter.NewWriter(f.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tcallers\tserved\trefused\tshare\t")
	for i, n := range callers {
		served, refused := api.counts(name(i))
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.0f %%\t\n", name(i), n, served, refused, 100*float64(served)/float64(max(total, 1)))
	}
	fmt.Fprintf(table, "fleet\t\t%d\t%d\t\t\n", total, refusals)
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(f.out, "\n%.1f requests a second were served, and the limit is %d.\n", float64(total)/f.duration.Seconds(), limit)
	return err
}

// work runs a process of the fleet.
func (f *fleet) work(ctx context.Context, api, name string, goroutines int) error {
	ctx, cancel := context.WithTimeout(ctx, f.duration)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: f.redis, ContextTimeoutEnabled: true, MaxRetries: -1})
	defer client.Close()
	opts := []resilient.Option{resilient.WithRateLimit(limit, fleetBurst)}
	if f.shared {
		limiter := redislimit.New(client, "fleet", rate.Limit(limit), fleetBurst,
			redislimit.WithFallback(redislimit.LocalShare(len(callers))))
		opts = []resilient.Option{resilient.WithLimiter(limiter)}
	}
	hc := &http.Client{Transport: resilient.NewTransport(nil, opts...)}
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for ctx.Err() == nil {
				call(ctx, hc, api, name)
			}
		})
	}
	wg.Wait()
	return nil
}

// call sends one request. It ignores the result, because the API counts the
// requests. The end of the run may cut off the last ones.
func call(ctx context.Context, hc *http.Client, api, name string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api, http.NoBody)
	if err != nil {
		return
	}
	req.Header.Set("User-Agent", name)
	resp, err := hc.Do(req)
	if err != nil {
		// The run ends before the turn of this request, so it was refused at once. A
		// new request would be refused at once too.
		if _, limited := errors.AsType[*resilient.LimitError](err); limited {
			<-ctx.Done()
		}
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}
