package profile_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

// conversation is what an API says in a stream: what comes before the answer, the
// answer, and how it ends or fails.
type conversation struct {
	api       model
	path      string // that asks the model
	elsewhere string // another
	preamble  string
	answer    string
	end       string
	failure   string // temporary
	data      string // of it
	status    int
	final     string // an error that is the request's fault
}

// event returns an event of a stream. A name that is "" is left out.
func event(name, data string) string {
	if name != "" {
		name = "event: " + name + "\n"
	}
	return name + "data: " + data + "\n\n"
}

const (
	claudeOverloaded = `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}`
	chatFailed       = `{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}`
	responseFailed   = `{"type":"response.failed","sequence_number":2,"response":{"id":"r","status":"failed","error":{"code":"server_error","message":"m"}}}`
	geminiOverloaded = `{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}`
)

var conversations = []conversation{
	{
		api: anthropic, path: "/v1/messages", elsewhere: "/v1/messages/batches",
		preamble: event("message_start", `{"type":"message_start","message":{"content":[]}}`) + event("ping", `{"type":"ping"}`),
		answer:   event("content_block_delta", `{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}`),
		end:      event("message_delta", `{"type":"message_delta"}`) + event("message_stop", `{"type":"message_stop"}`),
		failure:  event("error", claudeOverloaded), data: claudeOverloaded, status: 529,
		final: event("error", `{"type":"error","error":{"type":"invalid_request_error","message":"m"}}`),
	},
	{
		api: openAI, path: "/v1/chat/completions", elsewhere: "/v1/threads/t/runs",
		preamble: event("", `{"choices":[{"delta":{"role":"assistant","content":""}}]}`),
		answer:   event("", `{"choices":[{"delta":{"content":"Hi"}}]}`),
		end:      event("", `{"choices":[{"delta":{},"finish_reason":"stop"}]}`) + event("", `[DONE]`),
		failure:  event("", chatFailed), data: chatFailed, status: 500,
		final: event("", `{"error":{"message":"m","type":"invalid_request_error","code":"context_length_exceeded"}}`),
	},
	{
		api: model{"Responses", openAI.profile}, path: "/v1/responses", elsewhere: "/v1/conversations",
		preamble: event("response.created", `{"type":"response.created"}`) + event("response.in_progress", `{"type":"response.in_progress"}`),
		answer:   event("response.output_text.delta", `{"type":"response.output_text.delta","delta":"Hi"}`),
		end:      event("response.completed", `{"type":"response.completed"}`),
		failure:  event("response.failed", responseFailed), data: responseFailed, status: 500,
		final: event("error", `{"type":"error","code":"invalid_prompt","message":"m","param":null}`),
	},
	{
		api: gemini, path: "/v1beta/models/m:streamGenerateContent", elsewhere: "/v1beta/cachedContents",
		preamble: event("", `{"candidates":[{"content":{"role":"model"}}],"usageMetadata":{}}`),
		answer:   event("", `{"candidates":[{"content":{"parts":[{"text":"Hi"}],"role":"model"}}]}`),
		end:      event("", `{"candidates":[{"content":{"parts":[{"text":"."}],"role":"model"},"finishReason":"STOP"}]}`),
		failure:  event("", geminiOverloaded), data: geminiOverloaded, status: 503,
		final: event("", `{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}`),
	},
}

// outcome is what a caller gets of a stream.
type outcome struct {
	resp  *http.Response
	text  string
	err   error
	body  resilient.BodyInfo
	tries int
}

