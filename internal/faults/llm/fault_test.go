package llm_test

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// fault is what a server does to the first request, or if it is permanent to each.
type fault struct {
	name      string
	counts    bool                 // it is one of the eleven
	stream    bool                 // the client asks for a stream
	permanent func(api api) string // the body of the error, or nil
	names     []string             // one of these is in an error that names the fault
	serve     func(w http.ResponseWriter, req *http.Request, api api)
}

// answer is the answer of the model.
const answer = "forty-two"

// api is what a server of an API sends. A stream is its preamble, the first part of the
// answer, the rest and the end.
type api struct {
	whole                      string // an answer that is no stream
	preamble, part, rest, last string
	overloaded                 string // an error event
	failure                    func(status int) string
	invalid, tooLong           string
}

// faults are the eleven, and two that differ from one of them in the moment.
var faults = []*fault{
	{name: "429, Retry-After: 2", counts: true, names: []string{"429"}, serve: status(http.StatusTooManyRequests, "Retry-After", "2")},
	{name: "500", counts: true, names: []string{"500"}, serve: status(http.StatusInternalServerError)},
	{name: "529", counts: true, names: []string{"529"}, serve: status(529)},
	{name: "connection reset", counts: true, names: []string{"reset", "EOF"}, serve: reset},
	{name: "silence before the headers", counts: true, names: []string{"timeout", "headers"}, serve: hang},
	{
		name: "stream cut in the answer", counts: true, stream: true, names: []string{"unexpected EOF"},
		serve: func(w http.ResponseWriter, _ *http.Request, api api) {
			send(w, api.preamble+api.part)
			panic(http.ErrAbortHandler)
		},
	},
	{
		name: "stream stalled before the answer", counts: true, stream: true, names: []string{"no byte"},
		serve: func(w http.ResponseWriter, req *http.Request, api api) {
			send(w, api.preamble)
			hang(w, req, api)
		},
	},
	{
		name: "error event first", counts: true, stream: true, names: []string{"verloaded"},
		serve: func(w http.ResponseWriter, _ *http.Request, api api) { send(w, api.preamble+api.overloaded) },
	},
	{
		name: "final event missing", counts: true, stream: true, names: []string{"unexpected EOF"},
		serve: func(w http.ResponseWriter, _ *http.Request, api api) { send(w, api.preamble+api.part) },
	},
	{
		name: "400, invalid request", counts: true, names: []string{"max_tokens"},
		permanent: func(api api) string { return api.invalid },
	},
	{
		name: "400, context too long", counts: true, names: []string{"too long", "context_length_exceeded"},
		permanent: func(api api) string { return api.tooLong },
	},

	{
		name: "stream cut before the answer", stream: true, names: []string{"unexpected EOF"},
		serve: func(w http.ResponseWriter, _ *http.Request, api api) {
			send(w, api.preamble)
			panic(http.ErrAbortHandler)
		},
	},
	{
		name: "stream stalled in the answer", stream: true, names: []string{"no byte"},
		serve: func(w http.ResponseWriter, req *http.Request, api api) {
			send(w, api.preamble+api.part)
			hang(w, req, api)
		},
	},
}

// handler returns a server that has the fault and counts the requests.
func (f *fault) handler(api api, requests *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		first := requests.Add(1) == 1
		_, _ = io.Copy(io.Discard, req.Body) // net/http notices that the client goes only after that
		switch {
		case f.permanent != nil:
			sendJSON(w, http.StatusBadRequest, f.permanent(api))
		case first:
			f.serve(w, req, api)
		case f.stream:
			send(w, api.preamble+api.part+api.rest+api.last)
		default:
			sendJSON(w, http.StatusOK, api.whole)
		}
	}
}

// status answers with an error status and header fields: names and values in turn.
func status(code int, header ...string) func(http.ResponseWriter, *http.Request, api) {
	return func(w http.ResponseWriter, _ *http.Request, api api) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		sendJSON(w, code, api.failure(code))
	}
}

// reset ends the connection by an RST.
func reset(w http.ResponseWriter, _ *http.Request, _ api) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// hang sends nothing until the client goes, or would have gone.
func hang(_ http.ResponseWriter, req *http.Request, _ api) {
	timer := time.NewTimer(2 * patience)
	defer timer.Stop()
	select {
	case <-req.Context().Done():
	case <-timer.C:
	}
}

func sendJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

func send(w http.ResponseWriter, events string) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = w.Write([]byte(events))
	_ = http.NewResponseController(w).Flush()
}
