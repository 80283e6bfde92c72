package faults_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/resilienthttp/resilient"
)

// stream is a request that an HTTP/2 server is about to answer.
type stream struct {
	*http2.Framer
	id uint32
	n  int // the number of the request, from 1
}

// headers sends the headers of an answer, which may be the whole answer.
func (s *stream) headers(status int, end bool, fields ...string) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)})
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = s.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end,
	})
}

func (s *stream) reset(code http2.ErrCode)            { _ = s.WriteRSTStream(s.id, code) }
func (s *stream) goAway(last uint32, c http2.ErrCode) { _ = s.WriteGoAway(last, c, nil) }

// http2Server is an HTTP/2 server that writes single frames.
type http2Server struct {
	url  string
	base *http.Transport // it trusts the server
	ledger
}

// serveHTTP2 runs a server that reads whole requests and then calls answer. answer
// reports whether the connection is kept.
func serveHTTP2(tb testing.TB, answer func(*stream) (keep bool)) *http2Server {
	tb.Helper()
	ca := newAuthority(tb)
	l := tls.NewListener(listen(tb), &tls.Config{
		Certificates: []tls.Certificate{ca.issue(tb, nil)}, NextProtos: []string{"h2"},
	})
	s := &http2Server{url: "https://" + l.Addr().String(), base: ca.trusted(tb)}
	var wg sync.WaitGroup
	var mu sync.Mutex
	requests := 0
	serve := func(c net.Conn) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.CopyN(io.Discard, c, int64(len(http2.ClientPreface))); err != nil {
			return
		}
		fr := http2.NewFramer(c, c)
		fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		_ = fr.WriteSettings()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			end := false
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = fr.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				req := &http.Request{Header: http.Header{}}
				for _, h := range f.RegularFields() {
					req.Header.Add(h.Name, h.Value)
				}
				s.note(req)
				end = f.StreamEnded()
			case *http2.DataFrame:
				end = f.StreamEnded()
			}
			if !end {
				continue
			}
			mu.Lock()
			requests++
			n := requests
			mu.Unlock()
			if !answer(&stream{fr, f.Header().StreamID, n}) {
				// A close with unread data would reset the connection, and the answer
				// could be lost.
				_ = c.(*tls.Conn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				return
			}
		}
	}
	wg.Go(func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			wg.Go(func() { serve(c) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		s.base.CloseIdleConnections()
		wg.Wait()
	})
	return s
}

