package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// conversation is a question and what becomes of the answers to it, the last one for
// ever.
type conversation struct {
	about, question string
	answers         []answer
}

func conversations() []conversation {
	return []conversation{
		{"An answer that comes as it should.", "hello", []answer{whole}},
		{"The model is overloaded, and says so in a stream with status 200. It is asked again.", "overload", []answer{overloaded, whole}},
		{"Nothing comes after the headers. It is asked again.", "silence", []answer{silent, whole}},
		{"The question is too long. To ask again would not help.", "too long", []answer{tooLong}},
		{"An answer falls silent in the middle. The caller has half of it, and is told.", "stall", []answer{stalls}},
		{"An answer ends without its last event. It would look like a whole one.", "cut", []answer{cut}},
		{"An error in the middle of an answer.", "breaks", []answer{fails}},
	}
}

// answer writes a stream.
type answer func(*events)

// events writes the events of a stream.
type events struct {
	w   http.ResponseWriter
	ctx context.Context //nolint:containedctx // of the request
}

func (e *events) send(name, data string) {
	_, _ = fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", name, data) // an error means that the client has gone
	_ = http.NewResponseController(e.w).Flush()
}

func (e *events) start() {
	e.send("message_start", `{"type":"message_start","message":{"role":"assistant","content":[]}}`)
	e.send("ping", `{"type":"ping"}`)
}

// words sends words, some a second.
func (e *events) words(text string) {
	for word := range strings.SplitAfterSeq(text, " ") {
		e.send("content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%q}}`, word))
		e.sleep(30 * time.Millisecond)
	}
}

func (e *events) fail(kind, message string) {
	e.send("error", fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":%q}}`, kind, message))
}

func (e *events) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.ctx.Done():
	}
}

const text = "Retry what can succeed, fail fast on what cannot, and say what happened."

func whole(e *events) {
	e.start()
	e.words(text)
	e.send("message_stop", `{"type":"message_stop"}`)
}

func overloaded(e *events) {
	e.start()
	e.fail("overloaded_error", "Overloaded")
}

func tooLong(e *events) {
	e.fail("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
}

func silent(e *events) { e.sleep(time.Minute) }

func stalls(e *events) {
	e.start()
	e.words(text[:36])
	e.sleep(time.Minute)
}

func cut(e *events) {
	e.start()
	e.words(text[:36])
}

func fails(e *events) {
	cut(e)
	e.fail("api_error", "Internal server error")
}

// api answers each question with its answers in turn.
type api struct {
	mu    sync.Mutex
	asked map[string]int
}

func (a *api) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err != nil {
		return
	}
	for _, c := range conversations() {
		if !strings.Contains(string(body), `"`+c.question+`"`) {
			continue
		}
		a.mu.Lock()
		n := min(a.asked[c.question], len(c.answers)-1)
		a.asked[c.question]++
		a.mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		c.answers[n](&events{w, req.Context()})
		return
	}
	http.NotFound(w, req)
}

// startAPI serves the API on a free port of the loopback address.
func startAPI(ctx context.Context) (base string, stop func() error, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	srv := &http.Server{Handler: &api{asked: map[string]int{}}, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	return "http://" + l.Addr().String(), func() error {
		err := srv.Close()
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
		return err
	}, nil
}
