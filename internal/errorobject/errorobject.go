// Package errorobject reads what an HTTP API says in an error response,
// whichever of the usual shapes the body has. It knows shapes, and the names
// that members commonly have; it does not know APIs.
//
// # Shapes
//
// A body is read as the first of these that it has:
//
//  1. application/problem+json (RFC 9457): type, and detail or title
//  2. a Kubernetes Status: reason, code and message
//  3. an array: [{"error":{...}}] is its first element, any other is as "errors"
//  4. "error": an object; a list as "errors"; a string, which is the code if it
//     is one word and else the message
//  5. the error's name in "__type", or in a header
//  6. "errors", where the body has no message beside it: a list, of which the
//     first speaks for all; parameters with their reasons; a string
//  7. flat: the members of the body itself
//
// What a shape leaves empty is taken from those after it. A body that is a JSON
// string, or plain text, is the message. Markup, and JSON that is cut short or
// otherwise broken, say nothing: half an object would be a guess.
//
// # Bounds
//
// Servers are not trusted. The body is the beginning of one, and a compressed one
// is unpacked up to 64 KiB. JSON deeper than 500 levels is not read, and words for
// programs are not looked for deeper than 8. There are at most 32 of those, and
// 256 parameters. A header field of more than 1 KiB is as good as none. The work
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

// Object is what an error response says. What it does not say is empty.
type Object struct {
	Type, Code, Message string
	Invalid             []Param
	RequestID           string

	// Tokens are all words for the error that are meant for programs: Type and
	// Code, and those of the errors it consists of.
	Tokens []string

	// Quotas are the names of quotas that are used up, such as the quotaId in a
	// google.rpc.QuotaFailure.
	Quotas []string
}

// Param is a parameter that is wrong, and why. Either may be unknown.
type Param struct{ Name, Reason string }

// Parse reads the error object of a response. codeNames are names of the member
// that holds the code, to be tried after the usual ones.
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

// The tables. Names of members are compared folded, see fold.
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
	textNames = []string{"message", "value", "error", "text"} // where a message is an object

	// paramsNames are members that hold the parameters that are wrong. The open
	// ones hold other things too, so an entry must name its parameter; where
	// asMap is set, an object has a member for each parameter, as an object of
	// nothing but lists has anywhere.
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
		"attribute", "target", "location", "loc", "path",
	}
	sourceNames = []string{"pointer", "parameter", "header"} // in "source", as in JSON:API
	reasonNames = []string{
		"message", "detail", "description", "msg", "reason", "errorsummary", "issue", "title", "error", "code",
	}
	culpritNames = []string{"param", "parameter", "field", "target"} // of a whole error

	// Words for programs, and where there are more of them.
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
	maxName     = 1024    // of a nested parameter, with the names of those around it
	maxHeader   = 1 << 10 // bytes of a header field
	maxInner    = 8       // levels of errors in errors
	maxCompared = 1 << 20 // bytes of the message, each time that it is looked through
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

// error reads shape 4. A string is read as in any error object, see says.
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

// errors reads a list of errors. The first one speaks for all of them, as it
// has the code that its message goes with.
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

