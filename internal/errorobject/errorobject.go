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
package errorobject

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Object is what an error response says. What it does not say is empty.
type Object struct {
	Type, Code, Message string
	Invalid             []Param
	RequestID           string

	// Tokens are all words for the error that are meant for programs: Type and
	// Code, and those of the errors it consists of.
	Tokens []string
}

// Param is a parameter that is wrong, and why. Either may be unknown.
type Param struct{ Name, Reason string }

// Parse reads the error object of a response whose body, or the beginning of
// it, has been through [Decode]. codeNames are names of the member that holds
// the code, to be tried after the usual ones.
func Parse(status int, h http.Header, body []byte, codeNames ...string) Object {
	p := parser{status: status, problem: strings.HasSuffix(mediaType(h), "problem+json")}
	p.headerCode = firstHeader(h, codeHeaders)
	p.o.RequestID = firstHeader(h, requestIDHeaders)
	for _, name := range codeNames {
		p.codeNames = append(p.codeNames, fold(name))
	}
	if !p.json(body) {
		p.o.Message = plainText(h, body)
	}
	set(&p.o.Code, name(p.headerCode))
	for _, token := range append([]string{p.o.Type, p.o.Code, name(p.headerCode)}, p.tokens...) {
		if token != "" && !slices.Contains(p.o.Tokens, token) && len(p.o.Tokens) < maxTokens {
			p.o.Tokens = append(p.o.Tokens, token)
		}
	}
	return p.o
}

// The tables. Names of members are compared folded, see fold.
var (
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

	wordNames = []string{"code", "errorcode", "reason", "type", "status", "error"}
)

const (
	maxTokens = 32
	maxDepth  = 8 // of errors in errors, and of parameters in parameters
)

type parser struct {
	status     int
	problem    bool
	headerCode string
	codeNames  []string
	tokens     []string
	o          Object
}

// json reads a body that is JSON and reports whether it is. What follows the
// first value does no harm, and the content type is not asked: proxies and
// frameworks get it wrong.
func (p *parser) json(body []byte) bool {
	var raw json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(body))
	if dec.Decode(&raw) != nil {
		return false
	}
	switch kind(raw) {
	case '{':
		p.body(raw)
	case '[':
		list := elements(raw)
		if len(list) > 0 && kind(members(list[0])["error"]) == '{' {
			p.body(list[0])
			return true
		}
		p.errors(raw)
		p.params(raw, true, false)
	default:
		p.o.Message = text(raw)
		// Prose may begin with a quotation, or with a number: "404 not found".
		return len(bytes.TrimSpace(body[dec.InputOffset():])) == 0
	}
	return true
}

// body reads a body that is an object.
func (p *parser) body(raw json.RawMessage) {
	m := members(raw)
	if p.problem {
		p.o.Type = cmp.Or(text(m["type"]), "about:blank") // RFC 9457 section 3.1.1
		p.o.Message = cmp.Or(text(m["detail"]), text(m["title"]))
	}
	if text(m["kind"]) == "Status" && m["apiversion"] != nil {
		p.o.Type, p.o.Code, p.o.Message = text(m["reason"]), token(m["code"]), text(m["message"])
		p.params(members(m["details"])["causes"], false, false)
		return
	}
	p.error(m)
	set(&p.o.Code, name(text(m["__type"])))
	set(&p.o.Code, name(p.headerCode))
	if p.o.Message == "" && first(m, messageNames, text) == "" {
		for _, name := range errorsNames {
			p.errors(m[name])
		}
	}
	p.object(m)
	if p.o.Type != "" || p.o.Code != "" || p.o.Message != "" || len(p.o.Invalid) > 0 {
		return
	}
	if isForm(m) {
		p.fields("", raw, 0)
	} else if len(m) == 1 { // {"itemNotFound":{"code":404,"message":"..."}}
		for _, inner := range m {
			p.object(members(inner))
		}
	}
}

