package resilient_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

func TestAttempts(t *testing.T) {
	for n := 1; n <= 5; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorder
				base := newScript(answer(500))
				resp, err := resilient.NewTransport(base, resilient.WithMaxAttempts(n), resilient.WithTrace(r.trace())).RoundTrip(get(t))
				require.NoError(t, err, "exhaustion does not lose the response")
				require.Equal(t, n, base.count())
				require.Equal(t, "out of attempts", r.why(t))
				require.Contains(t, readAll(t, resp), `"message":"m"`, "the last body is whole")
			})
		})
	}
}

func TestBackOffIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made := 0
		policy := resilient.WithBackOff(func() backoff.BackOff {
			made++
			// Not Reset by whoever made it: its intervals would all be 0.
			return &backoff.ExponentialBackOff{
				InitialInterval: time.Second, Multiplier: 3, MaxInterval: 5 * time.Second,
				Stop: backoff.Stop, Clock: backoff.SystemClock,
			}
		})
		base := newScript(answer(500))
		transport := resilient.NewTransport(base, policy, resilient.WithMaxAttempts(5), unbounded())
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, []time.Duration{1 * time.Second, 3 * time.Second, 5 * time.Second, 5 * time.Second}, base.gaps())
		require.Equal(t, 1, made, "one policy for each request that is retried: they keep state")

		base.steps = []step{answer(200)}
		resp, err = transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, made, "none for a request that is not")
	})
}

func TestBackOffMaxIntervalIncludesJitter(t *testing.T) {
	// backoff/v4 applies its jitter after MaxInterval: 1 s became 1.498 s.
	synctest.Test(t, func(t *testing.T) {
		policy := resilient.WithBackOff(func() backoff.BackOff {
			return backoff.NewExponentialBackOff(backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Second))
		})
		base := newScript(answer(500))
		resp, err := resilient.NewTransport(base, policy, resilient.WithMaxAttempts(100), unbounded()).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		distinct := map[time.Duration]bool{}
		for _, gap := range base.gaps() {
			require.LessOrEqual(t, gap, time.Second)
			require.GreaterOrEqual(t, gap, time.Second/2)
			distinct[gap] = true
		}
		require.Greater(t, len(distinct), 90, "and there is jitter at the cap too: no herd")
	})
}

func TestDefaultBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			base := newScript(answer(429))
			resp, err := resilient.NewTransport(base).RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			for i, gap := range base.gaps() {
				mean := 500 * time.Millisecond << i
				require.InDelta(t, mean, gap, float64(mean)/2+1, "never zero after a 429")
			}
		}
	})
}

// TestIsolatedFailureIsRetriedSoon: nobody else fails, so there is no herd to
// spread out.
func TestIsolatedFailureIsRetriedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			base := newScript(answer(500), answer(200))
			resp, err := resilient.NewTransport(base).RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.InDelta(t, 262500*time.Microsecond, base.gaps()[0], float64(12500*time.Microsecond))
		}

		longest := time.Duration(0)
		for range 50 {
			base := newScript(answer(500), answer(500), answer(500), answer(200))
			transport := resilient.NewTransport(base, resilient.WithMaxAttempts(2))
			for range 2 {
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
			}
			require.Equal(t, 4, base.count())
			longest = max(longest, base.gaps()[2])
		}
		require.Greater(t, longest, 275*ms, "once a retry has failed, the intervals are what the policy says")
	})
}

func TestBackOffStops(t *testing.T) {
	for name, f := range map[string]func() backoff.BackOff{
		"stop":        func() backoff.BackOff { return &backoff.StopBackOff{} },
		"no policy":   func() backoff.BackOff { return nil },
		"max retries": func() backoff.BackOff { return backoff.WithMaxRetries(&backoff.ZeroBackOff{}, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			var r recorder
			base := newScript(answer(429, "Retry-After", "1"))
			resp, err := resilient.NewTransport(base, resilient.WithBackOff(f), resilient.WithTrace(r.trace())).RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 1, base.count(), "Stop is -1 and must not reach a timer")
			require.Equal(t, "backoff stopped", r.why(t))
		})
	}
}

func TestHintIsAFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			policy, least, most time.Duration
			why                 string
		}{
			{0, 7 * time.Second, 7 * time.Second, "nothing to add"},
			{2 * time.Second, 7 * time.Second, 9 * time.Second, "jitter only adds"},
			{100 * time.Second, 7 * time.Second, time.Minute, "up to WithMaxWait"},
		} {
			for range 20 {
				base := newScript(answer(500, "Retry-After", "7"), answer(200))
				resp, err := resilient.NewTransport(base, every(tt.policy)).RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.GreaterOrEqual(t, base.gaps()[0], tt.least, tt.why)
				require.LessOrEqual(t, base.gaps()[0], tt.most, tt.why)
			}
		}
	})
}

