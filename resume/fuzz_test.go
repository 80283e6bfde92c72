package resume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/resume"
)

// maxSize is the length of the longest file of a liar. It is more than a 200 may
// send again.
const maxSize = 1<<20 + 300_000

// versions are four files that differ in every byte.
var versions = func() (v [4][]byte) {
	for i := range v {
		v[i] = make([]byte, maxSize)
		_, _ = rand.NewChaCha8([32]byte{}).Read(v[i])
		for j := range v[i] {
			v[i][j] ^= byte(i)
		}
	}
	return v
}()

// choices are the decisions of a liar. When they have run out, it is honest.
type choices struct{ data []byte }

// n returns a number below limit.
func (c *choices) n(limit int) int {
	var word [4]byte
	c.data = c.data[copy(word[:], c.data):]
	return int(binary.LittleEndian.Uint32(word[:])) % limit
}

func (c *choices) oneIn(n int) bool { return c.n(n) == 1 }

// liar is a server whose answers are wrong in all the ways that its choices say. Only
// its strong validators are true, because two versions with one validator cannot be
// told apart: of a body whose fields all claim to be the missing bytes of the right
// version, nobody knows that it is not.
type liar struct {
	choices
	size    int
	start   int // of the range that the caller asks for
	end     int
	dated   bool // Last-Modified in place of ETag
	asked   int
	told    []int // the lies, by their place in the list
	resp    *http.Response
	err     error // in place of resp
	version int
}

// lie is a way to answer a request for the rest.
type lie struct {
	name string
	tell func(l *liar, start, end int)
}

