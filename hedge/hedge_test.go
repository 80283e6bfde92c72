package hedge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
	"github.com/resilienthttp/resilient/hedge"
	"github.com/resilienthttp/resilient/internal/kit"
	"github.com/resilienthttp/resilient/reauth"
)

// TestHedge is what comes of two requests, the second of which is sent after 100 ms. All
// times are those since the first was sent.
func TestHedge(t *testing.T) {
	final := &resilient.APIError{StatusCode: 404}
	temporary := &resilient.APIError{StatusCode: 503}
	for _, tt := range []struct {
		name          string
		first, second answer // the second is sent after 100 ms
		status        int
		err           error
		from          string // the body, which says whose it is
		took          time.Duration
		sent, won     int64
		why           string
	}{
		{"in time", after(99*ms, 200), never(), 200, nil, "I", 99 * ms, 0, 0, "nothing is slow"},
		{"the first is slow", never(), after(20*ms, 200), 200, nil, "II", 120 * ms, 1, 1, "that is the purpose"},
		{"the first is faster in the end", after(110*ms, 200), after(20*ms, 200), 200, nil, "I", 110 * ms, 1, 0, "the first answer wins"},
		{"the second hangs", after(time.Second, 200), never(), 200, nil, "I", time.Second, 1, 0, "it does no harm"},
		{"final status of the first", after(110*ms, 404), after(20*ms, 200), 404, nil, "I", 110 * ms, 1, 0, "the same request would be answered alike"},
		{"final status of the second", after(time.Second, 200), after(20*ms, 404), 404, nil, "II", 120 * ms, 1, 1, "an answer is an answer"},
		{"redirect", never(), after(20*ms, 302), 302, nil, "II", 120 * ms, 1, 1, "an answer too"},
		{"503 of the second", after(time.Second, 200), after(0, 503), 200, nil, "I", time.Second, 1, 0, "a fast error never beats a slow success"},
		{"501 of the second", after(time.Second, 200), after(0, 501), 200, nil, "I", time.Second, 1, 0, "not even one that is final: another server may know the method"},
		{"429 of the second", after(time.Second, 200), after(0, 429), 200, nil, "I", time.Second, 1, 0, "it was one request too many"},
		{"425 of the second", after(time.Second, 200), after(0, 425), 200, nil, "I", time.Second, 1, 0, "not processed"},
		{"408 of the second", after(time.Second, 200), after(0, 408), 200, nil, "I", time.Second, 1, 0, "not processed"},
		{"error of the second", after(time.Second, 200), fails(0, errCut), 200, nil, "I", time.Second, 1, 0, "as a 503"},
		{"503 of the first", after(110*ms, 503), after(50*ms, 200), 200, nil, "II", 150 * ms, 1, 1, "there is a request whose answer may be better"},
		{"error of the first", fails(110*ms, errCut), after(50*ms, 200), 200, nil, "II", 150 * ms, 1, 1, "as a 503"},
		{"503 of the first, and the second hangs", after(110*ms, 503), never(), 503, nil, "I", 210 * ms, 1, 0, "a call that has failed is not to hang"},
		{"both fail, the first before", after(110*ms, 503), after(50*ms, 500), 503, nil, "I", 150 * ms, 1, 0, "as if there had been no hedge"},
		{"both fail, the second before", fails(300*ms, errCut), after(50*ms, 500), 0, errCut, "", 300 * ms, 1, 0, "as if there had been no hedge"},
		{"a 503 in time", after(99*ms, 503), never(), 503, nil, "I", 99 * ms, 0, 0, "retrying is the base's work"},
		{"an error in time", fails(99*ms, errCut), never(), 0, errCut, "", 99 * ms, 0, 0, "retrying is the base's work"},
		{"final APIError of the second", after(time.Second, 200), fails(20*ms, final), 0, final, "", 120 * ms, 1, 1, "WithStatusErrors makes an error of the answer"},
		{"temporary APIError of the second", after(time.Second, 200), fails(20*ms, temporary), 200, nil, "I", time.Second, 1, 0, "a failure in the one form as in the other"},
		{"nothing from the second", after(time.Second, 200), answer{nothing: true}, 200, nil, "I", time.Second, 1, 0, "a broken base is a failure"},
		{"the base ignores its context", answer{after: time.Second, status: 200, deaf: true}, after(20*ms, 200), 200, nil, "II", time.Second, 1, 1, "useless, but not wrong"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := hedge.New(newServer(tt.first, tt.second), hedge.WithDelay(100*ms))
				status, body, took, err := call(t, transport)
				require.Equal(t, tt.err, err, tt.why)
				require.Equal(t, tt.status, status, tt.why)
				require.Equal(t, tt.from, body, tt.why)
				require.Equal(t, tt.took, took, tt.why)
				require.Equal(t, hedge.Stats{Hedged: tt.sent, Won: tt.won}, transport.Stats(), tt.why)
			})
		})
	}
}