// stream sends a POST that is answered with first, and then with second.
func (c *conversation) stream(t *testing.T, path, first, second string) outcome {
	t.Helper()
	script := resilienttest.New(sse(first), sse(second))
	var got outcome
	tr := resilient.NewTransport(script, resilient.WithProfile(c.api.profile), resilient.WithTrace(&resilient.Trace{
		Body: func(b resilient.BodyInfo) { got.body = b },
	}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://api.test"+path, strings.NewReader("{}"))
	require.NoError(t, err)
	got.resp, err = tr.RoundTrip(req)
	require.NoError(t, err)
	text, err := io.ReadAll(got.resp.Body)
	got.text, got.err, got.tries = string(text), err, script.Count()
	require.NoError(t, got.resp.Body.Close())
	return got
}

func sse(text string) resilienttest.Answer {
	return resilienttest.Answer{Header: http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}}, Body: text}
}

// TestStreams answers requests of each API with streams that fail in each way, with
// both kinds of line ends.
func TestStreams(t *testing.T) {
	for _, c := range conversations {
		t.Run(c.api.name, func(t *testing.T) {
			t.Run("LF", c.check)
			for _, s := range []*string{&c.preamble, &c.answer, &c.end, &c.failure, &c.final} {
				*s = strings.ReplaceAll(*s, "\n", "\r\n")
			}
			t.Run("CRLF", c.check)
		})
	}
}

func (c *conversation) check(t *testing.T) {
	whole := c.preamble + c.answer + c.end
	for _, tt := range []struct {
		why    string
		path   string
		first  string
		tries  int
		status int
		text   string
		err    error          // that the body ends with
		kind   resilient.Kind // of the error in the BodyInfo or the response, 0: none
	}{
		{"a whole answer passes as it is", c.path, whole, 1, 200, whole, nil, 0},
		{"an error before the answer is retried: tokens may be paid twice", c.path, c.preamble + c.failure, 2, 200, whole, nil, 0},
		{"a limit or a fault of the model, without a preamble", c.path, c.failure, 2, 200, whole, nil, 0},
		{"an error of the request is final", c.path, c.preamble + c.final, 1, 400, "", nil, resilient.KindInvalidRequest},
		{"another POST may have done something", c.elsewhere, c.preamble + c.failure, 1, c.status, c.data, nil, resilient.KindServer},
		{"half an answer cannot be taken back", c.path, c.preamble + c.answer + c.failure, 1, 200, c.preamble + c.answer + c.failure, nil, resilient.KindServer},
		{"half an answer is none", c.path, c.preamble + c.answer, 1, 200, c.preamble + c.answer, io.ErrUnexpectedEOF, 0},
		{"nothing of an answer: the connection was lost", c.path, c.preamble, 2, 200, whole, nil, 0},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := c.stream(t, tt.path, tt.first, whole)
				require.Equal(t, tt.tries, got.tries)
				require.Equal(t, tt.status, got.resp.StatusCode)
				require.ErrorIs(t, got.err, tt.err)
				if tt.text != "" {
					require.Equal(t, tt.text, got.text, "byte for byte")
				}
				apiErr, failed := errors.AsType[*resilient.APIError](got.body.Err)
				if tt.status >= 400 {
					require.Equal(t, "application/json", got.resp.Header.Get("Content-Type"))
					apiErr, failed = resilient.ErrorFromResponse(got.resp)
				}
				require.Equal(t, tt.kind != 0, failed)
				if failed {
					require.Equal(t, tt.kind, apiErr.Kind)
				}
			})
		})
	}
}

// TestQuotaInAStream is an account without money: no wait brings any.
func TestQuotaInAStream(t *testing.T) {
	responses := &conversations[2]
	for _, tt := range []struct{ why, first string }{
		{"a code that only the documentation explains", event("", `{"error":{"message":"m","type":"billing","code":"organization_usage_limit_exceeded"}}`)},
		{"a code that is deep in the data", event("response.failed", `{"type":"response.failed","response":{"error":{"code":"insufficient_quota"}}}`)},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := responses.stream(t, "/v1/responses", tt.first, responses.end)
				require.Equal(t, 1, got.tries)
				require.GreaterOrEqual(t, got.resp.StatusCode, 400)
			})
		})
	}
}
