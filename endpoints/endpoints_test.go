package endpoints_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/endpoints"
	"github.com/resilienthttp/resilient/internal/kit"
	"github.com/resilienthttp/resilient/reauth"
)

// TestFailures is what follows the first failure of a GET at the first endpoint.
func TestFailures(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		name  string
		first behaviour
		asked string
		took  time.Duration
		why   string
	}{
		{"lost", fails(io.ErrUnexpectedEOF), "a b", 20 * ms, "at once"},
		{"refused", fails(dial), "a b", 20 * ms, "at once"},
		{"silent", silent, "a b", 1020 * ms, "after the attempt timeout"},
		{"unknown", fails(&net.DNSError{IsNotFound: true}), "a b", 20 * ms, "its name may be gone for a while"},
		{"a certificate", fails(x509.UnknownAuthorityError{}), "a b", 20 * ms, "another endpoint has another"},
		{"502", answers(502), "a b", 25 * ms, "RFC 9110 section 15.6.3"},
		{"503", answers(503), "a b", 25 * ms, "RFC 9110 section 15.6.4"},
		{"503 for a while", answers(503, "Retry-After", "30"), "a b", 25 * ms, "the other one has not said so"},
		{"529", answers(529), "a b", 25 * ms, "overloaded"},

		{"200", answers(200), "a", 20 * ms, "no failure"},
		{"404", answers(404), "a", 20 * ms, "an answer"},
		{"401", answers(401), "a", 20 * ms, "an answer"},
		{"501", answers(501), "a", 5 * ms, "an answer"},
		{"429", answers(429), "a a", 1040 * ms, "a limit is kept, not evaded"},
		{"503 of a limit", answers(503, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "1"), "a a", 0, "a limit too, with a wait of its own"},
		{"500", answers(500), "a a", 1010 * ms, "another endpoint has the same defect"},
		{"504", answers(504), "a a", 1010 * ms, "the one behind it may be at work"},
		{"503, not again", answers(503, "X-Should-Retry", "false"), "a", 5 * ms, "the server has said so"},
		{"the base gives up", fails(context.Canceled), "a", 0, "it has a reason of its own"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := between(t, tt.first, answers(200))
				begun := time.Now()
				host, err := outcome(t, w.over([]resilient.Option{resilient.WithMaxAttempts(2)}), get(t))
				require.Equal(t, tt.asked, strings.Join(w.asked(), " "), tt.why)
				if tt.took > 0 {
					require.Equal(t, tt.took, time.Since(begun), tt.why)
				}
				if tt.asked == "a b" {
					require.NoError(t, err)
					require.Equal(t, "b", host)
					require.Equal(t, endpoints.ReasonNextEndpoint, w.attempt(0).Verdict.Reason)
					require.Equal(t, endpoints.ReasonNextEndpoint, w.attempt(1).ResendReason)
					require.Equal(t, 1, w.attempt(1).Resends)
				}
			})
		})
	}
}

