package resume_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resume"
)

// TestResume is what follows a body that breaks off after 40 of 100 bytes.
func TestResume(t *testing.T) {
	const before = "resume: the body broke off at byte 40 of 100 (the connection was cut) and cannot go on: "
	for _, tt := range []struct {
		name    string
		answers []answer // after the first
		want    string   // the reason why it does not go on; "": the text is whole
		why     string
	}{
		{"the rest", []answer{part(40, 100, 60)}, "", "the usual case"},
		{"the rest, cut again", []answer{part(40, 100, 10), part(50, 100, 50)}, "", "it goes on from the new place"},
		{"in parts", []answer{part(40, 70, 30), part(70, 100, 30)}, "", "RFC 9110 section 15.3.7: a server may send less than it was asked for"},
		{"an end too early", []answer{{header: []string{"Content-Range", "bytes 40-99/100"}, body: text[40:50], length: 60}, part(50, 100, 50)}, "", "io.EOF before the end is a break"},
		{"nothing, then the rest", []answer{part(40, 100, 0), part(40, 100, 0), part(40, 100, 60)}, "", "three times are allowed"},
		{"unknown length", []answer{{header: []string{"Content-Range", "bytes 40-99/100"}, body: text[40:], length: -1}}, "", "Content-Range has it"},
		{"too long", []answer{{header: []string{"Content-Range", "bytes 40-99/100"}, body: text[40:] + "more", length: 60}}, "", "what comes after the end is not part of it"},
		{"too long a part", []answer{{header: []string{"Content-Range", "bytes 40-49/100"}, body: text[40:50] + "more", length: 10}, part(50, 100, 50)}, "", "nor what comes after the end of a part"},
		{"identity", []answer{part(40, 100, 60, "Content-Encoding", "Identity")}, "", "no coding, if clumsily said"},
		{"bytes in capitals", []answer{part(40, 100, 60).with("Content-Range", "Bytes 40-99/100")}, "", "RFC 9110 section 14.1: range units are not case-sensitive"},
		{"everything again", []answer{whole(100)}, "", "RFC 9110 section 14.2: a server may ignore Range"},
		{"everything again, cut early", []answer{whole(20), part(40, 100, 60)}, "", "a break while skipping is a break"},
		{"everything again, cut later", []answer{whole(60), part(60, 100, 40)}, "", "a break after it too"},

		{"everything again, twice", []answer{whole(60), whole(100)}, strings.Replace(before, "40", "60", 1) + "the server sent everything again, twice", "it costs too much"},
		{"everything again, too short", []answer{{status: 200, body: text[:20], length: 100}, {status: 404}}, strings.Replace(before, "the connection was cut", "unexpected EOF", 1) + "status 404", "it does not end with io.EOF"},
		{"everything of another version", []answer{whole(100, "Etag", `"v2"`)}, before + "the validator has changed", "If-Range has failed"},
		{"everything without a validator", []answer{whole(100).with("Etag")}, before + "the validator has changed", "nobody knows which version it is"},
		{"everything, but longer", []answer{{status: 200, body: text + "more"}}, before + "the length has changed", "so it is another version"},
		{"everything of unknown length", []answer{{status: 200, body: text, length: -1}}, before + "the response has no length", "it might be another version"},
		{"everything, encoded", []answer{whole(100, "Content-Encoding", "gzip")}, before + "the response is encoded", "other bytes"},
		{"another version", []answer{part(40, 100, 60, "Etag", `"v2"`)}, before + "the validator has changed", "a server that ignores If-Range"},
		{"a weak validator", []answer{part(40, 100, 60, "Etag", `W/"v1"`)}, before + "the validator has changed", "the bytes may differ"},
		{"no validator", []answer{part(40, 100, 60).with("Etag")}, before + "the validator has changed", "RFC 9110 section 15.3.7: a 206 has it"},
		{"two validators", []answer{part(40, 100, 60).with("Etag", `"v1"`, `"v2"`)}, before + "the validator has changed", "nobody knows which one holds"},
		{"another length", []answer{part(40, 100, 60).with("Content-Range", "bytes 40-99/101")}, before + "the length has changed", "so it is another version"},
		{"no complete length", []answer{part(40, 100, 60).with("Content-Range", "bytes 40-99/*")}, before + "the response has no usable Content-Range", "it might have changed"},
		{"a later start", []answer{part(41, 100, 59)}, before + "the server sent another range", "a byte would be missing"},
		{"an earlier start", []answer{part(39, 100, 61)}, before + "the server sent another range", "a byte would come twice"},
		{"the beginning", []answer{part(0, 60, 60)}, before + "the server sent another range", "as of a server that counts from zero again"},
		{"no range", []answer{part(40, 100, 60).with("Content-Range")}, before + "the response has no usable Content-Range", "nobody knows which bytes these are"},
		{"a range that ends before it starts", []answer{answer{body: text[40:], length: -1}.with("Content-Range", "bytes 40-5/100")}, before + "the response has no usable Content-Range", "this cannot be"},
		{"two ranges", []answer{part(40, 100, 60).with("Content-Range", "bytes 40-99/100", "bytes 0-59/100")}, before + "the response has no usable Content-Range", "nobody knows which one holds"},
		{"other units", []answer{part(40, 100, 60).with("Content-Range", "lines 40-99/100")}, before + "the response has no usable Content-Range", "these are not bytes"},
		{"a range of the wrong length", []answer{part(40, 100, 60).with("Content-Range", "bytes 40-98/100")}, before + "the response's Content-Range and Content-Length differ", "one of them is wrong"},
		{"several parts", []answer{part(40, 100, 60, "Content-Type", "Multipart/ByteRanges; boundary=x")}, before + "the response has several parts", "its body has headers in it"},
		{"encoded", []answer{part(40, 100, 60, "Content-Encoding", "gzip")}, before + "the response is encoded", "other bytes"},
		{"encoded, unseen", []answer{{header: []string{"Content-Range", "bytes 40-99/100"}, body: text[40:], edit: func(resp *http.Response) { resp.Uncompressed = true }}}, before + "the response is encoded", "the base has decoded it"},
		{"304", []answer{{status: 304}}, before + "status 304", "no content"},
		{"404", []answer{{status: 404, body: text[40:]}}, before + "status 404", "the body of an error is not the file"},
		{"412", []answer{{status: 412}}, before + "status 412", "the caller's If-Match fails now"},
		{"416", []answer{{status: 416, header: []string{"Content-Range", "bytes */20"}}}, before + "status 416", "the file is shorter now"},
		{"503", []answer{{status: 503}}, before + "status 503", "the base has retried it, if it does"},
		{"no response", []answer{{err: errOther}}, before + "something else", "the base has retried it, if it does"},
		{"no body", []answer{{status: 206, header: []string{"Content-Range", "bytes 40-99/100"}, edit: func(resp *http.Response) { resp.Body = nil }}}, before + "the base returned nothing", "no panic"},
		{"nothing three times", []answer{part(40, 100, 0), part(40, 100, 0), part(40, 100, 0)}, before + "3 resumptions brought 0 bytes", "it would go on for ever"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newServer(t, append([]answer{whole(40)}, tt.answers...)...)
			got, err := resumed(t, base, get(t))
			require.Len(t, base.requests, 1+len(tt.answers))
			if tt.want == "" {
				require.NoError(t, err, tt.why)
				require.Equal(t, text, got, tt.why)
				return
			}
			require.EqualError(t, err, tt.want, tt.why)
			require.True(t, errors.Is(err, errCut) || errors.Is(err, io.ErrUnexpectedEOF))
			require.True(t, strings.HasPrefix(text, got))
		})
	}
}

