package eventstream

// Kept returns how much memory the Parser keeps.
func (p *Parser) Kept() int {
	return cap(p.word) + cap(p.name) + cap(p.data) + len(p.last)
}
