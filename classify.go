package resilient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/resilienthttp/resilient/internal/errorobject"
	"github.com/resilienthttp/resilient/internal/peek"
	"github.com/resilienthttp/resilient/internal/plain"
	"github.com/resilienthttp/resilient/internal/waithint"
)

// Kind is what an error response means to the caller. The zero Kind, "none",
// is not an error response: a success, or no response at all.
type Kind uint8

// The kinds of error responses.
const (
	KindInvalidRequest  Kind = iota + 1 // 400, and every 4xx that has no kind of its own
	KindPaymentRequired                 // 402: the account is cancelled or unpaid
	KindAuthentication                  // 401, 403, 407: the credentials are wrong
	KindNotFound                        // 404, 410
	KindRateLimit                       // 429: too many requests
	KindServer                          // 5xx, and 408 and 425, which are as temporary
	KindQuota                           // a quota or a balance is used up: waiting a little does not help
)

// String returns the name of the kind, such as "rate limit".
func (k Kind) String() string {
	switch k {
	case KindInvalidRequest:
		return "invalid request"
	case KindPaymentRequired:
		return "payment required"
	case KindAuthentication:
		return "authentication"
	case KindNotFound:
		return "not found"
	case KindRateLimit:
		return "rate limit"
	case KindServer:
		return "server"
	case KindQuota:
		return "quota"
	}
	return "none"
}

// Errors that an [*APIError] of the kind matches with errors.Is. One of
// KindQuota matches ErrRateLimit.
var (
	ErrInvalidRequest  = errors.New("resilient: invalid request")
	ErrPaymentRequired = errors.New("resilient: payment required")
	ErrAuthentication  = errors.New("resilient: authentication failed")
	ErrNotFound        = errors.New("resilient: not found")
	ErrRateLimit       = errors.New("resilient: rate limited")
	ErrServer          = errors.New("resilient: server error")
)

// Verdict is the judgement on a failed attempt. It answers two questions that do
// not depend on each other: whether this request may be sent again (Retry and
// Unprocessed), and whether other requests have to stay away meanwhile (Pause).
// A 503 with Retry-After pauses its limit key, but is no evidence that the server
// did nothing: a cache sends one when the origin took the request and was slow.
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

	// Pause reports whether RetryAfter binds every request of the limit key,
	// not only this one. It has no effect without a RetryAfter, and none on
	// whether this request is sent again.
	Pause bool

	// RetryAfter is the least time to wait, as the server asked; 0: no hint.
	RetryAfter time.Duration

	// Why is a short reason, for traces and logs.
	Why string
}

// Classifier decides about a failed attempt: an error response, or none. It is
// given the attempt with the default verdict already in it, and returns that,
// changed or not:
//
//	func(a resilient.AttemptInfo) resilient.Verdict {
//		v := a.Verdict
//		if a.APIError != nil && a.APIError.Code == "maintenance" {
//			v.Retry, v.Why = false, "down for hours"
//		}
//		return v
//	}
//
// It is not asked about successes, nor once the caller's context has ended. A
// verdict to retry is still subject to the method, the body, the budget and the
// time left. What can be said in a table is better said in a [Profile].
type Classifier func(AttemptInfo) Verdict

// WithClassifier sets a classifier. It panics if f is nil. The default is the
// verdict that a Classifier is given.
func WithClassifier(f Classifier) Option {
	mustBe(f != nil, "WithClassifier", "not nil", "nil")
	return func(c *config) { c.classifier = f }
}

// Profile is what no rule can know about an API. Package profile has some. The
// zero Profile is the default.
type Profile struct {
	// Rules are tried in order on each error response, and the first that
	// matches is applied.
	Rules []Rule

	// CodeFields are names of members of the error object that hold its code,
	// to be tried after the usual ones.
	CodeFields []string

	// WaitHeaders are names of further header fields that tell how long to
	// wait, or usual ones that count in another unit, and the unit of a number
	// in them. With 0, a number counts seconds, or if it is too large for that
	// it is a point in time. A field with "Reset" in its name counts only on a
	// rate limit, and only if the field with "Remaining" in its place is 0 or
	// absent.
	WaitHeaders map[string]time.Duration

	// Failed reports whether the body of a 2xx response is an error all the
	// same. If it is nil, the default, these bodies are not looked at. It is
	// asked about JSON (application/json, or a type ending in +json) of up to
	// 64 KiB, of which it gets what arrives within a second: cut short, it is
	// no valid JSON. Failed is never asked about event streams and other types,
	// nor about a response with a greater Content-Length. An error found so is
	// an [*APIError] of KindInvalidRequest, unless its code or a Rule says more.
	Failed func(body []byte) bool
}

