package resilient_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// TestMethodGate: a request that may have been acted upon is sent again only if
// it is idempotent, by its method or by a key. CONNECT never is: it is a
// tunnel.
func TestMethodGate(t *testing.T) {
	for _, tt := range []struct {
		method, header string
		value          string // of the header; "-": none
		opts           []resilient.Option
		want           int
	}{
		{method: "", want: 4},
		{method: "GET", want: 4},
		{method: "HEAD", want: 4},
		{method: "OPTIONS", want: 4},
		{method: "TRACE", want: 4},
		{method: "PUT", want: 4},
		{method: "DELETE", want: 4},
		{method: "POST", want: 1},
		{method: "PATCH", want: 1},
		{method: "CONNECT", want: 1},
		{method: "LOCK", want: 1},
		{method: "get", want: 1}, // methods are case-sensitive, RFC 9110 section 9.1
		{method: "PURGE", want: 1},
		{method: "QUERY", want: 4},
		{method: "PROPFIND", want: 4},
		{method: "REPORT", want: 4},
		{method: "SEARCH", want: 4},
		{method: "MKCOL", want: 4},
		{method: "MOVE", want: 4},
		{method: "UNLOCK", want: 4},
		{method: "VERSION-CONTROL", want: 4},
		{method: "UPDATEREDIRECTREF", want: 4},
		{method: "POST", header: "Idempotency-Key", want: 4},
		{method: "POST", header: "X-Idempotency-Key", want: 4},
		{method: "POST", header: "Idempotency-Key", value: "-", want: 1},
		{method: "POST", opts: []resilient.Option{resilient.WithRetryNonIdempotent(true)}, want: 4},
		{method: "CONNECT", opts: []resilient.Option{resilient.WithRetryNonIdempotent(true)}, want: 1},
		{method: "POST", opts: []resilient.Option{resilient.WithRetryNonIdempotent(true), resilient.WithRetryNonIdempotent(false)}, want: 1},
	} {
		t.Run(tt.method+tt.header, func(t *testing.T) {
			for _, failure := range []step{answer(500), answer(503), fails(io.EOF)} {
				base := newScript(failure)
				req := get(t)
				req.Method = tt.method
				if tt.header != "" {
					req.Header.Set(tt.header, strings.TrimPrefix(cmp.Or(tt.value, "k"), "-"))
				}
				resp, err := resilient.NewTransport(base, append(tt.opts, every(0), unbounded())...).RoundTrip(req)
				if err == nil {
					require.NoError(t, resp.Body.Close())
				}
				require.Equal(t, tt.want, base.Count())
			}
		})
	}
}

// TestIdempotencyKey: the key is one for all attempts of a call, never replaces
// the caller's, and is not written into the caller's header. None is added
// unasked, because net/http sends again by itself a request that has one.
func TestIdempotencyKey(t *testing.T) {
	made := 0
	option := resilient.WithIdempotencyKey(func(*http.Request) string {
		made++
		return fmt.Sprint("key", made)
	})
	base := newScript(answer(500), answer(500), answer(200))
	transport := resilient.NewTransport(base, option, every(0), resilient.WithMaxAttempts(3))
	req := post(t)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 3, base.Count(), "a POST with a key may be sent again")
	for _, s := range base.Attempts() {
		require.Equal(t, "key1", s.Header.Get("Idempotency-Key"), "one key for each call")
		require.Equal(t, "payload", string(s.Body))
	}
	require.Empty(t, req.Header, "the caller's header map is not written to")

	base.Reset()
	req = post(t)
	req.Header.Set("Idempotency-Key", "mine")
	resp, err = transport.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "mine", base.Attempts()[2].Header.Get("Idempotency-Key"), "never over the caller's")

	resp, err = transport.RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, made, "not made for idempotent methods")

	none := resilient.WithIdempotencyKey(func(*http.Request) string { return "" })
	base = newScript(answer(500))
	resp, err = resilient.NewTransport(base, none).RoundTrip(post(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, base.Count())
	require.NotContains(t, base.Attempts()[0].Header, "Idempotency-Key")
}

