package profile_test

import (
	"encoding/json"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/profile"
)

// tokens splits a GraphQL document in another way than the profile: by one regular
// expression, in the words of the specification.
var tokens = regexp.MustCompile(`(?s)"""(?:\\"""|[^"]|"[^"]|""[^"])*?"""|"(?:\\.|[^"\\\n\r])*"|#[^\n\r]*|[_A-Za-z0-9]+|.`)

// operations returns the words of a document that are in no brackets.
func operations(document string) (words []string) {
	depth := 0
	for _, token := range tokens.FindAllString(document, -1) {
		switch token {
		case "{", "(", "[":
			depth++
		case "}", ")", "]":
			depth--
		default:
			if depth == 0 {
				words = append(words, token)
			}
		}
	}
	return words
}

// FuzzGraphQL looks for a document with a mutation that may be sent twice. Such a
// document must not become one by what it stands beside, and another lexer must not
// find a mutation in it.
func FuzzGraphQL(f *testing.F) {
	for _, document := range []string{
		`{ shop { name } }`,
		`query Q($id: ID! = "a") @d(x: {y: [1]}) { node(id: $id) { id } } fragment F on Shop { a }`,
		"# mutation\n{ a(b: \"mutation { c }\", c: \"\"\"mutation \\\"\"\" { \"\"\") { subscription } }",
		`{a(b:"\\\"")}`, `{a(b:"""""")}`, `{a(b:""""""")}`, "{a}#\r", `mutation{a}`, `{a}mutation{b}`, `query{a}"""`,
	} {
		f.Add(document)
	}
	const text = "application/graphql"
	repeatable := profile.ShopifyGraphQL().Repeatable
	f.Fuzz(func(t *testing.T, document string) {
		if !repeatable(graphQL(t, text, document)) {
			return
		}
		require.NotContains(t, operations(document), "mutation")
		require.NotContains(t, operations(document), "subscription")

		// What is whole stays so, whatever is put at its ends. Only a comment takes in
		// what follows it, up to the end of the line.
		for _, with := range []string{
			document + "\nmutation{a}", "mutation{a}" + document, "mutation M{a}" + document + "\nquery Q{a}",
			document + "\n" + document + "\nsubscription{a}",
		} {
			require.False(t, repeatable(graphQL(t, text, with)), with)
		}
		require.True(t, repeatable(graphQL(t, text, "query Q{a}"+document+"\n{b}")))

		body, err := json.Marshal(map[string]string{"query": document})
		require.NoError(t, err)
		require.Equal(t, len(body) <= 64<<10, repeatable(graphQL(t, "application/json", string(body))))
		body, err = json.Marshal([]map[string]string{{"query": document}, {"query": document + "\nmutation{a}"}})
		require.NoError(t, err)
		require.False(t, repeatable(graphQL(t, "application/json", string(body))))
	})
}
