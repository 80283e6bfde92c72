package resilient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// part is a part of a body, and the time before it is sent.
type part struct {
	after time.Duration
	text  string
}

// textOf returns the whole body.
func textOf(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.text)
	}
	return b.String()
}

// sendsParts writes the parts, each in a chunk of its own.
func sendsParts(parts ...part) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		flush(w)
		for _, p := range parts {
			select {
			case <-time.After(p.after): //nolint:forbidigo // the test's clock is virtual
			case <-r.Context().Done():
				return
			}
			_, _ = io.WriteString(w, p.text)
			flush(w)
		}
	}
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// TestIdleTimeout reads a body that the server sends in parts. The silence that ends it
// is the server's, while the caller waits, and nothing else.
func TestIdleTimeout(t *testing.T) {
	day := []part{}
	for range 24 * 3600 / 9 {
		day = append(day, part{9 * time.Second, "ping"})
	}
	for _, tt := range []struct {
		why   string
		parts []part
		pause time.Duration // of the caller, before each Read
		bytes int64
		fails bool
	}{
		{"a stream that falls silent", []part{{0, "abc"}, {time.Hour, "d"}}, 0, 3, true},
		{"a body of which nothing comes", []part{{time.Hour, "d"}}, 0, 0, true},
		{"a ping in time, for a day", day, 0, int64(4 * len(day)), false},
		{"a caller who reads a part an hour", []part{{0, "a"}, {0, "b"}, {9 * time.Second, "c"}}, time.Hour, 3, false},
		{"a silence that the caller sleeps through", []part{{0, "a"}, {time.Hour, "b"}}, 2 * time.Hour, 2, false},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended resilient.BodyInfo
				transport := resilient.NewTransport(serve(t, sendsParts(tt.parts...)),
					resilient.WithIdleTimeout(10*time.Second),
					resilient.WithTrace(&resilient.Trace{Body: func(b resilient.BodyInfo) { ended = b }}))
				resp, err := transport.RoundTrip(get(t))
				require.NoError(t, err)
				var n int64
				var last time.Time
				p := make([]byte, 100)
				for err == nil {
					time.Sleep(tt.pause)
					last = time.Now()
					var some int
					some, err = resp.Body.Read(p)
					n += int64(some)
				}
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.bytes, n)
				require.Equal(t, tt.bytes, ended.Bytes)
				if !tt.fails {
					require.ErrorIs(t, err, io.EOF)
					require.True(t, ended.Complete)
					require.NoError(t, ended.Err)
					return
				}
				silence := time.Since(last)
				require.GreaterOrEqual(t, silence, 10*time.Second)
				require.LessOrEqual(t, silence, 10625*ms)
				require.EqualError(t, err, fmt.Sprintf("resilient: no byte of the response body for 10s, after %d bytes", n))
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				require.True(t, timeout.Timeout())
				require.Equal(t, err, ended.Err)
				require.False(t, ended.Complete)
				_, again := resp.Body.Read(p)
				require.Error(t, again, "it stays ended")
			})
		})
	}
}

// TestIdleTimeoutLeavesUpgradesAlone: an upgraded connection has to keep its type.
func TestIdleTimeoutLeavesUpgradesAlone(t *testing.T) {
	conn := struct {
		io.ReadCloser
		io.Writer
	}{io.NopCloser(strings.NewReader("")), io.Discard}
	told := false
	transport := resilient.NewTransport(step(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: conn}, nil
	}), resilient.WithIdleTimeout(time.Second), resilient.WithTrace(&resilient.Trace{
		Done: func(d resilient.DoneInfo) { told = d.Body },
		Body: func(resilient.BodyInfo) { told = true },
	}))
	resp, err := transport.RoundTrip(get(t))
	require.NoError(t, err)
	require.Equal(t, conn, resp.Body)
	require.NoError(t, resp.Body.Close())
	require.False(t, told)
}

// TestConnectionAfterSilence: a connection that fell silent is not used again.
func TestConnectionAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials, calls := 0, 0
		base := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if calls++; calls == 1 {
				sendsParts(part{0, "a"}, part{time.Hour, "b"})(w, r)
			}
		})
		dial := base.DialContext
		base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return dial(ctx, network, addr)
		}
		transport := resilient.NewTransport(base, resilient.WithIdleTimeout(time.Second))
		for range 3 {
			resp, err := transport.RoundTrip(get(t))
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			require.NoError(t, resp.Body.Close())
		}
		require.Equal(t, 2, dials)
	})
}

