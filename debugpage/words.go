package debugpage

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/redact"
)

// phrase is a part of a sentence. Class is its style, or "" for plain text.
type phrase struct{ Text, Class string }

// sentence explains the duration of a call.
func sentence(c *call, spans []span, took time.Duration) []phrase {
	var s []phrase
	say := func(text string) { s = append(s, phrase{text, ""}) }
	mark := func(class, text string) { s = append(s, phrase{text, class}) }
	if !c.ended {
		say("So far ")
	}
	mark("time", duration(took))
	say(": ")
	if c.partial {
		say("the beginning was not seen, ")
	}
	for i, p := range spans {
		if i > 0 {
			say(", ")
		}
		switch p.class {
		case "gap":
			say(duration(p.length()) + " " + p.reason)
		case "wait":
			verb := "waited "
			if p.open {
				verb = "has waited "
			}
			say(verb)
			length := duration(p.length())
			if p.length() < p.want*9/10 {
				length += " of " + duration(p.want)
			}
			mark("wait", length)
			if p.length() < took/10 {
				say(" " + waitText(p.reason, p.hint)) // in short: it does not explain much
			} else {
				say(" " + p.waitText())
			}
		case "running":
			say(fmt.Sprintf("attempt %d is under way for %s", p.attempt, duration(p.length())))
		default:
			say(fmt.Sprintf("attempt %d got ", p.attempt))
			mark(p.class, p.result())
			say(p.failure.inBrackets() + " after " + duration(p.length()))
		}
	}
	if len(spans) == 0 {
		say("no attempt was made")
	}
	say(".")
	if end := ending(c); end != "" {
		say(" ")
		mark("end", end)
	}
	if body := c.bodyText(took); body != "" {
		say(" ")
		mark("end", body)
	}
	return s
}

// bodyText explains what became of the body of the response, if that explains anything:
// it broke off, it took long, or nobody has closed it yet.
func (c *call) bodyText(took time.Duration) string {
	length := c.bodyEnd - c.end
	switch {
	case c.body == bodyOpen:
		return "Its body is still open."
	case c.bodyError != "":
		return fmt.Sprintf("Its body broke off after %s and %d bytes: %s.", duration(length), c.bodyBytes, c.bodyError)
	case c.body == bodyEnded && length > took/10 && length >= time.Millisecond:
		return fmt.Sprintf("Its body took %s more, for %d bytes.", duration(length), c.bodyBytes)
	}
	return ""
}

// gapText describes time between two events that no event explains.
const gapText = "went by in between (an error body was read, or a hook or a limiter took its time)"

// waitText explains the wait of a span.
func (p *span) waitText() string {
	if p.held != nil {
		return p.held.text()
	}
	return waitText(p.reason, p.hint)
}

// waitText explains a wait. The word in brackets is the reason of the WaitInfo.
func waitText(reason string, hint time.Duration) string {
	switch reason {
	case "backoff":
		return "before trying again (backoff)"
	case "retry-after":
		if hint > 0 {
			return "because the server asked for " + duration(hint) + ", and jitter (retry-after)"
		}
		return "because the server asked for it, and jitter (retry-after)"
	case "rate limit":
		return "for its turn at a limit of its key (rate limit)"
	case "pause":
		return "because the server had refused other requests of its key (pause)"
	case "in flight":
		return "until others had ended, because only so many may be in flight (in flight)"
	case "limiter":
		return "for the limiter of the program (limiter)"
	}
	return "(" + reason + ")"
}

// ending explains why there was no further attempt. The words in brackets are the
// reason of the DoneInfo.
func ending(c *call) string {
	const not = "Not tried again: "
	var text string
	switch c.reason {
	case "", "success":
		return ""
	case "out of attempts":
		text = not + "no attempts were left"
	case "not idempotent":
		text = not + "a " + redact.Line(string(c.method), maxWord) + " may have been processed, and is not sent twice"
	case "body not replayable":
		text = not + "its body cannot be sent twice"
	case "body error":
		text = not + "its body could not be read again"
	case "budget":
		text = not + "the retry budget was used up"
	case "backoff stopped":
		text = not + "the backoff policy stopped"
	case "max wait":
		text = not + "the wait would be longer than WithMaxWait allows"
		if hint := c.hint(); hint > 0 {
			text = not + "the server asked for " + duration(hint) + ", which is longer than WithMaxWait allows"
		}
	case "deadline":
		text = not + "the wait would outlast the deadline of the caller"
		if hint := c.hint(); hint > 0 {
			text = not + "the server asked for " + duration(hint) + ", which would outlast the deadline of the caller"
		}
	case "limited":
		text = not
		if c.attempts == 0 {
			text = "Nothing was sent: "
		}
		text += c.refused()
	case "canceled":
		text = "The caller gave up: its context ended"
	case "final status":
		text = not + "another attempt would get the same answer"
	case "quota used up":
		text = not + "a short wait brings no new quota"
	case "retried below":
		text = not + "another Transport below has already retried it"
	default:
		return not + redact.Line(c.reason, maxWord) + "."
	}
	return text + " (" + c.reason + ")."
}

