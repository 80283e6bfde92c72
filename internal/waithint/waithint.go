// Package waithint reads how long a server asks its client to wait.
//
// There are two kinds of such hints. [Asked] reads what a server says about
// this very request: come back after so long. [Reset] reads the rate-limit
// fields, which tell when a quota is refilled; that is a wait only for a request
// that was refused for its rate, and only if that quota is the one used up.
//
// # Grammar
//
// A number is digits, with a fraction or without: no sign, no exponent, not
// "Inf". It counts seconds, unless the field's name or the configuration says
// otherwise; but from 946684800 on, which is 30 years or the beginning of 2000,
// it is a point in time, in seconds since 1970, from 1e11 on in milliseconds,
// from 1e14 on in microseconds and from 1e17 on in nanoseconds. Points in time
// are also read in the forms of RFC 9110 section 5.6.7. They are taken relative
// to the response's Date and Age, so that a wrong clock on either side does no
// harm. There are also durations, "8m24s", and, everywhere except in
// Retry-After, the form of RFC 3339, in which the seconds may be missing.
//
// A value that cannot be understood is as good as none, and the next source is
// asked. Waits are rounded up to the millisecond and cut off at [Max].
package waithint

import (
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/resilienthttp/resilient/internal/plain"
)

// Max is the longest wait there is, far from where a Duration would overflow.
const Max = 365 * 24 * time.Hour

const maxValue = 128 // bytes of a number, a date or a duration; longer ones are none

// Units are the fields that only a configuration can know: by their canonical
// names, what a number in them counts; 0 is for the grammar to tell. A field
// with "Reset" in its name is read by Reset, any other by Asked.
type Units map[string]time.Duration