// TestMay: which requests go to another endpoint.
func TestMay(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, tt := range []struct {
		name         string
		method, body string
		edit         func(*http.Request)
		first        behaviour
		opts         []endpoints.Option
		asked        string
		why          string
	}{
		{"GET", http.MethodGet, "", nil, answers(503), nil, "a b", "safe"},
		{"no method", "", "", nil, answers(503), nil, "a b", "it is GET"},
		{"PUT", http.MethodPut, "payload", nil, answers(503), nil, "a b", "RFC 9110 section 9.2.2"},
		{"DELETE", http.MethodDelete, "", nil, fails(io.ErrUnexpectedEOF), nil, "a b", "RFC 9110 section 9.2.2"},
		{"a stream", http.MethodPut, "payload", func(req *http.Request) { req.GetBody = nil }, answers(503), nil, "a", "its body is gone"},
		{"http.NoBody", http.MethodPut, "", func(req *http.Request) { req.Body = http.NoBody }, answers(503), nil, "a b", "nothing need be sent again"},
		{"a body that is gone", http.MethodPut, "payload", func(req *http.Request) { req.GetBody = func() (io.ReadCloser, error) { return nil, errLost } }, answers(503), nil, "a", "GetBody fails"},
		{"POST", http.MethodPost, "payload", nil, answers(503), nil, "a", "it may have been acted upon"},
		{"POST, lost", http.MethodPost, "payload", nil, fails(io.ErrUnexpectedEOF), nil, "a", "it may have been acted upon"},
		{"POST, silent", http.MethodPost, "payload", nil, silent, nil, "a", "it may have been acted upon"},
		{"POST, never sent", http.MethodPost, "payload", nil, fails(dial), nil, "a b", "the proof is that of the Transport"},
		{"POST, unknown", http.MethodPost, "payload", nil, fails(&net.DNSError{IsNotFound: true}), nil, "a b", "there was nobody to send it to"},
		{"POST, a certificate", http.MethodPost, "payload", nil, fails(x509.HostnameError{Certificate: new(x509.Certificate)}), nil, "a b", "the handshake comes before the request"},
		{"POST, the server says", http.MethodPost, "payload", nil, answers(503, "X-Should-Retry", "true"), nil, "a b", "it was not acted upon"},
		{"POST with a key", http.MethodPost, "payload", func(req *http.Request) { req.Header.Set("Idempotency-Key", "k") }, answers(503), nil, "a a", "the other one does not know the key"},
		{"POST by option", http.MethodPost, "payload", nil, answers(503), []endpoints.Option{nil, endpoints.WithNonIdempotent(true)}, "a b", "the caller says so"},
		{"POST by an option that is taken back", http.MethodPost, "payload", nil, answers(503), []endpoints.Option{endpoints.WithNonIdempotent(true), endpoints.WithNonIdempotent(false)}, "a", "the last one counts"},
		{"PATCH", http.MethodPatch, "payload", nil, answers(503), nil, "a", "not idempotent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := between(t, tt.first, answers(200))
				req := newRequest(t, http.MethodGet, tt.body)
				req.Method = tt.method
				if tt.edit != nil {
					tt.edit(req)
				}
				_, err := outcome(t, w.over([]resilient.Option{resilient.WithMaxAttempts(2)}, tt.opts...), req)
				require.Equal(t, tt.asked, strings.Join(w.asked(), " "), tt.why)
				require.Equal(t, tt.asked == "a b", err == nil)
				for _, body := range w.sent {
					require.Equal(t, tt.body, body)
				}
				host, err := outcome(t, w.over(nil), get(t))
				require.NoError(t, err)
				require.Equal(t, "b", host, "it is no business of the next call")
			})
		})
	}
}

// TestStaysAway: calls begin with an endpoint that is up, whatever their method.
func TestStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, answers(503), answers(200))
		transport := w.over(nil)
		_, err := outcome(t, transport, newRequest(t, http.MethodPost, "payload"))
		require.ErrorIs(t, err, resilient.ErrServer)
		for range 2 {
			host, err := outcome(t, transport, newRequest(t, http.MethodPost, "payload"))
			require.NoError(t, err)
			require.Equal(t, "b", host)
		}
		require.Equal(t, []string{"a", "b", "b"}, w.asked())
	})
}

// TestNobodyElse: while no other endpoint is up, the Transport retries as always, and the
// call goes to one that comes back meanwhile.
func TestNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, during(0, time.Hour, answers(503), nil), during(0, 1500*ms, answers(503), answers(200)))
		transport := w.over(nil)
		begun := time.Now()
		host, err := outcome(t, transport, get(t))
		require.NoError(t, err)
		require.Equal(t, "b", host)
		require.Equal(t, 2*time.Second+35*ms, time.Since(begun))
		require.Equal(t, []string{"a", "b", "b", "b"}, w.asked(), "where it is when nobody is up")
	})
	synctest.Test(t, func(t *testing.T) {
		w := between(t, answers(503), answers(503))
		begun := time.Now()
		_, err := outcome(t, w.over(nil), get(t))
		require.ErrorIs(t, err, resilient.ErrServer)
		require.Equal(t, []string{"a", "b", "b", "b", "b"}, w.asked(), "each once, and the retries at one")
		require.Equal(t, 3*time.Second+25*ms, time.Since(begun))
		require.Equal(t, resilient.ReasonTemporaryStatus, w.attempt(1).Verdict.Reason)
	})
}