// TestWhichRequests is which requests are sent a second time.
func TestWhichRequests(t *testing.T) {
	const key = "Idempotency-Key"
	keyed := hedge.WithIdempotencyKeys(true)
	edited := func(req *http.Request, edit func(*http.Request)) *http.Request { edit(req); return req }
	made := func(method, body string, header ...string) *http.Request {
		return kit.Request(t, method, "http://api.test/", body, header...)
	}
	for _, tt := range []struct {
		name string
		opt  hedge.Option
		req  *http.Request
		want bool
		why  string
	}{
		{"GET", nil, made("GET", ""), true, "safe, RFC 9110 section 9.2.1"},
		{"HEAD", nil, made("HEAD", ""), true, "safe"},
		{"OPTIONS", nil, made("OPTIONS", ""), true, "safe"},
		{"no method", nil, edited(made("GET", ""), func(r *http.Request) { r.Method = "" }), true, "it is GET"},
		{"NoBody", nil, edited(made("GET", ""), func(r *http.Request) { r.Body = http.NoBody }), true, "it has none"},
		{"GET with a body", nil, made("GET", "x"), false, "it may mean anything"},
		{"TRACE", nil, made("TRACE", ""), false, "nobody waits for it"},
		{"PUT", nil, made("PUT", "x"), false, "idempotent, but it may be overtaken by the next"},
		{"POST with a key", nil, made("POST", "x", key, "k"), false, "the API need not honor it"},
		{"POST with a key, allowed", keyed, made("POST", "x", key, "k"), true, "the option says that the API does"},
		{"POST with the other key, allowed", keyed, made("POST", "x", "X-"+key, "k"), true, "net/http knows both"},
		{"POST without a body, allowed", keyed, made("POST", "", key, "k"), true, "there is nothing to replay"},
		{"POST without a key, allowed", keyed, made("POST", "x"), false, "it would be done twice"},
		{"POST with an empty key, allowed", keyed, made("POST", "x", key, ""), false, "that is none"},
		{"a stream, allowed", keyed, edited(made("POST", "x", key, "k"), func(r *http.Request) { r.GetBody = nil }), false, "it cannot be read twice"},
		{"trailers, allowed", keyed, edited(made("POST", "x", key, "k"), func(r *http.Request) { r.Trailer = http.Header{"X": nil} }), false, "they are filled in by whoever reads the body"},
		{"no second body, allowed", keyed, edited(made("POST", "x", key, "k"), func(r *http.Request) {
			r.GetBody = func() (io.ReadCloser, error) { return nil, errCut }
		}), false, "GetBody failed"},
		{"Upgrade", nil, made("GET", "", "Upgrade", "websocket"), false, "a connection is no answer"},
		{"CONNECT, allowed", keyed, made("CONNECT", "", key, "k"), false, "a tunnel is no answer"},
		{"no URL", nil, edited(made("GET", ""), func(r *http.Request) { r.URL = nil }), false, "the base says what is wrong"},
		{"no header", nil, edited(made("GET", ""), func(r *http.Request) { r.Header = nil }), true, "nor is anything wrong with it here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(after(time.Second, 200), after(time.Second, 200))
				resp, err := hedge.New(srv, hedge.WithDelay(100*ms), tt.opt).RoundTrip(tt.req.WithContext(t.Context()))
				require.NoError(t, err)
				require.Equal(t, tt.want, srv.count() == 2, tt.why)
				require.NoError(t, resp.Body.Close())
			})
		})
	}
}

