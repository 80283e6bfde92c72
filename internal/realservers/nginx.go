package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// nginxScenarios are the limits of nginx, with the status that is its default, 503,
// and with 429.
func nginxScenarios() (all []scenario) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusTooManyRequests} {
		all = append(all, nginxRates(status)...)
		all = append(all, nginxConn(status), nginxLocation(status))
		for _, l := range [][]load{open(50), closed(32)} {
			all = append(all, nginxBackend(status, l))
		}
	}
	return all
}

// nginxRates are limits on a request rate. nginx counts in milliseconds: without a
// burst, what comes earlier than 10 ms after the last accepted one is refused.
func nginxRates(status int) (all []scenario) {
	const second, minute = "rate=100r/s", "rate=120r/m"
	for _, v := range []struct {
		name, zone, options string
		loads               []load
		rate, burst         float64
	}{
		{"strict", second, "", closed(32), 100, 1},
		{"strict", second, "", open(50), 100, 1},
		{"delay", second, "burst=20", closed(32), 100, 1},
		{"nodelay", second, "burst=20 nodelay", closed(32), 100, 21},
		{"nodelay", second, "burst=20 nodelay", open(120), 100, 21},
		{"minute", minute, "burst=10 nodelay", closed(32), 2, 11},
	} {
		all = append(all, scenario{
			name:  fmt.Sprintf("nginx.%s-%d", v.name, status),
			about: strings.TrimSpace(fmt.Sprintf("limit_req %s %s", v.zone, v.options)),
			loads: v.loads, rate: v.rate, burst: v.burst,
			start: func(ctx context.Context, s *site) error {
				app, err := s.serveUpstream(ctx, quick())
				if err != nil {
					return err
				}
				return s.runNginx(ctx,
					"limit_req_zone $binary_remote_addr zone=z:1m "+v.zone+";", []string{app},
					fmt.Sprintf("location / { limit_req zone=z %s; limit_req_status %d; proxy_pass http://app; }", v.options, status))
			},
		})
	}
	return all
}

// nginxConn is a limit on requests in flight.
func nginxConn(status int) scenario {
	return scenario{
		name:  fmt.Sprintf("nginx.conn-%d", status),
		about: "limit_conn 8, the upstream takes 80 ms",
		loads: closed(32), rate: 100,
		start: func(ctx context.Context, s *site) error {
			app, err := s.serveUpstream(ctx, constant(80*time.Millisecond))
			if err != nil {
				return err
			}
			return s.runNginx(ctx,
				"limit_conn_zone $binary_remote_addr zone=z:1m;", []string{app},
				fmt.Sprintf("location / { limit_conn z 8; limit_conn_status %d; proxy_pass http://app; }", status))
		},
	}
}

// nginxLocation limits one location and not the other.
func nginxLocation(status int) scenario {
	return scenario{
		name:  fmt.Sprintf("nginx.location-%d", status),
		about: "limit_req rate=5r/s burst=5 nodelay on /search, none on /items",
		loads: []load{{perSecond: 80, path: "/items", free: true}, {perSecond: 20, path: "/search"}},
		rate:  5, burst: 6,
		start: func(ctx context.Context, s *site) error {
			app, err := s.serveUpstream(ctx, quick())
			if err != nil {
				return err
			}
			return s.runNginx(ctx,
				"limit_req_zone $binary_remote_addr zone=z:1m rate=5r/s;", []string{app},
				fmt.Sprintf("location /search { limit_req zone=z burst=5 nodelay; limit_req_status %d; proxy_pass http://app; }\n"+
					"location / { proxy_pass http://app; }", status))
		},
	}
}

// nginxBackend has four upstreams, which take turns, and one refuses everything. No
// limit explains that.
func nginxBackend(status int, l []load) scenario {
	return scenario{
		name:  fmt.Sprintf("nginx.backend-%d", status),
		about: fmt.Sprintf("one of four upstreams answers %d", status),
		loads: l,
		start: func(ctx context.Context, s *site) error {
			var apps []string
			for i := range 4 {
				h := upstream(quick())
				if i == 0 {
					h = refuser(status)
				}
				app, err := s.serve(ctx, h)
				if err != nil {
					return err
				}
				apps = append(apps, app)
			}
			return s.runNginx(ctx, "", apps, "location / { proxy_pass http://app; proxy_next_upstream off; }")
		},
	}
}

// runNginx runs nginx with the given lines in the blocks http, upstream and server.
func (s *site) runNginx(ctx context.Context, http string, apps []string, server string) error {
	conf := filepath.Join(s.dir, "nginx.conf")
	return s.run(ctx, "nginx", func(addr string) ([]string, error) {
		var b strings.Builder
		b.WriteString("worker_processes 1;\npid nginx.pid;\nevents {}\nhttp {\naccess_log off;\n")
		for _, module := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			fmt.Fprintf(&b, "%s_temp_path %[1]s;\n", module)
		}
		fmt.Fprintf(&b, "%s\nupstream app {\nkeepalive 64;\n", http)
		for _, app := range apps {
			fmt.Fprintf(&b, "server %s;\n", app)
		}
		fmt.Fprintf(&b, "}\nserver {\nlisten %s;\nproxy_http_version 1.1;\nproxy_set_header Connection \"\";\n%s\n}\n}\n", addr, server)
		// It would log each refusal as an error.
		args := []string{"-p", s.dir, "-c", conf, "-e", "stderr", "-g", "daemon off; error_log stderr crit;"}
		return args, os.WriteFile(conf, []byte(b.String()), 0o600)
	})
}
