package credential_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/credential"
)

var seed = maphash.MakeSeed()

func sum(field, value string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	credential.Write(&h, field, value)
	return h.Sum64()
}

// jwt makes a token with this payload.
func jwt(payload string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(payload)) + "." + enc(fmt.Append(nil, "signature of ", payload))
}

func TestWrite(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tt := range []struct {
		name, a, b string
		same       bool
		why        string
	}{
		{"a token", "Bearer a", "Bearer a", true, "one account"},
		{"another token", "Bearer a", "Bearer b", false, "nothing is known of an opaque token"},
		{"a token with a colon", "Bearer 1:a", "Bearer 1:b", false, "RFC 6750 section 2.1 has none, but it is used"},
		{"a padded token", "Bearer YQ==", "Bearer Yg==", false, "no parameter"},
		{"Basic", "Basic YTpi", "Basic YTpj", false, "user and password"},
		{"another scheme", "Bearer a", "Token a", false, "perhaps another account"},
		{"white space", "Bearer  a ", "Bearer a", true, "RFC 9110 section 5.5"},
		{"no scheme", "a", "b", false, "a key alone"},

		{"minted anew", "Bearer " + jwt(`{"iss":"i","sub":"s","iat":1,"jti":"a"}`), "Bearer " + jwt(`{"iss":"i","sub":"s","iat":2,"jti":"b"}`), true, "RFC 7519 section 4.1"},
		{"in another order", "Bearer " + jwt(`{"sub":"s","iss":"i"}`), "Bearer " + jwt(`{ "iss" : "i", "sub" : "s" }`), true, "JSON objects have none"},
		{"another subject", "Bearer " + jwt(`{"iss":"i","sub":"s"}`), "Bearer " + jwt(`{"iss":"i","sub":"t"}`), false, "another account"},
		{"another issuer", "Bearer " + jwt(`{"iss":"i","sub":"s"}`), "Bearer " + jwt(`{"iss":"j","sub":"s"}`), false, "another account"},
		{"swapped", "Bearer " + jwt(`{"iss":"a","sub":"b"}`), "Bearer " + jwt(`{"iss":"b","sub":"a"}`), false, "another account"},
		{"an issuer alone", "Bearer " + jwt(`{"iss":"1","iat":1}`), "Bearer " + jwt(`{"iss":"1","iat":2}`), true, "as GitHub Apps are"},
		{"a number", "Bearer " + jwt(`{"iat":1,"iss":123456}`), "Bearer " + jwt(`{"iat":2,"iss":123456}`), true, "as GitHub Apps are"},
		{"another number", "Bearer " + jwt(`{"iss":123456}`), "Bearer " + jwt(`{"iss":123457}`), false, "another application"},
		{"neither claim", "Bearer " + jwt(`{"azp":"a","iat":1}`), "Bearer " + jwt(`{"azp":"a","iat":2}`), false, "nothing names the account"},
		{"claims inside", "Bearer " + jwt(`{"act":{"sub":"a"},"iat":1}`), "Bearer " + jwt(`{"act":{"sub":"a"},"iat":2}`), false, "those of somebody else"},
		{"a claim inside beside one", "Bearer " + jwt(`{"sub":"s","act":{"sub":"a"}}`), "Bearer " + jwt(`{"sub":"s","act":{"sub":"b"}}`), true, "RFC 8693 section 4.1: the actor is not the subject"},
		{"in a list", "Bearer " + jwt(`{"sub":"s","aud":["iss","a"]}`), "Bearer " + jwt(`{"sub":"s","aud":["iss","b"]}`), true, "no name"},
		{"text that looks like a claim", "Bearer " + jwt(`{"sub":"s","x":"\"iss\":\"a"}`), "Bearer " + jwt(`{"sub":"s","x":"\"iss\":\"b"}`), true, "escaped quotes end nothing"},
		{"braces in a string", "Bearer " + jwt(`{"x":"}{","sub":"s","iat":1}`), "Bearer " + jwt(`{"x":"}{","sub":"s","iat":2}`), true, "no structure"},
		{"a long one", "Bearer " + jwt(`{"x":"`+long+`","sub":"s"}`), "Bearer " + jwt(`{"x":"`+long+`y","sub":"s"}`), true, "longer than the buffer"},
		{"padded", "Bearer " + jwt(`{"sub":"s","iat":1}`), "Bearer " + strings.Replace(jwt(`{"sub":"s","iat":2}`), ".", "==.", 1), true, "some libraries pad"},
		{"another word for Bearer", "JWT " + jwt(`{"sub":"s","iat":1}`), "JWT " + jwt(`{"sub":"s","iat":2}`), true, "it is a JWT all the same"},
		{"bound to a key", "DPoP " + jwt(`{"sub":"s","iat":1}`), "DPoP " + jwt(`{"sub":"s","iat":2}`), true, "RFC 9449"},
		{"encrypted", "Bearer a.b.c.d.e", "Bearer a.b.c.d.f", false, "RFC 7516: cannot be read"},
		{"no JSON", "Bearer a.b.c", "Bearer a.b.d", false, "an opaque token with dots"},
		{"a list", "Bearer " + jwt(`["sub"]`) + "1", "Bearer " + jwt(`["sub"]`) + "2", false, "RFC 7519 section 4: claims are an object"},
		{"cut short", "Bearer " + jwt(`{"sub":"s"`) + "1", "Bearer " + jwt(`{"sub":"s"`) + "2", false, "no object"},

		{"Cosmos DB", "type%3dmaster%26ver%3d1.0%26sig%3dAbC", "type%3Dmaster%26ver%3D1.0%26sig%3DXyZ", false, "spelt otherwise"},
		{"Cosmos DB, signed anew", "type%3dmaster%26ver%3d1.0%26sig%3dAbC", "type%3dmaster%26ver%3d1.0%26sig%3dXyZ", true, "the host names the account"},
		{"Azure App Configuration", "HMAC-SHA256 Credential=a&SignedHeaders=x&Signature=1", "HMAC-SHA256 Credential=a&SignedHeaders=x&Signature=2", true, "Credential names it"},
		{"another of it", "HMAC-SHA256 Credential=a&SignedHeaders=x&Signature=1", "HMAC-SHA256 Credential=b&SignedHeaders=x&Signature=1", false, "Credential names it"},
		{"SigV4", "AWS4-HMAC-SHA256 Credential=AKIA1/20260101/eu/s3/aws4_request, SignedHeaders=host, Signature=1", "AWS4-HMAC-SHA256 Credential=AKIA1/20260102/eu/s3/aws4_request, SignedHeaders=host, Signature=2", true, "a new day is not a new account"},
		{"SigV4 of another", "AWS4-HMAC-SHA256 Credential=AKIA1/20260101/eu/s3/aws4_request, Signature=1", "AWS4-HMAC-SHA256 Credential=AKIA2/20260101/eu/s3/aws4_request, Signature=1", false, "another access key"},
		{"SigV2", "AWS AKIA1:sig1", "AWS AKIA1:sig2", true, "in front of the colon"},
		{"SharedKey", "SharedKey acct:sig1", "SharedKey acct:sig2", true, "in front of the colon"},
		{"SharedKey of another", "SharedKey acct:sig", "SharedKey other:sig", false, "in front of the colon"},
		{"SAS", "SharedAccessSignature sig=1&se=1&skn=p&sr=u", "SharedAccessSignature sig=2&se=2&skn=p&sr=u", true, "in any order"},
		{"Digest", `Digest username="a", realm="r", nonce="1", uri="/x", response="1"`, `Digest username="a", realm="r", nonce="2", uri="/y", response="2"`, true, "RFC 7616 section 3.4"},
		{"Digest in another order", `Digest nonce="1", username="a, b"`, `Digest nonce="2", username="a, b"`, true, "quoted commas are none"},
		{"Digest of another", `Digest nonce="1", username="a, b"`, `Digest nonce="1", username="a, c"`, false, "to the end of the quotes"},
		{"OAuth 1", `OAuth oauth_nonce="1",oauth_consumer_key="k",oauth_token="t",oauth_signature="1"`, `OAuth oauth_nonce="2",oauth_consumer_key="k",oauth_token="t",oauth_signature="2"`, true, "RFC 5849 section 3.5.1"},
		{"OAuth 1 of another", `OAuth oauth_nonce="1",oauth_consumer_key="k",oauth_token="t"`, `OAuth oauth_nonce="1",oauth_consumer_key="k",oauth_token="u"`, false, "another user"},
		{"Hawk", `Hawk ts="1", id="a", nonce="1", mac="1"`, `Hawk ts="2", id="a", nonce="2", mac="2"`, true, "id names it"},
		{"HTTP Signatures", `Signature keyId="k",algorithm="x",signature="1"`, `Signature keyId="k",algorithm="x",signature="2"`, true, "keyId names it"},
		{"EdgeGrid", "EG1-HMAC-SHA256 client_token=c;access_token=a;timestamp=1;nonce=1;signature=1", "EG1-HMAC-SHA256 client_token=c;access_token=a;timestamp=2;nonce=2;signature=2", true, "semicolons separate"},
		{"FCM", "key=AAAA:b", "key=AAAA:c", false, "a key alone, with a name"},
		{"unknown parameters", "Own a=1&sig=1", "Own a=1&sig=2", true, "what stands in front of the signature"},
		{"unknown parameters of another", "Own a=1&sig=1", "Own a=2&sig=1", false, "what stands in front of the signature"},
		{"a colon first", "Own :sig1", "Own :sig2", true, "nothing stands in front of it"},
		{"an escape cut short", "Own a=1%2", "Own a=1%2", true, "it is read as it is"},
		{"a signature first", "Own sig=1&a=1", "Own sig=2&a=1", true, "then the scheme is all there is"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.same, sum("Authorization", tt.a) == sum("Authorization", tt.b), tt.why)
		})
	}
	require.NotEqual(t, sum("X-Api-Key", "a:b"), sum("X-Api-Key", "a:c"), "another field has no parameters")
	require.NotEqual(t, sum("X-Api-Key", "a"), sum("Api-Key", "a"), "one value in two fields")
	require.Equal(t, sum("X-Auth-Token", jwt(`{"sub":"s","iat":1}`)), sum("X-Auth-Token", jwt(`{"sub":"s","iat":2}`)))
}