// TestLeftAlone: what cannot be resumed is passed on as it came.
func TestLeftAlone(t *testing.T) {
	none := func(resp *http.Response) { resp.Body = http.NoBody }
	modified := func(at, sent string) answer {
		return whole(40, "Last-Modified", at, "Date", sent).with("Etag")
	}
	for _, tt := range []struct {
		name   string
		method string
		body   string
		answer answer
		why    string
	}{
		{"POST", http.MethodPost, "", whole(40), "not to be sent twice"},
		{"HEAD", http.MethodHead, "", answer{status: 200, length: 100, edit: none}, "no body"},
		{"PUT", http.MethodPut, "", whole(40), "RFC 9110 section 14.2 defines Range for GET only"},
		{"GET with a body", http.MethodGet, "query", whole(40), "it may not be there a second time"},
		{"no validator", http.MethodGet, "", whole(40).with("Etag"), "nobody would know what has changed"},
		{"weak validator", http.MethodGet, "", whole(40, "Etag", `W/"v1"`), "bytes may change under it"},
		{"weak validator and date", http.MethodGet, "", modified("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 09:49:37 GMT").with("Etag", `W/"v1"`), "RFC 9110 section 13.1.5: no date where there is a tag"},
		{"two validators", http.MethodGet, "", whole(40).with("Etag", `"v1"`, `"v2"`), "nobody knows which one holds"},
		{"tag without quotes", http.MethodGet, "", whole(40, "Etag", "v1"), "If-Range would take it for a date"},
		{"half a tag", http.MethodGet, "", whole(40, "Etag", `"`), "no entity tag"},
		{"tag with a blank", http.MethodGet, "", whole(40, "Etag", `"v 1"`), "no entity tag"},
		{"date of the same minute", http.MethodGet, "", modified("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:36 GMT"), "it may change again within the second, and clocks differ"},
		{"date without Date", http.MethodGet, "", modified("Sun, 06 Nov 1994 08:49:37 GMT", ""), "RFC 9110 section 8.8.2.2: not known to be strong"},
		{"no date", http.MethodGet, "", modified("yesterday", "Sun, 06 Nov 1994 08:49:37 GMT"), "no date"},
		{"two dates", http.MethodGet, "", modified("", "Sun, 06 Nov 1994 08:49:37 GMT").with("Last-Modified", "Sat, 05 Nov 1994 08:49:37 GMT", "Fri, 04 Nov 1994 08:49:37 GMT"), "nobody knows which one holds"},
		{"unknown length", http.MethodGet, "", answer{status: 200, body: text[:40], length: -1, cut: errCut}, "its end cannot be told"},
		{"encoded", http.MethodGet, "", whole(40, "Content-Encoding", "gzip"), "the rest might be encoded anew"},
		{"empty", http.MethodGet, "", answer{status: 200}, "there is nothing that could be missing"},
		{"no body", http.MethodGet, "", answer{status: 200, length: 100, edit: none}, "http.NoBody stays what it is"},
		{"nil body", http.MethodGet, "", answer{status: 200, length: 100, edit: func(resp *http.Response) { resp.Body = nil }}, "a broken base stays what it is"},
		{"trailers", http.MethodGet, "", answer{status: 200, body: text, edit: func(resp *http.Response) { resp.Trailer = http.Header{"X-Sum": nil} }}, "they would be those of the last part"},
		{"upgraded", http.MethodGet, "", answer{status: 200, body: text, edit: func(resp *http.Response) {
			resp.Body = struct {
				io.ReadCloser
				io.Writer
			}{resp.Body, io.Discard}
		}}, "the connection is the caller's"},
		{"several parts", http.MethodGet, "", part(0, 40, 40, "Content-Type", "multipart/byteranges; boundary=x"), "their places are in the body"},
		{"part of an unknown whole", http.MethodGet, "", part(0, 40, 40).with("Content-Range", "bytes 0-39/*"), "nobody would know what has changed"},
		{"part of unknown length", http.MethodGet, "", answer{body: text[:40], length: -1, header: []string{"Content-Range", "bytes 0-39/100"}}, "its end cannot be told"},
		{"part without a range", http.MethodGet, "", part(0, 40, 40).with("Content-Range"), "nobody knows which bytes these are"},
		{"part beyond the end", http.MethodGet, "", part(0, 40, 40).with("Content-Range", "bytes 0-39/39"), "this cannot be"},
		{"404", http.MethodGet, "", answer{status: 404, body: text}, "an error is not worth it"},
		{"416", http.MethodGet, "", answer{status: 416, header: []string{"Content-Range", "bytes */100"}}, "the caller's range does not exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := get(t)
			req.Method = tt.method
			if tt.body != "" {
				req.Body = io.NopCloser(strings.NewReader(tt.body))
			}
			want, _ := tt.answer.response(req)
			body, requests := want.Body, 0
			resp, err := resume.NewTransport(roundTripper(func(*http.Request) (*http.Response, error) {
				requests++
				return want, nil
			})).RoundTrip(req)
			require.NoError(t, err)
			require.Same(t, want, resp)
			require.True(t, body == resp.Body, tt.why) //nolint:testifylint // identity
			if resp.Body != nil {
				_, _ = io.ReadAll(resp.Body)
				require.NoError(t, resp.Body.Close())
			}
			require.Equal(t, 1, requests, tt.why)
		})
	}
}

