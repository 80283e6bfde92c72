package resilient_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
)

// TestStatusTable: the status decides what it means, and whether a request with
// this method is sent again.
func TestStatusTable(t *testing.T) {
	const all = 4 // the default attempts
	for _, tt := range []struct {
		status    int
		header    []string
		get, post int
		kind      resilient.Kind
		sentinel  error
		why       string
	}{
		{400, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "a parameter stays wrong"},
		{402, nil, 1, 1, resilient.KindPaymentRequired, resilient.ErrPaymentRequired, "the account stays unpaid"},
		{403, nil, 1, 1, resilient.KindAuthentication, resilient.ErrAuthentication, "the credentials stay wrong"},
		{404, nil, 1, 1, resilient.KindNotFound, resilient.ErrNotFound, "the URI stays unknown"},
		{429, nil, all, all, resilient.KindRateLimit, resilient.ErrRateLimit, "rejected unprocessed"},
		{500, nil, all, 1, resilient.KindServer, resilient.ErrServer, "a POST may have been processed"},
		{502, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{503, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{504, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{408, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{425, nil, all, 1, resilient.KindServer, resilient.ErrServer, "as 500"},
		{503, []string{"Retry-After", "1"}, all, 1, resilient.KindServer, resilient.ErrServer, "a cache says so of a request that its origin has taken"},
		{503, []string{"Retry-After", "5", "Via", "1.1 varnish"}, all, 1, resilient.KindServer, resilient.ErrServer, "as Varnish does"},
		{503, []string{"Retry-After", "0"}, all, 1, resilient.KindServer, resilient.ErrServer, "0 is a hint too"},
		{503, []string{"Retry-After", "soon"}, all, 1, resilient.KindServer, resilient.ErrServer, "that is no hint"},
		{500, []string{"Retry-After", "1"}, all, 1, resilient.KindServer, resilient.ErrServer, "a hint proves nothing"},
		{401, nil, 1, 1, resilient.KindAuthentication, resilient.ErrAuthentication, "undocumented: final"},
		{405, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "undocumented: final"},
		{409, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "undocumented: final"},
		{410, nil, 1, 1, resilient.KindNotFound, resilient.ErrNotFound, "undocumented: final"},
		{413, []string{"Retry-After", "1"}, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "a hint does not make it temporary"},
		{422, nil, 1, 1, resilient.KindInvalidRequest, resilient.ErrInvalidRequest, "undocumented: final"},
		{501, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 9110 section 15.6.2: it cannot do that for any resource"},
		{505, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 9110 section 15.6.6: the same version is spoken next time"},
		{506, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 2295 section 8.1: the server is misconfigured"},
		{507, nil, all, 1, resilient.KindServer, resilient.ErrServer, "RFC 4918 section 11.5: considered to be temporary"},
		{508, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 5842 section 7.2: the loop stays"},
		{509, nil, all, 1, resilient.KindServer, resilient.ErrServer, "bandwidth comes back"},
		{510, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 2774 section 7: the request lacks an extension"},
		{511, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "RFC 6585 section 6: somebody has to log in"},
		{520, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN got an answer that it does not understand"},
		{521, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN was refused a connection"},
		{522, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN did not get a connection in time"},
		{523, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN has no route"},
		{524, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN did not get an answer in time"},
		{525, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "the TLS handshake behind the CDN fails"},
		{526, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "the certificate behind the CDN is invalid"},
		{527, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN lost its origin"},
		{530, nil, all, 1, resilient.KindServer, resilient.ErrServer, "the CDN does not find its origin"},
		{599, nil, all, 1, resilient.KindServer, resilient.ErrServer, "a proxy lost its connection"},
		{600, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "no class of RFC 9110 section 15"},
		{999, nil, 1, 1, resilient.KindServer, resilient.ErrServer, "net/http lets it through"},
	} {
		t.Run(strconv.Itoa(tt.status)+strings.Join(tt.header, " "), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, way := range []struct {
					method string
					want   int
				}{{"GET", tt.get}, {"POST", tt.post}} {
					base := newScript(answer(tt.status, tt.header...))
					resp, err := resilient.NewTransport(base, unbounded()).RoundTrip(newRequest(t, way.method, "http://api.test/", ""))
					require.NoError(t, err)
					require.Equal(t, way.want, base.Count(), "%s: %s", way.method, tt.why)
					apiErr, ok := resilient.ErrorFromResponse(resp)
					require.True(t, ok)
					require.Equal(t, tt.status, apiErr.StatusCode)
					require.Equal(t, tt.kind, apiErr.Kind)
					require.ErrorIs(t, apiErr, tt.sentinel)
					require.Equal(t, way.want, apiErr.Attempts)
					require.NotEqual(t, "none", apiErr.Kind.String())
					for _, other := range []error{
						resilient.ErrInvalidRequest, resilient.ErrPaymentRequired, resilient.ErrAuthentication,
						resilient.ErrNotFound, resilient.ErrRateLimit, resilient.ErrServer,
					} {
						require.Equal(t, errors.Is(tt.sentinel, other), errors.Is(apiErr, other))
					}
					require.NoError(t, resp.Body.Close())
				}
			})
		})
	}
	require.Equal(t, "none", resilient.Kind(0).String())
	require.NotErrorIs(t, &resilient.APIError{}, resilient.ErrServer, "the zero error is of no kind")
}

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
					require.Equal(t, way.want, base.Count(), "%s: %s", way.name, tt.why)
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

func TestStayAway(t *testing.T) {
	for _, tt := range []struct {
		status int
		want   int // of 50 calls, how many are sent
		why    string
	}{
		{418, 1, "Binance: the address is banned"},
		{420, 1, "Twitter: enhance your calm"},
		{430, 1, "Shopify: a security rejection"},
		{503, 4, "RFC 9110 section 15.6.4; it may be one of several servers, so three in a row make a pause, and one finds out"},
		{509, 1, "bandwidth limit exceeded"},
		{529, 4, "overloaded"},
		{400, 50, "about one request"},
		{404, 50, "about one resource"},
		{409, 50, "about one resource"},
		{413, 50, "RFC 9110 section 15.5.14: about one content"},
		{423, 50, "RFC 4918 section 11.3: about one resource"},
		{500, 50, "nothing says that it is about more than the request"},
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
			require.Equal(t, tt.want, base.Count(), "%d in %v: %s", tt.status, time.Since(first), tt.why)
			time.Sleep(10 * time.Minute) // all have given up, or gone
		})
	}
}

// TestAPostThatIsNotRetriedStillPausesItsKey: sending again and staying away are
// two decisions.
func TestAPostThatIsNotRetriedStillPausesItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(509, "Retry-After", "5"), answer(200))
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
		require.Equal(t, 2, base.Count())
	})
}

// TestShouldRetry: the server's own word beats its status.
func TestShouldRetry(t *testing.T) {
	for _, tt := range []struct {
		answer    step
		get, post int
		why       string
	}{
		{answer(500, "X-Should-Retry", "false"), 1, 1, "no beats the status"},
		{answer(429, "Stripe-Should-Retry", "FALSE"), 1, 1, "in either field, however spelt"},
		{answer(409, "X-Should-Retry", "true"), 4, 4, "yes is the server's word about this very request"},
		{answer(500, "Stripe-Should-Retry", "true"), 4, 4, "also after a failure"},
		{answer(429, "X-Should-Retry", "true"), 4, 4, "which was turned away"},
		{answer(409, "X-Should-Retry", "maybe"), 1, 1, "neither"},
		{answer(500, "X-Should-Retry", "maybe", "Stripe-Should-Retry", "false"), 1, 1, "the first that can be understood"},
	} {
		synctest.Test(t, func(t *testing.T) {
			for _, way := range []struct {
				method string
				want   int
			}{{"GET", tt.get}, {"POST", tt.post}} {
				base := newScript(tt.answer)
				resp, err := resilient.NewTransport(base).RoundTrip(newRequest(t, way.method, "http://api.test/", ""))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, way.want, base.Count(), "%s: %s", way.method, tt.why)
			}
		})
	}
}

func TestLimitsByTheirCodes(t *testing.T) {
	const (
		limit = resilient.KindRateLimit
		quota = resilient.KindQuota
	)
	for _, tt := range []struct {
		status int
		body   string
		header []string
		kind   resilient.Kind
		why    string
	}{
		{429, `{}`, nil, limit, "the status says it"},
		{400, `{"code":"ThrottlingException"}`, nil, limit, "throttling with another status"},
		{403, `{"error":{"errors":[{"reason":"userRateLimitExceeded"}]}}`, nil, limit, "in a list of reasons"},
		{503, `{"type":"https://api.test/errors/rate-limit-exceeded"}`, nil, limit, "at the end of a URI"},
		{500, `{"code":"TOO_MANY_REQUESTS"}`, nil, limit, "in capitals"},
		{400, `{"code":"Throttling.User"}`, nil, limit, "qualified"},
		{404, `{"code":"rate_limit_exceeded"}`, nil, resilient.KindNotFound, "the limit that is not there"},
		{413, `{"code":"rate_limit_exceeded"}`, nil, resilient.KindInvalidRequest, "a request larger than the limit"},
		{402, `{"code":"insufficient_quota"}`, nil, resilient.KindPaymentRequired, "the status is more exact"},
		{400, `{"code":"invalid_rate_limit"}`, nil, resilient.KindInvalidRequest, "a parameter"},
		{400, `{"error":"slow_down"}`, nil, resilient.KindInvalidRequest, "RFC 8628: for the poller to obey"},
		{403, `{"message":"rate limit exceeded"}`, nil, resilient.KindAuthentication, "a message is not matched"},
		{429, `{"error":{"code":"insufficient_quota"}}`, nil, quota, "no money comes by waiting"},
		{429, `{"error":{"code":"insufficient_quota"}}`, []string{"Retry-After", "1"}, quota, "whatever the header says"},
		{403, `{"error":{"errors":[{"reason":"dailyLimitExceeded"}]}}`, nil, quota, "used up for the day"},
		{403, `{"error":{"errors":[{"reason":"quotaExceeded"}]}}`, []string{"Retry-After", "30"}, limit, "back at a stated time"},
		{429, `{"code":"quota_exceeded"}`, []string{"X-RateLimit-Reset", "30"}, limit, "which a reset states too"},
		{429, `{"code":"rate_limit_exceeded","type":"insufficient_quota"}`, nil, quota, "the worst of several"},
		{403, ``, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, limit, "nothing remains"},
		{403, `{"code":"403"}`, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, limit, "the status as a code is none"},
		{403, `{"code":"forbidden"}`, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, resilient.KindAuthentication, "a code says why"},
		{403, ``, []string{"X-RateLimit-Remaining", "5", "X-RateLimit-Reset", "9"}, resilient.KindAuthentication, "something remains"},
		{403, ``, []string{"Retry-After", "9"}, resilient.KindAuthentication, "not a limit's"},
		{401, ``, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}, resilient.KindAuthentication, "another status"},
	} {
		resp, err := resilient.NewTransport(newScript(answerWith(tt.status, tt.body, tt.header...)), resilient.WithMaxAttempts(1)).RoundTrip(get(t))
		require.NoError(t, err)
		e, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.Equal(t, tt.kind, e.Kind, tt.why)
	}
	require.Equal(t, "quota", quota.String())
}

// TestClassifier: a Classifier has the last word on a failure, within the
// limits of the method.
func TestClassifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The quota is used up for good, says the code, whatever the status.
		final := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			v := a.Verdict
			if a.APIError != nil && a.APIError.Code == "insufficient_quota" {
				v.Kind, v.Retry, v.Reason = resilient.KindPaymentRequired, false, "quota"
			}
			return v
		})
		base := newScript(answerWith(429, `{"code":"insufficient_quota"}`))
		var r recorder
		resp, err := resilient.NewTransport(base, final, resilient.WithTrace(r.trace()), resilient.WithStatusErrors(true)).RoundTrip(get(t))
		require.Nil(t, resp)
		require.ErrorIs(t, err, resilient.ErrPaymentRequired)
		require.Equal(t, 1, base.Count())
		require.Equal(t, "quota", r.why(t))

		// It may also find a failure temporary, but not what succeeded.
		asked := 0
		conflict := resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			asked++
			return resilient.Verdict{Kind: a.Verdict.Kind, Retry: true, RetryAfter: 3 * time.Second, Reason: "conflict"}
		})
		base = newScript(answer(409), answer(200))
		start := time.Now()
		resp, err = resilient.NewTransport(base, conflict, every(0)).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 3*time.Second, time.Since(start))
		require.Equal(t, 1, asked)

		base = newScript(answer(409))
		resp, err = resilient.NewTransport(base, conflict, every(0)).RoundTrip(post(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 1, base.Count(), "the method still counts, unless the verdict says Unprocessed")
	})
}

