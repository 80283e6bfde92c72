package resilient

import (
	"net/http"
	"slices"
	"strings"
)

// method returns the method of req, of which "" is GET.
func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// idempotent reports whether req may be sent twice, by its method or because it
// carries a key by which the server recognizes it.
func idempotent(req *http.Request) bool {
	return idempotentMethod(method(req)) || hasKey(req.Header)
}

// idempotentMethod reports whether RFC 9110 section 9.2.2 or the IANA HTTP Method
// Registry (www.iana.org/assignments/http-methods) says that a method is
// idempotent. CONNECT, LOCK, PATCH and POST are not. PRI, which the registry
// lists, is the preface of HTTP/2 and never sent as a request.
func idempotentMethod(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, // RFC 9110 section 9.2.1: safe
		http.MethodPut, http.MethodDelete, // RFC 9110 section 9.2.2
		"QUERY",                                                    // RFC 10008
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "UNLOCK", // RFC 4918
		"REPORT", "CHECKIN", "CHECKOUT", "UNCHECKOUT", "VERSION-CONTROL", "LABEL", "UPDATE", "MERGE", // RFC 3253
		"BASELINE-CONTROL", "MKACTIVITY", "MKWORKSPACE", // RFC 3253
		"ACL",                      // RFC 3744
		"SEARCH",                   // RFC 5323
		"ORDERPATCH",               // RFC 3648
		"MKCALENDAR",               // RFC 4791
		"BIND", "REBIND", "UNBIND", // RFC 5842
		"MKREDIRECTREF", "UPDATEREDIRECTREF", // RFC 4437
		"LINK", "UNLINK": // RFC 2068 section 19.6.1
		return true
	}
	return false
}

// hasKey reports whether h has an idempotency key, in one of the two fields by
// which net/http too takes a request for idempotent.
func hasKey(h http.Header) bool {
	return first(h["Idempotency-Key"]) != "" || first(h["X-Idempotency-Key"]) != ""
}

// expectsContinue reports whether the body of req waits for the server to ask for
// it, RFC 9110 section 10.1.1.
func expectsContinue(h http.Header) bool {
	return strings.EqualFold(first(h["Expect"]), "100-continue")
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// malformed reports whether net/http refuses req before it uses the network.
func malformed(req *http.Request) bool {
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" || req.URL.Host == "" {
		return true
	}
	if !isToken(method(req)) || req.Body == nil && req.ContentLength > 0 {
		return true
	}
	for name, values := range req.Header {
		if !isToken(name) || slices.ContainsFunc(values, hasControl) {
			return true
		}
	}
	return false // of the Trailer nobody can tell: the caller's body may be setting it
}

func hasControl(value string) bool {
	return strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// first returns the first value of a header field, or "".
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
