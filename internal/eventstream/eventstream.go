// Package eventstream finds the events in a response of the type
// text/event-stream, while somebody else reads it.
//
// It follows section 9.2.6 of the HTML standard (html.spec.whatwg.org), with these
// differences. The text is not decoded: bytes that are not UTF-8 remain as they
// are. The fields id and retry are ignored, like unknown ones. An event without a
// name has the name "", not "message". And no more than Max bytes of anything are
// kept.
package eventstream

import "bytes"

// Max is how much is kept of the data and of the name of an event.
const Max = 64 << 10

const bom = "\xef\xbb\xbf"

// part is a part of a line.
type part int

const (
	inName  part = iota // of the field; the line may be blank yet
	inColon             // it has come, and a space may follow
	inValue
)

// field is the field of a line.
type field int

const (
	other field = iota // a comment, or a field that is ignored
	eventName
	eventData
)

// Parser finds the events in a stream that is written to it in pieces of any size.
// It is not safe for concurrent use.
type Parser struct {
	found func(name string, data []byte)

	bom   int  // how many bytes of it have come; len(bom): it is behind us
	cr    bool // the last byte was a CR, and a LF behind it ends no other line
	part  part
	word  []byte // the name of the field, up to maxWord bytes
	field field

	// The event so far.
	name []byte
	data []byte
	some bool // a data field has come, even if it was empty

	last string // the name of the last event that had one
}

// maxWord is one more than the length of the longest field that is known.
const maxWord = len("event") + 1

// NewParser returns a Parser that calls f at the end of each event, with its name,
// "" if it has none, and its data, which f must not keep. Of a name or of data
// longer than Max, f gets the first Max bytes. As by the standard, there is no call
// for an event without a data field, and none for an event that the stream ends
// in.
func NewParser(f func(name string, data []byte)) *Parser {
	return &Parser{found: f, word: make([]byte, 0, maxWord)}
}

// Write parses the next piece of the stream. It calls f for each event that ends
// in it.
func (p *Parser) Write(b []byte) {
	b = p.skipBOM(b)
	// The next LF and CR at or behind i. Each is looked for only when it has been
	// passed, so that no byte is looked at more than twice.
	lf, cr := -1, -1
	for i := 0; i < len(b); {
		if p.cr {
			p.cr = false
			if b[i] == '\n' {
				i++
				continue
			}
		}
		if lf < i {
			lf = next(b, i, '\n')
		}
		if cr < i {
			cr = next(b, i, '\r')
		}
		end := min(lf, cr)
		p.line(b[i:end])
		if end == len(b) {
			return
		}
		p.endLine()
		p.cr = b[end] == '\r'
		i = end + 1
	}
}

// next returns the index of c in b, from i on, or the length of b.
func next(b []byte, i int, c byte) int {
	if n := bytes.IndexByte(b[i:], c); n >= 0 {
		return i + n
	}
	return len(b)
}

// skipBOM returns b without the byte order mark that the stream may begin with.
func (p *Parser) skipBOM(b []byte) []byte {
	for p.bom < len(bom) && len(b) > 0 {
		if b[0] != bom[p.bom] {
			p.line([]byte(bom[:p.bom])) // it was none
			p.bom = len(bom)
			break
		}
		p.bom++
		b = b[1:]
	}
	return b
}

// line takes the next piece of a line.
func (p *Parser) line(b []byte) {
	if p.part == inName {
		i := bytes.IndexByte(b, ':')
		if i < 0 {
			p.word = appendUpTo(maxWord, p.word, b)
			return
		}
		p.word = appendUpTo(maxWord, p.word, b[:i])
		p.beginValue()
		p.part = inColon
		b = b[i+1:]
	}
	if p.part == inColon && len(b) > 0 {
		p.part = inValue
		if b[0] == ' ' {
			b = b[1:]
		}
	}
	switch p.field {
	case eventData:
		p.data = appendUpTo(Max, p.data, b)
	case eventName:
		p.name = appendUpTo(Max, p.name, b)
	case other:
	}
}

// beginValue begins the value of a field, when its name has come.
func (p *Parser) beginValue() {
	switch string(p.word) {
	case "data":
		p.field = eventData
		if p.some {
			p.data = appendUpTo(Max, p.data, []byte{'\n'})
		}
		p.some = true
	case "event":
		p.field = eventName
		p.name = p.name[:0]
	default:
		p.field = other
	}
}

func (p *Parser) endLine() {
	switch {
	case p.part != inName:
	case len(p.word) > 0:
		p.beginValue() // a field without a colon has no value
	default:
		p.endEvent()
	}
	p.part = inName
	p.word = p.word[:0]
}

func (p *Parser) endEvent() {
	name, data, some := "", p.data, p.some
	if some && len(p.name) > 0 {
		if p.last != string(p.name) {
			p.last = string(p.name)
		}
		name = p.last
	}
	p.name, p.data, p.some = p.name[:0], p.data[:0], false
	if some {
		p.found(name, data)
	}
}

// appendUpTo appends b to a, up to a length of limit.
func appendUpTo(limit int, a, b []byte) []byte {
	return append(a, b[:min(len(b), limit-len(a))]...)
}
