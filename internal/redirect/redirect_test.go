package redirect_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/redirect"
)

func TestFirst(t *testing.T) {
	first := &http.Request{URL: new(url.URL)}
	after := func(req *http.Request) *http.Request { return &http.Request{Response: &http.Response{Request: req}} }
	second := after(first)
	second.URL = new(url.URL)
	for _, tt := range []struct {
		req, want *http.Request
		why       string
	}{
		{first, first, "there was no redirect"},
		{second, first, "one redirect"},
		{after(second), first, "two"},
	} {
		require.Same(t, tt.want, redirect.First(tt.req), tt.why)
	}
	for _, broken := range []*http.Request{{Response: new(http.Response)}, after(new(http.Request))} {
		require.Same(t, broken, redirect.First(broken), "a chain that somebody has made is followed as far as it goes")
	}
}
