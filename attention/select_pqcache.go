package attention

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/twilight-go/twilight/internal/tensor"
)

// pqcache is PQCache (arXiv 2407.12820): keys in product-quantised codes. A key is cut into parts; a part's code is the nearest of 2^bits centroids, trained by k-means on the
// sequence's own keys for each layer, KV head and part. A query's products with the centroids make a table, from which every token's logit is a sum of parts look-ups; the best
// tokens are proposed beside the sink and the latest tokens.
//
// Keeps a byte a token and part (at the paper's two parts of six bits, 2 bytes where fp16 keys of 64 channels are 128) and 2^bits fp32 vectors, in the sequence's memory, and reads
// all of it every step. The first decode step trains, once for all forks that start there: pqRounds·min(N, pqSample)·2^bits·dim multiplications a KV head, and as many as N·2^bits·dim to encode. The paper proposes a fifth
// of the tokens, half of them the latest, and ranks them once for the group by the sum of its heads' softmaxes. With heads of 64 channels, parts=8,recent=0.1 is the better choice by far.
type pqcache struct {
	noScan
	keep, recent float64
	parts, bits  int
	sink         int
	perHead      bool
}

const (
	pqRounds = 10   // of k-means
	pqSample = 4096 // tokens that it trains on, evenly spaced
)

func init() {
	RegisterSelector("pqcache", Info{Doc: "tokens by product-quantised keys and look-up tables", Paper: "2407.12820", New: func(a *Args) (any, error) {
		s := pqcache{
			keep:    a.Float("keep", 0.2, 0, 1, "share of the context that is proposed"),
			recent:  a.Float("recent", 0.5, 0, 1, "share of those that are the latest tokens"),
			parts:   a.Int("parts", 2, 1, 64, "parts of a key: 1, 2, 4 … 64, of which each dimension is a multiple"),
			bits:    a.Int("bits", 6, 1, 8, "bits a part"),
			sink:    a.Int("sink", 32, 0, 1<<24, "first tokens always kept"),
			perHead: a.Flag("per-head", "a list for each query head, not one for the group"),
		}
		if s.parts&(s.parts-1) != 0 {
			return nil, fmt.Errorf("parts=%d: expected a power of two", s.parts)
		}
		return s, nil
	}})
}

// pqBooks are a KV head's codebooks.
type pqBooks struct {
	centroids []float32 // [parts][dim/parts][count], so that a key meets all centroids of a part at once
	parts     []pqPart
	count     int
}

// pqPart is the centroids of one part of the keys as keys are compared with them.
type pqPart struct {
	centroids []uint16  // [dim/parts][count] fp16
	bias      []float32 // minus half their squared lengths
}

// entries is the size of a look-up table.
func (b *pqBooks) entries() int { return (b.count + LookUpTable - 1) / LookUpTable * LookUpTable }

// PerToken implements Coster: a byte a part. Codebooks do not grow with the text.
func (s pqcache) PerToken(dim int) (stores, reads float64) {
	n := float64(s.split(dim))
	return n, n
}

// Remembers implements Remembering: what is learnt does not depend on how much is proposed.
func (s pqcache) Remembers() string {
	return fmt.Sprintf("pqcache books of %d parts, %d bits, sink %d", s.parts, s.bits, s.sink)
}

// NewState implements Stateful.
func (s pqcache) NewState(sh Shape) State { return newLearnt[pqBooks, uint8](s.Remembers(), sh) }

// split is the number of parts for dim channels: fewer than asked for where these do not divide them.
func (s pqcache) split(dim int) int {
	n := s.parts
	for dim%n != 0 {
		n /= 2
	}
	return n
}

// learn trains the codebooks on the first n tokens, the sink aside where there are others.
func (s pqcache) learn(w *Work, n int) *pqBooks {
	dim, parts := w.Head.Dim, s.split(w.Head.Dim)
	first := min(s.sink, n-1)
	sample := min(n-first, pqSample)
	b := &pqBooks{count: min(1<<s.bits, sample), centroids: make([]float32, 0, dim<<s.bits)}
	sub := dim / parts
	keys := make([]float32, sample*dim)
	for i := range sample {
		tensor.F16sToF32s(keys[i*dim:][:dim], w.key(first+i*(n-first)/sample))
	}
	of := make([]uint8, sample)
	for p := range parts {
		part := newPart(sub, b.count)
		part.train(w, keys[p*sub:], dim, of)
		b.parts = append(b.parts, part)
		b.centroids = b.centroids[:(p+1)*sub*b.count]
		tensor.F16sToF32s(b.centroids[p*sub*b.count:], part.centroids)
	}
	return b
}

// key is the fp16 key of a token.
func (w *Work) key(t int) []uint16 { return w.Head.K[int(w.Head.Row(t))*w.Head.Dim:][:w.Head.Dim] }

func newPart(dim, count int) pqPart { return pqPart{make([]uint16, dim*count), make([]float32, count)} }

// set makes centroid i the vector v, rounded.
func (b *pqPart) set(i int, v []float32) {
	b.bias[i] = 0
	for j, x := range v {
		h := tensor.F32ToF16(x)
		x = tensor.F16ToF32(h)
		b.centroids[j*len(b.bias)+i] = h
		b.bias[i] -= x * x / 2
	}
}