// TestVerdictWithoutAReason: an empty reason was taken for "go on", and the
// call never ended.
func TestVerdictWithoutAReason(t *testing.T) {
	var r recorder
	base := newScript(answer(500))
	zero := resilient.WithClassifier(func(resilient.AttemptInfo) resilient.Verdict { return resilient.Verdict{} })
	resp, err := resilient.NewTransport(base, zero, resilient.WithTrace(r.trace())).RoundTrip(post(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 1, base.Count())
	require.Equal(t, "classifier", r.why(t))
}

// TestRetryAfter: Retry-After is understood in all its forms, by the server's
// clock, and saturates at a year. Nonsense is no hint, and of many values it is
// the first.
func TestRetryAfter(t *testing.T) {
	const date = "Thu, 01 Jan 2026 00:00:00 GMT"
	for _, tt := range []struct {
		name   string
		header []string
		want   time.Duration
		hinted bool
	}{
		{"seconds", []string{"Retry-After", "17"}, 17 * time.Second, true},
		{"zero", []string{"Retry-After", "0"}, 0, true},
		{"white space", []string{"Retry-After", " \t42 "}, 42 * time.Second, true},
		{"fraction", []string{"Retry-After", "1.5"}, 1500 * time.Millisecond, true},
		{"a fraction that floats cannot hold", []string{"Retry-After", "0.729"}, 729 * time.Millisecond, true},
		{"rounded up", []string{"Retry-After", "34.074824224"}, 34075 * time.Millisecond, true},
		{"negative", []string{"Retry-After", "-5"}, 0, false},
		{"plus", []string{"Retry-After", "+1"}, 0, false},
		{"exponent", []string{"Retry-After", "1e3"}, 0, false},
		{"hex", []string{"Retry-After", "0x10"}, 0, false},
		{"infinite", []string{"Retry-After", "Inf"}, 0, false},
		{"NaN", []string{"Retry-After", "NaN"}, 0, false},
		{"superscript", []string{"Retry-After", "²"}, 0, false},
		{"arabic digits", []string{"Retry-After", "١٢"}, 0, false},
		{"underscore", []string{"Retry-After", "1_000"}, 0, false},
		{"no digits after the dot", []string{"Retry-After", "1."}, 0, false},
		{"list", []string{"Retry-After", "120, 240"}, 0, false},
		{"word", []string{"Retry-After", "soon"}, 0, false},
		{"empty", []string{"Retry-After", ""}, 0, false},
		{"the first of two", []string{"Retry-After", "3", "Retry-After", "4"}, 3 * time.Second, true},
		{"overflow of int64 nanoseconds", []string{"Retry-After", "9223372037"}, year, true},
		{"20 digits", []string{"Retry-After", "99999999999999999999"}, year, true},
		{"64 KiB", []string{"Retry-After", strings.Repeat("9", 64<<10)}, 0, false},
		{"milliseconds first", []string{"Retry-After", "9", "Retry-After-Ms", "250"}, 250 * time.Millisecond, true},
		{"Azure's milliseconds", []string{"X-Ms-Retry-After-Ms", "40"}, 40 * time.Millisecond, true},
		{"bad milliseconds fall through", []string{"Retry-After-Ms", "x", "Retry-After", "2"}, 2 * time.Second, true},
		{"IMF date", []string{"Date", date, "Retry-After", "Thu, 01 Jan 2026 00:02:00 GMT"}, 2 * time.Minute, true},
		{"RFC 850 date", []string{"Date", date, "Retry-After", "Thursday, 01-Jan-26 00:02:00 GMT"}, 2 * time.Minute, true},
		{"asctime", []string{"Date", date, "Retry-After", "Thu Jan  1 00:02:00 2026"}, 2 * time.Minute, true},
		{"past date", []string{"Date", date, "Retry-After", "Wed, 31 Dec 2025 00:00:00 GMT"}, 0, true},
		{"year 9999", []string{"Date", date, "Retry-After", "Fri, 31 Dec 9999 00:00:00 GMT"}, year, true},
		{"no Date: our clock", []string{"Retry-After", "Sat, 01 Jan 2000 00:00:30 GMT"}, 30 * time.Second, true},
		{"a cached Date is old", []string{"Date", "Fri, 31 Dec 1999 00:00:00 GMT", "Age", "86400", "Retry-After", "Sat, 01 Jan 2000 00:00:30 GMT"}, 30 * time.Second, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the clock starts at 2000-01-01
				base := newScript(answer(503, tt.header...))
				resp, err := resilient.NewTransport(base, resilient.WithMaxWait(0)).RoundTrip(post(t))
				require.NoError(t, err)
				apiErr, _ := resilient.ErrorFromResponse(resp)
				require.Equal(t, tt.want, apiErr.RetryAfter)
				require.NoError(t, resp.Body.Close())

				var r recorder
				resp, err = resilient.NewTransport(base, resilient.WithTrace(r.trace())).RoundTrip(post(t))
				require.NoError(t, err)
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.hinted, r.attempts[0].Verdict.Pause, "a 503 with a hint holds the key")
			})
		})
	}
}

