package limit

// use tells whether a pace is of any. If it has become much slower, and as much is
// refused as before, then what is refused is refused by chance, whatever the pace. A
// trial cannot tell chance above one half from a limit; this can.
type use struct {
	rate              float64 // the pace at the beginning
	accepted, refused int
}

const (
	// useless is the number of attempts that show it at a pace muchSlower than the first.
	useless    = 20
	muchSlower = 8

	// Between leastUseless and mostUseless of them must be refused. Where all of them
	// are the server is closed, and that is no chance.
	leastUseless = 0.4
	mostUseless  = 0.9
)

// none reports whether the pace is of no use: much slower now, with as much refused.
func (u *use) none(rate float64) bool {
	if rate > u.rate/muchSlower {
		u.accepted, u.refused = 0, 0
		return false
	}
	if u.accepted+u.refused < useless {
		return false
	}
	s := u.share()
	if s < leastUseless || s > mostUseless {
		u.accepted, u.refused = 0, 0
		return false
	}
	return true
}

func (u *use) share() float64 { return float64(u.refused) / float64(u.accepted+u.refused) }
