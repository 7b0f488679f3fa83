package model

import (
	"fmt"

	"github.com/twilight-go/twilight/internal/device"
)

// Model is a model loaded onto a device. Not safe for concurrent use: one step at a time.
type Model struct {
	Hyper
	dev    device.Device
	fp     [32]byte
	embed  device.Weight
	layers []layer
	norm   []float32
	head   []device.Linear
	act    activations
	pos    []int32
	logits []float32
	// of the step in flight; fields, so that it allocates nothing
	step *Step
	plan device.Plan
	ops  func() error
	call device.Attention
}

// activations is the scratch of a step, shared by all layers.
type activations struct {
	x, h, q, k, v, att, y, gate, up device.Tensor
	x2, att2                        device.Tensor // the rows whose logits are wanted
	logits                          device.Tensor
}

// Options for Load.
type Options struct {
	MaxRows   int              // rows of the largest step; 0: what the device says suits prompts, or 512
	MaxLogits int              // rows of a step that may ask for logits; 64 if 0
	Progress  func(done int64) // told of weight bytes taken in; may be nil
}

// Load takes a model into a device. The source must outlive the model, which may use its memory in place.
func Load(s Source, dev device.Device, opt Options) (*Model, error) {
	h, err := ReadHyper(s)
	if err != nil {
		return nil, err
	}
	if opt.MaxRows == 0 {
		opt.MaxRows = 512
		if d, ok := dev.(interface{ PromptRows(values, heads int) int }); ok {
			opt.MaxRows = d.PromptRows(3*h.Embed+2*(h.Heads+h.KVHeads)*h.HeadDim+2*h.FFN, h.Heads)
		}
		opt.MaxRows = max(opt.MaxRows, opt.MaxLogits)
	}
	if opt.MaxLogits == 0 {
		opt.MaxLogits = 64
	}
	opt.MaxLogits = min(opt.MaxLogits, opt.MaxRows)
	m := &Model{Hyper: *h, dev: dev, fp: s.Fingerprint()}
	m.ops = m.run
	if err := m.alloc(opt); err != nil {
		return nil, err
	}
	l := &loader{s: s, dev: dev, progress: opt.Progress}
	m.embed = l.matrix("token_embd.weight", h.Vocab, h.Embed)
	out := m.embed
	if _, ok := s.Tensor("output.weight"); ok {
		out = l.matrix("output.weight", h.Vocab, h.Embed)
	}
	m.head = []device.Linear{{W: out, Dst: m.act.logits, Fine: true}}
	m.norm = l.vector("output_norm.weight", h.Embed)
	for i := range h.Layers {
		if l.err != nil {
			return nil, l.err
		}
		m.layers = append(m.layers, l.layer(i, h, &m.act))
	}
	return m, l.err
}

func (m *Model) alloc(opt Options) error {
	q, kv := m.Heads*m.HeadDim, m.KVHeads*m.HeadDim
	a := &m.act
	for _, t := range []struct {
		at         *device.Tensor
		rows, cols int
	}{
		{&a.x, opt.MaxRows, m.Embed}, {&a.h, opt.MaxRows, m.Embed}, {&a.y, opt.MaxRows, m.Embed},
		{&a.q, opt.MaxRows, q}, {&a.k, opt.MaxRows, kv}, {&a.v, opt.MaxRows, kv}, {&a.att, opt.MaxRows, q},
		{&a.gate, opt.MaxRows, m.FFN}, {&a.up, opt.MaxRows, m.FFN},
		{&a.x2, opt.MaxLogits, m.Embed}, {&a.att2, opt.MaxLogits, q}, {&a.logits, opt.MaxLogits, m.Vocab},
	} {
		var err error
		if *t.at, err = m.dev.Alloc(t.rows, t.cols); err != nil {
			return fmt.Errorf("model: scratch of %d rows of %d: %w", t.rows, t.cols, err)
		}
	}
	m.pos = make([]int32, opt.MaxRows)
	return nil
}

// MaxRows is the largest number of rows of a step, MaxLogits of rows with logits.
func (m *Model) MaxRows() int { return m.act.x.Rows }

// MaxLogits is how many rows of a step may ask for logits.
func (m *Model) MaxLogits() int { return m.act.logits.Rows }

// Fingerprint identifies the model's file.
func (m *Model) Fingerprint() [32]byte { return m.fp }

// Device is what the model runs on.
func (m *Model) Device() device.Device { return m.dev }

// Step is what one forward pass computes.
type Step struct {
	Tokens   []int32 // one a row
	Segments []device.Segment
	Logits   []int32 // rows whose logits are wanted, ascending
	Cache    device.Cache
}

// Forward runs a step and returns the logits of the wanted rows, [len(Logits)][Vocab], valid until the next call. The segments' sequences must have reserved room; the caller
// advances them.
func (m *Model) Forward(s *Step) ([]float32, error) { return m.forward(s, device.ReadLogits) }

// Next runs a step and sets next[i] to the most likely token after row Logits[i], the first of equals. A device that can keeps the logits to itself.
func (m *Model) Next(s *Step, next []int32) error {
	logits, err := m.forward(s, device.BestToken)
	if err != nil {
		return err
	}
	if m.plan.Choice == device.BestToken {
		m.dev.(device.Chooser).Chosen(next[:len(s.Logits)])
		return nil
	}
	for i := range s.Logits {
		row := logits[i*m.Vocab:][:m.Vocab]
		best := 0
		for id, x := range row {
			if x > row[best] {
				best = id
			}
		}
		next[i] = int32(best)
	}
	return nil
}