// TestRequest: the rest is asked for with the caller's request, which stays as it
// is.
func TestRequest(t *testing.T) {
	const modified, sent = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:37 GMT"
	dated := []string{"Last-Modified", modified, "Date", sent}
	for _, tt := range []struct {
		name    string
		header  []string
		answers []answer
		want    string
		ask     http.Header // of the second request
		why     string
	}{
		{
			"nothing special", nil,
			[]answer{whole(40), part(40, 100, 60)},
			text,
			http.Header{"Range": {"bytes=40-99"}, "If-Range": {`"v1"`}},
			"the rest, if it is the same",
		},
		{
			"date", nil,
			[]answer{whole(40, dated...).with("Etag"), part(40, 100, 60, dated...).with("Etag")},
			text,
			http.Header{"Range": {"bytes=40-99"}, "If-Range": {modified}},
			"a date that is a minute old",
		},
		{
			"the caller's fields",
			[]string{"Authorization", "Bearer x", "If-None-Match", `"v0"`},
			[]answer{whole(40), part(40, 100, 60)},
			text,
			http.Header{"Range": {"bytes=40-99"}, "If-Range": {`"v1"`}, "Authorization": {"Bearer x"}, "If-None-Match": {`"v0"`}},
			"they reach every request",
		},
		{
			"the caller's range",
			[]string{"Range", "bytes=10-59", "If-Range", `"v0"`},
			[]answer{part(10, 60, 20), part(30, 60, 30)},
			text[10:60],
			http.Header{"Range": {"bytes=30-59"}, "If-Range": {`"v1"`}},
			"to its own end, by the validator of what came",
		},
		{
			"the caller's last bytes",
			[]string{"Range", "bytes=-20"},
			[]answer{part(80, 100, 5), part(85, 100, 15)},
			text[80:],
			http.Header{"Range": {"bytes=85-99"}, "If-Range": {`"v1"`}},
			"whose place the response has said",
		},
		{
			"the caller's range, of everything",
			[]string{"Range", "bytes=10-59"},
			[]answer{part(10, 60, 20), whole(100)},
			text[10:60],
			http.Header{"Range": {"bytes=30-59"}, "If-Range": {`"v1"`}},
			"30 bytes are skipped, and 40 are not read",
		},
		{
			"several ranges, of which one came",
			[]string{"Range", "bytes=10-19,20-59"},
			[]answer{part(10, 60, 20), part(30, 60, 30)},
			text[10:60],
			http.Header{"Range": {"bytes=30-59"}, "If-Range": {`"v1"`}},
			"RFC 9110 section 15.3.7.2: ranges may be coalesced",
		},
		{
			"a break before the first byte", nil,
			[]answer{whole(0), whole(100)},
			text,
			http.Header{"Range": {"bytes=0-99"}, "If-Range": {`"v1"`}},
			"nothing is skipped",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newServer(t, tt.answers...)
			req := get(t, tt.header...)
			before := req.Clone(t.Context())
			got, err := resumed(t, base, req)
			require.NoError(t, err)
			require.Equal(t, tt.want, got, tt.why)
			require.Len(t, base.requests, 2)
			require.Same(t, req, base.requests[0])
			require.Equal(t, tt.ask, base.requests[1].Header, tt.why)
			require.Equal(t, before, req, "the caller's request is not written to")
		})
	}
}