// error reads shape 4, except for a string, which is as in any error object.
func (p *parser) error(m object) {
	for _, name := range errorNames {
		switch inner := m[name]; kind(inner) {
		case '{':
			e := members(inner)
			for range maxDepth { // {"error":{"error":{...}}}
				if kind(e["error"]) != '{' || first(e, messageNames, text) != "" {
					break
				}
				e = members(e["error"])
			}
			p.object(e)
		case '[':
			p.errors(inner)
			p.params(inner, true, false)
		}
	}
}

// errors reads a list of errors. The first one speaks for all of them, as it
// has the code that its message goes with.
func (p *parser) errors(raw json.RawMessage) {
	list := elements(raw)
	if isError(members(raw)) {
		list = []json.RawMessage{raw}
	} else if kind(raw) != '{' {
		set(&p.o.Message, text(raw)) // a string, or a list of them
	}
	said := false
	for _, element := range list {
		e := members(element)
		if !said && e != nil {
			p.says(e)
			said = true
		}
		p.words(e, 0)
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
		p.o.Invalid = append(p.o.Invalid, Param{culprit, first(m, messageNames, text)})
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
	p.words(m, 0)
}

// words collects what is meant for programs, also of the errors inside.
func (p *parser) words(m object, depth int) {
	for _, name := range wordNames {
		if s := token(m[name]); isWord(s) {
			p.tokens = append(p.tokens, s)
		}
	}
	if depth == maxDepth || len(p.tokens) > maxTokens {
		return
	}
	for _, name := range []string{"extensions", "innererror", "errors", "details"} {
		if kind(m[name]) == '{' {
			p.words(members(m[name]), depth+1)
		}
		for _, e := range elements(m[name]) {
			p.words(members(e), depth+1)
		}
	}
}

// params reads parameters that are wrong: a list of them, a single one, or a
// map from their names to the reasons. See paramsNames for open and asMap.
func (p *parser) params(raw json.RawMessage, open, asMap bool) {
	switch kind(raw) {
	case '[':
		for _, entry := range elements(raw) {
			if s := text(entry); kind(entry) == '"' {
				// What the message says need not be said again.
				if !open || !strings.Contains(p.o.Message, s) {
					p.o.Invalid = append(p.o.Invalid, Param{Reason: s})
				}
				continue
			}
			p.param(members(entry), open)
		}
	case '{':
		m := members(raw)
		single := !open && (kind(m["name"]) == '"' || kind(m["reason"]) == '"')
		if !asMap && !isForm(m) || single || isError(m) {
			p.param(m, open)
		} else {
			p.fields("", raw, 0)
		}
	case '"':
		if !open {
			p.o.Invalid = append(p.o.Invalid, Param{Reason: text(raw)})
		}
	}
}

// param reads one parameter, or several that have one reason.
func (p *parser) param(m object, open bool) {
	p.params(m["fieldviolations"], false, false)
	reason := first(m, reasonNames, text)
	if fields := elements(m["fields"]); len(fields) > 0 {
		for _, field := range fields {
			p.o.Invalid = append(p.o.Invalid, Param{text(field), reason})
		}
		return
	}
	name := cmp.Or(first(m, paramNames, path), first(members(m["source"]), sourceNames, text))
	if m["locations"] != nil || m["extensions"] != nil {
		name = "" // GraphQL: the path is that of a result
	}
	if name != "" || !open && reason != "" {
		p.o.Invalid = append(p.o.Invalid, Param{name, reason})
	}
}

// fields reads a map from parameters to reasons, which may be a string, a list,
// or another such map. Its members come in the order of their names.
func (p *parser) fields(prefix string, raw json.RawMessage, depth int) {
	var m map[string]json.RawMessage
	_ = json.Unmarshal(raw, &m)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		full := name
		switch {
		case name == "_errors": // beside those of the members
			full = prefix
		case prefix != "":
			full = prefix + "." + name
		}
		switch value := m[name]; kind(value) {
		case '"':
			p.o.Invalid = append(p.o.Invalid, Param{full, text(value)})
		case '[':
			for _, entry := range elements(value) {
				if s := cmp.Or(first(members(entry), reasonNames, text), text(entry)); s != "" {
					p.o.Invalid = append(p.o.Invalid, Param{full, s})
				}
			}
		case '{':
			if e := members(value); kind(e["message"]) == '"' {
				p.o.Invalid = append(p.o.Invalid, Param{full, text(e["message"])})
			} else if depth < maxDepth {
				p.fields(full, value, depth+1)
			}
		}
	}
}

