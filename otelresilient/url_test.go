package otelresilient_test

import (
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/otelresilient"
	"github.com/resilienthttp/resilient/resilienttest"
)

func inf() float64 { return math.Inf(1) }

func TestRedactURL(t *testing.T) {
	for _, tt := range []struct {
		url, want string
		show      []string
		why       string
	}{
		{url: "https://api.example.com/a%2Fb/c?", want: "https://api.example.com/a%2Fb/c?", why: "nothing to hide"},
		{
			url: "https://user:pass@api.example.com/", want: "https://REDACTED:REDACTED@api.example.com/",
			why: "as the conventions write it",
		},
		{url: "https://token@api.example.com/", want: "https://REDACTED@api.example.com/", why: "a name alone is often a token"},
		{
			url:  "https://api.example.com/?AWSAccessKeyId=1&Signature=2&sig=3&X-Goog-Signature=4",
			want: "https://api.example.com/?AWSAccessKeyId=REDACTED&Signature=REDACTED&sig=REDACTED&X-Goog-Signature=REDACTED",
			why:  "the four that the conventions list",
		},
		{
			url: "https://api.example.com/?page=2&access_token=x=y&page=3&to%6ben=z", show: []string{"page", "token"},
			want: "https://api.example.com/?page=2&access_token=REDACTED&page=3&to%6ben=z",
			why:  "what is shown is shown as it was sent",
		},
		{url: "https://api.example.com/?c2VjcmV0&wsdl&", want: "https://api.example.com/?REDACTED&REDACTED&", why: "a parameter without a value may be a token"},
		{url: "https://api.example.com/?c2VjcmV0MQ==", want: "https://api.example.com/?REDACTED", why: "also one with padding"},
		{url: "https://api.example.com/?wsdl", show: []string{"wsdl"}, want: "https://api.example.com/?wsdl"},
		{url: "https://api.example.com/?a=1;token=2", want: "https://api.example.com/?a=REDACTED", why: "some servers split at semicolons"},
		{url: "https://api.example.com/?%zz=1", want: "https://api.example.com/?%zz=REDACTED", show: []string{"%zz"}, why: "no name at all"},
		{url: "https://api.example.com/#access_token=x", want: "https://api.example.com/", why: "a fragment is never sent"},
		{url: "https://api.example.com/services/T00/B00/XXXX", want: "https://api.example.com/services/T00/B00/***", why: "a webhook"},
		{
			url: "https://api.example.com/bot110201543%3AAAHdqTcvCH1vGWJx/a%2Fb?x=1", want: "https://api.example.com/***/a%2Fb?x=REDACTED",
			why: "an escaped colon, and what is not hidden stays as it was sent",
		},
		{url: "https://api.example.com/key/secret", show: []string{"key"}, want: "https://api.example.com/key/***", why: "parameters are shown, not paths"},
		{url: "mailto:user:pass@example.com", want: "mailto:REDACTED", why: "what is opaque is not known"},
	} {
		u, err := url.Parse(tt.url)
		require.NoError(t, err, tt.url)
		require.Equal(t, tt.want, otelresilient.RedactURL(u, tt.show...), tt.why)
		require.Equal(t, tt.url, u.String(), "the URL is not written to")
	}
}

// The path of url.full is the same as that in logs and hooks.
func TestURLPath(t *testing.T) {
	template := resilient.WithLogPath(func(*http.Request) string { return "/users/{id} *" })
	asItIs := resilient.WithLogPath(func(req *http.Request) string { return req.URL.Path })
	own := otelresilient.WithURL(func(u *url.URL) string { return otelresilient.RedactURL(u) })
	for _, tt := range []struct {
		name, path string
		opts       []otelresilient.Option
		want       string
	}{
		{"clean", "/a%2Fb/c", nil, "/a%2Fb/c"},
		{"default", "/a%2Fb/key/secret", nil, "/a%2Fb/key/***"},
		{"as it is", "/a%2Fb/key/secret", []otelresilient.Option{with(asItIs)}, "/a%2Fb/key/secret"},
		{"template", "/users/1", []otelresilient.Option{with(template)}, "/users/%7Bid%7D%20*"},
		{"nothing", "/users/1", []otelresilient.Option{with(resilient.WithLogPath(func(*http.Request) string { return "" }))}, ""},
		{"WithURL", "/key/secret", []otelresilient.Option{with(asItIs), own}, "/key/***"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tel := newTelemetry()
			get(t, tel.transport(resilienttest.New(resilienttest.Status(200)), tt.opts...), "https://api.example.com"+tt.path+"?x=1")
			require.Equal(t, "https://api.example.com"+tt.want+"?x=REDACTED", value(tel.attempts()[0], "url.full").AsString())
		})
	}

	t.Run("one request", func(t *testing.T) {
		tel := newTelemetry()
		req, err := http.NewRequestWithContext(resilient.ContextWithOptions(t.Context(), template), http.MethodGet, "https://api.example.com/users/1", nil)
		require.NoError(t, err)
		resp, err := tel.transport(resilienttest.New(resilienttest.Status(204))).RoundTrip(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "https://api.example.com/users/%7Bid%7D%20*", value(tel.attempts()[0], "url.full").AsString())
	})
}

func FuzzRedactURL(f *testing.F) {
	f.Add("user", "password", "a=b&c")
	f.Add("", "", "=&==&a;b=c;d")
	f.Add("@:/", "?#", "%zz=%&&+=+")
	f.Fuzz(func(t *testing.T, user, password, query string) {
		u := &url.URL{Scheme: "https", Host: "api.example.com", Path: "/path", RawQuery: query, User: url.UserPassword(user, password)}
		redacted, ok := strings.CutPrefix(otelresilient.RedactURL(u), "https://REDACTED:REDACTED@api.example.com/path")
		require.True(t, ok)
		redacted, hasQuery := strings.CutPrefix(redacted, "?")
		require.Equal(t, query != "", hasQuery)
		sent := strings.Split(query, "&")
		for i, param := range strings.Split(redacted, "&") {
			name, value, _ := strings.Cut(param, "=")
			if value != "" {
				require.Equal(t, "REDACTED", value)
				require.True(t, strings.HasPrefix(sent[i], name+"="))
			} else {
				require.True(t, param == "REDACTED" || param == "" && sent[i] == "", param)
			}
		}
	})
}
