package faults_test

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// soon is for what the second that an error body may take is the greater part of.
const soon = 1100 * time.Millisecond

// inTime calls f, which is to return within soon. A busy machine may hold it up
// once or twice. It would not do so always.
func inTime(tb testing.TB, f func()) {
	tb.Helper()
	var took time.Duration
	for range 3 {
		begin := time.Now()
		f()
		if took = time.Since(begin); took < soon {
			return
		}
	}
	require.Less(tb, took, soon)
}

// TestErrorBodyHangs is an error body that sends one byte and no more. It is read
// and closed at once, by the caller or, of a response that is retried, by the
// Transport itself. Go 1.27.0 and 1.27.1 hang there: go.dev/issue/81404.
func TestErrorBodyHangs(t *testing.T) {
	hang := func(head string) func(*testing.T) (string, *http.Transport) {
		return func(t *testing.T) (string, *http.Transport) {
			t.Helper()
			s := serveRaw(t, func(c *net.TCPConn, n int) bool {
				_, _ = io.WriteString(c, head)
				return silent(c, n)
			})
			return s.url, newBase(t)
		}
	}
	hang2 := func(body string, fields ...string) func(*testing.T) (string, *http.Transport) {
		return func(t *testing.T) (string, *http.Transport) {
			t.Helper()
			s := serveHTTP2(t, func(s *stream) bool {
				s.headers(500, false, fields...)
				_ = s.WriteData(s.id, false, []byte(body))
				return true
			})
			return s.url, s.base
		}
	}
	for _, tt := range []struct {
		name  string
		serve func(*testing.T) (string, *http.Transport)
	}{
		{"known length", hang(bad + "Content-Length: 100\r\n\r\nx")},
		{"chunked", hang(bad + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")},
		{"until the end", hang(bad + "\r\nx")},
		{"gzip", hang(bad + "Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n\x1f")},
		{"HTTP/2", hang2("x")},
		{"HTTP/2, gzip", hang2("\x1f", "content-encoding", "gzip")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaveNothing(t)
			url, base := tt.serve(t)

			inTime(t, func() {
				client := newTransport(&firstOnly{RoundTripper: base})
				resp, err := client.RoundTrip(newRequest(t, http.MethodGet, url))
				require.NoError(t, err)
				require.Equal(t, 200, resp.StatusCode)
			})

			inTime(t, func() {
				client := newTransport(base, resilient.WithMaxAttempts(1))
				resp, err := client.RoundTrip(newRequest(t, http.MethodGet, url))
				require.NoError(t, err)
				require.Equal(t, 500, resp.StatusCode)
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.ReadAll(resp.Body) })
				both.Go(func() { _ = resp.Body.Close() })
				both.Wait()
			})
		})
	}
}

// firstOnly hands the first request to its base and answers the next one itself.
type firstOnly struct {
	http.RoundTripper
	asked bool
}

func (f *firstOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if f.asked {
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}
	f.asked = true
	return f.RoundTripper.RoundTrip(req)
}
