package resilient_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// talk is the profile of an API whose events are named after their kinds. An error has
// its status in it.
func talk() resilient.Option {
	return resilient.WithProfile(resilient.Profile{
		Event: func(name string, data []byte) (resilient.EventKind, int) {
			switch name {
			case "start", "ping":
				return resilient.EventPreamble, 0
			case "end":
				return resilient.EventEnd, 0
			case "error":
				var e struct{ Status int }
				_ = json.Unmarshal(data, &e)
				return resilient.EventError, e.Status
			}
			return resilient.EventContent, 0
		},
		Repeatable: func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, "/answers") },
	})
}

// ask is a POST that may be repeated.
func ask(tb testing.TB) *http.Request {
	tb.Helper()
	return newRequest(tb, http.MethodPost, "http://api.test/answers", "question")
}

// eventsOf returns a stream: of each pair a name and data.
func eventsOf(pairs ...string) string {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", pairs[i], pairs[i+1])
	}
	return b.String()
}

const overloaded = `{"status":529,"error":{"type":"overloaded_error","message":"Overloaded"}}`

var (
	goodStream  = ": hello\n\n" + eventsOf("start", "{}", "ping", "{}", "text", "Hello", "text", "world", "end", "{}")
	errorFirst  = ": hello\n\n" + eventsOf("start", "{}", "ping", "{}", "error", overloaded)
	errorLater  = eventsOf("start", "{}", "text", "Hello", "error", overloaded)
	cutStream   = eventsOf("start", "{}", "text", "Hello")
	silentStart = eventsOf("start", "{}", "ping", "{}")
)

func streams(text string) step {
	return answerWith(200, text, "Content-Type", "text/event-stream", "X-Request-Id", "r1")
}

// TestErrorEventFirst answers with a stream whose first event that counts is an error,
// and then with a good one.
func TestErrorEventFirst(t *testing.T) {
	failing := func(status int) string {
		return eventsOf("start", "{}", "error", fmt.Sprintf(`{"status":%d,"error":{"type":"t","code":"c","message":"m"}}`, status))
	}
	for _, tt := range []struct {
		why      string
		req      func(testing.TB) *http.Request
		first    string
		attempts int
		status   int
		kind     resilient.Kind
	}{
		{"a question may be asked again", ask, errorFirst, 2, 200, 0},
		{"so may a GET", get, errorFirst, 2, 200, 0},
		{"a POST may have been processed", post, errorFirst, 1, 529, resilient.KindServer},
		{"a rate limit is proof that it was not", post, failing(429), 2, 200, 0},
		{"what is final is final", ask, failing(400), 1, 400, resilient.KindInvalidRequest},
		{"an error without an empty line behind it", ask, strings.TrimSpace(failing(404)), 1, 404, resilient.KindNotFound},
		{"no money", ask, failing(402), 1, 402, resilient.KindPaymentRequired},
		{"a status that is none is a 500", post, failing(7), 1, 500, resilient.KindServer},
		{"a stream that ends with nothing was lost", ask, silentStart, 2, 200, 0},
		{"an empty one too", ask, ": nothing\n\n", 2, 200, 0},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(streams(tt.first), streams(goodStream))
				transport := resilient.NewTransport(base, every(0), talk())
				resp, err := transport.RoundTrip(tt.req(t))
				require.NoError(t, err)
				require.Len(t, base.Attempts(), tt.attempts)
				require.Equal(t, tt.status, resp.StatusCode)
				if tt.status == 200 {
					require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
					require.Equal(t, goodStream, readAll(t, resp))
					return
				}
				apiErr, ok := resilient.ErrorFromResponse(resp)
				require.True(t, ok)
				require.Equal(t, tt.kind, apiErr.Kind)
				require.Equal(t, "r1", apiErr.RequestID, "the other fields stay")
				require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
				require.Equal(t, fmt.Sprintf("%d %s", tt.status, http.StatusText(tt.status)), resp.Status+map[bool]string{true: " "}[tt.status == 529])
				body := readAll(t, resp)
				require.Equal(t, int64(len(body)), resp.ContentLength)
				require.Contains(t, tt.first+"\n", "data: "+body+"\n", "the body is the data")
			})
		})
	}
}