// train is k-means from evenly spaced keys, key t at keys[t*stride:]; of is scratch, a key's cluster.
func (b *pqPart) train(w *Work, keys []float32, stride int, of []uint8) {
	count, n := len(b.bias), len(of)
	dim := len(b.centroids) / count
	for i := range count {
		b.set(i, keys[i*n/count*stride:][:dim])
	}
	sums, sizes := make([]float32, count*dim), make([]int, count)
	for range pqRounds {
		b.nearest(w.Kern, w.Scratch(nearestScratch(count)), of, keys, stride)
		clear(sums)
		clear(sizes)
		for t, i := range of {
			w.Kern.AddScaled(sums[int(i)*dim:][:dim], keys[t*stride:][:dim], 1)
			sizes[i]++
		}
		for i, size := range sizes {
			if size == 0 {
				continue // an empty cluster's centroid stays where it is
			}
			sum := sums[i*dim:][:dim]
			for j := range sum {
				sum[j] /= float32(size)
			}
			b.set(i, sum)
		}
	}
}

// meet adds to dst the products of x with all centroids of a part.
func meet(k Kernels, dst, x, centroids []float32) {
	for j, f := range x {
		k.AddScaled(dst, centroids[j*len(dst):][:len(dst)], f)
	}
}

// nearestBatch is how many keys are compared at once, nearestScratch what that takes for so many centroids.
const nearestBatch = 8

func nearestScratch(count int) int { return nearestBatch * count }

// nearest sets of[t] to the centroid nearest to key t, at keys[t*stride:]: that with the largest k·c − c·c/2, of equal ones the first.
func (b *pqPart) nearest(k Kernels, near []float32, of []uint8, keys []float32, stride int) {
	count := len(b.bias)
	for t := 0; t < len(of); t += nearestBatch {
		n := min(nearestBatch, len(of)-t)
		for i := range n {
			copy(near[i*count:], b.bias)
		}
		k.Accumulate(near, keys[t*stride:], stride, n, count, b.centroids, consecutive[:len(b.centroids)/count], nil)
		for i := range n {
			of[t+i] = uint8(firstLargest(k, near[i*count:][:count]))
		}
	}
}

// firstLargest is where the largest of at most 256 numbers first stands, 0 if all are damaged.
func firstLargest(k Kernels, x []float32) int {
	top := k.Max(x)
	if len(x)%PageTokens != 0 {
		return max(slices.Index(x, top), 0)
	}
	var masks [256 / PageTokens]uint16
	k.Lanes(masks[:len(x)/PageTokens], x, top)
	for p, m := range masks[:len(x)/PageTokens] {
		if m != 0 {
			return p*PageTokens + bits.TrailingZeros16(m)
		}
	}
	return 0
}

// encode writes the codes of tokens [from,to) of block b: [parts][BlockTokens].
func (s pqcache) encode(w *Work, b *pqBooks, codes []uint8, block, from, to int) {
	dim := w.Head.Dim
	const most = 32 // tokens at a time, so that scratch stays small
	keys, near := w.floats(most*dim), w.Scratch(nearestScratch(b.count))
	for ; from < to; from += most {
		n := min(most, to-from)
		tensor.F16sToF32s(keys[:n*dim], w.Head.Keys(block)[from*dim:][:n*dim])
		for p := range b.parts {
			b.parts[p].nearest(w.Kern, near, codes[p*BlockTokens+from:][:n], keys[p*dim/len(b.parts):n*dim], dim)
		}
	}
}

// Choose implements Selector.
func (s pqcache) Choose(w *Work) {
	parts := s.split(w.Head.Dim)
	h := w.State().(*learnt[pqBooks, uint8]).head(w, parts*BlockTokens, s.learn, s.encode)
	n := w.Head.N
	budget := int(s.keep * float64(n-min(s.sink, n)))
	lo := min(s.sink, n)
	hi := max(lo, n-int(float64(budget)*s.recent))
	for g := range w.Group {
		w.Propose(g, 0, lo)
		w.Propose(g, hi, n)
	}
	want := budget - (n - hi)
	rank := hi - lo
	if want < 1 || rank == 0 {
		return
	}
	table := parts * h.params.entries()
	all := w.Scratch(w.Group*rank + rank + table)
	scores, spare, table0 := all[:w.Group*rank], all[w.Group*rank:][:rank], all[(w.Group+1)*rank:]
	for g := range w.Group {
		s.look(w, h, g, lo, scores[g*rank:][:rank], table0)
	}
	w.ReadBytes(n*parts + len(h.params.centroids)*4)
	if !s.perHead {
		shareSoftmax(w.Kern, scores, rank, w.Group, spare)
		w.proposeBestTo(0, w.Group, lo, scores[:rank], want)
		return
	}
	for g := range w.Group {
		w.ProposeBest(g, lo, scores[g*rank:][:rank], want)
	}
}

// look sets the estimated logits of tokens from lo on.
func (s pqcache) look(w *Work, h *learntHead[pqBooks, uint8], g, lo int, score, table []float32) {
	parts := s.split(w.Head.Dim)
	count, entries, sub := h.params.count, h.params.entries(), w.Head.Dim/parts
	q := w.Q[g*w.Head.Dim:][:w.Head.Dim]
	for p := range parts {
		part := table[p*entries:][:entries]
		clear(part)
		meet(w.Kern, part[:count], q[p*sub:][:sub], h.params.centroids[p*sub*count:])
	}
	for i := 0; i < len(score); {
		t := lo + i
		from := t % BlockTokens
		m := min(BlockTokens-from, len(score)-i)
		codes, out := h.blocks[t/BlockTokens].codes, score[i:i+m]
		clear(out)
		for p := range parts {
			w.Kern.LookUp(out, codes[p*BlockTokens+from:][:m], table[p*entries:][:entries])
		}
		i += m
	}
}

// shareSoftmax leaves in the first head's scores the sum over the heads of their softmax.
func shareSoftmax(k Kernels, scores []float32, n, heads int, spare []float32) {
	sum := spare[:n]
	clear(sum)
	for g := range heads {
		score := scores[g*n:][:n]
		k.AddScaled(sum, score, 1/k.Exp(score, k.Max(score)))
	}
	copy(scores[:n], sum)
}
