package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// picture is the timeline of a variant. It shows the requests a second that the
// server answers, and the number that it could have accepted.
type picture struct {
	length time.Duration
	top    float64                             // of the vertical axis
	limit  func(params, time.Duration) float64 // requests a second
}

const panelsPerRow = 4

// The colours of the lines are distinct even for the colour-blind.
func acceptedColor() color.Color { return color.RGBA{0x1f, 0x77, 0xb4, 0xff} }
func refusedColor() color.Color  { return color.RGBA{0xd6, 0x27, 0x28, 0xff} }
func limitColor() color.Color    { return color.Gray{0xa0} }

// timelines draws a panel for each peer that took part in the variant.
func (b *board) timelines(k int, path string) error {
	v := b.scenario.variants[k]
	var plots [][]*plot.Plot
	for i, c := range b.cells[k] {
		if c.run == nil {
			continue
		}
		if len(plots) == 0 || len(plots[len(plots)-1]) == panelsPerRow {
			plots = append(plots, nil)
		}
		p, err := panel(b.peers[i].name, v, c.run)
		if err != nil {
			return err
		}
		plots[len(plots)-1] = append(plots[len(plots)-1], p)
	}
	for r := range plots {
		for len(plots[r]) < panelsPerRow {
			plots[r] = append(plots[r], nil)
		}
	}
	if plots == nil {
		return nil
	}
	const head = 12 * vg.Millimeter
	width, height := 250*vg.Millimeter, vg.Length(len(plots))*38*vg.Millimeter+head
	return save(path, width, height, func(dc draw.Canvas) {
		heading(dc, fmt.Sprintf("%s: %s", v.name, v.model),
			"requests a second over time: accepted (blue), refused or failed (red), the limit (grey)")
		body := draw.Crop(dc, 3*vg.Millimeter, -3*vg.Millimeter, 2*vg.Millimeter, -head)
		tiles := draw.Tiles{Rows: len(plots), Cols: panelsPerRow, PadX: 3 * vg.Millimeter, PadY: 3 * vg.Millimeter}
		for r, canvases := range plot.Align(plots, tiles, body) {
			for c, canvas := range canvases {
				if plots[r][c] != nil {
					plots[r][c].Draw(canvas)
				}
			}
		}
	})
}

func panel(name string, v variant, r *run) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = name
	p.Title.TextStyle.Font.Size = 9
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Tick.Label.Font.Size = 7
		axis.Tick.Length = 2
	}
	p.X.Min, p.X.Max = 0, v.picture.length.Seconds()
	p.Y.Min, p.Y.Max = 0, v.picture.top
	var accepted, refused, limit plotter.XYs
	for d := time.Duration(0); d < v.picture.length; d += time.Second {
		sum := r.srv.count(interval{d, d + time.Second})
		middle := (d + time.Second/2).Seconds()
		accepted = append(accepted, plotter.XY{X: middle, Y: min(float64(sum.accepted), v.picture.top)})
		refused = append(refused, plotter.XY{X: middle, Y: min(float64(sum.refused+sum.failed), v.picture.top)})
		limit = append(limit, plotter.XY{X: middle, Y: v.picture.limit(r.params, d)})
	}
	for _, line := range []struct {
		points plotter.XYs
		color  color.Color
	}{{limit, limitColor()}, {refused, refusedColor()}, {accepted, acceptedColor()}} {
		l, err := plotter.NewLine(line.points)
		if err != nil {
			return nil, err
		}
		l.Color, l.Width = line.color, 1
		p.Add(l)
	}
	return p, nil
}

