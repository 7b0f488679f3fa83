package attention

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"

	"github.com/twilight-go/twilight/internal/tensor"
)

// magicpig is MagicPIG (arXiv 2410.16179): tokens are drawn at random, the likelier the smaller the angle between key and query, and weigh by the inverse of their odds, so that
// heads that look at everything a little are estimated without bias where a top-k is biased. Signs of random projections (SimHash) make signatures of bits·tables bits; a token
// is drawn where at least two of the tables agree with the query in all their bits. For an angle θ a bit agrees with probability p = 1 − θ/π, a table with P = p^bits, and the
// odds are 1 − (1−P)^tables − tables·P·(1−P)^(tables−1). Keys are centred first by the mean of those before the first decode step, sink and window aside: softmax does
// not notice, and angles spread. Sink and window are always attended to and weigh once.
//
// Keeps bits·tables bits and a norm a token, 191 bytes with the paper's K = 10 and L = 150, in the sequence's memory: bit-sliced, 64 tokens a word, so that a table is compared
// for a block in bits·4 operations and all of it takes 23 a token and query head. Making a signature takes bits·tables·dim multiplications a token, and so does hashing a query.
type magicpig struct {
	noScan
	bits, tables, sink, window int
}

func init() {
	RegisterSelector("magicpig", Info{Doc: "tokens drawn by locality-sensitive hashing, weighed by their odds", Paper: "2410.16179", New: func(a *Args) (any, error) {
		return magicpig{
			bits:   a.Int("bits", 10, 1, 32, "bits a table (K)"),
			tables: a.Int("tables", 150, 2, 1024, "tables (L)"),
			sink:   a.Int("sink", 4, 0, 1<<24, "first tokens always kept"),
			window: a.Int("window", 64, 0, 1<<24, "latest tokens always kept"),
		}, nil
	}})
}

// Samples implements Sampler.
func (magicpig) Samples() {}

// PerToken implements Coster: a signature and a norm in a word, of which a step reads the signature.
func (s magicpig) PerToken(int) (stores, reads float64) {
	reads = float64(s.bits*s.tables) / 8
	return reads + 8, reads
}

// pigHash is what signatures of a KV head are made with.
type pigHash struct {
	mean   []float32 // [dim] that keys are centred by
	planes *pigPlanes
	above  []float32 // [bits·tables] the least product with a hyperplane's normal that makes the bit 1: more than the mean's
}

// pigPlanes is the normals of hyperplanes, [bits·tables][dim], as rows and as queries of Kernels: the same numbers.
type pigPlanes struct {
	rows    []uint16
	queries []float32
}

var allPigPlanes sync.Map // [2]int{how many, dim} → *pigPlanes

// pigPlanesOf are the same for everybody.
func pigPlanesOf(n, dim int) *pigPlanes {
	key := [2]int{n, dim}
	if p, ok := allPigPlanes.Load(key); ok {
		return p.(*pigPlanes)
	}
	rng := rand.New(rand.NewPCG(2410, 16179))
	p := &pigPlanes{make([]uint16, n*dim), make([]float32, n*dim)}
	for i := range p.rows {
		p.rows[i] = tensor.F32ToF16(float32(rng.NormFloat64()))
	}
	tensor.F16sToF32s(p.queries, p.rows)
	allPigPlanes.Store(key, p)
	return p
}

// pigState is the memory of a sequence.
type pigState struct {
	*learnt[pigHash, uint64]
	logs []float32 // −ln of the odds at cosines from −pigCos to pigCos, evenly spaced
}

// The odds' logarithms are read from a table of pigSteps intervals, straight between its entries: off by 3e-4 at most. Beyond pigCos, where few keys are, they bend too much.
const (
	pigCos   = 0.9
	pigSteps = 2048
)

