// Package profile has what some APIs do that no rule can know, as
// [resilient.Profile] values for resilient.WithProfile:
//
//	resilient.NewTransport(nil, resilient.WithProfile(profile.GitHub()))
//
// They are examples too: an API that is not here takes a few lines like these.
package profile

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/resilienthttp/resilient"
)

// Airtable is the profile of the Airtable API. A 429 comes without a hint; the
// documentation asks for 30 seconds, during which every request is refused.
func Airtable() resilient.Profile {
	return resilient.Profile{Rules: []resilient.Rule{
		{Status: http.StatusTooManyRequests, Wait: 30 * time.Second},
	}}
}

// GitHub is the profile of the GitHub REST API. Its secondary rate limits are
// 403s that only their message tells from missing permissions, often without a
// hint; the documentation then asks for at least a minute.
func GitHub() resilient.Profile {
	return resilient.Profile{Rules: []resilient.Rule{
		{Status: http.StatusForbidden, Message: "secondary rate limit", Kind: resilient.KindRateLimit, Wait: time.Minute},
		{Status: http.StatusForbidden, Message: "abuse detection", Kind: resilient.KindRateLimit, Wait: time.Minute},
		{Status: http.StatusForbidden, Message: "API rate limit exceeded", Kind: resilient.KindRateLimit, Wait: time.Minute},
		{Status: http.StatusTooManyRequests, Wait: time.Minute},
	}}
}

// HubSpot is the profile of the HubSpot APIs. A 429 names the limit: one for
// seconds passes, the daily one does not.
func HubSpot() resilient.Profile {
	return resilient.Profile{
		CodeFields: []string{"policyName"},
		Rules:      []resilient.Rule{{Code: "DAILY", Kind: resilient.KindQuota}},
	}
}

// Salesforce is the profile of the Salesforce REST API, whose REQUEST_LIMIT_EXCEEDED
// is the quota of a whole organization for a day.
func Salesforce() resilient.Profile {
	return resilient.Profile{Rules: []resilient.Rule{
		{Code: "REQUEST_LIMIT_EXCEEDED", Kind: resilient.KindQuota},
	}}
}

// ShopifyGraphQL is the profile of Shopify's GraphQL Admin API, whose errors
// come with status 200. A response that has data beside its errors is a partial
// success, and left to the caller.
func ShopifyGraphQL() resilient.Profile {
	return resilient.Profile{
		Failed: func(body []byte) bool {
			var b struct {
				Data   any   `json:"data"`
				Errors []any `json:"errors"`
			}
			return json.Unmarshal(body, &b) == nil && b.Data == nil && len(b.Errors) > 0
		},
		Rules: []resilient.Rule{
			{Code: "ACCESS_DENIED", Kind: resilient.KindAuthentication},
			{Code: "SHOP_INACTIVE", Kind: resilient.KindAuthentication},
			{Code: "INTERNAL_SERVER_ERROR", Kind: resilient.KindServer},
			{Code: "THROTTLED", Kind: resilient.KindRateLimit}, // refused before it is run
		},
	}
}

// Slack is the profile of the Slack Web API, whose errors come with status 200
// and {"ok":false,"error":"..."}.
func Slack() resilient.Profile {
	p := resilient.Profile{Failed: func(body []byte) bool {
		var b struct {
			OK *bool `json:"ok"`
		}
		return json.Unmarshal(body, &b) == nil && b.OK != nil && !*b.OK
	}}
	p.Rules = append(p.Rules, resilient.Rule{Code: "ratelimited", Kind: resilient.KindRateLimit})
	for _, code := range []string{"internal_error", "fatal_error", "service_unavailable", "request_timeout"} {
		p.Rules = append(p.Rules, resilient.Rule{Code: code, Kind: resilient.KindServer})
	}
	for _, code := range []string{
		"not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired",
		"no_permission", "missing_scope", "access_denied",
	} {
		p.Rules = append(p.Rules, resilient.Rule{Code: code, Kind: resilient.KindAuthentication})
	}
	return p
}
