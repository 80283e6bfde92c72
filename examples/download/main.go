// Download fetches a file over a link that breaks, and goes on where it broke off. It
// shows a bar on standard error, and then what it took.
//
//	go run ./examples/download                               # 64 MiB from a small server in server.go
//	go run ./examples/download -url https://example.com/file.iso -out file.iso
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/resume"
)

func main() {
	url := flag.String("url", "", "`URL` to fetch; without it, a small server is part of this program")
	name := flag.String("out", "", "`file` to write; without it, only the SHA-256 is printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *url, *name, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "download:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, name string, out, bar io.Writer) (err error) {
	want := ""
	if url == "" {
		srv, err := startServer(ctx)
		if err != nil {
			return err
		}
		defer func() {
			fmt.Fprintf(out, "sent       %d bytes by the server, for a file of %d\n", srv.sent.Load(), fileSize)
			srv.stop()
		}()
		url, want = srv.url, srv.sum
	}
	file := io.Discard
	if name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		file = f
	}

	breaks := 0
	inside := resilient.NewTransport(nil,
		resilient.WithIdleTimeout(30*time.Second), // a link may also fall silent
		resilient.WithTrace(&resilient.Trace{Body: func(b resilient.BodyInfo) {
			if b.Err != nil {
				breaks++
				fmt.Fprintf(bar, "\n%v after %d bytes\n", b.Err, b.Bytes)
			}
		}}))
	// The waits, limits and the retry budget of the Transport inside hold for each resumption.
	client := &http.Client{Transport: resume.NewTransport(inside)}
	defer client.CloseIdleConnections()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "identity") // what is compressed on the way has no length that is known
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read, so the error does not matter
	if apiErr, ok := resilient.ErrorFromResponse(resp); ok {
		return apiErr
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, hash, &progress{out: bar, total: resp.ContentLength}), resp.Body)
	fmt.Fprintln(bar)
	if err != nil {
		return err
	}
	sum := hex.EncodeToString(hash.Sum(nil))
	fmt.Fprintf(out, "got        %d bytes in %v\n", n, time.Since(begin).Round(time.Millisecond))
	fmt.Fprintf(out, "broken     %d times on the way\n", breaks)
	fmt.Fprintf(out, "SHA-256    %s\n", sum)
	if want != "" && sum != want {
		return errors.New("that is another file")
	}
	return nil
}

// progress draws a bar.
type progress struct {
	out      io.Writer
	total, n int64 // a total below 0 is not known
	drawn    time.Time
}

func (p *progress) Write(b []byte) (int, error) {
	p.n += int64(len(b))
	if time.Since(p.drawn) < 50*time.Millisecond && p.n != p.total {
		return len(b), nil
	}
	p.drawn = time.Now()
	const width = 40
	done := 0
	if p.total > 0 {
		done = int(p.n * width / p.total)
	}
	fmt.Fprintf(p.out, "\r[%s%s] %d MiB", strings.Repeat("=", done), strings.Repeat(" ", width-done), p.n>>20)
	return len(b), nil
}
