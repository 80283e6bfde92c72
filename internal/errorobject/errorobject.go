// Package errorobject reads the error object in an error response of an HTTP API.
// It recognizes the usual shapes of such objects and the common names of their
// members. It contains no rules for particular APIs.
//
// # Shapes
//
// A body is read as the first of these shapes that it has:
//
//  1. application/problem+json (RFC 9457): type, and detail or title
//  2. a Kubernetes Status: reason, code and message
//  3. an array: [{"error":{...}}] is read as its first element, and any other
//     array as "errors"
//  4. "error": an object, a list that is read as "errors", or a string, which is
//     the code if it is a single word, and the message otherwise
//  5. the error's name in "__type", or in a header
//  6. "errors", if the body has no message beside it: a list whose first element
//     stands for all, parameters with their reasons, or a string
//  7. flat: the members of the body itself
//
// Fields that a shape leaves empty are filled in from the shapes after it. A body
// that is a JSON string, or plain text, is the message. Markup is not read, nor is
// JSON that is cut short or otherwise broken, because half an object would be a
// guess.
//
// # Bounds
//
// Servers are not trusted. Only the beginning of a body is read, and a compressed
// body is decompressed up to 64 KiB. JSON deeper than 500 levels is not read, and
// codes are not collected from more than 8 levels of errors. There are at most 32
// codes and 256 parameters. A header field of more than 1 KiB is ignored. The work
// is linear in the length of the body.
package errorobject

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/resilienthttp/resilient/internal/word"
)

// Object is the error object of a response. Fields that the response does not give
// are empty.
type Object struct {
	Type, Code, Message string
	Invalid             []Param
	RequestID           string

	// Tokens are all machine-readable codes of the error: Type and Code, and those
	// of the errors inside it.
	Tokens []string

	// Quotas are the names of quotas that are used up, such as the quotaId in a
	// google.rpc.QuotaFailure.
	Quotas []string
}

// Param is an invalid parameter and the reason why it is invalid. Either may be
// unknown.
type Param struct{ Name, Reason string }

// Parse reads the error object of a response. codeNames are further names of the
// member that holds the code. They are tried after the usual ones.
func Parse(status int, h http.Header, body Body, codeNames ...string) Object {
	p := parser{status: status, problem: strings.HasSuffix(mediaType(h), "problem+json")}
	p.headerCode = firstHeader(h, codeHeaders)
	p.o.RequestID = firstHeader(h, requestIDHeaders)
	for _, name := range codeNames {
		p.codeNames = append(p.codeNames, fold(name))
	}
	switch value := body.JSON.(type) {
	case map[string]any:
		p.body(value)
	case []any:
		p.list(value)
	default:
		p.o.Message = cmp.Or(text(value), body.prose)
	}
	set(&p.o.Code, name(p.headerCode))
	inner := p.o.Tokens
	p.o.Tokens = nil
	for _, s := range [...]string{p.o.Type, p.o.Code, name(p.headerCode)} {
		p.token(s)
	}
	for _, s := range inner {
		p.token(s)
	}
	return p.o
}

// HasCode reports whether a header field holds a code, which Parse adds to the object.
func HasCode(h http.Header) bool { return firstHeader(h, codeHeaders) != "" }

// These tables hold the names of members, which are compared folded (see fold),
// and of header fields.
var (
	contentType      = []string{"Content-Type"}
	codeHeaders      = []string{"X-Amzn-Errortype", "X-Ms-Error-Code"}
	requestIDHeaders = []string{
		"X-Request-Id", "Request-Id", "X-Correlation-Id", "X-Amzn-Requestid", "X-Amz-Request-Id",
		"X-Ms-Request-Id", "X-Github-Request-Id",
	}

	errorNames     = []string{"error", "odata.error", "fault"}
	errorsNames    = []string{"errors", "issue"}
	typeNames      = []string{"type", "errortype", "category"}
	codeNames      = []string{"code", "errorcode", "errcode", "scimtype", ".tag"}
	requestIDNames = []string{"requestid", "correlationid", "traceid", "debugid"}
	messageNames   = []string{
		"message", "errormessage", "errormessages", "errordescription", "errorsummary", "detail",
		"description", "errmsg", "errormsg", "msg", "title", "faultstring", "diagnostics", "reason",
	}
	textNames = []string{"message", "value", "error", "text"} // members of a message that is an object

	// paramsNames are the members that hold invalid parameters. If open is set, the
	// member may hold other data too, so that an entry must name its parameter. If
	// asMap is set, an object in it has a member for each parameter. An object that
	// contains only lists is read like this under any name.
	paramsNames = []struct {
		name        string
		open, asMap bool
	}{
		{"invalid", false, true},
		{"invalidparams", false, true}, // RFC 7807 section 3
		{"fielderrors", false, true},
		{"validationerrors", false, true},
		{"fieldviolations", false, false},
		{"violations", false, false},
		{"errorcauses", false, false},
		{"causes", false, false},
		{"errors", true, true},
		{"details", true, false},
		{"detail", true, false},
		{"issues", true, false},
		{"message", true, false},
	}
	paramNames = []string{
		"name", "field", "fieldname", "param", "parameter", "property", "propertypath", "pointer",
		"attribute", "target", "path", "location", "loc", // express-validator has "body" for a location
	}
	sourceNames = []string{"pointer", "parameter", "header"} // in "source", as in JSON:API
	reasonNames = []string{
		"message", "defaultmessage", "detail", "description", "msg", "reason", "errorsummary", "issue", "title", "error", "code",
	}
	culpritNames = []string{"param", "parameter", "field", "target"} // the parameter of a whole error

	// innerNames are the members with further errors, and wordNames those with
	// codes.
	innerNames = []string{
		"extensions", "innererror", "errors", "details", "detail", "error", "errordetails", "errorinfo", "cause",
	}
	wordNames = []string{
		"code", "errorcode", "reason", "type", "status", "error",
		"errcode", "errortype", "errorreason", "reasoncode", "subcode", "errorsubcode",
	}
	quotaNames = []string{"quotaid", "quotalimit"} // google.rpc.QuotaFailure, google.rpc.ErrorInfo
)

