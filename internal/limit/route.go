package limit

import (
	"hash/maphash"
	"strings"

	"github.com/resilienthttp/resilient/internal/redact"
)

// Route names the requests that a server may limit apart from others: those with
// one method and one path, in which ids are all alike. Without a method, the path is a
// name that the server gives to what it limits. The zero Route stands for all requests
// of the key.
type Route struct{ Method, Path string }

// maxSegments bounds the part of a path that counts.
const maxSegments = 8

// hash returns a number that is the same for all requests of the route, without
// allocating; 0 for the zero Route.
func (r Route) hash(seed maphash.Seed) uint64 {
	if r == (Route{}) {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.WriteString(r.Method)
	for s := range r.segments {
		_ = h.WriteByte('/')
		_, _ = h.WriteString(s)
	}
	return h.Sum64() | 1
}

// String returns the route for people.
func (r Route) String() string {
	if r == (Route{}) {
		return ""
	}
	if r.Method == "" {
		return redact.Path(r.Path)
	}
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteByte(' ')
	for s := range r.segments {
		b.WriteByte('/')
		b.WriteString(s)
	}
	return redact.Path(b.String())
}

// segments calls yield with each segment of the path, and with "*" in place of an
// id.
func (r Route) segments(yield func(string) bool) {
	path := strings.Trim(r.Path, "/")
	for range maxSegments {
		s, rest, more := strings.Cut(path, "/")
		if isID(s) {
			s = "*"
		}
		if !yield(s) || !more {
			return
		}
		path = rest
	}
}

// isID reports whether a segment of a path is likely to be an id: one that is long,
// or has a digit and is no version. A name taken for an id puts two routes into one,
// and an id taken for a name makes more of them. Either costs little, because the
// limits of a route are told from those of the key by what is refused.
func isID(s string) bool {
	const longestName = 32
	if len(s) > longestName {
		return true
	}
	digit := false
	for i := range len(s) {
		if s[i] == '@' {
			return true
		}
		digit = digit || '0' <= s[i] && s[i] <= '9'
	}
	if !digit {
		return false
	}
	version := strings.TrimLeft(s, "v")
	return len(version) == len(s) || strings.Trim(version, "0123456789.") != ""
}
