package main

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cost is scenario f: the costs of a call, in real time. The peers take turns, and
// each figure is the median of the passes, relative to the bare base in the same
// pass.
func cost() scenario {
	p := defaults()
	p.attempts, p.backoff = 3, time.Nanosecond
	p.rate, p.burst = 1e9, 1<<30 // for the peers with a limiter
	calls := func(name, model string, metrics []metric, w workload) variant {
		return variant{name: name, model: model, params: p, metrics: metrics, together: w.measure}
	}
	return scenario{
		letter: "f",
		title:  "Cost",
		model: "Real time. Calls: one goroutine over a stub base, medians of passes in turns, without the cost of the bare base (f.retry: of sending three times). " +
			"Loopback: HTTP/1.1, 64 goroutines, share of the bare base's throughput just before and after.",
		variants: []variant{
			calls("f.get", "a GET that succeeds", []metric{
				atMost("time added", "ns", 150), atMost("bytes added", "n", 0), atMost("allocations added", "n", 0),
			}, workload{n: 20_000, newBase: newSuccesses, newRequest: newGet}),
			calls("f.post", "a POST of 1 MiB, with GetBody, that succeeds", []metric{
				atMost("time added", "ns", none()), atMost("bytes added", "n", 1<<16), atMost("allocations added", "n", none()),
			}, workload{n: 200, newBase: newSuccesses, newRequest: newPost}),
			calls("f.retry", "a GET that is answered 500, 500, 200; backoff of 1 ns, no budget", []metric{
				atMost("time added", "ns", none()), atMost("bytes added", "n", none()), atMost("allocations added", "n", none()),
				atMost("allocations / hand-written", "x", 2), atMost("time / hand-written", "x", 2),
			}, workload{n: 2_000, newBase: newFailures, newRequest: newGet, fails: true}),
			calls("f.404", "a GET that is answered 404 with an error object, which nobody reads", []metric{
				atMost("time added", "ns", 1_000), atMost("bytes added", "n", none()), atMost("allocations added", "n", 4),
			}, workload{n: 10_000, newBase: newErrors(http.StatusNotFound), newRequest: newGet, status: http.StatusNotFound}),
			calls("f.400", "a GET that is answered 400 with an error object, which nobody reads", []metric{
				atMost("time added", "ns", 5_000), atMost("bytes added", "n", none()), atMost("allocations added", "n", none()),
			}, workload{n: 10_000, newBase: newErrors(http.StatusBadRequest), newRequest: newGet, status: http.StatusBadRequest}),
			{
				name: "f.loopback", model: "GETs that succeed", params: p,
				metrics:  []metric{atLeast("throughput / bare", "x", 0.99)},
				together: measureThroughput,
			},
			{
				name: "f.connections", model: "1000 GETs that are answered 500 with 16 KiB, then 200, one after the other", params: p,
				metrics:  []metric{atMost("connections opened", "n", 1)},
				together: measureConnections,
			},
		},
	}
}

const (
	passes         = 7
	loopbackPasses = 15 // more, because they are noisier
)

// workload is a kind of call, which is measured n calls at a time.
type workload struct {
	n          int
	newBase    func() http.RoundTripper
	newRequest func() *http.Request
	fails      bool // the first attempts fail
	status     int  // of the last answer; 0: 200
}

// measure returns the cost of a call: time, bytes and allocations.
func (w workload) measure(t *testing.T, p params, peers []peer) [][]float64 {
	t.Helper()
	samples := make([][3][]float64, len(peers))
	for range passes {
		base := w.cost(t, w.until(w.newBase()))
		for i := range peers {
			if w.fails && peers[i].once {
				continue
			}
			for k, v := range w.cost(t, peers[i].client(w.newBase(), p.costConfig())) {
				samples[i][k] = append(samples[i][k], v-base[k])
			}
		}
	}
	values := make([][]float64, len(peers))
	for i, s := range samples {
		if s[0] != nil {
			values[i] = []float64{median(s[0]), median(s[1]), median(s[2])}
		}
	}
	if !w.fails {
		return values
	}
	byHand := []float64{none(), none(), none()}
	for i := range peers {
		if peers[i].name == handWritten().name {
			byHand = slices.Clone(values[i])
		}
	}
	for i := range values {
		if values[i] != nil {
			values[i] = append(values[i], values[i][2]/byHand[2], values[i][0]/byHand[0])
		}
	}
	return values
}

func (w workload) last() int { return cmp.Or(w.status, http.StatusOK) }

// until sends a request until it gets the last answer, with nothing in between.
func (w workload) until(base http.RoundTripper) doer {
	return func(req *http.Request) (*http.Response, error) {
		for {
			resp, err := base.RoundTrip(req)
			if err != nil || resp.StatusCode == w.last() {
				return resp, err
			}
			_ = resp.Body.Close()
		}
	}
}

func (p *params) costConfig() config {
	cfg := p.config()
	cfg.noBudget = true
	return cfg
}