// refused explains why the limiter did not let an attempt go.
func (c *call) refused() string {
	if n := len(c.steps); n > 0 && c.steps[n-1].wait {
		return "its turn did not come within the longest wait allowed"
	}
	e := c.refusal
	if e == nil || e.Wait <= 0 {
		return "the limiter refused it"
	}
	why := waitText(e.Reason, 0)
	if c.refuser != nil {
		why = c.refuser.text()
	}
	return "it would have had to wait for " + duration(e.Wait) + ", longer than WithMaxWait or its deadline allows, " + withoutBracket(why)
}

func withoutBracket(s string) string {
	if i := strings.LastIndex(s, " ("); i > 0 {
		return s[:i]
	}
	return s
}

// hint returns the wait that the server asked for in its last answer.
func (c *call) hint() time.Duration {
	for _, s := range slices.Backward(c.steps) {
		if !s.wait {
			return s.want
		}
	}
	return 0
}

// result returns the result of an attempt in a few words.
func (p *span) result() string {
	switch {
	case p.status == 0:
		return "no response"
	case p.status < 400 && p.failure != nil:
		return strconv.Itoa(p.status) + " with an error in it"
	}
	return strconv.Itoa(p.status)
}

// inBrackets returns the codes of the error object, or the text of the error, in
// brackets.
func (f *failure) inBrackets() string {
	if f == nil {
		return ""
	}
	parts := slices.DeleteFunc([]string{f.typ, f.code, f.text}, func(s string) bool {
		_, err := strconv.Atoi(s)
		return s == "" || err == nil // a code that repeats the status
	})
	parts = slices.Compact(parts)
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// duration formats d for people, with two or three digits. The space between a
// number and its unit does not break.
func duration(d time.Duration) string {
	switch {
	case d <= 0:
		return "0\u00a0ms"
	case d < time.Millisecond:
		return strconv.FormatFloat(max(d.Seconds()*1e3, 0.01), 'f', 2, 64) + "\u00a0ms"
	case d < 10*time.Millisecond-50*time.Microsecond:
		return strconv.FormatFloat(d.Seconds()*1e3, 'f', 1, 64) + "\u00a0ms"
	case d < time.Second-500*time.Microsecond:
		return strconv.FormatFloat(d.Seconds()*1e3, 'f', 0, 64) + "\u00a0ms"
	case d < time.Minute-50*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "\u00a0s"
	}
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 3600:
		return two(s/60, "min", s%60, "s")
	case s < 24*3600:
		return two(s/3600, "h", s%3600/60, "min")
	}
	return two(s/(24*3600), "d", s%(24*3600)/3600, "h")
}

func two(a int64, aUnit string, b int64, bUnit string) string {
	if b == 0 {
		return fmt.Sprintf("%d\u00a0%s", a, aUnit)
	}
	return fmt.Sprintf("%d\u00a0%s %d\u00a0%s", a, aUnit, b, bUnit)
}

// rate formats an amount or a rate with up to three digits.
func rate(x float64) string {
	if x >= 99.95 {
		return number(int64(x + 0.5))
	}
	decimals := 2
	if x >= 9.995 {
		decimals = 1
	}
	s := strconv.FormatFloat(x, 'f', decimals, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// number formats n in groups of three digits.
func number(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func share(part, whole float64) string {
	if whole <= 0 {
		return "0\u00a0%"
	}
	p := 100 * part / whole
	if p > 0 && p < 9.95 || p > 99 && p < 100 {
		// 99.97 % is not all.
		return strconv.FormatFloat(min(max(p, 0.1), max(99.9, p-0.05)), 'f', 1, 64) + "\u00a0%"
	}
	return strconv.FormatFloat(p, 'f', 0, 64) + "\u00a0%"
}

// tally is a reason, and how often it occurred.
type tally struct{ Name, Count string }

func byCount(m map[string]int64) []tally {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return int(m[b] - m[a])
		}
		return strings.Compare(a, b)
	})
	var list []tally
	for _, name := range names {
		list = append(list, tally{redact.Line(name, maxWord), number(m[name])})
	}
	return list
}

func byTime(m map[string]resilient.WaitTotal) []tally {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a].Time != m[b].Time {
			return int(m[b].Time - m[a].Time)
		}
		return strings.Compare(a, b)
	})
	var list []tally
	for _, name := range names {
		list = append(list, tally{redact.Line(name, maxWord), number(m[name].Count) + " × " + duration(m[name].Time/time.Duration(max(m[name].Count, 1)))})
	}
	return list
}

// statusText returns a status with its text, such as "503 Service Unavailable".
func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return strconv.Itoa(status) + " " + text
	}
	return strconv.Itoa(status)
}
