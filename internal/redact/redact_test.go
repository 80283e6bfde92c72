package redact_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/redact"
)

func TestLine(t *testing.T) {
	for _, tt := range []struct{ in, want, why string }{
		{"plain, ümläut 漢", "plain, ümläut 漢", "what people write stays"},
		{"a\nb\r\nc\td", "a b  c d", "one line"},
		{"\x1b[31mred\x00", " [31mred ", "nothing that a terminal obeys"},
		{"a\u202eb\u200bc\u2028d", "a b c d", "nothing that turns or hides text"},
		{"a\xffb", "a\ufffdb", "valid UTF-8"},
		{strings.Repeat("ä", 20), strings.Repeat("ä", 20), "as long as allowed"},
		{strings.Repeat("ä", 21), strings.Repeat("ä", 20) + "...", "characters are counted, not bytes"},
	} {
		require.Equal(t, tt.want, redact.Line(tt.in, 20), tt.why)
	}
}

func TestError(t *testing.T) {
	reset := errors.New(`reset by "secret"`)
	inside := &url.Error{Op: "Get", URL: "http://user:secret@api.test/?q=secret", Err: reset}
	err := fmt.Errorf("oauth2: %w", &url.Error{Op: "Post", URL: "http://secret", Err: inside})
	require.Equal(t, `reset by "secret"`, redact.Error(err), "no URL, however deep")
	require.Equal(t, `reset by ""`, redact.Unquoted(err), "nor what was quoted")
	require.Len(t, redact.Error(errors.New(strings.Repeat("x", 1000))), redact.MaxError+len("..."))
}

func FuzzPlain(f *testing.F) {
	f.Add("a\nb", 1)
	f.Add(`say "so \" "`, 300)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(limit%1000, 0)
		for _, line := range []string{redact.Line(s, limit), redact.Unquoted(errors.New(s))} {
			require.True(t, utf8.ValidString(line))
			require.LessOrEqual(t, utf8.RuneCountInString(line), max(limit, redact.MaxError)+3)
			for _, r := range line {
				require.True(t, unicode.IsPrint(r), "%q", r)
			}
		}
		if !strings.ContainsAny(s, `"\`) {
			require.Equal(t, `bad ""`, redact.Unquoted(errors.New(`bad "`+s+`"`)))
		}
	})
}