// TestRequestEnd: a server that sends more than the caller's range is not believed.
func TestRequestEnd(t *testing.T) {
	got, err := resumed(t, newServer(t, part(10, 60, 20), part(30, 100, 70)), get(t, "Range", "bytes=10-59"))
	require.Equal(t, text[10:30], got)
	require.ErrorContains(t, err, "the server sent another range")
}

// TestResponse: the caller gets the base's response, with another body.
func TestResponse(t *testing.T) {
	req := get(t)
	want, err := whole(100).response(req)
	require.NoError(t, err)
	before := *want
	resp, err := resume.NewTransport(roundTripper(func(*http.Request) (*http.Response, error) { return want, nil })).RoundTrip(req)
	require.NoError(t, err)
	require.Same(t, want, resp)
	before.Body = resp.Body
	require.Equal(t, before, *resp)
	require.NoError(t, resp.Body.Close())

	_, err = resume.NewTransport(roundTripper(func(*http.Request) (*http.Response, error) { return nil, errOther })).RoundTrip(req)
	require.Equal(t, errOther, err, "an error is the base's own")

	for _, method := range []string{"", http.MethodGet} {
		req.Method, req.Body = method, http.NoBody
		got, err := resumed(t, newServer(t, whole(40), part(40, 100, 60)), req)
		require.NoError(t, err)
		require.Equal(t, text, got, "no method is GET, and http.NoBody is no body")
	}
}

