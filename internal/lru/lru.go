// Package lru keeps values by their keys, of many keys those used last. A value
// that is still needed, such as a limit that holds somebody back, is not dropped for
// another one.
package lru

import (
	"container/list"
	"iter"
)

// Table is a bounded table. It is not safe for concurrent use.
//
// Over Size, each key that is added drops those not used for longest of which
// Idle says that nothing is lost with them. It looks at a few keys each time and
// goes on from there the next time, so that adding one takes constant time even
// if no key is idle. The table grows then, up to Limit; there the key not used
// for longest is dropped even if it is not idle.
type Table[K comparable, V any] struct {
	Size, Limit int
	Idle        func(V) bool

	entries map[K]*list.Element
	recent  list.List     // of entry[K, V], the key used last in front
	hand    *list.Element // the entry that is looked at next; nil: the last one
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// looks is how many entries are looked at for each key that is added: more than
// one, so that a table that has grown shrinks again.
const looks = 4

// Get returns the value of a key and takes it for used.
func (t *Table[K, V]) Get(key K) (value V, ok bool) {
	e := t.entries[key]
	if e == nil {
		return value, false
	}
	if e == t.hand {
		t.hand = e.Prev()
	}
	t.recent.MoveToFront(e)
	return at[K, V](e).value, true
}

// Add adds a key that is not there yet. It reports the values that were dropped,
// and whether one of them was not idle.
func (t *Table[K, V]) Add(key K, value V) (dropped []V, forced bool) {
	if t.entries == nil {
		t.entries = make(map[K]*list.Element)
	}
	front := t.recent.PushFront(entry[K, V]{key, value})
	t.entries[key] = front
	for i := 0; i < looks && len(t.entries) > t.Size; i++ {
		e := t.hand
		if e == nil {
			e = t.recent.Back()
		}
		if e == front {
			t.hand = nil
			break
		}
		t.hand = e.Prev()
		if t.Idle(at[K, V](e).value) {
			dropped = append(dropped, t.drop(e))
		}
	}
	if len(t.entries) > t.Limit {
		dropped, forced = append(dropped, t.drop(t.recent.Back())), true
	}
	return dropped, forced
}

func (t *Table[K, V]) drop(e *list.Element) V {
	if e == t.hand {
		t.hand = e.Prev()
	}
	dropped := at[K, V](e)
	t.recent.Remove(e)
	delete(t.entries, dropped.key)
	return dropped.value
}

// Len returns how many keys there are.
func (t *Table[K, V]) Len() int { return len(t.entries) }

// All yields the values, that of the key used last first.
func (t *Table[K, V]) All() iter.Seq[V] {
	return func(yield func(V) bool) {
		for e := t.recent.Front(); e != nil; e = e.Next() {
			if !yield(at[K, V](e).value) {
				return
			}
		}
	}
}

func at[K comparable, V any](e *list.Element) entry[K, V] {
	return e.Value.(entry[K, V]) //nolint:forcetypeassert // recent holds nothing else
}
