package profile

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/resilienthttp/resilient"
)

// Slack returns the profile of the Slack Web API, whose errors come with status 200
// and {"ok":false,"error":"..."}. Its methods are called by POST. Those that only read
// may be sent twice, as their names say ("Methods" in docs.slack.dev/reference).
func Slack() resilient.Profile {
	p := resilient.Profile{
		Failed: func(body []byte) bool {
			var b struct {
				OK *bool `json:"ok"`
			}
			return json.Unmarshal(body, &b) == nil && b.OK != nil && !*b.OK
		},
		Repeatable: readsSlack,
	}
	p.Rules = append(p.Rules, resilient.Rule{Code: "ratelimited", Kind: resilient.KindRateLimit})
	for _, code := range []string{"internal_error", "fatal_error", "service_unavailable", "request_timeout"} {
		p.Rules = append(p.Rules, resilient.Rule{Code: code, Kind: resilient.KindServer})
	}
	for _, code := range []string{
		"not_authed", "invalid_auth", "account_inactive", "token_revoked", "token_expired",
		"no_permission", "missing_scope", "access_denied",
	} {
		p.Rules = append(p.Rules, resilient.Rule{Code: code, Kind: resilient.KindAuthentication})
	}
	return p
}

// readsSlack reports whether a request calls a method that only reads, such as
// /api/conversations.list.
func readsSlack(req *http.Request) bool {
	i := strings.LastIndex(req.URL.Path, "/api/")
	if req.Method != http.MethodPost || i < 0 {
		return false
	}
	method := req.URL.Path[i+len("/api/"):]
	switch method {
	case "api.test", "auth.test", "users.conversations", "users.identity",
		"search.all", "search.files", "search.messages":
		return true
	case "files.getUploadURLExternal": // makes a file
		return false
	}
	dot := strings.LastIndexByte(method, '.')
	if dot <= 0 || strings.Contains(method, "/") {
		return false
	}
	verb := method[dot+1:]
	reads := []string{
		"list", "info", "history", "replies", "members", "get", "lookup", "lookupByEmail",
		"accessLogs", "billableInfo", "integrationLogs", "teamInfo", "userInfo",
	}
	return slices.Contains(reads, verb) || startsWord(verb, "get") || startsWord(verb, "list")
}

// startsWord reports whether a name such as getTeams begins with a word.
func startsWord(name, word string) bool {
	rest, ok := strings.CutPrefix(name, word)
	return ok && rest != "" && 'A' <= rest[0] && rest[0] <= 'Z'
}