// TestProgress: 64 KiB renew the three resumptions, and less does not.
func TestProgress(t *testing.T) {
	const size = 1 << 20
	for _, tt := range []struct {
		name  string
		each  int // bytes that a connection brings
		asked int
		err   string
		why   string
	}{
		{"128 KiB", 128 << 10, 8, "", "each renews them"},
		{"64 KiB", 64 << 10, 16, "", "each renews them"},
		{"22 KiB", 22 << 10, 47, "", "three together renew them"},
		{"20 KiB", 20 << 10, 4, "3 resumptions brought 61440 bytes", "three together do not"},
		{"a byte", 1, 4, "3 resumptions brought 3 bytes", "a server that breaks at once is not asked for each byte"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked, start := 0, 0
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				asked++
				n := min(tt.each, size-start)
				a := answer{body: strings.Repeat("x", n), length: int64(size - start), cut: errCut}
				a.header = []string{"Content-Range", contentRange(start, size, size)}
				if start += n; start == size {
					a.cut = nil
				}
				return a.response(req)
			})
			got, err := resumed(t, base, get(t))
			require.Equal(t, tt.asked, asked, tt.why)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err, tt.why)
				return
			}
			require.NoError(t, err, tt.why)
			require.Len(t, got, size)
		})
	}
}

// TestSkip: a server without ranges sends everything again up to a MiB, not beyond.
func TestSkip(t *testing.T) {
	content := strings.Repeat("0123456789", 200_000)
	for _, tt := range []struct {
		name string
		at   int
		err  string
	}{
		{"1 MiB", 1 << 20, ""},
		{"1 MiB and a byte", 1<<20 + 1, "the server sent everything again, after more than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newServer(t,
				answer{status: 200, body: content[:tt.at], length: int64(len(content)), cut: errCut},
				answer{status: 200, body: content})
			got, err := resumed(t, base, get(t))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.True(t, content == got) //nolint:testifylint // 2 MB would be printed
		})
	}
}