// usual is the delay if all calls take 10 ms: the end of the bucket of a histogram.
const usual = 10_223_616 * time.Nanosecond

// TestDelayIsLearned: 32 calls are needed, and the delay is just above what is usual.
func TestDelayIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(after(10*ms, 200))
		transport := hedge.New(srv)
		calls(t, transport, 31)
		srv.then(after(time.Second, 200))
		_, _, took, _ := call(t, transport)
		require.Equal(t, time.Second, took, "too little is known")

		srv.then(after(10*ms, 200))
		calls(t, transport, 64)
		require.Zero(t, transport.Stats())
		srv.then(never(), after(10*ms, 200))
		_, _, took, _ = call(t, transport)
		require.Equal(t, usual+10*ms, took)
	})
}

// TestFailuresAreNoSamples: what fails at once says nothing about how long an answer
// takes.
func TestFailuresAreNoSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(after(0, 503))
		transport := hedge.New(srv)
		calls(t, transport, 100)
		srv.then(fails(0, errCut))
		calls(t, transport, 100)
		srv.then(after(10*ms, 200))
		calls(t, transport, 32)
		srv.then(fails(0, errCut))
		calls(t, transport, 1000)
		srv.then(never(), after(10*ms, 200))
		_, _, took, _ := call(t, transport)
		require.Equal(t, usual+10*ms, took)
	})
}

// TestHedgesDoNotDistortTheDelay: the first request of a hedged call is canceled a moment
// after the delay. If it counted for as long as the call took, or not at all, the delay
// would become shorter, and with it the next one.
func TestHedgesDoNotDistortTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(after(10*ms, 200))
		transport := hedge.New(srv)
		calls(t, transport, 64)
		for range 2000 {
			srv.then(after(10*ms, 200))
			calls(t, transport, 19)
			srv.then(after(time.Second, 200), after(0, 200))
			_, _, took, _ := call(t, transport)
			require.Equal(t, usual, took)
		}
		require.Equal(t, hedge.Stats{Hedged: 2000, Won: 2000}, transport.Stats(), "one in 20 is what there is room for")
	})
}

// TestKeys: what is usual for a host says nothing about another one, but holds for all
// credentials.
func TestKeys(t *testing.T) {
	for _, tt := range []struct {
		name         string
		opt          hedge.Option
		learned, now string
		same         bool
	}{
		{"the same host", nil, "http://api.test/a", "http://api.test/b", true},
		{"in capitals", nil, "http://api.test/a", "HTTP://API.test/a", true},
		{"another credential", nil, "http://one@api.test/", "http://two@api.test/", true},
		{"another host", nil, "http://api.test/", "http://other.test/", false},
		{"another scheme", nil, "http://api.test/", "https://api.test/", false},
		{"another route", hedge.WithKey(func(req *http.Request) string { return req.URL.Path }), "http://api.test/a", "http://api.test/b", false},
		{"another host, the same route", hedge.WithKey(func(req *http.Request) string { return req.URL.Path }), "http://api.test/a", "http://other.test/a", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(after(10*ms, 200))
				transport := hedge.New(srv, tt.opt)
				send := func(target string) {
					resp, err := transport.RoundTrip(kit.Request(t, http.MethodGet, target, ""))
					require.NoError(t, err)
					kit.ReadAll(t, resp)
				}
				for range 32 {
					send(tt.learned)
				}
				srv.then(after(time.Second, 200), after(0, 200))
				send(tt.now)
				require.Equal(t, tt.same, transport.Stats().Hedged == 1)
			})
		})
	}
}

