package errorobject

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"
)

// maxDecoded bounds what comes out of a compressed body: a bomb costs no more
// than any other body.
const maxDecoded = 64 << 10

// Decode returns a body, or the beginning of one, as UTF-8: decompressed, where
// the caller asked for an encoding and so got it; without a byte order mark;
// and with Latin-1 converted, where the content type says so. What it does not
// understand it leaves as it is, what is cut short it decodes as far as it goes.
func Decode(h http.Header, body []byte) []byte {
	body = bytes.TrimPrefix(decompress(h, body), []byte("\xef\xbb\xbf"))
	_, params, _ := mime.ParseMediaType(h.Get("Content-Type"))
	switch strings.ToLower(params["charset"]) {
	case "iso-8859-1", "latin1", "windows-1252":
		if !utf8.Valid(body) { // which many a server sends whatever it says
			runes := make([]rune, len(body)) // its bytes are the first code points
			for i, b := range body {
				runes[i] = rune(b)
			}
			return []byte(string(runes))
		}
	}
	return body
}

// decompress tells gzip by its first bytes, which no text begins with, so that a
// missing header does no harm. The other encodings of RFC 9110 section 8.4.1
// are not in the standard library.
func decompress(h http.Header, body []byte) []byte {
	var r io.Reader
	var err error
	switch encoding := strings.ToLower(h.Get("Content-Encoding")); {
	case bytes.HasPrefix(body, []byte("\x1f\x8b")):
		r, err = gzip.NewReader(bytes.NewReader(body))
	case encoding == "deflate":
		r, err = zlib.NewReader(bytes.NewReader(body))
	default:
		return body
	}
	if err != nil {
		return body
	}
	decoded, _ := io.ReadAll(io.LimitReader(r, maxDecoded)) // an error is the end
	return decoded
}

// plainText returns a body that is text for people, as many proxies and rate
// limiters send it; markup is not, nor is JSON that could not be read.
func plainText(h http.Header, body []byte) string {
	if t := mediaType(h); t != "text/plain" && t != "" {
		return ""
	}
	s := strings.TrimSpace(strings.ToValidUTF8(string(body), "\ufffd"))
	if s == "" || strings.ContainsRune("<{[", rune(s[0])) || !strings.HasPrefix(http.DetectContentType([]byte(s)), "text/plain") {
		return ""
	}
	return s
}
