package eventstream_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/eventstream"
)

const bom = "\ufeff"

type event struct{ name, data string }

// parse returns the events in these pieces of a stream.
func parse(tb testing.TB, pieces ...string) []event {
	tb.Helper()
	var events []event
	p := eventstream.NewParser(func(name string, data []byte) {
		events = append(events, event{name, string(data)})
	})
	var buf []byte
	for _, piece := range pieces {
		buf = append(buf[:0], piece...)
		p.Write(buf)
		clear(buf) // it belongs to the caller again
	}
	if kept := p.Kept(); kept > 5*eventstream.Max {
		tb.Errorf("%d bytes are kept", kept)
	}
	return events
}

// reference returns the events in a stream, as the standard words it.
func reference(stream string) []event {
	stream = strings.TrimPrefix(stream, bom)
	stream = strings.ReplaceAll(stream, "\r\n", "\n")
	stream = strings.ReplaceAll(stream, "\r", "\n")
	lines := strings.Split(stream, "\n")
	var events []event
	name, data := "", []byte(nil)
	for _, line := range lines[:len(lines)-1] {
		if line == "" {
			if len(data) > 0 {
				text := string(data[:len(data)-1])
				events = append(events, event{name[:min(len(name), eventstream.Max)], text[:min(len(text), eventstream.Max)]})
			}
			name, data = "", nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			data = append(append(data, value...), '\n')
		}
	}
	return events
}

func TestParser(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stream string // also written with CR and CRLF for each LF, unless it has a CR
		want   []event
		why    string
	}{
		{"nothing", "", nil, "no event"},
		{"blank lines", "\n\n\n", nil, "no event"},
		{"data", "data: a\n\n", []event{{"", "a"}}, "without a name"},
		{"a name", "event: e\ndata: a\n\n", []event{{"e", "a"}}, "with the name"},
		{"a name behind the data", "data: a\nevent: e\n\n", []event{{"e", "a"}}, "the order is of no matter"},
		{"two names", "event: e\nevent: f\ndata: a\n\n", []event{{"f", "a"}}, "the last one counts"},
		{"a name that is taken back", "event: e\nevent\ndata: a\n\n", []event{{"", "a"}}, "also if it is empty"},
		{"two events", "event: e\ndata: a\n\ndata: b\n\n", []event{{"e", "a"}, {"", "b"}}, "a name is for one event"},
		{"names in turn", "event: e\ndata\n\nevent: f\ndata\n\nevent: e\ndata\n\n", []event{{"e", ""}, {"f", ""}, {"e", ""}}, "each has its own"},
		{"lines of data", "data: a\ndata: b\ndata:\ndata: c\n\n", []event{{"", "a\nb\n\nc"}}, "joined by a LF"},
		{"the example of the standard", "data\n\ndata\ndata\n\ndata:\n", []event{{"", ""}, {"", "\n"}}, "the last event is not complete"},
		{"another example of the standard", "data:test\n\ndata: test\n\n", []event{{"", "test"}, {"", "test"}}, "a space is not of the value"},
		{"the stocks of the standard", "data: YHOO\ndata: +2\ndata: 10\n\n", []event{{"", "YHOO\n+2\n10"}}, "as there"},
		{"an event without data", "event: e\n\ndata: a\n\n", []event{{"", "a"}}, "is none, and its name is forgotten"},
		{"a space", "data:  a \n\n", []event{{"", " a "}}, "only the first one is not of the value"},
		{"a space alone", "data: \n\n", []event{{"", ""}}, "not of the value"},
		{"a tab", "data:\ta\n\n", []event{{"", "\ta"}}, "is no space"},
		{"a colon", "data: a:b:\nevent: e: f\n\n", []event{{"e: f", "a:b:"}}, "the first one counts"},
		{"comments", ": hi\n:\n:data: no\ndata: a\n:\n\n: ping\n\n", []event{{"", "a"}}, "are ignored"},
		{"other fields", "id: 1\nretry: 5\ndatax: no\ndat: no\nevents: no\neven\nx\ndata: a\n\n", []event{{"", "a"}}, "are ignored"},
		{"a field in capitals", "Data: no\ndata: a\n\n", []event{{"", "a"}}, "is another one"},
		{"a space before a field", " data: no\ndata : no\ndata: a\n\n", []event{{"", "a"}}, "is of its name"},
		{"a long field", strings.Repeat("data", 100) + ": no\ndata: a\n\n", []event{{"", "a"}}, "is another one"},
		{"no blank line", "data: a\n", nil, "not complete"},
		{"no end of the line", "data: a\n\ndata: b\n\ndata: c", []event{{"", "a"}, {"", "b"}}, "not complete"},
		{"a BOM", bom + "data: a\n\n", []event{{"", "a"}}, "is skipped"},
		{"a second BOM", bom + bom + "data: no\ndata: a\n\n", []event{{"", "a"}}, "is of the name of the field"},
		{"a BOM in the middle", "data: a\n" + bom + "data: no\n\n", []event{{"", "a"}}, "is of the name of the field"},
		{"a part of a BOM", "\xef\xbb:no\n\xefdata: no\ndata: a\n\n", []event{{"", "a"}}, "is of the name of the field"},
		{"a part of a BOM and data", "\xefdata: no\ndata: a\n\n", []event{{"", "a"}}, "is of the name of the field"},
		{"a BOM alone", bom, nil, "nothing"},
		{"what is not UTF-8", "data: \xff\x00\xef\n\n", []event{{"", "\xff\x00\xef"}}, "remains as it is"},
		{"CR and CRLF", "data: a\rdata: b\r\ndata: c\n\r\ndata: d\r\r", []event{{"", "a\nb\nc"}, {"", "d"}}, "each is one end of a line"},
		{"LF and CR", "data: a\n\rdata: b\n\n", []event{{"", "a"}, {"", "b"}}, "these are two"},
		{"CR and CRLF in turn", "data: a\r\r\n\rdata: b\r\r", []event{{"", "a"}, {"", "b"}}, "the second end is the blank line"},
		{"CRLF and no more", "data: a\r\n\r", []event{{"", "a"}}, "the LF need not come"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			streams := []string{tt.stream}
			if !strings.Contains(tt.stream, "\r") {
				streams = append(streams, strings.ReplaceAll(tt.stream, "\n", "\r"), strings.ReplaceAll(tt.stream, "\n", "\r\n"))
			}
			for _, s := range streams {
				if !strings.HasPrefix(s, "\xef") {
					streams = append(streams, bom+s)
				}
			}
			for _, s := range streams {
				require.Equal(t, tt.want, parse(t, s), "%q: %s", s, tt.why)
				require.Equal(t, tt.want, parse(t, strings.Split(s, "")...), "%q in characters", s)
				require.Equal(t, tt.want, parse(t, split(s, 1)...), "%q in bytes", s)
				for i := range len(s) {
					require.Equal(t, tt.want, parse(t, s[:i], s[i:]), "%q split at %d", s, i)
				}
				require.Equal(t, tt.want, reference(s), "%q", s)
			}
		})
	}
}