// heatMap draws a row for each metric with a target, and a column for each peer.
func heatMap(boards []*board, peers []peer, path string) error {
	var rows []heatRow
	for _, b := range boards {
		for k, v := range b.scenario.variants {
			for i, m := range v.metrics {
				if math.IsNaN(m.target) {
					continue
				}
				row := heatRow{name: v.name + ": " + m.name, metric: m}
				for _, c := range b.cells[k] {
					row.present = append(row.present, c.values != nil)
					value := math.NaN()
					if c.values != nil {
						value = c.values[i]
					}
					row.values = append(row.values, value)
				}
				rows = append(rows, row)
			}
		}
	}
	const (
		cellWidth  = 15 * vg.Millimeter
		cellHeight = 5 * vg.Millimeter
		left       = 62 * vg.Millimeter
		head       = 38 * vg.Millimeter
	)
	width := left + vg.Length(len(peers)+1)*cellWidth + 6*vg.Millimeter
	height := head + vg.Length(len(rows))*cellHeight + 2*vg.Millimeter
	return save(path, width, height, func(dc draw.Canvas) {
		heading(dc, "The scoreboard", "green: the target is reached; yellow to red: how far it is missed; grey: not drained; blank: takes no part; of several seeds, the median")
		small := style(7)
		for i, p := range peers {
			rotated := style(8)
			rotated.Rotation = math.Pi / 4
			at := vg.Point{X: left + (vg.Length(i)+1.3)*cellWidth, Y: height - head + 2*vg.Millimeter}
			dc.FillText(rotated, at, p.name)
		}
		dc.FillText(style(8), vg.Point{X: left + 1*vg.Millimeter, Y: height - head + 2*vg.Millimeter}, "target")
		for r, row := range rows {
			y := height - head - vg.Length(r+1)*cellHeight
			baseline := y + 1.4*vg.Millimeter
			dc.FillText(small, vg.Point{X: 3 * vg.Millimeter, Y: baseline}, row.name)
			dc.FillText(small, vg.Point{X: left + 1*vg.Millimeter, Y: baseline}, row.metric.bound())
			for i, value := range row.values {
				if !row.present[i] {
					continue
				}
				x := left + vg.Length(i+1)*cellWidth
				dc.FillPolygon(shade(row.metric, value), []vg.Point{
					{X: x, Y: y},
					{X: x + cellWidth - 1, Y: y},
					{X: x + cellWidth - 1, Y: y + cellHeight - 1},
					{X: x, Y: y + cellHeight - 1},
				})
				dc.FillText(small, vg.Point{X: x + 1*vg.Millimeter, Y: baseline}, row.metric.format(value))
			}
		}
	})
}

type heatRow struct {
	name    string
	metric  metric
	values  []float64
	present []bool
}

// shade returns green for a target that is reached. Otherwise it returns a colour
// from yellow to red that shows how far the target is missed.
func shade(m metric, v float64) color.Color {
	if math.IsNaN(v) {
		return color.Gray{0xd0}
	}
	if m.met(v) {
		return color.RGBA{0x8c, 0xd0, 0x8c, 0xff}
	}
	far := min(m.missedBy(v), 1)
	mix := func(from, to float64) uint8 { return uint8(from + far*(to-from)) }
	return color.RGBA{mix(0xff, 0xe8), mix(0xf0, 0x60), mix(0x9c, 0x50), 0xff}
}

// missedBy returns how far a target is missed. It is 1 if the value is ten times too
// large, or half as large as it should be.
func (m metric) missedBy(v float64) float64 {
	switch {
	case m.atLeast:
		return (m.target - v) / (m.target / 2)
	case m.target == 0:
		return math.Log10(1+v) / 3
	}
	return math.Log10(v / m.target)
}

func style(size float64) text.Style {
	return text.Style{
		Color:   color.Black,
		Font:    font.From(plot.DefaultFont, vg.Length(size)),
		Handler: plot.DefaultTextHandler,
	}
}

func heading(dc draw.Canvas, title, explanation string) {
	x, y := 3*vg.Millimeter, dc.Max.Y
	dc.FillText(style(11), vg.Point{X: x, Y: y - 5*vg.Millimeter}, title)
	dc.FillText(style(8), vg.Point{X: x, Y: y - 9*vg.Millimeter}, explanation)
}

// save draws a picture in the format that the name of the file ends with.
func save(path string, width, height vg.Length, paint func(draw.Canvas)) (err error) {
	c, err := draw.NewFormattedCanvas(width, height, filepath.Ext(path)[1:])
	if err != nil {
		return err
	}
	dc := draw.New(c)
	dc.FillPolygon(color.White, []vg.Point{{X: 0, Y: 0}, {X: width, Y: 0}, {X: width, Y: height}, {X: 0, Y: height}})
	paint(dc)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