// TestLostStream: a POST that may not be repeated gets the error of a lost connection,
// not a success without an answer.
func TestLostStream(t *testing.T) {
	base := newScript(streams(silentStart))
	resp, err := resilient.NewTransport(base, talk()).RoundTrip(post(t))
	require.Nil(t, resp)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Len(t, base.Attempts(), 1)
}

// TestStreamAfterItsBeginning: what has begun is passed on byte by byte, and how it ends
// is told.
func TestStreamAfterItsBeginning(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		why    string
		text   string
		breaks error // of the connection, at the end
		err    error
		code   string
	}{
		{"a whole answer", goodStream, nil, nil, ""},
		{"an answer that ends at once", eventsOf("end", "{}"), nil, nil, ""},
		{"more after the end", goodStream + eventsOf("text", "usage"), nil, nil, ""},
		{"an error after content", errorLater, nil, nil, "overloaded_error"},
		{"no last event", cutStream, nil, io.ErrUnexpectedEOF, ""},
		{"half an event at the end", goodStream[:len(goodStream)-14], nil, io.ErrUnexpectedEOF, ""},
		{"no empty line behind the last event", strings.TrimSuffix(goodStream, "\n"), nil, nil, ""},
		{"no end of its line either", strings.TrimSuffix(goodStream, "\n\n"), nil, nil, ""},
		{"the connection breaks", cutStream, boom, boom, ""},
		{"two errors", errorLater + eventsOf("error", `{"code":"other"}`), nil, nil, "overloaded_error"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended resilient.BodyInfo
				base := newScript(func(*http.Request) (*http.Response, error) {
					r := io.Reader(strings.NewReader(tt.text))
					if tt.breaks != nil {
						r = io.MultiReader(r, failingReader{tt.breaks})
					}
					return &http.Response{
						StatusCode: 200, ContentLength: -1, Body: io.NopCloser(r),
						Header: http.Header{"Content-Type": {"text/event-stream"}},
					}, nil
				})
				transport := resilient.NewTransport(base, talk(), resilient.WithTrace(&resilient.Trace{
					Body: func(b resilient.BodyInfo) { ended = b },
				}))
				resp, err := transport.RoundTrip(ask(t))
				require.NoError(t, err)
				got, err := io.ReadAll(resp.Body)
				require.Equal(t, tt.text, string(got))
				require.NoError(t, resp.Body.Close())
				require.Len(t, base.Attempts(), 1, "nothing is sent again")
				if tt.err != nil {
					require.ErrorIs(t, err, tt.err)
					require.Equal(t, err, ended.Err)
					return
				}
				require.NoError(t, err)
				require.True(t, ended.Complete)
				if tt.code == "" {
					require.NoError(t, ended.Err)
					return
				}
				var apiErr *resilient.APIError
				require.ErrorAs(t, ended.Err, &apiErr)
				require.Equal(t, tt.code, apiErr.Type)
				require.Equal(t, 529, apiErr.StatusCode)
				require.ErrorIs(t, apiErr, resilient.ErrServer)
			})
		})
	}
}

// TestStreamsThatAreLeftAlone: a response that the profile cannot read is not held.
func TestStreamsThatAreLeftAlone(t *testing.T) {
	for _, tt := range []struct {
		why    string
		status int
		header []string
	}{
		{"compressed, as the caller asked", 200, []string{"Content-Type", "text/event-stream", "Content-Encoding", "br"}},
		{"another type", 200, []string{"Content-Type", "application/x-ndjson"}},
		{"no type", 200, nil},
		{"a redirect", 302, []string{"Content-Type", "text/event-stream"}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			base := newScript(answerWith(tt.status, errorFirst, tt.header...))
			resp, err := resilient.NewTransport(base, talk()).RoundTrip(ask(t))
			require.NoError(t, err)
			require.Equal(t, tt.status, resp.StatusCode)
			require.Equal(t, errorFirst, readAll(t, resp))
			require.Len(t, base.Attempts(), 1)
		})
	}
}

