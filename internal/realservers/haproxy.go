package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func haproxyScenarios() []scenario {
	// A stick table counts refused requests too, so knocking prolongs the refusals.
	const deny = "http-request track-sc0 src\nhttp-request deny deny_status 429 if { sc_http_req_rate(0) gt %d }\n" +
		"stick-table type ip size 1k expire 1m store http_req_rate(%s)\n"
	return []scenario{
		{
			name: "haproxy.rate", about: "deny_status 429 if http_req_rate(1s) gt 100",
			loads: closed(32), rate: 100,
			start: startHAProxy(quick(), fmt.Sprintf(deny, 100, "1s"), ""),
		},
		{
			name: "haproxy.rate", about: "deny_status 429 if http_req_rate(1s) gt 100",
			loads: open(80), rate: 100,
			start: startHAProxy(quick(), fmt.Sprintf(deny, 100, "1s"), ""),
		},
		{
			name: "haproxy.window", about: "deny_status 429 if http_req_rate(5s) gt 50",
			loads: closed(32), rate: 10, burst: 50,
			start: startHAProxy(quick(), fmt.Sprintf(deny, 50, "5s"), ""),
		},
		{
			// What waits for longer in the queue of the server is answered 503.
			name: "haproxy.queue", about: "maxconn 8, timeout queue 100ms, the upstream takes 80 ms",
			loads: closed(32), rate: 100,
			start: startHAProxy(constant(80*time.Millisecond), "", "maxconn 8"),
		},
		{
			name: "haproxy.flight", about: "deny_status 429 if srv_conn ge 8, the upstream takes 80 ms",
			loads: closed(32), rate: 100,
			start: startHAProxy(constant(80*time.Millisecond), "http-request deny deny_status 429 if { srv_conn(app/app) ge 8 }\n", ""),
		},
	}
}

// startHAProxy runs HAProxy with the given lines in its frontend, and options of the
// server behind it.
func startHAProxy(takes service, frontend, server string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		app, err := s.serveUpstream(ctx, takes)
		if err != nil {
			return err
		}
		conf := filepath.Join(s.dir, "haproxy.cfg")
		return s.run(ctx, "haproxy", func(addr string) ([]string, error) {
			text := fmt.Sprintf("global\nnbthread 1\nmaxconn 1000\ndefaults\nmode http\n"+
				"timeout connect 1s\ntimeout client 30s\ntimeout server 30s\ntimeout queue 100ms\n"+
				"frontend front\nbind %s\n%sdefault_backend app\nbackend app\nserver app %s %s\n", addr, frontend, app, server)
			return []string{"-db", "-f", conf}, os.WriteFile(conf, []byte(text), 0o600)
		})
	}
}