// FuzzRetryAfter: no hint is negative or longer than a year.
func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{
		"", "0", "1.5", "-1", "1e9", "NaN", "Inf", "0x1p4", "9223372037", "99999999999999999999", " 7 ", "1_0", "120, 240",
		"Thu, 01 Jan 2026 00:02:00 GMT", "Thursday, 01-Jan-26 00:02:00 GMT", "Thu Jan  1 00:02:00 2026", "Fri, 31 Dec 9999 23:59:59 GMT",
	} {
		f.Add(seed, seed, "Thu, 01 Jan 2026 00:00:00 GMT")
	}
	f.Fuzz(func(t *testing.T, value, ms, date string) {
		h := http.Header{"Retry-After": {value}, "Retry-After-Ms": {ms}, "Date": {date}}
		e, ok := resilient.ErrorFromResponse(&http.Response{StatusCode: 429, Header: h})
		require.True(t, ok)
		require.GreaterOrEqual(t, e.RetryAfter, time.Duration(0))
		require.LessOrEqual(t, e.RetryAfter, year)
		require.Zero(t, e.RetryAfter%time.Millisecond)
		if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil && n < 946684800 && strings.Trim(ms, "0123456789. \t\r\n\v\f") != "" {
			require.Equal(t, min(time.Duration(n)*time.Second, year), e.RetryAfter)
		}
	})
}

