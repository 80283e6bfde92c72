package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// duel is a picture of two columns of a variant, side by side, which is understood
// without an explanation. There is one for light pages and one for dark ones.
type duel struct {
	peers  [2]string
	titles [2]string
	length time.Duration
	top    float64 // of the vertical axis
}

// theme holds the colours of a page.
type theme struct{ suffix, text, faint, accepted, refused string }

// themes returns GitHub's light and dark mode. Blue and orange differ for the
// colour-blind too.
func themes() []theme {
	return []theme{
		{"", "#1f2328", "#59636e", "#2f6fb5", "#e8702a"},
		{"-dark", "#f0f6fc", "#9198a1", "#5b9fe3", "#f58a45"},
	}
}

// The measures of a duel, in pixels. Its text can be read on a telephone too.
const (
	duelWidth   = 800
	duelHeight  = 290
	panelWidth  = 350
	panelHeight = 160
	panelTop    = 84
	panelGap    = 30
	panelLeft   = 55
)

// duels writes the pictures of variant k, and returns their names. There are none if one
// of the two columns is missing.
func (b *board) duels(k int, dir string) (names []string, err error) {
	v := b.scenario.variants[k]
	if v.duel == nil {
		return nil, nil
	}
	var cells [2]cell
	for i, name := range v.duel.peers {
		at := slices.IndexFunc(b.peers, func(p peer) bool { return p.name == name })
		if at < 0 || b.cells[k][at].run == nil {
			return nil, nil
		}
		cells[i] = b.cells[k][at]
	}
	for _, t := range themes() {
		name := v.name + t.suffix + ".svg"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(v.draw(cells, t)), 0o666); err != nil {
			return names, err
		}
		names = append(names, name)
	}
	return names, nil
}

// draw returns a duel as SVG.
func (v *variant) draw(cells [2]cell, t theme) string {
	var w strings.Builder
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="17" fill="%s">`+"\n", duelWidth, duelHeight, t.text)
	fmt.Fprintf(&w, "<title>%s: %s</title>\n", v.name, v.model)
	for i, c := range cells {
		v.drawPanel(&w, c, v.duel.titles[i], panelLeft+i*(panelWidth+panelGap), t)
	}
	y := v.duel.y(v.params.rate)
	fmt.Fprintf(&w, `<text x="%d" y="%.1f" text-anchor="end" fill="%s">%.0f/s</text>`+"\n", panelLeft-5, y+6, t.faint, v.params.rate)
	legend := panelLeft
	for _, l := range []struct{ color, text string }{{t.accepted, "answered"}, {t.refused, "refused (429)"}} {
		fmt.Fprintf(&w, `<rect x="%d" y="%d" width="14" height="14" fill="%s"/><text x="%d" y="%d">%s</text>`+"\n",
			legend, duelHeight-22, l.color, legend+21, duelHeight-9, l.text)
		legend += 125
	}
	fmt.Fprintf(&w, `<text x="%d" y="%d" text-anchor="end" fill="%s">requests in each of %.0f seconds, limit dashed</text>`+"\n",
		duelWidth-15, duelHeight-9, t.faint, v.duel.length.Seconds())
	w.WriteString("</svg>\n")
	return w.String()
}

// drawPanel draws what became of the requests of each second.
func (v *variant) drawPanel(w *strings.Builder, c cell, title string, left int, t theme) {
	sum := c.run.srv.count(interval{0, v.duel.length})
	failed := slices.IndexFunc(v.metrics, func(m metric) bool { return m.name == "failed" })
	fmt.Fprintf(w, `<text x="%d" y="24" font-size="21" font-weight="bold">%s</text>`+"\n", left, title)
	fmt.Fprintf(w, `<text x="%d" y="50">%s answered, %s refused</text>`+"\n", left, thousands(sum.accepted), thousands(sum.refused))
	lost := "no call failed"
	if n := int(c.values[failed]); n > 0 {
		lost = thousands(n) + " calls failed"
	}
	fmt.Fprintf(w, `<text x="%d" y="73">%s</text>`+"\n", left, lost)
	step := panelWidth / v.duel.length.Seconds()
	for d := time.Duration(0); d < v.duel.length; d += time.Second {
		n := c.run.srv.count(interval{d, d + time.Second})
		low, middle := v.duel.y(float64(n.accepted)), v.duel.y(float64(n.accepted+n.refused))
		x := float64(left) + d.Seconds()*step
		bar := `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>` + "\n"
		fmt.Fprintf(w, bar, x, low, step-2, v.duel.y(0)-low, t.accepted)
		if n.refused > 0 {
			fmt.Fprintf(w, bar, x, middle, step-2, low-middle, t.refused)
		}
	}
	limit := v.duel.y(v.params.rate)
	fmt.Fprintf(w, `<path d="M%d %.1fh%d" stroke="%s" stroke-width="2" stroke-dasharray="6 4"/>`+"\n", left, limit, panelWidth, t.text)
	fmt.Fprintf(w, `<path d="M%d %.1fh%d" stroke="%s"/>`+"\n", left, v.duel.y(0), panelWidth, t.faint)
}

// y returns where so many requests a second are drawn.
func (d *duel) y(perSecond float64) float64 {
	return panelTop + panelHeight*(1-min(perSecond/d.top, 1))
}

// thousands returns a number below a million with a comma.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
