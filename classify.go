package resilient

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/resilienthttp/resilient/internal/errorobject"
	"github.com/resilienthttp/resilient/internal/waithint"
	"github.com/resilienthttp/resilient/internal/word"
)

// Verdict is the judgement on a failed attempt. It answers two questions that do
// not depend on each other: whether this request may be sent again (Retry and
// Unprocessed), and whether other requests have to stay away meanwhile (Pause).
// A 503 with Retry-After asks everybody to stay away, but is no evidence that the
// server did nothing: a cache sends one when the origin took the request and was slow.
type Verdict struct {
	// Kind is the meaning of an error response; 0 if there is no response.
	Kind Kind

	// Retry reports whether the failure is temporary: the same request can
	// succeed.
	Retry bool

	// Unprocessed reports whether any method may be sent again, because the
	// request was certainly not acted upon: the server refused it for its rate
	// (429, or 400 or 403 with a code that names a limit), a [Rule] or the
	// server itself (X-Should-Retry: true) says so, or nothing of it was sent.
	// Without it, only idempotent requests are sent again.
	Unprocessed bool

	// Pause reports whether RetryAfter is about every request of the limit key,
	// not only this one. Of a refusal by a limit, a 503 or 529 it is taken for
	// that after three in a row: it may be one of several servers that says so.
	// Until then other requests go one by one, and the first that is accepted
	// frees them. Anything else pauses the key at once. Pause has no effect
	// without a RetryAfter, and none on whether this request is sent again.
	Pause bool

	// RetryAfter is the least time to wait, as the server asked; 0: no hint.
	RetryAfter time.Duration

	// Reason is a word or two for traces and logs.
	Reason Reason
}

// Classifier decides about a failed attempt: an error response, or none. It is
// given the attempt with the default verdict already in it, and returns that,
// changed or not:
//
//	func(a resilient.AttemptInfo) resilient.Verdict {
//		v := a.Verdict
//		if a.APIError != nil && a.APIError.Code == "maintenance" {
//			v.Retry, v.Reason = false, "down for hours"
//		}
//		return v
//	}
//
// It is not asked about successes, nor once the caller's context has ended. A
// verdict to retry is still subject to the method, the body, the budget and the
// time left. A [Profile] is better for rules that fit a table.
type Classifier func(AttemptInfo) Verdict

// then returns a Classifier that is f, or g after f.
func (f Classifier) then(g Classifier) Classifier {
	if f == nil {
		return g
	}
	return func(a AttemptInfo) Verdict {
		a.Verdict = f(a)
		return g(a)
	}
}

// classifyStatus is the default verdict on an error response: the table of
// documented errors, then RFC 9110 for the others.
func classifyStatus(status int, kind Kind) Verdict {
	switch {
	case kind == KindRateLimit:
		return Verdict{Kind: kind, Retry: true, Unprocessed: rejects(status), Reason: ReasonRateLimited}
	case kind == KindQuota:
		return Verdict{Kind: kind, Reason: ReasonQuota}
	case kind == KindServer && temporary(status):
		return Verdict{Kind: kind, Retry: true, Reason: ReasonTemporaryStatus}
	}
	return Verdict{Kind: kind, Reason: ReasonFinalStatus}
}

// rejects reports whether a rate limit that is told with this status is proof
// that the request was not acted upon. RFC 6585 section 4 has the 429; the 4xx
// with the code of a limit are older ways to say the same. A server whose backend
// was throttled half-way through the request answers with a 5xx too.
func rejects(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadRequest, http.StatusForbidden:
		return true
	}
	return false
}

// finalByHeader reports whether an error response is final, and says nothing about other
// requests, whatever is in its body.
func finalByHeader(resp *http.Response) bool {
	status := resp.StatusCode
	if status < 400 || namesLimits(status) || staysAway(status) || classifyStatus(status, kindOf(status)).Retry ||
		status == http.StatusExpectationFailed {
		return false
	}
	return !serverSaid(resp.Header)
}

// namesLimits reports whether a status is also used for limits, which a code then names.
func namesLimits(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusServiceUnavailable:
		return true
	}
	return status < 400
}

