package profile

import (
	"encoding/json"
	"net/http"

	"github.com/resilienthttp/resilient"
)

// Anthropic returns the profile of the Claude API. An error in a stream is retried like
// an error response if nothing of the answer has come before it, and a stream without
// its last event ends with an error ("Streaming messages" and "Errors" in
// platform.claude.com/docs).
//
// A request for a message may be sent twice. The price is that its tokens may be paid
// twice, and that tools which the server runs may run twice. Anthropic's own SDKs do the
// same. Batches, files, sessions and the rest are sent once. What is left of the limits
// "requests", "tokens", "input-tokens" and "output-tokens" is told by header fields
// ("Rate limits, response headers").
func Anthropic() resilient.Profile {
	return resilient.Profile{
		Event: anthropicEvent,
		Repeatable: asks("/v1/messages", "/v1/messages/count_tokens", "/v1/complete",
			":rawPredict", ":streamRawPredict"), // "Claude on Vertex AI"
		Quotas: quotas("Anthropic-Ratelimit-%[1]s-%[2]s", "requests", "tokens", "input-tokens", "output-tokens"),
	}
}

func anthropicEvent(name string, data []byte) (resilient.EventKind, int) {
	switch nameOf(name, data) {
	case "ping", "message_start":
		return resilient.EventPreamble, 0
	case "message_stop",
		"session.status_idle", "session.status_terminated", "session.deleted": // of Managed Agents
		return resilient.EventEnd, 0
	case "completion": // of /v1/complete, each of them
		var completion struct {
			StopReason word `json:"stop_reason"`
		}
		_ = json.Unmarshal(data, &completion)
		if completion.StopReason != "" {
			return resilient.EventEnd, 0
		}
	case "error":
		f, _ := failureOf(data)
		return resilient.EventError, anthropicStatus(string(f.Type))
	}
	return resilient.EventContent, 0
}

// anthropicStatus returns the status of a type of error ("Errors", HTTP errors).
func anthropicStatus(errorType string) int {
	switch errorType {
	case "invalid_request_error":
		return http.StatusBadRequest
	case "authentication_error":
		return http.StatusUnauthorized
	case "billing_error":
		return http.StatusPaymentRequired
	case "permission_error":
		return http.StatusForbidden
	case "not_found_error":
		return http.StatusNotFound
	case "request_too_large":
		return http.StatusRequestEntityTooLarge
	case "rate_limit_error":
		return http.StatusTooManyRequests
	case "timeout_error":
		return http.StatusGatewayTimeout
	case "overloaded_error":
		return 529
	}
	return http.StatusInternalServerError // api_error
}
