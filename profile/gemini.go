package profile

import (
	"encoding/json"

	"github.com/resilienthttp/resilient"
)

// Gemini returns the profile of the Gemini API, also at Vertex AI. An error in a stream
// of server-sent events (alt=sse) is retried like an error response if nothing of the
// answer has come before it. A stream ends with an error if no candidate has got a
// finishReason, nor the prompt a blockReason ("Generating content" in
// ai.google.dev/api), and one of the Interactions API if it has no last event.
//
// A call of a model's method may be sent twice, and the price is that its tokens may be
// paid twice. Google's own SDKs do the same if they are asked to. Interactions, which
// the server keeps, batches, files and the rest are sent once.
func Gemini() resilient.Profile {
	return resilient.Profile{
		Event: geminiEvent,
		Repeatable: asks(":generateContent", ":streamGenerateContent", ":countTokens",
			":embedContent", ":batchEmbedContents"),
	}
}

// maxEvent is how much of the data of an event a profile gets.
const maxEvent = 64 << 10

func geminiEvent(name string, data []byte) (resilient.EventKind, int) {
	if done(data) {
		return resilient.EventEnd, 0
	}
	switch name { // of the Interactions API ("Streaming interactions")
	case "interaction.created", "interaction.status_update":
		return resilient.EventPreamble, 0
	case "interaction.completed":
		return resilient.EventEnd, 0
	}
	if name == "error" || has(data, `"error"`) {
		if f, ok := failureOf(data); ok || name == "error" {
			return resilient.EventError, f.status()
		}
	}
	if len(data) >= maxEvent {
		return resilient.EventEnd, 0 // an image; its finishReason may be in the part that is cut off
	}
	if has(data, `"parts"`) && !has(data, `"finishReason"`) {
		return resilient.EventContent, 0
	}
	return geminiChunk(data)
}

// geminiChunk judges a chunk that may be the last, or have nothing of the answer.
func geminiChunk(data []byte) (resilient.EventKind, int) {
	var chunk struct {
		Candidates []struct {
			Content      struct{ Parts []json.RawMessage }
			FinishReason word
		}
		PromptFeedback struct{ BlockReason word }
		UsageMetadata  json.RawMessage
		ResponseID     word
	}
	if json.Unmarshal(data, &chunk) != nil {
		return resilient.EventContent, 0
	}
	finished, parts := 0, 0
	for _, candidate := range chunk.Candidates {
		parts += len(candidate.Content.Parts)
		if r := candidate.FinishReason; r != "" && r != "FINISH_REASON_UNSPECIFIED" {
			finished++
		}
	}
	switch known := len(chunk.Candidates) > 0 || chunk.UsageMetadata != nil || chunk.ResponseID != ""; {
	case chunk.PromptFeedback.BlockReason != "", finished > 0 && finished == len(chunk.Candidates):
		return resilient.EventEnd, 0
	case known && finished == 0 && parts == 0:
		return resilient.EventPreamble, 0
	}
	return resilient.EventContent, 0
}
