package endpoints_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
	"github.com/resilienthttp/resilient/internal/kit"
)

// lossy loses the requests to a.test, in place of the base.
type lossy struct {
	kit.Base

	down func(*http.Request) (*http.Response, error) // nil: it does not
}

func (l lossy) RoundTrip(req *http.Request) (*http.Response, error) {
	if l.down == nil || req.URL.Host != "a.test" {
		return l.RoundTripper.RoundTrip(req)
	}
	kit.Take(req)
	return l.down(req)
}

// TestContract is the contract that a RoundTripper owes its caller: for a call that is
// answered by the first endpoint, and for one that goes to the second.
func TestContract(t *testing.T) {
	var ways []kit.Way
	for _, tt := range []struct {
		name string
		down behaviour
	}{
		{"the first", nil},
		{"the second, as the first is lost", fails(errLost)},
		{"the second, as the first is down", func(*http.Request) (*http.Response, error) { return kit.Response(503, "{}"), nil }},
	} {
		ways = append(ways, kit.Way{
			Name: tt.name,
			Own:  func(req *http.Request) { req.URL, req.Host = nil, "" },
			New: func(base http.RoundTripper) http.RoundTripper {
				return endpoints.New(resilient.NewTransport(lossy{kit.Base{RoundTripper: base}, tt.down}, resilient.WithMaxAttempts(1)),
					[]endpoints.Endpoint{{URL: "http://a.test"}, {URL: "http://b.test"}}, endpoints.WithNonIdempotent(true))
			},
		})
	}
	kit.Contract(t, ways)
}

// TestErrors: the error at the end is the base's own.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, fails(io.ErrUnexpectedEOF), fails(errLost))
		_, err := outcome(t, w.over([]resilient.Option{resilient.WithMaxAttempts(1)}), get(t))
		require.Equal(t, errLost, err)
		canceled, cancel := context.WithCancelCause(t.Context())
		cancel(errLost)
		_, err = outcome(t, w.over(nil), get(t).WithContext(canceled))
		require.ErrorIs(t, err, errLost)
		require.Len(t, w.asked(), 2)
	})
	for _, want := range []error{nil, errLost} { // bases that break their contract stay what they are
		resp, err := endpoints.New(roundTripper(func(*http.Request) (*http.Response, error) { return nil, want }),
			[]endpoints.Endpoint{{URL: "http://a.test"}}).RoundTrip(get(t))
		require.Nil(t, resp)
		require.Equal(t, want, err)
	}
}

// TestClosesIdleConnections: each base is told once for an endpoint, if it has the method.
func TestClosesIdleConnections(t *testing.T) {
	c := new(kit.Idler)
	client := &http.Client{Transport: endpoints.New(resilient.NewTransport(c), []endpoints.Endpoint{
		{URL: "http://a.test"}, {URL: "http://b.test", Base: roundTripper(nil)}, {URL: "http://c.test", Base: c},
	})}
	client.CloseIdleConnections()
	require.Equal(t, 2, c.Closed)
}

// TestHedged: a base may make attempts side by side, and leave one behind that fails when
// the call is at the next endpoint.
func TestHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("X-Second") != "" {
				return nil, errLost
			}
			time.Sleep(100 * ms)
			return answers(503)(req)
		}, func(req *http.Request) (*http.Response, error) {
			time.Sleep(200 * ms)
			return answers(500)(req)
		})
		base := w.base(resilient.WithMaxAttempts(1))
		var wg sync.WaitGroup
		hedging := roundTripper(func(req *http.Request) (*http.Response, error) {
			wg.Go(func() {
				if resp, err := base.RoundTrip(req); err == nil {
					_ = resp.Body.Close()
				}
			})
			second := req.Clone(req.Context())
			second.Header.Set("X-Second", "true")
			return base.RoundTrip(second)
		})
		transport := endpoints.New(base, []endpoints.Endpoint{
			{URL: "http://a.test", Base: hedging}, {URL: "http://b.test"}, {URL: "http://c.test"},
		})
		_, err := outcome(t, transport, get(t))
		require.ErrorIs(t, err, resilient.ErrServer)
		require.Equal(t, []string{"a", "a", "b"}, w.asked(), "a 500 is no occasion, whatever the one left behind was told")
		wg.Wait()
	})
}

