package errorobject_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/errorobject"
)

type (
	object = errorobject.Object
	params = []errorobject.Param
)

func header(fields ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

func parse(status int, h http.Header, body string, codeNames ...string) errorobject.Object {
	return errorobject.Parse(status, h, errorobject.Decode(h, []byte(body)), codeNames...)
}

// TestShapes tests the rules one by one. Whole responses of real APIs are in
// testdata, and are also read by the tests of package resilient.
func TestShapes(t *testing.T) {
	problem := header("Content-Type", "Application/Problem+JSON; charset=utf-8")
	for _, tt := range []struct {
		why    string
		header http.Header
		body   string
		want   object
	}{
		// 1. problem+json
		{
			"RFC 9457: detail is about this occurrence, title about the type", problem,
			`{"type":"https://api.test/p","title":"t","detail":"d","status":400,"instance":"/1"}`,
			object{Type: "https://api.test/p", Message: "d"},
		},
		{"an absent type is about:blank", problem, `{"title":"t"}`, object{Type: "about:blank", Message: "t"}},
		{"as is one of another type", problem, `{"type":7,"title":"t"}`, object{Type: "about:blank", Message: "t"}},
		{
			"extensions are read as in a flat object", problem, `{"title":"t","code":"c","message":"m"}`,
			object{Type: "about:blank", Code: "c", Message: "t"},
		},
		{
			"RFC 7807 has invalid-params", problem, `{"invalid-params":[{"name":"a","reason":"r"}]}`,
			object{Type: "about:blank", Invalid: params{{"a", "r"}}},
		},
		{
			"only the content type says that it is one", nil, `{"title":"t","status":400}`,
			object{Message: "t"},
		},

		// 2. Kubernetes
		{
			"reason is the type, and the causes are parameters", nil,
			`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"m","reason":"Invalid","code":422,
			  "details":{"causes":[{"field":"spec.x","reason":"FieldValueInvalid","message":"too big"}]}}`,
			object{Type: "Invalid", Code: "422", Message: "m", Invalid: params{{"spec.x", "too big"}}},
		},
		{
			"kind alone is anybody's", nil, `{"kind":"Status","message":"m","reason":"r"}`,
			object{Message: "m"},
		},
		{
			"a Status has no message in its reason", nil, `{"kind":"Status","apiVersion":"v1","reason":"Gone"}`,
			object{Type: "Gone"},
		},

		// 3. arrays
		{"a wrapped error object", nil, `[{"error":{"code":1,"message":"m"}}]`, object{Code: "1", Message: "m"}},
		{
			"a list of errors, with the parameters they name", nil,
			`[{"errorCode":"A","message":"m","fields":["x","y"]},{"errorCode":"B","message":"n"}]`,
			object{Code: "A", Message: "m", Invalid: params{{"x", "m"}, {"y", "m"}}},
		},
		{"a list of strings", nil, `["a","b"]`, object{Message: "a; b"}},
		{"an empty list", nil, `[]`, object{}},
		{"what is no object is passed over", nil, `[null,1,[],{"code":"c"}]`, object{Code: "c"}},

		// 4. error
		{
			"an object", nil, `{"error":{"type":"t","code":"c","message":"m","param":"p"}}`,
			object{Type: "t", Code: "c", Message: "m", Invalid: params{{"p", "m"}}},
		},
		{"its status in capitals is its type", nil, `{"error":{"status":"NOT_FOUND"}}`, object{Type: "NOT_FOUND"}},
		{"its status as a number is the status", nil, `{"error":{"status":"404","code":"c"}}`, object{Code: "c"}},
		{"its status in other words is none", nil, `{"error":{"status":"error","code":"c"}}`, object{Code: "c"}},
		{
			"what it lacks is beside it", nil, `{"type":"error","code":7,"message":"m","error":{"type":"t"}}`,
			object{Type: "t", Code: "7", Message: "m"},
		},
		{`"type":"error" says nothing`, nil, `{"type":"error","error":{"code":"c"}}`, object{Code: "c"}},
		{"an error in an error", nil, `{"error":{"error":{"code":"c","message":"m"}}}`, object{Code: "c", Message: "m"}},
		{
			"parameters in the details, not the one it is all about", nil,
			`{"error":{"code":"c","message":"m","target":"t","details":[{"code":"x","message":"r","target":"p"}]}}`,
			object{Code: "c", Message: "m", Invalid: params{{"p", "r"}}},
		},
		{
			"a single detail", nil, `{"error":{"code":"c","details":{"target":"p","message":"r"}}}`,
			object{Code: "c", Invalid: params{{"p", "r"}}},
		},
		{
			"details without a parameter are no parameters", nil,
			`{"error":{"code":"c","details":[{"reason":"r","domain":"d"},{"message":"m"}]}}`,
			object{Code: "c"},
		},
		{
			"field violations", nil,
			`{"error":{"code":3,"details":[{"@type":"x","fieldViolations":[{"field":"f","description":"d"}]}]}}`,
			object{Code: "3", Invalid: params{{"f", "d"}}},
		},
		{"one word is a code", nil, `{"error":"invalid_grant","error_description":"d"}`, object{Code: "invalid_grant", Message: "d"}},
		{"prose is a message", nil, `{"error":"no such thing"}`, object{Message: "no such thing"}},
		{"but not if there is one", nil, `{"error":"no such thing","detail":"d"}`, object{Message: "d"}},
		{"the reason phrase is no code", nil, `{"error":"Teapot","code":"c"}`, object{Code: "c", Type: "Teapot"}},
		{"a word beside a code is the type", nil, `{"error":"not_found","code":1234}`, object{Type: "not_found", Code: "1234"}},
		{"a word that is the code", nil, `{"error":"c","code":"c"}`, object{Code: "c"}},
		{"a number", nil, `{"error":17,"message":"m"}`, object{Code: "17", Message: "m"}},
		{"a flag", nil, `{"error":true,"code":"c"}`, object{Code: "c"}},
		{"an empty object", nil, `{"error":{},"message":"m"}`, object{Message: "m"}},
		{"a list of strings", nil, `{"error":["a","b"]}`, object{Message: "a; b"}},
		{
			"a list of objects", nil, `{"error":[{"code":"c","message":"m","field":"f"}]}`,
			object{Code: "c", Message: "m", Invalid: params{{"f", "m"}}},
		},
		{
			"OData version 3", nil, `{"odata.error":{"code":"c","message":{"lang":"en","value":"m"}}}`,
			object{Code: "c", Message: "m"},
		},
		{"Fault", nil, `{"fault":{"faultstring":"m"}}`, object{Message: "m"}},

		// 5. names
		{"__type without its namespace", nil, `{"__type":"com.test#Bad","message":"m"}`, object{Code: "Bad", Message: "m"}},
		{"__type without one", nil, `{"__type":"Bad"}`, object{Code: "Bad"}},
		{"Message in capitals", nil, `{"Message":"m"}`, object{Message: "m"}},
		{
			"a header, without the address", header("X-Amzn-Errortype", "Bad:http://internal.test/"), `{"message":"m"}`,
			object{Code: "Bad", Message: "m"},
		},
		{"a header and no JSON", header("X-Ms-Error-Code", "Busy", "Content-Type", "application/xml"), `<Error/>`, object{Code: "Busy"}},
		{"the header is more than a code in the body", header("X-Amzn-Errortype", "Bad"), `{"code":"7"}`, object{Code: "Bad"}},

		// 6. errors
		{
			"the first speaks for all", nil, `{"errors":[{"code":"A","message":"m"},{"code":"B","message":"n"}]}`,
			object{Code: "A", Message: "m"},
		},
		{
			"JSON:API", nil,
			`{"errors":[{"code":"c","title":"t","detail":"d","source":{"pointer":"/a"}},{"title":"t","source":{"parameter":"b"}}]}`,
			object{Code: "c", Message: "d", Invalid: params{{"/a", "d"}, {"b", "t"}}},
		},
		{
			"beside a message they are only parameters", nil, `{"message":"m","errors":[{"field":"f","code":"missing"}]}`,
			object{Message: "m", Invalid: params{{"f", "missing"}}},
		},
		{
			"strings beside a message", nil, `{"message":"m: a","errors":["a","b"]}`,
			object{Message: "m: a", Invalid: params{{"", "b"}}},
		},
		{"a string", nil, `{"errors":"m"}`, object{Message: "m"}},
		{
			"a map", nil, `{"errors":{"firstName":["a","b"],"age":"c"}}`,
			object{Invalid: params{{"age", "c"}, {"firstName", "a"}, {"firstName", "b"}}},
		},
		{
			"a map of maps", nil,
			`{"errors":{"user":{"_errors":[{"message":"a"}],"name":{"_errors":["b"]},"mail":{"message":"c","code":1}}}}`,
			object{Invalid: params{{"user", "a"}, {"user.mail", "c"}, {"user.name", "b"}}},
		},
		{"one error that is not in a list", nil, `{"errors":{"code":"c","message":"m"}}`, object{Code: "c", Message: "m"}},
		{"one that has a type", nil, `{"errors":{"type":"t","message":"m"}}`, object{Type: "t", Message: "m"}},
		{"a parameter called message", nil, `{"errors":{"message":["a"]}}`, object{Invalid: params{{"message", "a"}}}},
		{"with one reason", nil, `{"errors":{"message":"a"}}`, object{Invalid: params{{"message", "a"}}}},
		{
			"GraphQL has the code in the extensions, and its path is not a parameter", nil,
			`{"errors":[{"message":"m","path":["viewer",0],"extensions":{"code":"C"}}]}`,
			object{Code: "C", Message: "m"},
		},
		{
			"Spring names the field and a default message", nil,
			`{"status":400,"error":"Bad Request","errors":[{"codes":["Size.person.name"],"defaultMessage":"too long","objectName":"person","field":"name","code":"Size"}]}`,
			object{Code: "Size", Message: "Bad Request", Invalid: params{{"name", "too long"}}},
		},
		{
			"express-validator has the path, and before version 7 the param", nil,
			`{"errors":[{"type":"field","value":"x","msg":"Invalid value","path":"email","location":"body"},{"msg":"short","param":"name"}]}`,
			object{Type: "field", Message: "Invalid value", Invalid: params{{"email", "Invalid value"}, {"name", "short"}}},
		},
		{
			"errorMessages beside a map", nil, `{"errorMessages":["m","n"],"errors":{"f":"r"}}`,
			object{Message: "m; n", Invalid: params{{"f", "r"}}},
		},
		{"errors null, false, empty", nil, `{"errors":null,"message":"m","error":false,"invalid":[]}`, object{Message: "m"}},

		// 7. flat
		{
			"the documented object", nil, `{"code":"400","type":"T","message":"m","invalid":[{"name":"n","reason":"r"}]}`,
			object{Code: "400", Type: "T", Message: "m", Invalid: params{{"n", "r"}}},
		},
		{"invalid: one object", nil, `{"invalid":{"name":"n","reason":"r"}}`, object{Invalid: params{{"n", "r"}}}},
		{"invalid: a map", nil, `{"invalid":{"n":"r"}}`, object{Invalid: params{{"n", "r"}}}},
		{"invalid: strings", nil, `{"invalid":["r"]}`, object{Invalid: params{{"", "r"}}}},
		{"invalid: a string", nil, `{"invalid":"r"}`, object{Invalid: params{{"", "r"}}}},
		{"invalid: half of it", nil, `{"invalid":[{"name":"n"},{"reason":"r"},{},null]}`, object{Invalid: params{{"n", ""}, {"", "r"}}}},
		{"causes", nil, `{"errorCode":"E","errorSummary":"m","errorCauses":[{"errorSummary":"r"}]}`, object{Code: "E", Message: "m", Invalid: params{{"", "r"}}}},
		{"a path in steps", nil, `{"detail":[{"loc":["body","tags",0],"msg":"r"}]}`, object{Invalid: params{{"body.tags.0", "r"}}}},
		{"spellings", nil, `{"error_type":"t","Error-Code":"c","errorMessage":"m"}`, object{Type: "t", Code: "c", Message: "m"}},
		{"lower case wins over others", nil, `{"code":"c","Code":"x"}`, object{Code: "c"}},
		{"of duplicates, the last", nil, `{"code":"x","code":"c"}`, object{Code: "c"}},
		{"digits are kept", nil, `{"code":12345678901234567890}`, object{Code: "12345678901234567890"}},
		{"a number as it is written", nil, `{"code":-1.50e400}`, object{Code: "-1.50e400"}},
		{"null and others are none", nil, `{"code":null,"type":true,"message":{},"errorCode":"c"}`, object{Code: "c"}},
		{"empty is none", nil, `{"code":"","errorCode":"c","message":" "}`, object{Code: "c"}},
		{"a name beside a message is a code", nil, `{"name":"BAD_NAME","message":"m"}`, object{Code: "BAD_NAME", Message: "m"}},
		{"a name alone is somebody's", nil, `{"name":"Smith","code":"c"}`, object{Code: "c"}},
		{"a name in prose too", nil, `{"name":"John Smith","message":"m"}`, object{Message: "m"}},
		{"a message that is a list", nil, `{"message":["a","b"],"error":"Bad Request"}`, object{Message: "a; b"}},
		{"a message that is a form", nil, `{"message":{"f":["a"]}}`, object{Invalid: params{{"f", "a"}}}},
		{"a message in a message", nil, `{"message":{"error":"m"}}`, object{Message: "m"}},
		{"the parameter it is about", nil, `{"message":"m","field":"f"}`, object{Message: "m", Invalid: params{{"f", "m"}}}},
		{"nothing but a form", nil, `{"name":["a"],"age":["b","c"]}`, object{Invalid: params{{"age", "b"}, {"age", "c"}, {"name", "a"}}}},
		{"nothing but one member", nil, `{"itemNotFound":{"code":404,"message":"m"}}`, object{Code: "404", Message: "m"}},
		{"nothing", nil, `{"data":{"code":"c"},"ok":false}`, object{}},
		{"the id of the request", nil, `{"message":"m","request_id":"r"}`, object{Message: "m", RequestID: "r"}},
		{"the header's comes first", header("Request-Id", "h"), `{"code":"c","requestId":"r"}`, object{Code: "c", RequestID: "h"}},

		// Not JSON, or invalid JSON.
		{"a string", nil, `"m"`, object{Message: "m"}},
		{"what follows does no harm", nil, "{\"code\":\"c\"}\n<!-- -->{", object{Code: "c"}},
		{"plain text", header("Content-Type", "text/plain; charset=utf-8"), " slow\ndown \n", object{Message: "slow\ndown"}},
		{"text of no type", nil, "404 page not found\n", object{Message: "404 page not found"}},
		{"text that begins as a string", nil, `"x" is bad`, object{Message: `"x" is bad`}},
		{"text of another type", header("Content-Type", "text/css"), "slow down", object{}},
		{"text that is none", nil, "\x00\x01\x02", object{}},
		{"text that is not UTF-8", nil, "caf\xe9", object{Message: "caf\ufffd"}},
		{"numbers and literals", nil, `404`, object{}},
		{"null", nil, `null`, object{}},
		{"nothing at all", nil, ``, object{}},
		{"HTML", header("Content-Type", "application/json"), `<html>`, object{}},
		{"HTML of no type", nil, `<html>`, object{}},
		{"XML", header("Content-Type", "text/plain"), `<Error/>`, object{}},
		{"cut short", nil, `{"code":"c","mess`, object{}},
		{"a comma too many", nil, `{"errors":[{"message":"m"},]}`, object{}},
		{"a list cut short", header("Content-Type", "text/plain"), `["a",`, object{}},
		{"invalid UTF-8 and lone surrogates", nil, "{\"message\":\"a\xff\\ud800\"}", object{Message: "a\ufffd\ufffd"}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			got := parse(400, tt.header, tt.body)
			got.Tokens = nil
			require.Equal(t, tt.want, got)
		})
	}
	require.Equal(t, object{Message: "Not Found"}, parse(404, nil, `{"error":"Not Found"}`),
		"the reason phrase is no code")
}

