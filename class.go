package resilient

import (
	"math"

	"github.com/resilienthttp/resilient/internal/gate"
)

// Class says which requests go before others of the same limit key while they wait for a
// limit, see [WithClass]. The zero Class is the default.
type Class struct {
	// Priority goes before lower ones, except that every ninth place is one of a lower
	// priority, so that nobody is starved. It is from -128 to 127, and values beyond
	// are taken for these.
	Priority int

	// Flow names requests that take turns with those of other flows of the same
	// priority: a customer, a job. Within a flow requests go in the order in which
	// they came. 1,024 flows of a priority can wait at one time, and further ones
	// share the flow "".
	Flow string
}

// class returns the class of the call. The caller's function is asked once, when the
// answer may matter, and retries keep it.
func (c *call) class() gate.Class {
	if c.cfg.class != nil && !c.classed {
		class := c.cfg.class(c.req)
		c.classed = true
		c.itsClass = gate.Class{Priority: min(max(class.Priority, math.MinInt8), math.MaxInt8), Flow: class.Flow}
	}
	return c.itsClass
}
