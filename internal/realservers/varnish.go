package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// varnishScenarios have a token bucket of 100, which its module vsthrottle keeps. That
// one forgets the part of a token that is there when a request is accepted. So when the
// 100 are used up, it is 10 ms at least from one accepted request to the next.
func varnishScenarios() []scenario {
	return []scenario{
		{
			// What is refused gets Retry-After: 5 unless the configuration says otherwise.
			name: "varnish.hint", about: "vsthrottle 100 in 1s, Retry-After: 5 as it comes",
			loads: closed(32), rate: 100, burst: 100,
			start: startVarnish(""),
		},
		{
			name: "varnish.bare", about: "vsthrottle 100 in 1s, without Retry-After",
			loads: closed(32), rate: 100, burst: 100,
			start: startVarnish("sub vcl_synth { return (deliver); }\n"),
		},
	}
}

// startVarnish runs Varnish, as a gateway that keeps nothing, with more lines in its
// configuration.
func startVarnish(more string) func(context.Context, *site) error {
	return func(ctx context.Context, s *site) error {
		app, err := s.serveUpstream(ctx, quick())
		if err != nil {
			return err
		}
		host, port, err := net.SplitHostPort(app)
		if err != nil {
			return err
		}
		vcl := filepath.Join(s.dir, "default.vcl")
		text := fmt.Sprintf("vcl 4.1;\nimport vsthrottle;\nbackend default { .host = %q; .port = %q; }\n"+
			"sub vcl_recv {\nif (vsthrottle.is_denied(\"all\", 100, 1s)) { return (synth(429, \"Too Many Requests\")); }\n"+
			"return (pass);\n}\n%s", host, port, more)
		if err := os.WriteFile(vcl, []byte(text), 0o600); err != nil {
			return err
		}
		err = s.run(ctx, "varnishd", func(addr string) ([]string, error) {
			return []string{
				"-F", "-j", "none", "-n", filepath.Join(s.dir, "work"), "-f", vcl,
				"-a", addr, "-T", "none", "-s", "malloc,16m",
			}, nil
		})
		if err != nil && strings.Contains(err.Error(), "Could not find VMOD") {
			// Debian has it in a package of its own, varnish-modules.
			return &exec.Error{Name: "varnishd", Err: fmt.Errorf("%w: module vsthrottle", exec.ErrNotFound)}
		}
		return err
	}
}