// corpusCase is an error response as APIs send it, and what is to be made of it.
type corpusCase struct {
	Name, Profile, Method, Body string
	Now                         time.Time // on the caller's clock; the beginning of 2026 if zero
	Status                      int
	Headers                     map[string][]string
	Want                        struct {
		Type, Code, Message string
		Invalid             []resilient.InvalidParam
		Retryable           bool   // the failure, whatever the method
		RetryAfterMS        *int64 `json:"retry_after_ms"` // null: no hint
		Class               string
	}
}

func (tt corpusCase) run(t *testing.T) {
	now := tt.Now
	if now.IsZero() {
		now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	time.Sleep(time.Until(now))
	hits := 0
	base := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		hits++
		w.Header()["Date"] = nil // the server's own would hide that there is none
		w.Header()["Content-Type"] = nil
		for name, values := range tt.Headers {
			w.Header().Del(name)
			for _, v := range values {
				w.Header().Add(name, v)
			}
		}
		w.WriteHeader(tt.Status)
		_, _ = io.WriteString(w, tt.Body)
	})
	var last resilient.AttemptInfo
	trace := &resilient.Trace{AttemptDone: func(a resilient.AttemptInfo) {
		last = a
		if a.Attempt == 1 {
			tt.check(t, a.APIError, a.Verdict) // at once: points in time come nearer while we wait
		}
	}}
	opts := []resilient.Option{resilient.WithTrace(trace)}
	if tt.Profile != "" {
		opts = append(opts, resilient.WithProfile(profiles[tt.Profile]))
	}
	client := &http.Client{Transport: resilient.NewTransport(base, opts...), Timeout: 24 * time.Hour}
	start := time.Now()
	resp, err := client.Do(get(t))
	require.NoError(t, err)
	require.Equal(t, tt.Status, resp.StatusCode)

	hint := time.Duration(0)
	if ms := tt.Want.RetryAfterMS; ms != nil {
		hint = time.Duration(*ms) * time.Millisecond
	}
	if tt.Want.Retryable && hint <= time.Minute {
		require.Equal(t, 4, hits)
		require.GreaterOrEqual(t, time.Since(start), hint)
	} else {
		require.Equal(t, 1, hits)
	}

	body, err := io.ReadAll(resp.Body)
	if err != nil {
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	require.Equal(t, tt.Body, string(body), "every byte, whatever was made of it")
	require.NoError(t, resp.Body.Close())
	e, ok := resilient.ErrorFromResponse(resp)
	require.Equal(t, tt.Want.Class != "ok", ok)
	if ok {
		require.NotEmpty(t, e.Reason, "which is known when the call has ended")
		e.Reason, e.Unprocessed = "", false
	}
	require.Equal(t, last.APIError, e)
}

