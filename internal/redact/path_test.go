package redact_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/redact"
)

// ordinaryPaths returns paths of real APIs that contain no secret.
func ordinaryPaths() []string {
	return []string{
		"", "/", "//", "*", "/v1", "/v1/people", "/v1/people/", "/v1/people/42", "/people//42",
		"/v1/models/gemini-2.0-flash:generateContent",
		"/v1beta/models/gemini-2.5-flash-preview-05-20:streamGenerateContent",
		"/v1/chat/completions",
		"/v1/fine_tuning/jobs/ftjob-abc123/events",
		"/models/meta-llama/Meta-Llama-3.1-405B-Instruct-Q4_K_M",
		"/models/deepseek-ai/DeepSeek-R1-Distill-Qwen-32B-AWQ-INT4/resolve/main/config.json",
		"/models/mistralai/Mixtral-8x7B-Instruct-v0.1-GPTQ",
		"/v1/models/claude-3-5-sonnet-20241022",
		"/repos/o/r/actions/runs/12345",
		"/repos/golang/go/contents/src/net/http/transport_internal_test.go",
		"/repos/kubernetes/kubernetes/commits/3f5a9c01b2d/check-runs",
		"/repos/o/r/hooks/12345678/deliveries",
		"/orgs/my-organisation/copilot/billing/selected_teams",
		"/api/v4/projects/group%2Fsubgroup%2Fproject/merge_requests/17/notes",
		"/2015-03-31/functions/my-fn/invocations",
		"/2015-03-31/functions/arn:aws:lambda:us-east-1:123456789012:function:my-fn/invocations",
		"/2013-04-01/hostedzone",
		"/api/v1/namespaces/kube-system/pods/coredns-7d4b9c6f5d-x2x9k/log",
		"/api/v1/namespaces/default/secrets/my-secret",
		"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
		"/apis/flowcontrol.apiserver.k8s.io/v1beta3/prioritylevelconfigurations",
		"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
		"/users/550e8400-e29b-41d4-a716-446655440000",
		"/users/550E8400-E29B-41D4-A716-446655440000/orders",
		"/objects/urn:uuid:550e8400-e29b-41d4-a716-446655440000.json",
		"/f81d4fae-7dec-11d0-a765-00a0c91e6bf6/oauth2/v2.0/token",
		"/subscriptions/f81d4fae-7dec-11d0-a765-00a0c91e6bf6/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm-1",
		"/reports/2024-01-15", "/reports/20240115/hourly", "/at/2024-01-15T10:30:00Z", "/at/2024-01-15T10:30:00.123456+02:00",
		"/range/2024-01-15T10:30:00Z,2024-01-16T10:30:00Z", "/at/2024-W03-1",
		"/guilds/197038439483310086/members/80351110224678912",
		"/1.1/statuses/show/1453489038376136707.json",
		"/3.0/lists/a1b2c3d4e5/members",
		"/services/data/v59.0/sobjects/Account/0015e00000AbCdE",
		"/rest/api/2/issue/PROJ-12345/comment",
		"/wiki/rest/api/content/98765/child/attachment",
		"/google.cloud.speech.v1p1beta1.Speech/LongRunningRecognize",
		"/twirp/example.haberdasher.Haberdasher/MakeHat",
		"/rpc/getUserNotificationPreferences", "/rpc/getUserNotificationPreferencesV2",
		"/rpc/listAllTheThingsThatYouMayEverWantToSee", "/rpc/getHTTPSCertificateForAPI",
		"/rpc/GetIdOfCustomers", "/rpc/isUserAllowedToSeeThis",
		"/internationalization/telecommunications",
		"/rechtsschutzversicherungsgesellschaften",
		"/blog/a-very-long-kebab-case-title-of-a-post-that-nobody-will-ever-read-to-the-end",
		"/blog/top-10-tips-for-b2b-saas-in-2024-q3-and-h1b-visa-holders",
		"/help/mp3-to-mp4-h264-h265-x264-1080p-720p-av1-vp9",
		"/shop/iphone-15-pro-max-256gb-natural-titanium", "/shop/iPhone15Pro-vs-iPhone14Pro",
		"/INTERNATIONALIZATION_SETTINGS/MAX_CONNECTIONS",
		"/packages/x86_64-unknown-linux-musl/rust-1.79.0.tar.xz",
		"/@babel/plugin-transform-modules-commonjs/-/plugin-transform-modules-commonjs-7.24.1.tgz",
		"/golang.org/x/oauth2/@v/v0.0.0-20240115103000-3f5a9c01b2d4.mod",
		"/v2/library/alpine/manifests/3.19",
		"/v1/projects/my-project/databases/(default)/documents/users/alice",
		"/odata/Users('alice@example.com')/Orders(OrderId=42)",
		"/geo/48.8566,2.3522/address", "/ip/2001:0db8:85a3:0000:0000:8a2e:0370:7334", "/mac/00:1b:44:11:3a:b7",
		"/oauth/token", "/oauth2/v4/token", "/oauth/token/refresh", "/auth/password/reset", "/v1/auth/token/lookup-self",
		"/v1/tokens", "/v1/keys/search", "/v1/monkey/business", "/keyboard/layouts", "/tokenizer/words",
		"/hooks/github", "/webhook/stripe", "/webhooks", "/v1/webhooks/endpoint", "/ping", "/health/live",
		"/robots/bot7/logs", "/bot/status", "/suche/%C3%BCberraschung", "/suche/überraschungseffekt", "/search/漢字漢字漢字漢字漢字漢字",
		"/files/100%/report%zz.pdf", "/.well-known/openid-configuration", "/%2f%2F/a%20b", "/a%2", "/a%2F",
		"/" + redact.Hidden + "/x",
	}
}