func TestTokens(t *testing.T) {
	for body, want := range map[string][]string{
		`{"type":"t","code":400,"message":"m"}`:                             {"t", "400"},
		`{"code":"c","error":{"code":"d","innererror":{"code":"e"}}}`:       {"d", "e", "c"},
		`{"error":{"errors":[{"reason":"a"},{"reason":"b"}],"code":403}}`:   {"403", "a", "b"},
		`{"error":{"details":[{"reason":"a","metadata":{"reason":"no"}}]}}`: {"a"},
		`{"errors":[{"code":"a"},{"extensions":{"code":"b"}}]}`:             {"a", "b"},
		`{"message":"m","errors":[{"code":"a"}]}`:                           {"a"},
		`{"error":{"reason":"a sentence is for people","type":"t"}}`:        {"t"},
		`{"__type":"x#c","message":"m"}`:                                    {"c"},
		`{"message":"rate_limit_exceeded"}`:                                 nil,
		`[{"errorCode":"a"},{"errorCode":"b"}]`:                             {"a", "b"},
		`{"error":"a","code":"b"}`:                                          {"a", "b"},
	} {
		require.Equal(t, want, parse(403, nil, body).Tokens, body)
	}
	require.Equal(t, []string{"c", "h"}, parse(403, header("X-Ms-Error-Code", "h"), `{"error":{"code":"c"}}`).Tokens)
}