// TestManyKeys: the keys used last are remembered.
func TestManyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(after(10*ms, 200))
		key := "usual"
		transport := hedge.New(srv, hedge.WithKey(func(*http.Request) string { return key }))
		calls(t, transport, 32)
		for i := range 1023 {
			key = strconv.Itoa(i)
			calls(t, transport, 1)
		}
		key = "usual"
		srv.then(after(time.Second, 200), after(0, 200))
		calls(t, transport, 1)
		require.EqualValues(t, 1, transport.Stats().Hedged, "it is one of 1,024")
		srv.then(after(10*ms, 200))
		for i := range 1024 {
			key = fmt.Sprint("more ", i)
			calls(t, transport, 1)
		}
		key = "usual"
		srv.then(after(time.Second, 200), after(0, 200))
		calls(t, transport, 1)
		require.EqualValues(t, 1, transport.Stats().Hedged, "it was forgotten")
	})
}

// TestBudget is how many hedges there are for 1,000 calls, after 200 that are fast. A slow
// request takes a second.
func TestBudget(t *testing.T) {
	slow, fast := after(time.Second, 200), after(10*ms, 200)
	for _, tt := range []struct {
		name   string
		opt    hedge.Option
		answer func(call, request int) answer // both from 0
		want   int64
		why    string
	}{
		{"one in 20 is slow", nil, func(call, request int) answer {
			if call%20 == 0 && request == 0 {
				return slow
			}
			return fast
		}, 50, "all of them are hedged"},
		{"one in ten is slow", nil, func(call, request int) answer {
			if call%10 == 0 && request == 0 {
				return slow
			}
			return fast
		}, 59, "until they are usual, with the tokens that there were"},
		{"all are slow", nil, func(int, int) answer { return slow }, 10, "each hedge costs two tokens, as it is slow too"},
		{"one in 20 is slow, and its hedge is", nil, func(call, _ int) answer {
			if call%20 == 0 {
				return slow
			}
			return fast
		}, 40, "the hedges are as slow as what they were to overtake"},
		{"one in 20 is slow, and hedges fail", nil, func(call, request int) answer {
			switch {
			case call%20 != 0:
				return fast
			case request == 0:
				return slow
			}
			return after(0, 503)
		}, 40, "hedges that fail are no better"},
		{"a smaller share", hedge.WithShare(0.01), func(call, request int) answer {
			if call%20 == 0 && request == 0 {
				return slow
			}
			return fast
		}, 26, "it has room for one in 100"},
		{"at most five in 100", hedge.WithShare(0.038), func(call, request int) answer {
			if call%10 == 0 && request == 0 {
				return slow
			}
			return fast
		}, 35, "until they are usual, with the tokens that there were, and less than one in 20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(fast)
				transport := hedge.New(srv, tt.opt)
				calls(t, transport, 200)
				for n := range 1000 {
					srv.then(tt.answer(n, 0), tt.answer(n, 1))
					calls(t, transport, 1)
				}
				require.Equal(t, tt.want, transport.Stats().Hedged, tt.why)
			})
		})
	}
}

// TestHang: a server that answers nothing any more is not sent more than the tokens that
// there were, though no call has ended that would show how slow it is.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(never())
		transport := hedge.New(srv, hedge.WithDelay(100*ms))
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { _, _ = transport.RoundTrip(kit.Get(t).WithContext(ctx)) })
			time.Sleep(ms)
		}
		require.EqualValues(t, 20, transport.Stats().Hedged)
		cancel()
		wg.Wait()
		srv.then(after(10*ms, 200))
		calls(t, transport, 100)
		srv.then(never(), after(0, 200))
		_, _, took, _ := call(t, transport)
		require.Equal(t, 100*ms, took, "it is hedged again, a hundred calls after it was fast again")
	})
}

// spare is a base that may have no room for a second request.
type spare struct {
	*server
	room  bool
	asked []time.Time
}

func (s *spare) Spare(*http.Request) bool {
	s.asked = append(s.asked, time.Now())
	return s.room
}

// TestSpare: the base is asked just before a hedge is sent, and only then.
func TestSpare(t *testing.T) {
	for _, room := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			base := &spare{server: newServer(after(50*ms, 200), after(time.Second, 200)), room: room}
			transport := hedge.New(base, hedge.WithDelay(100*ms))
			calls(t, transport, 1)
			require.Empty(t, base.asked, "not for each call")
			start := time.Now()
			calls(t, transport, 1)
			require.Equal(t, []time.Time{start.Add(100 * ms)}, base.asked)
			require.Equal(t, room, base.count() == 3)
		})
	}
}

