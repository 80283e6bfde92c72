package waithint_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/waithint"
)

const (
	none = -1 // no hint, as opposed to a hint of 0
	date = "Thu, 01 Jan 2026 00:00:00 GMT"
	year = 365 * 24 * time.Hour
)

// received is a quarter of an hour after date: the client's clock is wrong.
var received = time.Date(2026, 1, 1, 0, 15, 0, 0, time.UTC)

func header(fields ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		h.Add(fields[i], fields[i+1])
	}
	return h
}

func decode(tb testing.TB, body string) any {
	tb.Helper()
	if body == "" {
		return nil
	}
	var value any
	dec := json.NewDecoder(strings.NewReader(body))
	dec.UseNumber()
	require.NoError(tb, dec.Decode(&value))
	return value
}

func orNone(d time.Duration, ok bool) time.Duration {
	if !ok {
		return none
	}
	return d
}

func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  time.Duration
		why   string
	}{
		{"17", 17 * time.Second, "delta-seconds of RFC 9110 section 10.2.3"},
		{"0", 0, "now"},
		{" \t42 ", 42 * time.Second, "white space is trimmed"},
		{"007", 7 * time.Second, "leading zeros"},
		{"1.5", 1500 * time.Millisecond, "no RFC has fractions, but servers do"},
		{"0.729", 729 * time.Millisecond, "which a float64 does not hold exactly"},
		{"34.074824224", 34075 * time.Millisecond, "up to the millisecond: never early"},
		{"0.0000001", time.Millisecond, "a nanosecond is not now"},
		{"946684799", year, "a long time, cut off"},
		{"946684800", 0, "a point in time: the year 2000 is over"},
		{"1767225690", 90 * time.Second, "a point in time"},
		{"1767225690.25", 90250 * time.Millisecond, "one with a fraction"},
		{"1767225690000", 90 * time.Second, "one in milliseconds"},
		{"100000000000", 0, "the first one in milliseconds, long ago"},
		{"99999999999", year, "the last one in seconds"},
		{"1767225690000000", 90 * time.Second, "one in microseconds"},
		{"1767225690000000.5", 90001 * time.Millisecond, "with a fraction, rounded up"},
		{"99999999999999", year, "the last one in milliseconds"},
		{"100000000000000", 0, "the first one in microseconds, long ago"},
		{"1767225690000000000", 90 * time.Second, "one in nanoseconds"},
		{"99999999999999900", year, "about the last one in microseconds"},
		{"100000000000000000", 0, "the first one in nanoseconds, long ago"},
		{"9223372037", year, "seconds that overflow a Duration"},
		{"99999999999999999999", year, "20 digits"},
		{strings.Repeat("9", 64), year, "as many digits as are read"},
		{strings.Repeat("9", 65), none, "more than anybody means"},
		{"1." + strings.Repeat("9", 400), none, "in the fraction too"},
		{"-5", none, "outside the grammar, and not 0"},
		{"+1", none, "a sign"},
		{"1e3", none, "an exponent"},
		{"0x10", none, "hex"},
		{"Inf", none, "which strconv.ParseFloat takes"},
		{"NaN", none, "as it does this"},
		{"1_000", none, "and this"},
		{"²", none, "no ASCII digit"},
		{"١٢", none, "nor are these"},
		{"1.", none, "no digits after the dot"},
		{".5", none, "none before it"},
		{"1.2.3", none, "two dots"},
		{"120, 240", none, "two values that a proxy joined"},
		{"soon", none, "a word"},
		{"", none, "empty"},
		{"30s", 30 * time.Second, "a duration is in no RFC, but servers send it"},
		{"1m30s", 90 * time.Second, "one of several parts"},
		{"1.5h", 90 * time.Minute, "one with a fraction"},
		{"250ms", 250 * time.Millisecond, "less than a second"},
		{"0s", 0, "now"},
		{" 30s ", 30 * time.Second, "white space is trimmed"},
		{"-30s", none, "outside the grammar, and not 0"},
		{"+30s", none, "a sign of either kind"},
		{"9999999h", none, "more than a Duration holds"},
		{"s", none, "a unit alone"},
		{"30 s", none, "a duration has no blanks"},
		{strings.Repeat("1s", 64), 64 * time.Second, "as long as values are read"},
		{strings.Repeat("1s", 64) + "1s", none, "longer than that"},
		{"2026-01-01T00:02:00Z", none, "RFC 3339 is in no grammar of Retry-After"},
		{"Thu, 01 Jan 2026 00:02:00 GMT", 2 * time.Minute, "IMF-fixdate, against Date"},
		{"Thursday, 01-Jan-26 00:02:00 GMT", 2 * time.Minute, "RFC 850"},
		{"Thu Jan  1 00:02:00 2026", 2 * time.Minute, "asctime"},
		{date, 0, "now"},
		{"Wed, 31 Dec 2025 00:00:00 GMT", 0, "the past"},
		{"Fri, 31 Dec 9999 00:00:00 GMT", year, "further than a Duration reaches"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			require.Equal(t, tt.want, orNone(waithint.Asked(header("Retry-After", tt.value, "Date", date), nil, received, nil)))
		})
	}
}

func TestClock(t *testing.T) {
	const at = "Thu, 01 Jan 2026 00:20:00 GMT"
	for _, tt := range []struct {
		header http.Header
		want   time.Duration
		why    string
	}{
		{header("Date", date), 20 * time.Minute, "the server's clock"},
		{header(), 5 * time.Minute, "ours, for want of a Date"},
		{header("Date", "today"), 5 * time.Minute, "or of one that is one"},
		{header("Date", date+strings.Repeat(" ", 128)), 5 * time.Minute, "or of one of a reasonable length"},
		{header("Date", date, "Age", "0"), 20 * time.Minute, "a cache that has just asked the server"},
		{header("Date", date, "Age", "60"), 19 * time.Minute, "a cache kept the response, and Date is as old as Age says: RFC 9111 section 4.2.3"},
		{header("Date", date, "Age", "060"), 19 * time.Minute, "leading zeros"},
		{header("Date", date, "Age", ""), 20 * time.Minute, "an empty field is as good as none"},
		{header("Date", date, "Age", "60, 120"), 19 * time.Minute, "of a list the first item: RFC 9111 section 5.1"},
		{header("Date", date, "Age", "60", "Age", "120"), 19 * time.Minute, "two lines are one list"},
		{header("Date", date, "Age", "31536000"), 0, "a year, the most that is believed"},
		{header("Date", date, "Age", "31536001"), 5 * time.Minute, "more than a year: ours"},
		{header("Date", date, "Age", "2147483648"), 5 * time.Minute, "a counter that ran over, RFC 9111 section 1.2.2"},
		{header("Date", date, "Age", strings.Repeat("9", 400)), 5 * time.Minute, "many digits"},
		{header("Date", date, "Age", "-60"), 5 * time.Minute, "a sign"},
		{header("Date", date, "Age", "+60"), 5 * time.Minute, "of either kind"},
		{header("Date", date, "Age", "1.5"), 5 * time.Minute, "a fraction"},
		{header("Date", date, "Age", "old"), 5 * time.Minute, "a word"},
		{header("Date", "today", "Age", "60"), 5 * time.Minute, "an Age without a Date"},
	} {
		tt.header.Set("Retry-After", at)
		require.Equal(t, tt.want, orNone(waithint.Asked(tt.header, nil, received, nil)), tt.why)
	}
}

