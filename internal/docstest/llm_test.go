package docstest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
	"github.com/resilienthttp/resilient/resilienttest"
)

const claude = "https://api.anthropic.com/v1/messages"

// The events of an answer.
const (
	started    = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n"
	words      = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"forty\"}}\n\n"
	stopped    = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"
)

// claudeClient returns the client of the page, and its log.
func claudeClient() (*http.Client, *bytes.Buffer) {
	log := new(bytes.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	// docs: llm client
	client := &http.Client{Transport: resilient.NewTransport(nil,
		resilient.WithProfile(profile.Anthropic()),
		resilient.WithAttemptTimeout(5*time.Minute), // until the headers; without a stream, until the model is done
		resilient.WithIdleTimeout(time.Minute),      // the longest silence in a body
		resilient.WithTrace(&resilient.Trace{Body: func(b resilient.BodyInfo) {
			if b.Err != nil {
				logger.Warn("the answer broke off", "path", b.Path, "bytes", b.Bytes, "error", b.Err)
			}
		}}),
	)}
	// end
	return client, log
}

func TestStreams(t *testing.T) {
	whole := started + words + stopped
	for _, tt := range []struct {
		name     string
		first    resilienttest.Answer
		attempts int
		text     string
		check    func(t *testing.T, err error)
		logged   string
	}{
		{name: "error event first", first: stream(started, overloaded), attempts: 2, text: whole, check: isNil},
		{name: "end before the answer", first: stream(started), attempts: 2, text: whole, check: isNil},
		{
			name: "error event in the answer", first: stream(started, words, overloaded), attempts: 1,
			text: started + words + overloaded, check: isNil, logged: "overloaded_error: Overloaded",
		},
		{
			name: "no last event", first: stream(started, words), attempts: 1, text: started + words,
			check:  isCut,
			logged: "unexpected EOF",
		},
		{
			name: "silence in the answer", attempts: 1,
			first: resilienttest.Answer{
				Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: started + words + words + words,
				BodyDelay: time.Hour,
			},
			check:  isTimeout,
			logged: "no byte of the response body for 1m0s",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := answer(t, tt.first, stream(whole))
			synctest.Test(t, func(t *testing.T) {
				client, log := claudeClient()
				_, text, err := post(t.Context(), t, client, claude, `{"stream":true}`)
				tt.check(t, err)
				if tt.text != "" {
					require.Equal(t, tt.text, text)
				}
				require.Equal(t, tt.attempts, script.Count())
				if tt.logged == "" {
					require.Empty(t, log.String())
				}
				require.Contains(t, log.String(), tt.logged)
			})
		})
	}
}

func isNil(t *testing.T, err error) {
	t.Helper()
	require.NoError(t, err)
}

func isCut(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func isTimeout(t *testing.T, err error) {
	t.Helper()
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
}

func TestRepeatable(t *testing.T) {
	script := answer(t, resilienttest.Status(500))
	synctest.Test(t, func(t *testing.T) {
		attempts := func(ctx context.Context, p resilient.Profile, path string) int {
			script.Reset()
			client := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithProfile(p))}
			status, _, err := post(ctx, t, client, "https://api.openai.com/v1"+path, "{}")
			require.NoError(t, err)
			require.Equal(t, 500, status)
			return script.Count()
		}
		ctx := t.Context()
		require.Equal(t, 4, attempts(ctx, profile.OpenAI(), "/chat/completions"))
		require.Equal(t, 1, attempts(ctx, profile.OpenAI(), "/rerank"))
		{
			// docs: llm once
			p := profile.OpenAI()
			p.Repeatable = nil // a POST is sent again only if it was refused for its rate, or never sent
			ctx = resilient.ContextWithOptions(ctx, resilient.WithProfile(p))
			// end
			require.Equal(t, 1, attempts(ctx, profile.OpenAI(), "/chat/completions"))
		}
	})
}

// docs: llm cost

// cost estimates the tokens of a request: one for four bytes, and the longest answer that
// it allows.
func cost(req *http.Request) float64 {
	if req.GetBody == nil {
		return 0 // it has no body
	}
	body, err := req.GetBody()
	if err != nil {
		return 0
	}
	defer body.Close()
	var ask struct {
		MaxTokens float64 `json:"max_completion_tokens"`
	}
	text, _ := io.ReadAll(body)
	_ = json.Unmarshal(text, &ask) // a prompt in another format has its length all the same
	return float64(len(text))/4 + ask.MaxTokens
}

// end

// openaiBody is an answer of OpenAI's that has used so many tokens.
func openaiBody(tokens int) string {
	return fmt.Sprintf(`{"object":"chat.completion","choices":[{"message":{"role":"assistant","content":"Forty-two."}}],`+
		`"usage":{"total_tokens":%d}}`, tokens)
}

