// Package plain makes text that others sent fit for a log, an error or a page:
// one line of bounded length, without secrets; and their words fit to be looked
// up, however they are spelled.
package plain

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
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
// may have put around it.
func Error(err error) string { return Line(bare(err).Error(), MaxError) }

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
	return Line(b.String(), MaxError)
}

// Fold makes errorCode, error_code, error-code and ErrorCode one word. A word that
// is folded already is returned as it is.
func Fold(word string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		return unicode.ToLower(r)
	}, word)
}

// bare returns what is inside of all *url.Error: bases put them inside one
// another.
func bare(err error) error {
	for u, ok := errors.AsType[*url.Error](err); ok; u, ok = errors.AsType[*url.Error](err) {
		err = u.Err
	}
	return err
}