// TestErrors: the final error is both, and never the end of a body that is whole.
func TestErrors(t *testing.T) {
	lost := &net.OpError{Op: "read", Err: errCut}
	for _, tt := range []struct {
		name   string
		cut    error
		second answer
		is     []error
	}{
		{"both", lost, answer{err: errOther}, []error{lost, errCut, errOther}},
		{"an end too early", io.EOF, answer{err: errOther}, []error{io.ErrUnexpectedEOF, errOther}},
		{"the base failed with io.EOF", lost, answer{err: io.EOF}, []error{lost}},
		{"the base failed with something around io.EOF", lost, answer{err: &net.OpError{Op: "write", Err: io.EOF}}, []error{lost}},
		{"the body broke with something around io.EOF", &net.OpError{Op: "read", Err: io.EOF}, answer{status: 404}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first := whole(40)
			first.cut = tt.cut
			_, err := resumed(t, newServer(t, first, tt.second), get(t))
			require.Error(t, err)
			for _, target := range tt.is {
				require.ErrorIs(t, err, target)
			}
			require.NotErrorIs(t, err, io.EOF)
			if _, ok := errors.AsType[*net.OpError](tt.cut); ok {
				var op *net.OpError
				require.ErrorAs(t, err, &op)
			}
		})
	}

	base := newServer(t, whole(40), answer{status: 404, body: `{"code":"404","type":"NOT_FOUND_ERROR","message":"Not found."}`})
	_, err := resumed(t, resilient.NewTransport(base, resilient.WithStatusErrors(true)), get(t))
	var apiErr *resilient.APIError
	require.ErrorAs(t, err, &apiErr, "with our Transport inside, what the server said")
	require.Equal(t, "Not found.", apiErr.Message)
	require.ErrorIs(t, err, errCut)
}

// TestReads: the body is the same however it is read and delivered.
func TestReads(t *testing.T) {
	for _, tt := range []struct {
		name string
		by   func(io.Reader) io.Reader
	}{
		{"byte by byte", iotest.OneByteReader},
		{"the error with the last bytes", iotest.DataErrReader},
		{"half of what is asked", iotest.HalfReader},
		{"nothing in between", func(r io.Reader) io.Reader {
			n := 0
			return readerFunc(func(p []byte) (int, error) {
				if n++; n%2 == 0 {
					return 0, nil
				}
				return r.Read(p)
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			deliver := func(resp *http.Response) {
				b := resp.Body.(*trackedBody)
				b.Reader = tt.by(b.Reader)
			}
			first, second := whole(40), part(40, 100, 60)
			first.edit, second.edit = deliver, deliver
			got, err := resumed(t, newServer(t, first, second), get(t))
			require.NoError(t, err)
			require.Equal(t, text, got)
		})
	}

	resp, err := resume.NewTransport(newServer(t, whole(40), part(40, 100, 60))).RoundTrip(get(t))
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(resp.Body, []byte(text)))
	require.NoError(t, resp.Body.Close())
}

// TestContext: the end of the caller's context is the end, with its own cause.
func TestContext(t *testing.T) {
	for _, tt := range []struct {
		name  string
		when  int // the request during which the context ends; 0: in the body
		asked int
	}{
		{"in the body", 0, 1},
		{"while it is resumed", 2, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			asked := 0
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				if asked++; asked == tt.when {
					cancel(errOther)
					return nil, context.Canceled
				}
				a := whole(40)
				if tt.when == 0 {
					a.cut = context.Canceled
				}
				return a.response(req)
			})
			resp, err := resume.NewTransport(base).RoundTrip(get(t).WithContext(ctx))
			require.NoError(t, err)
			p := make([]byte, 40)
			_, err = io.ReadFull(resp.Body, p)
			require.NoError(t, err)
			if tt.when == 0 {
				cancel(errOther)
			}
			for range 2 {
				n, err := resp.Body.Read(p)
				require.Zero(t, n)
				require.Equal(t, errOther, err)
			}
			require.NoError(t, resp.Body.Close())
			require.Equal(t, tt.asked, asked)
		})
	}
}