// says reads what an error object says itself.
func (p *parser) says(m object) {
	if s := first(m, typeNames, text); s != "error" { // {"type":"error"} only says what the body is
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
	// An "error" that is a string is a code if it is one word, and else a
	// message. The reason phrase of the status says nothing that it does not.
	if s := token(m["error"]); !isWord(s) || s == http.StatusText(p.status) {
		set(&p.o.Message, s)
	} else if set(&p.o.Code, s); p.o.Code != s {
		set(&p.o.Type, s) // {"error":"not_found","code":1234}
	}
	set(&p.o.RequestID, first(m, requestIDNames, text))
	p.words(m, maxInner)
}

// words collects the words for programs in an error and in the errors inside it,
// and the names of quotas. An error in an error is gone through once for each of
// those around it, so depth keeps the work linear.
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

// params reads parameters that are wrong: a list of them, a single one, or a
// map from their names to the reasons. See paramsNames for open and asMap.
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

// said reports whether the message says s already. A great many strings beside a
// long message are not compared with it to the end, and count as said.
func (p *parser) said(s string) bool {
	p.compared += len(p.o.Message)
	return p.compared > maxCompared || strings.Contains(p.o.Message, s)
}

// param reads one parameter, or several that have one reason.
func (p *parser) param(m object, open bool) {
	p.params(m["fieldviolations"], false, false)
	reason := first(m, reasonNames, text)
	fields, _ := m["fields"].([]any)
	for _, field := range fields {
		p.add(text(field), reason)
	}
	name := cmp.Or(first(m, paramNames, path), first(members(m["source"]), sourceNames, text))
	if m["locations"] != nil || m["extensions"] != nil {
		name = "" // GraphQL: the path is that of a result
	}
	if len(fields) == 0 && (name != "" || !open) {
		p.add(name, reason)
	}
}

// fields reads a map from parameters to reasons, which may be a string, a list,
// or another such map. Its members come in the order of their names.
func (p *parser) fields(prefix string, m map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		full := name
		if prefix != "" {
			full = prefix + "." + name
		}
		if name == "_errors" { // beside those of the members
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

// add adds a parameter, if anything is known of it. A long list is cut off:
// nobody reads it to the end, and long names of nested parameters would add up.
func (p *parser) add(name, reason string) {
	if (name != "" || reason != "") && len(p.o.Invalid) < maxParams {
		p.o.Invalid = append(p.o.Invalid, Param{name, reason})
	}
}

// object is the members of a JSON object by their folded names.
type object map[string]any

// members returns the members of value if that is an object. Of names that fold
// alike the last in the order of bytes counts, so that "code" wins over "Code";
// of equal names, the last one, as in encoding/json.
func members(value any) object {
	m, _ := value.(map[string]any)
	if isFolded(m) {
		return m // which is nobody's to write to
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

// isFolded reports whether the names in m are as fold makes them, as those of
// most error objects are.
func isFolded(m map[string]any) bool {
	for name := range m {
		if fold(name) != name {
			return false
		}
	}
	return true
}

// fold makes errorCode, error_code, error-code and ErrorCode one name. Leading
// underscores stay: "__type" is not "type".
func fold(name string) string {
	rest := strings.TrimLeft(name, "_")
	return name[:len(name)-len(rest)] + word.Fold(rest)
}

// first returns what read makes of the first of the named members of which it
// makes something.
func first(m object, names []string, read func(any) string) string {
	for _, name := range names {
		if s := read(m[name]); s != "" {
			return s
		}
	}
	return ""
}

// text returns what value says to people: a string, strings in a list, or one
// in an object such as {"lang":"en","value":"..."}.
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

// token returns a word for programs: a string, or a number as it is written, of
// which a float64 would lose digits.
func token(value any) string {
	switch value := value.(type) {
	case string:
		return strings.TrimSpace(value)
	case json.Number:
		return value.String()
	}
	return ""
}

// path returns the name of a parameter: a word, or the steps to it in a list.
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

// isWord reports whether s is meant for programs.
func isWord(s string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsAny(s, " \t\r\n")
}

// isConstant reports whether s is spelt as INVALID_ARGUMENT is, and no number.
func isConstant(s string) bool {
	return strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" && strings.Trim(s, "0123456789") != ""
}

// isError reports whether m is an error rather than a map from parameters.
func isError(m object) bool {
	_, ok := m["message"].(string)
	return ok && (token(m["code"]) != "" || token(m["type"]) != "")
}

// isForm reports whether m has nothing but lists, as of reasons.
func isForm(m map[string]any) bool {
	for _, value := range m {
		if _, ok := value.([]any); !ok {
			return false
		}
	}
	return true
}

// set sets what is not known yet.
func set(field *string, s string) { *field = cmp.Or(*field, s) }

func firstHeader(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" && len(v) <= maxHeader {
			return v
		}
	}
	return ""
}

// mediaType returns the content type without its parameters, also when those
// are broken.
func mediaType(h http.Header) string {
	t, _, _ := strings.Cut(firstHeader(h, contentType), ";")
	return strings.ToLower(strings.TrimSpace(t))
}
