package profile_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
	"github.com/resilienthttp/resilient/resilienttest"
)

type answer struct {
	status int
	body   string
	header []string
}

func (a answer) scripted() resilienttest.Answer {
	scripted := resilienttest.Status(a.status, a.header...)
	scripted.Body = a.body
	return scripted
}

// TestProfiles sends a GET that gets each answer of each API. It checks how often
// the request is sent, the minimum of the first wait, and the response that the
// caller gets. The tests of package resilient show the same answers without a
// profile.
func TestProfiles(t *testing.T) {
	const ok = `{"ok":true,"data":{}}`
	for _, tt := range []struct {
		why     string
		profile resilient.Profile
		answer  answer
		kind    resilient.Kind // 0: a success
		code    string
		retried bool
		wait    time.Duration
	}{
		{
			"the penalty that only the documentation names", profile.Airtable(),
			answer{429, `{"error":{"type":"TOO_MANY_REQUESTS"}}`, nil},
			resilient.KindRateLimit, "", true, 30 * time.Second,
		},
		{
			"a hint is better", profile.Airtable(),
			answer{429, `{}`, []string{"Retry-After", "2"}},
			resilient.KindRateLimit, "", true, 2 * time.Second,
		},
		{
			"no penalty for a server error", profile.Airtable(),
			answer{500, `{}`, nil},
			resilient.KindServer, "", true, 0,
		},
		{
			"a secondary limit, without a hint", profile.GitHub(),
			answer{403, `{"message":"You have exceeded a secondary rate limit."}`, nil},
			resilient.KindRateLimit, "", true, time.Minute,
		},
		{
			"and with one", profile.GitHub(),
			answer{403, `{"message":"You have exceeded a secondary rate limit."}`, []string{"Retry-After", "7"}},
			resilient.KindRateLimit, "", true, 7 * time.Second,
		},
		{
			"the primary one", profile.GitHub(),
			answer{403, `{"message":"API rate limit exceeded for user ID 1."}`, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"}},
			resilient.KindRateLimit, "", true, 9 * time.Second,
		},
		{
			"a permission", profile.GitHub(),
			answer{403, `{"message":"Must have admin rights."}`, nil},
			resilient.KindAuthentication, "", false, 0,
		},
		{
			"a quota for a day", profile.HubSpot(),
			answer{429, `{"message":"m","policyName":"DAILY"}`, nil},
			resilient.KindQuota, "DAILY", false, 0,
		},
		{
			"a limit for seconds", profile.HubSpot(),
			answer{429, `{"message":"m","policyName":"TEN_SECONDLY_ROLLING"}`, nil},
			resilient.KindRateLimit, "TEN_SECONDLY_ROLLING", true, 0,
		},
		{
			"the quota of an organization", profile.Salesforce(),
			answer{403, `[{"message":"m","errorCode":"REQUEST_LIMIT_EXCEEDED"}]`, nil},
			resilient.KindQuota, "REQUEST_LIMIT_EXCEEDED", false, 0,
		},
		{
			"another 403", profile.Salesforce(),
			answer{403, `[{"message":"m","errorCode":"API_DISABLED_FOR_ORG"}]`, nil},
			resilient.KindAuthentication, "API_DISABLED_FOR_ORG", false, 0,
		},
		{
			"a bucket that lacks 100 points", profile.ShopifyGraphQL(),
			answer{200, `{"errors":[{"message":"Throttled","extensions":{"code":"THROTTLED"}}],"extensions":{"cost":{
				"requestedQueryCost":150,"throttleStatus":{"maximumAvailable":1000,"currentlyAvailable":50,"restoreRate":50}}}}`, nil},
			resilient.KindRateLimit, "THROTTLED", true, 2 * time.Second,
		},
		{
			"a server error in a 200", profile.ShopifyGraphQL(),
			answer{200, `{"errors":[{"message":"m","extensions":{"code":"INTERNAL_SERVER_ERROR"}}]}`, nil},
			resilient.KindServer, "INTERNAL_SERVER_ERROR", true, 0,
		},
		{
			"a permission in a 200", profile.ShopifyGraphQL(),
			answer{200, `{"data":null,"errors":[{"message":"m","extensions":{"code":"ACCESS_DENIED"}}]}`, nil},
			resilient.KindAuthentication, "ACCESS_DENIED", false, 0,
		},
		{
			"a bad query in a 200", profile.ShopifyGraphQL(),
			answer{200, `{"errors":[{"message":"m"}]}`, nil},
			resilient.KindInvalidRequest, "", false, 0,
		},
		{
			"data beside errors is the caller's to judge", profile.ShopifyGraphQL(),
			answer{200, `{"data":{"shop":{}},"errors":[{"message":"m"}]}`, nil},
			0, "", false, 0,
		},
		{"data", profile.ShopifyGraphQL(), answer{200, ok, nil}, 0, "", false, 0},
		{
			"an error in a 200", profile.Slack(),
			answer{200, `{"ok":false,"error":"channel_not_found"}`, nil},
			resilient.KindInvalidRequest, "channel_not_found", false, 0,
		},
		{
			"bad credentials in a 200", profile.Slack(),
			answer{200, `{"ok":false,"error":"invalid_auth"}`, nil},
			resilient.KindAuthentication, "invalid_auth", false, 0,
		},
		{
			"a server error in a 200", profile.Slack(),
			answer{200, `{"ok":false,"error":"internal_error"}`, nil},
			resilient.KindServer, "internal_error", true, 0,
		},
		{
			"a limit in a 200", profile.Slack(),
			answer{200, `{"ok":false,"error":"ratelimited"}`, []string{"Retry-After", "3"}},
			resilient.KindRateLimit, "ratelimited", true, 3 * time.Second,
		},
		{"a success", profile.Slack(), answer{200, ok, nil}, 0, "", false, 0},
		{"JSON of another kind", profile.Slack(), answer{200, `["ok",false]`, nil}, 0, "", false, 0},
		{"no JSON", profile.Slack(), answer{200, `{"ok":false`, nil}, 0, "", false, 0},
		{"HTML", profile.Slack(), answer{200, `{"ok":false}`, []string{"Content-Type", "text/html"}}, 0, "", false, 0},
	} {
		t.Run(fmt.Sprintf("%d %s", tt.answer.status, tt.why), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := resilienttest.New(tt.answer.scripted(), resilienttest.Answer{Body: ok})
				var first resilient.AttemptInfo
				tr := resilient.NewTransport(base, resilient.WithProfile(tt.profile), resilient.WithTrace(&resilient.Trace{
					AttemptDone: func(a resilient.AttemptInfo) {
						if a.Attempt == 1 {
							first = a
						}
					},
				}))
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://api.test/", nil)
				require.NoError(t, err)
				start := time.Now()
				resp, err := tr.RoundTrip(req)
				require.NoError(t, err)
				waited := time.Since(start)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)

				if tt.kind == 0 {
					require.Nil(t, first.APIError)
				} else {
					require.Equal(t, tt.kind, first.APIError.Kind)
					require.Equal(t, tt.code, first.APIError.Code)
				}
				if !tt.retried {
					require.Equal(t, 1, base.Count())
					require.Equal(t, tt.answer.body, string(body), "as it was received")
					_, failed := resilient.ErrorFromResponse(resp)
					require.Equal(t, tt.kind != 0, failed)
					return
				}
				require.Equal(t, 2, base.Count())
				require.Equal(t, tt.wait, first.APIError.RetryAfter)
				require.GreaterOrEqual(t, waited, max(tt.wait, 250*time.Millisecond))
				require.JSONEq(t, ok, string(body))
			})
		})
	}
}