// TestBelief: nobody fails because of what is believed of an endpoint.
func TestBelief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// b fails once and is back at once, but not probed before a fails.
		w := between(t, during(100*ms, time.Hour, answers(503), answers(200)), nil)
		once := false
		w.servers["b.test"] = func(req *http.Request) (*http.Response, error) {
			if !once {
				once = true
				return answers(503)(req)
			}
			return answers(200)(req)
		}
		transport := w.over([]resilient.Option{resilient.WithMaxAttempts(1)})
		time.Sleep(100 * ms)
		_, err := outcome(t, transport, get(t))
		require.ErrorIs(t, err, resilient.ErrServer)
		require.Equal(t, []string{"a", "b"}, w.asked(), "both are believed down")
		host, err := outcome(t, transport, get(t))
		require.NoError(t, err)
		require.Equal(t, "b", host)
		require.Equal(t, []string{"a", "b", "a", "b"}, w.asked(), "and asked nevertheless, in order")
		time.Sleep(time.Second)
	})
}

// TestLastResort: a call that has been given up at one endpoint asks one that is believed
// down, once.
func TestLastResort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := during(0, 10*time.Second, answers(503), answers(200))
		w := between(t, down, during(5*time.Second, time.Hour, answers(503), answers(200)))
		transport := w.over([]resilient.Option{resilient.WithMaxAttempts(3)})
		traffic(t, transport, 10, 4*time.Second)
		time.Sleep(2 * time.Second) // without calls there is no probe
		w.forget()
		_, err := outcome(t, transport, get(t))
		require.ErrorIs(t, err, resilient.ErrServer)
		time.Sleep(time.Second)
		asked := w.asked()
		i := slices.Index(asked, "a probed") // in the same instant as the call
		require.GreaterOrEqual(t, i, 0)
		require.Equal(t, []string{"b", "b", "b", "a"}, slices.Delete(asked, i, i+1))
		require.Equal(t, 3, w.attempt(4).Resends)
	})
}

// TestLeastDoubt: if all are down, calls go to the one that was asked in vain the least,
// and to the first of them if there are several.
func TestLeastDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, answers(503), during(5*time.Second, time.Hour, answers(503), answers(200)))
		transport := w.over([]resilient.Option{resilient.WithMaxAttempts(1)})
		traffic(t, transport, 10, 5300*ms)
		w.forget()
		_, _ = outcome(t, transport, get(t))
		require.Equal(t, []string{"b", "a"}, w.asked(), "b has failed but once")
		traffic(t, transport, 10, 5*time.Second)
		w.forget()
		_, _ = outcome(t, transport, get(t))
		require.Equal(t, []string{"a", "b"}, w.asked(), "of both nothing is known any more")
		time.Sleep(2 * time.Second)
	})
}

// TestThree: the endpoints are asked in order.
func TestThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]behaviour{"a.test": answers(503), "b.test": answers(502), "c.test": answers(200)})
		transport := endpoints.New(w.base(), []endpoints.Endpoint{{URL: "http://a.test"}, {URL: "http://b.test"}, {URL: "http://c.test"}})
		for range 2 {
			host, err := outcome(t, transport, get(t))
			require.NoError(t, err)
			require.Equal(t, "c", host)
		}
		require.Equal(t, []string{"a", "b", "c", "c"}, w.asked())
		require.Equal(t, []int{0, 1, 2, 0}, []int{w.attempt(0).Resends, w.attempt(1).Resends, w.attempt(2).Resends, w.attempt(3).Resends})
		time.Sleep(time.Second)
	})
}

// TestMost: a call asks up to 64 endpoints.
func TestMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, map[string]behaviour{"last.test": answers(200)})
		all := make([]endpoints.Endpoint, 64)
		for i := range all[:63] {
			all[i].URL = fmt.Sprintf("http://%d.test", i)
			w.servers[fmt.Sprintf("%d.test", i)] = fails(errLost)
		}
		all[63].URL = "http://last.test"
		host, err := outcome(t, endpoints.New(w.base(), all), get(t))
		require.NoError(t, err)
		require.Equal(t, "last", host)
		require.Len(t, w.asked(), 64)
	})
}