// TestBodies: a body with GetBody is replayed. One without is recorded up to a
// limit, or else sent once, and is never cut short.
func TestBodies(t *testing.T) {
	file := func(t *testing.T) io.Reader {
		t.Helper()
		f, err := os.CreateTemp(t.TempDir(), "")
		require.NoError(t, err)
		_, err = f.WriteString("payload")
		require.NoError(t, err)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		return f
	}
	pipe := func(*testing.T) io.Reader {
		r, w := io.Pipe()
		go func() { _, _ = io.WriteString(w, "payload"); _ = w.Close() }()
		return r
	}
	for _, tt := range []struct {
		name   string
		body   func(*testing.T) io.Reader
		buffer int64
		want   []string
		why    string
	}{
		{"nil", func(*testing.T) io.Reader { return nil }, 0, []string{"", "", ""}, "success"},
		{"NoBody", func(*testing.T) io.Reader { return http.NoBody }, 0, []string{"", "", ""}, "success"},
		{"bytes.Reader", func(*testing.T) io.Reader { return bytes.NewReader([]byte("payload")) }, 0, []string{"payload", "payload", "payload"}, "success"},
		{"bytes.Buffer", func(*testing.T) io.Reader { return bytes.NewBufferString("payload") }, 0, []string{"payload", "payload", "payload"}, "success"},
		{"file, no buffer", file, 0, []string{"payload"}, "body not replayable"},
		{"file, buffer", file, 7, []string{"payload", "payload", "payload"}, "success"},
		{"file, buffer too small", file, 6, []string{"payload"}, "body not replayable"},
		{"pipe, no buffer", pipe, 0, []string{"payload"}, "body not replayable"},
		{"pipe, buffer", pipe, 1 << 20, []string{"payload", "payload", "payload"}, "success"},
	} {
		for _, failure := range []struct {
			name string
			fail func(http.ResponseWriter)
		}{
			{"status", func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }},
			{"EOF", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
			{"timeout", func(http.ResponseWriter) { time.Sleep(2 * time.Second) }},
		} {
			t.Run(tt.name+"/"+failure.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var mu sync.Mutex
					var got []string
					base := serve(t, func(w http.ResponseWriter, r *http.Request) {
						b, _ := io.ReadAll(r.Body)
						mu.Lock()
						got = append(got, string(b))
						n := len(got)
						mu.Unlock()
						if n < 3 {
							failure.fail(w)
						}
					})
					var r recorder
					transport := resilient.NewTransport(base, every(3*time.Second), unbounded(), resilient.WithTrace(r.trace()),
						resilient.WithReplayBuffer(tt.buffer), resilient.WithAttemptTimeout(time.Second))
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://api.test/", tt.body(t))
					require.NoError(t, err)
					resp, err := transport.RoundTrip(req)
					if err == nil {
						require.NoError(t, resp.Body.Close())
					}
					time.Sleep(time.Minute) // the handlers that hang have ended
					mu.Lock()
					defer mu.Unlock()
					require.Equal(t, tt.want, got)
					require.Equal(t, tt.why, r.why(t))
				})
			})
		}
	}
}

// TestReplayBufferIsGivenToTheBase: HTTP/2 replays through GetBody after a
// GOAWAY.
func TestReplayBufferIsGivenToTheBase(t *testing.T) {
	src := &trackedBody{Reader: strings.NewReader("payload")}
	req := post(t)
	req.Body, req.GetBody = src, nil
	base := step(func(out *http.Request) (*http.Response, error) {
		for range 2 {
			half := make([]byte, 3)
			_, err := io.ReadFull(out.Body, half)
			require.NoError(t, err)
			body, err := out.GetBody()
			require.NoError(t, err)
			all, err := io.ReadAll(body)
			require.NoError(t, err)
			require.Equal(t, "payload", string(all))
			require.NoError(t, body.Close())
			require.NoError(t, body.Close(), "a second Close is harmless")
			_, err = body.Read(half)
			require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
		}
		require.Zero(t, src.Closes(), "not while it may be needed")
		require.NoError(t, out.Body.Close())
		return answer(200)(out)
	})
	resp, err := resilient.NewTransport(base, resilient.WithReplayBuffer(7)).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Nil(t, req.GetBody, "the caller's request is not written to")
	require.Equal(t, 1, src.Closes())
}

// TestAbandonedReaderOfARecordedBody: no two attempts share a body. The first
// attempt was answered while the base was still reading: it read on, past the
// limit, and left nothing for the second.
func TestAbandonedReaderOfARecordedBody(t *testing.T) {
	const payload = "0123456789abcdefghij"
	var old io.ReadCloser
	got := ""
	base := newSteps(
		func(out *http.Request) (*http.Response, error) {
			old = out.Body
			_, err := io.ReadFull(old, make([]byte, 3))
			require.NoError(t, err)
			return answer(429)(out)
		},
		func(out *http.Request) (*http.Response, error) {
			_, err := io.ReadAll(old)
			require.ErrorContains(t, err, "later attempt")
			require.NoError(t, old.Close())
			all, err := io.ReadAll(out.Body)
			require.NoError(t, err)
			got = string(all)
			require.NoError(t, out.Body.Close())
			return answer(200)(out)
		})
	req := post(t)
	req.Body, req.GetBody = io.NopCloser(strings.NewReader(payload)), nil
	resp, err := resilient.NewTransport(base, every(0), resilient.WithReplayBuffer(10)).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, payload, got)
}

// TestGetBodyFails: a GetBody that fails leaves the caller the response.
func TestGetBodyFails(t *testing.T) {
	for _, tt := range []struct {
		name    string
		getBody func() (io.ReadCloser, error)
	}{
		{"error", func() (io.ReadCloser, error) { return nil, errors.New("gone") }},
		{"nil", func() (io.ReadCloser, error) { return nil, nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r recorder
			base := newScript(answer(429))
			req := post(t)
			req.GetBody = tt.getBody
			resp, err := resilient.NewTransport(base, resilient.WithTrace(r.trace())).RoundTrip(req)
			require.NoError(t, err, "the response is not lost")
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 1, base.Count())
			require.Equal(t, "body error", r.why(t))
		})
	}
}