func (tt corpusCase) check(t *testing.T, e *resilient.APIError, v resilient.Verdict) {
	t.Helper()
	want := tt.Want
	require.Equal(t, want.Retryable, v.Retry)
	if want.Class == "ok" {
		require.Nil(t, e)
		return
	}
	require.NotNil(t, e)
	require.Equal(t, want.Type, e.Type)
	require.Equal(t, want.Code, e.Code)
	require.Equal(t, want.Message, e.Message)
	require.ElementsMatch(t, want.Invalid, e.Invalid)
	require.Equal(t, corpusKinds[want.Class].kind, e.Kind)
	require.ErrorIs(t, e, corpusKinds[want.Class].sentinel)
	require.Equal(t, e.Kind, v.Kind)
	require.Equal(t, e.RetryAfter, v.RetryAfter)
	if want.RetryAfterMS == nil {
		require.Zero(t, e.RetryAfter)
	} else {
		require.Equal(t, *want.RetryAfterMS, e.RetryAfter.Milliseconds())
	}
}

// corpusKinds are the kinds for the classes of the corpus, which are finer.
var corpusKinds = map[string]struct {
	kind     resilient.Kind
	sentinel error
}{
	"invalid_request": {resilient.KindInvalidRequest, resilient.ErrInvalidRequest},
	"conflict":        {resilient.KindInvalidRequest, resilient.ErrInvalidRequest},
	"payment":         {resilient.KindPaymentRequired, resilient.ErrPaymentRequired},
	"auth":            {resilient.KindAuthentication, resilient.ErrAuthentication},
	"not_found":       {resilient.KindNotFound, resilient.ErrNotFound},
	"rate_limit":      {resilient.KindRateLimit, resilient.ErrRateLimit},
	"quota":           {resilient.KindQuota, resilient.ErrRateLimit},
	"server":          {resilient.KindServer, resilient.ErrServer},
	"overloaded":      {resilient.KindServer, resilient.ErrServer},
	"timeout":         {resilient.KindServer, resilient.ErrServer},
}

