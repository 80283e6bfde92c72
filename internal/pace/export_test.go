package pace

// Spaced reports whether refusals come after smaller gaps than any acceptance.
func (p *Pace) Spaced() bool { return p.spacing.on() }

// Shared reports whether others use the quota too.
func (p *Pace) Shared() bool { return p.shared() }
