package attention

import (
	"fmt"
	"math"
	"slices"

	"github.com/twilight-go/twilight/internal/tensor"
)

// doubleSparsity is Double Sparsity (arXiv 2408.07092): r important channels of the keys are kept once more in 4 bits (the label cache), and the tokens of largest dot
// product over those channels alone are proposed. The paper takes 16 of 128 channels.
//
// Which channels matter is calibrated: of each KV head, those of largest Σ|q_c·k_c| over a text and over the query heads that share it. The authors calibrate each
// query head by itself, which under grouped queries would multiply the label cache by the group; here the group shares one, and a channel that only one of its heads
// needs has to outweigh the others'.
//
// Without a calibration each block of 256 tokens chooses its own channels, those of largest Σ|k_c|, and keeps the mean key of the block, from which the other
// channels are estimated so that scores of different blocks compare. Labels are then written when a block is full, and the newest block is scored exactly. That is no
// worse than a calibration: SmolLM2-135M at 4096 tokens of which 256 are attended to, KL from dense with 8 and 16 of 64 channels .028 and .014, calibrated on another
// part of the book .046 and .021; choosing by the variance of the keys instead .56 and .20.
//
// Metadata per token: r/2 bytes of labels and 4 of scales, all of it read every step; self-calibrated also 2·(d+r)/256.
type doubleSparsity struct {
	budget
	labels Labels
	planes []Plane
}

func init() {
	RegisterSelector("double-sparsity", Info{Doc: "tokens by a few important channels in 4 bits", Paper: "2408.07092", New: func(a *Args) (any, error) {
		s := doubleSparsity{budget: readBudget(a, "budget"), labels: Labels{Count: a.Int("channels", 0, 0, 1<<10, "channels kept, at most half of them; 0: an eighth")}}
		if path := a.Text("channels-file", "", "what calibrate wrote; without it each block chooses for itself"); path != "" {
			c, err := ReadCalibration(path)
			if err != nil {
				return nil, err
			}
			if len(c.Channels) == 0 {
				return nil, fmt.Errorf("calibration %s lists no channels", path)
			}
			s.labels.Calibration = c
		}
		s.planes = []Plane{s.labels}
		return s, nil
	}})
}

// Planes implements Selector.
func (s doubleSparsity) Planes() []Plane { return s.planes }

// Scores implements Selector. Labels are scored in whole blocks.
func (doubleSparsity) Scores(n int) int { return BlocksOf(n) * BlockTokens }

// Fits implements Fitted.
func (s doubleSparsity) Fits(shape Shape) error {
	if c := s.labels.Calibration; c != nil {
		return c.fits(shape)
	}
	return nil
}

// Scan implements Selector.
func (s doubleSparsity) Scan(w *Work, lo, hi int) {
	dim := w.Head.Dim
	r, tmp := s.labels.width(dim), w.scanTmp(lo)
	few := as[float32](tmp[:4*w.Group*(r+1)]) // what is left of the scratch is enough for so few channels
	q, base := few[:w.Group*r], few[w.Group*r:]
	clear(base)
	for b := lo; b < hi; b++ {
		plane := w.SelectorPlane(0, b)
		fixed := s.labels.calibrated(w.Layer(), w.KVHead())
		if fixed == nil && w.Head.N < (b+1)*BlockTokens {
			w.exactBlock(b)
			continue
		}
		for g := range w.Group {
			for i := range r {
				q[g*r+i] = w.Q[g*dim+s.labels.channel(plane, dim, fixed, i)]
			}
		}
		if fixed == nil { // the channels without labels: q·mean, whose labelled channels are zero
			w.Kern.Dot(base, 1, w.Q, w.Group, dim, as[uint16](plane[s.labels.codeBytes(dim):])[:dim], consecutive[:1], nil)
		}
		w.Kern.LabelDot(w.AllScores()[b*BlockTokens:], w.ScoreStride(), q, base, w.Group, r, plane, tmp[4*w.Group*(r+1):])
	}
}