// TestSpareOfTransport: a resilient.Transport has no room while a limit of its user's is
// short.
func TestSpareOfTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(after(time.Second, 200))
		transport := hedge.New(resilient.NewTransport(srv, resilient.WithRateLimit(0.01, 2)), hedge.WithDelay(100*ms))
		calls(t, transport, 1)
		require.Equal(t, 1, srv.count(), "the token that is left is for another call")

		srv = newServer(after(time.Second, 200))
		transport = hedge.New(resilient.NewTransport(srv, resilient.WithRateLimit(1, 20)), hedge.WithDelay(100*ms))
		calls(t, transport, 1)
		require.Equal(t, 2, srv.count())
	})
}

// TestTrace: a resilient.Transport below takes each request for a call. The second is sent
// again because of Reason, and the one that lost was canceled.
func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		var log bytes.Buffer
		trace := &resilient.Trace{
			AttemptStart: func(a resilient.AttemptInfo) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprint("sent ", a.Resends, a.ResendReason))
			},
			Done: func(d resilient.DoneInfo) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprint("done ", d.Resends, d.ResendReason, " ", d.Reason, " ", d.Err))
			},
		}
		base := resilient.NewTransport(newServer(never(), after(20*ms, 200)), resilient.WithTrace(trace),
			resilient.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		calls(t, hedge.New(base, hedge.WithDelay(100*ms)), 1)
		require.Equal(t, []string{
			"sent 0", "sent 1hedge",
			"done 1hedge success <nil>",
			"done 0 canceled hedge: the other request was answered first",
		}, told)
		require.Contains(t, log.String(), "why=canceled")
	})
}

// TestContext: the caller's context reaches both requests and ends both.
func TestContext(t *testing.T) {
	type value struct{}
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("shutting down")
		for _, tt := range []struct {
			name          string
			first, second answer
			err           error
		}{
			{"both are under way", never(), never(), cause},
			{"the first has failed", fails(250*ms, errCut), never(), errCut},
			{"the second has failed", never(), fails(0, errCut), cause},
			{"the base ignores it", answer{after: 250 * ms, err: errCut, deaf: true}, answer{after: time.Hour, err: errCut, deaf: true}, errCut},
		} {
			srv := newServer(tt.first, tt.second)
			ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), value{}, "v"))
			time.AfterFunc(300*ms, func() { cancel(cause) })
			start := time.Now()
			_, err := hedge.New(srv, hedge.WithDelay(100*ms)).RoundTrip(kit.Get(t).WithContext(ctx))
			require.True(t, err == tt.err, "%s: %v", tt.name, err) //nolint:errorlint,testifylint // identity
			require.Equal(t, 300*ms, time.Since(start), tt.name)
			require.Equal(t, 2, srv.count(), tt.name)
			for _, req := range srv.requests {
				require.Equal(t, "v", req.Context().Value(value{}), tt.name)
			}
			time.Sleep(2 * time.Hour)
		}
	})
}

// TestContextOfTheResponse: the context of a request lives until the body of its response
// ends or is closed, and no longer. That of the other request ends at once.
func TestContextOfTheResponse(t *testing.T) {
	ends := map[string]func(io.ReadCloser){
		"read to the end": func(b io.ReadCloser) { _, _ = io.ReadAll(b) },
		"closed":          func(b io.ReadCloser) { _ = b.Close() },
	}
	for name, end := range ends {
		for winner, answers := range [][]answer{{after(110*ms, 200), never()}, {never(), after(20*ms, 200)}} {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(answers...)
				req := kit.Get(t)
				resp, err := hedge.New(srv, hedge.WithDelay(100*ms)).RoundTrip(req)
				require.NoError(t, err)
				require.Same(t, req, resp.Request)
				synctest.Wait()
				require.EqualError(t, context.Cause(srv.requests[1-winner].Context()), "hedge: the other request was answered first")
				ctx := srv.requests[winner].Context()
				require.NoError(t, ctx.Err(), name)
				end(resp.Body)
				require.ErrorIs(t, ctx.Err(), context.Canceled, name)
				require.NoError(t, req.Context().Err(), name)
			})
		}
	}
}

