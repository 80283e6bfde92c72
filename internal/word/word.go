// Package word makes words for programs fit to be looked up, however they are
// spelled.
package word

import (
	"strings"
	"unicode"
)

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
