// Package waithint reads how long a server asks its client to wait.
//
// There are two kinds of such hints. [Asked] reads the wait that the server asks
// for on this very request. [Reset] reads the rate-limit fields, which tell when a
// quota is refilled. That is a wait only for a request that was refused for its
// rate, and only if that quota is used up. [Remaining] reads how much of a quota
// is left before any request is refused.
//
// # Grammar
//
// A number is digits, with a fraction or without: no sign, no exponent, not
// "Inf". It counts seconds, unless the field's name or the configuration says
// otherwise. From 946684800 on, which is 30 years or the beginning of 2000, a
// number is a point in time instead: in seconds since 1970, from 1e11 on in
// milliseconds, from 1e14 on in microseconds and from 1e17 on in nanoseconds.
// Points in time are also read in the forms of RFC 9110 section 5.6.7. They are
// taken relative to the response's Date and Age, so that a wrong clock on either
// side does no harm. There are also durations, "8m24s", and, everywhere except in
// Retry-After, the form of RFC 3339, in which the seconds may be missing.
//
// A value that cannot be understood is ignored, and the next source is read. Waits
// are rounded up to the millisecond and limited to [Max].
//
// # Bounds
//
// Servers are not trusted, and [Remaining] reads every response. So a field is
// read up to 8 KiB and 32 items, all its lines together, and an item that does
// not end within these bounds is not read at all. A date, a duration or the name
// of a field has at most 128 bytes, and a number has at most 64 digits on either
// side of its point. Longer ones are ignored. Work is linear in the length of the
// header and of the body.
package waithint

import (
	"cmp"
	"encoding/json"
	"iter"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/resilienthttp/resilient/internal/word"
)

// Max is the longest wait that is returned. A Duration is far from overflowing
// there.
const Max = 365 * 24 * time.Hour

// The bounds of the package doc. The longest fields of real servers have a few
// hundred bytes.
const (
	maxField = 8 << 10 // bytes of a field, all its lines together
	maxItems = 32      // items of a field
	maxValue = 128     // bytes of a number, a date, a duration or a name
)

// Units are further fields that are configured for an API. It maps their canonical
// names to the unit of a number in them. With 0, the grammar of the package
// decides. A field with "Reset" in its name is read by Reset, and any other by
// Asked.
type Units map[string]time.Duration

// Asked returns how long the server asked to wait, and whether it did, from
//
//  1. Retry-After-Ms and X-Ms-Retry-After-Ms, which are finer than
//  2. Retry-After, RFC 9110 section 10.2.3
//  3. the fields in units
//  4. a member of the body, such as "retry_after" or "retryDelay"
//
// body is decoded by encoding/json, with numbers as json.Number. received is the
// time at which the response arrived. It is used if the response has no Date.
func Asked(h http.Header, body any, received time.Time, units Units) (time.Duration, bool) {
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if d, ok := delta(h.Get(name), time.Millisecond); ok {
			return d, true
		}
	}
	after := h.Get("Retry-After")
	if after == "" && len(units) == 0 && body == nil {
		return 0, false // before the time is worked out, which costs more than all the rest
	}
	now := serverTime(h, received)
	if d, ok := retryAfter(after, now); ok {
		return d, true
	}
	var longest hint
	for name, unit := range units {
		if !strings.Contains(name, "Reset") {
			longest.add(wait(h.Get(name), unit, now))
		}
	}
	if longest.ok {
		return longest.wait, true
	}
	return search(body, now, maxDepth)
}

// Reset returns how long it takes until the quota that is used up is refilled,
// according to the rate-limit fields on a request that was refused for its rate.
// If several quotas are used up, the longest of their times counts. It reads
//
//   - the RateLimit field of draft-ietf-httpapi-ratelimit-headers, a list of
//     quotas, "burst";r=0;t=7, or one quota, limit=9, remaining=0, reset=7. The
//     next draft has a for r and w for t.
//   - the fields with a segment "Reset" after "RateLimit" or "Rate-Limit", under
//     any prefix and for any number of quotas, each with the field that has
//     "Remaining" in the place of "Reset"
//   - the fields of any other name with "Reset" in it that is about a limit, if
//     the field with "Remaining" in the place of "Reset" is there and is 0
//   - the fields in units
//
// A quota that is not used up does not count. The unit of a quota makes no
// difference: if a quota of bytes is used up, requests are refused too.
//
// A field may be a list, with an item for each window of the quota. Reset and
// Remaining are paired by position. A field of one item is about all windows.
func Reset(h http.Header, received time.Time, units Units) (time.Duration, bool) {
	var longest hint
	for w := range windows(h, serverTime(h, received), units) {
		if w.left != some && (w.left == nothing || !w.strict) {
			longest.add(w.wait, w.ok)
		}
	}
	return longest.wait, longest.ok
}

