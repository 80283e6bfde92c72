package debugpage

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/internal/redact"
)

const (
	shownInFlight = 5 // the oldest ones
	shownSlow     = 5
	shownKeys     = 50 // the most recently used ones
	shownLimits   = 8  // of a key
	plainCall     = time.Second
)

// page is the data of the template.
type page struct {
	Style   template.CSS
	Refresh int  // in seconds, or 0 for never
	Paused  bool // by "refresh=0" in the query
	Now     string
	Call    *callView // set on the page of one call
	Missing bool      // the call is not remembered

	Since    string
	Tiles    []tile
	Plot     *plot
	Keys     []keyView
	MoreKeys int
	Churn    string // that keys are made faster than they are used again; "": they are not
	InFlight []callView
	MoreOpen int
	Slow     []callView
	Slower   []callView // the rest of them, collapsed
	Failed   []callView
	Last     []callView
	Ended    []tally
	Failures []tally
	Waits    []tally
}

type tile struct{ Name, Value, Note string }

func (r *recorder) mainPage(refresh int) page {
	snapshot := r.sample()
	now := time.Since(r.start)
	beliefs := newBeliefs(&snapshot, r.start.Add(now))
	var inFlight, slow, bad, last []*call
	r.mu.Lock()
	open := len(r.inFlight)
	for c := r.oldest; c != nil && len(inFlight) < shownInFlight; c = c.next {
		inFlight = append(inFlight, c.clone())
	}
	r.dropSlow(now)
	slow = clones(r.slow)
	bad, last = clones(r.failed.all()), clones(r.last.all())
	seen := r.tally
	r.mu.Unlock()

	p := page{Refresh: refresh, Paused: refresh == 0, Now: r.clock(now), Since: r.clock(0)}
	p.Tiles = tiles(&snapshot.Totals, inFlight, open, now)
	p.Plot = newPlot(&seen, now, len(snapshot.Keys))
	for i := range snapshot.Keys[:min(len(snapshot.Keys), shownKeys)] {
		p.Keys = append(p.Keys, newKeyView(&snapshot.Keys[i], r.start.Add(now)))
	}
	p.MoreKeys = len(snapshot.Keys) - len(p.Keys)
	if churn := snapshot.KeyChurn; churn != nil {
		p.Churn = fmt.Sprintf("%s keys were made, and %s of them used by a second call: see WithLimitKey.",
			number(churn.Made), number(churn.Reused))
	}
	explain(inFlight, beliefs)
	p.InFlight, p.MoreOpen = r.views(inFlight, now, p.Paused), open-len(inFlight)
	p.Slow = r.views(slow, now, p.Paused)
	if len(p.Slow) > shownSlow {
		p.Slow, p.Slower = p.Slow[:shownSlow], p.Slow[shownSlow:]
	}
	p.Failed, p.Last = r.views(bad, now, p.Paused), r.views(last, now, p.Paused)
	p.Ended, p.Failures = byCount(snapshot.Totals.Ended), byCount(snapshot.Totals.Failures)
	p.Waits = byTime(snapshot.Totals.Waits)
	return p
}

// callPage returns the page of one call. It refreshes only until the call has ended.
func (r *recorder) callPage(id int64, refresh int) page {
	now := time.Since(r.start)
	p := page{Paused: refresh == 0, Now: r.clock(now), Missing: true}
	r.mu.Lock()
	r.dropSlow(now)
	c := r.lookup(id)
	if c != nil {
		c = c.clone()
	}
	r.mu.Unlock()
	if c == nil {
		return p
	}
	p.Missing = false
	if !c.ended {
		p.Refresh = refresh
	}
	v := r.view(c, now)
	v.addDetails()
	p.Call = &v
	return p
}

func (r *recorder) lookup(id int64) *call {
	for c := r.newest; c != nil; c = c.prev {
		if c.id == id {
			return c
		}
	}
	for _, list := range [...][]*call{r.last.all(), r.slow, r.failed.all()} {
		for _, c := range list {
			if c.id == id {
				return c
			}
		}
	}
	return nil
}

// explain says what the calls wait for now, as far as it is known.
func explain(calls []*call, beliefs []belief) {
	for _, c := range calls {
		n := len(c.steps)
		if n == 0 || c.ended || c.req == nil {
			continue
		}
		if s := &c.steps[n-1]; s.wait && !s.ended && isLimit(s.reason) {
			if h := newWaiter(c.req).find(beliefs, s.reason); h != nil {
				s.held = h
			}
		}
	}
}

