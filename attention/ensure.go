package attention

import "slices"

// verdict is what the last audit of a KV head said, in specs with Ensure.
type verdict uint8

const (
	unknown verdict = iota // nothing since the sequence began or was cut: the next step is audited
	enough
	short // dense until the next audit
)

// verdicts is the memory of a sequence for Spec.Ensure. A truncation drops it, because the audits may have been of tokens that are gone.
type verdicts struct {
	kvHeads int
	of      []verdict // [layer][KV head]
}

func newVerdicts(s Shape) *verdicts {
	return &verdicts{s.KVHeads, make([]verdict, s.Layers*s.KVHeads)}
}

// Fork implements State.
func (v *verdicts) Fork() State { return &verdicts{v.kvHeads, slices.Clone(v.of)} }

// Truncate implements State.
func (v *verdicts) Truncate(int) { clear(v.of) }

// verdict is where the call's KV head keeps what its last audit said, nil if the pipeline ensures nothing. Prepare made it, which Add checks.
func (p *Pipeline) verdict(c *Call) *verdict {
	if p.ensured == "" {
		return nil
	}
	v := c.Memory.find(p.ensured).(*verdicts)
	return &v.of[c.Layer*v.kvHeads+c.KVHead]
}
