package resume

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// span is a part of a representation: the bytes from start up to end, which is not
// included, of complete bytes in all.
type span struct{ start, end, complete int64 }

// spanOf returns the part that the body of resp holds by the response's own word.
// The error says why nothing can be made of the response.
func spanOf(resp *http.Response) (span, error) {
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return span{}, errors.New("status " + strconv.Itoa(resp.StatusCode))
	}
	if resp.Uncompressed || !isIdentity(resp.Header["Content-Encoding"]) {
		return span{}, errors.New("the response is encoded")
	}
	if resp.StatusCode == http.StatusOK {
		// RFC 9110 section 14.4: a Content-Range has no meaning here.
		if resp.ContentLength < 0 {
			return span{}, errors.New("the response has no length")
		}
		return span{0, resp.ContentLength, resp.ContentLength}, nil
	}
	if strings.HasPrefix(strings.ToLower(resp.Header.Get("Content-Type")), "multipart/byteranges") {
		return span{}, errors.New("the response has several parts")
	}
	s, ok := parseContentRange(resp.Header["Content-Range"])
	if !ok {
		return span{}, errors.New("the response has no usable Content-Range")
	}
	if resp.ContentLength >= 0 && resp.ContentLength != s.end-s.start {
		return span{}, errors.New("the response's Content-Range and Content-Length differ")
	}
	return s, nil
}

// parseContentRange parses the values of a Content-Range field, RFC 9110 section
// 14.4. Only a single range of bytes with a complete length is of use: "*" in
// place of the length would leave open whether it has changed.
func parseContentRange(values []string) (span, bool) {
	if len(values) != 1 {
		return span{}, false
	}
	unit, rest, _ := strings.Cut(values[0], " ")
	first, rest, _ := strings.Cut(rest, "-")
	last, complete, _ := strings.Cut(rest, "/")
	start, err1 := parsePosition(first)
	end, err2 := parsePosition(last)
	length, err3 := parsePosition(complete)
	if errors.Join(err1, err2, err3) != nil || !strings.EqualFold(unit, "bytes") || start > end || end >= length {
		return span{}, false
	}
	return span{start, end + 1, length}, true
}

// parsePosition parses digits, without a sign, that fit into an int64.
func parsePosition(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// isIdentity reports whether the values of Content-Encoding name no coding.
// "identity" is none, although no response should have it.
func isIdentity(values []string) bool {
	for _, v := range values {
		if v != "" && !strings.EqualFold(v, "identity") {
			return false
		}
	}
	return true
}
