package limit

// noise is the part of the attempts that is refused by chance although there is a limit:
// one bad backend of many behind it, for instance. As many refusals say nothing about the
// limit, and a pace that gave way to each of them would soon be close to nothing.
//
// It is what was refused since the limit was confirmed, if attempts are then accepted ahead
// of it. A noise that is taken for larger than it is
// would keep itself up, by a pace that is too fast by as much. So a little less than
// all of it is excused, and it is never more than is refused: then it dies out.
type noise struct {
	part          float64
	credit        float64 // refusals that are excused
	sent, refused float64 // lately
	height        float64 // of the limit when it was confirmed
}

const (
	// excusedPart of the noise is excused.
	excusedPart = 0.9

	// Refusals by chance come in clusters. So many in a row are excused at most.
	mostExcused = 8

	// noiseSample attempts say how much is refused, to about a percent.
	noiseSample = 400

	// A part that is larger is no noise: then the limit is what does not predict much.
	mostNoise = 0.3

	// raisedTo is how far above what was confirmed a limit is raised ahead of which
	// attempts were accepted. A limit that is there then refuses a fifth.
	raisedTo = 1.25
)

// confirmed notes that there is a limit of such a height.
func (n *noise) confirmed(height float64) { n.height, n.sent, n.refused = height, 0, 0 }

// found takes for noise all that was refused lately, and returns how high the limit may be.
func (n *noise) found() (height float64) {
	part := max(n.refused/max(n.sent, 1), n.part)
	*n = noise{part: min(part, mostNoise), credit: 1, height: n.height}
	return raisedTo * n.height
}

// chance returns the part that chance refuses if it is not the limit that does: as much as
// is refused now, although the limit is kept to. Until that is known it is what was refused
// before.
func (n *noise) chance(before float64) float64 {
	const few = 8
	if n.sent < few {
		return before
	}
	return n.refused / n.sent
}

// useless reports whether so much is refused, although the limit is kept to, that there may
// be none.
func (n *noise) useless() bool {
	const many, much = 20, 0.4
	return n.sent >= many && n.refused >= much*n.sent
}

// outcome notes an outcome, and reports whether a refusal is excused.
func (n *noise) outcome(refused bool) (excused bool) {
	n.sent++
	n.credit = min(n.credit+excusedPart*n.part, mostExcused)
	if refused {
		n.refused++
		if excused = n.part > 0 && n.credit >= 1; excused {
			n.credit--
		}
	}
	if n.sent >= noiseSample {
		n.part = min(n.part, n.refused/n.sent)
		n.sent, n.refused = n.sent/2, n.refused/2
	}
	return excused
}
