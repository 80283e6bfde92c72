package limit

import "time"

// closed follows the times in which a server refuses everything: a quota for a minute
// that is used up, for instance.
type closed struct {
	streak int           // refusals since an attempt was accepted
	at     time.Time     // when the first of them was sent
	took   time.Duration // longest such time
}

// rowOfRefusals in a row are a time in which everything is refused.
const rowOfRefusals = 3

func (c *closed) refusal(s *Stamp) {
	if c.streak == 0 {
		c.at = s.Sent
	}
	c.streak++
}

func (c *closed) acceptance(s *Stamp) {
	if c.now() {
		c.took = max(c.took, s.Sent.Sub(c.at))
	}
	c.streak = 0
}

// now reports whether everything is refused.
func (c *closed) now() bool { return c.streak >= rowOfRefusals }