// object is the members of a JSON object by their folded names.
type object map[string]json.RawMessage

// members returns the members of raw if that is an object. Of names that fold
// alike the last in the order of bytes counts, so that "code" wins over "Code";
// of equal names, the last one, as in encoding/json.
func members(raw json.RawMessage) object {
	if kind(raw) != '{' {
		return nil
	}
	var m map[string]json.RawMessage
	_ = json.Unmarshal(raw, &m) // raw is valid
	folded := make(object, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		folded[fold(name)] = m[name]
	}
	return folded
}

// fold makes errorCode, error_code, error-code and ErrorCode one name. Leading
// underscores stay: "__type" is not "type".
func fold(name string) string {
	rest := strings.TrimLeft(name, "_")
	return name[:len(name)-len(rest)] + strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(rest))
}

// elements returns the elements of raw if that is an array.
func elements(raw json.RawMessage) []json.RawMessage {
	var list []json.RawMessage
	if kind(raw) == '[' {
		_ = json.Unmarshal(raw, &list) // raw is valid
	}
	return list
}

// kind returns the first byte of raw, which tells what it is; 0: nothing.
func kind(raw json.RawMessage) byte {
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

// first returns what read makes of the first of the named members of which it
// makes something.
func first(m object, names []string, read func(json.RawMessage) string) string {
	for _, name := range names {
		if s := read(m[name]); s != "" {
			return s
		}
	}
	return ""
}

// text returns what raw says to people: a string, strings in a list, or one in
// an object such as {"lang":"en","value":"..."}.
func text(raw json.RawMessage) string {
	var s string
	switch kind(raw) {
	case '"':
		_ = json.Unmarshal(raw, &s) // raw is valid; invalid UTF-8 becomes U+FFFD
	case '[':
		var all []string
		for _, element := range elements(raw) {
			if kind(element) == '"' {
				all = append(all, text(element))
			}
		}
		s = strings.Join(all, "; ")
	case '{':
		m := members(raw)
		for _, name := range textNames {
			if kind(m[name]) == '"' {
				return text(m[name])
			}
		}
	}
	return strings.TrimSpace(s)
}

// token returns a word for programs: a string, or a number as it is written,
// of which a float64 would lose digits.
func token(raw json.RawMessage) string {
	switch k := kind(raw); {
	case k == '"':
		return text(raw)
	case k == '-' || '0' <= k && k <= '9':
		return string(raw)
	}
	return ""
}

// path returns the name of a parameter: a string, or the steps to it in a list.
func path(raw json.RawMessage) string {
	if kind(raw) != '[' {
		return token(raw)
	}
	var steps []string
	for _, step := range elements(raw) {
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
	return kind(m["message"]) == '"' && (token(m["code"]) != "" || token(m["type"]) != "")
}

// isForm reports whether m has nothing but lists of reasons.
func isForm(m object) bool {
	for _, raw := range m {
		if kind(raw) != '[' {
			return false
		}
	}
	return len(m) > 0
}

// set sets what is not known yet.
func set(field *string, s string) { *field = cmp.Or(*field, s) }

func firstHeader(h http.Header, names []string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// mediaType returns the content type without its parameters, also when those
// are broken.
func mediaType(h http.Header) string {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(t))
}
