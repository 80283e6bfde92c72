// Quickstart shows a resilient.Transport with each documented error of an API. It
// prints the attempts and waits, the reason for the end of each call, and the
// caller's result. Then it shows how a limit that the API does not advertise is found
// and kept to, and how it is told from refusals by chance.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -url https://api.example.com/v1/things -key "$KEY"
//
// Without flags it calls the small API in server.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/resilienthttp/resilient"
)

func main() {
	target := flag.String("url", "", "make one GET of this `URL` instead of the tour of the embedded API")
	key := flag.String("key", "", "API `key` for -url, sent as a Bearer token and never printed")
	flag.Parse()
	p := printer{out: os.Stdout, secret: *key}
	if err := run(context.Background(), p, *target, *key); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", p.clean(err.Error()))
		os.Exit(1)
	}
}

func run(ctx context.Context, p printer, target, key string) error {
	if target == "" && key != "" {
		return errors.New("-key needs -url: the embedded API has keys of its own")
	}
	// The one line that makes a client resilient.
	client := &http.Client{Transport: resilient.NewTransport(nil)}
	defer client.CloseIdleConnections()
	if target != "" {
		p.header("one GET of a real API")
		return p.show(ctx, client, call{method: http.MethodGet, url: target, key: key})
	}
	return tour(ctx, p, client)
}

// call is one request of the tour.
type call struct {
	about  string // the point of the call
	method string
	url    string
	body   string
	key    string
	opts   []resilient.Option // for this call only
}

func tour(ctx context.Context, p printer, client *http.Client) (err error) {
	base, stop, err := startAPI(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	p.header("a tour of the errors of a people-counting API, served by this program")
	for _, c := range calls() {
		c.url = base + c.url
		if err := p.show(ctx, client, c); err != nil {
			return err
		}
	}
	return p.limits(ctx, base)
}

func calls() []call {
	const visit = `{"sensor":"door","count":3}`
	twice := []resilient.Option{resilient.WithMaxAttempts(2)}
	return []call{
		{"a GET that meets a server error is sent again", "GET", "/v1/sensors/door/visitors", "", goodKey, nil},
		{"429 with Retry-After: 1, so the wait is at least 1 s", "GET", "/v1/sensors/garden/visitors", "", goodKey, nil},
		{"429 without Retry-After, until the attempts are used up", "GET", "/v1/sensors/roof/visitors", "", goodKey, twice},
		{"a POST that meets a server error may have been processed", "POST", "/v1/visits", visit, goodKey, nil},
		{"a POST that meets 429 was not processed, so it is sent again", "POST", "/v1/visits", visit, goodKey, nil},
		{"a wrong parameter", "GET", "/v1/sensors/door/visitors?limit=1000", "", goodKey, nil},
		{"an unpaid account", "GET", "/v1/sensors/door/visitors", "", unpaidKey, nil},
		{"a wrong key", "GET", "/v1/sensors/door/visitors", "", "wrong", nil},
		{"no such sensor", "GET", "/v1/sensors/attic/visitors", "", goodKey, nil},
	}
}

// show makes one call and prints its events as they happen.
func (p printer) show(ctx context.Context, client *http.Client, c call) error {
	// The deadline limits all attempts and waits together. A wait that would outlast
	// it is not begun.
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	opts := append([]resilient.Option{resilient.WithTrace(p.trace())}, c.opts...)
	req, err := c.request(resilient.ContextWithOptions(ctx, opts...))
	if err != nil {
		return withoutURL(err)
	}
	p.title(req, c.about)
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no response: %w", withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }() // it was read, so the error does not matter
	return p.result(resp)
}

func (c call) request(ctx context.Context) (*http.Request, error) {
	// With a strings.Reader, http.NewRequest sets GetBody, which a retry needs.
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, strings.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	if c.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	return req, nil
}

// withoutURL removes the *url.Error of net/http, whose text contains the query.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// printer prints to out, but never prints the secret.
type printer struct {
	out    io.Writer
	secret string
}

// line prints one row. The caller has already cleaned untrusted text.
func (p printer) line(label, format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, "   %-10s %s\n", label, fmt.Sprintf(format, args...)) // an error means that stdout is closed
}

func (p printer) header(text string) {
	_, _ = fmt.Fprintf(p.out, "resilient quickstart: %s.\n", text)
	p.line("attempt", "a request on the wire: the status, and the verdict on it")
	p.line("wait", "before the next attempt: its duration and its reason")
	p.line("end", "why there was no further attempt")
	p.line("got", "the caller's result -> a possible reaction")
	p.line("found", "what the Transport believes of the API's limits")
}

func (p printer) title(req *http.Request, about string) {
	text := req.Method + " " + req.URL.Host + req.URL.EscapedPath() // the query of -url may contain a key
	if about != "" {
		text = req.Method + " " + req.URL.RequestURI() + " : " + about
	}
	p.section(text)
}

// section begins what follows with a title.
func (p printer) section(title string) { _, _ = fmt.Fprintf(p.out, "\n%s\n", p.clean(title)) }

// trace returns hooks that print the attempts, the waits and the end of a call.
func (p printer) trace() *resilient.Trace {
	return &resilient.Trace{
		AttemptDone: func(a resilient.AttemptInfo) {
			label := fmt.Sprintf("attempt %d", a.Attempt)
			if a.Err != nil {
				p.line(label, "---  %s: %s", a.Verdict.Reason, p.clean(a.Err.Error()))
				return
			}
			p.line(label, "%d  %s", a.StatusCode, a.Verdict.Reason)
		},
		Wait: func(w resilient.WaitInfo) {
			p.line("wait", "%v, %s", w.Duration.Round(time.Millisecond), w.Reason)
		},
		Done: func(d resilient.DoneInfo) {
			p.line("end", "%s, attempts made: %d, in %v", d.Reason, d.Attempts, d.Duration.Round(100*time.Microsecond))
		},
	}
}

// result prints the parsed error object, or the body of a success.
func (p printer) result(resp *http.Response) error {
	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
		p.line("got", "%d  %s %q -> %s",
			apiErr.StatusCode, p.clean(apiErr.Type), p.clean(apiErr.Message), remedy(apiErr))
		for _, param := range apiErr.Invalid {
			p.line("", "     invalid %s: %q", p.clean(param.Name), p.clean(param.Reason))
		}
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	p.line("got", "%d  %s", resp.StatusCode, p.clean(string(body)))
	return nil
}

// remedy returns a possible reaction to an error. An *APIError matches the sentinel
// of its kind, even if it is wrapped.
func remedy(err error) string {
	switch {
	case errors.Is(err, resilient.ErrInvalidRequest):
		return "fix the request"
	case errors.Is(err, resilient.ErrPaymentRequired):
		return "settle the account"
	case errors.Is(err, resilient.ErrAuthentication):
		return "check the key"
	case errors.Is(err, resilient.ErrNotFound):
		return "check the name"
	case errors.Is(err, resilient.ErrRateLimit):
		return "come back later"
	case errors.Is(err, resilient.ErrServer):
		return "check whether it was processed"
	}
	return "ask for help"
}

// clean prepares untrusted text for printing. The result is one line of bounded
// length, without the secret, which a server might repeat.
func (p printer) clean(s string) string {
	if p.secret != "" {
		s = strings.ReplaceAll(s, p.secret, "(key)") // before anything is cut off
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	const limit = 300
	if r := []rune(s); len(r) > limit {
		return string(r[:limit]) + "..."
	}
	return s
}
