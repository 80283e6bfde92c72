// People prints the names of all people, page by page, with resilient.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/resilienthttp/resilient"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "people:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, api string, out io.Writer) error {
	client := &http.Client{Transport: resilient.NewTransport(nil,
		resilient.WithRateLimit(50, 5),
		resilient.WithAttemptTimeout(10*time.Second), // until the headers
		resilient.WithWholeBody(1<<20),               // a body that breaks off is fetched again
		resilient.WithStatusErrors(true),
	)}
	for page := 1; ; page++ {
		names, err := fetch(ctx, client, fmt.Sprintf("%s/people?page=%d", api, page))
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			fmt.Fprintln(out, name)
		}
	}
}

func fetch(ctx context.Context, client *http.Client, url string) (names []string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err // an error status too
	}
	defer func() { _ = resp.Body.Close() }()
	err = json.NewDecoder(resp.Body).Decode(&names)
	return names, err
}
