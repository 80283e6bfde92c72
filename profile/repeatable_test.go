package profile_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/profile"
)

// TestRepeatable lists the paths of each API that may be asked twice, and some that
// must not.
func TestRepeatable(t *testing.T) {
	for _, tt := range []struct {
		api     string
		profile resilient.Profile
		twice   []string
		once    []string
	}{
		{
			"Anthropic", profile.Anthropic(),
			[]string{
				"/v1/messages", "/v1/messages/count_tokens", "/v1/complete", "/proxy/anthropic/v1/messages",
				"/v1/projects/p/locations/l/publishers/anthropic/models/claude:streamRawPredict",
			},
			[]string{
				"/v1/messages/batches", "/v1/messages/batches/b/cancel", "/v1/files", "/v1/sessions", "/v1/skills",
				"/v1/messages/", "/", "",
			},
		},
		{
			"OpenAI", profile.OpenAI(),
			[]string{
				"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses/input_tokens", "/v1/embeddings",
				"/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/audio/speech",
				"/v1/audio/transcriptions", "/v1/audio/translations",
				"/openai/deployments/d/chat/completions", "/api/v1/chat/completions",
			},
			[]string{
				"/v1/chat/completions/c", "/v1/responses/r/cancel", "/v1/files", "/v1/uploads", "/v1/batches", "/v1/fine_tuning/jobs",
				"/v1/threads/t/messages", "/v1/threads/t/runs", "/v1/vector_stores", "/v1/conversations/c/items", "/v1/videos",
				"/v1/evals", "/v1/realtime/sessions", "/v1/xresponses",
			},
		},
		{
			"Gemini", profile.Gemini(),
			[]string{
				"/v1beta/models/m:generateContent", "/v1beta/models/m:streamGenerateContent", "/v1beta/models/m:countTokens",
				"/v1beta/models/m:embedContent", "/v1beta/models/m:batchEmbedContents",
				"/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
			},
			[]string{
				"/v1beta/models/m:batchGenerateContent", "/v1beta/models/m:predictLongRunning", "/v1beta/cachedContents",
				"/upload/v1beta/files", "/v1beta/interactions", "/v1beta/batches/b:cancel",
			},
		},
		{
			"Slack", profile.Slack(),
			[]string{
				"/api/conversations.list", "/api/conversations.info", "/api/conversations.history", "/api/conversations.replies",
				"/api/conversations.members", "/api/users.list", "/api/users.lookupByEmail", "/api/users.profile.get",
				"/api/users.getPresence", "/api/users.identity", "/api/users.conversations", "/api/search.messages",
				"/api/auth.test", "/api/api.test", "/api/auth.teams.list", "/api/chat.getPermalink", "/api/team.accessLogs",
				"/api/admin.conversations.getTeams", "/api/conversations.listConnectInvites", "/api/canvases.sections.lookup",
				"/proxy/api/reactions.get",
			},
			[]string{
				"/api/chat.postMessage", "/api/chat.update", "/api/conversations.create", "/api/conversations.mark", "/api/auth.revoke",
				"/api/files.getUploadURLExternal", "/api/files.completeUploadExternal", "/api/users.setPresence", "/api/oauth.v2.access",
				"/api/apps.connections.open", "/api/rtm.connect", "/api/views.open", "/api/chat.getaway", "/api/list", "/api/.list",
				"/conversations.list", "/api/x/conversations.list", "/services/T/B/list",
			},
		},
	} {
		t.Run(tt.api, func(t *testing.T) {
			ask := func(method, path string) bool {
				req, err := http.NewRequestWithContext(t.Context(), method, "https://api.test"+path, strings.NewReader("{}"))
				require.NoError(t, err)
				return tt.profile.Repeatable(req)
			}
			for _, path := range tt.twice {
				require.True(t, ask(http.MethodPost, path), path)
				require.False(t, ask(http.MethodPatch, path), "PATCH %s", path)
			}
			for _, path := range tt.once {
				require.False(t, ask(http.MethodPost, path), path)
			}
		})
	}
}

// graphQL returns a request whose body may be read only through GetBody.
func graphQL(tb testing.TB, contentType, body string) *http.Request {
	tb.Helper()
	const url = "https://shop.test/admin/api/2026-07/graphql.json"
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(tb, err)
	req.Header.Set("Content-Type", contentType)
	req.Body = io.NopCloser(unread{tb})
	return req
}

// unread is a body that nobody may read.
type unread struct{ tb testing.TB }

func (u unread) Read([]byte) (int, error) {
	u.tb.Error("the body was read")
	return 0, io.EOF
}