var profiles = map[string]resilient.Profile{
	"":                {},
	"airtable":        profile.Airtable(),
	"github":          profile.GitHub(),
	"hubspot":         profile.HubSpot(),
	"salesforce":      profile.Salesforce(),
	"shopify-graphql": profile.ShopifyGraphQL(),
	"slack":           profile.Slack(),
}

// TestCorpus sends each case over HTTP, and looks at all that comes of it: the
// parsed error in all three ways, the attempts, and the waits between them.
func TestCorpus(t *testing.T) {
	for _, file := range []string{"corpus.json", "more.json"} {
		b, err := os.ReadFile(filepath.Join("internal", "errorobject", "testdata", file))
		require.NoError(t, err)
		var cases []corpusCase
		require.NoError(t, json.Unmarshal(b, &cases))
		require.GreaterOrEqual(t, len(cases), 96)
		for _, tt := range cases {
			t.Run(tt.Name, func(t *testing.T) { synctest.Test(t, tt.run) })
		}
	}
}

// A package above that has a Classifier of its own must not silence the user's.
func TestClassifiersAreAskedInTurn(t *testing.T) {
	adds := func(add string) resilient.Option {
		return resilient.WithClassifier(func(a resilient.AttemptInfo) resilient.Verdict {
			v := a.Verdict
			v.Retry, v.Reason = false, v.Reason+add
			return v
		})
	}
	var done resilient.DoneInfo
	transport := resilient.NewTransport(newScript(answer(500)), adds(", once"), adds(", twice"),
		resilient.WithTrace(&resilient.Trace{Done: func(d resilient.DoneInfo) { done = d }}))
	ctx := resilient.ContextWithOptions(t.Context(), adds(", thrice"))
	resp, err := transport.RoundTrip(get(t).WithContext(ctx))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, resilient.ReasonTemporaryStatus+", once, twice, thrice", done.Reason)
}