func TestTokens(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "none")
	t.Setenv("ANTHROPIC_API_KEY", "none")
	script := answer(t, resilienttest.Answer{Body: openaiBody(1000)})
	synctest.Test(t, func(t *testing.T) {
		// docs: llm limits
		transport := resilient.NewTransport(nil,
			resilient.WithProfile(profile.OpenAI()),
			resilient.WithRateLimit(500.0/60, 10),                   // 500 requests a minute, 10 at once
			resilient.WithLimit("tokens", 30_000.0/60, 2_000, cost), // 30,000 tokens a minute, 2,000 at once
			resilient.WithMaxInFlight(32),
		)
		// end
		client := &http.Client{Transport: transport}
		// docs: llm sdk
		model := openai.NewClient(
			openaioption.WithHTTPClient(client),
			openaioption.WithMaxRetries(0), // otherwise its attempts and those of the Transport multiply
		)
		// end
		question := openai.ChatCompletionNewParams{
			Model: "m", MaxCompletionTokens: openai.Int(1_800),
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What is the answer?")},
		}
		tokens := func() float64 { return transport.Snapshot().Keys[0].Buckets[0].Tokens }
		ask := func(ctx context.Context) error {
			// docs: llm settle
			ctx = resilient.ContextWithOptions(ctx) // a context of its own for each call
			completion, err := model.Chat.Completions.New(ctx, question)
			if err != nil {
				return err
			}
			resilient.Settle(ctx, "tokens", float64(completion.Usage.TotalTokens))
			// end
			return nil
		}
		require.NoError(t, ask(t.Context()))
		require.Equal(t, 1, script.Count())
		require.InDelta(t, 1000, tokens(), 1, "the answer took 1,000, not 1,800 and more")

		began := time.Now()
		require.NoError(t, ask(t.Context()))
		require.InDelta(t, 1.7, time.Since(began).Seconds(), .1, "850 more come in 1.7 s")
	})
}

func TestClasses(t *testing.T) {
	answer(t, resilienttest.Status(200))
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithRateLimit(1, 1))}
		ctx := t.Context()
		// docs: llm class
		batch := resilient.ContextWithOptions(ctx, resilient.WithClass(func(*http.Request) resilient.Class {
			return resilient.Class{Priority: -1, Flow: "nightly"}
		}))
		// end
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		ask := func(ctx context.Context, name string) {
			wg.Go(func() {
				_, _, err := post(ctx, t, client, claude, "{}")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					name = err.Error()
				}
				order = append(order, name)
			})
		}
		for range 5 {
			ask(batch, "batch")
		}
		synctest.Wait() // one is answered, and four wait
		ask(ctx, "interactive")
		wg.Wait()
		require.Equal(t, 1, slices.Index(order, "interactive"), order)
		require.Len(t, order, 6)
	})
}

func TestSDKErrors(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "none")
	t.Setenv("ANTHROPIC_API_KEY", "none")
	script := answer(t, resilienttest.Answer{
		Status: 429,
		Body:   `{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","code":"insufficient_quota"}}`,
	})
	client := &http.Client{Transport: resilient.NewTransport(nil, resilient.WithProfile(profile.OpenAI()))}
	model := openai.NewClient(openaioption.WithHTTPClient(client), openaioption.WithMaxRetries(0))
	_, err := model.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: "m"})
	said := func() error {
		// docs: llm error
		if sdkErr, ok := errors.AsType[*openai.Error](err); ok { // or *anthropic.Error
			if apiErr, ok := resilient.ErrorFromResponse(sdkErr.Response); ok && apiErr.Kind == resilient.KindQuota {
				return fmt.Errorf("the money is spent: %w", apiErr)
			}
		}
		// end
		return err
	}()
	require.ErrorContains(t, said, "the money is spent: ")
	require.ErrorContains(t, said, "You exceeded your current quota.")
	require.Equal(t, 1, script.Count())

	script.Reset(resilienttest.Answer{
		Status: 529, Body: `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`,
	})
	synctest.Test(t, func(t *testing.T) {
		client, _ := claudeClient()
		// docs: llm anthropic
		model := anthropic.NewClient(
			anthropicoption.WithHTTPClient(client),
			anthropicoption.WithMaxRetries(0),
		)
		// end
		_, err := model.Messages.New(t.Context(), anthropic.MessageNewParams{
			Model: "m", MaxTokens: 100,
			Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("What is the answer?"))},
		})
		sdkErr, ok := errors.AsType[*anthropic.Error](err)
		require.True(t, ok, err)
		apiErr, ok := resilient.ErrorFromResponse(sdkErr.Response)
		require.True(t, ok)
		require.Equal(t, "overloaded_error", apiErr.Type)
		require.Equal(t, 4, apiErr.Attempts)
		require.Equal(t, 4, script.Count(), "the SDK sends nothing again")
	})
}
