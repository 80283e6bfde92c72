package resilient_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

// TestNothingIsSentTwiceWithoutProof: a POST that a cache answered with 503 and
// Retry-After was sent four times, and its origin booked all four.
func TestNothingIsSentTwiceWithoutProof(t *testing.T) {
	const once, again = 1, 4
	limit := resilient.KindRateLimit
	server := resilient.KindServer
	for _, tt := range []struct {
		name   string
		answer step
		post   int
		kind   resilient.Kind
		pauses bool
		why    string
	}{
		{"Varnish", answer(503, "Retry-After", "5", "Via", "1.1 varnish"), once, server, true, "its origin may have taken the request"},
		{"come back at once", answer(503, "Retry-After", "0"), once, server, true, "a hint is a wish"},
		{"in milliseconds", answer(503, "Retry-After-Ms", "800"), once, server, true, "in any form"},
		{"in the body", answerWith(503, `{"retry_after":3}`), once, server, true, "in any place"},
		{"an HTTP date", answer(503, "Retry-After", "Sat, 01 Jan 2000 00:00:05 GMT"), once, server, true, "in any form"},
		{"overloaded", answer(529, "Retry-After", "5"), once, server, true, "the work may have begun"},
		{"bandwidth", answer(509, "Retry-After", "5"), once, server, true, "the work may have begun"},
		{"a gateway", answer(504, "Retry-After", "5"), once, server, false, "the upstream may be at work"},
		{"AWS throttling as 500", answerWith(500, `{"__type":"com.amazonaws#ThrottlingException"}`), once, limit, true, "a backend was throttled, perhaps half-way"},
		{"Google's code as 503", answerWith(503, `{"error":{"status":"RESOURCE_EXHAUSTED"}}`), once, limit, true, "as above"},
		{"a limit's code as 503", answerWith(503, `{"code":"SlowDownThrottling"}`, "Retry-After", "1"), once, server, true, "as above"},
		{"429", answer(429), again, limit, true, "RFC 6585 section 4: it was rejected"},
		{"429 with a hint", answer(429, "Retry-After", "1"), again, limit, true, "it was rejected"},
		{"throttling as 400", answerWith(400, `{"__type":"ThrottlingException"}`), again, limit, true, "it was rejected"},
		{"a limit as 403", answerWith(403, `{"code":"rate_limit_exceeded"}`), again, limit, true, "it was rejected"},
		{"the server's word", answer(500, "X-Should-Retry", "true"), again, server, false, "about this very request"},
		{"the server's word for a cache", answer(503, "Retry-After", "1", "X-Should-Retry", "true"), again, server, true, "about this very request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, way := range []struct {
				name string
				req  *http.Request
				opts []resilient.Option
				want int
			}{
				{"POST", post(t), nil, tt.post},
				{"PATCH", newRequest(t, http.MethodPatch, "http://api.test/", "x"), nil, tt.post},
				{"GET", get(t), nil, again},
				{"a key", keyed(post(t)), nil, again},
				{"a key of ours", post(t), []resilient.Option{resilient.WithIdempotencyKey(func(*http.Request) string { return "k" })}, again},
				{"by option", post(t), []resilient.Option{resilient.WithRetryNonIdempotent(true)}, again},
				{"by a rule", post(t), []resilient.Option{resilient.WithProfile(resilient.Profile{Rules: []resilient.Rule{{Kind: limit}}})}, again},
				{"by a rule that says temporary", post(t), []resilient.Option{resilient.WithProfile(resilient.Profile{Rules: []resilient.Rule{{Status: 500, Kind: server}, {Status: 503, Kind: server}}})}, tt.post},
			} {
				synctest.Test(t, func(t *testing.T) {
					base := newScript(tt.answer)
					var r recorder
					transport := resilient.NewTransport(base, append(way.opts, resilient.WithTrace(r.trace()), unbounded())...)
					resp, err := transport.RoundTrip(way.req.WithContext(t.Context()))
					require.NoError(t, err)
					require.NoError(t, resp.Body.Close())
					require.Equal(t, way.want, base.count(), "%s: %s", way.name, tt.why)
					if way.name == "POST" {
						v := r.attempts[0].Verdict
						require.Equal(t, tt.kind, v.Kind)
						require.Equal(t, tt.pauses, v.Pause, "what others do is another decision")
						require.True(t, v.Retry, "it is temporary all the same")
						require.Equal(t, tt.post > 1, v.Unprocessed)
					}
				})
			}
		})
	}
}

func keyed(req *http.Request) *http.Request {
	req.Header.Set("Idempotency-Key", "k")
	return req
}