// split returns s in pieces of n bytes.
func split(s string, n int) []string {
	var pieces []string
	for len(s) > n {
		pieces = append(pieces, s[:n])
		s = s[n:]
	}
	return append(pieces, s)
}

// TestMax: of a long event the first bytes are passed, and the next one is whole.
func TestMax(t *testing.T) {
	const long = eventstream.Max
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, tt := range []struct {
		name   string
		stream string
		want   event
		why    string
	}{
		{"data that fits", "data: " + x(long) + "\n\n", event{"", x(long)}, "all of it"},
		{"data that is too long", "data: " + x(long+1) + "\n\n", event{"", x(long)}, "the first bytes"},
		{"data that is far too long", "data: " + x(3*long) + "\nevent: e\n\n", event{"e", x(long)}, "the first bytes, and the name behind them"},
		{"many lines", strings.Repeat("data: x\n", long) + "\n", event{"", strings.Repeat("x\n", long/2)}, "the first ones"},
		{"many empty lines", strings.Repeat("data\n", long+2) + "\n", event{"", strings.Repeat("\n", long)}, "the first ones"},
		{"a LF that does not fit", "data: " + x(long) + "\ndata: y\n\n", event{"", x(long)}, "it is not kept"},
		{"a LF that just fits", "data: " + x(long-1) + "\ndata: y\n\n", event{"", x(long-1) + "\n"}, "it is kept, and the data behind it is not"},
		{"a long name", "event: " + x(2*long) + "\ndata: a\n\n", event{x(long), "a"}, "the first bytes"},
		{"a long comment", ":" + x(3*long) + "\ndata: a\n\n", event{"", "a"}, "ignored"},
		{"a long field", x(3*long) + "\ndata: a\n\n", event{"", "a"}, "ignored"},
		{"a long value of another field", "id:" + x(3*long) + "\ndata: a\n\n", event{"", "a"}, "ignored"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.stream + "data: next\n\n"
			want := []event{tt.want, {"", "next"}}
			require.Equal(t, want, reference(s), tt.why)
			for _, n := range []int{3, 4096, long, len(s)} {
				require.Equal(t, want, parse(t, split(s, n)...), "%s, in pieces of %d", tt.why, n)
			}
		})
	}
}

