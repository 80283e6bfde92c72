package resume_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resume"
)

// large is a file of any size: a block of random bytes over and over. Its length is
// a prime, so that no range can be taken for another one.
type large struct{ block []byte }

func newLarge() large {
	block := make([]byte, 1_048_573)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(block)
	return large{block}
}

func (l large) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		n += copy(p[n:], l.block[(off+int64(n))%int64(len(l.block)):])
	}
	return len(p), nil
}

func (l large) file(size int64) *io.SectionReader { return io.NewSectionReader(l, 0, size) }

// cutting breaks the connection, or resets the stream, when left bytes were written.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	_ = http.NewResponseController(c.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// countingListener counts the bytes that its connections send.
type countingListener struct {
	net.Listener
	sent *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.sent}, err
}

type countingConn struct {
	net.Conn
	sent *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// serve runs handler on a real server, with HTTP/2 or not. It returns a Transport
// over ours over net/http, the server's URL, and the number of bytes that the server
// sends from then on.
func serve(t *testing.T, http2 bool, handler http.HandlerFunc) (*resume.Transport, string, *atomic.Int64) {
	t.Helper()
	var sent atomic.Int64
	srv := httptest.NewUnstartedServer(handler)
	srv.Listener = countingListener{srv.Listener, &sent}
	if srv.EnableHTTP2 = http2; http2 {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	base := srv.Client().Transport
	quick := resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(time.Millisecond) })
	return resume.NewTransport(resilient.NewTransport(base, quick)), srv.URL, &sent
}

// TestServer: 100 MiB that are cut every 10 MiB arrive whole, and each byte is sent
// once.
func TestServer(t *testing.T) {
	const size, piece = 100 << 20, 10 << 20
	content := newLarge()
	sum := sha256.New()
	_, _ = io.Copy(sum, content.file(size))
	for _, tt := range []struct {
		name  string
		http2 bool
		tag   string
		why   string
	}{
		{"connections cut", false, `"v1"`, "HTTP/1.1"},
		{"streams reset", true, `"v1"`, "HTTP/2"},
		{"dates", false, "", "without an ETag"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int32
			transport, url, sent := serve(t, tt.http2, func(w http.ResponseWriter, req *http.Request) {
				requests.Add(1)
				if tt.tag != "" {
					w.Header().Set("ETag", tt.tag)
				}
				modified := time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC)
				http.ServeContent(&cutting{w, piece}, req, "file.bin", modified, content.file(size))
			})
			resp, err := (&http.Client{Transport: transport}).Get(url)
			require.NoError(t, err)
			defer resp.Body.Close()
			got := sha256.New()
			n, err := io.Copy(got, resp.Body)
			require.NoError(t, err)
			require.EqualValues(t, size, n)
			require.Equal(t, sum.Sum(nil), got.Sum(nil), tt.why)
			require.EqualValues(t, size/piece, requests.Load())
			ratio := float64(sent.Load()) / size
			t.Logf("%.4f times the bytes", ratio)
			require.Less(t, ratio, 1.01, "each byte is sent once, beside headers")
		})
	}
}

// TestServerFails: with our Transport inside, what fails in between is retried.
func TestServerFails(t *testing.T) {
	var requests atomic.Int32
	transport, url, _ := serve(t, false, func(w http.ResponseWriter, req *http.Request) {
		switch requests.Add(1) {
		case 1:
			w = &cutting{w, 40}
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case 3:
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, req, "file.bin", time.Time{}, strings.NewReader(text))
	})
	got, err := download(t, transport, to(t, url))
	require.NoError(t, err)
	require.Equal(t, text, got)
	require.EqualValues(t, 4, requests.Load())
}

// TestServerChanges: a file that changes between two connections is not mixed, by
// a server that keeps to the RFC.
func TestServerChanges(t *testing.T) {
	var requests atomic.Int32
	transport, url, _ := serve(t, false, func(w http.ResponseWriter, req *http.Request) {
		tag, content := `"v1"`, text
		if requests.Add(1) == 1 {
			w = &cutting{w, 40}
		} else {
			tag, content = `"v2"`, strings.ToUpper(text)
		}
		w.Header().Set("ETag", tag)
		http.ServeContent(w, req, "file.bin", time.Time{}, strings.NewReader(content))
	})
	got, err := download(t, transport, to(t, url))
	require.Equal(t, text[:40], got)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorContains(t, err, "the validator has changed")
	require.EqualValues(t, 2, requests.Load())
}