const (
	maxTokens   = 32
	maxParams   = 256
	maxName     = 1024    // bytes of the name of a nested parameter, with the names of those around it
	maxHeader   = 1 << 10 // bytes of a header field
	maxInner    = 8       // levels of errors in errors
	maxCompared = 1 << 20 // bytes of the message, counted each time that it is searched
)

type parser struct {
	status     int
	problem    bool
	headerCode string
	codeNames  []string
	compared   int // see maxCompared
	o          Object
}

// list reads shape 3.
func (p *parser) list(list []any) {
	if len(list) > 0 {
		wrapper, _ := list[0].(map[string]any)
		if _, ok := members(wrapper)["error"].(map[string]any); ok {
			p.body(wrapper)
			return
		}
	}
	p.errors(list)
	p.params(list, true, false)
}

// body reads a body that is an object.
func (p *parser) body(value map[string]any) {
	m := members(value)
	if p.problem {
		p.o.Type = cmp.Or(text(m["type"]), "about:blank") // RFC 9457 section 3.1.1
		p.o.Message = cmp.Or(text(m["detail"]), text(m["title"]))
	}
	if text(m["kind"]) == "Status" && m["apiversion"] != nil {
		p.o.Type, p.o.Code, p.o.Message = text(m["reason"]), token(m["code"]), text(m["message"])
		p.params(members(m["details"])["causes"], false, false)
		return
	}
	for _, name := range errorNames {
		p.error(m[name])
	}
	set(&p.o.Code, name(text(m["__type"])))
	set(&p.o.Code, name(p.headerCode))
	if p.o.Message == "" && first(m, messageNames, text) == "" {
		for _, name := range errorsNames {
			p.errors(m[name])
		}
	}
	p.object(m)
	if p.o.Type != "" || p.o.Code != "" || p.o.Message != "" || p.o.Invalid != nil {
		return
	}
	if isForm(value) {
		p.fields("", value)
	}
	if len(m) == 1 { // {"itemNotFound":{"code":404,"message":"..."}}
		for _, only := range m {
			p.object(members(only))
		}
	}
}

// error reads shape 4. A string is read by says, as in any error object.
func (p *parser) error(value any) {
	switch value := value.(type) {
	case map[string]any:
		e := members(value)
		if inner, ok := e["error"].(map[string]any); ok && first(e, messageNames, text) == "" {
			p.error(inner) // {"error":{"error":{...}}}
		}
		p.object(e)
	case []any:
		p.errors(value)
		p.params(value, true, false)
	}
}

// errors reads a list of errors. The first one stands for all of them, so that the
// code and the message belong together.
func (p *parser) errors(value any) {
	list, _ := value.([]any)
	if m, ok := value.(map[string]any); !ok {
		set(&p.o.Message, text(value)) // a string, or a list of them
	} else if isError(members(m)) {
		list = []any{m}
	}
	said := false
	for _, element := range list {
		e := members(element)
		if !said && e != nil {
			p.says(e)
			said = true
		}
		p.words(e, maxInner)
	}
}

// object reads an error object, shapes 4 and 7.
func (p *parser) object(m object) {
	p.says(m)
	known := len(p.o.Invalid)
	for _, list := range paramsNames {
		p.params(m[list.name], list.open, list.asMap)
	}
	if culprit := first(m, culpritNames, text); culprit != "" && len(p.o.Invalid) == known {
		p.add(culprit, first(m, messageNames, text))
	}
}