// TestBodiesAreClosed: the response that is not returned is read and closed, once.
func TestBodiesAreClosed(t *testing.T) {
	for _, tt := range []struct {
		name          string
		first, second answer
		lost          int // whose response is not returned
		why           string
	}{
		{"the first fails", answer{after: 110 * ms, status: 503}, answer{after: 50 * ms, status: 200}, 0, "so that its connection is used again"},
		{"the second fails", answer{after: time.Second, status: 200}, answer{after: 50 * ms, status: 503}, 1, "so that its connection is used again"},
		{"both fail", answer{after: time.Second, status: 500}, answer{after: 50 * ms, status: 503}, 1, "so that its connection is used again"},
		{"the first answers too", answer{after: time.Second, status: 200, deaf: true}, answer{after: 50 * ms, status: 200}, 0, "it did not notice that it was canceled"},
		{"the second answers too", answer{after: 110 * ms, status: 200}, answer{after: time.Second, status: 200, deaf: true}, 1, "it did not notice that it was canceled"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bodies := []*kit.Body{kit.NewBody("first"), kit.NewBody("second")}
				tt.first.body, tt.second.body = bodies[0], bodies[1]
				_, body, _, err := call(t, hedge.New(newServer(tt.first, tt.second), hedge.WithDelay(100*ms)))
				require.NoError(t, err)
				require.Equal(t, []string{"second", "first"}[tt.lost], body)
				time.Sleep(time.Second)
				require.Equal(t, []int{1, 1}, []int{bodies[0].Closes(), bodies[1].Closes()}, tt.why)
				rest, _ := io.ReadAll(bodies[tt.lost].Reader)
				require.Empty(t, rest, tt.why)
			})
		})
	}
}

// endless is a body of a byte a minute.
type endless struct{ done chan struct{} }

func (b endless) Read(p []byte) (int, error) {
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case <-timer.C:
		p[0] = 'x'
		return 1, nil
	case <-b.done:
		return 0, errCut
	}
}

func (b endless) Close() error { close(b.done); return nil }

// TestSlowBodyIsGivenUp: a response that is not needed is read for a second, and the
// caller does not wait for that.
func TestSlowBodyIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := endless{make(chan struct{})}
		start := time.Now()
		_, _, took, err := call(t, hedge.New(newServer(answer{after: 110 * ms, status: 503, body: body}, after(50*ms, 200)), hedge.WithDelay(100*ms)))
		require.NoError(t, err)
		require.Equal(t, 150*ms, took)
		<-body.done
		require.Equal(t, 1150*ms, time.Since(start))
	})
}

// TestTwiceAtOnce: with an idempotency key both requests have the whole body, and each
// body is closed.
func TestTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var read []string
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			b, _ := io.ReadAll(req.Body)
			_ = req.Body.Close()
			mu.Lock()
			read = append(read, string(b))
			n := len(read)
			mu.Unlock()
			return newServer(after(time.Second/time.Duration(n*n), 200)).RoundTrip(req.WithContext(req.Context()))
		})
		bodies := []*kit.Body{kit.NewBody("payload"), kit.NewBody("payload")}
		req := kit.Request(t, http.MethodPost, "http://api.test/", "payload", "Idempotency-Key", "k")
		req.Body, req.GetBody = bodies[0], func() (io.ReadCloser, error) { return bodies[1], nil }
		resp, err := hedge.New(base, hedge.WithDelay(100*ms), hedge.WithIdempotencyKeys(true)).RoundTrip(req)
		require.NoError(t, err)
		kit.ReadAll(t, resp)
		require.Equal(t, []string{"payload", "payload"}, read)
		require.Positive(t, bodies[0].Closes())
		require.Positive(t, bodies[1].Closes())
	})
}

