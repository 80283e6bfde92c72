package otelresilient

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/resilienthttp/resilient/internal/redact"
)

// request holds the attributes of a request.
type request struct {
	name   string               // of an attempt's span
	common []attribute.KeyValue // of all spans and metrics of the call, never appended to
	method string               // the original method, if it is not a known one

	spanOnly []attribute.KeyValue // common and those of attempts' spans only, computed by forSpan
}

func newRequest(req *http.Request, constant []attribute.KeyValue) request {
	r := request{name: req.Method, common: make([]attribute.KeyValue, 0, len(constant)+3)}
	r.common = append(r.common, constant...)
	switch req.Method {
	case "":
		r.name = http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace, "QUERY":
	default: // methods are case-sensitive, and any word is allowed
		r.name, r.method = "HTTP", req.Method
	}
	if r.method == "" {
		r.common = append(r.common, semconv.HTTPRequestMethodKey.String(r.name))
	} else {
		r.common = append(r.common, semconv.HTTPRequestMethodOther)
	}
	if host := req.URL.Hostname(); host != "" {
		r.common = append(r.common, semconv.ServerAddress(strings.ToLower(host)))
	}
	if port := port(req.URL); port != 0 {
		r.common = append(r.common, semconv.ServerPort(port))
	}
	return r
}

// port returns the port of a URL, the default port of its scheme, or 0.
func port(u *url.URL) int {
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err == nil {
			return int(n)
		}
		return 0
	}
	switch u.Scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

// forSpan returns the request attributes of an attempt's span. path is the path to
// be shown. The caller may append to the result.
func (r *request) forSpan(u *url.URL, path string, format func(*url.URL, string) string) []attribute.KeyValue {
	if r.spanOnly == nil {
		attrs := append(make([]attribute.KeyValue, 0, len(r.common)+3), r.common...)
		if full := format(u, path); full != "" {
			attrs = append(attrs, semconv.URLFull(full))
		}
		if r.method != "" {
			attrs = append(attrs, semconv.HTTPRequestMethodOriginal(r.method))
		}
		r.spanOnly = attrs
	}
	return slices.Clip(r.spanOnly)
}

const redacted = "REDACTED"

// RedactURL returns a URL that may be shown to people. It has REDACTED in place of
// the userinfo, of the values in the query, and of parameters without a value,
// except for the parameters named in show. It has "***" in place of segments of the
// path that look like secrets, as in the logs of [resilient.WithLogger], and no
// fragment. The semantic conventions require less: they list four parameters that
// hold signatures. But no list can name all the places where APIs put their keys.
func RedactURL(u *url.URL, show ...string) string {
	return redactURL(u, redact.Path(u.EscapedPath()), show)
}

// redactURL is like RedactURL, with an escaped path in place of the URL's path.
func redactURL(u *url.URL, path string, show []string) string {
	if u.User == nil && u.RawQuery == "" && u.Fragment == "" && u.Opaque == "" && path == u.EscapedPath() {
		return u.String()
	}
	r := *u
	r.Path, r.RawPath = path, path
	if decoded, err := url.PathUnescape(path); err == nil {
		r.Path = decoded
	}
	r.Fragment, r.RawFragment = "", ""
	if r.Opaque != "" {
		r.Opaque = redacted
	}
	if _, ok := r.User.Password(); ok {
		r.User = url.UserPassword(redacted, redacted)
	} else if r.User != nil {
		r.User = url.User(redacted)
	}
	r.RawQuery = redactQuery(u.RawQuery, show)
	return r.String()
}

// escaped returns path, the Path in the hooks for u, in its escaped form. The URL's
// own path keeps its escapes, and "***" is not escaped.
func escaped(u *url.URL, path string) string {
	switch path {
	case u.Path:
		return u.EscapedPath()
	case redact.Path(u.Path):
		return redact.Path(u.EscapedPath())
	}
	return strings.ReplaceAll((&url.URL{Path: path}).EscapedPath(), "%2A", "*")
}

func redactQuery(query string, show []string) string {
	if query == "" {
		return ""
	}
	params := strings.Split(query, "&")
	for i, param := range params {
		escaped, value, _ := strings.Cut(param, "=")
		name, err := url.QueryUnescape(escaped)
		switch {
		case param == "", err == nil && slices.Contains(show, name):
		case strings.Trim(value, "=") == "":
			params[i] = redacted // a flag, or a token, perhaps with its padding
		default:
			params[i] = escaped + "=" + redacted
		}
	}
	return strings.Join(params, "&")
}

// defaultKeyName returns key if it has the form of the keys that a Transport uses by
// itself, and "" otherwise.
func defaultKeyName(key string) string {
	origin, mark, marked := strings.Cut(key, " #")
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || origin != u.Scheme+"://"+u.Host {
		return "" // a key with a path or userinfo is the program's own
	}
	if _, err := strconv.ParseUint(mark, 16, 32); marked && (err != nil || len(mark) != 8) {
		return ""
	}
	return key
}