// TestHTTP2 tests a server that ends streams and connections. net/http itself sends a
// refused stream again. The Transport does not see this, and only in this way a POST
// may be seen twice. If a stream is reset in a body, reading the body returns an
// error.
func TestHTTP2(t *testing.T) {
	timeout := resilient.WithAttemptTimeout(300 * time.Millisecond)
	first := func(refuse func(*stream)) func(*stream) bool {
		return func(s *stream) bool {
			if s.n == 1 {
				refuse(s)
				return true
			}
			s.headers(200, true)
			return true
		}
	}
	for _, tt := range []struct {
		name   string
		why    string
		answer func(*stream) bool
		opts   []resilient.Option
		get    want
		post   want
	}{
		{
			name: "refused stream", why: "RFC 9113 section 8.7: not processed, and net/http sends it again",
			answer: first(func(s *stream) { s.reset(http2.ErrCodeRefusedStream) }),
			get:    want{seen: 2, status: 200}, post: want{seen: 2, status: 200},
		},
		{
			name: "every stream refused", why: "net/http tries again at once, then after a second: the attempt timeout ends that",
			answer: func(s *stream) bool { s.reset(http2.ErrCodeRefusedStream); return true },
			opts:   []resilient.Option{timeout},
			get:    want{seen: 6, tries: 3}, post: want{seen: 2},
		},
		{
			name: "GOAWAY before the stream", why: "RFC 9113 section 6.8: not processed, and net/http sends it again",
			answer: first(func(s *stream) { s.goAway(0, http2.ErrCodeNo) }),
			get:    want{seen: 2, status: 200}, post: want{seen: 2, status: 200},
		},
		{
			name: "graceful GOAWAY after the stream", why: "the request is still answered",
			answer: func(s *stream) bool {
				s.goAway(s.id, http2.ErrCodeNo)
				s.headers(200, true)
				return false
			},
			get: want{seen: 1, status: 200}, post: want{seen: 1, status: 200},
		},
		{
			name: "GOAWAY after the stream, then closed", why: "it may have been processed",
			answer: func(s *stream) bool { s.goAway(s.id, http2.ErrCodeNo); return false },
			get:    want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name:   "calm demanded",
			answer: func(s *stream) bool { s.goAway(s.id, http2.ErrCodeEnhanceYourCalm); return false },
			get:    want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "closed", answer: func(*stream) bool { return false },
			get: want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "never answers", answer: func(*stream) bool { return true }, opts: []resilient.Option{timeout},
			get: want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "reset before headers", why: "it may have been processed",
			answer: func(s *stream) bool { s.reset(http2.ErrCodeInternal); return true },
			get:    want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "canceled by the server", answer: func(s *stream) bool { s.reset(http2.ErrCodeCancel); return true },
			get: want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "protocol error of a stream", why: "net/http takes it for a refusal (go.dev/issue/47635), which nobody above it can prevent",
			answer: first(func(s *stream) { s.reset(http2.ErrCodeProtocol) }),
			get:    want{seen: 2, status: 200}, post: want{seen: 2, status: 200},
		},
		{
			name: "reset in the body", why: "the caller has the answer in hand",
			answer: func(s *stream) bool {
				s.headers(200, false, "content-length", "100")
				_ = s.WriteData(s.id, false, []byte("hello"))
				s.reset(http2.ErrCodeInternal)
				return true
			},
			get: want{seen: 1, status: 200, short: true}, post: want{seen: 1, status: 200, short: true},
		},
		{
			name: "closed in the body",
			answer: func(s *stream) bool {
				s.headers(200, false)
				_ = s.WriteData(s.id, false, []byte("hello"))
				return false
			},
			get: want{seen: 1, status: 200, short: true}, post: want{seen: 1, status: 200, short: true},
		},
		{
			name: "reset in an error body", why: "a status is an answer, whatever becomes of its body",
			answer: func(s *stream) bool {
				s.headers(500, false)
				_ = s.WriteData(s.id, false, []byte("hello"))
				s.reset(http2.ErrCodeInternal)
				return true
			},
			get: want{seen: 3, status: 500, short: true}, post: want{seen: 1, status: 500, short: true},
		},
		{
			name: "no status", answer: func(s *stream) bool {
				_ = s.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, EndHeaders: true, EndStream: true})
				return true
			},
			get: want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "nonsense in HPACK", answer: func(s *stream) bool {
				_ = s.WriteHeaders(http2.HeadersFrameParam{
					StreamID: s.id, EndHeaders: true, BlockFragment: []byte(strings.Repeat("\xff", 99)),
				})
				return true
			},
			get: want{seen: 3, tries: 3}, post: want{seen: 1},
		},
		{
			name: "endless headers", answer: func(s *stream) bool {
				err := s.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id})
				// 0x00: a literal field with a new name, not indexed.
				field := []byte("\x00\x01x\x7f\x80\x02" + strings.Repeat("y", 0x7f+0x100))
				for err == nil {
					err = s.WriteContinuation(s.id, false, field)
				}
				return false
			},
			get: want{seen: 3, tries: 3}, post: want{seen: 1},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for method, want := range map[string]want{http.MethodGet: tt.get, http.MethodPost: tt.post} {
				t.Run(method, func(t *testing.T) {
					leaveNothing(t)
					srv := serveHTTP2(t, tt.answer)
					srv.base.MaxResponseHeaderBytes = 64 << 10
					got := call(newTransport(srv.base, tt.opts...), newRequest(t, method, srv.url))
					want.check(t, got, &srv.ledger, method)
					require.Less(t, got.took, patience/2, "bounded")
				})
			}
		})
	}
}

// TestHTTP2RefusedByEveryConnection tests go.dev/issue/52459: net/http dials and
// sends without pause. The Transport does not see these repetitions, and they end with
// the attempt timeout.
func TestHTTP2RefusedByEveryConnection(t *testing.T) {
	for method, tries := range map[string]int{http.MethodGet: 3, http.MethodPost: 1} {
		t.Run(method, func(t *testing.T) {
			leaveNothing(t)
			srv := serveHTTP2(t, func(s *stream) bool { s.goAway(0, http2.ErrCodeNo); return false })
			attempts := 0
			client := newTransport(srv.base, resilient.WithAttemptTimeout(200*time.Millisecond),
				resilient.WithTrace(&resilient.Trace{AttemptDone: func(resilient.AttemptInfo) { attempts++ }}))
			got := call(client, newRequest(t, method, srv.url))
			require.Error(t, got.err)
			var timeout interface{ Timeout() bool }
			require.True(t, errors.As(got.err, &timeout) && timeout.Timeout(), "error: %v", got.err)
			require.Equal(t, tries, attempts, "a POST that timed out is not known to be refused")
			require.Less(t, got.took, patience/2, "bounded")
		})
	}
}