// Lists reports whether Top works on the model's device.
func (m *Model) Lists() bool {
	_, ok := m.dev.(device.Chooser)
	return ok
}

// Top runs a step and sets top[i] to the most likely tokens after row Logits[i]. The logits stay on the device; Row reads them.
func (m *Model) Top(s *Step, top []device.Top) error {
	if _, err := m.forward(s, device.TopTokens); err != nil {
		return err
	}
	m.dev.(device.Chooser).Listed(top[:len(s.Logits)])
	return nil
}

// Row is the logits of row Logits[i] of the last step, which Top ran, valid until the next call.
func (m *Model) Row(i int) []float32 {
	m.logits = room(m.logits, m.Vocab)
	m.dev.(device.Chooser).Row(m.logits, m.act.logits, i)
	return m.logits
}

// room is a slice of n values, s's if it has them.
func room(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}

func (m *Model) forward(s *Step, choice device.Choice) ([]float32, error) {
	n := len(s.Tokens)
	if n == 0 || n > m.MaxRows() || len(s.Logits) > m.MaxLogits() {
		return nil, fmt.Errorf("model: a step of %d rows with %d logits: expected 1 to %d rows and at most %d logits", n, len(s.Logits), m.MaxRows(), m.MaxLogits())
	}
	for i, t := range s.Tokens {
		if t < 0 || int(t) >= m.Vocab {
			return nil, fmt.Errorf("model: token %d of the step is %d: expected 0 to %d", i, t, m.Vocab-1)
		}
	}
	for _, seg := range s.Segments {
		for i := range seg.N {
			m.pos[seg.Row+i] = int32(seg.Pos + i)
		}
	}
	if !m.Lists() {
		choice = device.ReadLogits
	}
	m.step, m.plan = s, device.Plan{Choice: choice, Tokens: s.Tokens, Pos: m.pos[:n], Segments: s.Segments, Logits: s.Logits, Cache: s.Cache}
	if err := m.dev.Step(&m.plan, m.ops); err != nil || len(s.Logits) == 0 || m.plan.Choice != device.ReadLogits {
		return nil, err
	}
	m.logits = room(m.logits, len(s.Logits)*m.Vocab)
	m.dev.Read(m.logits, m.act.logits.Top(len(s.Logits)))
	return m.logits, nil
}

// run is the operations of the step.
func (m *Model) run() error {
	s := m.step
	n := len(s.Tokens)
	d, x := m.dev, m.act.x.Top(n)
	d.Embed(x, m.embed, s.Tokens, m.EmbedScale)
	for i := range m.layers {
		att, err := m.attention(i, x, s)
		if err != nil {
			return err
		}
		if i == len(m.layers)-1 {
			if len(s.Logits) == 0 {
				return nil
			}
			if len(s.Logits) < n { // nothing after this attention mixes rows
				x2, att2 := m.act.x2.Top(len(s.Logits)), m.act.att2.Top(len(s.Logits))
				d.Pick(x2, x, s.Logits)
				d.Pick(att2, att, s.Logits)
				x, att = x2, att2
			}
		}
		m.rest(i, x, att)
	}
	h := m.act.h.Top(x.Rows)
	d.Norm(h, x, m.norm, m.Eps)
	d.Linear(h, m.head)
	switch m.plan.Choice {
	case device.BestToken:
		d.(device.Chooser).Choose(m.act.logits.Top(x.Rows))
	case device.TopTokens:
		d.(device.Chooser).List(m.act.logits.Top(x.Rows))
	}
	return nil
}

// attention runs the first half of layer i up to the heads' outputs.
func (m *Model) attention(i int, x device.Tensor, s *Step) (device.Tensor, error) {
	d, l, a, n := m.dev, &m.layers[i], &m.act, x.Rows
	h, q, k, v, att := a.h.Top(n), a.q.Top(n), a.k.Top(n), a.v.Top(n), a.att.Top(n)
	d.Norm(h, x, l.attnNorm, m.Eps)
	d.Linear(h, l.qkv)
	if l.qNorm != nil {
		d.Norm(q, q, l.qNorm, m.Eps)
	}
	if l.kNorm != nil {
		d.Norm(k, k, l.kNorm, m.Eps)
	}
	rope := m.rope(i)
	d.Rope(q, rope, m.HeadDim, m.pos[:n])
	d.Rope(k, rope, m.HeadDim, m.pos[:n])
	m.call = device.Attention{Layer: i, Heads: m.Heads, KVHeads: m.KVHeads, Dim: m.HeadDim, Scale: m.AttnScale, Window: m.window(i),
		Q: q, K: k, V: v, Out: att, Cache: s.Cache, Segments: s.Segments}
	if err := d.Attend(&m.call); err != nil {
		return att, fmt.Errorf("model: layer %d: %w", i, err)
	}
	return att, nil
}

// rest runs the second half of layer i: the output projection and the feed-forward block.
func (m *Model) rest(i int, x, att device.Tensor) {
	d, l, a, n := m.dev, &m.layers[i], &m.act, x.Rows
	h, y := a.h.Top(n), a.y.Top(n)
	d.Linear(att, l.out)
	if l.postAttnNorm != nil {
		d.Norm(y, y, l.postAttnNorm, m.Eps)
	}
	d.Add(x, y)
	d.Norm(h, x, l.ffnNorm, m.Eps)
	d.Linear(h, l.up)
	d.Gate(a.gate.Top(n), a.up.Top(n), m.Act)
	d.Linear(a.gate.Top(n), l.down)
	if l.postFFNNorm != nil {
		d.Norm(y, y, l.postFFNNorm, m.Eps)
	}
	d.Add(x, y)
}
