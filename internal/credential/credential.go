// Package credential finds the part of a credential that stays the same from one
// request to the next, so that requests of one account can be told from those of
// another without keeping the credential.
//
// A credential is often made anew for each request: a signature covers the date
// and a nonce, a JSON Web Token is minted with another time and identifier. The part
// that names the account does not change:
//
//	credential                                      part that stays
//	a JSON Web Token of RFC 7519, wherever it is    the claims iss and sub, read without verifying
//	Bearer and Basic                                all up to a comma
//	parameters, of which some name the account      those parameters
//	other parameters with a signature among them    all in front of the signature
//	anything else                                   all up to a comma or colon
//
// Parameters are name=value, separated by comma, semicolon or ampersand, quoted
// or not, and also in percent-encoding. Those that name an account are
// Credential (in AWS Signature Version 4, up to the date), keyId, username,
// oauth_consumer_key and others. A token whose claims cannot be read is
// taken as a whole.
package credential

import (
	"encoding/base64"
	"hash/maphash"
	"slices"
	"strings"
)

// IsField reports whether a header field of this canonical name usually holds a
// credential. Authorization is the standard's (RFC 9110 section 11.6.2). The
// others are those of APIs with keys of their own, as their documentation names
// them. Cookie is none: a session changes more often than its account.
func IsField(name string) bool {
	switch name {
	case "Authorization",
		"X-Api-Key", "Api-Key", "Apikey", "X-Apikey", // many; Azure OpenAI
		"X-Goog-Api-Key",             // Google
		"X-Auth-Token",               // OpenStack
		"X-Auth-Key", "X-Auth-Email", // Cloudflare
		"Private-Token", "Job-Token", // GitLab
		"X-Shopify-Access-Token",         // Shopify
		"X-Access-Token", "Access-Token", // several
		"Ocp-Apim-Subscription-Key",       // Azure API Management
		"X-Functions-Key",                 // Azure Functions
		"X-Vault-Token",                   // HashiCorp Vault
		"X-Consul-Token", "X-Nomad-Token", // HashiCorp Consul, Nomad
		"X-Subscription-Token",             // Brave
		"X-Rapidapi-Key",                   // RapidAPI
		"X-Mbx-Apikey",                     // Binance
		"Dd-Api-Key", "Dd-Application-Key", // Datadog
		"Xi-Api-Key",              // ElevenLabs
		"X-Figma-Token",           // Figma
		"X-Redmine-Api-Key",       // Redmine
		"X-Algolia-Api-Key",       // Algolia
		"X-Postmark-Server-Token", // Postmark
		"X-Trackertoken",          // Pivotal Tracker
		"Circle-Token",            // CircleCI
		"X-Honeycomb-Team":        // Honeycomb
		return true
	}
	return false
}

// Write writes to h the part of a credential that stays the same, of a header
// field for which [IsField] holds. Only Authorization has parameters: another
// field holds a token, which is taken as a whole if it is no JSON Web Token.
func Write(h *maphash.Hash, field, value string) {
	write(h, field)
	scheme, rest, found := strings.Cut(strings.TrimSpace(value), " ")
	if !found {
		scheme, rest = "", scheme
	}
	rest = strings.TrimSpace(rest)
	write(h, scheme)
	switch {
	case writeClaims(h, rest):
	case field != "Authorization":
		write(h, rest)
	case strings.EqualFold(scheme, "Bearer") || strings.EqualFold(scheme, "Basic"):
		rest, _, _ = strings.Cut(rest, ",")
		write(h, rest)
	default:
		writeParameters(h, rest)
	}
}

// writeParameters writes the parameters that name the account, or if there are
// none, all in front of the signature, comma or colon that comes first.
func writeParameters(h *maphash.Hash, s string) {
	end, named := len(s), false
	for at := 0; at < len(s); {
		name, value, next := parameter(s, at)
		switch {
		case isOneOf(name, names[:]):
			named = true
			if strings.EqualFold(name, "credential") {
				value, _, _ = strings.Cut(value, "/") // a date, a region and a service follow
			}
			write(h, name)
			write(h, value)
		case isOneOf(name, signs[:]):
			end = min(end, at)
		}
		at = next
	}
	if named {
		return
	}
	if i := strings.IndexAny(s[:end], ",:"); i >= 0 {
		end = i
	}
	write(h, s[:end])
}

// write writes s, and where it ends.
func write(h *maphash.Hash, s string) {
	_, _ = h.WriteString(s) // never fails
	_ = h.WriteByte(0)
}