// TestCanceled: a call that its caller has ended goes nowhere.
func TestCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, silent, answers(200))
		ctx, cancel := context.WithTimeout(t.Context(), 500*ms)
		defer cancel()
		_, err := outcome(t, w.over(nil), get(t).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []string{"a"}, w.asked())
		host, err := outcome(t, w.over(nil), get(t))
		require.NoError(t, err)
		require.Equal(t, "b", host)
	})
	synctest.Test(t, func(t *testing.T) { // between two attempts
		w := between(t, answers(503), answers(503))
		ctx, cancel := context.WithTimeout(t.Context(), 1500*ms)
		defer cancel()
		_, err := outcome(t, w.over(nil), get(t).WithContext(ctx))
		require.ErrorIs(t, err, resilient.ErrServer, "a wait that would be too long is not begun")
		require.Equal(t, []string{"a", "b", "b"}, w.asked())
	})
}

// TestStatusErrors: an error response that is an error is an occasion too.
func TestStatusErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, answers(503), answers(200))
		host, err := outcome(t, w.over([]resilient.Option{resilient.WithStatusErrors(true)}), get(t))
		require.NoError(t, err)
		require.Equal(t, "b", host)
	})
}

// TestClassifier: a Classifier of the caller's is heard first.
func TestClassifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, answers(503), answers(200))
		final := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			a.Verdict.Retry, a.Verdict.Reason = false, "maintenance"
			return a.Verdict
		})
		_, err := outcome(t, w.over([]resilient.Option{final}), get(t))
		require.ErrorIs(t, err, resilient.ErrServer)
		_, err = outcome(t, w.over(nil), get(t).WithContext(resilient.ContextWithOptions(t.Context(), final)))
		require.ErrorIs(t, err, resilient.ErrServer)
		require.Equal(t, []string{"a", "a"}, w.asked())
	})
}

// TestRequest: what is sent to an endpoint.
func TestRequest(t *testing.T) {
	for _, tt := range []struct {
		name     string
		endpoint endpoints.Endpoint
		url      string
		want     string
		host     string // of the Host field
		why      string
	}{
		{"a host", endpoints.Endpoint{URL: "https://eu.test"}, "http://api.test/v1?q=1", "https://eu.test/v1?q=1", "eu.test", "scheme and host"},
		{"a port", endpoints.Endpoint{URL: "http://eu.test:8080/"}, "http://api.test/v1", "http://eu.test:8080/v1", "eu.test:8080", "a slash is no path"},
		{"a path", endpoints.Endpoint{URL: "http://eu.test/base/"}, "http://api.test/v1/", "http://eu.test/base/v1/", "eu.test", "it comes before that of the request"},
		{"no path", endpoints.Endpoint{URL: "http://eu.test/base"}, "http://api.test", "http://eu.test/base", "eu.test", "nothing follows"},
		{"escapes", endpoints.Endpoint{URL: "http://eu.test/b%2Fc"}, "http://api.test/d%2Fe", "http://eu.test/b%2Fc/d%2Fe", "eu.test", "they stay as they are"},
		{"escapes of the endpoint", endpoints.Endpoint{URL: "http://eu.test/b%2Fc"}, "http://api.test/d", "http://eu.test/b%2Fc/d", "eu.test", "they stay as they are"},
		{"escapes of the request", endpoints.Endpoint{URL: "http://eu.test/b"}, "http://api.test/d%2Fe", "http://eu.test/b/d%2Fe", "eu.test", "they stay as they are"},
		{"userinfo", endpoints.Endpoint{URL: "http://u:p@eu.test"}, "http://x:y@api.test/v1", "http://u:p@eu.test/v1", "eu.test", "the endpoint's"},
		{"userinfo of the request", endpoints.Endpoint{URL: "http://eu.test"}, "http://x:y@api.test/v1", "http://x:y@eu.test/v1", "eu.test", "the caller's, if the endpoint has none"},
		{"a Host", endpoints.Endpoint{URL: "http://10.0.0.1", Host: "eu.test"}, "http://api.test/v1", "http://10.0.0.1/v1", "eu.test", "another name than that of the URL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, header := range []http.Header{nil, {"authorization": {"EU"}, "X-None": nil}} {
				tt.endpoint.Header = header
				var got *http.Request
				transport := endpoints.New(roundTripper(func(req *http.Request) (*http.Response, error) {
					got = req
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				}), []endpoints.Endpoint{tt.endpoint})
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tt.url, nil)
				require.NoError(t, err)
				req.Header = http.Header{"Authorization": {"caller"}, "X-None": {"x"}, "X-Other": {"kept"}}
				before := req.Clone(t.Context())
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				require.Same(t, req, resp.Request)
				require.Equal(t, before, req)
				require.Equal(t, tt.want, got.URL.String(), tt.why)
				sent := got.Host
				if sent == "" {
					sent = got.URL.Host // as net/http does
				}
				require.Equal(t, tt.host, sent, tt.why)
				require.Equal(t, "kept", got.Header.Get("X-Other"))
				if header == nil {
					require.Equal(t, "caller", got.Header.Get("Authorization"))
				} else {
					require.Equal(t, "EU", got.Header.Get("Authorization"))
					require.Empty(t, got.Header.Get("X-None"))
				}
			}
		})
	}
	relative, err := http.NewRequest(http.MethodGet, "http://api.test", nil)
	require.NoError(t, err)
	relative.URL.Path = "v1"
	_, err = endpoints.New(roundTripper(func(req *http.Request) (*http.Response, error) {
		require.Equal(t, "/base/v1", req.URL.Path)
		return nil, errLost
	}), []endpoints.Endpoint{{URL: "http://eu.test/base"}}).RoundTrip(relative)
	require.Equal(t, errLost, err)
}