func clones(calls []*call) []*call {
	copies := make([]*call, 0, len(calls))
	for _, c := range calls {
		copies = append(copies, c.clone())
	}
	return copies
}

// clock formats an instant as a time of day.
func (r *recorder) clock(at time.Duration) string {
	return r.start.Add(at).UTC().Format("15:04:05")
}

func tiles(t *resilient.Totals, inFlight []*call, open int, now time.Duration) []tile {
	var waited time.Duration
	for _, w := range t.Waits {
		waited += w.Time
	}
	oldest := "none"
	if len(inFlight) > 0 {
		oldest = "for up to " + duration(now-inFlight[0].begin)
	}
	each := "none"
	if waited > 0 {
		each = duration(waited/time.Duration(max(t.Calls, 1))) + " for each call"
	}
	refusals := t.Failures["rate limited"] + t.Failures["quota used up"] + t.Failures["unavailable until a stated time"]
	return []tile{
		{"Calls", number(t.Calls), share(float64(t.Ended["success"]), float64(t.Calls)) + " succeeded"},
		{"In flight", number(int64(open)), oldest},
		{"Attempts", number(t.Attempts), number(t.Retries) + " of them retries"},
		{"Refused", number(refusals), share(float64(refusals), float64(t.Attempts)) + " of the attempts"},
		{"Waited in all", duration(waited), each},
	}
}

// keyView is a row of the table of keys.
type keyView struct {
	Key, Limit, Waiting     string
	Limits                  []limitView
	MoreLimits              int
	Budget, Calls, Attempts string
	Failures, Waits         []tally
}

// limitView is what is known of a limit of the server's.
type limitView struct{ State, Class, Route, Text string }

func newKeyView(k *resilient.KeySnapshot, now time.Time) keyView {
	v := keyView{
		Key: redact.Line(k.Key, maxText), Limit: setLimits(k, now), Waiting: waitingText(k), Budget: rate(k.Budget),
		Calls: number(k.Totals.Calls), Attempts: number(k.Totals.Attempts),
		Failures: byCount(k.Totals.Failures), Waits: byTime(k.Totals.Waits),
	}
	if k.Budget < 0 {
		v.Budget = "off"
	}
	for i := range k.Limits[:min(len(k.Limits), shownLimits)] {
		v.Limits = append(v.Limits, newLimitView(&k.Limits[i], now))
	}
	v.MoreLimits = len(k.Limits) - len(v.Limits)
	return v
}

// setLimits returns the words for the limits that the user has set.
func setLimits(k *resilient.KeySnapshot, now time.Time) string {
	var set []string
	if k.Limit > 0 {
		set = append(set, fmt.Sprintf("%s/s, burst %s; %s left", rate(k.Limit), number(int64(k.Burst)), rate(max(k.Tokens, 0))))
	}
	for _, b := range k.Buckets {
		text := redact.Line(b.Name, maxWord) + ": "
		switch {
		case b.Limit == 0:
			text += "no limit"
		case b.Tokens < 0:
			text += fmt.Sprintf("%s/s, burst %s; %s owed", rate(b.Limit), number(int64(b.Burst)), rate(-b.Tokens))
		default:
			text += fmt.Sprintf("%s/s, burst %s; %s left", rate(b.Limit), number(int64(b.Burst)), rate(b.Tokens))
		}
		set = append(set, text)
	}
	if k.MaxInFlight > 0 {
		text := fmt.Sprintf("%d of %d in flight", k.InFlight, k.MaxInFlight)
		if !k.OldestInFlight.IsZero() {
			text += ", the oldest for " + duration(now.Sub(k.OldestInFlight))
		}
		set = append(set, text)
	}
	if len(set) == 0 {
		return "none"
	}
	return strings.Join(set, "; ")
}

