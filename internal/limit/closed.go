package limit

import "time"

// closed follows the times in which a server refuses everything: a quota for a minute
// that is used up, for instance.
type closed struct {
	streak int           // refusals since an attempt was accepted
	at     time.Time     // when the first of them was sent
	last   time.Time     // when the last one was
	took   time.Duration // longest such time
}

// rowOfRefusals in a row are a time in which everything is refused.
const rowOfRefusals = 3

func (c *closed) refusal(s *Stamp) {
	if c.streak == 0 {
		c.at = s.Sent
	}
	c.streak++
	c.last = s.Sent
}

// opens returns when it is likely to be over: it takes as long as it did before, or as
// long again as it has taken.
func (c *closed) opens() time.Time {
	return c.at.Add(max(c.took, 2*c.last.Sub(c.at)))
}

func (c *closed) acceptance(s *Stamp) {
	if c.now() {
		c.took = max(c.took, s.Sent.Sub(c.at))
	}
	c.streak = 0
}

// now reports whether everything is refused.
func (c *closed) now() bool { return c.streak >= rowOfRefusals }