// regions runs two real servers, of which the first one can be switched off.
func regions(t *testing.T, http2 bool, handler http.HandlerFunc) (urls [2]string, base *http.Transport, off *atomic.Bool) {
	t.Helper()
	off = new(atomic.Bool)
	pool := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // two servers with certificates of their own
	base = &http.Transport{TLSClientConfig: pool, ForceAttemptHTTP2: http2}
	t.Cleanup(base.CloseIdleConnections)
	for i := range urls {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if i == 0 && off.Load() {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("X-Region", strconv.Itoa(i))
			handler(w, req)
		}))
		if srv.EnableHTTP2 = http2; http2 {
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		urls[i] = srv.URL
	}
	return urls, base, off
}

func quick() resilient.Option {
	return resilient.WithBackOff(func() backoff.BackOff { return backoff.NewConstantBackOff(ms) })
}

// TestServer: over real connections, many callers lose the first endpoint, notice nothing,
// and get it back.
func TestServer(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprint("http2 ", http2), func(t *testing.T) {
			urls, base, off := regions(t, http2, func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				w.Header().Set("Trailer", "X-Sum")
				_, _ = w.Write(body)
				w.Header().Set("X-Sum", "42")
			})
			transport := endpoints.New(resilient.NewTransport(base, quick()), []endpoints.Endpoint{{URL: urls[0]}, {URL: urls[1]}})
			client := &http.Client{Transport: transport}
			put := func(text string) (string, error) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://api.test/v1", strings.NewReader(text))
				if err != nil {
					return "", err
				}
				resp, err := client.Do(req)
				if err != nil {
					return "", err
				}
				defer resp.Body.Close()
				got, err := io.ReadAll(resp.Body)
				if string(got) != text || resp.Trailer.Get("X-Sum") != "42" {
					return "", errors.Join(err, errors.New("the response is not whole"))
				}
				return resp.Header.Get("X-Region"), err
			}
			for _, down := range []bool{false, true} {
				off.Store(down)
				var wg sync.WaitGroup
				for i := range 40 {
					wg.Go(func() {
						region, err := put(strings.Repeat(strconv.Itoa(i), 10_000))
						if err != nil || down && region != "1" {
							t.Error(region, err)
						}
					})
				}
				wg.Wait()
			}
			off.Store(false)
			require.Eventually(t, func() bool {
				region, err := put("back?")
				return err == nil && region == "0"
			}, 30*time.Second, 10*ms)
		})
	}
}

// TestRefused: nobody listens at the first endpoint, and a POST goes to the second.
func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { _, _ = io.Copy(w, req.Body) }))
	defer srv.Close()
	client := &http.Client{Transport: endpoints.New(nil, []endpoints.Endpoint{{URL: "http://" + l.Addr().String()}, {URL: srv.URL}})}
	resp, err := client.Post("http://api.test", "text/plain", strings.NewReader("payload"))
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "payload", string(got))
}

var okay = &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}

// instant answers at once, always with the same response.
func instant(*http.Request) (*http.Response, error) { return okay, nil }

// TestCost is what a call costs while all endpoints are up.
func TestCost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header http.Header
		want   float64
		why    string
	}{
		{"usual", nil, 11, "the request, its URL, its context, and what the base makes of that"},
		{"with a header", http.Header{"Authorization": {"A"}}, 14, "and the header"},
	} {
		transport := endpoints.New(resilient.NewTransport(roundTripper(instant)),
			[]endpoints.Endpoint{{URL: "http://a.test", Header: tt.header}, {URL: "http://b.test"}})
		req := get(t)
		req.Header.Set("Accept", "application/json")
		got := testing.AllocsPerRun(100, func() {
			if _, err := transport.RoundTrip(req); err != nil {
				t.Error(err)
			}
		})
		require.LessOrEqual(t, got, tt.want, "%s: %s", tt.name, tt.why)
	}
}

func BenchmarkTransport(b *testing.B) {
	base := resilient.NewTransport(roundTripper(instant))
	for _, bb := range []struct {
		name      string
		transport http.RoundTripper
	}{
		{"resilient", base},
		{"endpoints", endpoints.New(base, []endpoints.Endpoint{{URL: "http://a.test"}, {URL: "http://b.test"}})},
	} {
		b.Run(bb.name, func(b *testing.B) {
			req := get(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bb.transport.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