func TestAskedInOrder(t *testing.T) {
	units := waithint.Units{"X-Wait": 0, "X-Wait-Tenths": 100 * time.Millisecond, "X-Other-Reset": time.Second}
	for _, tt := range []struct {
		header http.Header
		body   string
		want   time.Duration
		why    string
	}{
		{header("Retry-After-Ms", "250", "Retry-After", "9"), "", 250 * time.Millisecond, "milliseconds are finer"},
		{header("X-Ms-Retry-After-Ms", "40", "Retry-After", "9"), "", 40 * time.Millisecond, "under both names"},
		{header("Retry-After-Ms", "0.5"), "", time.Millisecond, "with a fraction"},
		{header("Retry-After-Ms", "x", "X-Ms-Retry-After-Ms", "y", "Retry-After", "2"), "", 2 * time.Second, "bad ones fall through"},
		{header("Retry-After-Ms", "1767225690000"), "", year, "a number of milliseconds is never a point in time"},
		{header("Retry-After", "3", "Retry-After", "4"), "", 3 * time.Second, "the first of two"},
		{header("Retry-After", "3"), `{"retry_after":9}`, 3 * time.Second, "headers before the body"},
		{header("Retry-After", "soon"), `{"retry_after":9}`, 9 * time.Second, "a bad header falls through"},
		{header("Retry-After", "0"), `{"retry_after":9}`, 0, "0 is a hint"},
		{header("X-Wait", "3"), `{"retry_after":9}`, 3 * time.Second, "a configured header before the body"},
		{header("X-Wait", "3", "Retry-After", "2"), "", 2 * time.Second, "and after the known ones"},
		{header("X-Wait", "1767225690"), "", 90 * time.Second, "unit 0: the grammar tells"},
		{header("X-Wait", "1m30s"), "", 90 * time.Second, "a duration"},
		{header("X-Wait", "2026-01-01T01:01:30+01:00"), "", 90 * time.Second, "RFC 3339"},
		{header("X-Wait", "2026-01-01T00:03Z"), "", 3 * time.Minute, "without seconds"},
		{header("X-Wait", "1767225690000000"), "", 90 * time.Second, "in microseconds"},
		{header("X-Wait", "2026-01-01T00:03Z"+strings.Repeat(" ", 200)), "", 3 * time.Minute, "blanks around it do not count"},
		{header("X-Wait", "2026-01-01T00:03:00."+strings.Repeat("0", 107)+"Z"), "", 3 * time.Minute, "as long as values are read"},
		{header("X-Wait", "2026-01-01T00:03:00."+strings.Repeat("0", 108)+"Z"), "", none, "longer than that"},
		{header("X-Wait", "Thu, 01 Jan 2026 00:02:00 GMT"), "", 2 * time.Minute, "a date"},
		{header("X-Wait", "-1m"), "", none, "a sign"},
		{header("X-Wait", "+1m"), "", none, "of either kind"},
		{header("X-Wait", "9999999h"), "", none, "an overflow"},
		{header("X-Wait", "tomorrow"), "", none, "a word"},
		{header("X-Wait-Tenths", "15"), "", 1500 * time.Millisecond, "its own unit"},
		{header("X-Wait-Tenths", "1767225690"), "", year, "which even a large number has"},
		{header("X-Wait-Tenths", "1m"), "", time.Minute, "but not what has a unit itself"},
		{header("X-Wait-Tenths", "15", "X-Wait", "1"), "", 1500 * time.Millisecond, "the longest of several"},
		{header("X-Other-Reset", "5"), "", none, "a reset is only for a rate limit"},
		{header(), "", none, "nothing"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			tt.header.Set("Date", date)
			require.Equal(t, min(tt.want, year), orNone(waithint.Asked(tt.header, decode(t, tt.body), received, units)))
		})
	}
}

func TestBody(t *testing.T) {
	for _, tt := range []struct {
		body string
		want time.Duration
		why  string
	}{
		{`{"retry_after":0.729}`, 729 * time.Millisecond, "seconds"},
		{`{"retryAfter":"30"}`, 30 * time.Second, "in a string"},
		{`{"Retry-After":30}`, 30 * time.Second, "folded"},
		{`{"retry_after":"1m30s"}`, 90 * time.Second, "a duration"},
		{`{"retry_after":"Thu, 01 Jan 2026 00:02:00 GMT"}`, 2 * time.Minute, "a date"},
		{`{"retry_after":1767225690}`, 90 * time.Second, "a point in time"},
		{`{"retry_at":1767225690000000}`, 90 * time.Second, "in microseconds"},
		{`{"retry_at":"1767225690000000000"}`, 90 * time.Second, "in nanoseconds"},
		{`{"retry_after":"` + strings.Repeat("1", 129) + `"}`, none, "longer than values are read"},
		{`{"retry_after_seconds":3}`, 3 * time.Second, "a unit in the name"},
		{`{"retry_in_seconds":3}`, 3 * time.Second, "under another name"},
		{`{"retryAfterMs":1500}`, 1500 * time.Millisecond, "milliseconds"},
		{`{"retry_after_millis":1500}`, 1500 * time.Millisecond, "in other words"},
		{`{"retry_after_milliseconds":1500}`, 1500 * time.Millisecond, "in full"},
		{`{"retry_at":"2026-01-01T00:02:00Z"}`, 2 * time.Minute, "a point in time by its name"},
		{`{"rateLimitNext":"2026-01-01T00:00:49.500000Z"}`, 49500 * time.Millisecond, "so is this"},
		{`{"error":{"details":[{"x":1},{"retryDelay":"34.074824224s"}]}}`, 34075 * time.Millisecond, "google.rpc.RetryInfo"},
		{`{"details":{"retryAfterSeconds":3}}`, 3 * time.Second, "a Kubernetes Status"},
		{`[{"error":{"retry_after":3}}]`, 3 * time.Second, "in an array"},
		{`{"a":{"retry_after":9},"retry_after":3}`, 3 * time.Second, "the outer one first"},
		{`{"b":{"retry_after":9},"a":{"retry_after":3}}`, 3 * time.Second, "then by name: always the same one"},
		{`{"retry_after":null,"details":{"retry_after":3}}`, 3 * time.Second, "null falls through"},
		{`{"retry_after":-1,"retry_at":"now"}`, none, "bad values"},
		{`{"retry_after":1e3}`, none, "an exponent"},
		{`{"retry_after":{"seconds":3}}`, none, "an object"},
		{`{"retry_after":true}`, none, "a flag"},
		{`{"after":3,"reset":3}`, none, "other names"},
		{`{"a":{"a":{"a":{"a":{"retry_after":3}}}}}`, 3 * time.Second, "as deep as errors are"},
		{`{"a":{"a":{"a":{"a":{"a":{"a":{"retry_after":3}}}}}}}`, none, "deeper it is part of the data"},
		{`[[[[{"retry_after":3}]]]]`, 3 * time.Second, "as deep in arrays"},
		{`[[[[[[{"retry_after":3}]]]]]]`, none, "deeper in arrays"},
		{`"retry_after"`, none, "a string"},
		{
			`{"extensions":{"cost":{"requestedQueryCost":101,"throttleStatus":{"maximumAvailable":1000.0,"currentlyAvailable":1,"restoreRate":50.0}}}}`,
			2 * time.Second, "a bucket: 100 missing, 50 a second",
		},
		{`{"requestedQueryCost":1,"throttleStatus":{"currentlyAvailable":1,"restoreRate":50}}`, none, "nothing is missing"},
		{`{"requestedQueryCost":2,"throttleStatus":{"currentlyAvailable":1,"restoreRate":0}}`, none, "nothing comes"},
		{`{"requestedQueryCost":2,"throttleStatus":{"currentlyAvailable":1}}`, none, "nobody knows"},
		{`{"requestedQueryCost":null,"throttleStatus":{"currentlyAvailable":0,"restoreRate":1}}`, none, "nor here"},
		{`{"requestedQueryCost":2,"throttleStatus":{"restoreRate":1}}`, none, "nor here"},
		{`{"requestedQueryCost":2,"throttleStatus":7}`, none, "nor here"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			require.Equal(t, tt.want, orNone(waithint.Asked(header("Date", date), decode(t, tt.body), received, nil)))
		})
	}
}

