// Command benchmarks compares the transport with other packages that retry. It runs
// scenarios with a known optimum, in virtual time. See README.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func main() {
	only := flag.String("scenario", "", "comma-separated scenarios or variants, such as a,b.stall (default all)")
	sets := flag.String("params", "0", "comma-separated sets of parameters: 0, the usual one, or 1, 2 or 3, see others.go")
	columns := flag.String("peers", "", "comma-separated beginnings of the peers' names (default all)")
	dir := flag.String("results", "", "`directory` to write README.md and the pictures into (default none)")
	pictures := flag.String("pictures", "", "`directory` to write only the pictures into, of what is measured (default none)")
	format := flag.String("format", "svg", "format of the pictures: svg or png")
	seeds := flag.Int("seeds", 1, "runs of each variant, with the seeds that follow the first (not f)")
	defaults := defaults()
	defaults.flags(flag.CommandLine)
	flag.Parse()
	at := commit() // before anything is written

	// Virtual time is available only in tests. testing.Main runs one, and never
	// returns.
	testing.Main(
		func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "scoreboard", F: func(t *testing.T) {
			t.Helper()
			peers := choosePeers(*columns)
			boards := scoreboard(t, peers, chooseVariants(*only, *sets), *seeds)
			if *pictures != "" {
				for _, b := range boards {
					if _, err := b.pictures(*pictures, *format); err != nil {
						t.Error(err)
					}
				}
			}
			if *dir == "" {
				return
			}
			if err := writeResults(*dir, *format, at, boards, peers); err != nil {
				t.Error(err)
			}
		}}}, nil, nil,
	)
}

// scoreboard runs the chosen scenarios, and prints each when it is done.
func scoreboard(t *testing.T, peers []peer, chosen []scenario, seeds int) (boards []*board) {
	t.Helper()
	for _, s := range chosen {
		b := newBoard(s, peers)
		for k, v := range s.variants {
			v = v.with(v.params.override(flag.CommandLine))
			s.variants[k] = v
			if v.together != nil {
				values := v.measureTogether(t, v.params, s, peers)
				b.setAll(k, values)
				for i := range peers {
					if values[i] != nil {
						fmt.Fprintf(os.Stderr, "%-24s %-26s %s\n", v.name, peers[i].name, v.describe(cell{values: values[i]}))
					}
				}
				continue
			}
			for i := range peers {
				if !peers[i].takesPart(s) {
					continue
				}
				begin := time.Now()
				c := v.repeat(t, v.params, &peers[i], seeds)
				b.cells[k][i] = c
				fmt.Fprintf(os.Stderr, "%-24s %-26s %s (%.1f s)\n",
					v.name, peers[i].name, v.describe(c), time.Since(begin).Seconds())
			}
		}
		b.markdown(os.Stdout)
		boards = append(boards, b)
	}
	return boards
}

// measureTogether measures the peers that take part in the scenario; others have no values.
func (v *variant) measureTogether(t *testing.T, p params, s scenario, peers []peer) [][]float64 {
	t.Helper()
	var part []peer
	var at []int
	for i := range peers {
		if peers[i].takesPart(s) {
			part, at = append(part, peers[i]), append(at, i)
		}
	}
	values := make([][]float64, len(peers))
	for i, got := range v.together(t, p, part) {
		values[at[i]] = got
	}
	return values
}

// repeat measures a variant with several seeds.
func (v *variant) repeat(t *testing.T, p params, pr *peer, seeds int) cell {
	t.Helper()
	var first *run
	var runs [][]float64
	for range max(seeds, 1) {
		values, r := v.measure(t, p, pr)
		r.calls = nil // a million of them would slow down the garbage collections of f
		if first == nil {
			first = r
		}
		runs = append(runs, values)
		p.seed++
	}
	return v.summary(runs, first)
}

func choosePeers(names string) []peer {
	all := peers()
	if names == "" {
		return all
	}
	return slices.DeleteFunc(all, func(p peer) bool {
		return !slices.ContainsFunc(strings.Split(names, ","), func(name string) bool {
			return strings.HasPrefix(p.name, name)
		})
	})
}

// chooseVariants returns the variants of the given names, or all, with the given sets of
// parameters.
func chooseVariants(names, sets string) (chosen []scenario) {
	for _, s := range scenarios() {
		var variants []variant
		for _, v := range s.variants {
			if names != "" && !slices.ContainsFunc(strings.Split(names, ","), func(name string) bool {
				return name == v.name || name == s.letter
			}) {
				continue
			}
			for set := range strings.SplitSeq(sets, ",") {
				if other, ok := v.other(set); ok {
					variants = append(variants, other)
				}
			}
		}
		if s.variants = variants; len(variants) > 0 {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

func (p *peer) takesPart(s scenario) bool {
	if s.peers != nil {
		return slices.Contains(s.peers, p.name)
	}
	return p.only == "" || strings.Contains(p.only, s.letter)
}
