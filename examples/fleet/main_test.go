package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// The processes of the fleet are this test binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-redis" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestFleetSharesTheLimit(t *testing.T) {
	var out bytes.Buffer
	f := fleet{duration: 2 * time.Second, shared: true, out: &out}
	if err := f.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + out.String())
	lines := strings.Split(out.String(), "\n")
	var served, refused int
	for i, line := range lines[1:6] {
		fields := strings.Fields(line)
		if i == 4 {
			if _, err := fmt.Sscan(strings.Join(fields[1:], " "), &served, &refused); err != nil {
				t.Fatal(err)
			}
		} else if fields[2] == "0" {
			t.Errorf("%s got no share", fields[0])
		}
	}
	// most is the number that the API itself would accept. A busy machine may be
	// slower.
	if most := burst + int(limit*f.duration.Seconds()) + 1; served > most || served < most/2 {
		t.Errorf("%d were served, want about %d", served, most)
	}
	if refused > served/10 {
		t.Errorf("%d were refused", refused)
	}
}