// Rule gives a meaning to error responses. Its conditions must all hold; those
// that are zero always do.
type Rule struct {
	Status  int    // the status
	Code    string // a code or type of the error, or of one that it consists of
	Message string // a part of the message, in upper or lower case

	// Kind replaces the kind of the error: KindRateLimit and KindServer are
	// retried, the others are final. KindRateLimit also says that the request
	// was refused unprocessed, so that any method is sent again. 0 leaves the
	// kind as it is.
	Kind Kind

	// Wait is how long to wait where the server does not say; 0: the backoff.
	Wait time.Duration
}

// WithProfile sets what is special about the API. It panics if a Wait or a unit
// is negative. The default is the zero [Profile]; of two, the last one counts.
// It does not bear on connection errors, nor on [ErrorFromResponse] for
// responses that did not come through a [Transport].
func WithProfile(p Profile) Option {
	for _, r := range p.Rules {
		mustBe(r.Wait >= 0, "WithProfile", "with waits of 0 or more", r.Wait)
	}
	headers := p.WaitHeaders
	p.WaitHeaders = make(map[string]time.Duration, len(headers))
	for name, unit := range headers {
		mustBe(unit >= 0, "WithProfile", "with units of 0 or more", unit)
		p.WaitHeaders[http.CanonicalHeaderKey(name)] = unit
	}
	return func(c *config) { c.profile = &p }
}

// judge gives the default verdict on a response of which prefix is the beginning
// of the body. The *APIError is nil if mayFail was right to ask, but it is a
// success.
func (p *Profile) judge(resp *http.Response, prefix []byte, received time.Time) (*APIError, Verdict) {
	body := errorobject.Decode(resp.Header, prefix)
	if resp.StatusCode < 400 && !p.Failed(body.Text) {
		return nil, Verdict{Why: "success"}
	}
	return p.read(resp, prefix, body, received)
}

// read reads an error response, of which body is prefix decoded, and gives the
// default verdict on it. A nil Profile is the zero one.
func (p *Profile) read(resp *http.Response, prefix []byte, body errorobject.Body, received time.Time) (*APIError, Verdict) {
	if p == nil {
		p = new(Profile)
	}
	status, h := resp.StatusCode, resp.Header
	o := errorobject.Parse(status, h, body, p.CodeFields...)
	e := &APIError{
		StatusCode: status, Code: o.Code, Type: o.Type, Message: o.Message,
		RequestID: o.RequestID, Header: h, Body: prefix,
	}
	for _, param := range o.Invalid {
		e.Invalid = append(e.Invalid, InvalidParam(param))
	}

	limit := limitOf(status, h, &o, p.WaitHeaders)
	rule := p.rule(status, &o)
	kind := rule.Kind
	switch {
	case kind != 0:
	case limit != noLimit:
		kind = KindRateLimit
	default:
		kind = kindOf(status)
	}
	wait, hinted := waithint.Asked(h, body.JSON, received, p.WaitHeaders)
	if !hinted && kind == KindRateLimit {
		wait, hinted = waithint.Reset(h, received, p.WaitHeaders)
	}
	// A quota that comes back at a stated time is as good as a rate limit.
	if rule.Kind == 0 && (limit > quota || limit == quota && !hinted) {
		kind = KindQuota
	}

	v := classifyStatus(status, kind)
	switch {
	case rule.Kind == KindRateLimit:
		v.Unprocessed = true
	case rule.Kind == KindServer && !v.Retry:
		v.Retry, v.Why = true, "temporary by the profile"
	}
	if again, said := shouldRetry(h); said {
		v.Retry, v.Why = again, "the server said whether to retry"
		v.Unprocessed = v.Unprocessed || again
	}
	if !hinted && v.Retry {
		wait = rule.Wait
	}
	v.RetryAfter = wait
	v.Pause = kind == KindRateLimit || hinted && staysAway(status)
	if v.Pause && v.Retry && v.Kind == KindServer {
		v.Why = "unavailable until a stated time"
	}
	e.Kind, e.RetryAfter = v.Kind, v.RetryAfter
	return e, v
}

