package gate

// ratio is the quotient of the means of two numbers of late.
type ratio struct {
	n      int64
	of, to float64 // the means
}

// ratioOf pairs of numbers are the last ones that count.
const ratioOf = 256

func (r *ratio) add(of, to float64) {
	r.n++
	part := 1 / float64(min(r.n, ratioOf))
	r.of += (of - r.of) * part
	r.to += (to - r.to) * part
}

// value returns the ratio, or 0 if nothing is known.
func (r *ratio) value() float64 {
	if r.of == 0 {
		return 0
	}
	return r.to / r.of
}