// NewState implements Stateful.
func (s magicpig) NewState(sh Shape) State {
	logs := make([]float32, pigSteps+1)
	for i := range logs {
		logs[i] = float32(-math.Log(s.odds(pigCos * (2*float64(i)/pigSteps - 1))))
	}
	return pigState{newLearnt[pigHash, uint64](fmt.Sprint("magicpig ", s), sh), logs}
}

// rarity is −ln of the odds of a key at this cosine.
func (p pigState) rarity(s magicpig, cos float32) float32 {
	x := (cos + pigCos) * (pigSteps / (2 * pigCos))
	if !(x >= 0 && x < pigSteps) { // NaN too
		return float32(-math.Log(s.odds(float64(cos))))
	}
	i := int(x)
	return p.logs[i] + (x-float32(i))*(p.logs[i+1]-p.logs[i])
}

// Fork implements State.
func (s pigState) Fork() State {
	return pigState{s.learnt.Fork().(*learnt[pigHash, uint64]), s.logs}
}

// learn takes the mean of the first n tokens' keys between sink and window, or of all where there are none.
func (s magicpig) learn(w *Work, n int) *pigHash {
	dim := w.Head.Dim
	h := &pigHash{mean: make([]float32, dim), planes: pigPlanesOf(s.bits*s.tables, dim), above: make([]float32, s.bits*s.tables)}
	lo, hi := s.sink, n-s.window
	if lo >= hi {
		lo, hi = 0, n
	}
	for t := lo; t < hi; t++ {
		for c, x := range w.key(t) {
			h.mean[c] += tensor.F16ToF32(x)
		}
	}
	for c := range h.mean {
		h.mean[c] /= float32(hi - lo)
	}
	s.project(w, h, h.above, h.mean, 1)
	for i, x := range h.above {
		h.above[i] = math.Nextafter32(x, float32(math.Inf(1)))
	}
	return h
}

// project sets dst[i·bits·tables:] to the products of vector i with the hyperplanes.
func (s magicpig) project(w *Work, h *pigHash, dst, vectors []float32, n int) {
	all, dim := s.bits*s.tables, w.Head.Dim
	for at := 0; at < all; at += BlockTokens {
		w.Kern.Dot(dst[at:], all, vectors, n, dim, h.planes.rows[at*dim:], consecutive[:min(BlockTokens, all-at)], nil)
	}
}

// encode writes the signatures and norms of tokens [from,to) of a block: [bits·tables][words], then the norms, [BlockTokens] as fp32 bits.
func (s magicpig) encode(w *Work, h *pigHash, codes []uint64, block, from, to int) {
	const batch = 8
	all, dim := s.bits*s.tables, w.Head.Dim
	first, pages := from/PageTokens, (to+PageTokens-1)/PageTokens-from/PageTokens
	n := pages * PageTokens
	var masks [BlockPages]uint16
	products := w.Scratch(batch * n) // of tokens beyond [from,to) there are none, and their bits are left as they are
	for at := 0; at < all; at += batch {
		m := min(batch, all-at)
		w.Kern.Dot(products[from%PageTokens:], n, h.planes.queries[at*dim:], m, dim, w.Head.Keys(block), consecutive[from:to], nil)
		for i := range m {
			w.Kern.Lanes(masks[:pages], products[i*n:][:n], h.above[at+i])
			signature := codes[(at+i)*words:][:words]
			for p, mask := range masks[:pages] {
				page := first + p
				new, shift := laneMask(to-page*PageTokens)&^laneMask(from-page*PageTokens), page%4*PageTokens
				signature[page/4] = signature[page/4]&^(uint64(new)<<shift) | uint64(mask&new)<<shift
			}
		}
	}
	key := w.Scratch(dim)
	for t := from; t < to; t++ {
		tensor.F16sToF32s(key, w.Head.Keys(block)[t*dim:][:dim])
		norm := float32(0)
		for c, x := range key {
			norm += (x - h.mean[c]) * (x - h.mean[c])
		}
		codes[all*words+t] = uint64(math.Float32bits(float32(math.Sqrt(float64(norm)))))
	}
}

