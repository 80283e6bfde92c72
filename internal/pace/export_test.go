package pace

// Spaced reports whether refusals come after smaller gaps than any acceptance.
func (p *Pace) Spaced() bool { return p.spacing.on() }
