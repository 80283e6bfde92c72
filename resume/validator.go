package resume

import (
	"net/http"
	"time"
)

// minAge is how much older than the response a Last-Modified date must be to be
// strong. RFC 9110 section 8.8.2.2 asks for a second if one clock made both dates,
// and else for so much that the clocks do not matter. A client cannot know which
// clocks they were, so it is the minute that RFC 7232 asked for in that place.
const minAge = time.Minute

// validator identifies a version of a representation, byte for byte.
type validator struct {
	field string // "Etag" or "Last-Modified"
	value string // as the server sent it, and as If-Range sends it back
}

// validatorOf returns the strong validator in a response's header. A date is one
// only without any ETag: RFC 9110 section 13.1.5 forbids If-Range with the date of
// a representation that has an entity tag, even a weak one.
func validatorOf(h http.Header) (validator, bool) {
	if tags := h["Etag"]; len(tags) > 0 {
		return validator{"Etag", tags[0]}, len(tags) == 1 && isStrongTag(tags[0])
	}
	dates := h["Last-Modified"]
	if len(dates) != 1 {
		return validator{}, false
	}
	modified, err1 := http.ParseTime(dates[0])
	sent, err2 := http.ParseTime(h.Get("Date"))
	if err1 != nil || err2 != nil || sent.Sub(modified) < minAge {
		return validator{}, false
	}
	return validator{"Last-Modified", dates[0]}, true
}

// matches reports whether a response's header has exactly this validator. A 206
// that answers If-Range with a date may leave Last-Modified out, RFC 9110 section
// 15.3.7. It does not match: only its presence tells a server that has looked at
// If-Range from one that has not.
func (v validator) matches(h http.Header) bool {
	values := h[v.field]
	return len(values) == 1 && values[0] == v.value
}

// isStrongTag reports whether s is an entity tag of RFC 9110 section 8.8.3 without
// the W/ of a weak one.
func isStrongTag(s string) bool {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	for _, c := range []byte(s[1 : len(s)-1]) {
		if c <= ' ' || c == '"' || c == 0x7f {
			return false
		}
	}
	return true
}