// UsedUp reports whether the fields themselves say that a quota is used up: the
// remaining amount is the number 0, and the same fields tell when the quota is
// refilled. An item of the RateLimit field counts even if it does not tell when.
func UsedUp(h http.Header, units Units) bool {
	for w := range windows(h, time.Time{}, units) {
		if w.left == nothing && (w.ok || w.item) {
			return true
		}
	}
	return false
}

// Refused reports whether the rate-limit fields say that a request was refused
// for its rate: the remaining amount of a quota is 0, or it is a word or a negative
// number, or there is a Retry-After as well. The RateLimit field counts only if an
// amount in it is 0, and so do Reset fields whose names are not those of a rate
// limit.
func Refused(h http.Header) bool {
	late := h.Get("Retry-After") != ""
	for w := range windows(h, time.Time{}, nil) {
		if w.left == nothing || !w.strict && !w.item && (late || w.left == unclear) {
			return true
		}
	}
	return false
}

// hint is the longest wait of several.
type hint struct {
	wait time.Duration
	ok   bool
}

func (l *hint) add(d time.Duration, ok bool) {
	if ok {
		l.wait, l.ok = max(l.wait, d), true
	}
}

// window is one window of a quota, as the fields of a response describe it.
type window struct {
	left   left
	wait   time.Duration // until the quota is refilled
	ok     bool          // whether wait is known
	strict bool          // the fields are only known to be about a quota if the remaining amount is 0
	item   bool          // an item of the RateLimit field
}

// left is how much is left in a window.
type left int

const (
	unsaid  left = iota // the field is missing or empty
	unclear             // a word, or a negative number
	nothing             // 0
	some                // more than 0
)

// leftOf reads how much is left. A negative number is unclear, because some
// servers use it for an excess and others for the absence of a limit.
func leftOf(value string) left {
	f, ok := number(value)
	switch {
	case value == "":
		return unsaid
	case !ok:
		return unclear
	case f == 0:
		return nothing
	}
	return some
}

// windows returns all windows that the fields of h describe.
func windows(h http.Header, now time.Time, units Units) iter.Seq[window] {
	return func(yield func(window) bool) {
		for name, lines := range h {
			if strings.HasSuffix(name, "Ratelimit") {
				if !rateLimit(lines, yield) {
					return
				}
				continue
			}
			f, ok := resetField(name)
			if unit, configured := units[name]; configured && strings.Contains(name, "Reset") {
				ok, f.unit, f.strict = true, unit, false
				f.remaining = strings.Replace(name, "Reset", "Remaining", 1)
			}
			if ok && (!f.strict || f.limited || len(h[f.limit]) > 0) && !f.windows(lines, h[f.remaining], now, yield) {
				return
			}
		}
	}
}

// field describes a field such as X-RateLimit-Reset by its name.
type field struct {
	remaining, limit string        // the fields that belong to it
	unit             time.Duration // the unit in the name, or 0
	strict           bool          // the name is not that of a rate limit
	limited          bool          // the name is about a limit
}

// resetField reads the name of a field, and reports whether it may tell when a
// quota is refilled. Names are canonical, as in http.Header.
func resetField(name string) (f field, ok bool) {
	if len(name) > maxValue || !strings.Contains(name, "eset") { // most names, without an allocation
		return f, false
	}
	segments := strings.Split(name, "-")
	i := -1
	if begin := afterRateLimit(segments); begin > 0 {
		if i = slices.IndexFunc(segments[begin:], isReset); i >= 0 {
			i += begin
		}
	}
	if f.strict = i < 0; f.strict {
		if i = slices.IndexFunc(segments, isReset); i < 0 {
			i = slices.IndexFunc(segments, func(s string) bool { return strings.HasSuffix(s, "reset") })
		}
	}
	if i < 0 {
		return f, false
	}
	lower := strings.ToLower(name)
	f.limited = strings.Contains(lower, "limit") || strings.Contains(lower, "quota") || slices.Contains(segments, "Rate")

	rest := segments[i+1:]
	if len(rest) > 0 {
		switch rest[0] {
		case "Ms":
			f.unit, rest = time.Millisecond, rest[1:]
		case "After", "At", "Time", "Seconds":
			rest = rest[1:]
		}
	}
	beside := func(word string) string {
		if before, found := strings.CutSuffix(segments[i], "reset"); found {
			word = before + strings.ToLower(word) // Userreset, Userremaining
		}
		return strings.Join(slices.Concat(segments[:i], []string{word}, rest), "-")
	}
	f.remaining, f.limit = beside("Remaining"), beside("Limit")
	return f, true
}

