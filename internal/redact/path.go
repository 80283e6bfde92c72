package redact

import (
	"net/url"
	"strings"
)

// Hidden stands for a segment of a path that looks like a secret.
const Hidden = "***"

const (
	// minRandom is the minimum length of a secret that is not announced by a name.
	// Tokens have 20 characters or more, and a key of 64 bits has 16 in hex. The
	// longest atom of a UUID has 12, and the two hashes of a Kubernetes pod have 15.
	minRandom = 16

	// minNoise is the minimum length of an atom that counts as noise in a chunk.
	// Shorter atoms are words: "b2b", "4x4".
	minNoise = 4

	uuidLen = 36
)

// Path returns a path that may be shown to people, with "***" in place of each
// segment that looks like a secret. A path without secrets is returned unchanged,
// and costs an allocation only if there are percent signs in it. Path accepts
// decoded paths, escaped paths, in which %2F also ends a segment, and its own
// results.
//
// Each segment is first judged by itself. An atom is a run of ASCII letters and
// digits. A run of capitals, of lower-case letters or of digits in an atom is
// irregular if it does not occur in words and in camelCase. Irregular runs are two
// or more capitals, a single lower-case letter, and digits before a letter. A
// segment looks like a secret in these forms:
//   - An atom of at least 16 characters mixes digits with letters. A version at
//     its end does not count, as in "getUserPreferencesV2".
//   - An atom of at least 16 letters has at least three irregular runs, and one
//     for each 8 letters. Alternatively, fewer than a fifth of its letters are
//     vowels.
//   - Atoms that are joined by - _ or + have at least 16 characters together and
//     an irregular run for each 4 of these, and contain digits, capitals and
//     lower-case letters. Without both cases, only atoms such as "7d4b9c" count:
//     those with digits, two irregular runs, and one for each 4 characters.
//   - "bot", digits, a colon and more text are a token of Telegram.
//   - A name and a value, such as "token=x", are a secret if the name announces
//     one.
//
// UUIDs, dates, numbers, slugs and short hashes stay.
//
// A segment is then judged by the segments before it. It is a secret in these
// places:
//   - It follows a segment that announces a secret, such as "key",
//     "access_token" or "password". An action on a secret, such as "refresh", is
//     shown, and the segment after it is the secret.
//   - It follows services/T.../B..., hooks/catch/<digits> or webhooks/<digits>,
//     as in the webhooks of Slack, Zapier and Discord.
//   - It is a UUID and follows "hook", "hooks", "webhook" or "ping".
//   - It is a UUID, the path begins with it, and at most one segment follows. The
//     ping URLs of healthchecks.io have this form.
//
// Secrets that look like words, numbers or other UUIDs cannot be distinguished
// from names and ids unless a segment announces them. TestPathRandom measures the
// share of random tokens that are missed.
func Path(path string) string {
	var b strings.Builder
	var j judge
	copied := 0 // of path into b
	for start := 0; start <= len(path); {
		end, next := segment(path, start)
		s := path[start:end]
		if s != "" && j.secret(s, path[end:]) && s != Hidden {
			b.WriteString(path[copied:start])
			b.WriteString(Hidden)
			copied = end
		}
		start = next
	}
	if copied == 0 {
		return path
	}
	b.WriteString(path[copied:])
	return b.String()
}

// segment returns the end of the segment that begins at start, and the beginning
// of the next one.
func segment(path string, start int) (end, next int) {
	for i := start; i < len(path); i++ {
		if path[i] == '/' {
			return i, i + 1
		}
		if path[i] == '%' && len(path) > i+2 && path[i+1] == '2' && path[i+2]|0x20 == 'f' {
			return i, i + 3
		}
	}
	return len(path), len(path) + 1
}

// judge judges the segments of a path, one after the other.
type judge struct {
	before    [3]string // the preceding segments, the last one first
	announced bool      // whether one of these announces a secret
}

