package resilient_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
)

func TestLimitsByTheirHints(t *testing.T) {
	const (
		limit   = resilient.KindRateLimit
		quota   = resilient.KindQuota
		server  = resilient.KindServer
		invalid = resilient.KindInvalidRequest
		auth    = resilient.KindAuthentication
		second  = time.Second
	)
	fields := func(remaining, reset string) []string {
		return []string{"X-RateLimit-Remaining", remaining, "X-RateLimit-Reset", reset}
	}
	google := func(quotaID string) string {
		return `{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[` +
			`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"x/PerDay","quotaId":"` + quotaID + `"}]},` +
			`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}]}}`
	}
	nested := func(code string) string {
		return `{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"` + code + `"}}}`
	}
	for _, tt := range []struct {
		status int
		body   string
		header []string
		kind   resilient.Kind
		hint   time.Duration
		why    string
	}{
		// 503
		{503, "", fields("0", "8"), limit, 8 * second, "nothing remains until the reset"},
		{503, `{"code":"unavailable"}`, fields("0", "8"), limit, 8 * second, "and a retry before it cannot succeed, whatever the code"},
		{503, "", []string{"RateLimit", `"a";r=0;t=8`}, limit, 8 * second, "the RateLimit field says so"},
		{503, "", []string{"RateLimit", `"a";a=0;w=8`}, limit, 8 * second, "in the words of the next draft"},
		{503, "", []string{"X-User-Limit-24hour-Remaining", "0", "X-User-Limit-24hour-Reset", "8"}, limit, 8 * second, "of any name"},
		{503, "", fields("1, 0", "1, 8"), limit, 8 * second, "in one window"},
		{503, "", append(fields("0", "8"), "Retry-After", "5"), limit, 5 * second, "Retry-After is about this request"},
		{503, "", fields("1", "8"), server, 0, "something remains: the server failed"},
		{503, "", fields("-1", "8"), server, 0, "no limit, or less than nothing: nobody knows"},
		{503, "", []string{"X-RateLimit-Reset", "8"}, server, 0, "nothing is said of what remains"},
		{503, "", []string{"X-RateLimit-Remaining", "0"}, server, 0, "nor when there is more"},
		{503, "", []string{"Retry-After", "8"}, server, 8 * second, "a hint alone is no limit"},
		{503, "", []string{"RateLimit", `"a";r=1;t=8`}, server, 0, "one remains"},
		{500, "", fields("0", "8"), server, 0, "a failure that used up the quota"},
		{502, "", fields("0", "8"), server, 0, "as 500"},
		{504, "", fields("0", "8"), server, 0, "as 500"},
		{400, "", fields("0", "8"), invalid, 0, "a request that used it up"},
		{403, "", fields("1, 0", "1, 8"), limit, 8 * second, "a 403 in one window"},
		{403, `{"code":"forbidden"}`, fields("1, 0", "1, 8"), auth, 0, "unless a code says why"},

		// Google
		{429, google("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), nil, quota, 38 * second, "used up for the day, whatever the hint"},
		{429, "[" + google("GenerateRequestsPerDayPerProjectPerModel") + "]", nil, quota, 38 * second, "as a stream has it"},
		{429, google("TokensPerMonth"), nil, quota, 38 * second, "for the month"},
		{429, google("requests_per_week"), nil, quota, 38 * second, "for the week, in another spelling"},
		{429, google("REQUESTS_PER_YEAR"), nil, quota, 38 * second, "for the year"},
		{429, google("daily-requests"), nil, quota, 38 * second, "in another word"},
		{429, google("requests_perday"), nil, quota, 38 * second, "in one word"},
		{429, strings.ReplaceAll(google("APIPerDay"), "quotaId", "quota_id"), nil, quota, 38 * second, "in the spelling of protobuf"},
		{403, google("RequestsPerDay"), nil, quota, 38 * second, "with another status"},
		{404, google("RequestsPerDay"), nil, resilient.KindNotFound, 38 * second, "but not with one that is not a limit's"},
		{429, google("RequestsPerDay"), []string{"Retry-After", "9"}, quota, 9 * second, "whatever the header"},
		{429, google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), nil, limit, 38 * second, "a minute is soon over"},
		{429, google("RequestsPerHour"), nil, limit, 38 * second, "an hour is a matter of the hint"},
		{429, google("RequestsPerDaylight"), nil, limit, 38 * second, "another word"},
		{429, google("DayRequests"), nil, limit, 38 * second, "a day that is no window"},
		{429, google("SuperDay"), nil, limit, 38 * second, "nor is this one"},
		{
			429, strings.ReplaceAll(google("PerMinute"), "]},", `,{"quotaId":"PerDay"}]},`), nil,
			quota, 38 * second, "one of several",
		},
		{
			429, `{"error":{"details":[{"reason":"RATE_LIMIT_EXCEEDED","metadata":{"quota_limit":"RequestsPerDay"}},{"retryDelay":"38s"}]}}`, nil,
			quota, 38 * second, "in google.rpc.ErrorInfo",
		},

		// Codes within
		{429, nested("org_spend_limit_reached"), nil, quota, 0, "no money comes by waiting"},
		{429, nested("workspace_monthly_spend_limit_reached"), []string{"Retry-After", "9"}, quota, 9 * second, "whatever the header"},
		{429, nested("spend_limit_reached"), nil, quota, 0, "whose it is may be left out"},
		{429, nested("OrgSpendLimitExceeded"), nil, quota, 0, "capitals part words too"},
		{429, nested("team-billing-hard-limit-reached"), nil, quota, 0, "as hyphens do"},
		{429, nested("account_insufficient_credits"), nil, quota, 0, "other money"},
		{429, nested("user.credit_balance_too_low"), nil, quota, 0, "qualified"},
		{429, nested("https://api.test/errors/org-spend-limit-reached"), nil, quota, 0, "at the end of a URI"},
		{429, `{"error":{"type":"rate_limit_error","details":{"errorCode":"org_spend_limit_reached"}}}`, nil, quota, 0, "another spelling"},
		{429, `{"error":{"type":"rate_limit_error","details":[{"reason":"org_spend_limit_reached"}]}}`, nil, quota, 0, "a reason in a list"},
		{400, `{"detail":{"code":"org_spend_limit_reached"}}`, nil, quota, 0, "a detail, with another status"},
		{429, nested("suspend_limit_reached"), nil, limit, 0, "spend is not the word"},
		{429, nested("orgspendlimitreached"), nil, limit, 0, "nor can it be found here"},
		{429, nested("thinking_budget_exceeded"), nil, limit, 0, "a budget is not always money"},
		{429, nested("disk_insufficient_quota"), nil, limit, 0, "nor is a quota"},
		{429, nested("memory_hard_limit_reached"), nil, limit, 0, "nor is a hard limit"},
		{429, nested("spend_limit_reached_soon"), nil, limit, 0, "only the end of a code says that it is over"},
		{429, nested(strings.Repeat("x_", 124) + "spend_limit_reached"), nil, limit, 0, "longer than codes are"},
		{400, nested("invalid_spend_limit"), nil, limit, 0, "only what is reached is over; the type says rate limit"},
		{400, `{"code":"invalid_spend_limit"}`, nil, invalid, 0, "a parameter"},
		{402, nested("org_spend_limit_reached"), nil, resilient.KindPaymentRequired, 0, "the status is more exact"},

		// Lists, names and units
		{429, "", []string{"X-RateLimit-Limit", "1, 15000", "X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "1, 1419704"}, limit, 1419704 * second, "the window that is used up"},
		{429, "", []string{"X-User-Limit-24hour-Remaining", "0", "X-User-Limit-24hour-Reset", "8"}, limit, 8 * second, "a family of another name"},
		{429, "", []string{"Retry-After", "1m30s"}, limit, 90 * second, "a duration"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			base := newScript(answerWith(tt.status, tt.body, tt.header...))
			resp, err := resilient.NewTransport(base, resilient.WithMaxAttempts(1)).RoundTrip(get(t))
			require.NoError(t, err)
			e, ok := resilient.ErrorFromResponse(resp)
			require.True(t, ok)
			require.Equal(t, tt.kind, e.Kind)
			require.Equal(t, tt.hint, e.RetryAfter)
		})
	}
}

func TestUsedUpQuotaOfA503(t *testing.T) {
	// It once was waited for by the backoff, and cost the retry budget.
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answer(503, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "8"), answer(200))
		start := time.Now()
		callers(t, resilient.NewTransport(base, every(0)), 1)
		require.Equal(t, 8*time.Second, since(base, start)[1])
	})
}