// rule returns the first of the rules that matches, or the zero Rule.
func (p *Profile) rule(status int, o *errorobject.Object) Rule {
	for _, r := range p.Rules {
		if (r.Status == 0 || r.Status == status) &&
			(r.Code == "" || slices.Contains(o.Tokens, r.Code)) &&
			(r.Message == "" || strings.Contains(strings.ToLower(o.Message), strings.ToLower(r.Message))) {
			return r
		}
	}
	return Rule{}
}

// mayFail reports whether the body of a success has to be looked at.
func (p *Profile) mayFail(resp *http.Response) bool {
	if p == nil || p.Failed == nil || resp.StatusCode < 200 || resp.StatusCode > 299 ||
		resp.Body == http.NoBody || resp.ContentLength > peek.Max {
		return false
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
}

// classifyStatus is the default verdict on an error response: the table of
// documented errors, then RFC 9110 for the others.
func classifyStatus(status int, kind Kind) Verdict {
	switch {
	case kind == KindRateLimit:
		return Verdict{Kind: kind, Retry: true, Unprocessed: rejects(status), Why: "rate limited"}
	case kind == KindQuota:
		return Verdict{Kind: kind, Why: "quota used up"}
	case kind == KindServer && temporary(status):
		return Verdict{Kind: kind, Retry: true, Why: "temporary status"}
	}
	return Verdict{Kind: kind, Why: "final status"}
}

// rejects reports whether a rate limit that is told with this status is proof
// that the request was not acted upon. RFC 6585 section 4 has the 429; the 4xx
// with the code of a limit are older ways to say the same. A 5xx is also what a
// server answers whose backend was throttled half-way through the request.
func rejects(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadRequest, http.StatusForbidden:
		return true
	}
	return false
}

// temporary reports whether the same request can succeed later. Of the 5xx these
// are all but the ones that say what the server cannot do (RFC 9110 sections
// 15.6.2 and 15.6.6, RFC 2295 section 8.1, RFC 5842 section 7.2, RFC 2774 section
// 7), that its network wants a login (RFC 6585 section 6), or that a certificate
// is wrong (525 and 526 in Cloudflare's table of 5xx errors). Its 520 to 524, 527
// and 530 say that a CDN did not get an answer from the origin.
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

// kindOf is what a status means.
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
		return KindInvalidRequest // also a success that is none, see Profile.Failed
	}
	return KindServer
}

// shouldRetryFields are what SDKs made by Stainless and Stripe's go by.
var shouldRetryFields = [...]string{"X-Should-Retry", "Stripe-Should-Retry"} //nolint:gochecknoglobals // a table, which nobody writes to

// shouldRetry returns what the server says outright about another attempt.
func shouldRetry(h http.Header) (again, said bool) {
	for _, name := range shouldRetryFields {
		switch strings.ToLower(h.Get(name)) {
		case "true":
			return true, true
		case "false":
			return false, true
		}
	}
	return false, false
}

// limitKind is what a failure says about a limit beyond its status.
type limitKind int

const (
	noLimit limitKind = iota
	rateLimit
	quota     // used up, and not soon refilled, unless the response says when
	longQuota // one of a day or longer by its name, whatever the response says
	balance   // money, which does not come by itself
)