// waitingText returns how many wait, and of which class if there is more than one.
func waitingText(k *resilient.KeySnapshot) string {
	text := number(int64(k.Waiting))
	if len(k.Queues) == 0 || len(k.Queues) == 1 && k.Queues[0].Priority == 0 && k.Queues[0].Flows == 1 {
		return text
	}
	var classes []string
	for _, q := range k.Queues[:min(len(k.Queues), maxShownQueues)] {
		class := fmt.Sprintf("priority %d: %s", q.Priority, number(int64(q.Waiting)))
		if q.Flows > 1 {
			class += " in " + number(int64(q.Flows)) + " flows"
		}
		classes = append(classes, class)
	}
	return text + " (" + strings.Join(classes, ", ") + ")"
}

// maxShownQueues is how many priorities are told apart on the page.
const maxShownQueues = 5

// newLimitView returns the words for a limit: the state, and why it is believed.
func newLimitView(l *resilient.LimitSnapshot, now time.Time) limitView {
	v := limitView{State: word(string(l.State)), Class: "ok", Route: redact.Line(l.Route, maxText)}
	switch l.State {
	case resilient.LimitLooking:
		v.Class = "refused"
	case resilient.LimitRate:
		v.State = about(l.Rate) + unit(l.Unit) + "/s"
	case resilient.LimitInFlight:
		v.State = number(int64(l.InFlight)) + " in flight"
	case resilient.LimitPaused:
		v.State, v.Class = "paused, "+duration(l.PausedUntil.Sub(now))+" left", "refused"
	case resilient.LimitTold:
		v.State = "quota told"
		if l.Rate > 0 {
			v.State = about(l.Rate) + unit(l.Unit) + "/s, told"
		}
	case resilient.LimitChance:
		v.State, v.Class = "no limit, "+share(l.Chance, 1)+" refused by chance", ""
	}
	var parts []string
	if l.Sent > 0 {
		parts = append(parts, number(l.Refused)+" of "+number(l.Sent)+" refused")
	}
	switch tested := !l.Confirmed.IsZero(); {
	case tested:
		parts = append(parts, "confirmed "+duration(now.Sub(l.Confirmed))+" ago")
	case l.State == resilient.LimitRate || l.State == resilient.LimitInFlight:
		parts = append(parts, "not confirmed yet")
	}
	if !l.Since.IsZero() {
		parts = append(parts, "for "+duration(now.Sub(l.Since)))
	}
	v.Text = strings.Join(parts, ", ")
	return v
}

// span is a part of a call's time. Its times are counted from the beginning of the
// call.
type span struct {
	class    string // "ok", "refused", "failed", "running", "wait" or "gap"
	step     int    // index of the step, or -1 for a gap
	attempt  int
	from, to time.Duration
	open     bool // it has not ended
	want     time.Duration
	hint     time.Duration // the server's hint that caused a wait
	status   int
	reason   string
	failure  *failure
	held     *held
}

func (p *span) length() time.Duration { return p.to - p.from }

// spans returns the spans of a call in order, and the duration of the call.
func spans(c *call, now time.Duration) (list []span, took time.Duration) {
	end := now
	if c.ended {
		end = c.end
	}
	begin, hint := c.begin, time.Duration(0)
	for i, s := range c.steps {
		p := span{step: i, attempt: s.attempt, from: s.at, to: now, open: !s.ended, reason: s.reason, failure: s.failure}
		if s.ended {
			p.to = s.end
		}
		if s.wait {
			p.class, p.want, p.hint, p.held = "wait", s.want, hint, s.held
			if past := s.at - s.want; s.reason == "limiter" && past >= begin-c.slack(i) && p.length() < s.want/2 {
				// The limiter did not announce its wait, so the wait was already over.
				p.from, p.to, p.open = past, s.at, false
			}
		} else {
			hint, p.status = s.want, s.status
			switch {
			case !s.ended:
				p.class = "running"
			case s.failure == nil:
				p.class = "ok"
			case s.failure.refused:
				p.class = "refused"
			default:
				p.class = "failed"
			}
		}
		list = append(list, p)
		begin = p.to
	}
	begin = c.begin
	if len(list) > 0 {
		begin = min(begin, list[0].from)
	}
	return fillGaps(c, list, begin, end), end - begin
}

// slack returns how much earlier than its first event a call may have begun.
func (c *call) slack(step int) time.Duration {
	if step == 0 && !c.ended {
		return math.MaxInt64 / 2
	}
	return 0
}