func TestQuotaOfTheDayIsFinal(t *testing.T) {
	base := newScript(answerWith(429, `{"error":{"details":[{"violations":[{"quotaId":"PerDay"}]},{"retryDelay":"1s"}]}}`), answer(200))
	resp, err := resilient.NewTransport(base).RoundTrip(get(t))
	require.NoError(t, err)
	require.Equal(t, 429, resp.StatusCode)
	require.Equal(t, 1, base.Count())
	require.NoError(t, resp.Body.Close())

	rule := resilient.Profile{Rules: []resilient.Rule{{Status: 429, Kind: resilient.KindRateLimit}}}
	synctest.Test(t, func(t *testing.T) {
		base := newScript(answerWith(429, `{"error":{"details":[{"violations":[{"quotaId":"PerDay"}]},{"retryDelay":"1s"}]}}`), answer(200))
		callers(t, resilient.NewTransport(base, resilient.WithProfile(rule)), 1)
		require.Equal(t, 2, base.Count(), "unless a rule says otherwise")
	})
}

func TestHostileFieldsOfASuccess(t *testing.T) {
	// Two fields of 90 KB once took a minute, which the context did not end. The
	// bound is far above the milliseconds that they take, and far below that.
	var items strings.Builder
	for i := 9000; items.Len() < 90_000; i-- {
		fmt.Fprintf(&items, `"a";r=%d,`, i)
	}
	base := newScript(answer(200, "RateLimit", items.String(), "RateLimit-Policy", strings.Repeat(`"b";q=1;w=1,`, 7500)))
	start := time.Now()
	resp, err := resilient.NewTransport(base).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Less(t, time.Since(start), 10*time.Second)
}
