package endpoints_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
)

// story is what became of the calls while an endpoint was down from one time to another.
type story struct {
	waited  int           // calls that took a second or longer
	longest time.Duration // call
	failed  int
	away    int           // calls that went to the second endpoint
	back    time.Duration // from the end until the first endpoint answered a call
	probes  int           // until the end
}

func tell(w *world, results []result, end time.Duration) (s story) {
	s.back = -1
	for _, r := range results {
		s.longest = max(s.longest, r.took)
		if r.took >= time.Second {
			s.waited++
		}
		if r.err != nil {
			s.failed++
		}
		if r.host == "b" {
			s.away++
		}
		if s.back < 0 && r.at >= end && r.host == "a" {
			s.back = (r.at + r.took - end).Truncate(ms)
		}
	}
	for _, at := range w.probes() {
		if at < end {
			s.probes++
		}
	}
	return s
}

// TestOutage: the first endpoint is down for a minute, at 10 calls a second.
func TestOutage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first behaviour
		want  story
	}{
		// The first call waits, and those that begin in its second.
		{"silent", silent, story{waited: 10, longest: 1020 * ms, away: 608, back: 820 * ms, probes: 60}},
		{"503", answers(503), story{longest: 25 * ms, away: 608, back: 820 * ms, probes: 61}},
		{"lost", fails(errLost), story{longest: 20 * ms, away: 608, back: 820 * ms, probes: 61}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := between(t, during(10*time.Second, 70*time.Second, tt.first, answers(200)), answers(200))
				got := tell(w, traffic(t, w.over(nil), 10, 80*time.Second), 70*time.Second)
				require.Equal(t, tt.want, got)
			})
		})
	}
}

// TestProbeTimes: 250 ms, 500 ms and every second, and none without calls.
func TestProbeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, answers(503), answers(200))
		transport := w.over(nil)
		traffic(t, transport, 10, 4*time.Second)
		time.Sleep(time.Minute)
		require.Equal(t, []time.Duration{255 * ms, 755 * ms, 1755 * ms, 2755 * ms, 3755 * ms, 4755 * ms}, w.probes(),
			"the last one was scheduled by the last calls")
		_, err := outcome(t, transport, get(t))
		require.NoError(t, err)
		require.Len(t, w.probes(), 7, "one that is overdue comes at once")
	})
}

// TestProbeRequest: what a probe is, for a call of any method.
func TestProbeRequest(t *testing.T) {
	for _, tt := range []struct {
		name, method, body string
		edit               func(*http.Request)
		wantMethod         string
		wantURL            string
		wantHeader         http.Header
		why                string
	}{
		{"GET", http.MethodGet, "", nil, http.MethodGet, "http://a.test/base/v1?q=1", http.Header{"Authorization": {"A"}, "X-Other": {"kept"}}, "safe"},
		{"no method", "", "", nil, "", "http://a.test/base/v1?q=1", http.Header{"Authorization": {"A"}, "X-Other": {"kept"}}, "it is GET"},
		{"HEAD", http.MethodHead, "", nil, http.MethodHead, "http://a.test/base/v1?q=1", http.Header{"Authorization": {"A"}, "X-Other": {"kept"}}, "safe"},
		{"GET with a body", http.MethodGet, "payload", nil, http.MethodHead, "http://a.test/base", http.Header{"Authorization": {"A"}, "X-Api-Key": {"caller's"}}, "it would have to be kept"},
		{"GET that upgrades", http.MethodGet, "", func(req *http.Request) { req.Header.Set("Upgrade", "websocket") }, http.MethodHead, "http://a.test/base", http.Header{"Authorization": {"A"}, "X-Api-Key": {"caller's"}}, "it would open a connection"},
		{"POST", http.MethodPost, "payload", nil, http.MethodHead, "http://a.test/base", http.Header{"Authorization": {"A"}, "X-Api-Key": {"caller's"}}, "it must not be done twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := between(t, answers(503), answers(200))
				transport := endpoints.New(w.base(), []endpoints.Endpoint{
					{URL: "http://a.test/base/", Host: "virtual.test", Header: http.Header{"Authorization": {"A"}}}, {URL: "http://b.test"},
				})
				_, err := outcome(t, transport, get(t))
				require.NoError(t, err)
				called := 0
				ctx, cancel := context.WithCancel(resilient.ContextWithOptions(t.Context(), resilient.WithMaxAttempts(2),
					resilient.WithTrace(&resilient.Trace{Done: func(resilient.DoneInfo) { called++ }})))
				req := newRequest(t, http.MethodGet, tt.body).WithContext(ctx)
				req.Method, req.URL.RawQuery = tt.method, "q=1"
				req.Header = http.Header{"Authorization": {"caller's"}, "X-Other": {"kept"}}
				if tt.wantMethod == http.MethodHead && tt.method != http.MethodHead {
					req.Header.Set("X-Api-Key", "caller's")
				}
				if tt.edit != nil {
					tt.edit(req)
				}
				_, err = outcome(t, transport, req)
				require.NoError(t, err)
				cancel()
				req.Header.Set("X-Other", "changed")
				req.URL.Path = "/changed"
				time.Sleep(time.Second)
				require.Equal(t, []string{"a", "b", "b", "a probed"}, w.asked())
				got := w.requests[3]
				require.Equal(t, tt.wantMethod, got.Method, tt.why)
				require.Equal(t, tt.wantURL, got.URL.String(), tt.why)
				require.Equal(t, tt.wantHeader, got.Header, tt.why)
				require.Equal(t, "virtual.test", got.Host)
				require.Nil(t, got.Body)
				require.Equal(t, 1, called, "the hooks of the call are not told")
				require.Equal(t, 1, w.attempt(3).Resends)
			})
		})
	}
}