// says reads the members of an error object itself.
func (p *parser) says(m object) {
	if s := first(m, typeNames, text); s != "error" { // {"type":"error"} only names the kind of body
		set(&p.o.Type, s)
	}
	if s := text(m["status"]); isConstant(s) { // as in google.rpc.Status
		set(&p.o.Type, s)
	}
	set(&p.o.Code, first(m, codeNames, token))
	set(&p.o.Code, first(members(m["extensions"]), codeNames, token)) // GraphQL
	set(&p.o.Code, first(m, p.codeNames, token))
	if s := text(m["name"]); isWord(s) && m["message"] != nil {
		set(&p.o.Code, s)
	}
	set(&p.o.Message, first(m, messageNames, text))
	// An "error" that is a string is a code if it is a single word, and a message
	// otherwise. The reason phrase of the status is no code, because it adds
	// nothing to the status.
	if s := token(m["error"]); !isWord(s) || s == http.StatusText(p.status) {
		set(&p.o.Message, s)
	} else if set(&p.o.Code, s); p.o.Code != s {
		set(&p.o.Type, s) // {"error":"not_found","code":1234}
	}
	set(&p.o.RequestID, first(m, requestIDNames, text))
	p.words(m, maxInner)
}

// words collects the codes in an error and in the errors inside it, and the names
// of quotas. An inner error is visited once for each error around it, so the limit
// on depth keeps the work linear.
func (p *parser) words(m object, depth int) {
	if len(m) == 0 || depth == 0 {
		return
	}
	for _, name := range wordNames {
		if s := token(m[name]); isWord(s) {
			p.token(s)
		}
	}
	violations, _ := m["violations"].([]any)
	for _, violation := range violations {
		p.quota(members(violation))
	}
	p.quota(members(m["metadata"]))
	for _, name := range innerNames {
		p.words(members(m[name]), depth-1)
		list, _ := m[name].([]any)
		for _, element := range list {
			p.words(members(element), depth-1)
		}
	}
}

// quota collects the name of a quota that is used up.
func (p *parser) quota(m object) {
	s := first(m, quotaNames, token)
	if isWord(s) && len(p.o.Quotas) < maxTokens && !slices.Contains(p.o.Quotas, s) {
		p.o.Quotas = append(p.o.Quotas, s)
	}
}

func (p *parser) token(s string) {
	if s != "" && len(p.o.Tokens) < maxTokens && !slices.Contains(p.o.Tokens, s) {
		p.o.Tokens = append(p.o.Tokens, s)
	}
}

// params reads invalid parameters: a list of them, a single one, or a map from
// their names to the reasons. See paramsNames for open and asMap.
func (p *parser) params(value any, open, asMap bool) {
	switch value := value.(type) {
	case string:
		if !open {
			p.add("", text(value))
		}
	case []any:
		for _, entry := range value {
			if _, ok := entry.(string); !ok {
				p.param(members(entry), open)
			} else if s := text(entry); !open || !p.said(s) {
				p.add("", s)
			}
		}
	case map[string]any:
		m := members(value)
		single := !open && (text(m["name"]) != "" || text(m["reason"]) != "")
		if !asMap && !isForm(value) || single || isError(m) {
			p.param(m, open)
		} else {
			p.fields("", value)
		}
	}
}

// said reports whether the message already contains s. If a long message has been
// searched too often, it is not searched again, and said reports true.
func (p *parser) said(s string) bool {
	p.compared += len(p.o.Message)
	return p.compared > maxCompared || strings.Contains(p.o.Message, s)
}

// param reads one parameter, or several with the same reason.
func (p *parser) param(m object, open bool) {
	p.params(m["fieldviolations"], false, false)
	reason := first(m, reasonNames, text)
	fields, _ := m["fields"].([]any)
	for _, field := range fields {
		p.add(text(field), reason)
	}
	name := cmp.Or(first(m, paramNames, path), first(members(m["source"]), sourceNames, text))
	if m["locations"] != nil || m["extensions"] != nil {
		name = "" // the path of an error in GraphQL is that of a result
	}
	if len(fields) == 0 && (name != "" || !open) {
		p.add(name, reason)
	}
}

// fields reads a map from parameters to reasons. A reason may be a string, a list,
// or another such map. The parameters are added in the order of their names.
func (p *parser) fields(prefix string, m map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		full := name
		if prefix != "" {
			full = prefix + "." + name
		}
		if name == "_errors" { // the reasons of the object itself
			full = prefix
		}
		if len(full) > maxName || len(p.o.Invalid) == maxParams {
			continue
		}
		switch value := m[name].(type) {
		case string:
			p.add(full, text(value))
		case []any:
			for _, entry := range value {
				if s := cmp.Or(first(members(entry), reasonNames, text), text(entry)); s != "" {
					p.add(full, s)
				}
			}
		case map[string]any:
			if s, ok := members(value)["message"].(string); ok {
				p.add(full, text(s))
			} else {
				p.fields(full, value)
			}
		}
	}
}