// fillGaps makes the times of spans relative to begin, and adds a span for the time
// between two of them if it is long enough to be seen, or if steps were left out
// there.
func fillGaps(c *call, list []span, begin, end time.Duration) []span {
	least := max(time.Millisecond, (end-begin)/100)
	var all []span
	at := time.Duration(0)
	for _, p := range list {
		p.from, p.to = p.from-begin, p.to-begin
		gap := span{class: "gap", step: -1, from: at, to: p.from, reason: gapText}
		omitted := c.omitted > 0 && p.step == maxSteps/2
		if omitted {
			gap.reason = "went by in " + number(int64(c.omitted)) + " more attempts and waits"
		}
		if gap.length() >= least || omitted {
			all = append(all, gap)
		}
		at = max(at, p.to)
		all = append(all, p)
	}
	if end-begin-at >= least {
		all = append(all, span{class: "gap", step: -1, from: at, to: end - begin, reason: gapText})
	}
	return all
}

// callView is a call on the page.
type callView struct {
	ID                 int64
	Link               string
	Began              string
	Method, Host, Path string
	Result, Class      string
	Took               string
	Mostly             string // the part that took most of the time
	Plain              bool   // a quick success at the first attempt, shown as one line
	Text               []phrase
	Bars               []bar
	Labels             []label

	// These are set on the page of one call.
	Ticks  []label
	Steps  []stepView
	Places []tally // the time by its use
	spans  []span
	took   time.Duration
}

// bar is a rectangle of a timeline. Positions are percentages of the timeline's
// width.
type bar struct {
	X, Width, Class, Title string
	AtEnd                  bool // it is thin, and is drawn to the left of X so as not to overflow
}

// thin is the minimum width of an attempt, in pixels.
const thin = "4"

// label is a word on a timeline.
type label struct{ X, Anchor, Class, Text string }

// stepView is a row of the table of a call's steps.
type stepView struct {
	What, Class, Detail, From, Took, Share string
}

func (r *recorder) views(calls []*call, now time.Duration, paused bool) []callView {
	views := make([]callView, 0, len(calls))
	for _, c := range calls {
		v := r.view(c, now)
		v.Link = "?call=" + strconv.FormatInt(c.id, 10)
		if paused {
			v.Link += "&refresh=0"
		}
		views = append(views, v)
	}
	return views
}

func (r *recorder) view(c *call, now time.Duration) callView {
	list, took := spans(c, now)
	v := callView{
		ID: c.id, Began: r.clock(c.begin),
		Method: redact.Line(string(c.method), maxWord),
		Host:   redact.Line(string(c.host), maxText), Path: redact.Line(string(c.path), maxText),
		Took: duration(took), spans: list, took: took,
		Plain: c.ended && c.reason == "success" && c.attempts == 1 && len(list) == 1 && took < plainCall,
		Text:  sentence(c, list, took),
	}
	switch {
	case !c.ended:
		v.Result, v.Class = "in flight", "running"
	case c.status == 0:
		v.Result, v.Class = "no response", "failed"
		if c.attempts == 0 {
			v.Result = "not sent"
		}
	case c.reason == "success":
		v.Result, v.Class = strconv.Itoa(c.status), "ok"
	default:
		v.Result, v.Class = strconv.Itoa(c.status), "failed"
		if n := len(c.steps); n > 0 && c.steps[n-1].failure != nil && c.steps[n-1].failure.refused {
			v.Class = "refused"
		}
	}
	v.draw()
	if places := places(list); len(places) > 0 && !v.Plain && 2*places[0].time > took {
		v.Mostly = share(float64(places[0].time), float64(took)) + " " + places[0].name
	}
	return v
}

