// Package resume is an [http.RoundTripper] that goes on with downloads that break
// off. Put it around the transport that retries, and read the body as always:
//
//	client := &http.Client{Transport: resume.NewTransport(resilient.NewTransport(nil))}
//	req.Header.Set("Accept-Encoding", "identity") // gzip cannot be resumed
//	resp, err := client.Do(req)
//
// The doc of [Transport] says which responses can be resumed, and which answers of
// a server are believed.
package resume

import (
	"io"
	"net/http"
)

var _ http.RoundTripper = (*Transport)(nil)

// Transport is an http.RoundTripper that resumes response bodies. If the body of
// a GET breaks off, the next Read asks the base for the rest and goes on with it,
// so the caller reads one body without a gap. Make it with [NewTransport]. The
// zero Transport sends its requests through http.DefaultTransport.
//
// # Which responses
//
// A response can be resumed if all of this holds:
//
//   - It answers a GET without a body, and its status is 200 or 206. A 206 has one
//     Content-Range that states the complete length.
//   - Its Content-Length is known, and its content is not encoded. net/http asks
//     for gzip by itself, and the length of what it then decompresses is unknown.
//     Set Accept-Encoding: identity for downloads.
//   - It has a strong validator: an ETag that is not weak or, if it has no ETag at
//     all, a Last-Modified date that its Date shows to be strong.
//   - It announces no trailers, because a resumed body would have those of its last
//     part.
//
// Every other response is passed on as it came. A resumable response too is the
// base's own, except for its Body: its header is the one that came first.
//
// # Requests and answers
//
// The rest is asked for with the caller's request, in which Range and If-Range
// are replaced. Its other fields stay, conditions included: a condition that held
// for the first response still holds as long as the representation is the same. If
// the caller asked for a range, that range is continued.
//
// The answer is used in two cases. A 206 must begin at the byte that is missing,
// end no later than asked, and have the same complete length and the same
// validator. It may end earlier, RFC 9110 section 15.3.7, and then its end is one
// more break. A 200 must have the same length and validator. Its beginning is read
// and dropped, once in the life of a body and only up to 1 MiB, because a server
// without ranges would otherwise send everything again for each break.
//
// Anything else ends the body: another status, a version that has changed, a
// multipart or an encoded answer. Read then returns an error that says why and
// that matches, with errors.Is and errors.As, the error of the break and the
// base's new one. It never matches io.EOF, even if the base failed with it: only a
// body that is whole ends with that. Bytes of two versions are never mixed, as
// long as the server does not give both of them the same strong validator.
//
// # How often
//
// Three resumptions are allowed for each 64 KiB of progress. So a download goes on
// for as long as it gets somewhere, and a server that breaks every connection
// after a byte is not asked once for each byte. An error that the base returns in
// place of a response is final, because retrying is the base's work. There is no
// wait of its own either: with a resilient.Transport inside, a resumption is a call
// like others, and the backoff, limits and budget of that Transport govern it.
//
// The request's context bounds the download as a whole. If it has ended, Read
// returns its cause, and nothing more is asked.
//
// # Use
//
// The hooks of net/http/httptrace see every resumption, from the goroutine that
// reads. Those of a resilient.Transport inside see a call, whose BodyInfo has the
// number of the resumption. A transport that signs requests belongs inside this one if the signature
// covers Range. A caller must not change the request until the body is closed, as
// the contract of http.RoundTripper says. A body has one reader at a time. Close may
// be called during a Read, and ends that Read and a resumption in progress.
//
// A Transport is safe for concurrent use. It costs an allocation for each
// response that can be resumed, and a few nanoseconds for each Read. For a file in
// several parallel parts, or one that is resumed by another process, use something
// else.
type Transport struct {
	base http.RoundTripper
}

// NewTransport returns a Transport that sends its requests, and those for the rest
// of a body, through base. A nil base is http.DefaultTransport, looked up at each
// request.
func NewTransport(base http.RoundTripper) *Transport {
	return &Transport{base: base}
}

// RoundTrip implements http.RoundTripper. It returns what the base returns, with
// another Body if the response can be resumed.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.roundTripper().RoundTrip(req)
	if err != nil || resp == nil || !isDownload(req) {
		return resp, err
	}
	if b := newBody(t, req, resp); b != nil {
		resp.Body = b
	}
	return resp, nil
}

// CloseIdleConnections closes the idle connections of the base, if the base has
// such a method. http.Client.CloseIdleConnections calls it.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.roundTripper().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (t *Transport) roundTripper() http.RoundTripper {
	if t.base == nil {
		return http.DefaultTransport
	}
	return t.base
}

// isDownload reports whether req is a GET without a body. RFC 9110 section 14.2
// defines Range for GET only, and a body might not be there a second time.
func isDownload(req *http.Request) bool {
	return (req.Method == http.MethodGet || req.Method == "") && (req.Body == nil || req.Body == http.NoBody)
}

// newBody returns a body that resumes the one of resp, or nil if resp cannot be
// resumed.
func newBody(t *Transport, req *http.Request, resp *http.Response) *body {
	if resp.Body == nil || resp.Body == http.NoBody || len(resp.Trailer) > 0 {
		return nil
	}
	if _, upgraded := resp.Body.(io.Writer); upgraded {
		return nil // not of a 200, but the type would be lost
	}
	s, err := spanOf(resp)
	if err != nil || resp.ContentLength != s.end-s.start || resp.ContentLength == 0 {
		return nil
	}
	v, ok := validatorOf(resp.Header)
	if !ok {
		return nil
	}
	return &body{
		transport: t, req: req, validator: v, complete: s.complete, end: s.end,
		pos: s.start, partEnd: s.end,
		rc: resp.Body, cancel: func() {},
	}
}