// Choose implements Selector.
func (s doubleSparsity) Choose(w *Work) {
	w.ReadBytes(w.Head.Blocks() * s.labels.BlockBytes(w.Head.Dim))
	for g := range w.Group {
		w.proposeBest(g, w.laneScores(g), s.of(w.Head.N))
	}
}

// Labels holds some channels of the keys in 4 bits, with a scale and a minimum per token as Int4. Which channels is known beforehand, or decided for each
// block when it is full. Layout of a block: pages as Int4's with Count channels; where blocks decide, then the fp16 mean key [dim], zero in the labelled channels, and
// their numbers, uint16 [Count].
type Labels struct {
	Count       int // channels; 0: an eighth of them
	Calibration *Calibration
}

// Name implements Plane.
func (p Labels) Name() string {
	if p.Calibration != nil {
		return fmt.Sprintf("labels:%d:%s", p.Count, p.Calibration.hash)
	}
	return fmt.Sprintf("labels:%d", p.Count)
}

// BlockBytes implements Plane.
func (p Labels) BlockBytes(dim int) int {
	if p.Calibration != nil {
		return p.codeBytes(dim)
	}
	return p.codeBytes(dim) + 2*(dim+p.width(dim))
}

func (p Labels) codeBytes(dim int) int { return BlockPages * tokenPageBytes(p.width(dim), 4) }

// width is the number of labelled channels of dim.
func (p Labels) width(dim int) int {
	r := p.Count
	if r == 0 {
		r = dim / 8
	}
	return max(min(r, dim/2, maxLabels), 1)
}

// calibrated is a head's channels by importance, nil where blocks decide.
func (p Labels) calibrated(layer, head int) []int {
	if c := p.Calibration; c != nil {
		return c.Channels[layer%len(c.Channels)][head%c.KVHeads] // within bounds: Fits was asked
	}
	return nil
}

// channel is the i-th labelled channel of a block.
func (p Labels) channel(block []byte, dim int, fixed []int, i int) int {
	if fixed != nil {
		return fixed[i]
	}
	return int(as[uint16](block[p.codeBytes(dim)+2*dim:])[i])
}

// Append implements Plane.
func (p Labels) Append(dst []byte, r Rows) {
	fixed := p.calibrated(r.Layer, r.KVHead)
	from := r.From
	if fixed == nil {
		if r.To < BlockTokens {
			return
		}
		p.decide(dst, r)
		from = 0
	}
	var row [maxLabels]uint16
	n := p.width(r.Dim)
	for t := from; t < r.To; t++ {
		for i := range n {
			row[i] = r.K[t*r.Dim+p.channel(dst, r.Dim, fixed, i)]
		}
		encodeToken(dst, 4, t, row[:n])
	}
}

// maxLabels bounds the labelled channels of a head: half of any head's that is known.
const maxLabels = 512

// decide chooses the channels of a full block by Σ|k_c|, and writes their numbers and the mean key of the others.
func (p Labels) decide(dst []byte, r Rows) {
	mean := as[uint16](dst[p.codeBytes(r.Dim):])[:r.Dim]
	channels := as[uint16](dst[p.codeBytes(r.Dim)+2*r.Dim:])[:p.width(r.Dim)]
	var best [maxLabels]float64
	n := 0
	for c := range r.Dim {
		var sum, size float64
		for t := range BlockTokens {
			x := float64(tensor.F16ToF32(r.K[t*r.Dim+c]))
			sum += x
			size += math.Abs(x)
		}
		mean[c] = tensor.F32ToF16(float32(sum / BlockTokens))
		i := n
		if n < len(channels) {
			n++
		} else if i--; !(size > best[i]) {
			continue
		}
		for ; i > 0 && size > best[i-1]; i-- {
			best[i], channels[i] = best[i-1], channels[i-1]
		}
		best[i], channels[i] = size, uint16(c)
	}
	slices.Sort(channels)
	for _, c := range channels {
		mean[c] = 0
	}
}