func TestWaitsThatCannotSucceedAreNotBegun(t *testing.T) {
	for _, tt := range []struct {
		name, hint string
		deadline   time.Duration
		opts       []resilient.Option
		attempts   int
		took       time.Duration
		why        string
	}{
		{name: "hint over the default", hint: "3600", attempts: 1, why: "max wait"},
		{name: "hint over WithMaxWait", hint: "31", opts: []resilient.Option{resilient.WithMaxWait(30 * time.Second)}, attempts: 1, why: "max wait"},
		{name: "hint just fits", hint: "30", opts: []resilient.Option{resilient.WithMaxWait(30 * time.Second)}, attempts: 4, took: 90 * time.Second, why: "out of attempts"},
		{name: "hint that overflows", hint: "9223372037", attempts: 1, why: "max wait"},
		{name: "hint over the deadline", hint: "10", deadline: 10 * time.Second, attempts: 1, why: "deadline"},
		{name: "jitter gives way to the deadline", hint: "10", deadline: 11 * time.Second, opts: []resilient.Option{every(time.Hour)}, attempts: 2, took: 10 * time.Second, why: "deadline"},
		{name: "backoff over the deadline", deadline: time.Second, opts: []resilient.Option{every(2 * time.Second)}, attempts: 1, why: "deadline"},
		{name: "backoff is shortened", opts: []resilient.Option{every(time.Hour), resilient.WithMaxWait(time.Second)}, attempts: 4, took: 3 * time.Second, why: "out of attempts"},
		{name: "never wait", opts: []resilient.Option{every(1), resilient.WithMaxWait(0)}, attempts: 1, why: "max wait"},
		{name: "never wait, and nothing to wait for", opts: []resilient.Option{resilient.WithMaxWait(0)}, attempts: 4, why: "out of attempts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorder
				header := []string{}
				if tt.hint != "" {
					header = []string{"Retry-After", tt.hint}
				}
				base := newScript(answer(429, header...))
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				opts := append([]resilient.Option{every(0), resilient.WithTrace(r.trace())}, tt.opts...)
				start := time.Now()
				resp, err := resilient.NewTransport(base, opts...).RoundTrip(get(t).WithContext(ctx))
				require.NoError(t, err, "the response, not an error")
				require.Equal(t, 429, resp.StatusCode)
				require.Equal(t, tt.hint, resp.Header.Get("Retry-After"), "with the full hint")
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.attempts, base.count())
				require.Equal(t, tt.took, time.Since(start))
				require.Equal(t, tt.why, r.why(t))
			})
		})
	}
}

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
				require.Equal(t, tt.want, base.count())
			}
		})
	}
}

// traced is a step that reports to httptrace as a transport would, then fails.
func traced(err error, hooks ...func(*httptrace.ClientTrace)) step {
	return func(req *http.Request) (*http.Response, error) {
		if trace := httptrace.ContextClientTrace(req.Context()); trace != nil {
			for _, hook := range hooks {
				hook(trace)
			}
		}
		return nil, err
	}
}

func TestNeverSentIsProven(t *testing.T) {
	seek := func(c *httptrace.ClientTrace) { c.GetConn("api.test:80") }
	connect := func(c *httptrace.ClientTrace) { c.GotConn(httptrace.GotConnInfo{}) }
	field := func(c *httptrace.ClientTrace) { c.WroteHeaderField("Host", nil) }
	wrote := func(c *httptrace.ClientTrace) { c.WroteRequest(httptrace.WroteRequestInfo{}) }
	broke := func(c *httptrace.ClientTrace) { c.WroteRequest(httptrace.WroteRequestInfo{Err: io.EOF}) }
	headers := func(c *httptrace.ClientTrace) { c.WroteHeaders() }
	refused := &net.OpError{Op: "dial", Err: errors.New("refused")}
	for _, tt := range []struct {
		name string
		base step
		want int
	}{
		{"no hooks: nothing is known", traced(io.EOF), 1},
		{"no connection", traced(io.EOF, seek), 4},
		{"nothing written", traced(io.EOF, seek, connect, broke), 4},
		{"a field written", traced(io.EOF, seek, connect, field), 1},
		{"headers written", traced(io.EOF, seek, connect, headers), 1},
		{"all written", traced(io.EOF, seek, connect, wrote), 1},
		{"dial failed", traced(refused), 4},
		{"sent once, then the dial failed", traced(refused, seek, connect, wrote), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newScript(tt.base)
			_, err := resilient.NewTransport(base, every(0), unbounded()).RoundTrip(post(t))
			require.Error(t, err)
			require.Equal(t, tt.want, base.count())
		})
	}
}

func TestRealDialFailureRetriesPost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	var r recorder
	_, err = resilient.NewTransport(base, every(0), resilient.WithTrace(r.trace())).
		RoundTrip(newRequest(t, http.MethodPost, "http://"+l.Addr().String(), "payload"))
	require.Error(t, err)
	require.Len(t, r.attempts, 4)
	require.Equal(t, "never sent", r.attempts[0].Verdict.Reason)
}

func TestRealLostPostIsSentOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hits := 0
		base := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			hits++
			_, _ = io.ReadAll(r.Body)
			panic(http.ErrAbortHandler) // the connection ends without an answer
		})
		_, err := resilient.NewTransport(base, every(0)).RoundTrip(post(t))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, 1, hits)
	})
}

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
	require.Equal(t, 3, base.count(), "a POST with a key may be sent again")
	for _, s := range base.sent {
		require.Equal(t, "key1", s.header.Get("Idempotency-Key"), "one key for each call")
		require.Equal(t, "payload", s.body)
	}
	require.Empty(t, req.Header, "the caller's header map is not written to")

	base.sent = nil
	req = post(t)
	req.Header.Set("Idempotency-Key", "mine")
	resp, err = transport.RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "mine", base.sent[2].header.Get("Idempotency-Key"), "never over the caller's")

	resp, err = transport.RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, made, "not made for idempotent methods")

	none := resilient.WithIdempotencyKey(func(*http.Request) string { return "" })
	base = newScript(answer(500))
	resp, err = resilient.NewTransport(base, none).RoundTrip(post(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, base.count())
	require.NotContains(t, base.sent[0].header, "Idempotency-Key")
}

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
		for name, failure := range map[string]func(http.ResponseWriter){
			"status":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
			"EOF":     func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
			"timeout": func(http.ResponseWriter) { time.Sleep(2 * time.Second) },
		} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
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
							failure(w)
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

func TestReplayBufferIsGivenToTheBase(t *testing.T) {
	// HTTP/2 replays through GetBody after a GOAWAY.
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
		require.Zero(t, src.closes(), "not while it may be needed")
		require.NoError(t, out.Body.Close())
		return answer(200)(out)
	})
	resp, err := resilient.NewTransport(base, resilient.WithReplayBuffer(7)).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Nil(t, req.GetBody, "the caller's request is not written to")
	require.Equal(t, 1, src.closes())
}

func TestAbandonedReaderOfARecordedBody(t *testing.T) {
	// The first attempt was answered while the base was still reading: it read
	// on, past the limit, and left nothing for the second.
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

// newSteps is a base that answers with its steps in turn and leaves the body to
// them.
func newSteps(steps ...step) http.RoundTripper {
	n := 0
	return step(func(req *http.Request) (*http.Response, error) {
		n++
		return steps[n-1](req)
	})
}

func TestGetBodyFails(t *testing.T) {
	for name, f := range map[string]func() (io.ReadCloser, error){
		"error": func() (io.ReadCloser, error) { return nil, errors.New("gone") },
		"nil":   func() (io.ReadCloser, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			var r recorder
			base := newScript(answer(429))
			req := post(t)
			req.GetBody = f
			resp, err := resilient.NewTransport(base, resilient.WithTrace(r.trace())).RoundTrip(req)
			require.NoError(t, err, "the response is not lost")
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 1, base.count())
			require.Equal(t, "body error", r.why(t))
		})
	}
}

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

func TestStreamingUploadIsNotHeldBack(t *testing.T) {
	// Nor is one that is recorded, past the end of the buffer.
	synctest.Test(t, func(t *testing.T) {
		opts := []resilient.Option{resilient.WithReplayBuffer(1), resilient.WithAttemptTimeout(time.Minute)}
		streamsBothWays(contractTest{t, configuration{opts: opts}})
	})
}

func TestUploadAnsweredEarly(t *testing.T) {
	// The server answers before it has read the 8 MiB: the base may still be
	// reading the first body while the second attempt begins. Run with -race.
	payload := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	for name, buffer := range map[string]int64{"GetBody": 0, "replay buffer": 16 << 20} {
		t.Run(name, func(t *testing.T) {
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
			if buffer > 0 {
				req.GetBody = nil
			}
			resp, err := resilient.NewTransport(base, every(0), resilient.WithMaxAttempts(10), resilient.WithReplayBuffer(buffer)).RoundTrip(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusOK, resp.StatusCode)
		})
	}
}

func TestConnectionIsReused(t *testing.T) {
	// 1,000 retries over connections that were not drained took a peer 1,001.
	for name, body := range map[string]string{"empty": "", "16 KiB": strings.Repeat("x", 16<<10), "chunked": strings.Repeat("x", 60<<10)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hits := 0
				conns := map[string]bool{}
				base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					if hits++; hits < 100 {
						w.WriteHeader(http.StatusInternalServerError)
						_, _ = io.WriteString(w, body)
					}
				})
				base.MaxConnsPerHost = 1 // a body left open would block for ever
				dial := base.DialContext
				base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conns[strconv.Itoa(len(conns))] = true
					return dial(ctx, network, addr)
				}
				resp, err := resilient.NewTransport(base, every(time.Second), resilient.WithMaxAttempts(100), unbounded()).RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, 200, resp.StatusCode)
				require.Len(t, conns, 1)
			})
		})
	}
}

// drip gives a byte a minute, for ever, and unblocks when it is closed.
type drip struct {
	done chan struct{}
	once sync.Once
}