// add adds a parameter, unless both name and reason are empty. A long list is cut
// off, because it helps nobody, and long names of nested parameters would add up.
func (p *parser) add(name, reason string) {
	if (name != "" || reason != "") && len(p.o.Invalid) < maxParams {
		p.o.Invalid = append(p.o.Invalid, Param{name, reason})
	}
}

// object holds the members of a JSON object by their folded names.
type object map[string]any

// members returns the members of value if it is an object. If several names are
// folded to the same one, the last in the order of bytes counts, so that "code"
// wins over "Code". If names are equal, the last member counts, as in
// encoding/json.
func members(value any) object {
	m, _ := value.(map[string]any)
	if isFolded(m) {
		return m // the caller must not write to it
	}
	folded := make(object, len(m))
	for name, value := range m {
		folded[fold(name)] = value
	}
	if len(folded) == len(m) {
		return folded
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		folded[fold(name)] = m[name]
	}
	return folded
}

// isFolded reports whether the names in m are already folded, as in most error
// objects.
func isFolded(m map[string]any) bool {
	for name := range m {
		if fold(name) != name {
			return false
		}
	}
	return true
}

// fold maps errorCode, error_code, error-code and ErrorCode to the same name. It
// keeps leading underscores, because "__type" is not "type".
func fold(name string) string {
	rest := strings.TrimLeft(name, "_")
	return name[:len(name)-len(rest)] + word.Fold(rest)
}

// first applies read to the named members of m, and returns the first result that
// is not empty.
func first(m object, names []string, read func(any) string) string {
	for _, name := range names {
		if s := read(m[name]); s != "" {
			return s
		}
	}
	return ""
}

// text returns the text for people in value: a string, the strings in a list, or
// the string in an object such as {"lang":"en","value":"..."}.
func text(value any) string {
	switch value := value.(type) {
	case string:
		return strings.TrimSpace(value)
	case []any:
		var all []string
		for _, element := range value {
			if s, ok := element.(string); ok {
				all = append(all, strings.TrimSpace(s))
			}
		}
		return strings.Join(all, "; ")
	case map[string]any:
		m := members(value)
		for _, name := range textNames {
			if s, ok := m[name].(string); ok {
				return strings.TrimSpace(s)
			}
		}
	}
	return ""
}

// token returns a code in value: a string, or a number as it was sent. A float64
// would lose digits of it.
func token(value any) string {
	switch value := value.(type) {
	case string:
		return strings.TrimSpace(value)
	case json.Number:
		return value.String()
	}
	return ""
}

// path returns the name of a parameter, which is a string or a list of the steps
// to the parameter.
func path(value any) string {
	list, ok := value.([]any)
	if !ok {
		return token(value)
	}
	var steps []string
	for _, step := range list {
		steps = append(steps, token(step))
	}
	return strings.Join(steps, ".")
}

// name returns the error's name in "namespace#name:address".
func name(s string) string {
	s = s[strings.LastIndexByte(s, '#')+1:]
	s, _, _ = strings.Cut(s, ":")
	return strings.TrimSpace(s)
}

// isWord reports whether s is a single word, such as a code.
func isWord(s string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsAny(s, " \t\r\n")
}

// isConstant reports whether s is spelled like INVALID_ARGUMENT and is not a
// number.
func isConstant(s string) bool {
	return strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" && strings.Trim(s, "0123456789") != ""
}

// isError reports whether m is an error and not a map from parameters.
func isError(m object) bool {
	_, ok := m["message"].(string)
	return ok && (token(m["code"]) != "" || token(m["type"]) != "")
}

// isForm reports whether m contains only lists, such as lists of reasons.
func isForm(m map[string]any) bool {
	for _, value := range m {
		if _, ok := value.([]any); !ok {
			return false
		}
	}
	return true
}

// set sets a field that is still empty.
func set(field *string, s string) { *field = cmp.Or(*field, s) }

// firstHeader returns the first value that there is of the fields with these names, which
// are canonical.
func firstHeader(h http.Header, names []string) string {
	for _, name := range names {
		if v := h[name]; len(v) > 0 && v[0] != "" && len(v[0]) <= maxHeader {
			return v[0]
		}
	}
	return ""
}

// mediaType returns the content type without its parameters, even if these are
// invalid.
func mediaType(h http.Header) string {
	t, _, _ := strings.Cut(firstHeader(h, contentType), ";")
	return strings.ToLower(strings.TrimSpace(t))
}