// afterRateLimit returns the index of the segment after "RateLimit" or
// "Rate-Limit", or 0 if the name has neither.
func afterRateLimit(segments []string) int {
	for i, s := range segments {
		if s == "Ratelimit" || s == "Limit" && i > 0 && segments[i-1] == "Rate" {
			return i + 1
		}
	}
	return 0
}

func isReset(segment string) bool { return strings.HasPrefix(segment, "Reset") }

// windows passes on the windows of a Reset field and of the Remaining field that
// belongs to it. It reports whether there may be more.
func (f field) windows(resets, remaining []string, now time.Time, yield func(window) bool) bool {
	var at, of [maxItems]string
	r, n := at[:elements(resets, &at)], of[:elements(remaining, &of)]
	for i := range max(len(r), len(n)) {
		w := window{strict: f.strict}
		if value, ok := pick(r, i); ok {
			w.wait, w.ok = wait(value, f.unit, now)
		}
		if value, ok := pick(n, i); ok {
			w.left = leftOf(value)
		} else if len(n) > 0 {
			continue // Remaining does not describe this window
		}
		if !yield(w) {
			return false
		}
	}
	return true
}

// pick returns the item at a position. A list of one has the same item at all
// positions.
func pick(list []string, i int) (value string, ok bool) {
	if len(list) == 1 {
		i = 0
	}
	if i >= len(list) {
		return "", false
	}
	return list[i], true
}

// elements reads a list of plain values, without their parameters, and returns
// their number. The comma in a date does not end a value.
func elements(lines []string, into *[maxItems]string) (n int) {
	day := ""
	for item := range items(lines, strings.Cut) {
		if day != "" {
			item = day + ", " + item
		}
		if day = ""; isDay(item) {
			day = item
			continue
		}
		value, _, _ := strings.Cut(item, ";")
		into[n] = strings.TrimSpace(value)
		n++
	}
	return n
}

func isDay(s string) bool {
	for day := time.Sunday; day <= time.Saturday; day++ {
		if name := day.String(); s == name || s == name[:3] {
			return true
		}
	}
	return false
}

// items returns the items of a list, within the bounds of the package. All lines
// of a field form one list (RFC 9110 section 5.3). cut is strings.Cut or
// cutUnquoted.
func items(lines []string, cut func(s, sep string) (before, after string, found bool)) iter.Seq[string] {
	return func(yield func(string) bool) {
		bytes, n := maxField, 0
		for _, rest := range lines {
			short := len(rest) > bytes
			if short {
				rest = rest[:bytes]
			}
			bytes -= len(rest)
			for found := true; found; n++ {
				var item string
				item, rest, found = cut(rest, ",")
				if n == maxItems || short && !found || !yield(strings.TrimSpace(item)) {
					return
				}
			}
		}
	}
}

// Quota is the state of a quota, which a server advertises before it refuses any
// request.
type Quota struct {
	Remaining float64
	Rate      float64       // refilled per second, by its policy, or 0 if unknown
	Reset     time.Duration // until the quota is refilled, or 0 if unknown
}

// Remaining returns the quota with the smallest remaining amount, according to the
// RateLimit field and its RateLimit-Policy. Only quotas of requests count, because
// only these can be compared with one another and with the requests to come.
// Fields such as X-RateLimit-Remaining are not read, because they have no policy
// that says how fast the quota is refilled. Remaining is called for every
// response, so it first checks that the field is there.
func Remaining(h http.Header) (Quota, bool) {
	lines := h["Ratelimit"]
	if len(lines) == 0 {
		return Quota{}, false
	}
	return remaining(lines, h["Ratelimit-Policy"])
}

func remaining(lines, policyLines []string) (least Quota, found bool) {
	var all [maxItems]item
	policies := parseAll(all[:0], policyLines)
	for s := range items(lines, cutUnquoted) {
		it := parse(s)
		r, ok := number(it.r)
		if !ok || found && r >= least.Remaining || !isRequests(it.qu) {
			continue
		}
		rate, requests := it.policy(policies)
		if !requests {
			continue
		}
		least, found = Quota{Remaining: r, Rate: rate}, true
		least.Reset, _ = delta(it.t, time.Second)
	}
	return least, found
}