// TestTraceOfABody: the hook is called once, whatever ends the body, and after Done.
func TestTraceOfABody(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		why    string
		answer step
		use    func(io.ReadCloser)
		want   resilient.BodyInfo
	}{
		{"read to its end", answerWith(200, "abc"), discardAll, resilient.BodyInfo{Bytes: 3, Complete: true}},
		{"an error response", answerWith(404, "abc"), discardAll, resilient.BodyInfo{Bytes: 3, Complete: true}},
		{"closed before its end", answerWith(200, "abc"), func(b io.ReadCloser) {
			_, _ = io.ReadFull(b, make([]byte, 2))
			time.Sleep(time.Second)
		}, resilient.BodyInfo{Bytes: 2, Duration: time.Second}},
		{"it breaks off", func(*http.Request) (*http.Response, error) {
			r := io.MultiReader(strings.NewReader("ab"), failingReader{boom})
			return &http.Response{StatusCode: 200, Body: io.NopCloser(r), ContentLength: -1}, nil
		}, discardAll, resilient.BodyInfo{Bytes: 2, Err: boom}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var order []string
				var got []resilient.BodyInfo
				var records bytes.Buffer
				transport := resilient.NewTransport(newScript(tt.answer), resilient.WithTrace(&resilient.Trace{
					Done: func(d resilient.DoneInfo) {
						require.True(t, d.Body)
						order = append(order, "done")
					},
					Body: func(b resilient.BodyInfo) { order, got = append(order, "body"), append(got, b) },
				}), resilient.WithLogger(slog.New(slog.NewTextHandler(&records, nil))))
				req := get(t)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				tt.use(resp.Body)
				for range 2 {
					_ = resp.Body.Close()
				}
				want := tt.want
				want.Request, want.Path, want.StatusCode = req, "/v1", resp.StatusCode
				require.Equal(t, []resilient.BodyInfo{want}, got)
				require.Equal(t, []string{"done", "body"}, order)
				require.Equal(t, tt.want.Err != nil, strings.Contains(records.String(), `msg="body done"`), "a warning")
			})
		})
	}
}

func discardAll(b io.ReadCloser) { _, _ = io.Copy(io.Discard, b) }

// TestNoBodyIsTold: a response without a body has none that could end.
func TestNoBodyIsTold(t *testing.T) {
	for _, s := range []step{answerWith(204, ""), fails(errors.New("boom"))} {
		transport := resilient.NewTransport(newScript(s), resilient.WithMaxAttempts(1), resilient.WithTrace(&resilient.Trace{
			Done: func(d resilient.DoneInfo) { require.False(t, d.Body) },
			Body: func(resilient.BodyInfo) { t.Error("called") },
		}))
		if resp, err := transport.RoundTrip(get(t)); err == nil {
			require.NoError(t, resp.Body.Close())
		}
	}
}

// TestWithoutTheOptionsABodyIsTheBases: nothing is added to a body that nobody asked
// to be followed.
func TestWithoutTheOptionsABodyIsTheBases(t *testing.T) {
	body := &trackedBody{Reader: strings.NewReader("abc")}
	transport := resilient.NewTransport(step(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: body}, nil
	}), resilient.WithTrace(&resilient.Trace{Done: func(resilient.DoneInfo) {}}))
	resp, err := transport.RoundTrip(get(t))
	require.NoError(t, err)
	require.Same(t, body, resp.Body)
	require.NoError(t, resp.Body.Close())
}

// TestSilentHTTP2Connection: a silent stream may mean that its connection is dead, and
// HTTP/2 would use that for the next request.
func TestSilentHTTP2Connection(t *testing.T) {
	var calls atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "a")
		flush(w)
		if calls.Add(1) == 1 {
			<-r.Context().Done()
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	var conns []net.Conn
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { conns = append(conns, i.Conn) },
	})
	transport := resilient.NewTransport(srv.Client().Transport, resilient.WithIdleTimeout(50*time.Millisecond))
	var bodies []string
	for range 3 {
		resp, err := transport.RoundTrip(newRequest(t, http.MethodGet, srv.URL, "").WithContext(ctx))
		require.NoError(t, err)
		require.Equal(t, 2, resp.ProtoMajor)
		body, err := io.ReadAll(resp.Body)
		require.Equal(t, len(bodies) == 0, err != nil)
		require.NoError(t, resp.Body.Close())
		bodies = append(bodies, string(body))
	}
	require.Equal(t, []string{"a", "a", "a"}, bodies)
	require.Len(t, conns, 3)
	require.Same(t, conns[0], conns[1], "the one request that may go to it")
	require.NotSame(t, conns[1], conns[2], "after which it is not used again")
}