func TestIsField(t *testing.T) {
	for _, name := range []string{"Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "Private-Token", "X-Auth-Token", "X-Shopify-Access-Token"} {
		require.True(t, credential.IsField(name), name)
	}
	for _, name := range []string{"Cookie", "X-Request-Id", "Accept", "", "Proxy-Authorization", "Idempotency-Key"} {
		require.False(t, credential.IsField(name), name)
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	for _, value := range []string{
		"Bearer " + jwt(`{"iss":"https://id.test/","sub":"1234","aud":"a","iat":1,"exp":2,"jti":"0123456789abcdef","scope":"read write"}`),
		`Digest username="a", realm="r", nonce="1"`, "Bearer opaque",
	} {
		require.Zero(t, testing.AllocsPerRun(100, func() { sum("Authorization", value) }))
	}
}

func BenchmarkJWT(b *testing.B) {
	value := "Bearer " + jwt(`{"iss":"https://id.test/","sub":"1234","aud":"a","iat":1,"exp":2,"jti":"0123456789abcdef","scope":"`+strings.Repeat("scope ", 60)+`"}`)
	b.ReportAllocs()
	b.SetBytes(int64(len(value)))
	for b.Loop() {
		sum("Authorization", value)
	}
}

// FuzzClaims compares with encoding/json: two tokens of one account are one, and
// what changes beside iss and sub changes nothing.
func FuzzClaims(f *testing.F) {
	f.Add("i", "s", "x", "y")
	f.Add(`"\`, "\x00\u2028", `"sub":"t"`, `{"iss":1}`)
	f.Fuzz(func(t *testing.T, iss, sub, a, b string) {
		if iss+sub == "" {
			t.Skip("nobody is named")
		}
		token := func(iss, sub, other string) string {
			payload, err := json.Marshal(map[string]any{"a": other, "iss": iss, "jti": []string{other}, "sub": sub, "x": map[string]string{"sub": other}})
			require.NoError(t, err)
			return "Bearer " + jwt(string(payload))
		}
		require.Equal(t, sum("Authorization", token(iss, sub, a)), sum("Authorization", token(iss, sub, b)))
		require.NotEqual(t, sum("Authorization", token(iss, sub, a)), sum("Authorization", token(iss+"x", sub, a)))
		require.NotEqual(t, sum("Authorization", token(iss, sub, a)), sum("Authorization", token(iss, sub+"x", a)))
	})
}

// FuzzWrite: whatever is in the field, it is read once and without a panic.
func FuzzWrite(f *testing.F) {
	for _, s := range []string{"", " ", "Bearer", "a=,;&b", `x "=`, "%3d%26%", "Bearer ..", "Bearer a.eyJ9.b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		require.Equal(t, sum("Authorization", value), sum("Authorization", " "+value+" "), "white space around it is none of it")
		sum("X-Api-Key", value)
	})
}