// Fields are the names of three header fields that tell the state of a quota. Limit and
// Reset may be empty.
type Fields struct{ Limit, Remaining, Reset string }

// Named returns the quota that fields of these names tell, and its limit, or 0 if that is
// unknown: what there is when nothing was used. The time in Reset is that until the
// quota is whole again, and its rate is what was used in this time.
func Named(h http.Header, received time.Time, f Fields) (q Quota, limit float64, ok bool) {
	if q.Remaining, ok = number(strings.TrimSpace(h.Get(f.Remaining))); !ok {
		return Quota{}, 0, false
	}
	limit, _ = number(strings.TrimSpace(h.Get(f.Limit)))
	if value := h.Get(f.Reset); value != "" {
		q.Reset, _ = wait(value, 0, serverTime(h, received))
	}
	if used := limit - q.Remaining; used > 0 && q.Reset > 0 {
		q.Rate = used / q.Reset.Seconds()
	}
	return q, limit, true
}

// OfUnit returns the quota with the smallest remaining amount of those that count in a
// unit, or have it for their name, according to the RateLimit field and its
// RateLimit-Policy, and its limit, as Named does.
func OfUnit(h http.Header, unit string) (least Quota, limit float64, found bool) {
	lines := h["Ratelimit"]
	if len(lines) == 0 {
		return Quota{}, 0, false
	}
	var all [maxItems]item
	policies := parseAll(all[:0], h["Ratelimit-Policy"])
	for s := range items(lines, cutUnquoted) {
		it := parse(s)
		r, ok := number(it.r)
		if !ok || found && r >= least.Remaining {
			continue
		}
		q, whole := Quota{Remaining: r}, 0.0
		q.Reset, _ = delta(it.t, time.Second)
		counts, byName := it.counts(unit), it.isNamed(policies)
		for _, p := range policies {
			if !it.has(p, byName) {
				continue
			}
			counts = counts || p.counts(unit)
			quota, _ := number(p.q)
			if window, _ := number(p.w); quota > 0 && window > 0 {
				whole, q.Rate = quota, quota/window
			}
		}
		if counts {
			least, limit, found = q, whole, true
		}
	}
	return least, limit, found
}

// counts reports whether the item counts in a unit, or is named after it.
func (it item) counts(unit string) bool {
	return strings.EqualFold(it.qu, unit) || strings.EqualFold(it.name, unit)
}

// item is an item of RateLimit or RateLimit-Policy. The names of its fields are
// those of the parameters. The cost of this request, c, is not read, because the
// next request may have another cost.
type item struct {
	name, alias string // without quotes
	r, t        string
	q, w, qu    string
}

// parse reads an item. A quoted string in the place of a parameter is another
// name of the item. No grammar has such a string, but one large API sends policies
// such as "fixed window";"api";q=500;w=300 with the state "api";r=489;t=189.
func parse(s string) (it item) {
	name, rest, found := cutUnquoted(s, ";")
	it.name = unquoted(name)
	var a string
	for found {
		var parameter string
		parameter, rest, found = cutUnquoted(rest, ";")
		parameter = strings.TrimSpace(parameter)
		if strings.HasPrefix(parameter, `"`) {
			it.alias = unquoted(parameter)
			continue
		}
		key, value, _ := strings.Cut(parameter, "=")
		switch key {
		case "r":
			it.r = value
		case "t":
			it.t = value
		case "a": // r in the next draft
			a = value
		case "w": // t in the next draft, and in any draft the window of a policy
			it.w = value
		case "q":
			it.q = value
		case "qu":
			it.qu = unquoted(value)
		}
	}
	it.r, it.t = cmp.Or(it.r, a), cmp.Or(it.t, it.w)
	return it
}

// parseAll appends all items of a field.
func parseAll(into []item, lines []string) []item {
	for s := range items(lines, cutUnquoted) {
		into = append(into, parse(s))
	}
	return into
}

// policy returns the rate of the policy that belongs to an item, and reports
// whether the policy counts requests. An item without a policy counts requests,
// because that is the default unit.
func (it item) policy(policies []item) (rate float64, requests bool) {
	byName := it.isNamed(policies)
	for _, p := range policies {
		if !it.has(p, byName) {
			continue
		}
		if !isRequests(p.qu) {
			return 0, false
		}
		q, qOK := number(p.q)
		w, wOK := number(p.w)
		if qOK && wOK && w > 0 {
			rate = q / w
		}
	}
	return rate, true
}