// temporary reports whether the same request can succeed later. The exceptions
// among the 5xx say that the server is unable to do it (RFC 9110 sections 15.6.2
// and 15.6.6, RFC 2295 section 8.1, RFC 5842 section 7.2, RFC 2774 section 7), that
// its network wants a login (RFC 6585 section 6), or that a certificate is wrong
// (525 and 526 in Cloudflare's table of 5xx errors). The 520 to 524, 527 and 530 of
// that table say that a CDN did not get an answer from the origin.
func temporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly: // RFC 9110 section 15.5.9, RFC 8470 section 5.2
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusVariantAlsoNegotiates,
		http.StatusLoopDetected, http.StatusNotExtended, http.StatusNetworkAuthenticationRequired, 525, 526:
		return false
	}
	return status >= 500 && status <= 599
}

// staysAway reports whether a hint that comes with this status is meant for
// every request of the client, whether or not this one is retried. Statuses that
// are about one resource (409, 413, 423) hold nobody else up, and those of which
// no source says more (500, 502, 504) bind the request they answer.
func staysAway(status int) bool {
	switch status {
	case http.StatusServiceUnavailable, // RFC 9110 section 15.6.4: overload or maintenance
		http.StatusTooManyRequests, // RFC 6585 section 4
		418,                        // Binance's general API information: the address is banned for knocking on 429
		420,                        // Twitter's response codes: "Enhance Your Calm"
		430,                        // Shopify's response status codes: a security rejection
		509,                        // Apache's and cPanel's bandwidth limit
		529:                        // Anthropic's errors: overloaded for all users
		return true
	}
	return false
}

// kindOf returns the meaning of a status.
func kindOf(status int) Kind {
	switch status {
	case http.StatusPaymentRequired:
		return KindPaymentRequired
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return KindAuthentication
	case http.StatusNotFound, http.StatusGone:
		return KindNotFound
	case http.StatusTooManyRequests:
		return KindRateLimit
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return KindServer
	}
	if status < 500 {
		return KindInvalidRequest // a success that Profile.Failed finds to be none, too
	}
	return KindServer
}

// shouldRetryFields are the fields that SDKs made by Stainless and Stripe's go by.
var shouldRetryFields = [...]string{"X-Should-Retry", "Stripe-Should-Retry"} //nolint:gochecknoglobals // a table, which nobody writes to

// shouldRetry returns the server's own word about another attempt.
func shouldRetry(h http.Header) (again, said bool) {
	for _, name := range shouldRetryFields {
		switch strings.ToLower(first(h[name])) {
		case "true":
			return true, true
		case "false":
			return false, true
		}
	}
	return false, false
}

// limitKind is the kind of limit that a failure names, beyond its status.
type limitKind int

const (
	noLimit limitKind = iota
	rateLimit
	quota     // used up, and not soon refilled, unless the response says when
	longQuota // one of a day or longer by its name, even if there is a hint
	balance   // money, which does not come by itself
)

// limitOf looks for a limit in the codes that come with a status that is also used
// for limits. A word about limits in another status is about something else: 413
// with a request that is larger than the limit, 404 for a limit that is not there.
//
// Fields that say that nothing remains decide about a 403 and a 503 only, because
// APIs refuse for a rate with both. The fields are on any other answer too: a 500,
// 502 or 504 is a failure of the server that happened to use up the quota.
func limitOf(status int, h http.Header, o *errorobject.Object, units waithint.Units) limitKind {
	if !namesLimits(status) {
		return noLimit
	}
	found, named := noLimit, false
	for _, token := range o.Tokens {
		found = max(found, limitToken(token))
		named = named || token != strconv.Itoa(status)
	}
	if slices.ContainsFunc(o.Quotas, isLongQuota) {
		found = max(found, longQuota)
	}
	switch {
	case found != noLimit:
	case status == http.StatusTooManyRequests:
		return rateLimit
	case status == http.StatusForbidden && !named && waithint.Refused(h):
		return rateLimit // a missing permission has a code
	case status == http.StatusServiceUnavailable && waithint.UsedUp(h, units):
		return rateLimit // no retry before the reset can succeed
	}
	return found
}

// mayMatter reports whether the error object in text can change the verdict on a response:
// whether it may name a limit, or tell how long to wait. It says so of some objects that
// cannot, and costs a tenth of what it costs to read one.
func mayMatter(status int, h http.Header, text []byte) bool {
	if errorobject.HasCode(h) || first(h["Content-Encoding"]) != "" {
		return true
	}
	if status == http.StatusForbidden && waithint.Refused(h) {
		return true // a code says that it is something else
	}
	var last uint32 // the last four letters
	for _, c := range text {
		switch c = folds[c]; c {
		case leftOut:
			continue
		case hides:
			return true
		}
		if last = last<<8 | uint32(c); matters(last) {
			return true
		}
	}
	return false
}

