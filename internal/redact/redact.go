// Package redact makes text that others sent fit for a log, an error or a page:
// one line of bounded length, without secrets.
package redact

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxError is the most characters of an error's text.
const MaxError = 300

// Line returns s as valid UTF-8 in one line, at most limit characters of it and
// "..." if there were more. What cannot be printed becomes a space.
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

// Error returns the text of an error in one line, without the URLs that a base
// may have put around it. Other URLs and paths in the text are shown without
// userinfo and query, and their paths as [Path] shows them.
func Error(err error) string { return Line(withoutSecrets(bare(err).Error()), MaxError) }

// Unquoted is Error without what stands in double quotes, which is where net/http
// puts what the other side sent. That may be the request once more, from a port
// that echoes or a proxy that complains of it, and its secrets with it.
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
			i++ // a quote that is escaped ends nothing
		}
	}
	return Line(withoutSecrets(b.String()), MaxError)
}

// withoutSecrets returns a text with every word that has a slash in it made fit
// to be shown.
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
			word := strings.TrimRight(text[:end], ".,:;!?)]}'") // of the sentence
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

// endsWord reports whether no URL has r in it.
func endsWord(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"<>`", r) }

// writeLocation writes a URL or a path without userinfo and query, and its path
// as Path shows it. In the path there may be another URL.
func writeLocation(b *strings.Builder, s string) {
	for query := "?"; ; query = "?#" { // an # without a host is no fragment
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
			host = Hidden // the beginning of a password that has a slash
		}
		b.WriteString("://")
		b.WriteString(host)
		s = path
	}
}

// bare returns what is inside of all *url.Error: bases put them inside one
// another.
func bare(err error) error {
	for u, ok := errors.AsType[*url.Error](err); ok; u, ok = errors.AsType[*url.Error](err) {
		err = u.Err
	}
	return err
}
