// Package redact prepares untrusted text for a log, an error or a page. The result
// is one line of bounded length, without secrets.
package redact

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxError is the maximum length of an error's text, in characters.
const MaxError = 300

// Line returns s as one line of valid UTF-8. A text of more than limit characters
// is cut there, and "..." is appended. Characters that cannot be printed become
// spaces.
func Line(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s { // ranging turns invalid bytes into U+FFFD
		if n == limit {
			b.WriteString("...")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// Error returns the text of an error in one line, without the text of the
// *url.Error values that a base may have wrapped around it. Other URLs and paths
// in the text are shown without userinfo, query and fragment, and with their
// secrets hidden as by [Path].
func Error(err error) string { return Line(withoutSecrets(bare(err).Error()), MaxError) }

// Unquoted is like [Error], but leaves out everything in double quotes. net/http
// quotes the data that the other side sent, and that data may contain the request
// and its secrets: an echo port sends it back, and a proxy may include it in an
// error message.
func Unquoted(err error) string {
	s := bare(err).Error()
	var b strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
			b.WriteByte('"')
		case !quoted:
			b.WriteByte(s[i])
		case s[i] == '\\':
			i++ // an escaped quote does not end the quotation
		}
	}
	return Line(withoutSecrets(b.String()), MaxError)
}

// withoutSecrets returns a text with the secrets hidden in every word that has a
// slash in it.
func withoutSecrets(text string) string {
	if !strings.Contains(text, "/") {
		return text
	}
	var b strings.Builder
	for text != "" {
		end := strings.IndexFunc(text, endsWord)
		switch {
		case end == 0:
			_, end = utf8.DecodeRuneInString(text)
			b.WriteString(text[:end])
		case end < 0:
			end = len(text)
			fallthrough
		default:
			word := strings.TrimRight(text[:end], ".,:;!?)]}'") // the punctuation of the sentence
			if strings.Contains(word, "/") {
				writeLocation(&b, word)
			} else {
				b.WriteString(word)
			}
			b.WriteString(text[len(word):end])
		}
		text = text[end:]
	}
	return b.String()
}

// endsWord reports whether r ends a word, because no URL contains it.
func endsWord(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"<>`", r) }

// writeLocation writes a URL or a path without userinfo and query, and with the
// secrets in its path hidden as by Path. The path may contain another URL.
func writeLocation(b *strings.Builder, s string) {
	for query := "?"; ; query = "?#" { // a # in a text without a host does not begin a fragment
		before, rest, isURL := strings.Cut(s, "://")
		if i := strings.IndexAny(before, query); i >= 0 {
			before, isURL = before[:i], false
		}
		b.WriteString(Path(before))
		if !isURL {
			return
		}
		host, path := rest, ""
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			host, path = rest[:i], rest[i:]
		}
		host = host[strings.LastIndexByte(host, '@')+1:]
		if i := strings.IndexAny(host, "?#"); i >= 0 {
			host, path = host[:i], ""
		}
		if _, port, ok := strings.Cut(host, ":"); ok && !isNumber(port) && host[0] != '[' {
			host = Hidden // the beginning of a password with a slash in it
		}
		b.WriteString("://")
		b.WriteString(host)
		s = path
	}
}

// bare returns the error inside the innermost *url.Error. A base may wrap one
// *url.Error in another.
func bare(err error) error {
	for u, ok := errors.AsType[*url.Error](err); ok; u, ok = errors.AsType[*url.Error](err) {
		err = u.Err
	}
	return err
}
