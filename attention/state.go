package attention

import (
	"fmt"
	"math"
)

// Shape is the geometry that a State is made for.
type Shape struct {
	Layers, KVHeads int
	Group           int // query heads that share a KV head
	Dim             int // channels
}

// Stateful is a Selector that remembers more of a sequence than planes can hold: what it chose in another layer, sums over steps, books trained on the prompt.
// An extension point. The Selector itself stays stateless; Scan and Choose find the sequence's memory by Work.State.
type Stateful interface {
	Selector
	// NewState makes the memory of one sequence, for all layers and KV heads. What belongs to different KV heads of a layer is used concurrently; layers follow one another.
	NewState(s Shape) State
}

// Remembering is a Stateful selector of whose arguments some do not matter to what it remembers: selectors that name it alike share it in every sequence.
type Remembering interface {
	Stateful
	Remembers() string
}

// State is what a Stateful selector remembers of one sequence.
type State interface {
	// Fork is a copy that from now on goes its own way.
	Fork() State
	// Truncate says that the tokens from n on were dropped.
	Truncate(n int)
}

// Fitted is a Selector that was made for models of one shape.
type Fitted interface {
	Selector
	// Fits is an error that says how the model differs. Engines ask before they make a cache.
	Fits(s Shape) error
}

// Fits reports whether the pipeline's selectors go with a model of that shape.
func (p *Pipeline) Fits(s Shape) error {
	for _, sel := range p.chain {
		if f, ok := sel.Selector.(Fitted); ok {
			if err := f.Fits(s); err != nil {
				return fmt.Errorf("attention: %s: %w", sel.text, err)
			}
		}
	}
	return nil
}

// Observer is a Stateful selector that has to see the prompt's queries.
type Observer interface {
	Stateful
	// Observe is called once for each layer, KV head and chunk of a prompt, in the order of the chunks, after the chunk's keys are cached. KV heads are
	// observed concurrently.
	Observe(o *Observation)
	// Observed is how many of the prompt's last queries matter; 0: all.
	Observed() int
}

// Observation is a chunk of a prompt as one KV head of one layer sees it.
type Observation struct {
	Layer, KVHead, Group int
	Head                 Head      // the cache up to the chunk's last token: N = First+Rows
	First, Rows          int       // the chunk's tokens
	Q                    []float32 // queries after RoPE, scaled by 1/√Dim: row i of query head g at [i*Stride+g*Dim:]
	Stride               int
	State                State
	Kern                 Kernels
}

// Memory is what the Stateful selectors of all pipelines remember of one sequence, and what audits said of it. The zero value is empty. The sequence owns it: it forks, truncates and
// clears it with itself. Two pipelines with the same selector, or with selectors that remember the same, share its memory of a sequence.
type Memory struct {
	kept   []memo
	parted *parting
}

type memo struct {
	name  string // what the selector remembers by; of an ensuring pipeline its own name
	state State
}

// Prepare makes what the pipeline's selectors need and the memory does not have yet. Devices call it before they add calls of the sequence.
func (m *Memory) Prepare(p *Pipeline, s Shape) {
	for _, sel := range p.chain {
		if st, ok := sel.Selector.(Stateful); ok && m.find(sel.memory) == nil {
			made := st.NewState(s)
			m.parted.joined(made)
			m.kept = append(m.kept, memo{sel.memory, made})
		}
	}
	if p.cutBy != "" && m.find(p.cutBy) == nil {
		m.kept = append(m.kept, memo{p.cutBy, newCuts(s)})
	}
	if p.ensured != "" && m.find(p.ensured) == nil {
		m.kept = append(m.kept, memo{p.ensured, newVerdicts(s)})
	}
}

// find is the state of a selector, nil if there is none.
func (m *Memory) find(name string) State {
	if m != nil {
		for i := range m.kept {
			if m.kept[i].name == name {
				return m.kept[i].state
			}
		}
	}
	return nil
}

// Remembers reports whether what the pipeline chooses depends on more of a sequence than its cached keys and values: on what its selectors, or its audits, remember.
func (p *Pipeline) Remembers() bool {
	for _, sel := range p.chain {
		if _, ok := sel.Selector.(Stateful); ok {
			return true
		}
	}
	return p.ensured != ""
}

// Fork is a copy for a fork of the sequence, which has n tokens.
func (m *Memory) Fork(n int) Memory {
	if m.parted == nil || m.parted.at != n {
		m.parted = &parting{at: n}
	}
	f := Memory{parted: m.parted}
	for _, k := range m.kept {
		made := k.state.Fork()
		f.parted.joined(made)
		f.kept = append(f.kept, memo{k.name, made})
	}
	return f
}

// Truncate says that the sequence's tokens from n on were dropped.
func (m *Memory) Truncate(n int) {
	if n == 0 {
		m.kept = m.kept[:0]
	}
	if m.parted != nil && n < m.parted.at {
		m.parted = nil
	}
	for _, k := range m.kept {
		k.state.Truncate(n)
	}
}

// Watch is dense attention that shows prompts to f, as an Observer sees them but for all layers and without a State.
func Watch(f func(*Observation)) *Pipeline {
	return &Pipeline{spec: Spec{Select: Part{Name: "dense"}}, watch: f}
}

// Observed is how many of a prompt's last queries selectors of the pipeline have to see, 0 where none has to: Observe is then to be called for every layer and chunk.
func (p *Pipeline) Observed() (n int) {
	if p.watch != nil {
		return math.MaxInt
	}
	for _, sel := range p.chain {
		if o, ok := sel.Selector.(Observer); ok {
			if o.Observed() == 0 {
				return math.MaxInt
			}
			n = max(n, o.Observed())
		}
	}
	return n
}

// Observers is what shows prompts to all selectors of the pipelines that ask for them: each once, however many pipelines share it, in every layer that one of them
// finds sparse. The result is for Observe and Prepare only.
func Observers(pipes []*Pipeline) (out []*Pipeline) {
	at := map[string]*Pipeline{}
	for _, p := range pipes {
		if p.watch != nil {
			out = append(out, p)
		}
		for _, sel := range p.chain {
			if _, ok := sel.Selector.(Observer); !ok {
				continue
			}
			o := at[sel.text]
			if o == nil {
				o = &Pipeline{spec: p.spec, chain: []link{sel}}
				at[sel.text] = o
				out = append(out, o)
			}
			o.spec.DenseLayers = min(o.spec.DenseLayers, p.spec.DenseLayers)
		}
	}
	return out
}

// Observe shows a chunk of a prompt to the selectors that ask for it. o.State is set here, from the memory that Prepare made ready. Layers that stay dense are not shown.
func (p *Pipeline) Observe(m *Memory, o Observation) {
	if p.watch != nil {
		p.watch(&o)
	}
	if o.Layer < p.spec.DenseLayers {
		return
	}
	for _, sel := range p.chain {
		if ob, ok := sel.Selector.(Observer); ok {
			o.State = m.find(sel.memory)
			ob.Observe(&o)
		}
	}
}
