package limit

// use asks whether a limit is of any. If it has been lowered by half, and much is
// refused all the same, then it may be refused by chance, whatever the limit: a trial
// that takes chance for rare has confirmed one that there is not. Where nearly all of it
// is refused the server is closed, and that is no chance.
type use struct {
	height            float64 // of the limit at the beginning
	accepted, refused int
}

const (
	// doubtfulAfter attempts are enough to doubt a limit if between leastDoubt and mostDoubt
	// of them are refused.
	doubtfulAfter = 20
	leastDoubt    = 0.4
	mostDoubt     = 0.9
)

// doubtful reports whether the limit, which is as high now, is to be tested again, with
// the part that is refused.
func (u *use) doubtful(height float64) (share float64, doubtful bool) {
	n := u.accepted + u.refused
	if n < doubtfulAfter {
		return 0, false
	}
	share = float64(u.refused) / float64(n)
	u.accepted, u.refused = 0, 0
	return share, share >= leastDoubt && share <= mostDoubt && height <= u.height/2
}