func TestNestedTokens(t *testing.T) {
	for _, tt := range []struct{ why, body string }{
		{"details as an object", `{"type":"error","error":{"type":"t","details":{"error_code":"c"}}}`},
		{"in another spelling", `{"error":{"type":"t","details":{"errorCode":"c"}}}`},
		{"a reason", `{"error":{"type":"t","details":{"reason":"c"}}}`},
		{"a code of a reason", `{"error":{"type":"t","details":[{"reason_code":"c"}]}}`},
		{"a part of a code", `{"error":{"type":"t","error_subcode":"c"}}`},
		{"a type", `{"error":{"type":"t","details":{"error_type":"c"}}}`},
		{"a single detail, which frameworks make of an exception", `{"type":"t","detail":{"code":"c","message":"m"}}`},
		{"details beside a code", `{"error":"t","details":{"error_code":"c"}}`},
		{"a wrapped error", `[{"error":{"type":"t","details":{"code":"c"}}}]`},
		{"an error in an error that has a message", `{"error":{"type":"t","message":"m","error":{"code":"c"}}}`},
		{"a cause", `{"error":{"type":"t","message":"m","cause":{"error_code":"c"}}}`},
		{"details in details", `{"error":{"type":"t","details":{"details":{"code":"c"}}}}`},
		{"details of other names", `{"error":{"type":"t","error_details":{"code":"c"}}}`},
		{"information", `{"type":"t","error_info":{"reason":"c"}}`},
	} {
		require.Subset(t, parse(429, nil, tt.body).Tokens, []string{"t", "c"}, tt.why)
	}
	deep := func(n int) string {
		return strings.Repeat(`{"x":1,"details":`, n) + `{"code":"c"}` + strings.Repeat("}", n)
	}
	require.Equal(t, []string{"c"}, parse(429, nil, deep(7)).Tokens, "as deep as errors are")
	require.Empty(t, parse(429, nil, deep(8)).Tokens, "deeper it is data")
	list := func(n int) string {
		return strings.Repeat(`{"x":1,"details":[`, n) + `{"code":"c"}` + strings.Repeat("]}", n)
	}
	require.Equal(t, []string{"c"}, parse(429, nil, list(7)).Tokens, "as deep in lists")
	require.Empty(t, parse(429, nil, list(8)).Tokens, "deeper in lists")
}