func TestPathKeepsWhatIsOrdinary(t *testing.T) {
	require.GreaterOrEqual(t, len(ordinaryPaths()), 60)
	for _, path := range ordinaryPaths() {
		require.Equal(t, path, redact.Path(path))
	}
	require.Zero(t, testing.AllocsPerRun(10, func() {
		for _, path := range []string{"/v1/models/gemini-2.0-flash:generateContent", "/users/550e8400-e29b-41d4-a716-446655440000", "/oauth/token/refresh"} {
			if redact.Path(path) != path {
				t.Fail()
			}
		}
	}), "the common case")
}

func TestPathHidesSecrets(t *testing.T) {
	const uuid = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
	for _, tt := range []struct{ path, want, why string }{
		{"/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getUpdates", "/***/getUpdates", "Telegram"},
		{"/file/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/documents/file_1.pdf", "/file/***/documents/file_1.pdf", "Telegram, a file"},
		{"/bot1:x/getMe", "/***/getMe", "Telegram, however short"},
		{"/bot110201543%3AAAHdqTcvCH1vGWJ/getUpdates", "/***/getUpdates", "Telegram, escaped"},
		{"/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX", "/services/T00000000/B00000000/***", "Slack"},
		{"/services/T00/B00/XXXX", "/services/T00/B00/***", "Slack, by its form"},
		{"/services/T00/B00/XXXX/", "/services/T00/B00/***/", "Slack, by its form"},
		{"/triggers/T0123ABCD/1234567890123/0123456789abcdef0123456789abcdef", "/triggers/T0123ABCD/1234567890123/***", "Slack, a workflow"},
		{"/api/webhooks/1234567890/abc", "/api/webhooks/1234567890/***", "Discord, by its form"},
		{
			"/api/webhooks/223704706495545344/3d89bb7572e0fb30d8128367b3b1b44fecd1726de135cbe28a41f8b2f777c372ba2939e72279b94526ff5d1bd4358d65cf11/messages/7",
			"/api/webhooks/223704706495545344/***/messages/7", "Discord",
		},
		{
			"/webhookb2/" + uuid + "@" + uuid + "/IncomingWebhook/0123456789abcdef0123456789abcdef/" + uuid,
			"/webhookb2/" + uuid + "@" + uuid + "/IncomingWebhook/***/" + uuid, "Microsoft Teams",
		},
		{"/workflows/0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke", "/workflows/***/triggers/manual/paths/invoke", "Power Automate"},
		{"/hooks/catch/123456/abc123x/", "/hooks/catch/123456/***/", "Zapier"},
		{"/trigger/door_opened/with/key/c1x", "/trigger/door_opened/with/key/***", "IFTTT"},
		{"/trigger/door_opened/json/with/key/dKx3nJ_9aQ0c-Lw7T2mVbY", "/trigger/door_opened/json/with/key/***", "IFTTT"},
		{"/2010-04-01/Accounts/AC0123456789abcdef0123456789abcdef/Messages.json", "/2010-04-01/Accounts/***/Messages.json", "Twilio"},
		{"/3.0/lists/a1b2c3d4e5/members/b642b4217b34b1e8d3bd915fc65c4452", "/3.0/lists/a1b2c3d4e5/members/***", "Mailchimp: the hash of an address"},
		{"/" + uuid, "/***", "healthchecks.io"},
		{"/" + uuid + "/fail", "/***/fail", "healthchecks.io"},
		{"/ping/" + uuid + "/start", "/ping/***/start", "healthchecks on a server of one's own"},
		{"/webhook/" + uuid, "/webhook/***", "n8n"},
		{"/hooks/h8dkq3xwe3yn9pkqbnxrbsrfxa", "/hooks/***", "Mattermost"},
		{"/integration/0123456789abcdef0123456789abcdef/enqueue", "/integration/***/enqueue", "PagerDuty"},
		{"/unsafe/v1/Zm9vYmFyYmF6cXV4Zm9vYmFyYmE=/300x200/cat.jpg", "/unsafe/v1/***/300x200/cat.jpg", "a signature"},
		{"/1/tokens/0123456789abcdef0123456789abcdef/webhooks", "/1/tokens/***/webhooks", "Trello"},
		{"/git/commits/da39a3ee5e6b4b0d3255bfef95601890afd80709", "/git/commits/***", "a hash may as well be a key"},

		{"/v1/sk-proj-Ab3dEf6hIj9kLm2nOp5q/x", "/v1/***/x", "a key with a prefix"},
		{"/u/ghp_16C7e42F292c6912E7710c838347Ae178B4a", "/u/***", "GitHub"},
		{"/u/xoxb-1234567890-1234567890-AbCdEfGhIjKlMnOpQrStUvWx", "/u/***", "Slack, its letters alone"},
		{"/v/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U/x", "/v/***/x", "a JWT"},
		{"/reset/dGhpcyBpcyBhIHNlY3JldA%3D%3D", "/reset/***", "base64, escaped"},
		{"/reset/%64%47%68%70%63%79%42%70%63%79%42%68%49%48%4e%6c", "/reset/***", "every character escaped"},
		{"/a/Ab3-xQ9z_Kw2LmN-7pRs_tU4v", "/a/***", "base64url in pieces"},
		{"/a/N9XK4-7GH2B-Q3TR8-M5VD1", "/a/***", "the key of a licence"},
		{"/a/JBSWYTDPEHPKTPXPJBSWYTDP", "/a/***", "base32 without digits"},
		{"/report;jsessionid=0A1B2C3D4E5F60718293A4B5C6D7E8F9", "/***", "a session"},
		{"/files/0123456789abcdef.json", "/files/***", "with an extension"},

		{"/key/x", "/key/***", "announced"},
		{"/api-key/x/y", "/api-key/***/y", "announced"},
		{"/Access_Token/x", "/Access_Token/***", "announced"},
		{"/accessToken//x/", "/accessToken//***/", "announced, behind an empty segment"},
		{"/user/password/hunter", "/user/password/***", "announced, a word"},
		{"/password/reset/x/y", "/password/reset/***/y", "announced, behind what is done with it"},
		{"/key/token/x", "/key/***/***", "whether the first is a name cannot be known"},
		{"key/x", "key/***", "without a slash in front"},
		{"/key%2Fx", "/key%2F***", "an escaped slash"},
		{"/login;token=x", "/***", "a name and a value"},
		{"/Users(apikey='x')/y", "/***/y", "a name and a value"},
		{"/key=x/", "/***/", "a name and a value"},
	} {
		require.Equal(t, tt.want, redact.Path(tt.path), tt.why)
		u, err := url.Parse("https://api.test/" + strings.TrimPrefix(tt.path, "/"))
		require.NoError(t, err)
		require.Equal(t, redact.Path(u.Path), decoded(t, redact.Path(u.EscapedPath())), "%s: decoded or escaped", tt.why)
	}
}

