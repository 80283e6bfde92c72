package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// board is what came of a scenario.
type board struct {
	scenario scenario
	peers    []peer
	cells    [][]cell // [variant][peer]
}

type cell struct {
	values []float64
	run    *run
}

func newBoard(s scenario, peers []peer) *board {
	b := &board{scenario: s, peers: peers}
	for range s.variants {
		b.cells = append(b.cells, make([]cell, len(peers)))
	}
	return b
}

func (b *board) set(variant, peer int, values []float64, r *run) {
	b.cells[variant][peer] = cell{values, r}
}

// setAll is set for all peers of a variant. Those that take no part have none.
func (b *board) setAll(variant int, values [][]float64) {
	for i, v := range values {
		if v != nil {
			b.set(variant, i, v, nil)
		}
	}
}

// markdown writes a table with a row for each metric.
func (b *board) markdown(w io.Writer) {
	fmt.Fprintf(w, "\n### %s. %s\n\n%s\n\n", b.scenario.letter, b.scenario.title, b.scenario.model)
	fmt.Fprint(w, "| variant | metric | target |")
	for _, p := range b.peers {
		fmt.Fprintf(w, " %s |", p.name)
	}
	fmt.Fprint(w, "\n| --- | --- | ---: |", strings.Repeat(" ---: |", len(b.peers)), "\n")
	for k, v := range b.scenario.variants {
		name := "**" + v.name + "** " + v.model
		for i, m := range v.metrics {
			fmt.Fprintf(w, "| %s | %s | %s |", name, m.name, m.bound())
			for _, c := range b.cells[k] {
				if c.values == nil {
					fmt.Fprint(w, " |")
					continue
				}
				text := m.format(c.values[i])
				if m.met(c.values[i]) {
					text = "**" + text + "**"
				}
				fmt.Fprintf(w, " %s |", text)
			}
			fmt.Fprintln(w)
			name = ""
		}
	}
}

// bound returns the target as text.
func (m metric) bound() string {
	switch {
	case math.IsNaN(m.target):
		return ""
	case m.atLeast:
		return ">= " + m.format(m.target)
	}
	return "<= " + m.format(m.target)
}

// met reports whether a value reaches the target, if there is one.
func (m metric) met(v float64) bool {
	if m.atLeast {
		return v >= m.target
	}
	return v <= m.target
}

func (m metric) format(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	if v > 1e9 {
		return "never"
	}
	switch m.unit {
	case "n":
		return fmt.Sprintf("%.0f", v)
	case "s":
		return fmt.Sprintf("%.2f s", v)
	case "ns":
		return fmt.Sprintf("%.0f ns", v)
	case "ms":
		return fmt.Sprintf("%.0f ms", v)
	case "%":
		return fmt.Sprintf("%.3g %%", v*100)
	}
	return fmt.Sprintf("%.3f", v)
}

// describe puts the values on a line.
func (v *variant) describe(values []float64) string {
	var parts []string
	for i, m := range v.metrics {
		parts = append(parts, m.name+" "+m.format(values[i]))
	}
	return strings.Join(parts, ", ")
}