func (d *drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Minute): //nolint:forbidigo // the test's clock is virtual
		p[0] = 'x'
		return 1, nil
	case <-d.done:
		return 0, net.ErrClosed
	}
}

func (d *drip) Close() error { d.once.Do(func() { close(d.done) }); return nil }

func dripping(status int) (*drip, step) {
	d := &drip{done: make(chan struct{})}
	return d, func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: d, ContentLength: -1}, nil
	}
}

func TestSlowErrorBodyNeverHoldsARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, slow := dripping(500)
		base := newScript(slow, answer(200))
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(3*time.Second)).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 3*time.Second, time.Since(start), "reading overlaps the backoff")
		<-body.done // closed
	})
}

// The wait runs from the answer, but whether it fits the deadline was asked as
// if it began once the body had been read.
func TestSlowErrorBodyIsNotCountedTwiceAgainstTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, slow := dripping(500)
		base := newScript(slow, answer(200))
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(3*time.Second)).RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestSlowErrorBodyOfTheLastResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, slow := dripping(404)
		start := time.Now()
		resp, err := resilient.NewTransport(newScript(slow)).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
		buf := make([]byte, 3)
		_, err = io.ReadFull(resp.Body, buf)
		require.NoError(t, err, "the caller reads on from the beginning")
		require.Equal(t, "xxx", string(buf))
		require.Equal(t, 3*time.Minute, time.Since(start))
		require.NoError(t, resp.Body.Close())
		<-body.done
		e, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, "xxx", string(e.Body))
	})
}

func TestEndlessErrorBodyIsBounded(t *testing.T) {
	read := 0
	endless := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 500, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(readerFunc(func(p []byte) (int, error) {
			read += len(p)
			return len(p), nil
		}))}, nil
	}
	resp, err := resilient.NewTransport(newScript(endless), every(0)).RoundTrip(get(t))
	require.NoError(t, err)
	require.LessOrEqual(t, read, 4*64<<10, "64 KiB of each attempt")
	require.NoError(t, resp.Body.Close())
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hits atomic.Int32
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if hits.Add(1) == 1 {
				<-r.Context().Done()
				return
			}
			w.WriteHeader(http.StatusOK)
			for range 60 {
				_, _ = w.Write(make([]byte, 1<<10))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second)
			}
		})
		start := time.Now()
		resp, err := resilient.NewTransport(base, every(0), resilient.WithAttemptTimeout(2*time.Second)).RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, time.Since(start))
		require.Len(t, readAll(t, resp), 60<<10, "it stops at the headers: a peer cut the body")
		require.Equal(t, 62*time.Second, time.Since(start))
	})
}

func TestAttemptTimeoutIsToldFromTheCallers(t *testing.T) {
	hang := func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	synctest.Test(t, func(t *testing.T) {
		base := newScript(hang)
		_, err := resilient.NewTransport(base, every(0), unbounded(), resilient.WithAttemptTimeout(time.Second)).RoundTrip(get(t))
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, context.Canceled)
		require.Equal(t, 4, base.count())
		var retried *resilient.RetryError
		require.ErrorAs(t, err, &retried)
		require.Equal(t, 4, retried.Attempts)
		require.True(t, retried.Timeout())

		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		base = newScript(hang)
		_, err = resilient.NewTransport(base, resilient.WithAttemptTimeout(time.Second)).RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, base.count())

		base = newScript(hang)
		_, err = resilient.NewTransport(base, resilient.WithAttemptTimeout(time.Second)).RoundTrip(post(t))
		require.Error(t, err)
		require.Equal(t, 1, base.count(), "a POST that timed out may have been processed")
	})
}

func TestAttemptTimeoutBeforeAConnectionIsProvenUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			time.Sleep(time.Minute) // net/http dials on after the request has gone
			return nil, errors.New("no route")
		}}
		_, err := resilient.NewTransport(base, every(0), resilient.WithAttemptTimeout(time.Second)).RoundTrip(post(t))
		require.Error(t, err)
		require.EqualValues(t, 4, dials.Load())
		time.Sleep(time.Hour)
	})
}

func TestAttemptTimeoutReleasesItsContext(t *testing.T) {
	for name, body := range map[string]string{"body": "x", "no body": ""} {
		t.Run(name, func(t *testing.T) {
			var attempt context.Context
			base := step(func(req *http.Request) (*http.Response, error) {
				attempt = req.Context()
				resp, _ := answerWith(200, body)(req)
				if body == "" {
					resp.Body = http.NoBody
				}
				return resp, nil
			})
			resp, err := resilient.NewTransport(base, resilient.WithAttemptTimeout(time.Hour)).RoundTrip(get(t))
			require.NoError(t, err)
			if body == "" {
				require.Equal(t, http.NoBody, resp.Body, "net/http looks for it")
			} else {
				require.NoError(t, attempt.Err(), "not before the body is read")
				_, err = io.ReadAll(resp.Body)
				require.NoError(t, err)
			}
			require.Error(t, attempt.Err(), "also when Close is forgotten")
			require.NoError(t, resp.Body.Close())
		})
	}
}

func TestLateHeadersAreATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := &trackedBody{Reader: strings.NewReader("")}
		late := func(*http.Request) (*http.Response, error) { // a base that ignores its context
			time.Sleep(2 * time.Second)
			return &http.Response{StatusCode: 200, Body: body}, nil
		}
		_, err := resilient.NewTransport(newScript(late), resilient.WithMaxAttempts(1), resilient.WithAttemptTimeout(time.Second)).RoundTrip(get(t))
		require.ErrorContains(t, err, "no response headers after 1s")
		require.Equal(t, 1, body.closes())
	})
}

func TestContextEndsWhileWaiting(t *testing.T) {
	cause := errors.New("shutting down")
	for _, tt := range []struct {
		name  string
		first step
		last  func(error) bool
	}{
		{"after a response", answer(503), func(err error) bool {
			var apiErr *resilient.APIError
			return errors.As(err, &apiErr) && apiErr.StatusCode == 503 && errors.Is(err, resilient.ErrServer)
		}},
		{"after a transport error", fails(io.ErrUnexpectedEOF), func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(3*time.Second, func() { cancel(cause) })
				base := newScript(tt.first)
				var r recorder
				start := time.Now()
				_, err := resilient.NewTransport(base, every(10*time.Second), resilient.WithTrace(r.trace())).RoundTrip(get(t).WithContext(ctx))
				require.Equal(t, 3*time.Second, time.Since(start))
				require.ErrorIs(t, err, cause)
				require.True(t, tt.last(err), "neither hides the other: %v", err)
				require.Equal(t, 1, base.count())
				require.Equal(t, "canceled", r.why(t))
				require.Contains(t, err.Error(), "resilient: gave up after attempt 1: shutting down (before: ")
			})
		})
	}
}

// What ended a call was printed as it was: with the escape sequences a server
// had sent, and with the query of a base that is made of an http.Client.
func TestRetryErrorTextIsTame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("got \x1b[31m\r\nlevel=ERROR \xff\u2028 " + strings.Repeat("x", 1<<20))
		base := newScript(
			fails(&url.Error{Op: "Get", URL: "http://api.test/?token=s3cr3t", Err: io.ErrUnexpectedEOF}),
			fails(&url.Error{Op: "Get", URL: "http://api.test/?token=s3cr3t", Err: cause}),
		)
		_, err := resilient.NewTransport(base, resilient.WithMaxAttempts(2)).RoundTrip(get(t))
		require.ErrorIs(t, err, cause, "the error itself is there, whole")
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		text := err.Error()
		require.True(t, strings.HasPrefix(text, "resilient: gave up after attempt 2: got  [31m"), "%q", text)
		require.True(t, strings.HasSuffix(text, "(before: unexpected EOF)"), "%q", text)
		require.NotContains(t, text, "s3cr3t")
		require.Less(t, len(text), 2<<10)
		for _, r := range text {
			require.True(t, r == unicode.ReplacementChar || unicode.IsPrint(r), "%q", r)
		}
	})
}

func TestContextEndsDuringAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		var hits atomic.Int32
		base := serve(t, func(_ http.ResponseWriter, r *http.Request) { hits.Add(1); <-r.Context().Done() })
		_, err := resilient.NewTransport(base).RoundTrip(get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, hits.Load())
	})
}

func TestContextEndsDuringTheErrorBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, slow := dripping(500)
		base := newScript(slow)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		start := time.Now()
		resp, err := resilient.NewTransport(base).RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err, "there is a response")
		require.NoError(t, resp.Body.Close())
		require.Equal(t, time.Millisecond, time.Since(start))
		require.Equal(t, 1, base.count())
	})
}

func TestLastErrorOfSeveral(t *testing.T) {
	base := newScript(answer(503), fails(io.ErrUnexpectedEOF))
	_, err := (&http.Client{Transport: resilient.NewTransport(base, every(0), resilient.WithMaxAttempts(2))}).Do(get(t))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorIs(t, err, resilient.ErrServer, "the answer before it is not lost")
	var retried *resilient.RetryError
	require.ErrorAs(t, err, &retried)
	require.Equal(t, 2, retried.Attempts)
	require.False(t, retried.Timeout())
	require.Equal(t, []error{io.EOF}, (&resilient.RetryError{Err: io.EOF}).Unwrap())
}