// secret reports whether the next segment, which is not empty, is a secret.
func (j *judge) secret(s, rest string) bool {
	if strings.Contains(s, "%") {
		if decoded, err := url.PathUnescape(s); err == nil {
			s = decoded
		}
	}
	named := j.announced || j.isWebhook()
	harmless := named && isAction(s)
	secret := named && !harmless || isUUID(s) && j.hidesUUID(rest) || isSecret(s)
	j.announced = announces(s) || j.announced && harmless
	j.before = [...]string{s, j.before[0], j.before[1]}
	return secret
}

// isWebhook reports whether the next segment is the secret of a webhook.
func (j *judge) isWebhook() bool {
	a, b, c := j.before[2], j.before[1], j.before[0]
	return a == "services" && isSlackID(b, 'T') && isSlackID(c, 'B') ||
		a == "hooks" && b == "catch" && isNumber(c) ||
		b == "webhooks" && isNumber(c)
}

// hidesUUID reports whether the next segment is a secret if it is a UUID.
func (j *judge) hidesUUID(rest string) bool {
	switch j.before[0] {
	case "hook", "hooks", "webhook", "ping":
		return true
	case "":
		return strings.Count(strings.TrimSuffix(rest, "/"), "/") <= 1
	}
	return false
}

// announces reports whether s, a segment or a name, announces that a secret
// follows.
func announces(s string) bool {
	if s == "" {
		return false
	}
	var words, ends []string // other words also end in ends, as in "monkey"
	switch s[len(s)-1] | 0x20 {
	case 'd':
		words, ends = []string{"password", "passwd"}, []string{"pwd"}
	case 'e':
		words = []string{"passcode", "passphrase", "signature"}
	case 'g':
		ends = []string{"sig"}
	case 'n':
		words = []string{"token"}
	case 'p':
		ends = []string{"otp"}
	case 't':
		words, ends = []string{"secret"}, []string{"jwt"}
	case 'y':
		words, ends = []string{"apikey", "accesskey", "authkey", "secretkey", "privatekey"}, []string{"key"}
	}
	for _, word := range words {
		if endsIn(s, word) {
			return true
		}
	}
	for _, word := range ends {
		if endsIn(s, word) && (len(s) == len(word) || !isAlnum(s[len(s)-len(word)-1])) {
			return true
		}
	}
	return false
}

// endsIn reports whether s ends in word, in upper or lower case.
func endsIn(s, word string) bool {
	return len(s) >= len(word) && strings.EqualFold(s[len(s)-len(word):], word)
}

// isAction reports whether a segment names an action on a secret, as in
// /oauth/token/refresh.
func isAction(s string) bool {
	s, _, _ = strings.Cut(s, "-") // lookup-self
	switch s {
	case "change", "confirm", "create", "data", "forgot", "generate", "info", "introspect", "lookup", "metadata",
		"refresh", "renew", "request", "reset", "revoke", "rotate", "update", "validate", "verify":
		return true
	}
	return false
}

// isSecret reports whether a segment looks like a secret by itself.
func isSecret(s string) bool {
	if isBotToken(s) {
		return true
	}
	if len(s) < minRandom && !strings.Contains(s, "=") {
		return false // most segments
	}
	var c chunk
	for i := 0; i < len(s); {
		if len(s) >= i+uuidLen && isUUID(s[i:i+uuidLen]) && (len(s) == i+uuidLen || !isAlnum(s[i+uuidLen])) {
			i += uuidLen
			continue
		}
		start := i
		for i < len(s) && isAlnum(s[i]) {
			i++
		}
		if i > start {
			a := newAtom(s[start:i])
			if c.add(&a); a.random() || c.random() {
				return true
			}
			continue
		}
		switch s[i] {
		case '-', '_', '+':
			c.joins++
		case '=':
			if i+1 < len(s) && announces(s[:i]) {
				return true
			}
			fallthrough
		default:
			c = chunk{}
		}
		i++
	}
	return false
}