// TestServerContract: what else a client asks of a real server passes through.
func TestServerContract(t *testing.T) {
	transport, url, _ := serve(t, false, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		if strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") && req.Header.Get("If-None-Match") == "" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, text)
			_ = z.Close()
			return
		}
		http.ServeContent(w, req, "file.txt", time.Time{}, strings.NewReader(text))
	})
	for _, tt := range []struct {
		name   string
		method string
		header string // name: value
		status int
		length int64
		body   string
		why    string
	}{
		{"gzip", "GET", "", 200, -1, text, "net/http decompresses, as without this Transport"},
		{"identity", "GET", "Accept-Encoding: identity", 200, 100, text, "this can be resumed"},
		{"HEAD", "HEAD", "Accept-Encoding: identity", 200, 100, "", "the length is there, the body is not"},
		{"a range", "GET", "Range: bytes=10-19", 206, 10, text[10:20], "the caller's own"},
		{"no such range", "GET", "Range: bytes=100-", 416, 33, "invalid range: failed to overlap\n", "passed on"},
		{"not modified", "GET", `If-None-Match: "v1"`, 304, 0, "", "passed on"},
		{"POST", "POST", "Accept-Encoding: identity", 200, 100, text, "left alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := to(t, url)
			req.Method = tt.method
			if name, value, ok := strings.Cut(tt.header, ": "); ok {
				req.Header.Set(name, value)
			}
			resp, err := (&http.Client{Transport: transport}).Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, tt.status, resp.StatusCode)
			require.Equal(t, tt.body, string(got), tt.why)
			require.Equal(t, tt.length, resp.ContentLength)
			require.Equal(t, tt.method, resp.Request.Method)
		})
	}
}

// TestServerReuse: reading a resumed body to its end leaves a connection that can
// be used again.
func TestServerReuse(t *testing.T) {
	var requests, dials atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if requests.Add(1) == 1 {
			w = &cutting{w, 40}
		}
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, req, "file.bin", time.Time{}, strings.NewReader(text))
	}))
	defer srv.Close()
	base := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	transport := resume.NewTransport(base)
	defer transport.CloseIdleConnections()
	for range 3 {
		got, err := download(t, transport, to(t, srv.URL))
		require.NoError(t, err)
		require.Equal(t, text, got)
	}
	require.EqualValues(t, 4, requests.Load())
	require.EqualValues(t, 2, dials.Load(), "the one that was cut, and the one for all the rest")
}

// TestDefaultBase: without a base it is http.DefaultTransport.
func TestDefaultBase(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, req, "file.bin", time.Time{}, bytes.NewReader([]byte(text)))
	}))
	defer srv.Close()
	for _, transport := range []*resume.Transport{resume.NewTransport(nil), {}} {
		got, err := download(t, transport, to(t, srv.URL))
		require.NoError(t, err)
		require.Equal(t, text, got)
	}
}

// to returns a GET of url.
func to(tb testing.TB, url string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, nil)
	require.NoError(tb, err)
	return req
}

// TestTraceOfResumptions: each part is a call of the Transport inside, and says which one
// it is.
func TestTraceOfResumptions(t *testing.T) {
	content := newLarge()
	const size, piece = 4 << 20, 1 << 20
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(&cutting{w, piece}, req, "file.bin", time.Time{}, content.file(size))
	}))
	defer srv.Close()
	var numbers []int
	var bytes int64
	inside := resilient.NewTransport(srv.Client().Transport, resilient.WithTrace(&resilient.Trace{Body: func(b resilient.BodyInfo) {
		numbers = append(numbers, b.Resumed)
		bytes += b.Bytes
		require.Equal(t, b.Resumed < 3, b.Err != nil, "all but the last break off")
	}}))
	resp, err := (&http.Client{Transport: resume.NewTransport(inside)}).Get(srv.URL)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, []int{0, 1, 2, 3}, numbers)
	require.EqualValues(t, size, bytes)
}