// isNamed reports whether one of the policies has the name of the item.
func (it item) isNamed(policies []item) bool {
	return slices.ContainsFunc(policies, func(p item) bool { return p.name == it.name })
}

// has reports whether a policy is that of the item: by its name if there is one with it,
// and otherwise by another name.
func (it item) has(p item, byName bool) bool {
	if byName {
		return p.name == it.name
	}
	return it.sharesAlias(p)
}

// sharesAlias reports whether the second name of one item is a name of the other.
func (it item) sharesAlias(p item) bool {
	return p.alias != "" && (p.alias == it.name || p.alias == it.alias) || it.alias != "" && it.alias == p.name
}

// isRequests reports whether a quota unit is one request. The draft says
// "requests", and its examples have said "request".
func isRequests(unit string) bool {
	return unit == "" || strings.EqualFold(unit, "request") || strings.EqualFold(unit, "requests")
}

// rateLimit passes on the windows of the RateLimit field, and reports whether
// there may be more.
func rateLimit(lines []string, yield func(window) bool) bool {
	var remaining, reset string // drafts 3 to 7 have a single quota
	for s := range items(lines, cutUnquoted) {
		name, _, _ := cutUnquoted(s, ";")
		if key, value, ok := strings.Cut(name, "="); ok && !strings.HasPrefix(name, `"`) {
			switch key {
			case "remaining":
				remaining = value
			case "reset":
				reset = value
			}
			continue
		}
		it := parse(s)
		w := window{item: true, left: leftOf(it.r)}
		w.wait, w.ok = delta(it.t, time.Second)
		if !yield(w) {
			return false
		}
	}
	w := window{item: true, left: leftOf(remaining)}
	w.wait, w.ok = delta(reset, time.Second)
	return yield(w)
}

// cutUnquoted is like strings.Cut, but ignores separators in the quoted strings of
// RFC 9651 section 3.3.3.
func cutUnquoted(s, sep string) (before, after string, found bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && c == sep[0]:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// unquoted returns a name without its quotes, so that a token and a string can be
// the same name.
func unquoted(s string) string { return strings.Trim(strings.TrimSpace(s), `"`) }

// bodyHints maps the folded names of the members that hold a hint to their units.
// With 0, the grammar of the package decides.
var bodyHints = map[string]time.Duration{
	"retryafter":             0,
	"retryinseconds":         time.Second,
	"retryafterseconds":      time.Second,
	"retryafterms":           time.Millisecond,
	"retryaftermillis":       time.Millisecond,
	"retryaftermilliseconds": time.Millisecond,
	"retrydelay":             0, // google.rpc.RetryInfo: "34.07s"
	"retryat":                0,
	"ratelimitnext":          0,
}

// maxDepth is the maximum depth of a hint in a body. A deeper one is not about this
// request, but part of its data.
const maxDepth = 6

// search returns the first hint in value. Outer members come before inner ones,
// and members of the same object come in the order of their names.
func search(value any, now time.Time, depth int) (time.Duration, bool) {
	if depth == 0 {
		return 0, false
	}
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			if d, ok := search(element, now, depth-1); ok {
				return d, true
			}
		}
	case map[string]any:
		var hints, inner []string
		for name := range value {
			if _, known := bodyHints[word.Fold(name)]; known {
				hints = append(hints, name)
			}
			switch value[name].(type) {
			case map[string]any, []any:
				inner = append(inner, name)
			}
		}
		slices.Sort(hints)
		for _, name := range hints {
			if d, ok := wait(scalar(value[name]), bodyHints[word.Fold(name)], now); ok {
				return d, true
			}
		}
		if d, ok := refill(value); ok {
			return d, true
		}
		slices.Sort(inner)
		for _, name := range inner {
			if d, ok := search(value[name], now, depth-1); ok {
				return d, true
			}
		}
	}
	return 0, false
}

// refill returns how long a bucket takes until it holds the cost of a query, from
// a body such as
//
//	{"requestedQueryCost":9,"throttleStatus":{"currentlyAvailable":5,"restoreRate":2}}
func refill(m map[string]any) (time.Duration, bool) {
	bucket, _ := m["throttleStatus"].(map[string]any)
	cost, costOK := number(scalar(m["requestedQueryCost"]))
	level, levelOK := number(scalar(bucket["currentlyAvailable"]))
	rate, rateOK := number(scalar(bucket["restoreRate"]))
	if !costOK || !levelOK || !rateOK || rate == 0 || cost <= level {
		return 0, false
	}
	return saturate((cost - level) / rate * float64(time.Second)), true
}