// atom describes a run of letters and digits.
type atom struct {
	length, digits, uppers, vowels int
	irregular                      int // runs that do not occur in words and camelCase
}

func newAtom(s string) atom {
	s = trimVersion(s)
	a := atom{length: len(s)}
	for i := 0; i < len(s); {
		start, class := i, classOf(s[i])
		for i < len(s) && classOf(s[i]) == class {
			switch s[i] | 0x20 {
			case 'a', 'e', 'i', 'o', 'u', 'y':
				a.vowels++
			}
			i++
		}
		n := i - start
		var irregular bool
		switch class {
		case digit:
			a.digits += n
			irregular = i < len(s)
		case upper:
			a.uppers += n
			irregular = n > 1
		case lower, other: // other does not occur in an atom
			irregular = n == 1
		}
		if irregular {
			a.irregular++
		}
	}
	return a
}

// random reports whether an atom is a secret by itself.
func (a *atom) random() bool {
	if a.length < minRandom || a.digits == a.length {
		return false
	}
	return a.digits > 0 || a.irregular > 2 && a.irregular*8 >= a.length || a.vowels*5 < a.length
}

// chunk describes atoms that are joined by - _ or +.
type chunk struct {
	length, digits, uppers, irregular int // of the atoms, together
	joins                             int
	noise                             int // the total length of the atoms that do not look like words
}

func (c *chunk) add(a *atom) {
	c.length += a.length
	c.digits += a.digits
	c.uppers += a.uppers
	c.irregular += a.irregular
	if a.length >= minNoise && a.digits > 0 && a.irregular > 1 && a.irregular*4 >= a.length {
		c.noise += a.length
	}
}

// random reports whether the atoms together are a secret.
func (c *chunk) random() bool {
	if c.noise >= minRandom {
		return true
	}
	lowers := c.length - c.digits - c.uppers
	return c.length+c.joins >= minRandom && c.digits > 0 && c.uppers > 0 && lowers > 0 && c.irregular*4 >= c.length
}

// trimVersion returns s without a version at its end, such as the V2 of
// "getUserPreferencesV2".
func trimVersion(s string) string {
	n := len(s)
	for n > 0 && len(s)-n < 2 && classOf(s[n-1]) == digit {
		n--
	}
	if n == 0 || n == len(s) || s[n-1]|0x20 != 'v' || strings.ContainsAny(s[:n], "0123456789") {
		return s
	}
	return s[:n-1]
}

// isBotToken reports whether s is a segment such as bot123:secret in Telegram's
// /bot123:secret/getUpdates.
func isBotToken(s string) bool {
	id, secret, ok := strings.Cut(s, ":")
	id, bot := strings.CutPrefix(id, "bot")
	return ok && bot && isNumber(id) && secret != ""
}

// isSlackID reports whether s is an id such as T00000000, whose first letter is
// kind.
func isSlackID(s string, kind byte) bool {
	for i := range len(s) {
		if class := classOf(s[i]); class != upper && class != digit {
			return false
		}
	}
	return len(s) > 1 && s[0] == kind
}

func isNumber(s string) bool {
	for i := range len(s) {
		if classOf(s[i]) != digit {
			return false
		}
	}
	return s != ""
}

// isUUID reports whether s is a UUID in the form
// 550e8400-e29b-41d4-a716-446655440000.
func isUUID(s string) bool {
	if len(s) != uuidLen {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if c := s[i] | 0x20; classOf(s[i]) != digit && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

func isAlnum(c byte) bool { return classOf(c) != other }

// class is the class of a character.
type class int

const (
	other class = iota
	digit
	lower
	upper
)

func classOf(c byte) class {
	switch {
	case '0' <= c && c <= '9':
		return digit
	case 'a' <= c && c <= 'z':
		return lower
	case 'A' <= c && c <= 'Z':
		return upper
	}
	return other
}
