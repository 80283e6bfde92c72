// Command realservers measures the transport, and others that retry, against servers
// that were written elsewhere, over real sockets. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	length := flag.Duration("for", 10*time.Second, "how long each client is measured")
	servers := flag.String("servers", "", "comma-separated beginnings of the servers' names (default all)")
	columns := flag.String("clients", "", "comma-separated beginnings of the clients' names (default all)")
	file := flag.String("o", "", "`file` for the table, written anew after each server (default standard output)")
	abreast := flag.Int("parallel", 1, "clients measured at once, each with a server of its own")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := measureAll(ctx, choose(scenarios(), *servers, func(s scenario) string { return s.name }),
		choose(clients(), *columns, func(c client) string { return c.name }), *length, max(*abreast, 1), *file)
	stop()
	if err != nil {
		slog.Error("measuring failed", "error", err)
		os.Exit(1)
	}
}

// choose returns the elements of all whose name has one of the given beginnings.
func choose[T any](all []T, beginnings string, name func(T) string) []T {
	return slices.DeleteFunc(all, func(e T) bool {
		return !slices.ContainsFunc(strings.Split(beginnings, ","), func(b string) bool {
			return strings.HasPrefix(name(e), b)
		})
	})
}

// measureAll measures every client at every server. A server whose program is not
// installed is left out.
func measureAll(ctx context.Context, all []scenario, cs []client, length time.Duration, abreast int, file string) error {
	t := table{length: length}
	for _, s := range all {
		results, err := measureClients(ctx, s, cs, length, abreast)
		if errors.Is(err, exec.ErrNotFound) {
			slog.Warn("left out", "server", s.name, "error", err)
			t.missing = append(t.missing, s.name)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		for i := range s.loads { // the clients of a load are beside each other
			for _, r := range results {
				t.rows = append(t.rows, r[i])
				slog.Info(r[i].String())
			}
		}
		if file != "" {
			if err := os.WriteFile(file, []byte(t.markdown()), 0o666); err != nil {
				return err
			}
		}
	}
	if file == "" {
		fmt.Fprint(os.Stdout, t.markdown())
	}
	return nil
}

// measureClients returns the results in the order of the clients.
func measureClients(ctx context.Context, s scenario, cs []client, length time.Duration, abreast int) ([][]result, error) {
	results, errs := make([][]result, len(cs)), make([]error, len(cs))
	free := make(chan struct{}, abreast)
	var wg sync.WaitGroup
	for i, c := range cs {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			results[i], errs[i] = measure(ctx, s, c, length)
		})
	}
	wg.Wait()
	return results, errors.Join(errs...)
}