// draw makes the bars of the timeline, and labels if there is room.
func (v *callView) draw() {
	free := 0.0 // where the next label may begin
	for i := range v.spans {
		p := &v.spans[i]
		x, width := percent(p.from, v.took), percent(p.length(), v.took)
		title := duration(p.length())
		switch p.class {
		case "wait":
			title = "waited " + title + ": " + p.reason
		case "gap":
			title += " " + p.reason
		case "running":
			title = fmt.Sprintf("attempt %d, under way for %s", p.attempt, title)
		default:
			title = fmt.Sprintf("attempt %d: %s after %s", p.attempt, p.result(), title)
		}
		b := bar{position(x), position(width), p.class, title, false}
		if width < 0.6 && p.class != "wait" && p.class != "gap" {
			b.Width = thin // it would be invisible otherwise
			if x > 99 {
				b.X, b.AtEnd = "100%", true
			}
		}
		v.Bars = append(v.Bars, b)
		switch p.class {
		case "gap", "running":
		case "wait":
			if width >= 30 {
				v.Labels = append(v.Labels, label{position(x + width/2), "middle", "wait", p.reason + " " + duration(p.length())})
			}
		default:
			text := p.result()
			if p.status == 0 {
				text = "none"
			}
			const room = 12.0 // for a word of three or four letters, on a phone
			at := label{position(x), "start", p.class, text}
			if x > 100-room {
				x = max(x+width, room) - room
				at.X, at.Anchor = "100%", "end"
			}
			if x >= free {
				v.Labels = append(v.Labels, at)
				free = x + room
			}
		}
	}
	// Attempts are drawn over waits, because the thin ones overlap them.
	slices.SortStableFunc(v.Bars, func(a, b bar) int { return cmp.Compare(a.layer(), b.layer()) })
}

func (b *bar) layer() int {
	if b.Class == "wait" || b.Class == "gap" {
		return 0
	}
	return 1
}

// addDetails adds the fields that only the page of one call shows.
func (v *callView) addDetails() {
	for i := range v.spans {
		p := &v.spans[i]
		s := stepView{
			Class: p.class, From: duration(p.from), Took: duration(p.length()),
			Share: share(float64(p.length()), float64(v.took)),
		}
		switch p.class {
		case "wait":
			s.What, s.Detail = "wait", p.waitText()
			if p.open && p.want > 0 {
				s.Detail += ", about " + duration(p.want) + " in all"
			}
		case "gap":
			s.What, s.Detail = "", p.reason
		case "running":
			s.What, s.Detail = fmt.Sprintf("attempt %d", p.attempt), "under way"
		default:
			s.What = fmt.Sprintf("attempt %d", p.attempt)
			s.Detail = p.describe()
		}
		v.Steps = append(v.Steps, s)
	}
	for _, place := range places(v.spans) {
		v.Places = append(v.Places, tally{place.name, duration(place.time) + ", " + share(float64(place.time), float64(v.took))})
	}
	step := niceCeil(v.took.Seconds() / 5)
	for i := 0; v.took > 0; i++ {
		at := time.Duration(float64(i) * step * float64(time.Second))
		x := percent(at, v.took)
		if x > 90 {
			break
		}
		v.Ticks = append(v.Ticks, label{X: position(x), Anchor: "start", Text: duration(at)})
	}
	v.Ticks = append(v.Ticks, label{X: "100%", Anchor: "end", Text: v.Took})
}

// describe returns the details of an attempt, which are the same as in logs.
func (p *span) describe() string {
	text := "no response"
	if p.status != 0 {
		text = statusText(p.status)
	}
	parts := []string{text}
	if f := p.failure; f != nil {
		parts = append(parts, redact.Line(p.reason, maxWord))
		if f.kind != 0 {
			parts = append(parts, "kind "+f.kind.String())
		}
		for _, field := range [...][2]string{{"type", f.typ}, {"code", f.code}, {"request id", f.requestID}, {"error:", f.text}} {
			if field[1] != "" {
				parts = append(parts, field[0]+" "+field[1])
			}
		}
	}
	return strings.Join(parts, " · ")
}

// place is one use of a call's time.
type place struct {
	name string
	time time.Duration
}

// places returns the uses of a call's time, the longest first.
func places(list []span) []place {
	var all []place
	for i := range list {
		p := &list[i]
		name := "in attempts"
		switch p.class {
		case "wait":
			name = "waiting: " + redact.Line(p.reason, maxWord)
		case "gap":
			name = "in between"
		}
		j := slices.IndexFunc(all, func(q place) bool { return q.name == name })
		if j < 0 {
			j, all = len(all), append(all, place{name: name})
		}
		all[j].time += p.length()
	}
	slices.SortStableFunc(all, func(a, b place) int { return cmp.Compare(b.time, a.time) })
	return all
}

func percent(part, whole time.Duration) float64 {
	if whole <= 0 {
		return 0
	}
	return min(max(100*float64(part)/float64(whole), 0), 100)
}

func position(percent float64) string { return strconv.FormatFloat(percent, 'f', 2, 64) + "%" }