// TestNoHedgeAfterTheContext: a base may not notice that its context has ended.
func TestNoHedgeAfterTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(answer{after: time.Second, status: 200, deaf: true})
		ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
		defer cancel()
		resp, err := hedge.New(srv, hedge.WithDelay(100*ms)).RoundTrip(kit.Get(t).WithContext(ctx))
		require.NoError(t, err)
		kit.ReadAll(t, resp)
		require.Equal(t, 1, srv.count())
	})
}

// TestInProgress: the API says of a request that one with the same key is in progress. That
// is the other one, whose answer is the better one.
func TestInProgress(t *testing.T) {
	for _, status := range []int{409, 423} {
		for _, key := range []string{"", "k"} {
			synctest.Test(t, func(t *testing.T) {
				transport := hedge.New(newServer(after(time.Second, 200), after(0, status)), hedge.WithDelay(100*ms), hedge.WithIdempotencyKeys(true))
				resp, err := transport.RoundTrip(kit.Request(t, http.MethodGet, "http://api.test/", "", "Idempotency-Key", key))
				require.NoError(t, err)
				kit.ReadAll(t, resp)
				if key == "" {
					require.Equal(t, status, resp.StatusCode, "it is about the resource")
				} else {
					require.Equal(t, 200, resp.StatusCode)
				}
			})
		}
	}
}

// TestPanic: a panic of the base passes through, and nothing is sent after it. One in the
// second request is a failure, because nobody could recover from it.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		var ctx context.Context
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			ctx = req.Context()
			n.Add(1)
			panic("base")
		})
		require.PanicsWithValue(t, "base", func() {
			_, _ = hedge.New(base, hedge.WithDelay(100*ms)).RoundTrip(kit.Get(t))
		})
		require.Error(t, ctx.Err(), "it was once left open, for as long as the caller's lasts")
		time.Sleep(time.Second)
		require.EqualValues(t, 1, n.Load())

		srv := newServer(after(time.Second, 200))
		base = func(req *http.Request) (*http.Response, error) {
			if n.Add(1) == 3 {
				panic("base")
			}
			return srv.RoundTrip(req)
		}
		_, _, took, err := call(t, hedge.New(base, hedge.WithDelay(100*ms)))
		require.NoError(t, err)
		require.Equal(t, time.Second, took)
		require.EqualValues(t, 3, n.Load())
	})
}

// TestPanicsAreFailures: hedges that panic cost as much as hedges that fail. They once cost
// only half.
func TestPanicsAreFailures(t *testing.T) {
	for _, fail := range []func(){func() { panic("base") }, func() {}} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(after(time.Second, 200))
			var first atomic.Bool // is under way
			transport := hedge.New(roundTripper(func(req *http.Request) (*http.Response, error) {
				if !first.CompareAndSwap(false, true) {
					fail()
					return nil, errCut
				}
				defer first.Store(false)
				return srv.RoundTrip(req)
			}), hedge.WithDelay(100*ms))
			calls(t, transport, 100)
			require.EqualValues(t, 10, transport.Stats().Hedged, "of 20 tokens")
		})
	}
}

// TestSpareThroughOthers: a transport in between passes the question on.
func TestSpareThroughOthers(t *testing.T) {
	for _, between := range []func(http.RoundTripper) http.RoundTripper{
		func(base http.RoundTripper) http.RoundTripper {
			return reauth.New(base, func(context.Context, *http.Request) (http.Header, error) { return nil, errCut })
		},
		func(base http.RoundTripper) http.RoundTripper {
			return endpoints.New(base, []endpoints.Endpoint{{URL: "http://a.test"}})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(after(time.Second, 200))
			base := between(resilient.NewTransport(srv, resilient.WithRateLimit(0.01, 2)))
			calls(t, hedge.New(base, hedge.WithDelay(100*ms)), 1)
			require.Equal(t, 1, srv.count(), "the token that is left is for another call")
		})
	}
}