func TestRetryBudget(t *testing.T) {
	run := func(t *testing.T, transport http.RoundTripper, calls int, pause time.Duration) {
		t.Helper()
		for range calls {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			time.Sleep(pause)
		}
	}
	t.Run("an outage is not amplified", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answer(503))
			transport := resilient.NewTransport(base, every(0))
			run(t, transport, 300, 100*time.Millisecond) // 10 calls a second for 30 s
			require.LessOrEqual(t, base.count(), 330)
			require.Greater(t, base.count(), 300, "some are tried")
		})
	})
	t.Run("a timeout costs two", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, req.Context().Err()
			})
			transport := resilient.NewTransport(base, every(0), resilient.WithAttemptTimeout(time.Second),
				resilient.WithRetryBudget(0, 0), resilient.WithMaxAttempts(2))
			for range 100 {
				_, err := transport.RoundTrip(get(t))
				require.Error(t, err)
			}
			require.Equal(t, 105, base.count(), "the server may still be at work: the 10 it begins with are 5")
		})
	})
	t.Run("a small client always retries", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answer(503))
			run(t, resilient.NewTransport(base), 10, time.Minute)
			require.Equal(t, 40, base.count())
		})
	})
	t.Run("retries that succeed cost nothing", func(t *testing.T) {
		n := 0
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if n++; n%3 == 0 {
				return answer(200)(req)
			}
			return answer(500)(req)
		})
		run(t, resilient.NewTransport(base, every(0)), 1000, 0)
		require.Equal(t, 3000, base.count())
	})
	t.Run("a burst of isolated failures is retried whole", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			hits := 0
			base := step(func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				defer mu.Unlock()
				if hits++; hits <= 64 {
					return answer(500)(req)
				}
				return answer(200)(req)
			})
			transport := resilient.NewTransport(base)
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					resp, err := transport.RoundTrip(get(t))
					if err != nil || resp.StatusCode != 200 {
						t.Errorf("got %v, %v", resp, err)
						return
					}
					_ = resp.Body.Close()
				})
			}
			wg.Wait()
		})
	})
	t.Run("random failures are all retried", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			calls, lost := 5000, 0
			base := newScript(func(req *http.Request) (*http.Response, error) {
				if rng.Float64() < 0.2 {
					return answer(500)(req)
				}
				return answer(200)(req)
			})
			transport := resilient.NewTransport(base)
			for range calls {
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				if resp.StatusCode != 200 {
					lost++
				}
			}
			require.LessOrEqual(t, lost, calls/100, "0.2^4 of them, and a margin")
		})
	})
	t.Run("refused before sleeping, with the response", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var r recorder
			transport := resilient.NewTransport(newScript(answer(503)), every(time.Millisecond), resilient.WithRetryBudget(0, 0))
			run(t, transport, 100, 0)
			start := time.Now()
			ctx := resilient.ContextWithOptions(t.Context(), resilient.WithTrace(r.trace()))
			resp, err := transport.RoundTrip(get(t).WithContext(ctx))
			require.NoError(t, err)
			require.Equal(t, 503, resp.StatusCode)
			require.NoError(t, resp.Body.Close())
			require.Zero(t, time.Since(start))
			require.Equal(t, "budget", r.why(t))
			require.Empty(t, r.waits)

			resp, err = transport.RoundTrip(newRequest(t, http.MethodGet, "http://other.test/", ""))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 3*time.Millisecond, time.Since(start), "another host has a budget of its own")
		})
	})
	t.Run("rejections are not its business", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answer(429))
			run(t, resilient.NewTransport(base, every(time.Millisecond), resilient.WithRetryBudget(0, 0)), 100, 0)
			require.Equal(t, 400, base.count())
		})
	})
	t.Run("what was earned fades", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fine, down := newScript(answer(200)), newScript(answer(503))
			failing := newScript(answer(503), answer(200)) // so that the key is known
			base := &switching{to: failing}
			transport := resilient.NewTransport(base, every(0), resilient.WithRetryBudget(1, 0), resilient.WithMaxAttempts(2))
			run(t, transport, 1, 0)
			base.to = fine
			run(t, transport, 100, 0)
			time.Sleep(time.Hour)
			base.to = down
			run(t, transport, 200, 0)
			require.InDelta(t, 210, down.count(), 1, "the 10 it began with")
		})
	})
}

type switching struct{ to http.RoundTripper }

func (s *switching) RoundTrip(req *http.Request) (*http.Response, error) { return s.to.RoundTrip(req) }

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

func TestTimersAreStopped(t *testing.T) {
	// A timer that is not stopped holds on to its attempt until it fires.
	const calls = 10_000
	transport := resilient.NewTransport(answer(200), resilient.WithAttemptTimeout(time.Hour))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	call := func() {
		for range calls {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
	}
	call()
	before := heap()
	call()
	require.Less(t, heap(), before+100*calls, "100 bytes a call")
}

func TestPanicsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		base := newScript(func(req *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				panic("base")
			}
			return answer(200)(req)
		})
		transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithAttemptTimeout(time.Second))
		require.PanicsWithValue(t, "base", func() { _, _ = transport.RoundTrip(post(t)) })
		start := time.Now()
		resp, err := transport.RoundTrip(post(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, time.Second, time.Since(start), "no lock is held")
	})
}

