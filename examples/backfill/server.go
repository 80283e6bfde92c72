package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// api answers prompts, within a limit of requests and one of tokens. It refuses what is
// beyond, and fails now and then.
type api struct {
	requests, tokens *rate.Limiter
}

func (a *api) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 1<<20))
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", "the body cannot be read")
		return
	}
	var asks struct {
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.Unmarshal(body, &asks); err != nil || asks.MaxTokens < 1 {
		fail(w, http.StatusBadRequest, "invalid_request_error", "max_tokens is missing")
		return
	}
	random := fnv.New32a()
	_, _ = random.Write(body)
	draw := int(random.Sum32() % 1000)
	// The answer is shorter than was asked for, which only the API knows.
	used := len(body)/4 + asks.MaxTokens*(200+draw)/1200
	now := time.Now()
	if !a.requests.AllowN(now, 1) {
		fail(w, http.StatusTooManyRequests, "rate_limit_error", "too many requests a minute")
		return
	}
	if !a.tokens.AllowN(now, used) {
		fail(w, http.StatusTooManyRequests, "rate_limit_error", "too many tokens a minute")
		return
	}
	timer := time.NewTimer(time.Duration(50+draw/5) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-req.Context().Done():
		return
	}
	if now.UnixNano()%200 == 0 {
		fail(w, http.StatusInternalServerError, "server_error", "the model has stumbled")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"answer":"%d words","usage":{"total_tokens":%d}}`, draw, used) // an error means that the client has gone
}

func fail(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"code":"%d","type":%q,"message":%q}`, status, kind, message) // as above
}

// startAPI serves the API on a free port of the loopback address.
func startAPI(ctx context.Context, requests, tokens float64) (url string, stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: &api{
		requests: rate.NewLimiter(rate.Limit(requests/60), max(int(requests/60), 1)),
		tokens:   rate.NewLimiter(rate.Limit(tokens/60), max(int(tokens/60), 1)),
	}}
	go func() { _ = srv.Serve(l) }()
	return "http://" + l.Addr().String() + "/v1/answers", func() { _ = srv.Close() }, nil
}