// folds maps bytes as package word folds letters.
var folds = func() (t [256]byte) { //nolint:gochecknoglobals // a table, which nobody writes to
	for i := range t {
		switch c := byte(i); {
		case c == '-' || c == '_':
			t[i] = leftOut
		case c == '\\' || c <= hides || c >= utf8.RuneSelf:
			t[i] = hides
		case isUpper(c):
			t[i] = c - 'A' + 'a'
		default:
			t[i] = c
		}
	}
	return t
}()

const (
	leftOut byte = iota
	hides        // a letter, by an escape or an encoding
)

// matters reports whether four letters are in a word that matters. Each of limitTokens has
// such letters, each name of a quota, and each member that package waithint looks for.
func matters(letters uint32) bool {
	switch letters {
	case 'l'<<24 | 'i'<<16 | 'm'<<8 | 'i', // limit
		'u'<<24 | 'o'<<16 | 't'<<8 | 'a', // quota
		'r'<<24 | 'o'<<16 | 't'<<8 | 't', // throttle
		'c'<<24 | 'e'<<16 | 'e'<<8 | 'd', // exceeded
		'e'<<24 | 'x'<<16 | 'h'<<8 | 'a', // exhausted
		't'<<24 | 'o'<<16 | 'o'<<8 | 'm', // too many
		'o'<<24 | 'l'<<16 | 'a'<<8 | 'r', // too large
		'n'<<24 | 'o'<<16 | 't'<<8 | 'c', // not complete
		'i'<<24 | 'n'<<16 | 's'<<8 | 'u', // insufficient
		'e'<<24 | 'd'<<16 | 'i'<<8 | 't', // credit
		'b'<<24 | 'i'<<16 | 'l'<<8 | 'l', // billing
		'e'<<24 | 't'<<16 | 'r'<<8 | 'y': // retry
		return true
	}
	return false
}

// limitTokens are the codes that speak of a limit, as many APIs spell them: a
// table of whole words and not of parts, since "rate_limit_invalid" is about a
// parameter. "slow_down" is not one of them: in RFC 8628 it is for the poller.
// See foldToken, and limitToken for words of which the end is enough.
var limitTokens = map[string]limitKind{ //nolint:gochecknoglobals // a table, which nobody writes to
	"ratelimit": rateLimit, "ratelimited": rateLimit, "ratelimiting": rateLimit, "ratelimitexceeded": rateLimit,
	"ratelimitreached": rateLimit, "userratelimitexceeded": rateLimit, "apiratelimitexceeded": rateLimit,
	"ratelimiterror": rateLimit, "ratelimitederror": rateLimit, "ratelimitexceedederror": rateLimit,
	"requestratelimitexceeded": rateLimit, "concurrencylimitexceeded": rateLimit, "concurrentlimitexceeded": rateLimit,
	"throttled": rateLimit, "throttling": rateLimit, "throttle": rateLimit, "requestthrottled": rateLimit,
	"throttledrequest": rateLimit, "throttledexception": rateLimit, "throttlingexception": rateLimit,
	"throttlingerror": rateLimit, "requestthrottledexception": rateLimit, "ec2throttledexception": rateLimit,
	"provisionedthroughputexceededexception": rateLimit, "provisionedthroughputexceeded": rateLimit,
	"toomanyrequests": rateLimit, "toomanyrequest": rateLimit, "toomanyrequestsexception": rateLimit,
	"toomanyrequestserror": rateLimit, "toomanycalls": rateLimit,
	"requestlimitexceeded": rateLimit, "limitexceededexception": rateLimit, "bandwidthlimitexceeded": rateLimit,
	"priorrequestnotcomplete": rateLimit, "resourceexhausted": rateLimit, "requestratetoolarge": rateLimit,
	"overquerylimit": rateLimit,

	"quotaexceeded": quota, "quotaexceedederror": quota, "quotaexhausted": quota, "quotareached": quota,
	"quotalimitexceeded": quota, "overquota": quota, "outofquota": quota, "quotaexceededexception": quota,
	"servicequotaexceededexception": quota, "dailylimitexceeded": quota, "dailyquotaexceeded": quota,
	"dailylimitreached": quota, "monthlylimitexceeded": quota, "monthlyquotaexceeded": quota,
	"monthlylimitreached": quota, "usagelimitreached": quota, "usagelimitexceeded": quota,
	"planlimitreached": quota, "planlimitexceeded": quota, "overdailylimit": quota,

	"insufficientquota": balance, "insufficientcredits": balance, "insufficientcredit": balance,
	"insufficientbalance": balance, "insufficientfunds": balance, "outofcredits": balance,
	"creditsexhausted": balance, "creditbalancetoolow": balance, "billinghardlimitreached": balance,
	"billinglimitreached": balance, "billinglimitexceeded": balance, "billingnotactive": balance,
	"spendlimitreached": balance, "spendlimitexceeded": balance, "spendinglimitreached": balance,
	"spendinglimitexceeded": balance, "hardlimitreached": balance, "budgetexceeded": balance,
}

