package profile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
)

// model is the profile of an API of models, and its name in tests.
type model struct {
	name    string
	profile resilient.Profile
}

var (
	anthropic = model{"Anthropic", profile.Anthropic()}
	openAI    = model{"OpenAI", profile.OpenAI()}
	gemini    = model{"Gemini", profile.Gemini()}
)

// TestEvent judges events as the documentation of each API shows them.
func TestEvent(t *testing.T) {
	const (
		preamble = resilient.EventPreamble
		content  = resilient.EventContent
		end      = resilient.EventEnd
		failed   = resilient.EventError
	)
	long := strings.Repeat("A", 64<<10)
	for _, tt := range []struct {
		why    string
		api    model
		event  string
		data   string
		kind   resilient.EventKind
		status int
	}{
		{"the frame of a message", anthropic, "message_start", `{"type":"message_start","message":{"id":"m","content":[]}}`, preamble, 0},
		{"a sign of life", anthropic, "ping", `{"type":"ping"}`, preamble, 0},
		{"a block", anthropic, "content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`, content, 0},
		{"text", anthropic, "content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"error"}}`, content, 0},
		{"the reason to stop is not the last event", anthropic, "message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn"}}`, content, 0},
		{"the last event", anthropic, "message_stop", `{"type":"message_stop"}`, end, 0},
		{"an event of tomorrow: the versioning policy says that there will be more", anthropic, "message_thought", `{"type":"message_thought"}`, content, 0},
		{"a proxy that leaves names out", anthropic, "", `{"type": "message_stop"}`, end, 0},
		{"and one that puts the type last", anthropic, "", `{"index":0,"delta":{"type":"ping"},"type":"content_block_delta"}`, content, 0},
		{"neither a name nor a type", anthropic, "", `{"index":0}`, content, 0},
		{"no object", anthropic, "", `["type"]`, content, 0},
		{"a type that is no text", anthropic, "", `{"type":{"name":"ping"}}`, content, 0},
		{"cut in a name", anthropic, "", `{"type":"ping","typ`, preamble, 0},
		{"cut before the type", anthropic, "", `{"x":"type","y":"type`, content, 0},
		{"cut behind a name", anthropic, "", `{"x":"type","type"`, content, 0},
		{"a completion", anthropic, "completion", `{"type":"completion","completion":" Hi","stop_reason":null}`, content, 0},
		{"the last completion", anthropic, "completion", `{"type":"completion","completion":"","stop_reason":"stop_sequence"}`, end, 0},
		{"a session that waits may end its stream", anthropic, "", `{"type":"session.status_idle","id":"e"}`, end, 0},
		{"overload: the example of the documentation", anthropic, "error", `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, failed, 529},
		{"", anthropic, "error", `{"type":"error","error":{"type":"invalid_request_error"}}`, failed, 400},
		{"", anthropic, "error", `{"type":"error","error":{"type":"authentication_error"}}`, failed, 401},
		{"", anthropic, "error", `{"type":"error","error":{"type":"billing_error"}}`, failed, 402},
		{"", anthropic, "error", `{"type":"error","error":{"type":"permission_error"}}`, failed, 403},
		{"", anthropic, "error", `{"type":"error","error":{"type":"not_found_error"}}`, failed, 404},
		{"", anthropic, "error", `{"type":"error","error":{"type":"request_too_large"}}`, failed, 413},
		{"", anthropic, "error", `{"type":"error","error":{"type":"rate_limit_error"}}`, failed, 429},
		{"", anthropic, "error", `{"type":"error","error":{"type":"api_error"}}`, failed, 500},
		{"", anthropic, "error", `{"type":"error","error":{"type":"timeout_error"}}`, failed, 504},
		{"the list of types may grow", anthropic, "error", `{"type":"error","error":{"type":"lunar_error"}}`, failed, 500},
		{"the name is enough", anthropic, "error", `upstream closed`, failed, 500},
		{"without a name", anthropic, "", `{"type":"error","error":{"type":"overloaded_error"}}`, failed, 529},

		{"who answers", openAI, "", `{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}],"usage":null}`, preamble, 0},
		{"who answers, by Python's json", openAI, "", `{"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": []}}]}`, preamble, 0},
		{"several answers", openAI, "", `{"choices":[{"index":0,"delta":{"role":"assistant"}},{"index":1,"delta":{"role":"assistant","content":"x"}}]}`, content, 0},
		{"the verdict of Azure's filter", openAI, "", `{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}`, preamble, 0},
		{"servers that repeat the role", openAI, "", `{"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}`, content, 0},
		{"a refusal", openAI, "", `{"choices":[{"delta":{"role":"assistant","refusal":"No"}}]}`, content, 0},
		{"a tool", openAI, "", `{"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"type":"function"}]}}]}`, content, 0},
		{"what only some servers have", openAI, "", `{"choices":[{"delta":{"role":"assistant","content":null,"reasoning_content":"Hm"}}]}`, content, 0},
		{"an empty answer", openAI, "", `{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":"stop"}]}`, content, 0},
		{"text", openAI, "", `{"choices":[{"delta":{"content":"Hi"},"finish_reason":null}]}`, content, 0},
		{"text that quotes", openAI, "", `{"choices":[{"delta":{"content":"{\"error\":{\"code\":500}}"}}]}`, content, 0},
		{"a completion, of the old kind", openAI, "", `{"choices":[{"text":"Hi","index":0,"finish_reason":null}]}`, content, 0},
		{"the reason to stop: other answers may go on", openAI, "", `{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`, content, 0},
		{"usage", openAI, "", `{"choices":[],"usage":{"total_tokens":3}}`, content, 0},
		{"an object that is no chunk", openAI, "", `{"role":"assistant"}`, content, 0},
		{"choices that are none", openAI, "", `{"role":"assistant","choices":3}`, content, 0},
		{"the end of a stream", openAI, "", `[DONE]`, end, 0},
		{"with a space", openAI, "", ` [DONE] `, end, 0},
		{"the end of a thread's stream", openAI, "done", `[DONE]`, end, 0},
		{"a chunk with a name", openAI, "message", `{"choices":[{"delta":{"role":"assistant"}}]}`, preamble, 0},
		{"no JSON", openAI, "", `Hi`, content, 0},
		{"cut", openAI, "", `{"error":{"code":"server_error"`, content, 0},
		{"an error in the API's own form", openAI, "", `{"error":{"message":"m","type":"server_error","param":null,"code":null}}`, failed, 500},
		{"a context that is too long", openAI, "", `{"error":{"message":"m","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`, failed, 400},
		{"a limit", openAI, "", `{"error":{"message":"m","type":"tokens","code":"rate_limit_exceeded"}}`, failed, 429},
		{"no money", openAI, "", `{"error":{"message":"m","type":"insufficient_quota","code":"credit_balance_exhausted"}}`, failed, 429},
		{"overload", openAI, "", `{"error":{"message":"m","type":"service_unavailable_error","code":"server_is_overloaded"}}`, failed, 503},
		{"a bad key", openAI, "", `{"error":{"message":"m","type":"invalid_request_error","code":"invalid_api_key"}}`, failed, 401},
		{"a country", openAI, "", `{"error":{"code":"unsupported_country_region_territory"}}`, failed, 403},
		{"no such model", openAI, "", `{"error":{"type":"invalid_request_error","code":"model_not_found"}}`, failed, 404},
		{"OpenRouter: the code is the status, also in a chunk", openAI, "", `{"choices":[{"delta":{"content":""},"finish_reason":"error"}],"error":{"code":502,"message":"m"}}`, failed, 502},
		{"LiteLLM: the status as a text", openAI, "", `{"error":{"message":"m","type":"None","code":"429"}}`, failed, 429},
		{"vLLM: the object is the data", openAI, "", `{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}`, failed, 400},
		{"an error that is a text", openAI, "", `{"error":"out of memory"}`, failed, 500},
		{"a code that is no status", openAI, "", `{"error":{"code":1234}}`, failed, 500},
		{"no error", openAI, "", `{"error":null,"choices":[{"delta":{"content":"Hi"}}]}`, content, 0},
		{"an error of a tool's, deeper", openAI, "", `{"choices":[{"delta":{"content":"Hi","tool":{"error":"x"}}}]}`, content, 0},

		{"a response", openAI, "response.created", `{"type":"response.created","response":{"error":null}}`, preamble, 0},
		{"a response that waits", openAI, "response.queued", `{"type":"response.queued"}`, preamble, 0},
		{"a response that has begun", openAI, "response.in_progress", `{"type":"response.in_progress"}`, preamble, 0},
		{"text", openAI, "response.output_text.delta", `{"type":"response.output_text.delta","delta":"Hi"}`, content, 0},
		{"a tool that failed is a part of the answer", openAI, "response.output_item.done", `{"type":"response.output_item.done","error":"x"}`, content, 0},
		{"a whole response", openAI, "response.completed", `{"type":"response.completed","response":{"error":null}}`, end, 0},
		{"a response that was not to be longer", openAI, "response.incomplete", `{"type":"response.incomplete"}`, end, 0},
		{"without a name", openAI, "", `{"type":"response.completed","response":{}}`, end, 0},
		{"without a name, and cut", openAI, "", `{"type":"response.completed","response":{"x":"` + long, end, 0},
		{"speech", openAI, "", `{"type":"speech.audio.delta","audio":"AAAA"}`, content, 0},
		{"the end of speech", openAI, "", `{"type":"speech.audio.done"}`, end, 0},
		{"the end of a text", openAI, "", `{"type":"transcript.text.done","text":"Hi"}`, end, 0},
		{"a picture", openAI, "image_generation.partial_image", `{"type":"image_generation.partial_image","b64_json":"AAAA"}`, content, 0},
		{"the whole picture", openAI, "image_generation.completed", `{"type":"image_generation.completed","b64_json":"AAAA"}`, end, 0},
		{"a failure", openAI, "response.failed", `{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"m"}}}`, failed, 500},
		{"a limit", openAI, "response.failed", `{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded"}}}`, failed, 429},
		{"no money: not a 429, which would be retried", openAI, "response.failed", `{"type":"response.failed","response":{"error":{"code":"insufficient_quota"}}}`, failed, 402},
		{"a prompt against the rules", openAI, "response.failed", `{"type":"response.failed","response":{"error":{"code":"invalid_prompt"}}}`, failed, 400},
		{"an image that is too large", openAI, "response.failed", `{"type":"response.failed","response":{"error":{"code":"image_too_large"}}}`, failed, 400},
		{"a failure without a reason", openAI, "response.failed", `{"type":"response.failed","response":null}`, failed, 500},
		{"an error as documented", openAI, "error", `{"type":"error","code":"server_error","message":"m","param":null,"sequence_number":1}`, failed, 500},
		{"an error as it is sent", openAI, "error", `{"type":"error","error":{"type":"invalid_request_error","code":null,"message":"m"}}`, failed, 400},
		{"an error without a name", openAI, "", `{"type":"error","code":"rate_limit_exceeded","message":"m"}`, failed, 429},
		{"no JSON, but the name", openAI, "error", `upstream closed`, failed, 500},

		{"text", gemini, "", `{"candidates":[{"content":{"parts":[{"text":"Hi"}],"role":"model"},"index":0}],"usageMetadata":{}}`, content, 0},
		{"text and the end", gemini, "", `{"candidates":[{"content":{"parts":[{"text":"."}],"role":"model"},"finishReason":"STOP","index":0}]}`, end, 0},
		{"the end alone", gemini, "", `{"candidates": [{"finishReason": "SAFETY"}]}`, end, 0},
		{"the first of two answers ends", gemini, "", `{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"},{"content":{"parts":[{"text":"b"}]},"index":1}]}`, content, 0},
		{"a reason that is none", gemini, "", `{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"FINISH_REASON_UNSPECIFIED"}]}`, content, 0},
		{"a prompt that is blocked", gemini, "", `{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{}}`, end, 0},
		{"the role alone", gemini, "", `{"candidates":[{"content":{"role":"model"},"index":0}],"responseId":"r"}`, preamble, 0},
		{"usage alone, as Vertex AI sends it", gemini, "", `{"usageMetadata":{"trafficType":"ON_DEMAND"},"modelVersion":"m"}`, preamble, 0},
		{"something else", gemini, "", `{"metadata":{}}`, content, 0},
		{"no JSON", gemini, "", `Hi`, content, 0},
		{"candidates that are none", gemini, "", `{"candidates":3}`, content, 0},
		{"the arguments of a function", gemini, "", `{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"error":{"code":500}}}}]}}]}`, content, 0},
		{"an image, cut: the end may be in the rest", gemini, "", (`{"candidates":[{"content":{"parts":[{"inlineData":{"data":"` + long)[:64<<10], end, 0},
		{"overload", gemini, "", `{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}`, failed, 503},
		{"a quota", gemini, "", `{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}`, failed, 429},
		{"a bad request", gemini, "", `{"error":{"code":400,"status":"INVALID_ARGUMENT"}}`, failed, 400},
		{"an error without a code", gemini, "", `{"error":{"status":"INTERNAL"}}`, failed, 500},
		{"an interaction", gemini, "interaction.created", `{"event_type":"interaction.created","interaction":{}}`, preamble, 0},
		{"its state", gemini, "interaction.status_update", `{"event_type":"interaction.status_update","status":"in_progress"}`, preamble, 0},
		{"a part of it", gemini, "step.delta", `{"event_type":"step.delta","delta":{"type":"text","text":"Hi"}}`, content, 0},
		{"its end", gemini, "interaction.completed", `{"event_type":"interaction.completed"}`, end, 0},
		{"the end of its stream", gemini, "done", `[DONE]`, end, 0},
		{"its error", gemini, "error", `{"event_type":"error","error":{"code":"gateway_timeout"}}`, failed, 500},
	} {
		data := tt.data
		if len(data) > 60 {
			data = data[:60]
		}
		t.Run(fmt.Sprintf("%s %s %s %s", tt.api.name, tt.event, data, tt.why), func(t *testing.T) {
			kind, status := tt.api.profile.Event(tt.event, []byte(tt.data))
			require.Equal(t, tt.kind, kind)
			if kind == failed && status == 0 {
				status = 500 // as Profile.Event says
			}
			require.Equal(t, tt.status, status)
		})
	}
}

