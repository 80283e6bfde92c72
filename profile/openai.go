package profile

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/resilienthttp/resilient"
)

// OpenAI returns the profile of the OpenAI API and of APIs that are compatible with it.
// An error in a stream is retried like an error response if nothing of the answer has
// come before it, and a stream without its last event ends with an error. The last event
// of completions is data: [DONE] ("Chat Completions, streaming" in
// developers.openai.com/api/reference). The Responses API and those that make speech,
// texts and images have an event of their own ("Responses, streaming events"). A server
// that does not send [DONE] needs a profile without Event.
//
// A request for an answer of a model may be sent twice. The price is that its tokens
// may be paid twice, that a conversation which the server keeps may get the question
// twice, and that tools which the server runs may run twice. OpenAI's own SDKs do the
// same. Files, batches, threads, vector stores and the rest are sent once.
//
// Limits of money and usage are final, as the guide "Error codes" says. What is left of
// the limits "requests" and "tokens" is told by header fields ("Rate limits").
func OpenAI() resilient.Profile {
	p := resilient.Profile{
		Event: openAIEvent,
		Repeatable: asks("/chat/completions", "/completions", "/responses", "/responses/input_tokens", "/embeddings",
			"/moderations", "/images/generations", "/images/edits", "/audio/speech", "/audio/transcriptions",
			"/audio/translations"),
		Quotas: quotas("X-Ratelimit-%[2]s-%[1]s", "requests", "tokens"),
	}
	for _, code := range openAIQuotas() {
		p.Rules = append(p.Rules, resilient.Rule{Code: code, Kind: resilient.KindQuota})
	}
	return p
}

// openAIQuotas returns the codes of limits that waiting does not lift. They come with
// status 429 ("Error codes").
func openAIQuotas() []string {
	return []string{
		"insufficient_quota", "credit_balance_exhausted", "organization_usage_limit_exceeded",
		"organization_spend_limit_exceeded", "project_spend_limit_exceeded",
	}
}

func openAIEvent(name string, data []byte) (resilient.EventKind, int) {
	if done(data) {
		return resilient.EventEnd, 0
	}
	name = nameOf(name, data)
	switch name {
	case "response.created", "response.in_progress", "response.queued":
		return resilient.EventPreamble, 0
	case "response.completed", "response.incomplete", "transcript.text.done", "speech.audio.done",
		"image_generation.completed", "image_edit.completed":
		return resilient.EventEnd, 0
	case "response.failed":
		var e struct {
			Response json.RawMessage
		}
		_ = json.Unmarshal(data, &e)
		f, _ := failureOf(e.Response)
		if slices.Contains(openAIQuotas(), string(f.Code)) {
			return resilient.EventError, http.StatusPaymentRequired // no Rule sees a code that is so deep
		}
		return resilient.EventError, f.openAIStatus()
	case "error": // the error object is the data, or in it
		f, ok := failureOf(data)
		if !ok {
			_ = json.Unmarshal(data, &f)
		}
		return resilient.EventError, f.openAIStatus()
	}
	if strings.HasPrefix(name, "response.") {
		return resilient.EventContent, 0
	}
	return openAIChunk(data)
}

// openAIChunk judges a chunk of a completion.
func openAIChunk(data []byte) (resilient.EventKind, int) {
	if has(data, `"error"`) {
		if f, ok := failureOf(data); ok {
			return resilient.EventError, f.openAIStatus()
		}
		var e struct {
			failure
			Object word
		}
		if _ = json.Unmarshal(data, &e); e.Object == "error" { // vLLM
			return resilient.EventError, e.openAIStatus()
		}
	}
	if (has(data, `"role"`) || has(data, `"prompt_filter_results"`)) && saysNothing(data) {
		return resilient.EventPreamble, 0
	}
	return resilient.EventContent, 0
}

// saysNothing reports whether a chunk has nothing of the answer: it names the role of
// who answers, or Azure tells the result of its filter.
func saysNothing(data []byte) bool {
	var chunk struct {
		Choices *[]struct {
			Delta        map[string]json.RawMessage
			FinishReason word `json:"finish_reason"`
		}
	}
	if json.Unmarshal(data, &chunk) != nil || chunk.Choices == nil {
		return false
	}
	for _, choice := range *chunk.Choices {
		if choice.Delta == nil || choice.FinishReason != "" {
			return false
		}
		for name, value := range choice.Delta {
			if name != "role" && !isEmpty(value) {
				return false
			}
		}
	}
	return true
}

// openAIStatus returns the status of an error: its code if that is one, as with many
// compatible servers, or the status that the API gives to the code or the type
// ("Error codes", and the codes of an error in "The response object").
func (f failure) openAIStatus() int {
	if status := f.status(); status != 0 {
		return status
	}
	for _, s := range [...]string{string(f.Code), string(f.Type)} {
		switch s {
		case "rate_limit_exceeded", "rate_limit_error", "slow_down", "requests", "tokens":
			return http.StatusTooManyRequests
		case "server_is_overloaded", "service_unavailable_error":
			return http.StatusServiceUnavailable
		case "server_error", "vector_store_timeout":
			return http.StatusInternalServerError
		case "invalid_api_key", "authentication_error":
			return http.StatusUnauthorized
		case "permission_error", "unsupported_country_region_territory":
			return http.StatusForbidden
		case "model_not_found", "not_found_error":
			return http.StatusNotFound
		case "context_length_exceeded", "bio_policy", "misalignment_policy_violation", "data_residency_mismatch",
			"content_filter", "content_policy_violation", "empty_image_file", "failed_to_download_image",
			"unsupported_image_media_type":
			return http.StatusBadRequest
		}
		if slices.Contains(openAIQuotas(), s) {
			return http.StatusTooManyRequests
		}
		if strings.HasPrefix(s, "invalid_") || strings.HasPrefix(s, "image_") {
			return http.StatusBadRequest
		}
	}
	return http.StatusInternalServerError
}