func TestQuotas(t *testing.T) {
	const info = `{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"RATE_LIMIT_EXCEEDED","metadata":{"quota_limit":"b","quota_metric":"no"}}`
	for _, tt := range []struct {
		why, body string
		want      []string
	}{
		{"google.rpc.QuotaFailure", `{"error":{"details":[{"violations":[{"quotaMetric":"no","quotaId":"a"}]}]}}`, []string{"a"}},
		{"several", `{"error":{"details":[{"violations":[{"quotaId":"a"},{"quotaId":"b"},{"quotaId":"a"}]}]}}`, []string{"a", "b"}},
		{"in another spelling", `{"error":{"details":[{"violations":[{"quota_id":"a"}]}]}}`, []string{"a"}},
		{"in an array", `[{"error":{"details":[{"violations":[{"quotaId":"a"}]}]}}]`, []string{"a"}},
		{"google.rpc.ErrorInfo", `{"error":{"details":[` + info + `]}}`, []string{"b"}},
		{"both", `{"error":{"details":[{"violations":[{"quotaId":"a"}]},` + info + `]}}`, []string{"a", "b"}},
		{"a sentence is for people", `{"error":{"details":[{"violations":[{"quotaId":"a b"}]}]}}`, nil},
		{"a subject is whose it is", `{"error":{"details":[{"violations":[{"subject":"a","description":"b"}]}]}}`, nil},
		{"violations of other kinds", `{"error":{"details":[{"violations":["a",null,{"field":"f"}]}]}}`, nil},
	} {
		require.Equal(t, tt.want, parse(429, nil, tt.body).Quotas, tt.why)
	}
}