// FuzzEvent gives the profiles any events. None may panic, or return a status for
// anything but an error.
func FuzzEvent(f *testing.F) {
	f.Add("", `{"choices":[{"delta":{"role":"assistant"}}]}`)
	f.Add("error", `{"type":"error","error":{"type":"overloaded_error"}}`)
	f.Add("", `{"candidates":[{"content":{"parts":[]},"finishReason":"STOP"}]}`)
	f.Add("response.failed", `{"response":{"error":{"code":7}}}`)
	f.Add("", `{"type":"completion","stop_reason":null}`)
	f.Fuzz(func(t *testing.T, name, data string) {
		for _, m := range []model{anthropic, openAI, gemini} {
			kind, status := m.profile.Event(name, []byte(data))
			require.LessOrEqual(t, kind, resilient.EventError)
			if kind != resilient.EventError {
				require.Zero(t, status)
			} else if status != 0 {
				require.GreaterOrEqual(t, status, 400)
				require.Less(t, status, 600)
			}
		}
	})
}

// BenchmarkEvent judges the events that a stream has most of. Nothing is decoded, and
// nothing allocated.
func BenchmarkEvent(b *testing.B) {
	for _, bb := range []struct {
		api   model
		event string
		data  string
	}{
		{anthropic, "content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" the"}}`},
		{openAI, "", `{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk","created":1741569952,"model":"gpt-5","service_tier":"default","system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":" the"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"Qx8zL"}`},
		{model{"Responses", openAI.profile}, "response.output_text.delta", `{"type":"response.output_text.delta","sequence_number":9,"item_id":"msg_67c9fdcf37fc8190ba82116e33fb28c5","output_index":0,"content_index":0,"delta":" the","logprobs":[]}`},
		{gemini, "", `{"candidates":[{"content":{"parts":[{"text":" the"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":20,"totalTokenCount":28,"promptTokensDetails":[{"modality":"TEXT","tokenCount":8}]},"modelVersion":"gemini-3-flash","responseId":"U5mnaPSYGvKDm9IP"}`},
	} {
		b.Run(bb.api.name, func(b *testing.B) {
			data := []byte(bb.data)
			kind, _ := bb.api.profile.Event(bb.event, data)
			require.Equal(b, resilient.EventContent, kind)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				bb.api.profile.Event(bb.event, data)
			}
		})
	}
}