// TestClientTimeout: the timeout of http.Client bounds the download as a whole, and
// ends a resumption that hangs.
func TestClientTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, start := 0, time.Now()
		client := &http.Client{Timeout: time.Minute, Transport: resume.NewTransport(roundTripper(func(req *http.Request) (*http.Response, error) {
			if asked++; asked == 1 {
				return whole(40).response(req)
			}
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		}))}
		resp, err := client.Get("http://api.test/file")
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.Equal(t, text[:40], string(got))
		require.Equal(t, time.Minute, time.Since(start))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		timeout, ok := errors.AsType[net.Error](err)
		require.True(t, ok)
		require.True(t, timeout.Timeout())
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 2, asked)
	})
}

// TestClose: it ends what is in progress, and nothing is asked after it.
func TestClose(t *testing.T) {
	t.Run("before the break", func(t *testing.T) {
		base := newServer(t, whole(40))
		resp, err := resume.NewTransport(base).RoundTrip(get(t))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		_, err = io.ReadAll(resp.Body)
		require.Equal(t, errCut, err, "as the base's body has it")
	})
	t.Run("after the end", func(t *testing.T) {
		resp, err := resume.NewTransport(newServer(t, whole(100))).RoundTrip(get(t))
		require.NoError(t, err)
		_, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		_, err = resp.Body.Read(make([]byte, 1))
		require.Equal(t, http.ErrBodyReadAfterClose, err)
	})
	// closeDuring closes the body while a Read waits in the second answer.
	closeDuring := func(t *testing.T, second func(*http.Request) (*http.Response, error)) error {
		t.Helper()
		asked := 0
		var last *http.Request
		resp, err := resume.NewTransport(roundTripper(func(req *http.Request) (*http.Response, error) {
			last = req
			if asked++; asked > 1 {
				return second(req)
			}
			return whole(40).response(req)
		})).RoundTrip(get(t))
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() {
			_, err := io.ReadAll(resp.Body)
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, resp.Body.Close())
		require.NoError(t, resp.Body.Close(), "twice is harmless")
		err = <-done
		require.Equal(t, 2, asked)
		require.Error(t, last.Context().Err(), "nothing of the request is left")
		return err
	}
	t.Run("while it is resumed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			err := closeDuring(t, func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, req.Context().Err()
			})
			require.Equal(t, http.ErrBodyReadAfterClose, err)
		})
	})
	t.Run("just before the answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			late := &trackedBody{}
			err := closeDuring(t, func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				resp, err := part(40, 100, 60).response(req)
				resp.Body = late
				return resp, err
			})
			require.Equal(t, http.ErrBodyReadAfterClose, err)
			require.Equal(t, 1, late.closed)
		})
	})
	for _, status := range []int{200, 206} {
		t.Run("while the rest is read", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := closeDuring(t, func(req *http.Request) (*http.Response, error) {
					a := part(40, 100, 60)
					a.status = status
					a.length = map[int]int64{200: 100, 206: 60}[status]
					resp, err := a.response(req)
					r, w := io.Pipe() // whose Close ends a Read
					resp.Body = r
					go func() { _, _ = io.WriteString(w, text[40:45]) }()
					return resp, err
				})
				require.Equal(t, io.ErrClosedPipe, err)
			})
		})
	}
}

// TestRelease: a body that has ended leaves nothing of its requests, even if nobody
// closes it.
func TestRelease(t *testing.T) {
	withLast := part(40, 100, 60)
	withLast.edit = func(resp *http.Response) {
		resp.Body.(*trackedBody).Reader = iotest.DataErrReader(resp.Body.(*trackedBody).Reader)
	}
	for _, tt := range []struct {
		name    string
		answers []answer
	}{
		{"at its end", []answer{whole(40), part(40, 100, 60)}},
		{"at its end, told with the last bytes", []answer{whole(40), withLast}},
		{"after several breaks", []answer{whole(40), part(40, 100, 10), part(50, 100, 50)}},
		{"with an error", []answer{whole(40), {status: 404}}},
		{"with too many breaks", []answer{whole(40), part(40, 100, 0), part(40, 100, 0), part(40, 100, 0)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			base := newServer(t, tt.answers...)
			resp, err := resume.NewTransport(base).RoundTrip(get(t))
			require.NoError(t, err)
			_, _ = io.ReadAll(resp.Body)
			for _, req := range base.requests[1:] {
				require.ErrorIs(t, req.Context().Err(), context.Canceled)
			}
			require.NoError(t, base.requests[0].Context().Err(), "the caller's own goes on")
			require.NoError(t, resp.Body.Close())
		})
	}
}