// TestAPostThatIsNotRetriedStillPausesItsKey: sending again and staying away are
// two decisions.
func TestAPostThatIsNotRetriedStillPausesItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(503, "Retry-After", "5"), answer(200))
		transport, start := resilient.NewTransport(base), time.Now()
		resp, err := transport.RoundTrip(post(t))
		require.NoError(t, err)
		apiErr, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, 5*time.Second, apiErr.RetryAfter, "the hint is the caller's to use")
		require.Zero(t, time.Since(start))
		resp, err = transport.RoundTrip(post(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Equal(t, 2, base.count())
	})
}

func TestStayAway(t *testing.T) {
	for _, tt := range []struct {
		status int
		pauses bool
		why    string
	}{
		{418, true, "Binance: the address is banned"},
		{420, true, "Twitter: enhance your calm"},
		{430, true, "Shopify: a security rejection"},
		{503, true, "RFC 9110 section 15.6.4"},
		{509, true, "bandwidth limit exceeded"},
		{529, true, "overloaded"},
		{400, false, "about one request"},
		{404, false, "about one resource"},
		{409, false, "about one resource"},
		{413, false, "RFC 9110 section 15.5.14: about one content"},
		{423, false, "RFC 4918 section 11.3: about one resource"},
		{500, false, "nothing says that it is about more than the request"},
	} {
		synctest.Test(t, func(t *testing.T) {
			base := newScript(answer(tt.status, "Retry-After", "60"))
			transport := resilient.NewTransport(base, resilient.WithMaxAttempts(1))
			first := time.Now()
			for range 50 { // a call a second, each of its own goroutine
				req := get(t)
				go func() {
					if resp, err := transport.RoundTrip(req); err == nil {
						_ = resp.Body.Close()
					}
				}()
				time.Sleep(time.Second)
			}
			synctest.Wait()
			want := 50
			if tt.pauses {
				want = 1
			}
			require.Equal(t, want, base.count(), "%d in %v: %s", tt.status, time.Since(first), tt.why)
			time.Sleep(10 * time.Minute) // all have given up, or gone
		})
	}
}

// statusError is an error that tells the status of an answer.
type statusError int

func (e statusError) Error() string   { return "refused" }
func (e statusError) StatusCode() int { return int(e) }

type httpStatusError struct{ status int }

func (e *httpStatusError) Error() string       { return "refused" }
func (e *httpStatusError) HTTPStatusCode() int { return e.status }

// retrieveError has the shape of golang.org/x/oauth2's RetrieveError.
type retrieveError struct {
	Response *http.Response
	body     []byte //nolint:unused // a field that must not be looked at
}

func (e *retrieveError) Error() string { return "oauth2: cannot fetch token" }

type valueError struct{ Response *http.Response }

func (e valueError) Error() string { return "refused" }

// TestFinalAnswersBelow: a token server's 400 was asked for four times.
func TestFinalAnswersBelow(t *testing.T) {
	response := func(status int) *http.Response { return &http.Response{StatusCode: status} }
	var none *httpStatusError
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"oauth2, invalid_grant", &retrieveError{Response: response(400)}, 1},
		{"oauth2, wrapped", fmt.Errorf("token: %w", &retrieveError{Response: response(401)}), 1},
		{"in a url.Error", &url.Error{Op: "Post", URL: "http://sts.test", Err: &retrieveError{Response: response(403)}}, 1},
		{"one of several", errors.Join(errors.New("token"), statusError(404)), 1},
		{"a method", statusError(422), 1},
		{"the AWS SDK's method", &httpStatusError{status: 403}, 1},
		{"a value with a response", valueError{response(410)}, 1},
		{"what a server cannot do", statusError(501), 1},
		{"temporary", statusError(503), 4},
		{"temporary, oauth2", &retrieveError{Response: response(500)}, 4},
		{"a token server's limit", &retrieveError{Response: response(429)}, 4},
		{"no error status", statusError(200), 4},
		{"no response", &retrieveError{}, 4},
		{"a nil pointer inside", fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, none), 4},
		{"no status at all", io.EOF, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(fails(tt.err))
				_, err := resilient.NewTransport(base, unbounded()).RoundTrip(get(t))
				require.ErrorIs(t, err, tt.err)
				require.Equal(t, tt.want, base.count())
				if tt.want == 1 {
					require.Equal(t, tt.err, err, "the base's own error")
				}
			})
		})
	}
}

