package debugpage_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient"
	"github.com/resilienthttp/resilient/debugpage"
	"github.com/resilienthttp/resilient/resilienttest"
)

var screenshots = flag.String("screenshots", "", "write the screenshots of the README into this `folder`")

// chromium is a headless browser.
type chromium struct {
	path string
	dir  string // for its profile and its output
}

// newChromium finds a browser, if RESILIENT_REQUIRE_CHROMIUM is 1 or pictures are asked
// for. Otherwise the test is skipped: to start a browser on a fresh machine takes a
// minute, and nobody who runs the tests expects one.
func newChromium(t *testing.T) *chromium {
	t.Helper()
	if os.Getenv("RESILIENT_REQUIRE_CHROMIUM") != "1" && *screenshots == "" {
		t.Skip("SKIPPED: the page was NOT looked at in a browser: RESILIENT_REQUIRE_CHROMIUM=1 is not set")
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return &chromium{path: path, dir: t.TempDir()}
		}
	}
	t.Fatal("there is no chromium")
	return nil
}

// run starts the browser with these arguments, and returns its output.
func (c *chromium) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, append([]string{
		"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir=" + filepath.Join(c.dir, "profile"),
	}, args...)...)
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", &stderr)
	return string(out)
}

// site serves pages that were fetched before. At "/frame" it serves one of them in a
// frame of a given width. Scripts cannot run in the frame. A script around it
// measures the layout.
func site(t *testing.T, pages map[string]*http.Response) string {
	t.Helper()
	frame := template.Must(template.New("frame").Parse(`<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="f" sandbox="allow-same-origin" src="/{{.Page}}" style="width:{{.Width}}px;height:{{.Height}}px;border:0"></iframe>
<output id="measured"></output>
<script>
onload = () => {
	const d = document.getElementById("f").contentDocument, view = d.documentElement;
	const wide = [...d.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > view.clientWidth + 1);
	document.getElementById("measured").textContent = JSON.stringify({
		client: view.clientWidth, scroll: view.scrollWidth, wide: wide.slice(0, 5).map(e => e.outerHTML.slice(0, 80)),
		height: view.scrollHeight, tiles: getComputedStyle(d.querySelector("main")).display, title: d.title,
	});
};
</script>`))
	mux := http.NewServeMux()
	for name, page := range pages {
		b := body(t, page)
		mux.HandleFunc("/"+name, func(w http.ResponseWriter, _ *http.Request) {
			maps.Copy(w.Header(), page.Header)
			// The whole policy is in force, except that the page may be framed here.
			policy := page.Header.Get("Content-Security-Policy")
			w.Header().Set("Content-Security-Policy", strings.Replace(policy, "frame-ancestors 'none'", "frame-ancestors 'self'", 1))
			_, _ = w.Write([]byte(b))
		})
	}
	mux.HandleFunc("/frame", func(w http.ResponseWriter, req *http.Request) {
		var size struct{ Width, Height int }
		_, err := fmt.Sscan(req.FormValue("width")+" "+req.FormValue("height"), &size.Width, &size.Height)
		if err != nil || frame.Execute(w, map[string]any{"Page": req.FormValue("page"), "Width": size.Width, "Height": size.Height}) != nil {
			http.Error(w, "bad frame", http.StatusBadRequest)
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// pages returns the pages in the pictures of the README: all calls, and the call
// that took five seconds.
func pages(t *testing.T) map[string]*http.Response {
	t.Helper()
	found := map[string]*http.Response{}
	busy(t, func(page http.Handler) {
		found["all"] = get(t, page, "?refresh=0")
		link := regexp.MustCompile(`href="(\?call=\d+)"><span class="began">[0-9:]+</span> <span class="took">5\.`)
		match := link.FindStringSubmatch(body(t, get(t, page, "")))
		require.NotNil(t, match, "the call that took five seconds is on the first page")
		found["one"] = get(t, page, match[1])
	})
	return found
}

// The page fits a phone, a tablet, and the narrowest window that has tables, with
// its style in force under its own policy, and without JavaScript.
func TestChromiumLayout(t *testing.T) {
	browser := newChromium(t)
	base := site(t, pages(t))
	for _, page := range []string{"all", "one"} {
		for _, width := range []int{360, 768, 961} {
			t.Run(fmt.Sprintf("%s, %d wide", page, width), func(t *testing.T) {
				dom := browser.run(t, "--dump-dom", fmt.Sprintf("%s/frame?page=%s&width=%d&height=900", base, page, width))
				match := regexp.MustCompile(`<output id="measured">\{"client":(\d+),"scroll":(\d+),"wide":\[(.*?)\],"height":(\d+),"tiles":"(\w+)","title":"(.*?)"`).FindStringSubmatch(dom)
				require.NotNil(t, match, dom)
				require.Equal(t, match[1], match[2], "there is nothing to scroll to the side")
				require.Empty(t, match[3], "nothing sticks out")
				require.Equal(t, "grid", match[5], "the policy lets the style through")
			})
		}
	}
}

func TestChromiumScreenshots(t *testing.T) {
	browser := newChromium(t)
	base := site(t, pages(t))
	dir := *screenshots
	if dir == "" {
		dir = t.TempDir()
	}
	dir, err := filepath.Abs(dir)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, test := range []struct {
		name, page    string
		width, height int
		dark          bool
	}{
		{"desktop.png", "all", 1280, 1180, false},
		{"dark.png", "all", 1280, 1180, true},
		{"phone.png", "all", 390, 1250, false},
		{"call.png", "one", 1280, 610, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(dir, test.name)
			scheme := "--blink-settings=preferredColorScheme=1"
			if test.dark {
				scheme = "--blink-settings=preferredColorScheme=0"
			}
			// The page is in a frame because a window has a minimum width.
			browser.run(t, scheme, "--screenshot="+file, fmt.Sprintf("--window-size=%d,%d", test.width, test.height),
				fmt.Sprintf("%s/frame?page=%s&width=%d&height=%d", base, test.page, test.width, test.height))
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			picture, err := png.Decode(bytes.NewReader(b))
			require.NoError(t, err)
			require.Equal(t, test.width, picture.Bounds().Dx())
			seen := map[color.RGBA]int{}
			for y := range picture.Bounds().Dy() {
				for x := range test.width {
					seen[color.RGBAModel.Convert(picture.At(x, y)).(color.RGBA)]++
				}
			}
			fill, back := color.RGBA{0x2d, 0xa3, 0x6a, 0xff}, color.RGBA{0xff, 0xff, 0xff, 0xff}
			if test.dark {
				fill, back = color.RGBA{0x2f, 0x9e, 0x68, 0xff}, color.RGBA{0x18, 0x1d, 0x24, 0xff}
			}
			require.Greater(t, seen[fill], 20, "what succeeded is drawn in green")
			require.Greater(t, seen[back], picture.Bounds().Dx()*picture.Bounds().Dy()/3, "on the cards of the scheme")
			if *screenshots != "" {
				shrink(t, file, picture, seen)
			}
		})
	}
}

// shrink writes a picture with the 256 most frequent colours, which makes the file a
// third as large.
func shrink(tb testing.TB, file string, picture image.Image, seen map[color.RGBA]int) {
	tb.Helper()
	colours := slices.SortedFunc(maps.Keys(seen), func(a, b color.RGBA) int { return seen[b] - seen[a] })
	palette := color.Palette{}
	for _, c := range colours[:min(len(colours), 256)] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(picture.Bounds(), palette)
	draw.Draw(small, small.Bounds(), picture, image.Point{}, draw.Src)
	var b bytes.Buffer
	require.NoError(tb, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, small))
	require.Less(tb, b.Len(), 150<<10)
	require.NoError(tb, os.WriteFile(file, b.Bytes(), 0o644))
}

// The page refreshes without JavaScript, and shows new calls.
func TestChromiumRefresh(t *testing.T) {
	browser := newChromium(t)
	transport := resilient.NewTransport(resilienttest.New(resilienttest.Status(404)))
	page := debugpage.Handler(transport)
	var loaded atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/debug/resilient" {
			http.NotFound(w, req)
			return
		}
		if loaded.Add(1) == 3 {
			send(transport, newRequest(t, http.MethodGet, people))
			req.URL.RawQuery = "refresh=0" // so that the browser stops
		}
		page.ServeHTTP(w, req)
	}))
	defer server.Close()
	dom := browser.run(t, "--dump-dom", "--virtual-time-budget=10000", server.URL+"/debug/resilient?refresh=1")
	require.GreaterOrEqual(t, loaded.Load(), int64(3))
	require.Contains(t, text(dom), "attempt 1 got 404")
}
