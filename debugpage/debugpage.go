// Package debugpage is a page that shows what a [resilient.Transport] does, in
// the manner of net/http/pprof: each limit key with its state, the rate of the
// last minutes, and the last calls, the slowest and those that failed as
// timelines, with words for why they took as long as they did. One line mounts
// it, under any path:
//
//	http.Handle("/debug/resilient", debugpage.Handler(transport))
//
// The page needs no JavaScript and nothing from elsewhere. It loads itself again
// every two seconds; "?refresh=10" changes that to ten, "?refresh=0" stops it,
// and "?call=7" is one call.
//
// # Who may see it
//
// Like pprof it is for those who run the program, and should not be public: put
// it behind authentication, or on a port of its own. It shows the method, the
// host and the path of requests, and of an error response its kind, type, code
// and request id; never header values, userinfo, query strings or bodies, and of
// the text of an error not what stands in quotes. Segments of a path that look
// like secrets are shown as "***", unless resilient.WithLogPath says otherwise.
// The keys of resilient.WithLimitKey are shown as they are.
//
// # What it costs
//
// Nothing before [Handler] is called. From then on each call takes a fraction of
// a microsecond and no allocation if it succeeds at once. What is remembered is
// bounded: the last 100 calls, the 20 slowest of the last five minutes, the last
// 20 that failed, at most 1,024 in flight (a call whose base panicked has no
// end, and stays among these until others push it out), and 40 attempts and
// waits of a call, which is some hundred KiB in all and a few MiB at the worst.
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

// Handler returns a handler that shows what t does from now on: it adds its
// hooks with AddTrace. These cannot be taken away, so call it once for each
// Transport. GET and HEAD are answered, other methods with 405. A "refresh" in
// the query that is not a number of seconds up to 3600 is taken for the default,
// 2, and a "call" that is not remembered is answered with 404. Handler panics if
// t is nil.
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
		id, _ := strconv.ParseInt(query.Get("call"), 10, 64) // 0 is no call's
		if p = h.recorder.callPage(id, refresh); p.Call == nil {
			status = http.StatusNotFound
		}
	} else {
		p = h.recorder.mainPage(refresh)
	}
	p.Style = template.CSS(styleCSS) //nolint:gosec // our own
	// Written at once or not at all.
	var b bytes.Buffer
	if err := h.template.Execute(&b, p); err != nil {
		http.Error(w, "the page cannot be written", http.StatusInternalServerError)
		return
	}
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	if req.Method == http.MethodGet {
		_, _ = w.Write(b.Bytes()) // fails only if the client has gone
	}
}