func TestCodeNames(t *testing.T) {
	require.Equal(t, "DAILY", parse(429, nil, `{"policyName":"DAILY"}`, "policy_name").Code)
	require.Equal(t, "c", parse(429, nil, `{"policyName":"DAILY","code":"c"}`, "policyName").Code,
		"they come after the usual ones")
}

func TestRequestID(t *testing.T) {
	for _, name := range []string{
		"X-Request-Id", "Request-Id", "X-Correlation-Id", "X-Amzn-Requestid", "X-Amz-Request-Id",
		"X-Ms-Request-Id", "X-Github-Request-Id",
	} {
		require.Equal(t, "r", parse(500, header(name, "r"), "").RequestID, name)
	}
}

func TestDecode(t *testing.T) {
	const text = `{"message":"café"}`
	var zipped, deflated bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(text))
	require.NoError(t, w.Flush())
	cut := zipped.Len() // before the end is written
	require.NoError(t, w.Close())
	z := zlib.NewWriter(&deflated)
	_, _ = z.Write([]byte(text))
	require.NoError(t, z.Close())
	latin1 := "caf\xe9"
	for _, tt := range []struct {
		why        string
		header     http.Header
		body, want string
	}{
		{"as it is", nil, text, text},
		{"a byte order mark", nil, "\ufeff" + text, text},
		{"gzip", header("Content-Encoding", "gzip"), zipped.String(), text},
		{"gzip that nobody mentions", nil, zipped.String(), text},
		{"gzip cut short, as a prefix is", nil, zipped.String()[:cut], text},
		{"gzip that is none", header("Content-Encoding", "gzip"), text, text},
		{"gzip broken", nil, "\x1f\x8bxxxxxxxxxxxx", "\x1f\x8bxxxxxxxxxxxx"},
		{"deflate", header("Content-Encoding", "Deflate"), deflated.String(), text},
		{"deflate that is none", header("Content-Encoding", "deflate"), text, text},
		{"an encoding we do not have", header("Content-Encoding", "br"), text, text},
		{"Latin-1", header("Content-Type", "text/plain; charset=ISO-8859-1"), latin1, "café"},
		{"Latin-1 by its other name", header("Content-Type", "text/plain; charset=latin1"), latin1, "café"},
		{"what Windows calls so", header("Content-Type", "text/plain; charset=windows-1252"), latin1, "café"},
		{"UTF-8 that says it is Latin-1", header("Content-Type", "text/plain; charset=ISO-8859-1"), "café", "café"},
		{"Latin-1 that does not say so", header("Content-Type", "text/plain"), latin1, latin1},
		{"a content type that is none", header("Content-Type", ";;"), text, text},
	} {
		require.Equal(t, tt.want, string(errorobject.Decode(tt.header, []byte(tt.body)).Text), tt.why)
	}
}

