package gate

import "time"

// slots are the places of the attempts that may be in flight at one time. A place is
// taken by its number, so that it costs no allocation, and one that is never given
// back is found by its age.
type slots struct {
	max   int         // 0: any number, and none is counted
	since []time.Time // when each place was taken; zero: it is free
	free  []int       // numbers of free places among those
}

func (s *slots) taken() int { return len(s.since) - len(s.free) }

func (s *slots) full() bool { return s.max > 0 && s.taken() >= s.max }

// take takes a place and returns its number, from 1; 0 if places are not counted.
func (s *slots) take(now time.Time) int {
	if s.max == 0 {
		return 0
	}
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		s.since[slot-1] = now
		return slot
	}
	s.since = append(s.since, now)
	return len(s.since)
}

// release gives a place back. It must be called once for each that was taken.
func (s *slots) release(slot int) {
	s.since[slot-1] = time.Time{}
	s.free = append(s.free, slot)
}

// oldest returns when the place was taken that has been taken longest; zero: none is.
func (s *slots) oldest() time.Time {
	var oldest time.Time
	for _, t := range s.since {
		if !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	return oldest
}
