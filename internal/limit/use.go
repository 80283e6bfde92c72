package limit

// use asks whether a pace is of any. If it has become slower by half, and as much is
// refused as ever, then it may be refused by chance, whatever the pace: a trial that
// takes chance for rare has confirmed a limit that there is not. Where nearly all of it
// is refused the server is closed, and that is no chance.
type use struct {
	rate              float64 // the pace at the beginning
	accepted, refused int
}

const (
	// doubtful attempts are enough to doubt a pace if between leastDoubt and mostDoubt
	// of them are refused.
	doubtfulAfter = 20
	leastDoubt    = 0.4
	mostDoubt     = 0.9
)

// doubtful reports whether the pace, which has the given rate now, is to be tested again.
func (u *use) doubtful(rate float64) (share float64, doubtful bool) {
	n := u.accepted + u.refused
	if n < doubtfulAfter {
		return 0, false
	}
	share = float64(u.refused) / float64(n)
	u.accepted, u.refused = 0, 0
	return share, share >= leastDoubt && share <= mostDoubt && rate <= u.rate/2
}
