package faults_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// rawServer is a TCP server that sends arbitrary bytes as answers.
type rawServer struct {
	url string
	ledger
}

// serveRaw runs a server that reads a whole request and then calls answer with the
// number of the request, from 1. answer reports whether the connection is kept for
// another request.
func serveRaw(tb testing.TB, answer func(c *net.TCPConn, n int) (keep bool)) *rawServer {
	tb.Helper()
	l := listen(tb)
	s := &rawServer{url: "http://" + l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns, requests := map[net.Conn]bool{}, 0
	serve := func(c *net.TCPConn) {
		defer c.Close()
		r := bufio.NewReader(c)
		for keep := true; keep; {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			s.note(req)
			mu.Lock()
			requests++
			n := requests
			mu.Unlock()
			keep = answer(c, n)
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			_ = c.SetDeadline(time.Now().Add(patience))
			wg.Go(func() { serve(c.(*net.TCPConn)) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

// says returns an answer that sends text and closes the connection.
func says(text string) func(*net.TCPConn, int) bool {
	return func(c *net.TCPConn, _ int) bool {
		_, _ = io.WriteString(c, text)
		return false
	}
}

// resets is like says, but with a RST in place of a FIN. The text may be lost.
func resets(text string) func(*net.TCPConn, int) bool {
	return func(c *net.TCPConn, _ int) bool {
		_, _ = io.WriteString(c, text)
		_ = c.SetLinger(0)
		return false
	}
}

// endless sends head, and then line until the client closes the connection.
func endless(head, line string) func(*net.TCPConn, int) bool {
	return func(c *net.TCPConn, _ int) bool {
		_, err := io.WriteString(c, head)
		for line := []byte(strings.Repeat(line, 1+4096/len(line))); err == nil; {
			_, err = c.Write(line)
		}
		return false
	}
}

// drips sends text byte by byte, with a pause after each, and then stops.
func drips(pause time.Duration, text string) func(*net.TCPConn, int) bool {
	return func(c *net.TCPConn, _ int) bool {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := range len(text) {
			if _, err := c.Write([]byte{text[i]}); err != nil {
				return false
			}
			<-tick.C
		}
		return true
	}
}

// silent sends nothing until the client closes the connection.
func silent(c *net.TCPConn, _ int) bool {
	_, _ = io.Copy(io.Discard, c)
	return false
}

const (
	ok  = "HTTP/1.1 200 OK\r\n"
	bad = "HTTP/1.1 500 Internal Server Error\r\n"
)

// TestRaw tests servers that violate HTTP or TCP. An answer that is not HTTP is an
// error, after a bounded time and number of attempts. If there is no answer, a GET is
// tried three times. A POST is tried once, because the server has read it. Reading a
// body that was cut short returns an error, and a request is never repeated once its
// answer has begun. A retried response is closed even if its body fails. Only the
// attempt timeout or a deadline ends a connection that never answers.
func TestRaw(t *testing.T) {
	timeout := resilient.WithAttemptTimeout(200 * time.Millisecond)
	longer := resilient.WithAttemptTimeout(time.Second) // for answers that must arrive in time on any machine
	lost := want{seen: 3, tries: 3}                     // no answer to any attempt
	once := want{seen: 1}                               // no answer, and the request may have been processed
	for _, tt := range []struct {
		name   string
		why    string
		answer func(*net.TCPConn, int) bool
		opts   []resilient.Option
		get    want
		post   want
	}{
		{
			name: "reset before headers", why: "the request may have been processed",
			answer: resets(""),
			get:    want{seen: 3, tries: 3, err: syscall.ECONNRESET},
			post:   want{seen: 1, err: syscall.ECONNRESET},
		},
		{
			name: "closed before headers", why: "as above, but politely",
			answer: says(""),
			get:    want{seen: 3, tries: 3, err: io.EOF}, post: want{seen: 1, err: io.EOF},
		},
		{
			name: "closed in the status line", answer: says("HTTP/1.1 20"),
			get: lost, post: once,
		},
		{
			name: "closed in the headers", answer: says(ok + "X-Half: an"),
			get: want{seen: 3, tries: 3, err: io.ErrUnexpectedEOF}, post: want{seen: 1, err: io.ErrUnexpectedEOF},
		},
		{
			name: "never answers", why: "an attempt timeout is retried, a POST is not: it is being worked on",
			answer: silent, opts: []resilient.Option{timeout},
			get: lost, post: once,
		},
		{
			name: "headers drip", why: "the attempt timeout is until the headers are complete",
			answer: drips(5*time.Millisecond, ok+strings.Repeat("X: y\r\n", 999)),
			opts:   []resilient.Option{timeout},
			get:    lost, post: once,
		},
		{
			name: "reset in the body", why: "the caller has the answer in hand",
			answer: resets(ok + "Content-Length: 100\r\n\r\nhello"),
			get:    want{seen: 1, status: 200, short: true}, post: want{seen: 1, status: 200, short: true},
		},
		{
			name: "closed in the body", answer: says(ok + "Content-Length: 100\r\n\r\nhello"),
			get:  want{seen: 1, status: 200, body: "hello", short: true, err: io.ErrUnexpectedEOF},
			post: want{seen: 1, status: 200, body: "hello", short: true, err: io.ErrUnexpectedEOF},
		},
		{
			name: "error body cut", why: "a status is an answer, whatever becomes of its body",
			answer: says(bad + "Content-Length: 100\r\n\r\nhello"),
			get:    want{seen: 3, status: 500, body: "hello", short: true, err: io.ErrUnexpectedEOF},
			post:   want{seen: 1, status: 500, body: "hello", short: true, err: io.ErrUnexpectedEOF},
		},
		{
			name: "error body drips", why: "reading ahead is bounded in time, and the attempt timeout does not cut a body",
			answer: drips(10*time.Millisecond, bad+"Content-Length: 150\r\n\r\n"+strings.Repeat("x", 150)),
			opts:   []resilient.Option{longer, resilient.WithMaxAttempts(1)},
			get:    want{seen: 1, status: 500, body: strings.Repeat("x", 150)},
			post:   want{seen: 1, status: 500, body: strings.Repeat("x", 150)},
		},
		{
			name: "body drips", why: "the attempt timeout never cuts a body that is being read",
			answer: drips(10*time.Millisecond, ok+"Content-Length: 150\r\n\r\n"+strings.Repeat("x", 150)),
			opts:   []resilient.Option{longer},
			get:    want{seen: 1, status: 200, body: strings.Repeat("x", 150)},
			post:   want{seen: 1, status: 200, body: strings.Repeat("x", 150)},
		},
		{
			name: "truncated chunks", answer: says(ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n9\r\nwo"),
			get:  want{seen: 1, status: 200, body: "hello", short: true, err: io.ErrUnexpectedEOF},
			post: want{seen: 1, status: 200, body: "hello", short: true, err: io.ErrUnexpectedEOF},
		},
		{
			name: "no last chunk", answer: says(ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
			get:  want{seen: 1, status: 200, body: "hello", short: true, err: io.ErrUnexpectedEOF},
			post: want{seen: 1, status: 200, body: "hello", short: true, err: io.ErrUnexpectedEOF},
		},
		{
			name: "bad chunk size", answer: says(ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
			get:  want{seen: 1, status: 200, short: true},
			post: want{seen: 1, status: 200, short: true},
		},
		{
			name: "bad chunk in an error body", why: "what cannot be drained must not stop the retry",
			answer: says(bad + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
			get:    want{seen: 3, status: 500, short: true},
			post:   want{seen: 1, status: 500, short: true},
		},
		{name: "garbage status line", answer: says("\x00\xff\x1b[2J\r\n\r\n"), get: lost, post: once},
		{name: "another protocol", answer: says("SSH-2.0-OpenSSH_9.9\r\n"), get: lost, post: once},
		{name: "bad version", answer: says("HTTP/9 200 OK\r\n\r\n"), get: lost, post: once},
		{name: "status of four digits", answer: says("HTTP/1.1 2000 OK\r\n\r\n"), get: lost, post: once},
		{name: "no colon in a header", answer: says(ok + "nonsense\r\n\r\n"), get: lost, post: once},
		{name: "NUL in a header", answer: says(ok + "X: a\x00b\r\n\r\n"), get: lost, post: once},
		{name: "Content-Length not a number", answer: says(ok + "Content-Length: many\r\n\r\n"), get: lost, post: once},
		{name: "negative Content-Length", answer: says(ok + "Content-Length: -1\r\n\r\n"), get: lost, post: once},
		{name: "two lengths", answer: says(ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy"), get: lost, post: once},
		{name: "endless status line", answer: endless("HTTP/1.1 200 O", "K"), get: lost, post: once},
		{name: "endless headers", answer: endless(ok, "X: y\r\n"), get: lost, post: once},
		{name: "endless header value", answer: endless(ok+"X: ", "y"), get: lost, post: once},
		{name: "100 for ever", answer: endless("", "HTTP/1.1 100 Continue\r\n\r\n"), get: lost, post: once},
		{name: "103 for ever", answer: endless("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), get: lost, post: once},
		{
			name: "folded header", why: "obsolete, but read",
			answer: says(ok + "X: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
			get:    want{seen: 1, status: 200, body: "ok"}, post: want{seen: 1, status: 200, body: "ok"},
		},
		{
			name: "status 999", why: "an unknown class is final",
			answer: says("HTTP/1.1 999 No\r\nContent-Length: 2\r\n\r\nno"),
			get:    want{seen: 1, status: 999, body: "no"}, post: want{seen: 1, status: 999, body: "no"},
		},
		{
			name: "body longer than its length", answer: says(ok + "Content-Length: 2\r\n\r\nok and more"),
			get: want{seen: 1, status: 200, body: "ok"}, post: want{seen: 1, status: 200, body: "ok"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.LessOrEqual(t, tt.post.seen, 1, "a POST is never seen twice")
			for method, want := range map[string]want{http.MethodGet: tt.get, http.MethodPost: tt.post} {
				t.Run(method, func(t *testing.T) {
					leaveNothing(t)
					srv := serveRaw(t, tt.answer)
					base := newBase(t)
					base.MaxResponseHeaderBytes = 64 << 10
					got := call(newTransport(base, tt.opts...), newRequest(t, method, srv.url))
					want.check(t, got, &srv.ledger, method)
					require.Less(t, got.took, patience/2, "bounded")
				})
			}
		})
	}
}

// TestRawNoiseAfterAnAnswer sends bytes without a request. The connection is closed,
// and they are never taken as the answer to the next request.
func TestRawNoiseAfterAnAnswer(t *testing.T) {
	for name, noise := range map[string]string{
		"garbage":       "\x00\x01garbage\r\n\r\n",
		"second answer": ok + "Content-Length: 6\r\n\r\npoison",
	} {
		t.Run(name, func(t *testing.T) {
			leaveNothing(t)
			hungUp := make(chan struct{}, 9)
			srv := serveRaw(t, func(c *net.TCPConn, n int) bool {
				fmt.Fprintf(c, "%sContent-Length: 1\r\n\r\n%d%s", ok, n, noise)
				silent(c, n)
				hungUp <- struct{}{}
				return false
			})
			client := newTransport(newBase(t))
			for i := range 3 {
				req := newRequest(t, http.MethodPost, srv.url)
				require.Equal(t, strconv.Itoa(i+1), call(client, req).body)
				select { // until then net/http may still reuse the connection
				case <-hungUp:
				case <-req.Context().Done():
					require.Fail(t, "the connection is kept")
				}
			}
			require.Equal(t, 3, srv.count(http.MethodPost))
		})
	}
}

// TestRawKeptConnectionIsDead closes a kept connection when the next request comes.
// net/http itself repeats a request that it considers idempotent, within one attempt.
// A POST that may have been read is not sent again, which is why no key is added to it
// unless the caller asks for that.
func TestRawKeptConnectionIsDead(t *testing.T) {
	for method, want := range map[string]want{
		http.MethodGet:  {seen: 3, status: 200, body: "ok"},
		http.MethodPost: {seen: 2, err: io.EOF},
	} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			srv := serveRaw(t, func(c *net.TCPConn, n int) bool {
				if n == 2 {
					return false
				}
				_, _ = io.WriteString(c, ok+"Content-Length: 2\r\n\r\nok")
				return true
			})
			client := newTransport(newBase(t))
			require.Equal(t, 200, call(client, newRequest(t, method, srv.url)).status)
			got := call(client, newRequest(t, method, srv.url))
			want.check(t, got, &srv.ledger, method)
		})
	}
}

// TestRawUploadCutShort answers while the body is still being sent. The answer is
// returned without waiting for the rest of the body, even if writing the body fails.
func TestRawUploadCutShort(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status string
		seen   int
	}{
		{"rejected unprocessed", "429 Too Many Requests", 3},
		{"too large", "413 Content Too Large", 1},
		{"failed", "500 Internal Server Error", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			leaveNothing(t)
			l := listen(t)
			var led ledger
			var wg sync.WaitGroup
			t.Cleanup(wg.Wait)
			t.Cleanup(func() { _ = l.Close() })
			wg.Go(func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					req, err := http.ReadRequest(bufio.NewReader(c))
					if err == nil {
						led.note(req)
						fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno", tt.status)
						_ = c.(*net.TCPConn).CloseWrite()
						// If the server closed with unread data, the reset would
						// sometimes destroy its answer.
						_ = c.SetDeadline(time.Now().Add(patience))
						_, _ = io.Copy(io.Discard, c)
					}
					_ = c.Close()
				}
			})
			req := newRequest(t, http.MethodPost, "http://"+l.Addr().String())
			upload := strings.Repeat("x", 64<<20)
			req.ContentLength = int64(len(upload))
			req.Body = io.NopCloser(strings.NewReader(upload))
			req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(upload)), nil }

			got := call(newTransport(newBase(t)), req)

			require.NoError(t, got.err)
			require.Equal(t, tt.status[:3], strconv.Itoa(got.status))
			require.Equal(t, tt.seen, led.count(http.MethodPost))
		})
	}
}