// limitOf looks for a limit in what statuses say that are also used for one.
// With any other status a word about limits is about something else: 413 with a
// request that is larger than the limit, 404 for a limit that is not there.
//
// Fields that say that nothing remains decide about a 403 and a 503 only, because
// APIs refuse for a rate with both. The fields are on any other answer too: a 500,
// 502 or 504 is a failure of the server that happened to use up the quota.
func limitOf(status int, h http.Header, o *errorobject.Object, units waithint.Units) limitKind {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusServiceUnavailable:
	default:
		if status >= 400 {
			return noLimit
		}
	}
	found, named, number := noLimit, false, strconv.Itoa(status)
	for _, token := range o.Tokens {
		found = max(found, limitToken(token))
		named = named || token != number
	}
	if slices.ContainsFunc(o.Quotas, isLongQuota) {
		found = max(found, longQuota)
	}
	switch {
	case found != noLimit:
	case status == http.StatusTooManyRequests:
		return rateLimit
	case status == http.StatusForbidden && !named && waithint.Refused(h):
		return rateLimit // who may not at all is told so by a code
	case status == http.StatusServiceUnavailable && waithint.UsedUp(h, units):
		return rateLimit // whatever the code is, no retry before the reset can succeed
	}
	return found
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
	return plain.Fold(token)
}