func TestPathThresholds(t *testing.T) {
	for _, tt := range []struct{ secret, ordinary, why string }{
		{"0123456789abcdef", "0123456789abcde", "16 characters"},
		{"getUserPreferencesV123", "getUserPreferencesV12", "a version has two digits"},
		{"abcdefgh123456v1", "aeiouaeiouaeiouav1", "and no others before it"},
		{"eeeeeBCeeeeeDEeeeeeFGeee", "eeeeeBCeeeeeDEeeeeeFGeeee", "an irregular run for each 8 letters"},
		{"eeeeeBCeeeeDEeFeeeeGHeee", "eeeeeBCeeeeDEeee", "three such runs"},
		{"bcdfebcdfebcdfebcdfx", "bcdfebcdfebcdfebcdfe", "a fifth are vowels"},
		{"a1b2-c3d4-e5f6-g7h8", "a1b2-c3d4-e5f6-g7h", "16 characters in atoms of four or more"},
		{"x1x2-x3x4-x5x6-x7x8", "x264-x265-x266-x267", "with two irregular runs each"},
		{"ab1cd2ef-ab1cd2ef", "ab1cd2efg-ab1cd2efg", "and one for each 4 characters"},
		{"-Ab1-Cd2-Ef3-Gh4", "Ab1-Cd2-Ef3-Gh4", "16 characters in a chunk, the joins included"},
		{"aBcc-aBcc-aBcc-aB11", "aBccc-aBcc-aBcc-aB11", "an irregular run for each 4 characters"},
		{"Ab1-Cd2-Ef3-Gh4-Ij", "aB-cD-eF-gH-iJ-kL", "digits in it"},
		{"aBcD-eFgH-iJkL-mNoP1", "aBcD-eFgH-iJkL-mNoP", "digits in it"},
		{"a1-b2-c3-d4-e5-F6-G7", "a1-b2-c3-d4-e5-f6-g7", "capitals in it"},
		{"1A-2B-3C-4D-5E-6f", "1A-2B-3C-4D-5E-6F", "lower case in it"},
		{"bot1:x", "bot1:", "a token behind the colon"},
	} {
		require.Equal(t, "/***", redact.Path("/"+tt.secret), tt.why)
		require.Equal(t, "/"+tt.ordinary, redact.Path("/"+tt.ordinary), tt.why)
	}
	require.Equal(t, "/services/T/B0/x", redact.Path("/services/T/B0/x"))
}