func TestBomb(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(bytes.Repeat([]byte(" "), 10<<20))
	require.NoError(t, w.Close())
	require.Less(t, zipped.Len(), 64<<10)
	require.Len(t, errorobject.Decode(nil, zipped.Bytes()).Text, 64<<10)
}

func TestLimits(t *testing.T) {
	deep := func(n int) string {
		return `{"code":"c","x":` + strings.Repeat("[", n-1) + `"\"[[[["` + strings.Repeat("]", n-1) + "}"
	}
	require.Equal(t, "c", parse(400, nil, deep(500)).Code)
	require.Equal(t, object{}, parse(400, nil, deep(501)), "nothing is read of what is too deep")
	require.Equal(t, "c", parse(400, nil, `{"code":"c","x":[`+strings.Repeat("{},[],", 600)+`1]}`).Code, "many are not deep")

	word := strings.Repeat("w", 256)
	require.Equal(t, word, parse(400, nil, `{"error":"`+word+`"}`).Code)
	require.Equal(t, word+"w", parse(400, nil, `{"error":"`+word+`w"}`).Message, "longer than words are")

	name := strings.Repeat("n", 1022)
	require.Equal(t, params{{"a." + name, "r"}}, parse(400, nil, `{"errors":{"a":{"`+name+`":"r"}}}`).Invalid)
	require.Empty(t, parse(400, nil, `{"errors":{"a":{"`+name+`n":"r"}}}`).Invalid, "longer than names are")

	var codes, fields []string
	for i := range 300 {
		codes = append(codes, fmt.Sprintf(`{"code":%d}`, i))
		fields = append(fields, fmt.Sprintf(`"%d":"r"`, i))
	}
	require.Len(t, parse(400, nil, `{"errors":[`+strings.Join(codes, ",")+`]}`).Tokens, 32)
	require.Len(t, parse(400, nil, `{"violations":[`+strings.ReplaceAll(strings.Join(codes, ","), "code", "quotaId")+`],"code":"c"}`).Quotas, 32)
	require.Len(t, parse(400, nil, `{"errors":{`+strings.Join(fields, ",")+`}}`).Invalid, 256)
}

func TestManyStringsBesideALongMessage(t *testing.T) {
	var details []string
	for i := range 20 {
		details = append(details, fmt.Sprintf(`"b%d"`, i))
	}
	body := func(n int) string {
		return `{"message":"` + strings.Repeat("a", n) + `","details":[` + strings.Join(details, ",") + `]}`
	}
	require.Len(t, parse(400, nil, body(1<<10)).Invalid, 20)
	require.Len(t, parse(400, nil, body(64<<10)).Invalid, 16, "1 MiB is gone through")
}

func TestLongHeaders(t *testing.T) {
	long := strings.Repeat("x", 1024)
	require.Equal(t, long, parse(400, header("X-Request-Id", long), "").RequestID)
	require.Equal(t, "r", parse(400, header("X-Request-Id", long+"x"), `{"request_id":"r"}`).RequestID, "longer than fields are read")
	require.Equal(t, "c", parse(400, header("X-Amzn-Errortype", long+"x"), `{"code":"c"}`).Code)
	require.Equal(t, "caf\ufffd", parse(400, header("Content-Type", "text/plain; charset=latin1; x="+long), "caf\xe9").Message)
}