var lies = [...]lie{
	{"honest", func(l *liar, start, end int) { l.part(start, end) }},
	{"a shorter part", func(l *liar, start, end int) { l.part(start, start+1+l.n(end-start)) }},
	{"a later start", func(l *liar, start, end int) { l.part(start+l.n(end-start), end) }},
	{"an earlier start", func(l *liar, start, end int) { l.part(start-l.n(start+1), end) }},
	{"the beginning", func(l *liar, _, end int) { l.part(0, end) }},
	{"a later end", func(l *liar, start, _ int) { l.part(start, l.size) }},
	{"no complete length", func(l *liar, start, end int) {
		l.part(start, end)
		l.resp.Header.Set("Content-Range", "bytes "+strconv.Itoa(start)+"-"+strconv.Itoa(end-1)+"/*")
	}},
	{"another complete length", func(l *liar, start, end int) {
		l.part(start, end)
		l.resp.Header.Set("Content-Range", contentRange(start, end, l.size+1+l.n(9)))
	}},
	{"multipart", func(l *liar, start, end int) {
		l.part(start, end)
		l.resp.Header.Set("Content-Type", "multipart/byteranges; boundary=THIS")
		l.garbage("--THIS\r\nContent-Range: bytes 0-9/100\r\n\r\n0123456789\r\n--THIS--")
	}},
	{"multipart without Content-Range", func(l *liar, start, end int) {
		l.part(start, end)
		l.resp.Header.Del("Content-Range")
		l.garbage("--THIS\r\n")
	}},
	{"gzip", func(l *liar, start, end int) {
		l.part(start, end)
		l.resp.Header.Set("Content-Encoding", "gzip")
		l.garbage("\x1f\x8b")
	}},
	{"gzip, unseen", func(l *liar, start, end int) {
		l.part(start, end)
		l.resp.Uncompressed = true
		l.garbage("decompressed")
	}},
	{"as to HEAD", func(l *liar, start, end int) { l.part(start, end); l.resp.Body = http.NoBody }},
	{"changed, 206", func(l *liar, start, end int) { l.change(); l.part(start, end) }},
	{"changed, 200", func(l *liar, _, _ int) { l.change(); l.whole() }},
	{"changed, without saying which", func(l *liar, start, end int) {
		l.change()
		l.part(start, end)
		l.resp.Header.Del("Etag")
		l.resp.Header.Del("Last-Modified")
	}},
	{"changed, weak", func(l *liar, start, end int) {
		l.change()
		l.part(start, end)
		l.resp.Header.Set("Etag", `W/"v0"`)
		l.resp.Header.Del("Last-Modified")
	}},
	{"changed, both validators", func(l *liar, start, end int) {
		l.change()
		l.part(start, end)
		l.resp.Header["Etag"] = []string{`"v0"`, `"v1"`}
		l.resp.Header["Last-Modified"] = []string{date(0), date(1)}
	}},
	{"everything again", func(l *liar, _, _ int) { l.whole() }},
	{"everything, with a Content-Range", func(l *liar, start, end int) {
		l.whole()
		l.resp.Header.Set("Content-Range", contentRange(start, end, l.size))
	}},
	{"everything, of unknown length", func(l *liar, _, _ int) { l.whole(); l.resp.ContentLength = -1 }},
	{"everything, but longer", func(l *liar, _, _ int) { l.whole(); l.resp.ContentLength += int64(1 + l.n(9)) }},
	{"a 206 without Content-Range", func(l *liar, start, end int) { l.part(start, end); l.resp.Header.Del("Content-Range") }},
	{"two Content-Ranges", func(l *liar, start, end int) {
		l.part(l.n(start+1), end)
		l.resp.ContentLength = -1
		l.resp.Header["Content-Range"] = []string{contentRange(start, end, l.size), contentRange(0, end, l.size)}
	}},
	{"a Content-Range of nonsense", func(l *liar, start, end int) {
		l.part(start, end)
		nonsense := []string{"", "bytes", "bytes */9", "bytes -1-5/9", "bytes=0-5/9", "bytes 5-0/9", "bytes 0-9/9", "bytes 18446744073709551616-5/9", "pages 0-5/9"}
		l.resp.Header.Set("Content-Range", nonsense[l.n(len(nonsense))])
		l.garbage("nonsense")
	}},
	{"a wrong Content-Length", func(l *liar, start, end int) {
		l.part(start, end)
		l.resp.ContentLength += int64(1 + l.n(9))
	}},
	{"more than it said", func(l *liar, start, end int) {
		l.part(start, start+1+l.n(end-start))
		body, _ := io.ReadAll(l.resp.Body)
		l.resp.Body = io.NopCloser(bytes.NewReader(append(body, versions[3][:end]...)))
	}},
	{"a status", func(l *liar, start, end int) {
		l.part(start, end)
		l.garbage("an error")
		statuses := []int{100, 201, 204, 301, 302, 304, 400, 401, 404, 412, 416, 429, 500, 503, 599}
		l.resp.StatusCode = statuses[l.n(len(statuses))]
	}},
	{"no response", func(l *liar, _, _ int) { l.resp, l.err = nil, errOther }},
	{"no response, but io.EOF", func(l *liar, _, _ int) { l.resp, l.err = nil, io.EOF }},
}

func date(version int) string {
	return "Sun, 06 Nov 1994 08:49:3" + strconv.Itoa(version) + " GMT"
}

// change makes the file another version, perhaps of another length.
func (l *liar) change() {
	l.version = 1 + l.n(len(versions)-1)
	if l.oneIn(2) {
		l.size += 1 + l.n(9)
	}
}

// answer makes an answer with the bytes of the version that l has now.
func (l *liar) answer(status, start, end int) {
	l.resp = &http.Response{
		StatusCode: status, Header: http.Header{}, ContentLength: int64(end - start),
		Body: io.NopCloser(bytes.NewReader(versions[l.version][start:end])),
	}
	if l.dated {
		l.resp.Header.Set("Date", "Sun, 06 Nov 1994 08:59:37 GMT")
		l.resp.Header.Set("Last-Modified", date(l.version))
	} else {
		l.resp.Header.Set("Etag", `"v`+strconv.Itoa(l.version)+`"`)
	}
}

func (l *liar) whole() { l.answer(http.StatusOK, 0, l.size) }

func (l *liar) part(start, end int) {
	end = min(end, l.size)
	l.answer(http.StatusPartialContent, start, end)
	l.resp.Header.Set("Content-Range", contentRange(start, end, l.size))
}

