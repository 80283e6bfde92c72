package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"gonum.org/v1/plot"
)

// board holds the results of a scenario.
type board struct {
	scenario scenario
	peers    []peer
	cells    [][]cell // [variant][peer]
}

type cell struct {
	values []float64 // the medians, if there are several seeds
	worst  []float64 // nil if there is one seed
	run    *run      // of the first seed
}

// summary returns the median and the worst of the values of several seeds.
func (v *variant) summary(runs [][]float64, first *run) cell {
	c := cell{values: runs[0], run: first}
	if len(runs) == 1 {
		return c
	}
	c.values = make([]float64, len(v.metrics))
	c.worst = make([]float64, len(v.metrics))
	for i, m := range v.metrics {
		var values []float64
		for _, run := range runs {
			values = append(values, run[i])
		}
		slices.SortFunc(values, m.compare)
		c.values[i] = values[(len(values)-1)/2]
		c.worst[i] = values[len(values)-1]
	}
	return c
}

// compare orders values from the best to the worst. None is the worst.
func (m metric) compare(a, b float64) int {
	switch aNone, bNone := math.IsNaN(a), math.IsNaN(b); {
	case aNone && bNone:
		return 0
	case aNone:
		return 1
	case bNone:
		return -1
	}
	if m.atLeast {
		a, b = b, a
	}
	return cmp.Compare(a, b)
}

// text returns a value of the cell, followed by the worst of all seeds.
func (c cell) text(i int, m metric) string {
	if c.worst == nil {
		return m.format(c.values[i])
	}
	return m.format(c.values[i]) + " (" + m.format(c.worst[i]) + ")"
}

// met reports whether a target is reached, with every seed.
func (c cell) met(i int, m metric) bool {
	if c.worst == nil {
		return m.met(c.values[i])
	}
	worst := m
	if !math.IsNaN(m.anySeed) {
		worst.target = m.anySeed
	}
	return m.met(c.values[i]) && worst.met(c.worst[i])
}

func newBoard(s scenario, peers []peer) *board {
	b := &board{scenario: s, peers: peers}
	for range s.variants {
		b.cells = append(b.cells, make([]cell, len(peers)))
	}
	return b
}

func (b *board) set(variant, peer int, values []float64, r *run) {
	b.cells[variant][peer] = cell{values: values, run: r}
}

// writeResults writes the tables and pictures, and the command and versions that
// produced them.
func writeResults(dir, format, commit string, boards []*board, peers []peer) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	var w strings.Builder
	w.WriteString("# Results\n\n")
	fmt.Fprintf(&w, "    %s\n\n", command())
	fmt.Fprintf(&w, "at commit %s, with %s on %s/%s, %d CPUs. A figure in bold reaches its target. Of several seeds, it is the median, and in parentheses the worst, which has to reach the target. A failed call counts as never answered. `-` means that the backlog was not drained.\n\n",
		commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	heat := "scoreboard." + format
	if err := heatMap(boards, peers, filepath.Join(dir, heat)); err != nil {
		return err
	}
	fmt.Fprintf(&w, "![The scoreboard](%s)\n\n## Columns\n\n| peer | module | missing features and differences |\n| --- | --- | --- |\n", heat)
	for _, p := range peers {
		fmt.Fprintf(&w, "| %s | %s | %s |\n", p.name, version(p.module), p.cannot)
	}
	w.WriteString("\n## Tables\n")
	for _, b := range boards {
		b.markdown(&w)
		w.WriteString("\n")
		names, err := b.pictures(dir, format)
		if err != nil {
			return err
		}
		for _, name := range names {
			fmt.Fprintf(&w, "![%s](%s)\n", strings.TrimSuffix(name, filepath.Ext(name)), name)
		}
	}
	return os.WriteFile(filepath.Join(dir, "README.md"), []byte(w.String()), 0o666)
}

// pictures writes the pictures of a scenario, and returns their names.
func (b *board) pictures(dir, format string) (names []string, err error) {
	plot.DefaultFont.Variant = "Sans"
	for k, v := range b.scenario.variants {
		if v.picture != nil {
			name := v.name + "." + format
			if err := b.timelines(k, filepath.Join(dir, name)); err != nil {
				return names, err
			}
			names = append(names, name)
		}
		more, err := b.duels(k, dir)
		if err != nil {
			return names, err
		}
		names = append(names, more...)
	}
	return names, nil
}

// command returns how the program was called.
func command() string {
	return strings.Join(append([]string{"go run ."}, os.Args[1:]...), " ")
}

// commit returns the commit of the working tree, if it is clean.
func commit() string {
	out, err := exec.CommandContext(context.Background(), "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// version returns a module with the version that is linked.
func version(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok || module == "" {
		return module
	}
	for _, m := range info.Deps {
		if m.Path != module {
			continue
		}
		if m.Replace != nil {
			return module + " (this repository)"
		}
		return module + " " + m.Version
	}
	return module
}

// setAll sets the values of all peers of a variant. Peers that take no part have no
// values.
func (b *board) setAll(variant int, values [][]float64) {
	for i, v := range values {
		if v != nil {
			b.set(variant, i, v, nil)
		}
	}
}

// markdown writes a table with a row for each metric, and a column for each peer that
// took part.
func (b *board) markdown(w io.Writer) {
	var columns []int
	for i, p := range b.peers {
		if p.takesPart(b.scenario) {
			columns = append(columns, i)
		}
	}
	fmt.Fprintf(w, "\n### %s. %s\n\n%s\n\n", b.scenario.letter, b.scenario.title, b.scenario.model)
	fmt.Fprint(w, "| variant | metric | target |")
	for _, i := range columns {
		fmt.Fprintf(w, " %s |", b.peers[i].name)
	}
	fmt.Fprint(w, "\n| --- | --- | ---: |", strings.Repeat(" ---: |", len(columns)), "\n")
	for k, v := range b.scenario.variants {
		name := "**" + v.name + "** " + v.model
		for i, m := range v.metrics {
			fmt.Fprintf(w, "| %s | %s | %s |", name, m.name, m.bound())
			for _, column := range columns {
				c := b.cells[k][column]
				if c.values == nil {
					fmt.Fprint(w, " |")
					continue
				}
				text := c.text(i, m)
				if c.met(i, m) {
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
	if v > 1e9 { // forever is 292 years, in seconds or milliseconds
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
	case "time": // in seconds
		if v < 1 {
			return fmt.Sprintf("%.0f ms", v*1000)
		}
		return fmt.Sprintf("%.2f s", v)
	case "%":
		return fmt.Sprintf("%.3g %%", v*100)
	}
	return fmt.Sprintf("%.3f", v)
}

// describe puts the values on a line, and marks those that miss their target.
func (v *variant) describe(c cell) string {
	var parts []string
	for i, m := range v.metrics {
		part := m.name + " " + c.text(i, m)
		if !math.IsNaN(m.target) && !c.met(i, m) {
			part += " MISSED " + m.bound()
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}
