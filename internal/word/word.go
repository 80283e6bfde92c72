// Package word normalizes the spelling of error codes and field names, so that
// they can be looked up in tables.
package word

import (
	"strings"
	"unicode"
)

// Fold returns word in lower case, without hyphens and underscores. It maps
// errorCode, error_code, error-code and ErrorCode to the same word. A word that is
// already folded is returned unchanged, without an allocation.
func Fold(word string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		return unicode.ToLower(r)
	}, word)
}