// TestOwnBase: an endpoint may have a base of its own.
func TestOwnBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, answers(503), answers(200))
		own := w.base()
		used := 0
		transport := endpoints.New(w.base(), []endpoints.Endpoint{
			{URL: "http://a.test"},
			{URL: "http://b.test", Base: roundTripper(func(req *http.Request) (*http.Response, error) {
				used++
				return own.RoundTrip(req)
			})},
		})
		host, err := outcome(t, transport, get(t))
		require.NoError(t, err)
		require.Equal(t, "b", host)
		require.Equal(t, 1, used)
	})
}

// roomy is a base that is asked whether it has room.
type roomy struct {
	http.RoundTripper

	room  bool
	asked []string // the hosts
}

func (r *roomy) Spare(req *http.Request) bool {
	r.asked = append(r.asked, req.URL.Host)
	return r.room
}

// TestSpare: the base is asked about the request to the endpoint that is up.
func TestSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, room := range []bool{true, false} {
			w := between(t, answers(503), answers(200))
			base := &roomy{RoundTripper: w.base(), room: room}
			transport := endpoints.New(base, []endpoints.Endpoint{{URL: "http://a.test"}, {URL: "http://b.test"}})
			require.Equal(t, room, transport.Spare(get(t)))
			_, err := outcome(t, transport, get(t))
			require.NoError(t, err)
			require.Equal(t, room, transport.Spare(get(t)))
			elsewhere := kit.Request(t, http.MethodGet, "http://cdn.test", "")
			elsewhere.Response = &http.Response{Request: get(t)}
			require.Equal(t, room, transport.Spare(elsewhere))
			require.Equal(t, []string{"a.test", "b.test", "cdn.test"}, base.asked)
		}
		plain := endpoints.New(between(t, nil, nil), []endpoints.Endpoint{{URL: "http://a.test"}})
		require.True(t, plain.Spare(get(t)), "a base that cannot be asked")
	})
}