func TestHugeHintDoesNotOverflow(t *testing.T) {
	// The jitter was added to a hint of 292 years, which made the wait negative
	// and the retry immediate.
	synctest.Test(t, func(t *testing.T) {
		forever := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			a.Verdict.RetryAfter = math.MaxInt64
			return a.Verdict
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		base := newScript(answer(429))
		resp, err := resilient.NewTransport(base, every(time.Second), forever, resilient.WithMaxWait(math.MaxInt64)).RoundTrip(get(t).WithContext(ctx))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, base.count())
	})
}

type timeoutOnlyError struct{ error }

func (timeoutOnlyError) Timeout() bool { return true }

func TestTimeoutIsKept(t *testing.T) {
	// *url.Error asks for Timeout alone; a net.Error has Temporary too.
	_, err := (&http.Client{Transport: resilient.NewTransport(newScript(fails(timeoutOnlyError{io.EOF})), every(0))}).Do(get(t))
	var u *url.Error
	require.ErrorAs(t, err, &u)
	require.True(t, u.Timeout())
	require.False(t, (&resilient.RetryError{Err: &resilient.LimitError{Err: timeoutOnlyError{io.EOF}}}).Timeout(), "nothing was sent")
}

func TestPanickingHooksLeaveNoBodyOpen(t *testing.T) {
	boom := func() { panic("hook") }
	for name, opt := range map[string]resilient.Option{
		"AttemptDone": resilient.WithTrace(&resilient.Trace{AttemptDone: func(resilient.AttemptInfo) { boom() }}),
		"Done":        resilient.WithTrace(&resilient.Trace{Done: func(resilient.DoneInfo) { boom() }}),
		"classifier":  resilient.WithClassifier(func(resilient.AttemptInfo) resilient.Verdict { boom(); return resilient.Verdict{} }),
		"backoff":     resilient.WithBackOff(func() backoff.BackOff { boom(); return nil }),
	} {
		t.Run(name, func(t *testing.T) {
			body := &trackedBody{Reader: strings.NewReader("x")}
			base := step(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 500, Header: http.Header{}, Body: body}, nil
			})
			attempts := resilient.WithMaxAttempts(1)
			if name == "backoff" {
				attempts = nil
			}
			for i, asErrors := range []bool{false, true} {
				transport := resilient.NewTransport(base, opt, attempts, resilient.WithStatusErrors(asErrors))
				require.PanicsWithValue(t, "hook", func() { _, _ = transport.RoundTrip(get(t)) })
				require.Equal(t, i+1, body.closes(), "once each")
			}
		})
	}
}

// TestAPanicBeforeTheAttemptClosesTheBody: the body that the base was not given
// stayed open.
func TestAPanicBeforeTheAttemptClosesTheBody(t *testing.T) {
	boom := func() { panic("hook") }
	for _, tt := range []struct {
		name string
		opt  resilient.Option
	}{
		{"AttemptStart", resilient.WithTrace(&resilient.Trace{AttemptStart: func(resilient.AttemptInfo) { boom() }})},
		{"LimiterFor", resilient.WithLimiterFor(func(*http.Request) resilient.Limiter { boom(); return nil })},
		{"Limiter", resilient.WithLimiter(limiterFunc(func(context.Context) error { boom(); return nil }))},
		{"LimitKey", resilient.WithLimitKey(func(*http.Request) string { boom(); return "" })},
		{"IdempotencyKey", resilient.WithIdempotencyKey(func(*http.Request) string { boom(); return "" })},
	} {
		for _, buffer := range []int64{0, 10} {
			t.Run(fmt.Sprint(tt.name, buffer), func(t *testing.T) {
				body := &trackedBody{Reader: strings.NewReader("x")}
				req := post(t)
				req.Body, req.GetBody = body, nil
				base := newScript(answer(200))
				transport := resilient.NewTransport(base, resilient.WithRateLimit(1, 1), resilient.WithReplayBuffer(buffer), tt.opt)
				require.PanicsWithValue(t, "hook", func() { _, _ = transport.RoundTrip(req) })
				require.Equal(t, 1, body.closes())
				require.Zero(t, base.count())
			})
		}
	}
	synctest.Test(t, func(t *testing.T) { // a wait for the second attempt, and one for a token
		for _, opt := range []resilient.Option{nil, resilient.WithRateLimit(1, 1)} {
			var bodies []*trackedBody
			req := post(t)
			req.GetBody = func() (io.ReadCloser, error) {
				bodies = append(bodies, &trackedBody{Reader: strings.NewReader("x")})
				return bodies[len(bodies)-1], nil
			}
			req.Body, _ = req.GetBody()
			transport := resilient.NewTransport(newScript(answer(429)), opt,
				resilient.WithTrace(&resilient.Trace{Wait: func(resilient.WaitInfo) { boom() }}))
			require.PanicsWithValue(t, "hook", func() { _, _ = transport.RoundTrip(req) })
			require.Len(t, bodies, 2)
			require.Equal(t, 1, bodies[0].closes())
			require.Equal(t, 1, bodies[1].closes())
		}
	})
}

