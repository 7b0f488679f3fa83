package cuda

import (
	"fmt"
	"strconv"

	"github.com/twilight-go/twilight/attention"
)

// middleReach is how far towards the ends of its bounds a page is scored where a spec says middle: what its reach is of, one radius a page, this device does not keep. Presets were measured so.
const middleReach = 0.2

// ModeOf says how the operator runs a pipeline; the error says what of it that it does not. The operator keeps page bounds and values in 4 bits, whatever the spec says of widths, and ranks the
// pages of a list that heads share by the head to which a page matters most, where other devices add up shares of mass.
func ModeOf(p *attention.Pipeline) (Mode, error) {
	s := p.Spec()
	if s.Dense() {
		return Mode{Dense: true}, nil
	}
	m := Mode{Keep: 1, Mass: 0.9, Tail: s.Tail, PerHead: !s.Union, DenseBelow: max(s.MinContext, 1)}
	if s.MinContext == attention.AutoMinContext {
		m.DenseBelow, m.MinContext = 0, attention.DefaultMinContext
	}
	refuse := func(what string) (Mode, error) {
		return m, fmt.Errorf("cuda: attention %s: %s; this device runs dense, and full or quest with int4 or block-range and top-p", s, what)
	}
	if len(s.Within) > 0 || s.Audit > 0 {
		return refuse("chains and audits are not among what it runs")
	}
	number := func(a attention.Arg) float64 {
		f, _ := strconv.ParseFloat(a.Value, 64) //nolint:errcheck // the pipeline has read it
		return f
	}
	switch s.Select.Name {
	case "full":
	case "quest":
		m.Keep, m.Reach = 0.25, 1
		middle := false
		for _, a := range s.Select.Args {
			switch a.Key {
			case "keep":
				m.Keep = float32(number(a))
			case "least":
				m.Pages = int(number(a)) / attention.PageTokens
			case "shared":
				m.Shared = true
			case "budget":
				m.Pages, m.Keep = int(number(a))/attention.PageTokens, 0
			case "reach":
				m.Reach = float32(number(a))
			case "middle":
				middle = true
			default:
				return refuse("its argument " + a.Key + " of quest is not among what it runs")
			}
		}
		if middle {
			m.Reach = middleReach
		}
	default:
		return refuse("its selector is not among what it runs")
	}
	switch s.Estimate.Name {
	case "int4":
		m.TokenCodes = true
	case "block-range":
		for _, a := range s.Estimate.Args {
			if a.Key != "bits" || a.Value != "4" {
				return refuse("its codes have 4 bits")
			}
		}
	default:
		return refuse("its estimator is not among what it runs")
	}
	if s.Prune.Name != "top-p" {
		return refuse("its pruner is not among what it runs")
	}
	for _, a := range s.Prune.Args {
		if a.Key != "exact" {
			m.Mass = float32(number(a))
		}
	}
	m.ExactMass = m.Mass
	if s.Exact > 0 {
		if m.ExactMass = float32(s.Exact); m.PerHead {
			return refuse("precision by weight goes with union only")
		}
	}
	return m, nil
}