// TestReauth: package reauth stands below, with a credential for each endpoint.
func TestReauth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guarded := func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") != "new for "+req.URL.Host {
				return answers(401)(req)
			}
			return answers(200)(req)
		}
		w := between(t, during(time.Second, 2*time.Second, silent, guarded), guarded)
		var refreshed []string
		base := reauth.New(w.base(), func(_ context.Context, stale *http.Request) (http.Header, error) {
			refreshed = append(refreshed, stale.URL.Host)
			return http.Header{"Authorization": {"new for " + stale.URL.Host}}, nil
		})
		transport := endpoints.New(base, []endpoints.Endpoint{
			{URL: "http://a.test", Header: http.Header{"Authorization": {"old for a"}}},
			{URL: "http://b.test", Header: http.Header{"Authorization": {"old for b"}}},
		})
		for i, want := range []string{"a", "b", "b", "a"} {
			time.Sleep(time.Until(w.start.Add(time.Duration(i) * 1100 * ms)))
			host, err := outcome(t, transport, get(t))
			require.NoError(t, err)
			require.Equal(t, want, host)
		}
		require.Equal(t, []string{"a.test", "b.test"}, refreshed, "each once, and a 401 is no outage")
		require.Equal(t, []string{"a", "a", "a", "b", "b", "b", "a probed", "a"}, w.asked())
		require.Equal(t, 2, w.attempt(4).Resends, "to a, and to b with the old one")
		require.Equal(t, reauth.ReasonNewCredential, w.attempt(4).ResendReason)
	})
}

// TestRedirects: a redirect to a path comes back to the endpoints, and one to another host
// goes there.
func TestRedirects(t *testing.T) {
	for _, tt := range []struct{ name, to, want, why string }{
		{"a path", "/v2", "http://a.test/v2", "the client makes a URL of the API of it"},
		{"the API", "http://API.test/v2", "http://a.test/v2", "the name that callers know"},
		{"an endpoint", "http://b.test/v2", "http://b.test/v2", "the server has named it"},
		{"elsewhere", "https://cdn.test/v2", "https://cdn.test/v2", "it is not for the endpoints"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var last *http.Request
			transport := endpoints.New(roundTripper(func(req *http.Request) (*http.Response, error) {
				last = req
				if req.URL.Path == "/v2" {
					return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req}, nil
				}
				return &http.Response{StatusCode: 302, Header: http.Header{"Location": {tt.to}}, Body: http.NoBody}, nil
			}), []endpoints.Endpoint{{URL: "http://a.test"}, {URL: "http://b.test"}})
			resp, err := (&http.Client{Transport: transport}).Get("http://api.test/v1")
			require.NoError(t, err)
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, tt.want, last.URL.String(), tt.why)
		})
	}
}

// TestNonsense: what makes no sense panics, and says so.
func TestNonsense(t *testing.T) {
	for _, tt := range []struct {
		all  []endpoints.Endpoint
		want string
	}{
		{nil, "endpoints: the endpoints of New must be 1 to 64, got 0"},
		{make([]endpoints.Endpoint, 65), "endpoints: the endpoints of New must be 1 to 64, got 65"},
		{[]endpoints.Endpoint{{URL: "http://a.test"}, {}}, "endpoints: a URL of New must be one of http or https with a host and perhaps a path, got "},
		{[]endpoints.Endpoint{{URL: "a.test"}}, "endpoints: a URL of New must be one of http or https with a host and perhaps a path, got a.test"},
		{[]endpoints.Endpoint{{URL: "ftp://u:p@a.test"}}, "endpoints: a URL of New must be one of http or https with a host and perhaps a path, got ftp://u:xxxxx@a.test"},
		{[]endpoints.Endpoint{{URL: "http://a.test?q"}}, "endpoints: a URL of New must be one of http or https with a host and perhaps a path, got http://a.test?q"},
		{[]endpoints.Endpoint{{URL: "http://a.test#f"}}, "endpoints: a URL of New must be one of http or https with a host and perhaps a path, got http://a.test#f"},
		{[]endpoints.Endpoint{{URL: "http://a.test:port"}}, "endpoints: a URL of New must be one of http or https, got one that cannot be parsed"},
	} {
		require.PanicsWithValue(t, tt.want, func() { endpoints.New(nil, tt.all) })
	}
}

// TestManyAtOnce: callers of one Transport, while endpoints come and go.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := between(t, during(time.Second, 3*time.Second, silent, answers(200)), during(5*time.Second, 6*time.Second, fails(errLost), answers(200)))
		transport := w.over(nil)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for time.Since(w.start) < 8*time.Second {
					method, body := http.MethodGet, ""
					if i%2 == 0 {
						method, body = http.MethodPut, fmt.Sprint("payload ", i)
					}
					if _, err := outcome(t, transport, newRequest(t, method, body)); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Duration(i) * ms)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
	})
}