func TestPathAnnouncers(t *testing.T) {
	for _, word := range []string{
		"token", "secret", "password", "passwd", "passcode", "passphrase", "signature",
		"apikey", "accesskey", "authkey", "secretkey", "privatekey", "key", "sig", "jwt", "otp", "pwd",
	} {
		for _, name := range []string{word, strings.ToUpper(word), "x-" + word, "x_" + word} {
			require.Equal(t, "/"+name+"/***/y", redact.Path("/"+name+"/x/y"))
			require.Equal(t, "/***/y", redact.Path("/a;"+name+"=x/y"))
			require.Equal(t, "/"+name+"s/x", redact.Path("/"+name+"s/x"), "a list of them")
			require.Equal(t, "/a;"+name+"=/y", redact.Path("/a;"+name+"=/y"), "no value")
		}
	}
}

func decoded(tb testing.TB, path string) string {
	tb.Helper()
	s, err := url.PathUnescape(path)
	require.NoError(tb, err)
	return s
}

// TestPathRandom measures how many random tokens are not recognized.
func TestPathRandom(t *testing.T) {
	const digits, lower, upper = "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	r := rand.New(rand.NewPCG(1, 2))
	for _, tt := range []struct {
		name, alphabet string
		length         int
		missed         float64 // percent, at most
		why            string
	}{
		{"hex", digits + "abcdef", 16, 0.2, "64 bits"},
		{"hex", digits + "abcdef", 32, 0.02, "128 bits"},
		{"base32", upper + "234567", 16, 4, "80 bits: few digits"},
		{"base32", upper + "234567", 32, 0.2, "160 bits"},
		{"base36", lower + digits, 20, 0.3, ""},
		{"base62", digits + lower + upper, 16, 1.5, ""},
		{"base62", digits + lower + upper, 24, 0.2, "Slack, Stripe"},
		{"base64url", digits + lower + upper + "-_", 22, 4, "128 bits: it may fall into pieces that look like words"},
		{"base64url", digits + lower + upper + "-_", 32, 0.5, "192 bits"},
		{"base64url", digits + lower + upper + "-_", 43, 0.1, "256 bits"},
	} {
		const tokens = 10000
		missed := 0
		for range tokens {
			token := make([]byte, tt.length)
			for i := range token {
				token[i] = tt.alphabet[r.IntN(len(tt.alphabet))]
			}
			if path := fmt.Sprintf("/v1/%s/x", token); redact.Path(path) == path {
				missed++
			}
		}
		require.LessOrEqual(t, float64(missed)/tokens*100, tt.missed, "%s of %d: %s", tt.name, tt.length, tt.why)
	}
}