func TestReset(t *testing.T) {
	units := waithint.Units{"X-Limit-Reset": 0, "X-Ratelimit-Reset-Daily": time.Millisecond, "X-Wait": 0}
	for _, tt := range []struct {
		header http.Header
		want   time.Duration
		why    string
	}{
		{header("X-RateLimit-Reset", "60"), time.Minute, "seconds, where nothing is said of what remains"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "0"), time.Minute, "nothing remains"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "0.0"), time.Minute, "with a fraction"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "-1"), time.Minute, "less than nothing"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "none"), time.Minute, "a word says nothing"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "0, 0;w=60"), time.Minute, "all windows of a list"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "1"), none, "one more would have passed: it is another limit"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "0.5"), none, "something remains"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "7, 9"), none, "none of a list"},
		{header("X-RateLimit-Reset", "60", "X-RateLimit-Remaining", "7;w=60"), none, "without its parameters"},
		{header("X-RateLimit-Reset", "1767225660"), time.Minute, "a point in time"},
		{header("X-RateLimit-Reset", "1767225664.570"), 64570 * time.Millisecond, "with a fraction, which a float64 does not hold"},
		{header("X-RateLimit-Reset", "1767225675000"), 75 * time.Second, "in milliseconds"},
		{header("X-RateLimit-Reset", "1767225675000000"), 75 * time.Second, "in microseconds"},
		{header("X-RateLimit-Reset", "1767225675000000000"), 75 * time.Second, "in nanoseconds"},
		{header("X-RateLimit-Reset", "1767225590"), 0, "which has passed"},
		{header("X-RateLimit-Reset", "-1"), none, "a sign that there is none"},
		{header("X-RateLimit-Reset", "2026-01-01T00:03Z"), 3 * time.Minute, "RFC 3339 without seconds"},
		{header("X-RateLimit-Reset", "Thu, 01 Jan 2026 00:01:00 GMT"), time.Minute, "a date"},
		{header("X-RateLimit-Reset", "8m24s"), 504 * time.Second, "a duration"},
		{header("X-RateLimit-Reset", "Tue Feb 16 2021 09:02:42 GMT+0100 (CET)"), none, "what JavaScript prints"},
		{header("X-RateLimit-Reset", "soon", "X-RateLimit-Reset", "5"), 5 * time.Second, "the usable one of two"},
		{header("X-Rate-Limit-Reset", "5", "X-Rate-Limit-Remaining", "0"), 5 * time.Second, "two hyphens"},
		{header("X-Rate-Limit-Reset", "5", "X-Rate-Limit-Remaining", "1"), none, "two hyphens"},
		{header("RateLimit-Reset", "5"), 5 * time.Second, "no prefix, draft 3"},
		{header("Rate-Limit-Reset", "5"), 5 * time.Second, "no prefix"},
		{header("RateLimit-ResetTime", date, "RateLimit-Remaining", "3"), none, "another name, the same quota"},
		{header("X-RateLimit-Reset-After", "64.57"), 64570 * time.Millisecond, "a delta by its name"},
		{header("X-RateLimit-Reset-After", "5", "X-RateLimit-Remaining", "3"), none, "of the same quota"},
		{header("X-RateLimit-Reset-Ms", "1500"), 1500 * time.Millisecond, "a unit in the name"},
		{
			header("X-RateLimit-Remaining-Requests", "12", "X-RateLimit-Reset-Requests", "8m24s", "X-RateLimit-Remaining-Tokens", "0", "X-RateLimit-Reset-Tokens", "6m0s"),
			6 * time.Minute, "the quota that is used up, not the other",
		},
		{
			header("Acme-RateLimit-Requests-Remaining", "0", "Acme-RateLimit-Requests-Reset", "1", "Acme-RateLimit-Tokens-Remaining", "0", "Acme-RateLimit-Tokens-Reset", "41"),
			41 * time.Second, "of two, the one that takes longest",
		},
		{header("X-RateLimit-Limit", "60", "X-RateLimit-Remaining", "0"), none, "no reset"},
		{header("X-RateLimit-Policy-Resetting", "9"), 9 * time.Second, "close enough"},
		{
			header("X-RateLimit-Limit", "1, 15000", "X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "1, 1419704"),
			1419704 * time.Second, "two windows: the second one is used up",
		},
		{header("X-RateLimit-Remaining", "0, 14000", "X-RateLimit-Reset", "1, 1419704"), time.Second, "or the first one"},
		{header("X-RateLimit-Remaining", "0, 0", "X-RateLimit-Reset", "1, 60"), time.Minute, "or both: the longest"},
		{header("X-RateLimit-Remaining", "0,0", "X-RateLimit-Reset", "60,1"), time.Minute, "in any order, without blanks"},
		{header("X-RateLimit-Remaining", "1, 2", "X-RateLimit-Reset", "1, 60"), none, "or none"},
		{
			header("X-RateLimit-Remaining", "1", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1", "X-RateLimit-Reset", "60"),
			time.Minute, "lines are a list too: RFC 9110 section 5.3",
		},
		{header("X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "1", "X-RateLimit-Reset", "60"), time.Minute, "lines on one side only"},
		{header("X-RateLimit-Remaining", "5, 1, 0", "X-RateLimit-Reset", "1, 60, 3600"), time.Hour, "three windows"},
		{header("X-RateLimit-Remaining", "1;w=1, 0;w=60", "X-RateLimit-Reset", "1;w=1, 60;w=60"), time.Minute, "with parameters"},
		{header("X-RateLimit-Remaining", "0, 1, 0", "X-RateLimit-Reset", "1,, 60"), time.Minute, "an empty item has a position"},
		{header("X-RateLimit-Remaining", "1, 1, 0", "X-RateLimit-Reset", "1, 60"), none, "a window without a Reset"},
		{header("X-RateLimit-Remaining", "1, 1", "X-RateLimit-Reset", "1, 60, 3600"), none, "a Reset without a window"},
		{header("X-RateLimit-Remaining", "0, 1", "X-RateLimit-Reset", "1, 60, 3600"), time.Second, "which does not count beside others"},
		{header("X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "60"), time.Minute, "one Reset is that of all windows"},
		{header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "1, 60"), time.Minute, "and one Remaining is of all"},
		{header("X-RateLimit-Remaining", "1", "X-RateLimit-Reset", "1, 60"), none, "whatever it is"},
		{header("X-RateLimit-Reset", "1, 60"), time.Minute, "nothing is said of what remains in any"},
		{
			header("X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "Thu, 01 Jan 2026 00:01:00 GMT, Thu, 01 Jan 2026 00:02:00 GMT"),
			2 * time.Minute, "the comma in a date ends no item",
		},
		{header("X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "5, Thursday, 01-Jan-26 00:02:00 GMT"), 2 * time.Minute, "nor that of RFC 850"},
		{header("X-RateLimit-Reset", "Sat, 03 Jan 2026 00:00:00 GMT, 5"), 48 * time.Hour, "of any day"},
		{header("X-RateLimit-Reset", "Thu"), none, "a day alone"},
		{
			header("X-Rate-Limit-Remaining-Tokens", "1, 0", "X-Rate-Limit-Reset-Tokens", "1, 60"),
			time.Minute, "of any name",
		},
		{
			header("X-Limit-Remaining", "1, 0", "X-Limit-Reset", "1, 60", "X-RateLimit-Reset-Daily", "500, 1500", "X-RateLimit-Remaining-Daily", "0, 0"),
			time.Minute, "configured ones too",
		},

		{
			header("X-User-Limit-24hour-Limit", "500", "X-User-Limit-24hour-Remaining", "0", "X-User-Limit-24hour-Reset", "1767225660"),
			time.Minute, "a family of another name",
		},
		{header("X-User-Limit-24hour-Remaining", "0", "X-User-Limit-24hour-Reset", "1767225660"), time.Minute, "without its limit"},
		{header("X-App-Limit-Remaining", "0", "X-App-Limit-Reset", "60"), time.Minute, "the word at the end"},
		{header("X-Quota-Remaining", "0", "X-Quota-Reset", "60"), time.Minute, "another word for it"},
		{header("X-Rate-Remaining", "0", "X-Rate-Reset", "60"), time.Minute, "half of a word"},
		{header("X-DailyLimit-Remaining", "0", "X-DailyLimit-Reset-After", "60"), time.Minute, "a word in a word, and a suffix"},
		{header("X-DailyLimit-Remaining", "0", "X-DailyLimit-Reset-Ms", "1500"), 1500 * time.Millisecond, "and a unit"},
		{header("X-Calls-Limit", "9", "X-Calls-Remaining", "0", "X-Calls-Reset", "60"), time.Minute, "the three of a family"},
		{header("X-RateLimit-UserRemaining", "0", "X-RateLimit-UserReset", "60"), time.Minute, "a word before them"},
		{header("X-RateLimit-UserRemaining", "9", "X-RateLimit-UserReset", "60"), none, "of which something remains"},
		{header("X-Quota-Remaining", "1, 0", "X-Quota-Reset", "1, 60"), time.Minute, "a list in it"},
		{header("X-User-Limit-24hour-Remaining", "1", "X-User-Limit-24hour-Reset", "60"), none, "of which something remains"},
		{header("X-User-Limit-24hour-Reset", "60"), none, "nothing is said of what remains"},
		{header("X-User-Limit-24hour-Remaining", "", "X-User-Limit-24hour-Reset", "60"), none, "nor here"},
		{header("X-User-Limit-24hour-Remaining", "none", "X-User-Limit-24hour-Reset", "60"), none, "a word is not 0"},
		{header("X-User-Limit-24hour-Remaining", "-1", "X-User-Limit-24hour-Reset", "60"), none, "nor is -1, which often is no limit"},
		{header("X-Session-Remaining", "0", "X-Session-Reset", "60"), none, "what may be about anything"},
		{header("X-Image-Preset", "60", "X-Image-Remaining", "0", "X-Image-Limit", "9"), none, "a word that ends as reset does"},
		{header("X-Password-Reset", "60", "X-RateLimit-Remaining", "0"), none, "another family's"},
		{header("X-Limit-Resolution", "60", "X-Limit-Remaining", "0"), none, "another word"},
		{header("X-Limit-Presets", "60", "X-Limit-Remaining", "0"), none, "and another"},
		{header("Reset-Quota", "60", "Remaining-Quota", "0"), time.Minute, "the word at the beginning"},
		{header(strings.Repeat("X", 116)+"-Quota-Reset", "60", strings.Repeat("X", 116)+"-Quota-Remaining", "0"), time.Minute, "a name as long as names are"},
		{header(strings.Repeat("X", 117)+"-Quota-Reset", "60", strings.Repeat("X", 117)+"-Quota-Remaining", "0"), none, "longer than names are"},

		{header("Reset-RateLimit", "9", "X-Reset", "9", "Limit-Reset", "9", "X-Speed-Limit-Reset", "9"), none, "not a rate limit's"},
		{header("Retry-After", "9"), none, "for Asked"},

		{header("RateLimit", `"default";r=0;t=30`), 30 * time.Second, "draft 10"},
		{header("RateLimit", `default;t=30;r=0`), 30 * time.Second, "a token for a name"},
		{header("RateLimit", `"a";r=0;t=7, "b";r=0;t=3600, "c";r=5;t=9000`), time.Hour, "the longest of those used up"},
		{header("RateLimit", `"a";r=0;t=7`, "RateLimit", `"b";r=0;t=9`), 9 * time.Second, "two lines are one list"},
		{header("RateLimit", `"a,b;r=1\";t=5";r=0;t=7`), 7 * time.Second, "delimiters in quotes"},
		{header("RateLimit", `"a" ; r=0 ; pk=:x=: ; t=7`), 7 * time.Second, "spaces, and a parameter we do not know"},
		{header("RateLimit", `"a";t=7`), 7 * time.Second, "nothing is said of what remains"},
		{header("RateLimit", `"a";r=0`), none, "no time"},
		{header("RateLimit", `"a";r=0;t=-7`), none, "no time either"},
		{header("RateLimit", `"a";r=1;t=7`), none, "one remains"},
		{header("RateLimit", `"a";r=0;t=1767225660`), year, "always a delta"},
		{header("RateLimit", `"default";a=0;w=30`), 30 * time.Second, "the names of the next draft"},
		{header("RateLimit", `"default";c=1;w=30;a=0`), 30 * time.Second, "in any order, beside the cost of this request"},
		{header("RateLimit", `"default";a=3;w=30`), none, "some remain"},
		{header("RateLimit", `"default";c=0;w=30`), 30 * time.Second, "the cost is not what remains"},
		{header("RateLimit", `"default";c=5;a=1;w=30`), none, "nor is it taken from that"},
		{header("RateLimit", `"a";r=0;t=7, "b";a=0;w=9`), 9 * time.Second, "both drafts"},
		{header("RateLimit", `"a";r=0;t=7;w=60`), 7 * time.Second, "t beside the window of the policy"},
		{header("RateLimit", `"a";r=1;a=0;t=7`), none, "r beside another a"},
		{
			header("RateLimit", `"req";r=900;t=9, "bytes";r=0;t=60`, "RateLimit-Policy", `"bytes";q=9;qu="content-bytes"`),
			time.Minute, "a quota of bytes refuses as well",
		},
		{header("RateLimit", `limit=100, remaining=0, reset=5`), 5 * time.Second, "draft 7"},
		{header("RateLimit", `limit=100, reset=5`), 5 * time.Second, "nothing is said of what remains"},
		{header("RateLimit", `limit=100, remaining=1, reset=5`), none, "one remains"},
		{header("RateLimit", `;;,,"=`), none, "garbage"},
		{header("RateLimit", ``), none, "nothing"},
		{header("Beta-RateLimit", `"q";r=0;t=600`), 10 * time.Minute, "with a prefix"},
		{header("RateLimit-Policy", `"q";q=100;w=60`), none, "the policy is not the state"},
		{header("X-Rate-Limit", "700"), none, "a limit"},

		{header("X-Limit-Reset", "5"), 5 * time.Second, "a configured one"},
		{header("X-Limit-Reset", "5", "X-Limit-Remaining", "1"), none, "of which something remains"},
		{header("X-Ratelimit-Reset-Daily", "1500"), 1500 * time.Millisecond, "a unit that nobody could guess"},
		{header("X-Wait", "5"), none, "for Asked"},
		{header(), none, "nothing"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			tt.header.Set("Date", date)
			require.Equal(t, tt.want, orNone(waithint.Reset(tt.header, received, units)))
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		header http.Header
		want   bool
		why    string
	}{
		{header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "9"), true, "nothing remains"},
		{header("X-RateLimit-Remaining", "4900", "X-RateLimit-Reset", "9"), false, "the fields of any response"},
		{header("X-RateLimit-Remaining", "4900", "X-RateLimit-Reset", "9", "Retry-After", "60"), true, "of a second limit, that has no fields"},
		{header("X-RateLimit-Reset", "9"), false, "nothing is said"},
		{header("X-RateLimit-Remaining", "0"), false, "nor when to come back"},
		{header("Retry-After", "60"), false, "which may be about anything"},
		{header("X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "1, 60"), true, "nothing remains in one window"},
		{header("X-RateLimit-Remaining", "1, 2", "X-RateLimit-Reset", "1, 60"), false, "something remains in all"},
		{header("X-RateLimit-Remaining", "-3", "X-RateLimit-Reset", "9"), true, "less than nothing remains"},
		{header("X-User-Limit-24hour-Remaining", "0", "X-User-Limit-24hour-Reset", "60"), true, "in a family of another name"},
		{header("X-User-Limit-24hour-Remaining", "1", "X-User-Limit-24hour-Reset", "60"), false, "where something remains"},
		{header("X-User-Limit-24hour-Reset", "60", "Retry-After", "60"), false, "which alone is not known to be about a quota"},
		{header("RateLimit", `"a";r=0;t=9`), true, "the RateLimit field says the same"},
		{header("RateLimit", `"a";r=1;t=9`, "Retry-After", "60"), false, "or not"},
	} {
		require.Equal(t, tt.want, waithint.Refused(tt.header), tt.why)
	}
}

func TestUsedUp(t *testing.T) {
	units := waithint.Units{"X-Wait-Reset": 0, "X-Wait": 0}
	for _, tt := range []struct {
		header http.Header
		want   bool
		why    string
	}{
		{header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "8"), true, "in so many words"},
		{header("X-RateLimit-Remaining", "0.0", "X-RateLimit-Reset", "8"), true, "0 in any spelling"},
		{header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "0"), true, "until now"},
		{header("X-RateLimit-Remaining", "1, 0", "X-RateLimit-Reset", "1, 60"), true, "in one window"},
		{header("X-RateLimit-Remaining", "1", "X-RateLimit-Reset", "8"), false, "something remains"},
		{header("X-RateLimit-Remaining", "-1", "X-RateLimit-Reset", "8"), false, "which often means that there is no limit"},
		{header("X-RateLimit-Remaining", "none", "X-RateLimit-Reset", "8"), false, "a word is not 0"},
		{header("X-RateLimit-Reset", "8"), false, "nothing is said of what remains"},
		{header("X-RateLimit-Reset", "8", "Retry-After", "9"), false, "nor beside a Retry-After"},
		{header("X-RateLimit-Remaining", "0"), false, "nor when there is more"},
		{header("X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "soon"), false, "in words that can be understood"},
		{header("X-RateLimit-Remaining-A", "0", "X-RateLimit-Reset-B", "8"), false, "two quotas"},
		{header("X-User-Limit-24hour-Remaining", "0", "X-User-Limit-24hour-Reset", "8"), true, "of any name"},
		{header("X-Wait-Remaining", "0", "X-Wait-Reset", "8"), true, "a configured one"},
		{header("X-Wait-Remaining", "1", "X-Wait-Reset", "8"), false, "of which something remains"},
		{header("X-Wait", "8"), false, "which is a wait, and no quota"},
		{header("RateLimit", `"a";r=0;t=8`), true, "the RateLimit field"},
		{header("RateLimit", `"a";a=0`), true, "in the words of the next draft, whenever there is more"},
		{header("RateLimit", `"a";r=9;t=8, "b";r=0;t=60`), true, "one of several"},
		{header("RateLimit", `"a";r=1;t=8`), false, "something remains"},
		{header("RateLimit", `"a";t=8`), false, "nothing is said"},
		{header("RateLimit", `"a";r=x;t=8`), false, "nor here"},
		{header("RateLimit", `limit=9, remaining=0, reset=8`), true, "an old draft"},
		{header("RateLimit", `limit=9, remaining=1, reset=8`), false, "of which something remains"},
		{header(), false, "nothing"},
	} {
		require.Equal(t, tt.want, waithint.UsedUp(tt.header, units), tt.why)
	}
}

func TestRemaining(t *testing.T) {
	type quota = waithint.Quota
	for _, tt := range []struct {
		header http.Header
		want   quota
		told   bool
		why    string
	}{
		{header("RateLimit", `"a";r=5;t=7`), quota{5, 0, 7 * time.Second}, true, "no policy, no rate"},
		{header("RateLimit", `"a";r=5;t=7`, "RateLimit-Policy", `"a";q=100;w=60`), quota{5, 100.0 / 60, 7 * time.Second}, true, "with one"},
		{header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"a";q=100;w=1`), quota{5, 100, 0}, true, "no reset"},
		{header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"b";q=100;w=1`), quota{5, 0, 0}, true, "another's policy"},
		{header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"a";q=100`), quota{5, 0, 0}, true, "a policy without a window"},
		{header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"a";q=100;w=0`), quota{5, 0, 0}, true, "a window of nothing"},
		{header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"a";w=9`), quota{5, 0, 0}, true, "a window of nobody knows what"},
		{
			header("RateLimit", `"a";r=5, "b";r=2, "c";r=9`, "RateLimit-Policy", `"a";q=1;w=1, "b";q=4;w=2`),
			quota{2, 2, 0},
			true, "the one with the least",
		},
		{header("RateLimit", `"a";r=5, "b";r=5`, "RateLimit-Policy", `"a";q=1;w=1, "b";q=4;w=2`), quota{5, 1, 0}, true, "the first of equals"},
		{
			header("RateLimit", `"api";r=489;t=189`, "RateLimit-Policy", `"fixed window";"api";q=500;w=300`),
			quota{489, 500.0 / 300, 189 * time.Second},
			true, "a policy that has its name second",
		},
		{
			header("RateLimit", `"api";r=489`, "RateLimit-Policy", `"fixed window"; "api" ;q=500;w=300, "api";q=9;w=9`),
			quota{489, 1, 0},
			true, "one that has it first goes before",
		},
		{
			header("RateLimit", `"api";r=489`, "RateLimit-Policy", `"fixed window";"pages";q=500;w=300, "fixed window";"api";q=9;w=3`),
			quota{489, 3, 0},
			true, "of two that are alike, the one with the name",
		},
		{
			header("RateLimit", `"fixed window";"api";r=489`, "RateLimit-Policy", `"api";q=9;w=3`),
			quota{489, 3, 0},
			true, "the other way round",
		},
		{
			header("RateLimit", `"sliding";"api";r=489`, "RateLimit-Policy", `"fixed window";"api";q=9;w=3`),
			quota{489, 3, 0},
			true, "on both sides",
		},
		{
			header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"fixed window";"";q=9;w=3, "b";q=9;w=3`),
			quota{5, 0, 0},
			true, "an empty name is none",
		},
		{header("RateLimit", `a;r=5`, "RateLimit-Policy", `"a";q=4;w=2`), quota{5, 2, 0}, true, "a token and a string are one name"},
		{
			header("RateLimit", `"default";a=5;w=30`, "RateLimit-Policy", `"default";q=100;w=50`),
			quota{5, 2, 30 * time.Second},
			true, "the names of the next draft",
		},
		{header("RateLimit", `"default";c=9;a=5;w=30`), quota{5, 0, 30 * time.Second}, true, "the next request may cost something else than this one"},
		{header("RateLimit", `"default";c=9;w=30`), quota{}, false, "the cost of this request is not what remains"},
		{header("RateLimit", `"a";r=7, "b";a=5`), quota{5, 0, 0}, true, "both drafts"},
		{
			header("RateLimit", `"req";r=900, "bytes";r=100`, "RateLimit-Policy", `"req";q=1000;w=10, "bytes";q=5000;w=10;qu="content-bytes"`),
			quota{900, 100, 0},
			true, "bytes are no requests",
		},
		{
			header("RateLimit", `"c";r=1, "req";r=900`, "RateLimit-Policy", `"c";q=5;qu="concurrent-requests"`),
			quota{900, 0, 0},
			true, "nor are those at a time",
		},
		{header("RateLimit", `"t";r=1`, "RateLimit-Policy", `"t";q=5;w=1;qu="tokens"`), quota{}, false, "nor is a unit that nobody has registered"},
		{header("RateLimit", `"t";r=1`, "RateLimit-Policy", `"t";qu=content-bytes`), quota{}, false, "a token for a string, without a window"},
		{header("RateLimit", `"t";r=1;qu="content-bytes"`), quota{}, false, "a unit beside what remains"},
		{
			header("RateLimit", `"api";r=1`, "RateLimit-Policy", `"fixed window";"api";q=5;w=1;qu="content-bytes"`),
			quota{},
			false, "a unit of a policy that has its name second",
		},
		{header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"a";q=4;w=2;qu="requests"`), quota{5, 2, 0}, true, "requests"},
		{header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"a";q=4;w=2;qu="request"`), quota{5, 2, 0}, true, "as examples of the draft spell them"},
		{header("RateLimit", `"a";r=5;qu=requests`, "RateLimit-Policy", `"a";q=4;w=2;qu=Request`), quota{5, 2, 0}, true, "a token, in any case"},
		{
			header("RateLimit", `"a";r=5`, "RateLimit-Policy", `"a";q=4;w=2, "a";q=9;w=1;qu="content-bytes"`),
			quota{},
			false, "a name with two units: nobody knows which",
		},
		{header("RateLimit", `"a";r=1;x="`+strings.Repeat("x", 8<<10)+`", "b";r=9`), quota{}, false, "an item longer than fields are read"},
		{header("RateLimit", `"b";r=9, "a";r=1;x="`+strings.Repeat("x", 8<<10)), quota{9, 0, 0}, true, "the items before it count"},
		{header("RateLimit", `"b";r=9,`+strings.Repeat(" ", 8<<10-len(`"b";r=9,`)-len(`"a";r=1`))+`"a";r=12`), quota{9, 0, 0}, true, "a number cut short is another one"},
		{header("RateLimit", `"b";r=9`, "RateLimit", strings.Repeat(" ", 8<<10-len(`"b";r=9`)-len(`"a";r=1`))+`"a";r=1`), quota{1, 0, 0}, true, "8 KiB in two lines"},
		{header("RateLimit", `"b";r=9`, "RateLimit", strings.Repeat(" ", 8<<10-len(`"b";r=9`)-len(`"a";r=1`))+` "a";r=1`), quota{9, 0, 0}, true, "and a byte more"},
		{header("RateLimit", `"b";r=9`+strings.Repeat(",", 31)+`"a";r=1`), quota{1, 0, 0}, true, "32 items"},
		{header("RateLimit", `"b";r=9`+strings.Repeat(",", 32)+`"a";r=1`), quota{9, 0, 0}, true, "and one more"},
		{header("RateLimit", `"a";t=7`), quota{}, false, "nothing is said of what remains"},
		{header("RateLimit", `"a";r=-1`), quota{}, false, "nor with a sign"},
		{header("RateLimit", `limit=9, remaining=3`), quota{}, false, "the dictionary of old drafts has no policy to go with"},
		{header("X-RateLimit-Remaining", "7"), quota{}, false, "there is no policy to go with it"},
		{header(), quota{}, false, "nothing"},
	} {
		got, told := waithint.Remaining(tt.header)
		require.Equal(t, tt.told, told, tt.why)
		require.Equal(t, tt.want, got, tt.why)
	}
}

// FuzzWait gives arbitrary values to every source. Waits are never negative, never
// too long and never early by a part of a millisecond.
func FuzzWait(f *testing.F) {
	for _, seed := range []string{
		"17", "0.729", "1767225690", "1767225690000", "99999999999999999999", "-1", "1e9", "0x1p4", "Inf", "8m24s",
		date, "2026-01-01T00:03Z", `"a";r=0;t=7, "b";r=1;t=9`, "limit=9, remaining=0, reset=7", `"a\"`,
		"1, 0", "1767225690000000", "30s", `"fixed window";"a";q=9;w=3`, `"a";a=0;w=7;c=1`, "Thu, 01 Jan 2026 00:02:00 GMT, 9", "Thu, ",
	} {
		f.Add("X-RateLimit-Reset", seed, "0", `{"retry_after":17,"error":{"details":[{"retryDelay":"3.1s"}]}}`)
	}
	f.Add("RateLimit", `"a";r=0;t=7`, "", `{"requestedQueryCost":9,"throttleStatus":{"currentlyAvailable":5,"restoreRate":2}}`)
	f.Add("X-Rate-Limit-Reset-Ms", "9", "9", `[`)
	f.Fuzz(func(t *testing.T, name, value, remaining, body string) {
		name = http.CanonicalHeaderKey(name)
		h := header("Retry-After", value, name, value, strings.Replace(name, "Reset", "Remaining", 1), remaining)
		var decoded any
		dec := json.NewDecoder(strings.NewReader(body))
		dec.UseNumber()
		_ = dec.Decode(&decoded)
		units := waithint.Units{"X-Wait": time.Second, name: 0}
		for _, read := range []func() (time.Duration, bool){
			func() (time.Duration, bool) { return waithint.Asked(h, decoded, received, units) },
			func() (time.Duration, bool) { return waithint.Asked(nil, decoded, received, nil) },
			func() (time.Duration, bool) { return waithint.Reset(h, received, units) },
			func() (time.Duration, bool) { return waithint.Reset(h, received, nil) },
		} {
			d, ok := read()
			again, okAgain := read()
			require.Equal(t, d, again, "the same fields, the same wait")
			require.Equal(t, ok, okAgain)
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.LessOrEqual(t, d, waithint.Max)
			require.Zero(t, d%time.Millisecond)
			if !ok {
				require.Zero(t, d)
			}
		}
		if waithint.UsedUp(h, units) {
			_, ok := waithint.Reset(h, received, units)
			require.True(t, ok || strings.HasSuffix(name, "Ratelimit"), "when there is more")
		}
		waithint.Refused(h)
		q, told := waithint.Remaining(h)
		require.GreaterOrEqual(t, q.Remaining, 0.0)
		require.GreaterOrEqual(t, q.Rate, 0.0)
		require.True(t, told || q == waithint.Quota{})
	})
}

// cost fails the test if f takes more than linear time over size bytes. Linear
// time is some milliseconds here. An earlier version of this package took a
// minute. A busy machine does not fail the test: the best of five runs counts, and
// only if it takes more than three seconds and a hundred times as long as a loop
// over the bytes.
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
	took := best(f)
	if took < 3*time.Second {
		return
	}
	bytes := strings.Repeat(`x`, size)
	linear := best(func() {
		n := 0
		for i := range len(bytes) {
			if bytes[i] == 'y' {
				n++
			}
		}
		require.Zero(tb, n)
	})
	require.LessOrEqual(tb, took, 100*linear, "more than linear time")
}

// readAll reads h with all functions, and returns the number of bytes allocated.
func readAll(h http.Header, body any, units waithint.Units) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	waithint.Remaining(h)
	waithint.Asked(h, body, received, units)
	waithint.Reset(h, received, units)
	waithint.UsedUp(h, units)
	waithint.Refused(h)
	waithint.OfUnit(h, "a")
	waithint.Named(h, received, waithint.Fields{Limit: "Ratelimit", Remaining: "X-Ratelimit-Remaining", Reset: "X-Ratelimit-Reset"})
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestCostIsBounded reads fields of 90 KB, which an untrusted server can send with
// any response. The first of them once took a minute.
func TestCostIsBounded(t *testing.T) {
	const size = 90_000
	many := func(s string) string { return strings.Repeat(s, size/len(s)) }
	counted := func(format string) string {
		var b strings.Builder
		for i := 9000; b.Len() < size; i-- {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	lines := func(name, value string) http.Header { return http.Header{name: slices.Repeat([]string{value}, size/8)} }
	names := http.Header{}
	for i := range 3000 {
		names[fmt.Sprintf("X-Ratelimit-Reset%04d", i)] = []string{"1"}
	}
	names["X-Ratelimit-Remaining"] = []string{many("1,")}
	for i, h := range []http.Header{
		header("RateLimit", counted(`"a";r=%d,`), "RateLimit-Policy", many(`"b";q=1;w=1,`)),
		header("RateLimit", counted(`"a";r=%d;t=1,`), "RateLimit-Policy", many(`"a";q=1;w=1,`)),
		header("RateLimit", many(`"a";`), "RateLimit-Policy", many(`"a";`)),
		header("RateLimit", `"a`+many(`\"`), "RateLimit-Policy", `"a`+many(`\\`)),
		header("RateLimit", many(`"`), "RateLimit-Policy", many(`;`)),
		header("RateLimit", many(`,`), "RateLimit-Policy", many(`=`)),
		header("RateLimit", many(`limit=1,remaining=0,reset=5,`)),
		lines("Ratelimit", `"a";r=1`),
		lines("X-Ratelimit-Reset", "1"),
		header("X-RateLimit-Reset", many("1,"), "X-RateLimit-Remaining", many("0,")),
		header("X-RateLimit-Reset", many("Thu,"), "X-RateLimit-Remaining", many("Thu, ")),
		header("X-RateLimit-Reset", many("1;"), "X-Quota-Reset", many("9")),
		header(many("Reset-")+"Quota", "1", many("X-")+"RateLimit-Reset", "1"),
		header("Retry-After", many("9"), "X-Wait", many("1h"), "Date", many("Thu, "), "Age", many("9,")),
		names,
	} {
		cost(t, size, func() {
			require.Less(t, readAll(h, nil, waithint.Units{"X-Wait": 0, "X-Quota-Reset": 1}), uint64(16<<20), i)
		})
	}
}

// TestRemainingIsCheap reads the fields of a healthy server, which come with every
// response.
func TestRemainingIsCheap(t *testing.T) {
	for _, h := range []http.Header{
		header("Content-Type", "text/plain", "X-RateLimit-Remaining", "9"),
		header("RateLimit", `"a";r=5;t=7, "b";r=2`, "RateLimit-Policy", `"fixed window";"a";q=500;w=300;qu="requests"`),
	} {
		require.Zero(t, testing.AllocsPerRun(100, func() { waithint.Remaining(h) }))
	}
}

// FuzzCost repeats its arguments until they have the maximum length of a field.
func FuzzCost(f *testing.F) {
	f.Add("Ratelimit", `"a";r=1,`, `"b";q=1;w=1,`, `{"retry_after":1},`)
	f.Add("X-Ratelimit-Reset", "1, ", "0, ", `[`)
	f.Add("X-User-Limit-24hour-Reset", "Thu, ", "1;", `{"Retry-After":"1h","a":`)
	f.Add("Date", "9", "h", `"`)
	f.Fuzz(func(t *testing.T, name, value, beside, body string) {
		const size = 90_000
		many := func(s string) string {
			if s == "" {
				return ""
			}
			return strings.Repeat(s, size/len(s)+1)[:size]
		}
		name = http.CanonicalHeaderKey(name)
		h := http.Header{
			name: {many(value)},
			strings.ReplaceAll(name, "Reset", "Remaining"): {many(beside)},
			"Ratelimit-Policy":                  {many(beside)},
			http.CanonicalHeaderKey(many(name)): {value},
			"Retry-After":                       slices.Repeat([]string{value}, 1000),
			"Ratelimit":                         slices.Repeat([]string{beside}, 1000),
		}
		decoded := any(nil)
		dec := json.NewDecoder(strings.NewReader("[" + many(body)))
		dec.UseNumber()
		if dec.Decode(&decoded) != nil {
			decoded = slices.Repeat([]any{map[string]any{name: value, beside: body, body: beside}}, 1000)
		}
		cost(t, 8*size, func() { require.Less(t, readAll(h, decoded, waithint.Units{name: 0}), uint64(64<<20)) })
	})
}

// TestNamed reads the fields of LLM APIs, which have a quota for each unit.
func TestNamed(t *testing.T) {
	openai := waithint.Fields{Limit: "X-Ratelimit-Limit-Tokens", Remaining: "X-Ratelimit-Remaining-Tokens", Reset: "X-Ratelimit-Reset-Tokens"}
	anthropic := waithint.Fields{Limit: "Anthropic-Ratelimit-Tokens-Limit", Remaining: "Anthropic-Ratelimit-Tokens-Remaining", Reset: "Anthropic-Ratelimit-Tokens-Reset"}
	for _, tt := range []struct {
		why    string
		fields waithint.Fields
		h      http.Header
		want   waithint.Quota
		limit  float64
		ok     bool
	}{
		{"OpenAI", openai, header(openai.Limit, "30000", openai.Remaining, "29000", openai.Reset, "2s"), waithint.Quota{Remaining: 29000, Rate: 500, Reset: 2 * time.Second}, 30000, true},
		{"in minutes", openai, header(openai.Limit, "60000", openai.Remaining, "0", openai.Reset, "1m0s"), waithint.Quota{Rate: 1000, Reset: time.Minute}, 60000, true},
		{
			"Anthropic, RFC 3339, by the server's clock", anthropic,
			header("Date", "Thu, 01 Jan 2026 00:00:00 GMT", anthropic.Limit, "1000", anthropic.Remaining, "900", anthropic.Reset, "2026-01-01T00:00:10Z"),
			waithint.Quota{Remaining: 900, Rate: 10, Reset: 10 * time.Second},
			1000, true,
		},
		{"nothing used", openai, header(openai.Limit, "9", openai.Remaining, "9", openai.Reset, "0s"), waithint.Quota{Remaining: 9}, 9, true},
		{"more left than there is", openai, header(openai.Limit, "9", openai.Remaining, "12", openai.Reset, "1s"), waithint.Quota{Remaining: 12, Reset: time.Second}, 9, true},
		{"no limit", openai, header(openai.Remaining, "5"), waithint.Quota{Remaining: 5}, 0, true},
		{"nothing remains to be read", openai, header(openai.Limit, "9", openai.Reset, "1s"), waithint.Quota{}, 0, false},
		{"no number", openai, header(openai.Limit, "9", openai.Remaining, "-1"), waithint.Quota{}, 0, false},
		{"a limit that is none", openai, header(openai.Limit, "1e9", openai.Remaining, "1", openai.Reset, "soon"), waithint.Quota{Remaining: 1}, 0, true},
	} {
		got, limit, ok := waithint.Named(tt.h, received, tt.fields)
		require.Equal(t, tt.ok, ok, tt.why)
		require.Equal(t, tt.want, got, tt.why)
		require.InDelta(t, tt.limit, limit, 0, tt.why)
	}
}

// TestOfUnit reads the quotas of one unit from the RateLimit fields.
func TestOfUnit(t *testing.T) {
	for _, tt := range []struct {
		why    string
		state  string
		policy string
		want   waithint.Quota
		limit  float64
		ok     bool
	}{
		{"the unit of the policy", `"a";r=50;t=30`, `"a";q=100;w=60;qu="tokens"`, waithint.Quota{Remaining: 50, Rate: 100.0 / 60, Reset: 30 * time.Second}, 100, true},
		{"the name", `"tokens";r=50;t=30`, `"tokens";q=120;w=60`, waithint.Quota{Remaining: 50, Rate: 2, Reset: 30 * time.Second}, 120, true},
		{"no policy", `"Tokens";r=50`, "", waithint.Quota{Remaining: 50}, 0, true},
		{"the smallest of several", `"a";r=50, "b";r=7`, `"a";q=100;w=10;qu="tokens", "b";q=10;w=10;qu="tokens"`, waithint.Quota{Remaining: 7, Rate: 1}, 10, true},
		{"another unit", `"a";r=50`, `"a";q=100;w=60;qu="content-bytes"`, waithint.Quota{}, 0, false},
		{"requests are the default unit, and have another name", `"a";r=50`, `"a";q=100;w=60`, waithint.Quota{}, 0, false},
	} {
		got, limit, ok := waithint.OfUnit(header("RateLimit", tt.state, "RateLimit-Policy", tt.policy), "tokens")
		require.Equal(t, tt.ok, ok, tt.why)
		require.Equal(t, tt.want, got, tt.why)
		require.InDelta(t, tt.limit, limit, 0, tt.why)
	}
	_, _, ok := waithint.OfUnit(http.Header{}, "tokens")
	require.False(t, ok)
}
