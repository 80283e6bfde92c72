package lru_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/resilienthttp/resilient/internal/lru"
)

func table(size, limit int, busy ...int) *lru.Table[int, int] {
	return &lru.Table[int, int]{Size: size, Limit: limit, Idle: func(v int) bool { return !slices.Contains(busy, v) }}
}

func TestTable(t *testing.T) {
	for _, tt := range []struct {
		name  string
		table *lru.Table[int, int]
		use   []int // keys, added unless they are there
		want  []int // in the end, the key used last in front
	}{
		{"room for all", table(3, 9), []int{1, 2, 3}, []int{3, 2, 1}},
		{"the one not used for longest goes", table(3, 9), []int{1, 2, 3, 4}, []int{4, 3, 2}},
		{"used again", table(3, 9), []int{1, 2, 3, 1, 4}, []int{4, 1, 3}},
		{"a busy one stays", table(3, 9, 1), []int{1, 2, 3, 4, 5}, []int{5, 4, 1}},
		{"all are busy", table(2, 9, 1, 2, 3, 4), []int{1, 2, 3, 4}, []int{4, 3, 2, 1}},
		{"it shrinks again", table(2, 9, 1, 2, 3, 4), []int{1, 2, 3, 4, 5, 6, 7, 8}, []int{8, 4, 3, 2, 1}},
		{"but not without end", table(2, 3, 1, 2, 3, 4, 5), []int{1, 2, 3, 4, 5}, []int{5, 4, 3}},
		{"the hand is used", table(2, 9, 1, 2, 3, 4, 5), []int{1, 2, 3, 4, 3, 2, 5}, []int{5, 2, 3, 4, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, key := range tt.use {
				if _, ok := tt.table.Get(key); !ok {
					_, _ = tt.table.Add(key, key)
				}
			}
			require.Equal(t, tt.want, slices.Collect(tt.table.All()))
			require.Equal(t, len(tt.want), tt.table.Len())
		})
	}
	for v := range table(2, 2).All() {
		t.Fatal(v)
	}
}

func TestAddSaysWhatIsLost(t *testing.T) {
	few := table(1, 2, 1, 2)
	_, _ = few.Add(1, 1)
	dropped, forced := few.Add(2, 2)
	require.Empty(t, dropped)
	require.False(t, forced)
	dropped, forced = few.Add(3, 3)
	require.Equal(t, []int{1}, dropped)
	require.True(t, forced, "it was busy")
	dropped, forced = table(1, 2).Add(1, 1)
	require.Empty(t, dropped)
	require.False(t, forced)
}

// TestLooks follows the hand: it looks at four entries for each key that is added,
// goes on from there the next time, and begins anew once it has seen all.
func TestLooks(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit int
		use   []int // after 1 to 7, all of them busy
		want  []int // the keys looked at for the last one that was added
		why   string
	}{
		{"many over the size", 99, nil, []int{1, 2, 3, 4}, "from the key not used for longest, and no more than four"},
		{"on from there", 99, []int{8}, []int{5, 6, 7}, "up to the new one"},
		{"anew", 99, []int{8, 9}, []int{1, 2, 3, 4}, "all were seen"},
		{"the key under the hand is used", 99, []int{5, 8}, []int{6, 7, 5}, "the hand stays where it was, not with the key"},
		{"another key is used", 99, []int{2, 8}, []int{5, 6, 7, 2}, "the hand is not moved"},
		{"one is dropped at the limit", 7, []int{8, 9, 10}, []int{6, 7, 8, 9}, "nor by that"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var looked []int
			table := &lru.Table[int, int]{Size: 1, Limit: tt.limit, Idle: func(v int) bool {
				looked = append(looked, v)
				return false
			}}
			for _, key := range append([]int{1, 2, 3, 4, 5, 6, 7}, tt.use...) {
				if _, ok := table.Get(key); !ok {
					looked = nil
					_, _ = table.Add(key, key)
				}
			}
			require.Equal(t, tt.want, looked, tt.why)
		})
	}
}

func TestAllEndsEarly(t *testing.T) {
	full := table(3, 3)
	for key := range 3 {
		_, _ = full.Add(key, key)
	}
	for v := range full.All() {
		require.Equal(t, 2, v, "only the first is asked for")
		break
	}
}

// FuzzTable: a busy key is never dropped below the limit, the order is that of
// use, and the table is never larger than it has reason to be.
func FuzzTable(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, byte(3), byte(7))
	f.Fuzz(func(t *testing.T, ops []byte, size, busyPart byte) {
		const limit = 100
		busy := func(key byte) bool { return key%16 < busyPart%17 }
		table := &lru.Table[byte, byte]{Size: int(size%limit) + 1, Limit: limit, Idle: func(key byte) bool { return !busy(key) }}
		var model []byte // the key used last in front
		for _, key := range ops {
			_, ok := table.Get(key)
			i := slices.Index(model, key)
			require.Equal(t, i >= 0, ok)
			if ok {
				model = slices.Delete(model, i, i+1)
			} else {
				dropped, forced := table.Add(key, key)
				for _, gone := range dropped {
					require.NotEqual(t, key, gone)
					require.True(t, forced || !busy(gone))
					model = slices.DeleteFunc(model, func(k byte) bool { return k == gone })
				}
			}
			model = slices.Insert(model, 0, key)
			require.Equal(t, model, slices.Collect(table.All()))
			require.LessOrEqual(t, table.Len(), limit)
			if busyPart%17 == 0 {
				require.LessOrEqual(t, table.Len(), table.Size, "nothing is kept without a reason")
			}
		}
	})
}