func (w workload) cost(t *testing.T, do doer) [3]float64 {
	t.Helper()
	req := w.newRequest()
	call := func() {
		if req.GetBody != nil {
			req.Body, _ = req.GetBody() // it cannot fail for a bytes.Reader
		}
		resp, err := do(req)
		if err != nil || resp.StatusCode != w.last() {
			if resp != nil {
				_ = resp.Body.Close()
			}
			t.Fatalf("response %v, error %v", resp, err)
		}
		_ = resp.Body.Close()
	}
	for range w.n/10 + 1 {
		call()
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for range w.n {
		call()
	}
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	return [3]float64{
		float64(elapsed.Nanoseconds()) / float64(w.n),
		float64(after.TotalAlloc-before.TotalAlloc) / float64(w.n),
		float64(after.Mallocs-before.Mallocs) / float64(w.n),
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// roundTripperFunc is a function that is an http.RoundTripper.
type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func newSuccesses() http.RoundTripper {
	buf := make([]byte, 32<<10)
	header := http.Header{}
	return roundTripperFunc(func(req *http.Request) (*http.Response, error) {
		if req.Body != nil {
			for {
				if _, err := req.Body.Read(buf); err != nil {
					break
				}
			}
			_ = req.Body.Close()
		}
		return &http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: http.NoBody, Request: req,
		}, nil
	})
}

// newFailures answers 500, 500, 200 and so on.
func newFailures() http.RoundTripper {
	n := 0
	return roundTripperFunc(func(req *http.Request) (*http.Response, error) {
		n++
		status := http.StatusInternalServerError
		if n%3 == 0 {
			status = http.StatusOK
		}
		return answer(req, status, http.Header{"Content-Type": {"application/json"}}), nil
	})
}

// newErrors returns bases that always answer with a status and an error object.
func newErrors(status int) func() http.RoundTripper {
	const object = `{"code":"400","type":"INVALID_REQUEST_ERROR","message":"The request is not valid.",` +
		`"invalid":[{"name":"age","reason":"must not be negative"}]}`
	return func() http.RoundTripper {
		return roundTripperFunc(func(req *http.Request) (*http.Response, error) {
			resp := answer(req, status, http.Header{"Content-Type": {"application/json"}})
			resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(object)), int64(len(object))
			return resp, nil
		})
	}
}

func newGet() *http.Request {
	return newRequest(http.MethodGet, "http://api.example/v1/things", nil)
}

func newPost() *http.Request {
	return newRequest(http.MethodPost, "http://api.example/v1/things", make([]byte, 1<<20))
}

func newRequest(method, url string, body []byte) *http.Request {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	ctx := context.WithValue(context.Background(), callKey{}, new(call)) // which some peers ask
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		panic(err) // the URL is valid
	}
	return req
}

// measureThroughput returns each peer's requests a second, relative to those of the
// bare base just before and after.
func measureThroughput(t *testing.T, p params, peers []peer) [][]float64 {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"ok":true}`)
	}))
	defer srv.Close()
	base := &http.Transport{MaxIdleConnsPerHost: p.workers}
	defer base.CloseIdleConnections()
	control := base.RoundTrip
	samples := make([][]float64, len(peers))
	for range loopbackPasses {
		for i := range peers {
			// The bare base is measured before and after, so that a drift cancels out.
			before := throughput(t, control, srv.URL, p.workers)
			v := throughput(t, peers[i].client(base, p.costConfig()), srv.URL, p.workers)
			after := throughput(t, control, srv.URL, p.workers)
			samples[i] = append(samples[i], v/((before+after)/2))
		}
	}
	values := make([][]float64, len(peers))
	for i, s := range samples {
		values[i] = []float64{median(s)}
	}
	return values
}

func throughput(t *testing.T, do doer, url string, workers int) float64 {
	t.Helper()
	const each = 50
	var failed atomic.Int32
	var wg sync.WaitGroup
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for range each {
				resp, err := do(newRequest(http.MethodGet, url, nil))
				if err != nil {
					failed.Add(1)
					continue
				}
				discard(resp)
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Fatalf("%d requests failed", n)
	}
	return float64(workers*each) / time.Since(start).Seconds()
}

// measureConnections counts the connections that a client opens for requests
// that it has to retry.
func measureConnections(t *testing.T, p params, peers []peer) [][]float64 {
	t.Helper()
	values := make([][]float64, len(peers))
	for i := range peers {
		if !peers[i].once {
			values[i] = []float64{connections(t, p, &peers[i])}
		}
	}
	return values
}

func connections(t *testing.T, p params, pr *peer) float64 {
	t.Helper()
	body := strings.Repeat("x", 16<<10)
	var requests, opened atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, body)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	defer srv.CloseClientConnections() // some peers leave them open
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	do := pr.client(base, p.costConfig())
	for range 1000 {
		resp, err := do(newRequest(http.MethodGet, srv.URL, nil))
		if err != nil {
			t.Fatalf("%s: %v", pr.name, err)
		}
		discard(resp)
	}
	return float64(opened.Load())
}