// Choose implements Selector.
func (s magicpig) Choose(w *Work) {
	all, n, dim := s.bits*s.tables, w.Head.N, w.Head.Dim
	state := w.State().(pigState)
	h := state.head(w, all*words+BlockTokens, s.learn, s.encode)
	lo := min(s.sink, n)
	hi := max(lo, n-s.window, 0)
	// the newest page is attended to whatever is drawn, so nothing of it counts for others
	hi = max(lo, min(hi, (n-1)/PageTokens*PageTokens))
	w.ReadBytes((n + 63) / 64 * 8 * all)
	rows := w.Ints(2 * BlockTokens)
	scratch := w.Scratch(w.Group*all + BlockTokens)
	products, logits := scratch[:w.Group*all], scratch[w.Group*all:]
	s.project(w, h.params, products, w.Q, w.Group)
	bits := w.longs(w.Group * (all + words))
	signs, drawn := bits[:w.Group*all], bits[w.Group*all:]
	for i, x := range products {
		signs[i] = notPositive(x)
	}
	var shift, norm [MaxGroup]float32
	for g := range w.Group {
		w.Propose(g, 0, lo)
		w.Propose(g, hi, n)
		q := w.Q[g*dim:][:dim]
		shift[g], norm[g] = dot(q, h.params.mean), float32(math.Sqrt(float64(dot(q, q))))
	}
	for b := lo / BlockTokens; b*BlockTokens < hi; b++ {
		codes, first := h.blocks[b].codes, b*BlockTokens
		w.Kern.Agree(drawn, codes, signs, w.Group, s.bits, s.tables)
		for g := range w.Group {
			m := w.proposeDrawn(g, b, lo, hi, drawn[g*words:][:words], rows)
			for i, t := range rows[:m] {
				rows[BlockTokens+i] = w.Head.Row(first + int(t))
			}
			w.Kern.Dot(logits, BlockTokens, w.Q[g*dim:][:dim], 1, dim, w.Head.K, rows[BlockTokens:][:m], nil)
			w.ReadBytes(m * (2*dim + 4))
			for i, t := range rows[:m] {
				long := math.Float32frombits(uint32(codes[all*words+int(t)]))
				w.rarity(g, first+int(t), state.rarity(s, (logits[i]-shift[g])/(norm[g]*long)))
			}
		}
	}
}

// notPositive is all ones for a product that gives the bit 0, NaN among them, and 0 for the others.
func notPositive(x float32) uint64 {
	b := int64(int32(math.Float32bits(x)))
	return ^uint64(-b>>63) | uint64((0x7f800000-b)>>63)
}

// proposeDrawn proposes the drawn tokens of block b within [lo,hi), lists them by their number in the block, and returns how many they are.
func (w *Work) proposeDrawn(g, b, lo, hi int, drawn []uint64, at []int32) (n int) {
	for p := range BlockPages {
		first := b*BlockTokens + p*PageTokens
		m := uint16(drawn[p/4]>>(p%4*PageTokens)) & laneMask(hi-first) &^ laneMask(lo-first)
		w.ProposeLanes(g, b*BlockPages+p, m)
		for ; m != 0; m &= m - 1 {
			at[n] = int32(p*PageTokens + bits.TrailingZeros16(m))
			n++
		}
	}
	return n
}

// odds is the probability that a key at this cosine to the query is drawn. A key that is no direction, or damaged, counts as if drawn surely.
func (s magicpig) odds(cos float64) float64 {
	if math.IsNaN(cos) {
		return 1
	}
	agree := math.Pow(1-math.Acos(min(max(cos, -1), 1))/math.Pi, float64(s.bits))
	if agree >= 1 {
		return 1
	}
	rest := float64(s.tables - 1)
	return max(-math.Expm1(rest*math.Log1p(-agree)+math.Log1p(rest*agree)), math.SmallestNonzeroFloat32)
}