// TestEndlessLine is a server that sends no LF: nothing is kept of it.
func TestEndlessLine(t *testing.T) {
	for _, begin := range []string{"", ":", "id: ", "data: ", "event: ", "data"} {
		p := eventstream.NewParser(func(string, []byte) { t.Error("an event") })
		p.Write([]byte(begin))
		piece := bytes.Repeat([]byte("x"), 1<<10)
		for range 2 << 10 {
			p.Write(piece)
		}
		require.LessOrEqual(t, p.Kept(), 2*eventstream.Max, begin)
	}
}

// TestWriteDoesNotAllocate: once the buffers have grown and the name is known.
func TestWriteDoesNotAllocate(t *testing.T) {
	events := 0
	p := eventstream.NewParser(func(string, []byte) { events++ })
	stream := []byte(strings.Repeat("event: delta\ndata: {\"text\":\"hello\"}\n\n: ping\n\ndata: x\n\n", 10))
	require.Zero(t, testing.AllocsPerRun(100, func() { p.Write(stream) }))
	require.Equal(t, 101*20, events)
}

// FuzzParser: the events are those of the reference however the stream is split,
// and no more than the bound is kept of a stream of any length.
func FuzzParser(f *testing.F) {
	f.Add("event: e\r\ndata: a\rdata: b\n\r\n: c\ndata\n\nid: 1\r\rdata: d", []byte{3, 1, 2}, 1)
	f.Add(bom+"data:a\n\n", []byte{1, 1, 5}, 1)
	f.Add("\xef\xbbdata:a\n\n", []byte{2}, 3)
	f.Add("data: 0123456789012345678901234567890123456789\n", []byte{100, 255}, 3000)
	f.Add("0123456789012345678901234567890123456789", []byte{255}, 3000)
	f.Fuzz(func(t *testing.T, s string, sizes []byte, times int) {
		times = max(1, min(times, 5000, 4*eventstream.Max/(len(s)+1)))
		stream := "event: before\n" + strings.Repeat(s, times) + "\n\ndata: last\n\n"
		if times == 1 {
			stream = s // with its own beginning
		}
		want := reference(stream)
		require.Equal(t, want, parse(t, stream))
		var pieces []string
		rest := stream
		for i := 0; rest != "" && len(sizes) > 0; i++ {
			n := min(int(sizes[i%len(sizes)]), len(rest))
			if i == 10_000 {
				n = len(rest)
			}
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		require.Equal(t, want, parse(t, append(pieces, rest)...))
	})
}

func BenchmarkWrite(b *testing.B) {
	text := func(n int) string { return strings.Repeat("lorem ipsum ", n/12+1)[:n] }
	for _, bb := range []struct {
		name  string
		event string
	}{
		{"tokens", "event: delta\ndata: {\"index\":0,\"delta\":{\"text\":\"" + text(8) + "\"}}\n\n"},
		{"tokens CRLF", "data: {\"index\":0,\"delta\":{\"text\":\"" + text(8) + "\"}}\r\n\r\n"},
		{"objects", "data: " + text(1000) + "\n\n"},
		{"large", "data: " + text(30_000) + "\n\n"},
		{"blank lines CR", "\r"},
	} {
		for _, size := range []int{64, 4096, 32 << 10} {
			b.Run(fmt.Sprintf("%s/%d", bb.name, size), func(b *testing.B) {
				stream := []byte(strings.Repeat(bb.event, (256<<10)/len(bb.event)))
				b.SetBytes(int64(len(stream)))
				b.ReportAllocs()
				p := eventstream.NewParser(func(string, []byte) {})
				for b.Loop() {
					for rest := stream; len(rest) > 0; {
						n := min(size, len(rest))
						p.Write(rest[:n])
						rest = rest[n:]
					}
				}
			})
		}
	}
}