// cameTo is what a call came to, in words.
func cameTo(t *testing.T, request func(testing.TB) *http.Request, base step, opts ...resilient.Option) (words string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		script, start := newScript(base), time.Now()
		transport := resilient.NewTransport(script, append(opts, every(0))...)
		resp, err := transport.RoundTrip(request(t))
		require.NoError(t, err)
		e, ok := resilient.ErrorFromResponse(resp)
		require.True(t, ok)
		require.NoError(t, resp.Body.Close())
		words = fmt.Sprint(len(script.Attempts()), " attempts in ", time.Since(start), ": ",
			e.Kind, ", ", e.Reason, ", ", e.Unprocessed, ", ", e.RetryAfter, ", ", transport.Snapshot().Totals)
	})
	return words
}

// sameOutcome requires that it makes no difference to a call whether somebody is shown
// the error object, which is read only then, or if it seems to matter.
func sameOutcome(t *testing.T, status int, body string, header ...string) {
	t.Helper()
	for _, request := range []func(testing.TB) *http.Request{get, post} {
		shown := cameTo(t, request, answerWith(status, body, header...), resilient.WithTrace(&resilient.Trace{}))
		require.Equal(t, shown, cameTo(t, request, answerWith(status, body, header...)), "%d %s", status, body)
	}
}

// TestObjectsThatMatterAreRead: an error object that nobody is shown is read if it names
// a limit by any of the codes in the table, or has a hint.
func TestObjectsThatMatterAreRead(t *testing.T) {
	source, err := os.ReadFile("classify.go")
	require.NoError(t, err)
	codes := regexp.MustCompile(`"(\w+)": +(?:rateLimit|quota|balance)\b`).FindAllStringSubmatch(string(source), -1)
	require.Greater(t, len(codes), 50)
	for _, code := range codes {
		for _, spelled := range []string{code[1], strings.ToUpper(code[1]), strings.Join(strings.Split(code[1], ""), "_"), `\u00` + hex.EncodeToString([]byte(code[1][:1])) + code[1][1:]} {
			sameOutcome(t, 400, `{"code":"`+spelled+`"}`)
		}
		sameOutcome(t, 403, `{"error":{"errors":[{"reason":"https://api.test/errors/`+code[1]+`"}]}}`)
	}
	for _, body := range []string{
		`{"retry_after":7}`, `{"error":{"details":[{"retryDelay":"7s"}]}}`, `{"RetryInSeconds":7}`, `{"rate-limit-next":7}`,
		`{"requestedQueryCost":9,"throttleStatus":{"currentlyAvailable":5,"restoreRate":2}}`,
		`{"error":{"details":[{"violations":[{"quotaId":"RequestsPerDay"}]}]}}`,
		`{"code":"org_spend_limit_reached"}`, `{"code":"not_a_limit"}`, `{"code":"x"}`, `too many requests`, ``,
	} {
		for _, status := range []int{400, 403, 408, 429, 500, 502, 503, 529} {
			sameOutcome(t, status, body)
			sameOutcome(t, status, body, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "7")
			sameOutcome(t, status, body, "X-Amzn-ErrorType", "ThrottlingException")
		}
	}
}

func FuzzObjectsThatMatterAreRead(f *testing.F) {
	for _, seed := range []string{`{"code":"c"}`, `{"code":"rate_limited"}`, `{"error":{"type":"TooMany-Requests"}}`, `{"retryAfter":1}`, `x`} {
		f.Add(400, seed)
		f.Add(500, seed)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status >= 400 && status <= 599 {
			sameOutcome(t, status, body)
		}
	})
}
