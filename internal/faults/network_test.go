package faults_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// toxic is a fault of the network, see toxiproxy's documentation.
type toxic struct {
	Type       string         `json:"type"`
	Stream     string         `json:"stream"` // "upstream" for the data of the client
	Attributes map[string]int `json:"attributes"`
}

// network is a server behind a proxy that simulates the network.
type network struct {
	url   string // of the proxy
	proxy *toxiproxy.Proxy
	ledger
}

// newNetwork runs a server that answers with body.
func newNetwork(tb testing.TB, status int, body string, toxics ...toxic) *network {
	tb.Helper()
	n := &network{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		n.note(req)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	tb.Cleanup(srv.Close)
	silent := zerolog.Nop()
	n.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), silent),
		"network", "127.0.0.1:0", strings.TrimPrefix(srv.URL, "http://"))
	require.NoError(tb, n.proxy.Start())
	n.url = "http://" + n.proxy.Listen
	tb.Cleanup(n.proxy.Stop)
	for _, toxic := range toxics {
		n.add(tb, toxic)
	}
	return n
}

func (n *network) add(tb testing.TB, toxic toxic) {
	tb.Helper()
	spec, err := json.Marshal(toxic)
	require.NoError(tb, err)
	_, err = n.proxy.Toxics.AddToxicJson(bytes.NewReader(spec))
	require.NoError(tb, err)
}