// TestGraphQL has bodies that only query, and others.
func TestGraphQL(t *testing.T) {
	repeatable := profile.ShopifyGraphQL().Repeatable
	const text, jsonText = "application/graphql", "application/json"
	for _, tt := range []struct {
		why   string
		typ   string
		body  string
		twice bool
	}{
		{"a query without a name", jsonText, `{"query":"{ shop { name } }"}`, true},
		{"a query with one", jsonText, `{"query":"query Q($id: ID! = \"a\") @d(x: {y: [1]}) { node(id: $id) { id } }","variables":{"id":"mutation"},"operationName":"Q"}`, true},
		{"fragments", jsonText, `{"query":"query { ...F } fragment F on Shop { name }"}`, true},
		{"an inline fragment", text, `{ node { ... on Product { id } } }`, true},
		{"two queries", text, "query A { a }\nquery B { b }", true},
		{"a default that is an object", text, `query Q($x: I = {a: [1.5e-3, "}"]}) { a(x: $x) }`, true},
		{"the word, deeper or quoted", text, "# mutation\n{ mutation: a(b: \"mutation { c }\", c: \"\"\"mutation \\\"\"\" { \"\"\") { subscription } }", true},
		{"a batch", jsonText, `[{"query":"{a}"},{"query":"{b}"}]`, true},
		{"a charset", "application/json; charset=UTF-8", `{"query":"{a}"}`, true},
		{"commas and a byte that separates", text, "{a,b\tc\r\n}", true},

		{"a mutation", jsonText, `{"query":"mutation { a }"}`, false},
		{"a mutation with a name", text, `mutation M($x: Int) { a(x: $x) }`, false},
		{"a subscription opens a stream", text, `subscription { a }`, false},
		{"a mutation beside a query", text, `query Q { a } mutation M { b }`, false},
		{"whichever is asked for", jsonText, `{"query":"query Q { a } mutation M { b }","operationName":"Q"}`, false},
		{"a mutation behind a comment", text, "# { \"\nmutation { a }", false},
		{"that ends with a CR", text, "{a} #\rmutation { a }", false},
		{"behind a string", text, `{ a(x: "\\") } mutation { b }`, false},
		{"behind a block string", text, `{ a(x: """"a\""" """) } mutation { b }`, false},
		{"in a batch", jsonText, `[{"query":"{a}"},{"query":"mutation {b}"}]`, false},
		{"the first of two members", jsonText, `{"query":"mutation {b}","query":"{a}"}`, false},
		{"the second of two members", jsonText, `{"query":"{a}","query":"mutation {b}"}`, false},
		{"escaped", jsonText, `{"query":"\u006dutation {b}"}`, false},
		{"a member that is only nearly the right one", jsonText, `{"query":"{a}","Query":"mutation {b}"}`, false},
		{"a stored document", jsonText, `{"query":"{a}","extensions":{"persistedQuery":{"sha256Hash":"x"}}}`, false},
		{"another name for one", jsonText, `{"id":"x"}`, false},
		{"a definition of a type", text, `type T { a: Int }`, false},
		{"fragments only", text, `fragment F on Shop { name }`, false},
		{"a word that no definition has", text, `query mutation { a }`, false},
		{"brackets that do not match", text, `{ a(b: [1) }`, false},
		{"a bracket too many", text, `{ a } }`, false},
		{"an end too soon", text, `{ a`, false},
		{"a header alone", text, `query Q`, false},
		{"a string without an end", text, `{ a(b: "c`, false},
		{"a line end in a string", text, "{ a(b: \"c\n\") }", false},
		{"an escaped one", text, "{ a(b: \"c\\\n\") }", false},
		{"a block string without an end", text, `{ a(b: """c\""") }`, false},
		{"a byte that GraphQL does not have", text, `{ a; b }`, false},
		{"a letter that it does not have", text, `{ ä }`, false},
		{"a byte order mark", text, "\ufeff{a}", false},
		{"nothing", text, ``, false},
		{"nothing but a comment", text, `# {a}`, false},
		{"an empty batch", jsonText, `[]`, false},
		{"a batch of something else", jsonText, `["{a}"]`, false},
		{"no query", jsonText, `{"variables":{}}`, false},
		{"a query that is none", jsonText, `{"query":null}`, false},
		{"a query that is a list", jsonText, `{"query":["{a}"]}`, false},
		{"no object", jsonText, `"{a}"`, false},
		{"no JSON", jsonText, `{a}`, false},
		{"no JSON at all", jsonText, ``, false},
		{"two bodies", jsonText, `{"query":"{a}"}{"query":"mutation{a}"}`, false},
		{"bytes that are no text", text, "{a(b: \"\xff\")}", false},
		{"too long to be looked at", text, `{a}` + strings.Repeat(" ", 64<<10), false},
		{"another charset", "application/json; charset=utf-16", `{"query":"{a}"}`, false},
		{"a form", "application/x-www-form-urlencoded", `query={a}`, false},
		{"no type", "", `{"query":"{a}"}`, false},
	} {
		t.Run(tt.why, func(t *testing.T) {
			require.Equal(t, tt.twice, repeatable(graphQL(t, tt.typ, tt.body)))
		})
	}
	for _, tt := range []struct {
		why    string
		change func(*http.Request)
	}{
		{"a body that cannot be got again", func(req *http.Request) { req.GetBody = nil }},
		{"nor at this moment", func(req *http.Request) {
			req.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
		}},
		{"another document in the URL", func(req *http.Request) { req.URL.RawQuery = "query=mutation{a}" }},
		{"another API", func(req *http.Request) { req.URL.Path = "/admin/api/2026-07/products.json" }},
		{"another method", func(req *http.Request) { req.Method = http.MethodPatch }},
	} {
		t.Run(tt.why, func(t *testing.T) {
			req := graphQL(t, text, "{a}")
			require.True(t, repeatable(req))
			tt.change(req)
			require.False(t, repeatable(req))
		})
	}
}