func FuzzPath(f *testing.F) {
	for _, path := range ordinaryPaths() {
		f.Add(path)
	}
	f.Add("/services/T00/B00/XXXX")
	f.Add("/bot1%3Ax/%2F/key/0123456789abcdef")
	f.Fuzz(func(t *testing.T, path string) {
		shown := redact.Path(path)
		require.Equal(t, shown, redact.Path(shown), "once is enough")
		require.LessOrEqual(t, len(shown), len(path)+len(redact.Hidden)*(strings.Count(path, "/")+strings.Count(path, "%")+1))
		require.Equal(t, segments(path), segments(shown), "no segment is lost")
		was := strings.Split(path, "/")
		for i, segment := range strings.Split(shown, "/") {
			if !strings.Contains(segment, redact.Hidden) {
				require.Equal(t, was[i], segment)
			}
			if !strings.Contains(segment, "%") {
				requireNoMixedAtom(t, segment)
			}
		}
		for _, text := range []string{path, "https://user:hunter2@api.test" + path} {
			shown := redact.Error(errors.New("lost: " + text))
			require.NotContains(t, shown, "hunter2")
		}
	})
}

func segments(path string) int { return strings.Count(path, "/") }

// requireNoMixedAtom fails if a segment that is shown contains 16 letters and
// digits in a row, with at least one of each. A version behind a word does not
// count.
func requireNoMixedAtom(tb testing.TB, segment string) {
	tb.Helper()
	version := regexp.MustCompile(`^([A-Za-z]*)[vV][0-9]{1,2}$`)
	for _, atom := range regexp.MustCompile(`[0-9A-Za-z]+`).FindAllString(segment, -1) {
		atom = version.ReplaceAllString(atom, "$1")
		if len(atom) >= 16 && strings.ContainsAny(atom, "0123456789") {
			require.Empty(tb, strings.Trim(atom, "0123456789"), atom)
		}
	}
}

func TestErrorShowsURLsWithoutSecrets(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"dial tcp 127.0.0.1:1: connection refused", "dial tcp 127.0.0.1:1: connection refused"},
		{"read tcp [::1]:1->[::1]:2: reset", "read tcp [::1]:1->[::1]:2: reset"},
		{"expected application/json and/or text/html?", "expected application/json and/or text/html?"},
		{`Get "https://api.test/v1/people": EOF`, `Get "https://api.test/v1/people": EOF`},
		{`Get "https://api.test/bot1:AAx/getMe?offset=secret": EOF`, `Get "https://api.test/***/getMe": EOF`},
		{`Get "https://user:secret@api.test:8443/x": EOF`, `Get "https://api.test:8443/x": EOF`},
		{"GET https://api.test?key=secret: EOF", "GET https://api.test: EOF"},
		{"GET https://secret@api.test: EOF", "GET https://api.test: EOF"},
		{"(see https://api.test/x#secret).", "(see https://api.test/x)."},
		{"'https://user:se?cret@api.test/x', twice", "'https://api.test/x', twice"},
		{"https://user:sec/ret@api.test/x", "https://***/ret@api.test/x"},
		{"https://[::1]:80/key/secret", "https://[::1]:80/key/***"},
		{"via https://proxy.test/https://user:secret@api.test/x?key=secret", "via https://proxy.test/https://api.test/x"},
		{"https://api.test/login?next=https://user:secret@api.test/", "https://api.test/login"},
		{"/login?next=https://user:secret@api.test/", "/login"},
		{"https://api.test?a=b/secret", "https://api.test"},
		{"see ?next=https://user:secret@api.test/x", "see "},
		{"file:///etc/key/secret and https://?key=secret/x", "file:///etc/key/*** and https://"},
		{"POST /services/T00/B00/XXXX: 500", "POST /services/T00/B00/***: 500"},
		{"api.test/key/secret?x=secret failed", "api.test/key/*** failed"},
		{"golang/go#75804", "golang/go#75804"},
		{"ein Fehler\u2028/key/secret\u00a0/x", "ein Fehler /key/*** /x"},
	} {
		require.Equal(t, tt.want, redact.Error(errors.New(tt.text)))
	}
	require.Equal(t, `Get "" of https://api.test/key/***`,
		redact.Unquoted(errors.New(`Get "https://api.test/secret" of https://user@api.test/key/secret?x`)))
	// An error may contain text that the server sent. A text with many URLs takes
	// no longer than a text with one.
	require.Len(t, redact.Error(errors.New(strings.Repeat("://", 1<<20))), redact.MaxError+len("..."))
}

func BenchmarkPath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		redact.Path("/repos/resilienthttp/resilient/actions/runs/12345")
	}
}
