package errorobject

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"
)

const (
	// maxDecoded is the maximum size of a decompressed body. A decompression bomb
	// costs no more than any other body.
	maxDecoded = 64 << 10

	// maxDepth is the maximum depth of the JSON in a body, and of any recursion.
	// Error objects have a handful of levels, but the data around them may have
	// more.
	maxDepth = 500
)

// Body is a decoded body, or the beginning of one.
type Body struct {
	// Text is the body as UTF-8: decompressed, without a byte order mark, and
	// with Latin-1 converted where the content type says so.
	Text []byte

	// JSON is the first JSON value of the body as decoded by encoding/json,
	// with numbers as json.Number. It is nil if there is none.
	JSON any

	prose string // a body that is plain text for people
}

// Decode decodes as much of a body as it can. A body that is cut short is
// decompressed up to its end, and a body with an unknown encoding is left as it
// is. Decode tries JSON whatever the content type is, because proxies and
// frameworks often send a wrong one. It ignores data after the first JSON value.
func Decode(h http.Header, body []byte) Body {
	b := Body{Text: latin1(h, bytes.TrimPrefix(decompress(h, body), []byte("\xef\xbb\xbf")))}
	dec := json.NewDecoder(bytes.NewReader(b.Text))
	dec.UseNumber()
	if depth(b.Text) <= maxDepth && dec.Decode(&b.JSON) == nil {
		switch b.JSON.(type) {
		case map[string]any, []any:
			return b
		}
		if len(bytes.TrimSpace(b.Text[dec.InputOffset():])) == 0 {
			return b
		}
		b.JSON = nil // prose that begins with a number or a quotation
	}
	b.prose = prose(h, b.Text)
	return b
}

// depth returns the maximum depth of nested brackets in text.
func depth(text []byte) int {
	deepest, depth, quoted, escaped := 0, 0, false, false
	for _, c := range text {
		if quoted {
			quoted = c != '"' || escaped
			escaped = c == '\\' && !escaped
			continue
		}
		if quoted = c == '"'; c == '[' || c == '{' {
			depth++
			deepest = max(deepest, depth)
		}
		if c == ']' || c == '}' {
			depth--
		}
	}
	return deepest
}

// latin1 converts a body in Latin-1 or Windows-1252 to UTF-8. A body that is valid
// UTF-8 is left as it is, because many servers declare Latin-1 and send UTF-8.
func latin1(h http.Header, body []byte) []byte {
	if utf8.Valid(body) {
		return body
	}
	_, params, _ := mime.ParseMediaType(firstHeader(h, contentType))
	switch strings.ToLower(params["charset"]) {
	case "iso-8859-1", "latin1", "windows-1252":
	default:
		return body
	}
	runes := make([]rune, len(body))
	for i, b := range body {
		runes[i] = rune(b) // the bytes of Latin-1 are the first code points
	}
	return []byte(string(runes))
}

// decompress recognizes gzip by its first bytes, which occur at the beginning of
// no text, so that a missing header does no harm. It reads deflate if the header
// declares it. The other encodings of RFC 9110 section 8.4.1 are not in the
// standard library.
func decompress(h http.Header, body []byte) []byte {
	zipped := bytes.HasPrefix(body, []byte("\x1f\x8b"))
	if !zipped && !strings.EqualFold(h.Get("Content-Encoding"), "deflate") {
		return body
	}
	var r io.Reader
	var err error
	if zipped {
		r, err = gzip.NewReader(bytes.NewReader(body))
	} else {
		r, err = zlib.NewReader(bytes.NewReader(body))
	}
	if err != nil {
		return body
	}
	decoded, _ := io.ReadAll(io.LimitReader(r, maxDecoded)) // an error ends the body
	return decoded
}

// prose returns a body that is plain text for people, which many proxies and rate
// limiters send. It returns "" for markup and for JSON that could not be read.
func prose(h http.Header, body []byte) string {
	if t := mediaType(h); t != "text/plain" && t != "" {
		return ""
	}
	s := strings.TrimSpace(strings.ToValidUTF8(string(body), "\ufffd"))
	if s == "" || strings.ContainsRune("<{[", rune(s[0])) || !strings.HasPrefix(http.DetectContentType([]byte(s)), "text/plain") {
		return ""
	}
	return s
}