// limitToken returns the limit that a code speaks of.
//
// APIs name the owner in front of a limit on money, as in org_spend_limit_reached,
// so a code may also end in a word of limitTokens. This is for money alone: its
// words, see moneyWords, are about nothing else, and a lack of it is final whoever
// the owner is. The end of another code says less: thinking_budget_exceeded is
// about a parameter, and disk_insufficient_quota about a volume.
func limitToken(token string) limitKind {
	if limit := limitTokens[foldToken(token)]; limit != noLimit || len(token) > maxCode {
		return limit
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
// by capitals, as in QuotaExceeded and APIQuota, or by what is no letter or digit.
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

// classifyError is the default verdict on an attempt without a response. What
// is known to be permanent is listed, by type and never by text; the rest of
// the network's many errors is taken for temporary, as allow-lists of them grow
// for years and are never complete.
func classifyError(req *http.Request, err error, f fate) Verdict {
	if f == bodyFailed {
		return Verdict{Why: "request body"}
	}
	if why := permanent(req, err); why != "" {
		return Verdict{Why: why}
	}
	if f == neverSent {
		return Verdict{Retry: true, Unprocessed: true, Why: "never sent"}
	}
	if isType[*attemptTimeoutError](err) {
		return Verdict{Retry: true, Why: "attempt timed out"}
	}
	return Verdict{Retry: true, Why: "no response"}
}

// permanent returns why err would come again, or "".
func permanent(req *http.Request, err error) string {
	if isType[*tls.CertificateVerificationError](err) || isType[x509.UnknownAuthorityError](err) ||
		isType[x509.HostnameError](err) || isType[x509.CertificateInvalidError](err) ||
		isType[tls.RecordHeaderError](err) {
		return "TLS"
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return "unknown host"
	}
	if isType[*net.AddrError](err) {
		return "bad address"
	}
	if errors.Is(err, http.ErrSkipAltProtocol) || errors.Is(err, errNoAnswer) {
		return "base transport"
	}
	// The context of the attempt is the caller's, which has not ended, so the
	// base is giving up for a reason of its own. (Not so for DeadlineExceeded:
	// a token fetched by a base of oauth2 may have a deadline of its own.)
	if errors.Is(err, context.Canceled) {
		return "base transport canceled"
	}
	if status := statusOf(err); status >= 400 && !classifyStatus(status, kindOf(status)).Retry {
		return "final status"
	}
	// net/http says these with errors that have no type.
	if malformed(req) {
		return "malformed request"
	}
	return ""
}

// fate is what is known of a request that got no response.
type fate int

const (
	unknown    fate = iota
	neverSent       // proven: the server got nothing of it
	bodyFailed      // reading its body failed
)

func isType[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// errNoAnswer is a base that returns neither a response nor an error.
var errNoAnswer = errors.New("resilient: the base RoundTripper returned neither a response nor an error")

// statusOf returns the status of the answer that an error of the base tells of,
// such as that of a token server (golang.org/x/oauth2's RetrieveError) or of a
// proxy; 0: it tells of none.
func statusOf(err error) int {
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return 0 // its methods may panic
		}
		v = v.Elem()
	}
	status := 0
	switch e := err.(type) { //nolint:errorlint // each error of the tree is looked at
	case interface{ StatusCode() int }:
		status = e.StatusCode()
	case interface{ HTTPStatusCode() int }: // github.com/aws/smithy-go
		status = e.HTTPStatusCode()
	}
	if status == 0 && v.Kind() == reflect.Struct {
		status = fieldStatus(v)
	}
	if status != 0 {
		return status
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return statusOf(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if status = statusOf(inner); status != 0 {
				return status
			}
		}
	}
	return connectStatus(err)
}

// fieldStatus returns the status of the first exported field of an error that is
// a *http.Response.
func fieldStatus(v reflect.Value) int {
	for field, value := range v.Fields() {
		if !field.IsExported() {
			continue
		}
		if resp, ok := value.Interface().(*http.Response); ok && resp != nil {
			return resp.StatusCode
		}
	}
	return 0
}

// connectStatus returns the status with which a proxy refused a CONNECT. All
// that net/http tells of it is an error without a type, whose text is the
// reason phrase. A phrase that is the proxy's own is not known, so the refusal is
// then taken for temporary like any failure to connect.
func connectStatus(err error) int {
	if reflect.TypeOf(err) != reflect.TypeOf(errNoAnswer) { // both from errors.New
		return 0
	}
	text := err.Error()
	for status := 400; status <= 599; status++ {
		if phrase := http.StatusText(status); phrase != "" && strings.EqualFold(phrase, text) {
			return status
		}
	}
	return 0
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// APIError is an error response, parsed, whichever of the usual shapes its body
// has. It matches the sentinel of its Kind with errors.Is. Header and Body are
// shared with the response: read only.
type APIError struct {
	StatusCode int
	Kind       Kind

	// Code, Type and Message are from the error object in the body, empty
	// where there is none. A numeric code is kept as it was written.
	Code, Type, Message string

	// Invalid names the parameters that are wrong, usually with a 400. Either
	// part of one may be empty.
	Invalid []InvalidParam

	// RetryAfter is what the server asked for, rounded up to the millisecond
	// and at most 365 days; 0: no hint, or a time that has passed. It comes
	// from the first of these that can be understood: Retry-After-Ms and
	// X-Ms-Retry-After-Ms; Retry-After; a hint in the body, such as
	// "retry_after"; and, on a rate limit, the RateLimit fields and the many
	// like X-RateLimit-Reset, of quotas of which nothing remains.
	RetryAfter time.Duration

	// RequestID is the server's name for the request, from the first header
	// of X-Request-Id, Request-Id, X-Correlation-Id, X-Amzn-Requestid and
	// others, or from the body.
	RequestID string

	// Attempts is how many attempts there had been when this one was answered,
	// itself included; 0: not known, as the response came from elsewhere.
	Attempts int

	Header http.Header

	// Body is the beginning of the body, up to 64 KiB. It may be truncated,
	// and compressed if the caller asked for an encoding.
	Body []byte
}

// InvalidParam is one parameter that the server found wrong.
type InvalidParam struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Error returns the status and the error object in one line of bounded length:
// no header values, no raw body, control characters replaced.
func (e *APIError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "resilient: status %d", e.StatusCode)
	if e.Type != "" {
		b.WriteString(" " + plain.Line(e.Type, 64))
	}
	if e.Code != "" && e.Code != strconv.Itoa(e.StatusCode) {
		b.WriteString(" (" + plain.Line(e.Code, 64) + ")")
	}
	if e.Message != "" {
		b.WriteString(": " + plain.Line(e.Message, 200))
	}
	for i, p := range e.Invalid {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(e.Invalid)-i)
			break
		}
		b.WriteString("; " + plain.Line(p.Name, 64) + ": " + plain.Line(p.Reason, 100))
	}
	return b.String()
}