// TestHowLongAStreamIsHeld: a second of what arrives, and 64 KiB.
func TestHowLongAStreamIsHeld(t *testing.T) {
	start, text, end := eventsOf("start", "{}"), eventsOf("text", "Hello"), eventsOf("end", "{}")
	for _, tt := range []struct {
		why   string
		parts []part
		held  time.Duration
	}{
		{"content at once", []part{{0, start + text}, {time.Minute, end}}, 0},
		{"content soon", []part{{0, start}, {900 * ms, text}, {time.Minute, end}}, 900 * ms},
		{"a model that thinks", []part{{0, start}, {time.Minute, text}, {0, end}}, time.Second},
		{"pings", []part{{0, start}, {400 * ms, start}, {400 * ms, start}, {400 * ms, start}, {time.Minute, text}, {0, end}}, time.Second},
		{"silence before the first byte is one of the headers", []part{{time.Minute, start}, {500 * ms, text}, {0, end}}, time.Minute + 500*ms},
		{"64 KiB of nothing", []part{{0, strings.Repeat(":\n", 40<<10)}, {time.Minute, text}, {0, end}}, 0},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := resilient.NewTransport(serve(t, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "text/event-stream")
					sendsParts(tt.parts...)(w, r)
				}), talk())
				begin := time.Now()
				resp, err := transport.RoundTrip(ask(t))
				require.NoError(t, err)
				require.Equal(t, tt.held, time.Since(begin))
				require.Equal(t, textOf(tt.parts), readAll(t, resp))
			})
		})
	}
}

// TestStreamThatFallsSilentBeforeItsBeginning: nothing of an answer came, so it is asked
// again.
func TestStreamThatFallsSilentBeforeItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		transport := resilient.NewTransport(serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			if calls++; calls == 1 {
				sendsParts(part{time.Hour, goodStream})(w, r)
				return
			}
			sendsParts(part{0, goodStream})(w, r)
		}), talk(), every(0), resilient.WithIdleTimeout(10*time.Second))
		begin := time.Now()
		resp, err := transport.RoundTrip(ask(t))
		require.NoError(t, err)
		require.Equal(t, goodStream, readAll(t, resp))
		require.Equal(t, 10*time.Second, time.Since(begin))
	})
}

// TestStreamSplitAnywhere: it makes no difference where the network cuts a stream in two,
// nor how its lines end.
func TestStreamSplitAnywhere(t *testing.T) {
	for _, ends := range []string{"\n", "\r\n", "\r"} {
		for _, bom := range []string{"", "\ufeff"} {
			t.Run(fmt.Sprintf("%q %q", ends, bom), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					form := func(s string) string { return bom + strings.ReplaceAll(s, "\n", ends) }
					for _, text := range []string{errorFirst, errorLater, goodStream} {
						for cut := range text {
							var ended resilient.BodyInfo
							text := form(text)
							split := resilienttest.Answer{Func: func(*http.Request) (*http.Response, error) {
								r := io.MultiReader(strings.NewReader(text[:cut]), strings.NewReader(text[cut:]))
								return &http.Response{
									StatusCode: 200, ContentLength: -1, Body: io.NopCloser(r),
									Header: http.Header{"Content-Type": {"text/event-stream"}},
								}, nil
							}}
							base := resilienttest.New(split, resilienttest.Answer{Func: streams(form(goodStream))})
							transport := resilient.NewTransport(base, every(0), unbounded(), talk(), resilient.WithTrace(&resilient.Trace{
								Body: func(b resilient.BodyInfo) { ended = b },
							}))
							resp, err := transport.RoundTrip(ask(t))
							require.NoError(t, err)
							got := readAll(t, resp)
							var apiErr *resilient.APIError
							switch text {
							case form(errorFirst):
								require.Equal(t, form(goodStream), got)
								require.Len(t, base.Attempts(), 2)
							case form(errorLater):
								require.Equal(t, text, got)
								require.ErrorAs(t, ended.Err, &apiErr)
							default:
								require.Equal(t, text, got)
								require.NoError(t, ended.Err)
							}
						}
					}
				})
			})
		}
	}
}