// TestNetwork tests networks that fail or are bad.
func TestNetwork(t *testing.T) {
	timeout := resilient.WithAttemptTimeout(200 * time.Millisecond)
	longer := resilient.WithAttemptTimeout(time.Second) // for answers that must arrive in time on any machine
	long := strings.Repeat("x", 64<<10)
	for _, tt := range []struct {
		name   string
		why    string
		toxics []toxic
		status int // of the server, 200 if it is 0
		body   string
		opts   []resilient.Option
		get    want
		post   want
	}{
		{
			name: "latency", why: "slow is not broken: without a timeout nothing is sent again",
			toxics: []toxic{{"latency", "downstream", map[string]int{"latency": 200}}},
			get:    want{seen: 1, status: 200}, post: want{seen: 1, status: 200},
		},
		{
			name: "latency longer than the attempt timeout", why: "the server got it each time",
			toxics: []toxic{{"latency", "downstream", map[string]int{"latency": 600}}},
			opts:   []resilient.Option{timeout},
			get:    want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "jitter", toxics: []toxic{
				{"latency", "downstream", map[string]int{"latency": 20, "jitter": 20}},
				{"latency", "upstream", map[string]int{"latency": 20, "jitter": 20}},
			},
			body: long,
			get:  want{seen: 1, status: 200, body: long}, post: want{seen: 1, status: 200, body: long},
		},
		{
			name: "bandwidth", why: "the attempt timeout is for the headers: a body may take longer",
			toxics: []toxic{{"bandwidth", "downstream", map[string]int{"rate": 40}}}, // KB/s
			body:   long, opts: []resilient.Option{longer},
			get: want{seen: 1, status: 200, body: long}, post: want{seen: 1, status: 200, body: long},
		},
		{
			name: "bandwidth of an error body", why: "the body of what is retried is not waited for to its end",
			toxics: []toxic{{"bandwidth", "downstream", map[string]int{"rate": 40}}},
			body:   long, status: 500, opts: []resilient.Option{longer, resilient.WithMaxAttempts(2)},
			get: want{seen: 2, status: 500, body: long}, post: want{seen: 1, status: 500, body: long},
		},
		{
			name:   "reset before the answer",
			toxics: []toxic{{"reset_peer", "downstream", map[string]int{"timeout": 0}}},
			get:    want{seen: 3, tries: 3, err: syscall.ECONNRESET}, post: want{seen: 1, err: syscall.ECONNRESET},
		},
		{
			name: "reset before the request arrives", why: "it was written, so nobody knows that it never arrived",
			toxics: []toxic{{"reset_peer", "upstream", map[string]int{"timeout": 0}}},
			get:    want{seen: 0, tries: 3}, post: want{seen: 0},
		},
		{
			name:   "answers are lost",
			toxics: []toxic{{"timeout", "downstream", map[string]int{"timeout": 0}}},
			opts:   []resilient.Option{timeout},
			get:    want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name:   "requests are lost",
			toxics: []toxic{{"timeout", "upstream", map[string]int{"timeout": 0}}},
			opts:   []resilient.Option{timeout},
			get:    want{seen: 0, tries: 3}, post: want{seen: 0},
		},
		{
			name: "lost, then closed", toxics: []toxic{{"timeout", "downstream", map[string]int{"timeout": 50}}},
			get: want{seen: 3, tries: 3, err: io.EOF}, post: want{seen: 1, err: io.EOF},
		},
		{
			name: "slow close", why: "an answer of a known length is complete without it",
			toxics: []toxic{{"slow_close", "downstream", map[string]int{"delay": 300}}},
			body:   "hello",
			get:    want{seen: 1, status: 200, body: "hello"}, post: want{seen: 1, status: 200, body: "hello"},
		},
		{
			name: "cut in the headers", toxics: []toxic{{"limit_data", "downstream", map[string]int{"bytes": 30}}},
			get: want{seen: 3, tries: 3, err: io.ErrUnexpectedEOF}, post: want{seen: 1, err: io.ErrUnexpectedEOF},
		},
		{
			name: "cut in the body", why: "the caller has the answer in hand",
			toxics: []toxic{{"limit_data", "downstream", map[string]int{"bytes": 20_000}}},
			body:   long,
			get:    want{seen: 1, status: 200, body: "xxx", short: true, err: io.ErrUnexpectedEOF},
			post:   want{seen: 1, status: 200, body: "xxx", short: true, err: io.ErrUnexpectedEOF},
		},
		{
			name: "cut in an error body", toxics: []toxic{{"limit_data", "downstream", map[string]int{"bytes": 20_000}}},
			body: long, status: 500,
			get:  want{seen: 3, status: 500, body: "xxx", short: true, err: io.ErrUnexpectedEOF},
			post: want{seen: 1, status: 500, body: "xxx", short: true, err: io.ErrUnexpectedEOF},
		},
		{
			name: "cut in the request", toxics: []toxic{{"limit_data", "upstream", map[string]int{"bytes": 30}}},
			get: want{seen: 0, tries: 3}, post: want{seen: 0},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.LessOrEqual(t, tt.post.seen, 1, "a POST is never seen twice")
			for method, want := range map[string]want{http.MethodGet: tt.get, http.MethodPost: tt.post} {
				t.Run(method, func(t *testing.T) {
					leaveNothing(t)
					n := newNetwork(t, max(tt.status, 200), tt.body, tt.toxics...)
					got := call(newTransport(newBase(t), tt.opts...), newRequest(t, method, n.url))
					want.check(t, got, &n.ledger, method)
					require.Less(t, got.took, patience/2, "bounded")
				})
			}
		})
	}
}

// TestNetworkIsBack takes the network down, and brings it back while a call is
// retrying. The port was closed, so even a POST may be sent again.
func TestNetworkIsBack(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			n := newNetwork(t, 200, "hello")
			n.proxy.Stop()
			refused := 0
			client := newTransport(newBase(t), every(5*time.Millisecond), resilient.WithMaxAttempts(1000),
				resilient.WithTrace(&resilient.Trace{AttemptDone: func(a resilient.AttemptInfo) {
					if a.Err == nil {
						return
					}
					require.ErrorIs(t, a.Err, syscall.ECONNREFUSED)
					if refused++; refused == 3 {
						require.NoError(t, n.proxy.Start())
					}
				}}))
			got := call(client, newRequest(t, method, n.url))
			want{seen: 1, status: 200, body: "hello"}.check(t, got, &n.ledger, method)
			require.GreaterOrEqual(t, refused, 3)
		})
	}
}