// Is reports whether target is the sentinel of e's Kind.
func (e *APIError) Is(target error) bool {
	switch e.Kind {
	case KindInvalidRequest:
		return target == ErrInvalidRequest
	case KindPaymentRequired:
		return target == ErrPaymentRequired
	case KindAuthentication:
		return target == ErrAuthentication
	case KindNotFound:
		return target == ErrNotFound
	case KindRateLimit, KindQuota:
		return target == ErrRateLimit
	case KindServer:
		return target == ErrServer
	}
	return false
}

// NonRetriable marks the error as final for the Azure SDK: what can be retried
// was retried before it became an error.
func (e *APIError) NonRetriable() {}

// RetryableError returns false, which the AWS SDK asks for. Whether the same
// request may succeed later is what Kind says.
func (e *APIError) RetryableError() bool { return false }

// ErrorType returns what OpenTelemetry calls error.type: the status, or the kind
// of an error that came as a success.
func (e *APIError) ErrorType() string {
	if e.StatusCode < 400 {
		return e.Kind.String()
	}
	return strconv.Itoa(e.StatusCode)
}

// ErrorFromResponse returns the parsed error object of a response whose status
// is 400 or more, or in which a [Profile] found an error, and whether it is such
// a response. It works on any response, whether or not it came through a
// [Transport], also on one that an SDK hands out after reading it.
//
// It reads at most 64 KiB of the body and puts them back, so that the body
// still reads from the beginning. A body that says nothing of an error, or is
// cut short, leaves Code, Type, Message and Invalid empty; a body that was read
// or closed by somebody else is missing if the response did not come from a
// Transport. Of the encodings that a caller may ask for itself, gzip and
// deflate are understood. On a body that is still arriving ErrorFromResponse
// blocks, as reading it would.
func ErrorFromResponse(resp *http.Response) (*APIError, bool) {
	if resp == nil {
		return nil, false
	}
	known := recall(resp)
	if resp.StatusCode < 400 && known.attempts == 0 {
		return nil, false
	}
	body := known.body.Value()
	if body == nil && resp.Body != nil && resp.Body != http.NoBody {
		body, _ = resp.Body.(*peek.Body)
		if body == nil {
			body = peek.New(resp, time.Now())
			resp.Body = body
		}
	}
	var prefix []byte
	received := time.Now()
	if body != nil {
		prefix, received = body.Prefix(), body.Received()
	}
	e, _ := known.profile.read(resp, prefix, errorobject.Decode(resp.Header, prefix), received)
	if known.attempts > 0 {
		e.Attempts, e.Kind = known.attempts, known.kind
		e.RetryAfter = max(e.RetryAfter, known.wait) // a mark may hide what a Rule said
	}
	return e, true
}

// verdicts holds what a Transport knows of the error responses it returned, as
// long as they are in use: the way back to it from a response whose body
// somebody has wrapped, as http.Client does when it has a Timeout, or emptied.
// It is the one state that is not a Transport's, since a response does not name
// the Transport it came through, and its Request has to be the caller's own.
var verdicts sync.Map //nolint:gochecknoglobals // see above; of weak.Pointer[http.Response] to verdict

// verdict is what is known of an error response beyond its bytes.
type verdict struct {
	status   int
	attempts int
	kind     Kind
	wait     time.Duration
	profile  *Profile
	// Weak, since a body often leads back to its response, which would then
	// never be let go. It lives as long as something reads from it.
	body weak.Pointer[peek.Body]
}

func remember(resp *http.Response, e *APIError, p *Profile) {
	key := weak.Make(resp)
	body, _ := resp.Body.(*peek.Body)
	known := verdict{e.StatusCode, e.Attempts, e.Kind, e.RetryAfter, p, weak.Make(body)}
	if _, again := verdicts.Swap(key, known); again {
		return // a base that returns one response again and again has its cleanup already
	}
	runtime.AddCleanup(resp, func(key weak.Pointer[http.Response]) { verdicts.Delete(key) }, key)
}

func recall(resp *http.Response) verdict {
	v, _ := verdicts.Load(weak.Make(resp))
	known, _ := v.(verdict)
	if known.status != resp.StatusCode {
		return verdict{} // somebody has made another response of it
	}
	return known
}