// TestRealServer: over real connections, the server learns that the request that lost was
// canceled. With HTTP/1 that costs its connection, and the other one is used again.
func TestRealServer(t *testing.T) {
	for _, tt := range []struct {
		name          string
		version       int
		first, second time.Duration
		want          string
		dials         int
	}{
		{"the second wins", 1, time.Hour, 0, "second", 2},
		{"the first wins", 1, 150 * ms, time.Hour, "first", 2},
		{"HTTP/2, the second wins", 2, time.Hour, 0, "second", 1},
		{"HTTP/2, the first wins", 2, 150 * ms, time.Hour, "first", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				requests, canceled := 0, 0
				base, dials := kit.ServeHTTP(t, tt.version, func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					requests++
					n := requests
					mu.Unlock()
					d, name := time.Duration(0), "later"
					switch n {
					case 1:
						d, name = tt.first, "first"
					case 2:
						d, name = tt.second, "second"
					}
					timer := time.NewTimer(d)
					defer timer.Stop()
					select {
					case <-timer.C:
						_, _ = io.WriteString(w, name)
					case <-req.Context().Done():
						mu.Lock()
						canceled++
						mu.Unlock()
					}
				})
				client := &http.Client{Transport: hedge.New(resilient.NewTransport(base), hedge.WithDelay(100*ms))}
				get := func() string {
					resp, err := client.Get("http://api.test/")
					require.NoError(t, err)
					return kit.ReadAll(t, resp)
				}
				require.Equal(t, tt.want, get())
				synctest.Wait()
				require.Equal(t, 1, canceled)
				for range 5 {
					require.Equal(t, "later", get())
				}
				require.Equal(t, tt.dials, dials(), "the one that is left serves all that follows")
			})
		})
	}
}

// TestOptions: options that make no sense panic and say why.
func TestOptions(t *testing.T) {
	for want, opt := range map[string]func() hedge.Option{
		"hedge: WithShare must be above 0 and at most 0.1, got 0":   func() hedge.Option { return hedge.WithShare(0) },
		"hedge: WithShare must be above 0 and at most 0.1, got 0.2": func() hedge.Option { return hedge.WithShare(0.2) },
		"hedge: WithDelay must be positive, got 0s":                 func() hedge.Option { return hedge.WithDelay(0) },
		"hedge: WithKey must be not nil, got nil":                   func() hedge.Option { return hedge.WithKey(nil) },
	} {
		require.PanicsWithValue(t, want, func() { opt() })
	}
}

// TestDefaults: a nil base is http.DefaultTransport at the time of the call, and nil
// options are skipped.
func TestDefaults(t *testing.T) {
	was := http.DefaultTransport
	defer func() { http.DefaultTransport = was }()
	transport := hedge.New(nil, nil)
	http.DefaultTransport = newServer(after(0, 200))
	status, _, _, err := call(t, transport)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	require.NotPanics(t, transport.CloseIdleConnections, "a base without the method")
}

// TestAllocations: what a call costs that is not hedged.
func TestAllocations(t *testing.T) {
	resp := &http.Response{StatusCode: 200, Body: http.NoBody}
	base := roundTripper(func(*http.Request) (*http.Response, error) { return resp, nil })
	slow := roundTripper(func(*http.Request) (*http.Response, error) { time.Sleep(time.Microsecond); return nil, errCut })
	for _, tt := range []struct {
		name      string
		transport *hedge.Transport
		warm      int
		want      int
	}{
		{"cold", hedge.New(base, hedge.WithKey(coldKey())), 0, 0},
		{"ready for a hedge", hedge.New(base, hedge.WithDelay(time.Hour)), 0, 6},
		{"no token", hedge.New(slow, hedge.WithDelay(1)), 100, 0},
	} {
		calls(t, tt.transport, tt.warm)
		req := kit.Get(t)
		require.Equal(t, tt.want, int(testing.AllocsPerRun(20, func() { _, _ = tt.transport.RoundTrip(req) })), tt.name)
	}
}

// coldKey returns a key that changes before there are enough calls of it.
func coldKey() func(*http.Request) string {
	n := 0
	names := strings.Split("a b c d e f g h i j", " ")
	return func(*http.Request) string { n++; return names[n/25] }
}