func scalar(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case json.Number:
		return value.String()
	}
	return ""
}

// serverTime returns the time of the server's clock when the response arrived: its
// Date, plus its Age if it came from a cache. If Date is missing or one of them is
// invalid, it returns received, which is the client's own time.
func serverTime(h http.Header, received time.Time) time.Time {
	value := h.Get("Date")
	age, ok := age(h)
	if value == "" || len(value) > maxValue || !ok {
		return received
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return received
	}
	return date.Add(age)
}

// age reads Age, a number of seconds without a fraction. If it is a list, the
// first item counts (RFC 9111 section 5.1). An age of more than a year is invalid,
// and so is 2147483648, which a cache sends if its counter overflowed.
func age(h http.Header) (time.Duration, bool) {
	value := h.Get("Age")
	if value == "" {
		return 0, true
	}
	value, _, _ = strings.Cut(value[:min(len(value), maxValue)], ",")
	seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31)
	d := time.Duration(seconds) * time.Second
	return d, err == nil && d <= Max
}

// Each unit of a point in time begins at one of these numbers. In the preceding
// unit, each of them would be the year 5138.
const (
	firstEpoch       = 946684800 // seconds: a number from here on is a point in time
	firstMilliEpoch  = 1e11
	firstMicroEpoch  = 1e14
	firstNanoEpoch   = 1e17
	lastEpochSeconds = 1e12 // far beyond Max, and its microseconds fit an int64
)

// retryAfter reads a number, which is seconds unless it can only be a point in
// time, a point in time in one of the forms of RFC 9110 section 5.6.7, or a
// duration.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if value == "" || len(value) > maxValue {
		return 0, false
	}
	f, ok := number(value)
	if !ok {
		if at, err := http.ParseTime(value); err == nil {
			return until(at, now), true
		}
		return duration(value)
	}
	switch {
	case f < firstEpoch:
		return delta(value, time.Second)
	case f >= firstNanoEpoch:
		f /= 1e9
	case f >= firstMicroEpoch:
		f /= 1e6
	case f >= firstMilliEpoch:
		f /= 1e3
	}
	// It is rounded because a float64 cannot represent 1767225664.57 exactly.
	at := time.UnixMicro(int64(math.Round(min(f, lastEpochSeconds) * 1e6)))
	return until(at, now), true
}

// duration reads a duration of Go, "8m24s". It is in no RFC, but servers send it.
// A sign is not allowed, just as in a number.
func duration(value string) (time.Duration, bool) {
	if value[0] == '-' || value[0] == '+' {
		return 0, false
	}
	d, err := time.ParseDuration(value)
	return saturate(float64(d)), err == nil
}

// wait reads value by the grammar of the package, which is wider than that of
// Retry-After. A number in it counts units. If unit is 0, the grammar decides.
func wait(value string, unit time.Duration, now time.Time) (time.Duration, bool) {
	if unit > 0 {
		if d, ok := delta(value, unit); ok {
			return d, true
		}
	}
	if d, ok := retryAfter(value, now); ok {
		return d, true
	}
	value = strings.TrimSpace(value)
	if len(value) > maxValue {
		return 0, false
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if at, err := time.Parse(layout, value); err == nil {
			return until(at, now), true
		}
	}
	return 0, false
}

func until(at, now time.Time) time.Duration { return saturate(float64(at.Sub(now))) }

// delta reads a number of units.
func delta(value string, unit time.Duration) (time.Duration, bool) {
	f, ok := number(strings.TrimSpace(value))
	return saturate(math.Round(f * float64(unit))), ok // whole nanoseconds: 0.729 s is not 729.0000001 ms
}

// number reads digits, with a fraction or without. strconv alone would also accept
// signs, exponents, hexadecimal numbers, "Inf" and "NaN".
func number(s string) (float64, bool) {
	whole, fraction, dot := strings.Cut(s, ".")
	if !isDigits(whole) || dot && !isDigits(fraction) {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

func isDigits(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// saturate limits a wait in nanoseconds to [0, Max] and rounds it up to the
// millisecond, so that it is never too early and never overflows.
func saturate(ns float64) time.Duration {
	ms := math.Ceil(ns / float64(time.Millisecond))
	return time.Duration(min(max(ms, 0), float64(Max/time.Millisecond))) * time.Millisecond
}
