package faults_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// takes reads a body at a rate in bytes a second, until it ends or n bytes are
// read.
func takes(body io.Reader, rate, n int) (got int64) {
	const each = 20 * time.Millisecond
	tick := time.NewTicker(each)
	defer tick.Stop()
	part := int64(rate) * int64(each) / int64(time.Second)
	for got < int64(n) {
		k, err := io.CopyN(io.Discard, body, part)
		if got += k; err != nil {
			break
		}
		<-tick.C
	}
	return got
}

// upload is a PUT of size bytes.
func upload(tb testing.TB, url string, size int64) *http.Request {
	tb.Helper()
	req := newRequest(tb, http.MethodPut, url)
	open := func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, size)), nil }
	req.Body, _ = open()
	req.GetBody, req.ContentLength = open, size
	return req
}

// narrow makes the buffers of a connection small, as far as the kernel allows.
func narrow(c net.Conn) net.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(16 << 10)
		_ = tcp.SetWriteBuffer(16 << 10)
	}
	return c
}

// TestUploadOverASlowLine is an upload that takes longer than an attempt may wait
// for its response. Each of four attempts would be cut.
func TestUploadOverASlowLine(t *testing.T) {
	const limit = 700 * time.Millisecond
	for _, tt := range []struct {
		name   string
		size   int64
		rate   int  // bytes a second
		narrow bool // small buffers
		http2  bool
	}{
		{name: "small buffers", size: 4 << 20, rate: 2 << 20, narrow: true},
		// The kernel holds megabytes of it when the last byte has been read.
		{name: "large buffers", size: 16 << 20, rate: 5 << 20},
		{name: "HTTP/2", size: 16 << 20, rate: 5 << 20, http2: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaveNothing(t)
			var l ledger
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				l.note(req)
				if got := takes(req.Body, tt.rate, 1<<30); got != tt.size || req.ContentLength != tt.size {
					t.Errorf("got %d bytes, %d announced", got, req.ContentLength)
				}
			}))
			base := newBase(t)
			if tt.narrow {
				srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context { narrow(c); return ctx }
				base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					return narrow(c), err
				}
			}
			if tt.http2 {
				srv.EnableHTTP2 = true
				srv.StartTLS()
				base.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig
			} else {
				srv.Start()
			}
			t.Cleanup(srv.Close)
			got := call(newTransport(base, resilient.WithAttemptTimeout(limit)), upload(t, srv.URL, tt.size))
			want{seen: 1, status: 200}.check(t, got, &l, http.MethodPut)
			require.Greater(t, got.took, limit, "or nothing is shown")
		})
	}
}

// TestUploadStalls is a server that stops reading. No timeout of the attempt runs
// while the body is written, but an upload that stands still ends.
func TestUploadStalls(t *testing.T) {
	leaveNothing(t)
	var l ledger
	over := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		l.note(req)
		takes(req.Body, 1<<20, 1<<18)
		<-over // a server that does not read does not see that the client has gone
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(over) })
	got := call(newTransport(newBase(t), resilient.WithMaxAttempts(1), resilient.WithAttemptTimeout(300*time.Millisecond)),
		upload(t, srv.URL, 256<<20))
	var timeout net.Error
	require.True(t, errors.As(got.err, &timeout) && timeout.Timeout(), "error: %v", got.err)
	require.ErrorContains(t, got.err, "took nothing of the request body for 10s")
	require.GreaterOrEqual(t, got.took, 10*time.Second)
	require.Less(t, got.took, patience)
	require.Equal(t, 1, l.count(http.MethodPut))
}