// cost fails the test if f takes more than linear time over size bytes. A busy
// machine does not fail the test: the best of five runs counts, and only if it
// takes more than three seconds and a hundred times as long as decoding as much
// JSON.
func cost(tb testing.TB, size int, f func()) {
	tb.Helper()
	best := func(f func()) time.Duration {
		least := time.Duration(1 << 62)
		for range 5 {
			begin := time.Now()
			f()
			if least = min(least, time.Since(begin)); least < 3*time.Second {
				break
			}
		}
		return least
	}
	if took := best(f); took >= 3*time.Second {
		linear := best(func() { _ = json.Unmarshal([]byte(`"`+strings.Repeat("x", size)+`"`), new(any)) })
		require.LessOrEqual(tb, took, 100*linear, "more than linear time")
	}
}

// TestCostIsLinear parses bodies that are longer than any prefix, so that quadratic
// time shows. The first of them once took ten seconds.
func TestCostIsLinear(t *testing.T) {
	const size = 1 << 20
	half := func(s string) string { return strings.Repeat(s, size/2/len(s)) }
	few := func(s string) string { return strings.Repeat(s, size/8/len(s)) } // objects take longer
	nest := func(begin string, n int, middle, end string) string {
		return strings.Repeat(begin, n) + middle + strings.Repeat(end, n)
	}
	var names strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&names, `"N_%d":"r",`, i)
	}
	for _, body := range []string{
		`{"message":"` + half("a") + `","errors":[` + half(`"aab",`) + `1]}`,
		`{"message":"` + half("ab") + `","details":[` + half(`"abababababb",`) + `1]}`,
		nest(`{"error":`, 480, `{"details":[`+few(`{"code":"c"},`)+`1]}`, "}"),
		nest(`{"cause":`, 480, `{"details":[`+few(`{"code":"c"},`)+`1]}`, "}"),
		nest(`{"error":{"details":[`, 160, few(`{"code":"c"},`)+"1", `]}}`),
		nest(`{"error":{"details":[{"fieldViolations":[`, 100, few(`{},`)+"1", `]}]}}`),
		`{"error":{"details":[{"violations":[` + few(`{"quotaId":"a"},`) + `1]}]}}`,
		`{"message":{` + names.String() + `"z":1}}`,
		`{"error":{` + names.String() + `"z":1}}`,
		`{"errors":{"` + strings.Repeat("x", 900) + `":{` + names.String() + `"z":1}}}`,
		`{"message":[` + half(`"a",`) + `"a"]}`,
		`{"detail":[{"loc":[` + half(`"a",`) + `1],"msg":"r"}]}`,
		half("a b "),
		`"` + half("a b ") + `"`,
	} {
		cost(t, size, func() { parse(400, nil, body) })
	}
}

// FuzzCost repeats its argument until it is longer than any prefix.
func FuzzCost(f *testing.F) {
	f.Add("message", `{"code":"c"},`, `{"error":`, "}")
	f.Add("errors", `"aab",`, `{"details":[`, "]}")
	f.Add("details", `{"violations":[{"quotaId":"a"}]},`, `[`, "]")
	f.Fuzz(func(t *testing.T, name, element, begin, end string) {
		const size = 256 << 10
		begin, end, name = begin[:min(len(begin), 64)], end[:min(len(end), 64)], name[:min(len(name), 64)]
		many := strings.Repeat(element, size/8/max(len(element), 1))
		for _, body := range []string{
			strings.Repeat(begin, 400) + `{"` + name + `":[` + many + `1]}` + strings.Repeat(end, 400),
			`{"` + name + `":[` + many + `1],"message":"` + strings.Repeat(name, size/2/max(len(name), 1)) + `"}`,
			many,
		} {
			cost(t, size, func() { parse(400, header("Content-Type", name), body) })
		}
	})
}