// TestAProxyThatRefuses: a CONNECT that was answered with 407 was sent four
// times. net/http tells of it with an error that has no type.
func TestAProxyThatRefuses(t *testing.T) {
	for _, tt := range []struct {
		status string
		want   int
		why    string
	}{
		{"407 Proxy Authentication Required", 1, "the credentials for the proxy stay wrong"},
		{"407 proxy authentication required", 1, "a phrase is spelt as the proxy likes"},
		{"403 Forbidden", 1, "the proxy does not allow that host"},
		{"405 Method Not Allowed", 1, "it is no proxy"},
		{"502 Bad Gateway", 4, "the host may be reached later"},
		{"503 Service Unavailable", 4, "as above"},
		{"504 Gateway Timeout", 4, "as above"},
		{"429 Too Many Requests", 4, "the proxy's limit passes"},
		{"499 Our Own Words", 4, "a phrase that nobody knows is a failure to connect, which passes"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(method+" "+tt.status, func(t *testing.T) {
				asked := 0
				proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked++
					if r.Method != http.MethodConnect {
						t.Errorf("%s reached the proxy", r.Method)
					}
					conn, _, err := w.(http.Hijacker).Hijack()
					if err == nil {
						_, _ = io.WriteString(conn, "HTTP/1.1 "+tt.status+"\r\nContent-Length: 0\r\n\r\n")
						_ = conn.Close()
					}
				}))
				defer proxy.Close()
				at, err := url.Parse(proxy.URL)
				require.NoError(t, err)
				base := &http.Transport{Proxy: http.ProxyURL(at)}
				_, want := base.RoundTrip(newRequest(t, method, "https://api.test/", ""))
				require.Error(t, want)
				asked = 0
				_, err = resilient.NewTransport(base, every(0), unbounded()).RoundTrip(newRequest(t, method, "https://api.test/", ""))
				require.Equal(t, tt.want, asked, tt.why)
				if tt.want == 1 {
					require.Equal(t, want, err, "the base's own error")
				}
			})
		}
	}
}

// TestAnswersToOurOwnRetry: a POST that had timed out was told, when it came
// again, that a request with its key is in progress, and that was final.
func TestAnswersToOurOwnRetry(t *testing.T) {
	lost := fails(&net.OpError{Op: "read", Err: io.EOF})
	for _, tt := range []struct {
		name  string
		steps []step
		key   bool
		want  int
		final int
		why   string
	}{
		{"409", []step{lost, answer(409), answer(409), answer(201)}, true, 4, 201, "an earlier attempt is in progress"},
		{"423", []step{lost, answer(423), answer(201)}, true, 3, 201, "the same with another status"},
		{"425", []step{lost, answer(425), answer(201)}, true, 3, 201, "the same with another status"},
		{"after a 504", []step{answer(504), answer(409), answer(201)}, true, 3, 201, "a gateway gave up, its upstream did not"},
		{"out of attempts", []step{lost, answer(409)}, true, 4, 409, "within its attempts"},
		{"at the first attempt", []step{answer(409)}, true, 1, 409, "somebody else's"},
		{"after a rejection", []step{answer(429), answer(409)}, true, 2, 409, "nothing of ours is in progress"},
		{"after a failed dial", []step{fails(&net.OpError{Op: "dial", Err: io.EOF}), answer(409)}, true, 2, 409, "nothing of ours is in progress"},
		{"the server says no", []step{lost, answer(409, "X-Should-Retry", "false")}, true, 2, 409, "it knows better"},
		{"another status", []step{lost, answer(422)}, true, 2, 422, "the key was used with another body"},
		{"without a key", []step{lost, answer(409)}, false, 2, 409, "a conflict of states"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := newScript(tt.steps...)
				opt := resilient.WithRetryNonIdempotent(true)
				if tt.key {
					opt = resilient.WithIdempotencyKey(func(*http.Request) string { return "k" })
				}
				resp, err := resilient.NewTransport(base, opt, unbounded()).RoundTrip(post(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.want, base.count(), tt.why)
				require.Equal(t, tt.final, resp.StatusCode)
			})
		})
	}
}

// TestExpectationFailed: RFC 9110 section 10.1.1 has the request repeated without
// the expectation.
func TestExpectationFailed(t *testing.T) {
	refuses := func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Expect") != "" {
			return answer(417)(req)
		}
		return answer(201)(req)
	}
	synctest.Test(t, func(t *testing.T) {
		base, start := newScript(refuses), time.Now()
		req := post(t)
		req.Header.Set("Expect", "100-continue")
		resp, err := resilient.NewTransport(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 201, resp.StatusCode, "of any method: the request was refused by its header")
		require.Equal(t, "payload", base.sent[1].body)
		require.Equal(t, 2, base.count())
		require.Zero(t, time.Since(start), "there is nothing to wait for")
		require.Equal(t, "100-continue", req.Header.Get("Expect"), "the caller's request is not written to")

		base = newScript(answer(417))
		resp, err = resilient.NewTransport(base).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2, base.count(), "a second one is about something else")
		base = newScript(answer(417))
		resp, err = resilient.NewTransport(base).RoundTrip(post(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, base.count(), "nothing was expected")
	})
}
