// Dashboard shows a Transport on the page of package debugpage. 64 workers call an
// API on loopback with a limit that changes and is not advertised. Open the URL that
// the program prints, and watch how the learned limit follows:
//
//	go run ./examples/dashboard [-addr 127.0.0.1:6060] [-for 2m] [-step 20s]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/time/rate"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/debugpage"
)

const workers = 64

// limits are the limits of the API in order, in attempts a second.
var limits = [...]rate.Limit{100, 20, 200} //nolint:gochecknoglobals // an array cannot be a constant

func main() {
	d := dashboard{out: os.Stdout}
	flag.StringVar(&d.addr, "addr", "127.0.0.1:0", "`address` of the page, with port 0 for any free port")
	flag.DurationVar(&d.duration, "for", 2*time.Minute, "how long to run")
	flag.DurationVar(&d.step, "step", 20*time.Second, "duration of each limit of the API")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := d.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do
	}
}

type dashboard struct {
	out      io.Writer
	addr     string
	duration time.Duration
	step     time.Duration
}

func (d *dashboard) run(ctx context.Context) error {
	if d.step <= 0 || d.duration <= 0 {
		return errors.New("-for and -step must be above 0")
	}
	ctx, cancel := context.WithTimeout(ctx, d.duration)
	defer cancel()
	api := newAPI(limits[0])
	defer api.Close()
	base := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // this program does not replace it
	base.MaxIdleConnsPerHost = workers
	transport := resilient.NewTransport(base)
	defer transport.CloseIdleConnections()

	// The one line that mounts the page.
	mux := http.NewServeMux()
	mux.Handle("/debug/resilient", debugpage.Handler(transport))

	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", d.addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	fmt.Fprintf(d.out, "open http://%s/debug/resilient (until %s, or Ctrl-C)\n\n", ln.Addr(), time.Now().Add(d.duration).Format(time.TimeOnly))

	client := &http.Client{Transport: transport}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() { work(ctx, client, api.URL, i) })
	}
	d.watch(ctx, transport, api)
	wg.Wait()
	err = errors.Join(server.Close(), notClosed(<-served))
	if accepted, _ := api.counts(); accepted == 0 {
		err = errors.Join(err, errors.New("the API accepted nothing"))
	}
	return err
}

func notClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// work sends one request after another.
func work(ctx context.Context, client *http.Client, base string, worker int) {
	for n := 0; ctx.Err() == nil; n++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/v1/sensors/%d/visitors/%d", base, worker, n), http.NoBody)
		if err != nil {
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			continue // the page shows it
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// watch changes the limit of the API, and prints what is learned of it.
func (d *dashboard) watch(ctx context.Context, transport *resilient.Transport, api *api) {
	every := min(d.step/4, d.duration/4, 5*time.Second)
	ticker := time.NewTicker(max(every, time.Millisecond))
	defer ticker.Stop()
	table := tabwriter.NewWriter(d.out, 10, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "after\tlimit\taccepted/s\trefused/s\t  learned")
	begun := time.Now()
	last, lastServed, lastRefused := begun, int64(0), int64(0)
	limit := limits[0]
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		served, refused := api.counts()
		var learned []string
		for _, k := range transport.Snapshot().Keys {
			for _, l := range k.Limits {
				learned = append(learned, l.String())
			}
		}
		seconds := now.Sub(last).Seconds()
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.1f\t  %s\n", now.Sub(begun).Round(100*time.Millisecond), float64(limit),
			float64(served-lastServed)/seconds, float64(refused-lastRefused)/seconds, strings.Join(learned, "; "))
		_ = table.Flush() // an error means that stdout is closed
		last, lastServed, lastRefused = now, served, refused
		limit = limits[int(now.Sub(begun)/d.step)%len(limits)]
		api.setLimit(limit)
	}
}