// Asked returns how long the server asked to wait, and whether it did, from
//
//  1. Retry-After-Ms and X-Ms-Retry-After-Ms, which are finer than
//  2. Retry-After, RFC 9110 section 10.2.3
//  3. the fields in units
//  4. a member of the body, such as "retry_after" or "retryDelay"; body is what
//     encoding/json decodes it to, with numbers as json.Number
//
// received is when the response was, for want of a Date.
func Asked(h http.Header, body any, received time.Time, units Units) (time.Duration, bool) {
	now := serverTime(h, received)
	for _, name := range []string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		if d, ok := delta(h.Get(name), time.Millisecond); ok {
			return d, true
		}
	}
	if d, ok := retryAfter(h.Get("Retry-After"), now); ok {
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

// Reset returns when the quota is refilled that is used up, by the rate-limit
// fields of a request that was refused for its rate; of several quotas, the one
// that takes longest. It reads
//
//   - the RateLimit field of draft-ietf-httpapi-ratelimit-headers, a list of
//     quotas, "burst";r=0;t=7, or one quota, limit=9, remaining=0, reset=7
//   - the fields with a segment "Reset" after "RateLimit" or "Rate-Limit", under
//     any prefix and for any number of quotas, each with the field that has
//     "Remaining" in the place of "Reset"
//   - the fields in units
//
// A quota of which something remains does not count.
func Reset(h http.Header, received time.Time, units Units) (time.Duration, bool) {
	now := serverTime(h, received)
	var longest hint
	for name, values := range h {
		unit, configured := units[name]
		reset, remaining, fieldUnit := resetField(name)
		switch {
		case configured && strings.Contains(name, "Reset"):
			remaining = strings.Replace(name, "Reset", "Remaining", 1)
		case reset:
			unit = fieldUnit
		case strings.HasSuffix(name, "Ratelimit"):
			longest.add(rateLimit(strings.Join(values, ",")))
			continue
		default:
			continue
		}
		if left(h.Get(remaining)) {
			continue
		}
		for _, value := range values {
			longest.add(wait(value, unit, now))
		}
	}
	return longest.wait, longest.ok
}

// Refused reports whether the rate-limit fields say that a request was refused
// for its rate: nothing remains of a quota, or they stand beside a Retry-After.
func Refused(h http.Header) bool {
	for name := range h {
		reset, remaining, _ := resetField(name)
		if !reset {
			continue
		}
		if h.Get("Retry-After") != "" || h.Get(remaining) != "" && !left(h.Get(remaining)) {
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

// resetField reports whether name is that of a field such as X-RateLimit-Reset,
// and returns the name of the field that tells what remains, and the unit if
// the name has one. Names are canonical, as in http.Header.
func resetField(name string) (reset bool, remaining string, unit time.Duration) {
	segments := strings.Split(name, "-")
	limit := slices.Index(segments, "Ratelimit")
	if limit < 0 {
		if limit = slices.Index(segments, "Limit"); limit < 1 || segments[limit-1] != "Rate" {
			return false, "", 0
		}
	}
	before, rest := segments[:limit+1], segments[limit+1:]
	i := slices.IndexFunc(rest, func(s string) bool { return strings.HasPrefix(s, "Reset") })
	if i < 0 {
		return false, "", 0
	}
	between, rest := rest[:i], rest[i+1:]
	if len(rest) > 0 {
		switch rest[0] {
		case "Ms":
			unit, rest = time.Millisecond, rest[1:]
		case "After", "At", "Time", "Seconds":
			rest = rest[1:]
		}
	}
	return true, strings.Join(slices.Concat(before, between, []string{"Remaining"}, rest), "-"), unit
}

// left reports whether value, which tells what remains of a quota, says that
// anything does. What cannot be understood says nothing.
func left(value string) bool {
	value, _, _ = strings.Cut(value, ",")
	value, _, _ = strings.Cut(value, ";")
	f, ok := number(strings.TrimSpace(value))
	return ok && f > 0
}

// Quota is what a server says about a quota, before it refuses anything.
type Quota struct {
	Remaining float64
	Rate      float64       // refilled per second, by its policy; 0: not said
	Reset     time.Duration // until there is more, where nothing remains; 0: not said
}

// Remaining returns the quota of which the least remains, by the RateLimit field
// and its RateLimit-Policy. Fields such as X-RateLimit-Remaining are not read: they
// have no policy that says how fast the quota comes back. It is asked of every
// response, so it looks a field up before all else.
func Remaining(h http.Header) (Quota, bool) {
	fields := h["Ratelimit"]
	if len(fields) == 0 {
		return Quota{}, false
	}
	return structuredQuota(strings.Join(fields, ","), strings.Join(h["Ratelimit-Policy"], ","))
}

func structuredQuota(field, policies string) (quota Quota, found bool) {
	for _, item := range split(field, ',') {
		parts := split(item, ';')
		said := parameters(parts[1:])
		r, ok := number(said["r"])
		if !ok || found && r >= quota.Remaining {
			continue
		}
		quota, found = Quota{Remaining: r}, true
		quota.Reset, _ = delta(said["t"], time.Second)
		for _, policy := range split(policies, ',') {
			p := split(policy, ';')
			q, qOK := number(parameters(p[1:])["q"])
			w, wOK := number(parameters(p[1:])["w"])
			if p[0] == parts[0] && qOK && wOK && w > 0 {
				quota.Rate = q / w
			}
		}
	}
	return quota, found
}

func parameters(parts []string) map[string]string {
	m := make(map[string]string, len(parts))
	for _, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		m[name] = value
	}
	return m
}

// rateLimit reads the RateLimit field.
func rateLimit(field string) (time.Duration, bool) {
	var longest hint
	one := make(map[string]string)
	for _, item := range split(field, ',') {
		parts := split(item, ';')
		if name, value, ok := strings.Cut(parts[0], "="); ok && !strings.HasPrefix(parts[0], `"`) {
			one[name] = value // drafts 3 to 7: a single quota
			continue
		}
		quota := parameters(parts[1:])
		if !left(quota["r"]) {
			longest.add(delta(quota["t"], time.Second))
		}
	}
	if !left(one["remaining"]) {
		longest.add(delta(one["reset"], time.Second))
	}
	return longest.wait, longest.ok
}

// split splits s at each sep that is not in a quoted string of RFC 9651 section
// 3.3.3, and trims the parts.
func split(s string, sep byte) []string {
	var parts []string
	quoted, escaped, begin := false, false, 0
	for i := range len(s) {
		if escaped {
			escaped = false
			continue
		}
		escaped = quoted && s[i] == '\\'
		if s[i] == '"' {
			quoted = !quoted
		}
		if s[i] == sep && !quoted {
			parts = append(parts, strings.TrimSpace(s[begin:i]))
			begin = i + 1
		}
	}
	return append(parts, strings.TrimSpace(s[begin:]))
}

// bodyHints are the members that hold a hint, by their folded names, and their
// units; 0 is for the grammar to tell.
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

// maxDepth is how deep a hint may lie in a body: deeper, it is not about this
// request, but part of its data.
const maxDepth = 6

// search returns the first hint in value, the outer ones first and those beside
// one another in the order of their names.
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
			if _, known := bodyHints[plain.Fold(name)]; known {
				hints = append(hints, name)
			}
			switch value[name].(type) {
			case map[string]any, []any:
				inner = append(inner, name)
			}
		}
		slices.Sort(hints)
		for _, name := range hints {
			if d, ok := wait(scalar(value[name]), bodyHints[plain.Fold(name)], now); ok {
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

// refill returns how long a bucket takes to hold what a query costs, where a
// body says so as
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

// serverTime is the server's clock when the response arrived: its Date, and its
// Age if a cache kept it. It is the client's own clock if one of them makes no
// sense.
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

// age reads Age, a number of seconds without a fraction. Of a list, it is the
// first item (RFC 9111 section 5.1). An age of more than a year is nonsense, and
// so is the 2147483648 by which a cache says that its counter ran over.
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

// The numbers from which on a point in time is in another unit. In the unit
// before, each of them would be the year 5138.
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
	// Rounded, as a float64 holds 1767225664.57 not quite.
	at := time.UnixMicro(int64(math.Round(min(f, lastEpochSeconds) * 1e6)))
	return until(at, now), true
}

// duration reads a duration of Go, "8m24s", which no RFC has but servers send. A
// sign is outside the grammar, as it is in a number.
func duration(value string) (time.Duration, bool) {
	if value[0] == '-' || value[0] == '+' {
		return 0, false
	}
	d, err := time.ParseDuration(value)
	return saturate(float64(d)), err == nil
}

// wait reads value by the grammar of the package, which is wider than that of
// Retry-After. A number in it counts units, or if unit is 0, the grammar tells.
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

// number reads digits, with a fraction or without. strconv alone would let
// signs, exponents, hex, "Inf" and "NaN" through.
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

// saturate brings a wait in nanoseconds into [0, Max], rounded up to the
// millisecond: never early, never wrapped around.
func saturate(ns float64) time.Duration {
	ms := math.Ceil(ns / float64(time.Millisecond))
	return time.Duration(min(max(ms, 0), float64(Max/time.Millisecond))) * time.Millisecond
}