// TestComesBack: any answer that is no failure of the endpoint brings it back.
func TestComesBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer behaviour
		back   bool
		why    string
	}{
		{"200", answers(200), true, "an answer"},
		{"302", answers(302), true, "an answer"},
		{"401", answers(401), true, "an answer"},
		{"404", answers(404), true, "an answer"},
		{"429", answers(429), true, "a limit is no outage"},
		{"500", answers(500), true, "the Transport's business"},
		{"503 of a limit", answers(503, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1"), true, "a limit"},
		{"502", answers(502), false, "still down"},
		{"503", answers(503), false, "still down"},
		{"silent", silent, false, "still down"},
		{"lost", fails(errLost), false, "still down"},
		{"a panic", func(*http.Request) (*http.Response, error) { panic("at the disco") }, false, "nothing is known"},
		{"an endless body", endless, true, "its end is not waited for"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := between(t, during(0, 100*ms, answers(503), tt.answer), answers(200))
				transport := w.over([]resilient.Option{resilient.WithMaxAttempts(1)})
				for range 2 {
					_, err := outcome(t, transport, get(t))
					require.NoError(t, err)
				}
				time.Sleep(1300 * ms)
				w.serve(answers(200))
				host, err := outcome(t, transport, get(t))
				require.NoError(t, err)
				require.Equal(t, tt.back, host == "a", tt.why)
				time.Sleep(3 * time.Second)
			})
		})
	}
}

// endless is a 200 whose body goes on until it is closed.
func endless(*http.Request) (*http.Response, error) {
	r, w := io.Pipe()
	go func() {
		for {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
		}
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: r, ContentLength: -1}, nil
}

// TestProbeTimeout: a probe without an attempt timeout ends after 10 seconds.
func TestProbeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, during(0, 100*ms, answers(503), silent), answers(200))
		transport := w.over([]resilient.Option{resilient.WithAttemptTimeout(0)})
		for range 2 {
			_, err := outcome(t, transport, get(t))
			require.NoError(t, err)
		}
		time.Sleep(time.Until(w.start.Add(10*time.Second+255*ms)) - 1)
		require.Len(t, w.asked(), 3)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, []string{"a", "b", "b", "a probed"}, w.asked())
		require.ErrorIs(t, w.attempt(3).Err, context.DeadlineExceeded)
	})
}

// TestPause: a server that asks to stay away is not probed before.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, during(0, 5*time.Second, answers(503, "Retry-After", "30"), answers(200)), answers(200))
		got := tell(w, traffic(t, w.over(nil), 10, 40*time.Second), 30*time.Second)
		require.Equal(t, story{longest: 25 * ms, away: 308, back: 820 * ms}, got)
		require.Equal(t, []time.Duration{30755 * ms}, w.probes())
	})
}

// TestChance: an endpoint that fails now and then is not down, at many calls a second.
func TestChance(t *testing.T) {
	for _, tt := range []struct {
		name      string
		perSecond int
		length    time.Duration
		share     float64
		away      float64 // at most so many calls go to the other endpoint
		why       string
	}{
		{"1 % of 1,000", 1000, 2 * time.Second, 0.01, 0.015, "the calls that have failed"},
		{"5 % of 1,000", 1000, 2 * time.Second, 0.05, 0.2, "few more"},
		{"1 % of 10", 10, time.Minute, 0.01, 0.06, "and those of 250 ms after"},
		{"50 % of 1,000", 1000, 2 * time.Second, 0.5, 1, "it had better be left alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, 2))
				w := between(t, nil, answers(200))
				w.servers["a.test"] = func(req *http.Request) (*http.Response, error) {
					w.mu.Lock()
					unlucky := rng.Float64() < tt.share
					w.mu.Unlock()
					if unlucky {
						return answers(503)(req)
					}
					return answers(200)(req)
				}
				results := traffic(t, w.over(nil), tt.perSecond, tt.length)
				got := tell(w, results, tt.length)
				require.Zero(t, got.failed)
				require.LessOrEqual(t, float64(got.away)/float64(len(results)), tt.away, tt.why)
				time.Sleep(2 * time.Second)
			})
		})
	}
}