// garbage makes the body something else of the same length.
func (l *liar) garbage(begin string) {
	b := bytes.Repeat([]byte(begin), int(l.resp.ContentLength)/len(begin)+1)
	l.resp.Body = io.NopCloser(bytes.NewReader(b[:l.resp.ContentLength]))
}

// RoundTrip answers the first request as it is, and those for the rest with a lie.
// Each body may break off anywhere.
func (l *liar) RoundTrip(req *http.Request) (*http.Response, error) {
	size, version := l.size, l.version
	if l.asked++; l.asked == 1 {
		if l.start == 0 && l.end == l.size {
			l.whole()
		} else {
			l.part(l.start, l.end)
		}
	} else {
		start, end := asked(req)
		i := l.n(2 * len(lies))
		if i >= len(lies) {
			i = 0 // half of them honest, or few would get to a second one
		}
		l.told = append(l.told, i)
		lies[i].tell(l, start, end)
	}
	l.size, l.version = size, version
	if l.resp == nil {
		return nil, l.err
	}
	limit := 2 * size
	if l.asked == 1 {
		limit = size + size/4 // most of the first ones break
	}
	if n := l.n(limit); n < size {
		l.resp.Body = io.NopCloser(io.MultiReader(io.LimitReader(l.resp.Body, int64(n)), l.cut()))
	}
	return l.resp, nil
}

// cut returns the way in which a body ends too early.
func (l *liar) cut() io.Reader {
	errs := []error{io.ErrUnexpectedEOF, io.EOF, errCut, context.DeadlineExceeded}
	err := errs[l.n(len(errs))]
	return readerFunc(func([]byte) (int, error) { return 0, err })
}

// asked returns the range that a request asks for.
func asked(req *http.Request) (start, end int) {
	m := regexp.MustCompile(`^bytes=(\d+)-(\d+)$`).FindStringSubmatch(req.Header.Get("Range"))
	start, _ = strconv.Atoi(m[1])
	end, _ = strconv.Atoi(m[2])
	return start, end + 1
}

// newLiar returns a liar that does what the data says.
func newLiar(data []byte) *liar {
	l := &liar{choices: choices{data}}
	switch l.n(64) {
	case 1:
		l.size = maxSize - 16 - l.n(300_000) // longer than what may be sent again
	case 2, 3, 4:
		l.size = 1 + l.n(300_000) // long enough for progress
	default:
		l.size = 1 + l.n(2000)
	}
	l.end, l.dated = l.size, l.oneIn(4)
	if l.oneIn(4) {
		l.start = l.n(l.size)
		l.end = l.start + 1 + l.n(l.size-l.start)
	}
	return l
}

// requireNoWrongBody downloads from a liar, and reports whether the body came whole.
func requireNoWrongBody(tb testing.TB, l *liar) bool {
	tb.Helper()
	truth := versions[0][l.start:l.end]
	resp, err := resume.NewTransport(l).RoundTrip(get(tb))
	require.NoError(tb, err)
	got := &reading{truth: truth}
	_, err = io.CopyBuffer(got, resp.Body, make([]byte, 1+l.n(min(2*len(truth), 64<<10))))
	require.NoError(tb, resp.Body.Close())
	require.LessOrEqual(tb, l.asked, 1+3*(1+len(truth)/(64<<10)), "no more requests than progress allows")
	require.False(tb, got.wrong, "only bytes of the first version, in their places")
	if err == nil {
		require.Equal(tb, len(truth), got.n, "what ends without an error is whole")
		return true
	}
	require.NotErrorIs(tb, err, io.EOF)
	require.Less(tb, got.n, len(truth), "what is whole ends without an error")
	return false
}

// reading is what has been read, beside the truth.
type reading struct {
	truth []byte
	n     int
	wrong bool
}

func (r *reading) Write(p []byte) (int, error) {
	r.wrong = r.wrong || !bytes.HasPrefix(r.truth[min(r.n, len(r.truth)):], p)
	r.n += len(p)
	return len(p), nil
}

