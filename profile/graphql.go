package profile

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"
)

// maxQuery is the longest body of a GraphQL request that is looked at.
const maxQuery = 64 << 10

// queriesGraphQL reports whether a request only queries. Anything that it does not
// understand may be a mutation: a body that is too long or cannot be got again, a member
// that may be the name of a stored document, or parameters in the URL.
func queriesGraphQL(req *http.Request) bool {
	if req.Method != http.MethodPost || req.GetBody == nil || req.URL.RawQuery != "" ||
		!strings.HasSuffix(req.URL.Path, "/graphql.json") && !strings.HasSuffix(req.URL.Path, "/graphql") {
		return false
	}
	mediaType, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return false
	}
	body, ok := graphQLBody(req)
	if !ok {
		return false
	}
	switch mediaType {
	case "application/graphql":
		return onlyQueries(string(body))
	case "application/json":
		return queriesInJSON(body)
	}
	return false
}

// graphQLBody returns the body of a request, and reports whether it is short enough and
// is text.
func graphQLBody(req *http.Request) ([]byte, bool) {
	rc, err := req.GetBody()
	if err != nil {
		return nil, false
	}
	defer rc.Close()
	body, err := io.ReadAll(io.LimitReader(rc, maxQuery+1))
	return body, err == nil && len(body) <= maxQuery && utf8.Valid(body)
}

// queriesInJSON reports whether a body is {"query":"..."} with a query, or a list of
// them.
func queriesInJSON(body []byte) bool {
	body = bytes.TrimSpace(body)
	if !json.Valid(body) {
		return false
	}
	if body[0] != '[' {
		return queriesInObject(body)
	}
	var batch []json.RawMessage
	if json.Unmarshal(body, &batch) != nil {
		return false
	}
	for _, object := range batch {
		if !queriesInObject(object) {
			return false
		}
	}
	return len(batch) > 0
}

// queriesInObject reports whether an object is {"query":"..."} with a query. It reads
// the members one by one, because a server may take either of two with the same name.
func queriesInObject(object []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(object))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return false
	}
	found := false
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return false
		}
		switch name {
		case "query":
			var query *string
			if found || dec.Decode(&query) != nil || query == nil || !onlyQueries(*query) {
				return false
			}
			found = true
		case "variables", "operationName":
			var skipped json.RawMessage
			if dec.Decode(&skipped) != nil {
				return false
			}
		default:
			return false
		}
	}
	return found
}

// onlyQueries reports whether each definition in a GraphQL document is a query or a
// fragment. A definition begins with a word, or with the brace of a query without a
// name, and ends with the brace that closes its selections (spec.graphql.org, sections
// 2.2 to 2.8). What is between them needs no more than brackets that match, and none of
// the words that a definition must not begin with, in case a server is lenient.
func onlyQueries(document string) bool {
	lexer := graphQLLexer{rest: document}
	var open []byte // the brackets that close those that are open
	inside := false // a definition
	queries := 0
	for {
		token, ok := lexer.next()
		if !ok {
			return false
		}
		if token == "" {
			return !inside && queries > 0
		}
		switch {
		case len(open) == 0 && (token == "mutation" || token == "subscription"):
			return false
		case inside:
		case token == "query" || token == "{":
			queries++
		case token != "fragment":
			return false
		}
		inside = true
		switch c := token[0]; c {
		case '{', '(', '[':
			open = append(open, closing(c))
		case '}', ')', ']':
			if len(open) == 0 || open[len(open)-1] != c {
				return false
			}
			open = open[:len(open)-1]
			inside = len(open) > 0 || c != '}'
		}
	}
}

func closing(bracket byte) byte {
	switch bracket {
	case '{':
		return '}'
	case '(':
		return ')'
	}
	return ']'
}

// graphQLLexer splits a document into tokens (spec.graphql.org, section 2.1).
type graphQLLexer struct{ rest string }

// next returns the next token, of a string only the first quotation mark, and "" at the
// end. It reports whether what comes next is a token at all.
func (l *graphQLLexer) next() (string, bool) {
	l.skip()
	if l.rest == "" {
		return "", true
	}
	switch c := l.rest[0]; {
	case c == '"':
		return `"`, l.skipString()
	case isNameByte(c):
		n := 1
		for n < len(l.rest) && isNameByte(l.rest[n]) {
			n++
		}
		return l.take(n), true
	case strings.IndexByte("!$&()*.:=@[]{|}+-", c) >= 0: // with those of numbers
		return l.take(1), true
	}
	return "", false
}

// skip skips what separates tokens: white space, commas and comments.
func (l *graphQLLexer) skip() {
	for {
		l.rest = strings.TrimLeft(l.rest, " \t\r\n,")
		if !strings.HasPrefix(l.rest, "#") {
			return
		}
		end := strings.IndexAny(l.rest, "\r\n")
		if end < 0 {
			end = len(l.rest)
		}
		l.take(end)
	}
}

// skipString skips a string, and reports whether it ends.
func (l *graphQLLexer) skipString() bool {
	if block, ok := strings.CutPrefix(l.rest, `"""`); ok {
		for {
			end := strings.Index(block, `"""`)
			if end < 0 {
				return false
			}
			escaped := end > 0 && block[end-1] == '\\'
			block = block[end+len(`"""`):]
			if !escaped {
				l.rest = block
				return true
			}
		}
	}
	for i := 1; i < len(l.rest); i++ {
		switch c := l.rest[i]; {
		case c == '"':
			l.take(i + 1)
			return true
		case c == '\\' && i+1 < len(l.rest) && l.rest[i+1] > ' ':
			i++
		case c < ' ' && c != '\t':
			return false
		}
	}
	return false
}

func (l *graphQLLexer) take(n int) string {
	token := l.rest[:n]
	l.rest = l.rest[n:]
	return token
}

func isNameByte(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
