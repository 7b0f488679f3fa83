package attention

import (
	"fmt"
	"slices"
)

// Pipeline is a Spec made ready to run: the stages as values. It is immutable and shared by all sequences that use the spec.
type Pipeline struct {
	spec    Spec
	chain   []link    // selectors, each within what those before it propose; empty: dense
	est     Estimator // nil: candidates are not estimated
	prun    Pruner    // nil: all candidates survive
	tail    bool      // what was pruned counts by the mean value
	sampled bool      // the selector weighs tokens by their odds
	// planes that the stages read, without repetition, and where each stage's stand among them
	planes   []Plane
	selPlane [][]int // by link
	estPlane []int
	sumPlane int
	shares   bool               // the last selector's scan prepares queries for the estimator, too,
	ready    Ready              // as this says, without data
	reach    float32            // of a selector by middles: what a page's radius counts times the sum of a query's magnitudes
	values   []int              // of ValueCodes and ValueScales, in precision by weight
	ensured  string             // what a sequence's memory keeps the audits' verdicts by; empty: nothing is ensured
	cutBy    string             // what a sequence's memory keeps cuts by; empty: the pruner does not cut
	watch    func(*Observation) // nil but for Watch
}

// link is a selector of a chain.
type link struct {
	Selector
	text   string // canonical
	memory string // what a sequence's memory keeps its state by
}

// New makes the pipeline of a spec. Errors name the part and the argument, and list what is known.
func New(s Spec) (*Pipeline, error) {
	p := &Pipeline{spec: s, tail: s.Tail}
	if s.Ensure > 0 && s.Audit == 0 {
		return nil, fmt.Errorf("attention: %s: ensure=%g needs audit=STEPS, which finds out", s, s.Ensure)
	}
	if s.Dense() {
		return p, nil
	}
	if s.Ensure > 0 {
		p.ensured = "ensure " + s.String()
	}
	for _, part := range append(slices.Clone(s.Within), s.Select) {
		made, err := takeReuse(part, func(p Part) (any, error) { return build(selectors, p) })
		if err != nil {
			return nil, err
		}
		l := link{made, part.String(), part.String()}
		if r, ok := made.(Remembering); ok {
			l.memory = r.Remembers()
		}
		p.chain = append(p.chain, l)
	}
	if s.Prune.Name != "" && s.Prune.Name != "none" {
		made, err := build(pruners, s.Prune)
		if err != nil {
			return nil, err
		}
		p.prun = made.(Pruner)
		if _, ok := made.(cutter); ok {
			p.cutBy = "cuts " + s.String()
		}
	}
	name := s.Estimate.Name
	if name == "none" {
		name = ""
	}
	switch {
	case name != "":
		made, err := build(estimators, s.Estimate)
		if err != nil {
			return nil, err
		}
		p.est = made.(Estimator)
	case p.prun != nil:
		p.est = exact{}
	}
	if p.prun == nil && s.Tail {
		return nil, fmt.Errorf("attention: %s: tail=mean needs a pruner, because it weighs what was pruned", s)
	}
	last := p.chain[len(p.chain)-1].Selector
	if _, ok := last.(Compensator); ok && p.prun == nil {
		p.tail = true
	}
	for _, l := range p.chain {
		if _, ok := l.Selector.(Sampler); ok {
			p.sampled = true
		}
	}
	if p.sampled && s.Union {
		return nil, fmt.Errorf("attention: %s: union does not go with a selector that weighs a token for the head that drew it", s)
	}
	for _, l := range p.chain {
		if q, ok := asQuest(l.Selector); ok && q.middle {
			p.reach = float32(q.reach)
		}
		p.selPlane = append(p.selPlane, p.declare(l.Planes()))
	}
	if p.est != nil {
		p.estPlane = p.declare(p.est.Planes())
	}
	if a, ok := last.(adaptive); ok && (s.Exact == 0 || !s.Union) {
		return nil, fmt.Errorf("attention: %s: adapt=%g needs union and exact=SHARE, whose sums it judges by", s, a.gain)
	}
	if q, ok := asQuest(last); ok && q.middle {
		if e, ok := p.est.(blockRange); ok {
			p.shares, p.ready = e.bits == middleBits, Ready{Shrink: e.shrink}
		}
	}
	if s.Exact > 0 {
		switch {
		case p.prun == nil:
			return nil, fmt.Errorf("attention: %s: exact=%g needs a pruner, whose weights it goes by", s, s.Exact)
		case p.sampled:
			return nil, fmt.Errorf("attention: %s: exact=%g does not go with a selector that weighs tokens by their odds", s, s.Exact)
		}
		p.values = p.declare([]Plane{ValueCodes{}, ValueScales{}})
	}
	if p.tail {
		p.sumPlane = p.declare([]Plane{ValueSum{}})[0]
	}
	return p, nil
}

func (p *Pipeline) declare(planes []Plane) (at []int) {
	for _, want := range planes {
		i := 0
		for i < len(p.planes) && p.planes[i].Name() != want.Name() {
			i++
		}
		if i == len(p.planes) {
			p.planes = append(p.planes, want)
		}
		at = append(at, i)
	}
	return at
}

// MustNew is New for specs written in code; it panics on an error.
func MustNew(spec string) *Pipeline {
	s, err := Parse(spec)
	if err == nil {
		var p *Pipeline
		if p, err = New(s); err == nil {
			return p
		}
	}
	panic(err)
}

// Spec is what the pipeline was made from.
func (p *Pipeline) Spec() Spec { return p.spec }

// Planes is what a cache must keep for this pipeline.
func (p *Pipeline) Planes() []Plane { return p.planes }

// Sparse reports whether a decode step over n tokens of a layer runs the stages, rather than dense attention.
func (p *Pipeline) Sparse(layer, n int) bool {
	return len(p.chain) > 0 && layer >= p.spec.DenseLayers && n >= p.spec.shortest()
}

// binding says where a cache keeps the planes of a pipeline.
type binding struct {
	names []string // of the cache's planes
	sel   [][]int  // by link
	est   []int
	sum   int

	values, scales int
}

func (p *Pipeline) bindTo(names []string) (*binding, error) {
	at := make([]int, len(p.planes))
	for i, pl := range p.planes {
		at[i] = -1
		for j, n := range names {
			if n == pl.Name() {
				at[i] = j
			}
		}
		if at[i] < 0 {
			return nil, fmt.Errorf("attention: %s reads %s, which this cache does not keep (it keeps %v)", p.spec, pl.Name(), names)
		}
	}
	b := &binding{names: names}
	for _, planes := range p.selPlane {
		var sel []int
		for _, i := range planes {
			sel = append(sel, at[i])
		}
		b.sel = append(b.sel, sel)
	}
	for _, i := range p.estPlane {
		b.est = append(b.est, at[i])
	}
	if p.tail {
		b.sum = at[p.sumPlane]
	}
	if p.values != nil {
		b.values, b.scales = at[p.values[0]], at[p.values[1]]
	}
	return b, nil
}
