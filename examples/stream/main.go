// Stream reads the answers of a language model as they arrive, from a small API in
// server.go that speaks like Anthropic's: an error in place of an answer, a stream that
// falls silent, and one that breaks off. What can be asked again is asked again, and
// nothing that is cut short is taken for whole.
//
//	go run ./examples/stream
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "stream:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	base, stop, err := startAPI(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()

	client := &http.Client{Transport: resilient.NewTransport(nil,
		resilient.WithProfile(profile.Anthropic()),      // reads the events, and knows which POSTs may be sent twice
		resilient.WithIdleTimeout(500*time.Millisecond), // a real model may think for a minute
		resilient.WithAttemptTimeout(10*time.Second),    // until the headers
		resilient.WithTrace(&resilient.Trace{
			AttemptDone: func(a resilient.AttemptInfo) {
				fmt.Fprintf(out, "   attempt %d: %s\n", a.Attempt, outcome(a))
			},
			Body: func(b resilient.BodyInfo) {
				if b.StatusCode < 400 {
					fmt.Fprintf(out, "\n   body: %d bytes in %v, %s\n", b.Bytes, b.Duration.Round(10*time.Millisecond), ending(b))
				}
			},
		}))}
	defer client.CloseIdleConnections()
	for _, c := range conversations() {
		fmt.Fprintf(out, "\n%s\n", c.about)
		if err := ask(ctx, client, base, c.question, out); err != nil {
			fmt.Fprintf(out, "   the caller gets: %v\n", err)
		} else {
			fmt.Fprintln(out, "   the caller gets: the whole answer")
		}
	}
	return nil
}

// outcome says how an attempt ended.
func outcome(a resilient.AttemptInfo) string {
	switch {
	case a.Err != nil:
		return a.Err.Error()
	case a.APIError != nil:
		return a.APIError.Error()
	}
	return strconv.Itoa(a.StatusCode)
}

// ending says how a body ended.
func ending(b resilient.BodyInfo) string {
	if b.Err != nil {
		return b.Err.Error()
	}
	return "whole"
}

// ask prints the words of an answer as they arrive.
func ask(ctx context.Context, client *http.Client, base, question string, out io.Writer) error {
	body, err := json.Marshal(map[string]any{"stream": true, "messages": []any{map[string]string{"role": "user", "content": question}}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/messages", strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read, so the error does not matter
	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
		return apiErr
	}
	_, _ = fmt.Fprint(out, "   > ")
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var event struct {
			Delta struct{ Text string }
			Error *struct{ Type, Message string }
		}
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			return err
		}
		if event.Error != nil {
			return fmt.Errorf("%s: %s", event.Error.Type, event.Error.Message)
		}
		_, _ = fmt.Fprint(out, event.Delta.Text)
	}
	return lines.Err()
}
