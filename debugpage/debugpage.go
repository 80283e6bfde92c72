// Package debugpage serves a page about the calls of a [resilient.Transport], in
// the manner of net/http/pprof. It shows each limit key with what is believed of the
// server's limits and why, the rate of the last minutes, and the last calls, the
// slowest calls and the last failed calls as timelines, with a sentence that explains
// the duration of each. If a call waited for a limit, the sentence says for which one,
// what was known of it when the wait began, and whether a trial had confirmed it. One
// line mounts it, under any path:
//
//	http.Handle("/debug/resilient", debugpage.Handler(transport))
//
// The page needs no JavaScript and loads nothing from other servers. It refreshes
// every two seconds. "?refresh=10" changes that to ten, and "?refresh=0" stops it.
// "?call=7" shows a single call.
//
// # Access
//
// Like pprof, the page is for the operators of the program and should not be
// public. Put it behind authentication, or on a port of its own. It shows the
// method, the host and the path of requests, and the kind, type, code and request
// id of error responses. It shows the text of errors, but without the parts in
// quotes. It never shows header values, userinfo, query strings or bodies. Segments
// of a path that look like secrets are shown as "***", unless resilient.WithLogPath
// changes that. The keys of resilient.WithLimitKey are shown unchanged.
//
// # Cost
//
// The package costs nothing until [Handler] is called. From then on, a call that
// succeeds at once takes a fraction of a microsecond longer, and no more
// allocations. When an attempt has to wait for a limit, the page takes a Snapshot, for
// which it uses at most a fiftieth of the time. The memory is bounded. The page remembers the last 100 calls, the 20
// slowest of the last five minutes, the last 20 that failed, and at most 1,024 in
// flight. For each call it remembers 40 attempts and waits. This takes some hundred
// KiB in all, and a few MiB at the worst. A call whose base panicked has no end,
// and counts as in flight until newer calls replace it.
package debugpage

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"

	"github.com/resilienthttp/resilient"
)

const (
	defaultRefresh = 2    // seconds
	maxRefresh     = 3600 // seconds
)

var (
	//go:embed page.html
	pageHTML string

	//go:embed style.css
	styleCSS string
)

// Handler returns a handler that shows the calls of t from now on. It adds its
// hooks with AddTrace. These cannot be removed, so call Handler only once for each
// Transport.
//
// The handler answers GET and HEAD, and other methods with 405. A "refresh" in the
// query that is not a number of seconds up to 3600 is replaced by the default, 2. A
// "call" that is not remembered is answered with 404. Handler panics if t is nil.
func Handler(t *resilient.Transport) http.Handler {
	if t == nil {
		panic("debugpage: Handler of a nil Transport")
	}
	hash := sha256.Sum256([]byte(styleCSS))
	h := &handler{
		recorder: newRecorder(t),
		template: template.Must(template.New("page").Parse(pageHTML)),
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	}
	t.AddTrace(h.recorder.trace())
	return h
}

type handler struct {
	recorder *recorder
	template *template.Template
	policy   string
}

func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", h.policy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	query := req.URL.Query()
	refresh, err := strconv.Atoi(query.Get("refresh"))
	if err != nil || refresh < 0 || refresh > maxRefresh {
		refresh = defaultRefresh
	}
	status := http.StatusOK
	var p page
	if query.Has("call") {
		id, _ := strconv.ParseInt(query.Get("call"), 10, 64) // no call has the id 0
		if p = h.recorder.callPage(id, refresh); p.Call == nil {
			status = http.StatusNotFound
		}
	} else {
		p = h.recorder.mainPage(refresh)
	}
	p.Style = template.CSS(styleCSS) //nolint:gosec // it is embedded
	// The page is rendered before it is written, so that no half page is sent.
	var b bytes.Buffer
	if err := h.template.Execute(&b, p); err != nil {
		http.Error(w, "the page cannot be written", http.StatusInternalServerError)
		return
	}
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	if req.Method == http.MethodGet {
		_, _ = w.Write(b.Bytes()) // it fails only if the client has gone
	}
}