// TestGetBodyThatFailsHalfway: the body that came with an error was lost open.
func TestGetBodyThatFailsHalfway(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader("x")}
	req := post(t)
	req.GetBody = func() (io.ReadCloser, error) { return body, io.ErrUnexpectedEOF }
	resp, err := resilient.NewTransport(newScript(answer(429)), every(0)).RoundTrip(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, body.closes())
}

// TestRequestCancelEndsAWait: the deprecated field ended attempts, and no wait.
func TestRequestCancelEndsAWait(t *testing.T) {
	for _, tt := range []struct {
		name string
		base *script
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
				req.Cancel = canceled //nolint:staticcheck // SA1019: deprecated, and promised to work
				if tt.name == "before an attempt" {
					tt.base.steps = []step{func(*http.Request) (*http.Response, error) {
						close(canceled)
						return nil, io.EOF
					}}
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
				require.Equal(t, tt.sent, tt.base.count())
			})
		})
	}
}

// TestHugeBudgetIsJSON: a balance of infinity cannot be encoded.
func TestHugeBudgetIsJSON(t *testing.T) {
	for _, ratio := range []float64{math.MaxFloat64, inf} {
		transport := resilient.NewTransport(newScript(answer(500), answer(200)), resilient.WithRetryBudget(ratio, 0), every(0))
		for range 3 {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
		}
		_, err := json.Marshal(transport.Snapshot())
		require.NoError(t, err)
	}
}

func TestPanickingBodyIsAnError(t *testing.T) {
	// The beginning of an error body is read in a goroutine, where a panic
	// would end the process.
	for name, read := range map[string]readerFunc{
		"panic":      func([]byte) (int, error) { panic("body") },
		"impossible": func(p []byte) (int, error) { return len(p) + 1, nil },
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := resilient.NewTransport(step(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 404, Header: http.Header{}, Body: io.NopCloser(read)}, nil
			})).RoundTrip(get(t))
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.ErrorContains(t, err, "resilient: ")
			require.NoError(t, resp.Body.Close())
		})
	}
}

func TestBudgetOfRetriesThatWereNotMade(t *testing.T) {
	// A token paid in advance was lost when the context ended in the backoff,
	// or the retry was rejected for rate.
	synctest.Test(t, func(t *testing.T) {
		down, limited := newScript(answer(503)), newScript(answer(503), answer(429))
		base := &switching{to: down}
		transport := resilient.NewTransport(base, every(time.Second), resilient.WithRetryBudget(0, 0), resilient.WithMaxAttempts(2))
		resp, err := transport.RoundTrip(get(t)) // from here on retries are paid for
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		for i := range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 0 {
				base.to = down
				time.AfterFunc(ms, cancel)
			} else {
				limited.sent = nil
				base.to = limited
			}
			if resp, err := transport.RoundTrip(get(t).WithContext(ctx)); err == nil {
				require.Equal(t, 429, resp.StatusCode, "call %d was retried", i)
				require.NoError(t, resp.Body.Close())
			}
			cancel()
		}
	})
}

// TestErrorMarkers is what SDKs look for on an error, by the interfaces that they
// write down on their side.
func TestErrorMarkers(t *testing.T) {
	apiError := &resilient.APIError{StatusCode: 429, Kind: resilient.KindRateLimit}
	tests := []struct {
		name      string
		err       error
		errorType string
		why       string
	}{
		{"error status", apiError, "429", "what OpenTelemetry's conventions say of HTTP"},
		{
			"error in a success", &resilient.APIError{StatusCode: 200, Kind: resilient.KindRateLimit}, "rate limit",
			"200 is no type of error",
		},
		{"client-side limit", &resilient.LimitError{Reason: "pause"}, "limited", "DoneInfo calls it so"},
		{"limit before a retry", &resilient.RetryError{Err: &resilient.LimitError{}, Last: apiError}, "limited", "what ended the call"},
		{"deadline before a retry", &resilient.RetryError{Err: context.DeadlineExceeded, Last: apiError}, "timeout", "the same"},
		{"canceled", &resilient.RetryError{Err: context.Canceled, Last: apiError}, "canceled", "the same"},
		{"connection", &resilient.RetryError{Err: &net.OpError{Op: "read", Err: io.EOF}}, "*net.OpError", "there is no better name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			above := &url.Error{Op: "Get", URL: "http://api.test/", Err: tt.err} // as http.Client returns it
			azure, ok := errors.AsType[interface {
				error
				NonRetriable()
			}](above)
			require.True(t, ok)
			azure.NonRetriable()
			aws, ok := errors.AsType[interface {
				error
				RetryableError() bool
			}](above)
			require.True(t, ok)
			require.False(t, aws.RetryableError(), "it was retried here, or is final")
			otel, ok := errors.AsType[interface {
				error
				ErrorType() string
			}](above)
			require.True(t, ok)
			require.Equal(t, tt.errorType, otel.ErrorType(), tt.why)
		})
	}
}