// TestLyingServers: of 10,000 servers that lie, none makes anybody take a wrong body.
func TestLyingServers(t *testing.T) {
	var whole, resumed, failed int
	var told [len(lies)]int
	for seed := range uint64(10_000) {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed)
		data := make([]byte, 400)
		_, _ = rand.NewChaCha8(key).Read(data)
		l := newLiar(data)
		switch ok := requireNoWrongBody(t, l); {
		case !ok:
			failed++
		case l.asked == 1:
			whole++
		default:
			resumed++
		}
		for _, i := range l.told {
			told[i]++
		}
	}
	t.Logf("%d bodies were whole at once, %d were resumed, %d ended with an error", whole, resumed, failed)
	require.Greater(t, resumed, 1000)
	require.Greater(t, failed, 500)
	for i, n := range told {
		require.Greater(t, n, 20, "%s: enough of them", lies[i].name)
	}
}

func FuzzLyingServer(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(8) {
		data := make([]byte, 100)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { requireNoWrongBody(t, newLiar(data)) })
}

// FuzzContentRange: a part is used if its Content-Range names the missing bytes, by
// another parser, and not otherwise.
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{
		"bytes 40-99/100", "bytes 40-49/100", "BYTES 0040-99/100", "bytes 40-99/*", "bytes */100", "bytes 40-100/100", "bytes 41-99/100",
		"bytes 40-39/100", "bytes 40-5/100", "bytes  40-99/100", "bytes 40 -99/100", "bytes +40-99/100", "bytes 40-99/100, bytes 0-1/100", "bytes 40-99/100/1",
		"bytes=40-99/100", "40-99/100", "bytes 4_0-99/100", "bytes 18446744073709551656-99/100", "bytes 40-99/1e2", "", "\x00",
	} {
		f.Add(s)
	}
	form := regexp.MustCompile(`^(?i:bytes) ([0-9]+)-([0-9]+)/([0-9]+)$`)
	number := func(s string) *big.Int { n, _ := new(big.Int).SetString(s, 10); return n }
	f.Fuzz(func(t *testing.T, value string) {
		usable := false
		if m := form.FindStringSubmatch(value); m != nil {
			last := number(m[2])
			usable = number(m[1]).Cmp(big.NewInt(40)) == 0 && last.Cmp(big.NewInt(40)) >= 0 && last.Cmp(big.NewInt(99)) <= 0 &&
				number(m[3]).Cmp(big.NewInt(100)) == 0
		}
		asked := 0
		got, err := resumed(t, roundTripper(func(req *http.Request) (*http.Response, error) {
			switch asked++; asked {
			case 1:
				return whole(40).response(req)
			case 2:
				a := answer{body: text[40:], length: -1}
				return a.with("Content-Range", value).response(req)
			}
			return nil, errOther // it was a shorter part
		}), get(t))
		if !usable {
			require.Error(t, err)
			require.Equal(t, text[:40], got)
			return
		}
		require.True(t, err == nil && got == text || errors.Is(err, errOther) && len(got) > 40, "%q: %v", value, err)
	})
}

// FuzzValidator: whatever the tag, what goes on has the same one, and a tag that goes
// into If-Range is a strong one.
func FuzzValidator(f *testing.F) {
	for _, s := range []string{`"v1"`, `W/"v1"`, `""`, `"`, `v1`, `"v"1"`, "\"\xff\"", `"v 1"`, `w/"v1"`, "\"\x7f\"", ""} {
		f.Add(s, s)
	}
	strong := regexp.MustCompile("^\"[\x21\x23-\x7e\u0080-\U0010ffff]*\"$")
	f.Fuzz(func(t *testing.T, first, second string) {
		asked := 0
		got, err := resumed(t, roundTripper(func(req *http.Request) (*http.Response, error) {
			if asked++; asked == 1 {
				return whole(40).with("Etag", first).response(req)
			}
			require.Equal(t, first, req.Header.Get("If-Range"))
			return part(40, 100, 60).with("Etag", second).response(req)
		}), get(t))
		isStrong := strong.MatchString(string([]rune(first)))
		require.Equal(t, isStrong, asked == 2, "%q", first)
		require.Equal(t, isStrong && first == second, err == nil)
		if err == nil {
			require.Equal(t, text, got)
		}
	})
}
