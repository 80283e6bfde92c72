package resilient_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// TestWholeBody cuts a JSON body at each of its bytes: the caller never sees it. Without
// the option the SDK would say "unexpected EOF".
func TestWholeBody(t *testing.T) {
	text := `{"items":["` + strings.Repeat("x", 2<<10) + `"]}`
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked %v", chunked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cut, calls := 0, 0
				base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					if !chunked {
						w.Header().Set("Content-Length", strconv.Itoa(len(text)))
					}
					if calls++; calls%2 == 0 {
						_, _ = io.WriteString(w, text)
						return
					}
					w.WriteHeader(http.StatusOK)
					flush(w)
					_, _ = io.WriteString(w, text[:cut])
					flush(w)
					panic(http.ErrAbortHandler)
				})
				transport := resilient.NewTransport(base, every(0), unbounded(), resilient.WithWholeBody(1<<20))
				for cut = range text {
					resp, err := transport.RoundTrip(get(t))
					require.NoError(t, err, cut)
					require.Equal(t, text, readAll(t, resp), cut)
				}
				require.Equal(t, 2*len(text), calls)
			})
		})
	}
}

// TestWhatIsNotHeld: a response that is not read before RoundTrip returns is passed on
// at once, first byte and all.
func TestWhatIsNotHeld(t *testing.T) {
	long := part{0, strings.Repeat("x", 100)}
	for _, tt := range []struct {
		why    string
		header []string
		parts  []part
		held   time.Duration
		whole  bool
		req    func(testing.TB) *http.Request
	}{
		{"short", nil, []part{{0, "abc"}, {900 * ms, "d"}}, 900 * ms, true, get},
		{"drips, but is never silent", nil, []part{{900 * ms, "abc"}, {900 * ms, "d"}}, 1800 * ms, true, get},
		{"of known length, silent for a minute", []string{"Content-Length", "2"}, []part{{0, "a"}, {time.Minute, "b"}}, time.Minute, true, get},
		{"of unknown length, silent: a watch", nil, []part{{0, "a"}, {time.Minute, "b"}}, time.Second, false, get},
		{"too long, and says so", []string{"Content-Length", "200"}, []part{{time.Minute, "x"}, {0, long.text}, {0, long.text[1:]}}, 0, false, get},
		{"too long, unknown", nil, []part{long, long, {time.Minute, "x"}}, 0, false, get},
		{"an event stream", []string{"Content-Type", "text/event-stream; charset=utf-8"}, []part{{500 * ms, "x"}}, 0, false, get},
		{"JSON lines", []string{"Content-Type", "application/x-ndjson"}, []part{{500 * ms, "x"}}, 0, false, get},
		{"multipart", []string{"Content-Type", "multipart/mixed; boundary=x"}, []part{{500 * ms, "x"}}, 0, false, get},
		{"a POST could not be sent again", nil, []part{{500 * ms, "x"}}, 0, false, post},
		{"a POST with a key", nil, []part{{500 * ms, "x"}}, 500 * ms, true, func(tb testing.TB) *http.Request {
			tb.Helper()
			return keyed(post(tb))
		}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := resilient.NewTransport(serve(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					for i := 0; i < len(tt.header); i += 2 {
						w.Header().Set(tt.header[i], tt.header[i+1])
					}
					sendsParts(tt.parts...)(w, r)
				}), resilient.WithWholeBody(150))
				start := time.Now()
				resp, err := transport.RoundTrip(tt.req(t))
				require.NoError(t, err)
				require.Equal(t, tt.held, time.Since(start))
				start = time.Now()
				require.Equal(t, textOf(tt.parts), readAll(t, resp))
				if tt.whole {
					require.Zero(t, time.Since(start))
				}
			})
		})
	}
}

// TestWholeBodyThatFails: what is lost is lost like a response without headers.
func TestWholeBodyThatFails(t *testing.T) {
	boom := errors.New("boom")
	short := func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: 9, Body: io.NopCloser(strings.NewReader("abc"))}, nil
	}
	broken := func(*http.Request) (*http.Response, error) {
		r := io.MultiReader(strings.NewReader("ab"), failingReader{boom})
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(r), ContentLength: -1}, nil
	}
	for _, tt := range []struct {
		why  string
		base step
		err  error
	}{
		{"a base that ends a body early", short, io.ErrUnexpectedEOF},
		{"a connection that breaks", broken, boom},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r recorder
				base := newScript(tt.base)
				transport := resilient.NewTransport(base, every(0), resilient.WithWholeBody(1<<20), resilient.WithTrace(r.trace()))
				resp, err := transport.RoundTrip(get(t))
				require.Nil(t, resp)
				require.ErrorIs(t, err, tt.err)
				require.Len(t, base.Attempts(), 4)
				require.Equal(t, resilient.ReasonNoResponse, r.attempts[0].Verdict.Reason)
				require.Equal(t, resilient.ReasonOutOfAttempts, r.why(t))
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		transport := resilient.NewTransport(serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "2")
			if calls++; calls == 1 {
				sendsParts(part{0, "a"}, part{time.Hour, "b"})(w, r)
				return
			}
			_, _ = io.WriteString(w, "ab")
		}), every(0), resilient.WithWholeBody(1<<20), resilient.WithIdleTimeout(time.Second))
		start := time.Now()
		resp, err := transport.RoundTrip(get(t))
		require.NoError(t, err)
		require.Equal(t, "ab", readAll(t, resp))
		require.Equal(t, time.Second, time.Since(start), "the silence is the server's, whoever reads")
	})
}
