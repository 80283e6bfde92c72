// Package profile describes the peculiarities of some APIs that the general rules
// of package resilient cannot detect, as [resilient.Profile] values for
// resilient.WithProfile:
//
//	resilient.NewTransport(nil, resilient.WithProfile(profile.GitHub()))
//
// Most are about error responses. Those of models ([Anthropic], [OpenAI], [Gemini])
// are also about streams: which event is an error, and which is the last. These, [Slack]
// and [ShopifyGraphQL] say which POSTs may be sent twice.
//
// They also serve as examples: the profile of another API takes a few lines like
// these.
package profile

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/resilienthttp/resilient"
)

// Airtable returns the profile of the Airtable API. Its 429s say nothing about how
// long to wait. The documentation asks for 30 seconds, and the API refuses every
// request during that time.
func Airtable() resilient.Profile {
	return resilient.Profile{Rules: []resilient.Rule{
		{Status: http.StatusTooManyRequests, Wait: 30 * time.Second},
	}}
}

// GitHub returns the profile of the GitHub REST API. Only the message of a 403
// distinguishes a secondary rate limit from a missing permission. Such a 403 often
// says nothing about how long to wait, and the documentation then asks for at
// least a minute.
func GitHub() resilient.Profile {
	return resilient.Profile{Rules: []resilient.Rule{
		{Status: http.StatusForbidden, Message: "secondary rate limit", Kind: resilient.KindRateLimit, Wait: time.Minute},
		{Status: http.StatusForbidden, Message: "abuse detection", Kind: resilient.KindRateLimit, Wait: time.Minute},
		{Status: http.StatusForbidden, Message: "API rate limit exceeded", Kind: resilient.KindRateLimit, Wait: time.Minute},
		{Status: http.StatusTooManyRequests, Wait: time.Minute},
	}}
}

// HubSpot returns the profile of the HubSpot APIs. A 429 names the limit that was
// exceeded. The daily limit is a quota. The limits for a few seconds are rate
// limits, and requests are retried.
func HubSpot() resilient.Profile {
	return resilient.Profile{
		CodeFields: []string{"policyName"},
		Rules:      []resilient.Rule{{Code: "DAILY", Kind: resilient.KindQuota}},
	}
}

// Salesforce returns the profile of the Salesforce REST API. Its
// REQUEST_LIMIT_EXCEEDED is the daily quota of a whole organization.
func Salesforce() resilient.Profile {
	return resilient.Profile{Rules: []resilient.Rule{
		{Code: "REQUEST_LIMIT_EXCEEDED", Kind: resilient.KindQuota},
	}}
}

// ShopifyGraphQL returns the profile of Shopify's GraphQL Admin API, whose errors
// come with status 200. A response with both data and errors is a partial success,
// and is left to the caller. A request whose documents have no mutation and no
// subscription may be sent twice, if it has GetBody.
func ShopifyGraphQL() resilient.Profile {
	return resilient.Profile{
		Failed: func(body []byte) bool {
			var b struct {
				Data   any   `json:"data"`
				Errors []any `json:"errors"`
			}
			return json.Unmarshal(body, &b) == nil && b.Data == nil && len(b.Errors) > 0
		},
		Repeatable: queriesGraphQL,
		Rules: []resilient.Rule{
			{Code: "ACCESS_DENIED", Kind: resilient.KindAuthentication},
			{Code: "SHOP_INACTIVE", Kind: resilient.KindAuthentication},
			{Code: "INTERNAL_SERVER_ERROR", Kind: resilient.KindServer},
			{Code: "THROTTLED", Kind: resilient.KindRateLimit}, // refused before the query is run
		},
	}
}