// TestByChance: ten answers since the last failure, and one since the request was sent, make
// a failure one by chance.
func TestByChance(t *testing.T) {
	for _, tt := range []struct {
		before, meanwhile int // answers
		want              string
		why               string
	}{
		{9, 1, "a", "ten"},
		{8, 1, "b", "nine"},
		{0, 10, "a", "all of them meanwhile"},
		{10, 0, "b", "it may have gone down since the last answer"},
	} {
		t.Run(fmt.Sprint(tt.before, "+", tt.meanwhile), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := between(t, func(req *http.Request) (*http.Response, error) {
					if req.Method == http.MethodPut {
						time.Sleep(500 * ms)
						return nil, errLost
					}
					return answers(200)(req)
				}, answers(200))
				transport := w.over(nil)
				answered := func(n int) {
					for range n {
						host, err := outcome(t, transport, get(t))
						require.NoError(t, err)
						require.Equal(t, "a", host)
					}
				}
				answered(tt.before)
				var wg sync.WaitGroup
				wg.Go(func() {
					host, err := outcome(t, transport, newRequest(t, http.MethodPut, "payload"))
					require.NoError(t, err)
					require.Equal(t, "b", host)
				})
				synctest.Wait()
				answered(tt.meanwhile)
				wg.Wait()
				host, err := outcome(t, transport, get(t))
				require.NoError(t, err)
				require.Equal(t, tt.want, host, tt.why)
				time.Sleep(time.Second)
			})
		})
	}
}

// TestRelapse: an endpoint that fails again within 10 seconds has to prove itself.
func TestRelapse(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		want  string
	}{
		{10 * time.Second, "a"},
		{10*time.Second - 1, "b"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := between(t, fails(errLost), answers(200))
			transport := w.over(nil)
			until := func(at time.Duration) string {
				time.Sleep(time.Until(w.start.Add(at)))
				host, err := outcome(t, transport, get(t))
				require.NoError(t, err)
				return host
			}
			require.Equal(t, "b", until(0))
			require.Equal(t, "b", until(100*ms))
			time.Sleep(200 * ms) // a probe in vain
			w.serve(answers(200))
			require.Equal(t, "b", until(400*ms))
			back := 770 * ms // the next one, and its answer
			require.Equal(t, "a", until(back+ms))
			w.serve(fails(errLost))
			require.Equal(t, "b", until(back+tt.after))
			w.serve(answers(200))
			require.Equal(t, "b", until(back+tt.after+100*ms))
			require.Equal(t, tt.want, until(back+tt.after+300*ms))
			until(back + tt.after + 1100*ms)
			until(back + tt.after + 2300*ms)
			require.Equal(t, "a", until(back+tt.after+2400*ms))
		})
	}
}

// TestFlap: an endpoint that comes and goes is left alone after a few times.
func TestFlap(t *testing.T) {
	for _, tt := range []struct {
		name   string
		period time.Duration // down for half of it
		down   behaviour
		waited int
		visits int // how often calls went back to the first endpoint
		why    string
	}{
		{"503", 4 * time.Second, answers(503), 0, 3, "it has to be up for 4 seconds after the third time"},
		{"silent", 4 * time.Second, silent, 30, 3, "the same"},
		{"slower", 16 * time.Second, silent, 50, 5, "up for 8 seconds, it has to be up for that long after the fifth"},
		{"slow", 40 * time.Second, silent, 30, 3, "20 seconds are long enough, each time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := between(t, nil, answers(200))
				w.servers["a.test"] = func(req *http.Request) (*http.Response, error) {
					if time.Since(w.start)%tt.period >= tt.period/2 {
						return tt.down(req)
					}
					return answers(200)(req)
				}
				defer time.Sleep(2 * time.Second)
				results := traffic(t, w.over(nil), 10, 2*time.Minute)
				visits, last := 0, ""
				for _, r := range results {
					if r.host != last && r.host == "a" {
						visits++
					}
					last = r.host
				}
				got := tell(w, results, 2*time.Minute)
				require.Zero(t, got.failed)
				require.Equal(t, tt.visits, visits, tt.why)
				require.Equal(t, tt.waited, got.waited, tt.why)
			})
		})
	}
}