// TestStreamOverSockets sends a stream in two halves over a real connection.
func TestStreamOverSockets(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("HTTP/2 %v", http2), func(t *testing.T) {
			var cut, calls int
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				text := errorFirst
				if calls++; calls%2 == 0 {
					text = goodStream
				}
				half := min(cut, len(text))
				_, _ = io.WriteString(w, text[:half])
				flush(w)
				_, _ = io.WriteString(w, text[half:])
			}))
			srv.EnableHTTP2 = http2
			srv.StartTLS()
			defer srv.Close()
			transport := resilient.NewTransport(srv.Client().Transport, every(0), unbounded(), talk())
			for cut = 0; cut < len(errorFirst); cut += 7 {
				req := newRequest(t, http.MethodPost, srv.URL+"/answers", "question")
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				require.Equal(t, goodStream, readAll(t, resp))
			}
			require.Equal(t, 2*((len(errorFirst)+6)/7), calls)
		})
	}
}

// TestRepeatable: the profile says which POSTs may be sent twice, and is not asked about
// others.
func TestRepeatable(t *testing.T) {
	asked := 0
	option := resilient.WithProfile(resilient.Profile{Repeatable: func(req *http.Request) bool {
		asked++
		return req.URL.Path == "/answers"
	}})
	for _, tt := range []struct {
		why      string
		req      *http.Request
		attempts int
		asked    int
	}{
		{"a POST that may", ask(t), 2, 1},
		{"a POST that may not", post(t), 1, 1},
		{"a GET may anyway", get(t), 2, 0},
		{"so may one with a key", keyed(post(t)), 2, 0},
		{"a body that cannot be read again", stream(t), 1, 1},
		{"a tunnel is never sent twice", newRequest(t, http.MethodConnect, "http://api.test/answers", ""), 1, 1},
	} {
		t.Run(tt.why, func(t *testing.T) {
			asked = 0
			base := newScript(answer(500), answer(200))
			resp, err := resilient.NewTransport(base, every(0), option).RoundTrip(tt.req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Len(t, base.Attempts(), tt.attempts)
			require.Equal(t, tt.asked, asked)
		})
	}
}

// BenchmarkEventStream reads a stream of small events, with and without a profile that
// looks at them.
func BenchmarkEventStream(b *testing.B) {
	text := []byte(eventsOf("start", "{}") + strings.Repeat(eventsOf("text", `{"delta":"some words"}`), 1000) + eventsOf("end", "{}"))
	base := step(func(*http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: 200, ContentLength: -1, Body: io.NopCloser(bytes.NewReader(text)),
			Header: http.Header{"Content-Type": {"text/event-stream"}},
		}, nil
	})
	for _, tt := range []struct {
		name string
		opts []resilient.Option
	}{{"no profile", nil}, {"profile", []resilient.Option{talk()}}} {
		b.Run(tt.name, func(b *testing.B) {
			transport := resilient.NewTransport(base, tt.opts...)
			req := ask(b)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			p := make([]byte, 4<<10)
			for b.Loop() {
				resp, err := transport.RoundTrip(req)
				require.NoError(b, err)
				_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, p)
				require.NoError(b, err)
			}
		})
	}
}
