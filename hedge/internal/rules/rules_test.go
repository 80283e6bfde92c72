package rules_test

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/hedge/internal/rules"
	"github.com/resilienthttp/resilient/internal/kit"
)

// TestMayBeSentTwice: the whole table is in package hedge.
func TestMayBeSentTwice(t *testing.T) {
	for _, tt := range []struct {
		name  string
		req   *http.Request
		keyed bool
		want  bool
	}{
		{"GET", kit.Get(t), false, true},
		{"GET with a body", kit.Request(t, http.MethodGet, "http://api.test", "x"), false, false},
		{"nothing", new(http.Request), false, false},
		{"Upgrade", kit.Request(t, http.MethodGet, "http://api.test", "", "Upgrade", "echo"), false, false},
		{"CONNECT", kit.Request(t, http.MethodConnect, "http://api.test", "", "Idempotency-Key", "k"), true, false},
		{"POST", kit.Request(t, http.MethodPost, "http://api.test", "x"), true, false},
		{"keyed POST", kit.Request(t, http.MethodPost, "http://api.test", "x", "Idempotency-Key", "k"), true, true},
		{"keyed POST, not allowed", kit.Request(t, http.MethodPost, "http://api.test", "x", "X-Idempotency-Key", "k"), false, false},
	} {
		require.Equal(t, tt.want, rules.MayBeSentTwice(tt.req, tt.keyed), tt.name)
	}
}

// TestAnswers: which outcomes are answers, as responses and as errors.
func TestAnswers(t *testing.T) {
	for status := 200; status < 600; status++ {
		want, keyed := status < 500, status < 500
		switch status {
		case 408, 425, 429:
			want, keyed = false, false
		case 409, 423:
			keyed = false // it may be about the other request
		}
		for _, base := range []kit.RoundTripper{
			func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: status}, nil },
			func(*http.Request) (*http.Response, error) { return nil, &resilient.APIError{StatusCode: status} },
		} {
			o := rules.Send(base, kit.Get(t))
			require.Equal(t, want, o.Answered, status)
			require.NotEqual(t, o.Err == nil, o.Resp == nil)
			o = rules.Send(base, kit.Request(t, http.MethodGet, "http://api.test", "", "Idempotency-Key", "k"))
			require.Equal(t, keyed, o.Answered, status)
		}
	}
}

// TestBrokenBase: an outcome is a response with a body, or an error.
func TestBrokenBase(t *testing.T) {
	body := kit.NewBody("")
	for _, base := range []kit.RoundTripper{
		func(*http.Request) (*http.Response, error) { return nil, nil },
		func(*http.Request) (*http.Response, error) { return &http.Response{Body: body}, io.ErrUnexpectedEOF },
		func(*http.Request) (*http.Response, error) { return nil, errors.New("lost") },
	} {
		o := rules.Send(base, kit.Get(t))
		require.Error(t, o.Err)
		require.Nil(t, o.Resp)
		require.False(t, o.Answered)
	}
	require.Equal(t, 1, body.Closes())
	o := rules.Send(kit.RoundTripper(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200}, nil }), kit.Get(t))
	require.Equal(t, http.NoBody, o.Resp.Body)
}