// TestCostIsBounded parses the deepest and the largest bodies that fit in a prefix
// of 64 KiB. A megabyte costs no more, because it is cut off there.
func TestCostIsBounded(t *testing.T) {
	repeat := func(begin string, n int, middle, end string) string {
		return strings.Repeat(begin, n) + middle + strings.Repeat(end, n)
	}
	for _, body := range []string{
		strings.Repeat("[", 64<<10),
		repeat("[", 9000, "", "]"),
		repeat(`{"error":`, 499, "1", "}"),
		repeat(`{"error":`, 6000, "1", "}"),
		repeat(`{"errors":[`, 250, "1", "]}"),
		repeat(`{"errors":[`, 4000, "1", "]}"),
		`{"errors":{"` + strings.Repeat("x", 30<<10) + `":` + repeat(`{"a":`, 490, `"r"`, "}") + `}}`,
		`{"errors":` + repeat(`{"aaaaaaaaaaaaa":`, 490, `"r"`, "}") + `}`,
		`{"error":{"code":"c","innererror":` + repeat(`{"code":"x","innererror":`, 490, "1", "}") + "}}",
		`{"error":{"details":[` + strings.Repeat(`{"code":"c"},`, 4900) + `1]}}`,
		`{"error":{"details":[` + strings.Repeat(`{"target":"c"},`, 4200) + `1]}}`,
		`{"errors":[` + strings.Repeat(`[],`, 20000) + `1]}`,
		`{"errors":[` + strings.Repeat(`"",`, 20000) + `1]}`,
		`{` + strings.Repeat(`"":1,`, 13000) + `"a":1}`,
	} {
		o := parse(400, nil, body)
		require.LessOrEqual(t, len(o.Tokens), 32)
		require.LessOrEqual(t, len(o.Invalid), 256)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		parse(400, nil, body)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), "%.20s", body)
	}
}

// BenchmarkErrorObject measures the cost of the documented error object for a
// retry. Most of it is the decoding of JSON. One object costs more allocations than
// a loop of three attempts that reads no error.
func BenchmarkErrorObject(b *testing.B) {
	text := []byte(`{"code":"500","type":"SERVER_ERROR","message":"An unexpected error occurred."}`)
	header := http.Header{"Content-Type": {"application/json"}}
	b.Run("Decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			errorobject.Decode(header, text)
		}
	})
	b.Run("Parse", func(b *testing.B) {
		body := errorobject.Decode(header, text)
		b.ReportAllocs()
		for b.Loop() {
			errorobject.Parse(http.StatusInternalServerError, header, body)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"code":"400","type":"T","message":"m","invalid":[{"name":"limit","reason":"r"}]}`,
		`{"error":{"code":3,"status":"BAD","details":[{"@type":"x","fieldViolations":[{"field":"f","description":"d"}]}]}}`,
		`{"kind":"Status","apiVersion":"v1","reason":"Invalid","details":{"causes":[{"field":"f","message":"m"}]}}`,
		`{"errors":{"user":{"_errors":[{"message":"a"}],"name":["b"]}}}`,
		`[{"message":"m","errorCode":"c","fields":["f"]}]`,
		`{"errors":[{"detail":"d","source":{"pointer":"/a"},"extensions":{"code":"C"}}]}`,
		`{"__type":"a#b","Message":"m"}`, `"text"`, `slow down`, `<html>`, "\x1f\x8b\x08", "\ufeff{}", `[[[[`, `{"a":{"b":["c"]}}`,
	} {
		f.Add(400, "application/json", "", []byte(seed))
	}
	f.Add(503, "application/problem+json", "Code:http://x", []byte(`{"title":"t"}`))
	f.Add(500, "text/plain; charset=latin1", "", []byte("caf\xe9"))
	f.Fuzz(func(t *testing.T, status int, contentType, errorType string, body []byte) {
		h := header("Content-Type", contentType, "X-Amzn-Errortype", errorType)
		decoded := errorobject.Decode(h, body)
		o := errorobject.Parse(status, h, decoded)
		require.Equal(t, o, errorobject.Parse(status, h, decoded), "the same bytes, the same error")
		require.LessOrEqual(t, len(o.Tokens), 32)
		for _, s := range []string{o.Type, o.Code, o.Message} {
			if errorType == "" {
				require.True(t, utf8.ValidString(s))
			}
			require.Equal(t, strings.TrimSpace(s), s)
		}
		// The documented object must be read just as encoding/json reads it.
		var documented struct {
			Code, Type, Message string
			Invalid             []struct{ Name, Reason string }
		}
		dec := json.NewDecoder(bytes.NewReader(decoded.Text))
		dec.DisallowUnknownFields()
		if errorType == "" && contentType == "application/json" && dec.Decode(&documented) == nil && tidy(documented.Code, documented.Message, documented.Type) && documented.Type != "error" {
			require.Equal(t, documented.Code, o.Code)
			require.Equal(t, documented.Type, o.Type)
			require.Equal(t, documented.Message, o.Message)
		}
	})
}

func tidy(all ...string) bool {
	for _, s := range all {
		if s != strings.TrimSpace(s) {
			return false
		}
	}
	return true
}