// TestIdleConnections: CloseIdleConnections reaches the base, if it has it.
func TestIdleConnections(t *testing.T) {
	base := &idle{}
	resume.NewTransport(base).CloseIdleConnections()
	require.Equal(t, 1, base.closed)
	resume.NewTransport(roundTripper(nil)).CloseIdleConnections()
}

// idle counts how often its connections are closed.
type idle struct {
	http.RoundTripper
	closed int
}

func (i *idle) CloseIdleConnections() { i.closed++ }

// TestBrokenBase: what a base must not return is passed on without a panic.
func TestBrokenBase(t *testing.T) {
	asked := 0
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		if asked++; asked == 1 {
			return whole(40).response(req)
		}
		return nil, nil //nolint:nilnil // a broken base
	})
	_, err := resumed(t, base, get(t))
	require.ErrorContains(t, err, "the base returned nothing")

	req := get(t)
	req.Header = nil
	got, err := resumed(t, newServer(t, whole(40), part(40, 100, 60)), req)
	require.NoError(t, err)
	require.Equal(t, text, got, "a base that takes a nil Header is not failed")

	resp, err := resume.NewTransport(base).RoundTrip(req)
	require.NoError(t, err)
	require.Nil(t, resp)
}

// TestTwice: two Transports, one over the other by mistake, ask as often as one.
func TestTwice(t *testing.T) {
	for _, answers := range [][]answer{
		{whole(40), part(40, 100, 60)},
		{whole(40), part(40, 100, 60, "Etag", `"v2"`)},
		{whole(40), part(40, 100, 0), part(40, 100, 0), part(40, 100, 0)},
	} {
		want, wantErr := resumed(t, newServer(t, answers...), get(t))
		got, err := resumed(t, resume.NewTransport(newServer(t, answers...)), get(t))
		require.Equal(t, want, got)
		require.Equal(t, wantErr, err)
	}
}

// endless is a body that costs nothing to read.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
func (endless) Close() error               { return nil }

func endlessBody(tb testing.TB) io.Reader {
	tb.Helper()
	resp, err := resume.NewTransport(roundTripper(func(*http.Request) (*http.Response, error) {
		a := answer{status: 200, length: 1 << 62}
		resp, err := a.response(nil)
		resp.Body = endless{}
		return resp, err
	})).RoundTrip(get(tb))
	require.NoError(tb, err)
	require.NotEqual(tb, endless{}, resp.Body)
	return resp.Body
}

// TestAllocations: a Read without a break allocates nothing.
func TestAllocations(t *testing.T) {
	body := endlessBody(t)
	p := make([]byte, 1024)
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = body.Read(p) }))
}

// BenchmarkRead is what a Read without a break costs, over a body that does
// nothing: compare with bare.
func BenchmarkRead(b *testing.B) {
	for _, bb := range []struct {
		name string
		body io.Reader
	}{{"bare", endless{}}, {"resume", endlessBody(b)}} {
		b.Run(bb.name, func(b *testing.B) {
			p := make([]byte, 1024)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bb.body.Read(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRoundTrip is what a response that can be resumed costs.
func BenchmarkRoundTrip(b *testing.B) {
	resp, err := whole(100).response(nil)
	require.NoError(b, err)
	body := resp.Body
	base := roundTripper(func(*http.Request) (*http.Response, error) { resp.Body = body; return resp, nil })
	for _, bb := range []struct {
		name      string
		transport http.RoundTripper
	}{{"bare", base}, {"resume", resume.NewTransport(base)}} {
		b.Run(bb.name, func(b *testing.B) {
			req := get(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bb.transport.RoundTrip(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