// TestGetBodyThatFailsHalfway: the body that came with an error was lost open.
func TestGetBodyThatFailsHalfway(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader("x")}
	req := post(t)
	req.GetBody = func() (io.ReadCloser, error) { return body, io.ErrUnexpectedEOF }
	resp, err := resilient.NewTransport(newScript(answer(429)), every(0)).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, body.Closes())
}

// TestRequestBodyReadErrorIsFinal: an error of the body itself ends the call,
// is in the chain of its error, and is not retried.
func TestRequestBodyReadErrorIsFinal(t *testing.T) {
	gone := errors.New("disk gone")
	for _, buffer := range []int64{0, 100} {
		synctest.Test(t, func(t *testing.T) {
			base := serve(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) })
			var r recorder
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://api.test/",
				io.MultiReader(strings.NewReader("half"), failingReader{gone}))
			require.NoError(t, err)
			_, err = resilient.NewTransport(base, resilient.WithReplayBuffer(buffer), resilient.WithTrace(r.trace())).
				RoundTrip(req)
			require.ErrorIs(t, err, gone)
			require.Len(t, r.attempts, 1, "half a body is never sent again")
		})
	}
}

// TestStreamingUploadIsNotHeldBack: a body is streamed as it is written, even
// one that is recorded, past the end of the buffer.
func TestStreamingUploadIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := []resilient.Option{resilient.WithReplayBuffer(1), resilient.WithAttemptTimeout(time.Minute)}
		streamsBothWays(contractTest{t, configuration{opts: opts}})
	})
}

// TestUploadAnsweredEarly: no two attempts share a body. The server answers
// before it has read the 8 MiB, so the base may still be reading the first body
// while the second attempt begins. Run it with -race.
func TestUploadAnsweredEarly(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	for _, tt := range []struct {
		name   string
		buffer int64
	}{
		{"GetBody", 0},
		{"replay buffer", 16 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			hits := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				hits++
				n := hits
				mu.Unlock()
				if n < 3 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				got, _ := io.ReadAll(r.Body)
				if !bytes.Equal(payload, got) {
					w.WriteHeader(http.StatusTeapot)
				}
			}))
			defer srv.Close()
			base := &http.Transport{}
			defer base.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, srv.URL, bytes.NewReader(payload))
			require.NoError(t, err)
			if tt.buffer > 0 {
				req.GetBody = nil
			}
			resp, err := resilient.NewTransport(base, every(0), resilient.WithMaxAttempts(10), resilient.WithReplayBuffer(tt.buffer)).RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
		})
	}
}

// TestMemoryOfAHugeBodyWithoutGetBody: a GiB is streamed through, and takes no
// more memory than the replay buffer.
func TestMemoryOfAHugeBodyWithoutGetBody(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	base := step(func(req *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
		return answer(429)(req)
	})
	for _, buffer := range []int64{0, 1 << 10} {
		var r recorder
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://api.test/",
			io.LimitReader(readerFunc(func(p []byte) (int, error) { return len(p), nil }), 1<<30))
		require.NoError(t, err)
		resp, err := resilient.NewTransport(base, resilient.WithReplayBuffer(buffer), resilient.WithTrace(r.trace())).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "body not replayable", r.why(t))
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

// TestRequestCancelEndsAWait: the deprecated field ended attempts, and no wait.
func TestRequestCancelEndsAWait(t *testing.T) {
	for _, tt := range []struct {
		name string
		base *resilienttest.Script
		opts []resilient.Option
		sent int
	}{
		{"backoff", newScript(answer(429)), []resilient.Option{every(time.Minute)}, 1},
		{"rate limit", newScript(answer(200)), []resilient.Option{resilient.WithRateLimit(0.1, 1)}, 1},
		{"limiter", newScript(answer(200)), []resilient.Option{resilient.WithLimiter(limiterFunc(func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}))}, 0},
		{"before an attempt", newScript(fails(io.EOF)), []resilient.Option{every(0)}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport, start := resilient.NewTransport(tt.base, tt.opts...), time.Now()
				if tt.name == "rate limit" {
					resp, err := transport.RoundTrip(get(t))
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
				}
				req, canceled := get(t), make(chan struct{})
				//lint:ignore SA1019 deprecated, and promised to work
				req.Cancel = canceled //nolint:staticcheck // as above
				if tt.name == "before an attempt" {
					tt.base.Reset(resilienttest.Answer{Func: func(*http.Request) (*http.Response, error) {
						close(canceled)
						return nil, io.EOF
					}})
				} else {
					time.AfterFunc(3*time.Second, func() { close(canceled) })
				}
				resp, err := transport.RoundTrip(req)
				require.Nil(t, resp)
				require.Error(t, err)
				if tt.name == "before an attempt" {
					require.ErrorIs(t, err, io.EOF)
				} else {
					require.ErrorIs(t, err, context.Canceled)
					require.Equal(t, 3*time.Second, time.Since(start))
				}
				require.Equal(t, tt.sent, tt.base.Count())
			})
		})
	}
}