// foldToken makes rate_limit_exceeded, RATE-LIMIT-EXCEEDED, rateLimitExceeded
// and https://api.test/errors/rate-limit-exceeded one word. Of a qualified one,
// as in Throttling.User, it is the first part.
func foldToken(token string) string {
	token = token[strings.LastIndexByte(token, '/')+1:]
	token, _, _ = strings.Cut(token, ".")
	return word.Fold(token)
}

// limitToken returns the limit that a code speaks of.
//
// APIs name the owner in front of a limit on money, as in org_spend_limit_reached,
// so a code may also end in a word of limitTokens. This is for money alone: its
// words, see moneyWords, are about nothing else, and a lack of it is final whoever
// the owner is. The end of another code says less: thinking_budget_exceeded is
// about a parameter, and disk_insufficient_quota about a volume.
func limitToken(token string) limitKind {
	folded := foldToken(token)
	if limit := limitTokens[folded]; limit != noLimit || len(token) > maxCode {
		return limit
	}
	if !speaksOfMoney(folded) && !strings.Contains(token, ".") {
		return noLimit // without being taken apart, which costs a few allocations
	}
	tail, money := "", false
	for _, word := range slices.Backward(wordsOf(token[strings.LastIndexByte(token, '/')+1:])) {
		tail, money = word+tail, money || slices.Contains(moneyWords, word)
		if money && limitTokens[tail] == balance {
			return balance
		}
	}
	return noLimit
}

// maxCode is the longest code that is taken apart.
const maxCode = 256

var moneyWords = []string{"spend", "spending", "billing", "credit", "credits", "balance", "funds"} //nolint:gochecknoglobals // a table, which nobody writes to

// speaksOfMoney reports whether a folded code may have one of the moneyWords.
func speaksOfMoney(folded string) bool {
	return slices.ContainsFunc(moneyWords, func(money string) bool { return strings.Contains(folded, money) })
}

// isLongQuota reports whether a quota is one of a day or longer by its name, as
// GenerateRequestsPerDayPerProjectPerModel is. A server sends a hint of some
// seconds with every quota, but this one is not refilled before the day is over.
func isLongQuota(name string) bool {
	words := wordsOf(name)
	for i, word := range words {
		switch word {
		case "daily", "weekly", "monthly", "yearly", "perday", "perweek", "permonth", "peryear":
			return true
		case "day", "week", "month", "year":
			if i > 0 && words[i-1] == "per" {
				return true
			}
		}
	}
	return false
}

// wordsOf returns the words of a name in lower case, whether they are told apart
// by capitals, as in QuotaExceeded and APIQuota, or by punctuation.
func wordsOf(name string) []string {
	var words []string
	begin := 0
	end := func(i int) {
		if i > begin {
			words = append(words, strings.ToLower(name[begin:i]))
		}
		begin = i
	}
	for i := range len(name) {
		switch c := name[i]; {
		case !isAlnum(c):
			end(i)
			begin = i + 1
		case i > begin && isUpper(c) && (!isUpper(name[i-1]) || i+1 < len(name) && isLower(name[i+1])):
			end(i)
		}
	}
	end(len(name))
	return words
}

func isAlnum(c byte) bool { return isUpper(c) || isLower(c) || '0' <= c && c <= '9' }

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