// names are the parameters that name the account, and signs those that are a
// signature.
var (
	names = [...]string{
		"credential",                                                              // AWS, Google, Tencent, Alibaba
		"access", "accesskey", "accesskeyid", "access_key", "access_key_id", "ak", // other clouds
		"keyid", "key_id", "id", // HTTP Signatures; Hawk
		"username", "user", // Digest, RFC 7616 section 3.4; Kong
		"oauth_consumer_key", "oauth_token", // RFC 5849 section 3.1
		"client_token", "access_token", // Akamai EdgeGrid
		"client", "clientid", "client_id", "appid", "app_id",
		"key", "apikey", "api_key", "token", "auth",
		"skn", // the name of a policy in Azure's SharedAccessSignature
	}
	signs = [...]string{"sig", "sign", "signature", "oauth_signature", "mac"}
)

// isOneOf reports whether name is one of the words, in upper or lower case.
func isOneOf(name string, words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.EqualFold(name, word) })
}

// parameter returns the parameter of s that begins at the given place, and where
// the next one does. A value without a name has the name "".
func parameter(s string, at int) (name, value string, next int) {
	begin, quoted, assigned := at, false, false
	for i := at; i < len(s); i++ {
		width, c := 1, s[i]
		if c == '%' && i+2 < len(s) { // percent-encoded, as in Cosmos DB's type%3dmaster%26ver%3d1.0
			switch s[i+1 : i+3] {
			case "3d", "3D":
				width, c = 3, '='
			case "26":
				width, c = 3, '&'
			}
		}
		switch {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '=' && !assigned:
			name, begin, assigned = strings.TrimSpace(s[at:i]), i+width, true
		case c == ',' || c == ';' || c == '&':
			return name, unquote(s[begin:i]), i + width
		}
		i += width - 1
	}
	return name, unquote(s[begin:]), len(s)
}

func unquote(s string) string { return strings.Trim(strings.TrimSpace(s), `"`) }

// writeClaims writes the issuer and the subject of a JSON Web Token, and reports
// whether s is one that names either.
func writeClaims(h *maphash.Hash, s string) bool {
	_, rest, _ := strings.Cut(s, ".")
	payload, signature, found := strings.Cut(rest, ".")
	if !found || strings.ContainsRune(signature, '.') { // five parts are encrypted
		return false
	}
	payload = strings.TrimRight(payload, "=")
	if payload == "" {
		return false
	}
	var c claims
	c.issuer.SetSeed(h.Seed())
	c.subject.SetSeed(h.Seed())
	var encoded [256]byte // a multiple of four characters, which are three bytes
	var decoded [192]byte
	for payload != "" {
		n := copy(encoded[:], payload)
		payload = payload[n:]
		m, err := base64.RawURLEncoding.Decode(decoded[:], encoded[:n])
		if err != nil {
			return false
		}
		c.read(decoded[:m])
	}
	if !c.object || c.depth != 0 || !c.found {
		return false
	}
	writeSum(h, c.issuer.Sum64())
	writeSum(h, c.subject.Sum64())
	return true
}

func writeSum(h *maphash.Hash, sum uint64) {
	for ; sum > 0; sum >>= 8 {
		_ = h.WriteByte(byte(sum))
	}
	_ = h.WriteByte(0)
}

// claims reads a JSON object a byte at a time and hashes two of its members. It
// does not validate: a text that is no JSON has no account that could be told
// wrong. A string is hashed as it is written, since one issuer escapes alike each
// time.
type claims struct {
	issuer, subject maphash.Hash
	object, found   bool
	depth           int
	quoted, escaped bool
	value           bool // behind the colon of a member of the object itself
	name            [4]byte
	length          int // of the name; more than fit: it is none of ours
}

func (c *claims) read(text []byte) {
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case !c.quoted:
			c.readToken(b)
		case c.escaped:
			c.escaped = false
			c.keep(b)
		case b == '"':
			c.quoted = false
		case b == '\\' || c.depth == 1 && (!c.value || c.length == 3):
			c.escaped = b == '\\'
			c.keep(b)
		default: // skip a string that is not kept, up to its end or an escape
			for i+1 < len(text) && text[i+1] != '"' && text[i+1] != '\\' {
				i++
			}
		}
	}
}

// readToken reads a byte outside of strings.
func (c *claims) readToken(b byte) {
	switch b {
	case '{', '[':
		c.object = c.object || c.depth == 0 && b == '{'
		c.depth++
	case '}', ']':
		c.depth--
	case ',':
		if c.depth == 1 {
			c.value, c.length = false, 0
		}
	case ':':
		c.value = c.value || c.depth == 1
	case '"':
		c.quoted = true
	default:
		if c.value && b > ' ' { // a number, such as that of an application
			c.keep(b)
		}
	}
}

// keep takes a byte of a string.
func (c *claims) keep(b byte) {
	if c.depth != 1 {
		return
	}
	if !c.value {
		if c.length < len(c.name) {
			c.name[c.length] = b
		}
		c.length++
		return
	}
	if c.length != 3 {
		return
	}
	switch string(c.name[:3]) {
	case "iss":
		_ = c.issuer.WriteByte(b)
		c.found = true
	case "sub":
		_ = c.subject.WriteByte(b)
		c.found = true
	}
}
