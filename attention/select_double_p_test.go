package attention

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// Double-P attends to clusters as its definition says.
func TestDoublePDefinition(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(51, 51)), 800, decoderDim)
	q := x.queries(rand.New(rand.NewPCG(52, 52)), decoderGroup)
	for _, c := range []struct {
		spec      string
		p, refine float64
	}{{"double-p:size=16,p=1,refine=0", 1, 0}, {"double-p:size=16,p=0.97,refine=0.9", 0.97, 0.9}, {"double-p:size=16,p=0.6,refine=0.6", 0.6, 0.6}} {
		d := newDecoder(MustNew(c.spec+"+when:dense-layers=0,min-context=0"), q)
		d.fill(x.kh, x.vh, x.n)
		got := d.step(t)
		for g := range decoderGroup {
			want := doublePByDefinition(&d.head, x, q[g*decoderDim:][:decoderDim], c.p, c.refine)
			if far := distance(got[g*decoderDim:][:decoderDim], want); !(far < 2e-2) /* centroids and means are fp16 */ {
				t.Errorf("%s: head %d is off by %v", c.spec, g, far)
			}
		}
	}
}

// doublePByDefinition computes Double-P's output in float64 from the clusters' members alone.
func doublePByDefinition(h *Head, x *text, q []float32, p, refine float64) []float64 {
	type cluster struct {
		tokens      []int
		logit       float64 // of the whole
		mean        []float64
		read, valid bool
	}
	s := x.logits(q)
	plane, full := Clusters{16}, (x.n-1)/BlockTokens
	var all []cluster
	for b := range full {
		_, _, members := plane.views(h.Plane(0, b), decoderDim)
		for i := range plane.Count() {
			c := cluster{mean: make([]float64, decoderDim)}
			for t := range BlockTokens {
				if members[i*BlockPages+t/PageTokens]>>(t%PageTokens)&1 != 0 {
					c.tokens = append(c.tokens, b*BlockTokens+t)
				}
			}
			n := float64(len(c.tokens))
			for _, t := range c.tokens { // the mean of the logits is the logit of the mean
				c.logit += s[t] / n
				for j, y := range x.v[t] {
					c.mean[j] += y / n
				}
			}
			if c.logit += math.Log(n); len(c.tokens) > 0 {
				all = append(all, c)
			}
		}
	}
	var own, total float64
	for t := full * BlockTokens; t < x.n; t++ {
		own += math.Exp(s[t])
	}
	total = own
	for _, c := range all {
		total += math.Exp(c.logit)
	}
	grow := func(mass float64, mark func(*cluster)) {
		held := own
		for held < mass*total {
			best := -1
			for i, c := range all {
				fresh := c
				mark(&fresh)
				if (fresh.read != c.read || fresh.valid != c.valid) && (best < 0 || c.logit > all[best].logit) {
					best = i
				}
			}
			if best < 0 {
				break
			}
			mark(&all[best])
			held += math.Exp(all[best].logit)
		}
	}
	grow(refine, func(c *cluster) { c.read = true })
	grow(p, func(c *cluster) { c.valid = true })
	out, sum := make([]float64, decoderDim), 0.0
	add := func(weight float64, v []float64) {
		sum += weight
		for j, y := range v {
			out[j] += weight * y
		}
	}
	for _, c := range all {
		switch {
		case c.read:
			for _, t := range c.tokens {
				add(math.Exp(s[t]), x.v[t])
			}
		case c.valid:
			add(math.Exp(c.logit), c.mean)
		}
	}
	for t := full * BlockTokens; t < x.n; t++ {
		add(math.Exp(s[t]), x.v[t])
	}
	for j := range out {
		out[j] /= sum
	}
	return out
}

// Every token of a full block is in one cluster, and a sink whose key is far from all others has its own.
func TestClusters(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(61, 61)), BlockTokens, decoderDim)
	for c := range decoderDim {
		x.kh[c] = tensor.F32ToF16(40)
	}
	for _, size := range []int{8, 16, 32, 64} {
		p := Clusters{size}
		block := aligned(p.BlockBytes(decoderDim))
		p.Append(block, Rows{K: x.kh, V: x.vh, Dim: decoderDim, To: BlockTokens - 1})
		_, _, members := p.views(block, decoderDim)
		for _, m := range members {
			if m != 0 {
				t.Fatalf("size %d: a block that is not full has clusters", size)
			}
		}
		p.Append(block, Rows{K: x.kh, V: x.vh, Dim: decoderDim, From: BlockTokens - 1, To: BlockTokens})
		var seen [BlockPages]uint16
		for c := range p.Count() {
			for i, m := range members[c*BlockPages:][:BlockPages] {
				if seen[i]&m != 0 {
					t.Fatalf("size %d: cluster %d holds tokens of another", size, c)
				}
				seen[i] |= m
			}
		}
		for i, m := range seen {
			if m != 0xffff {
				t.Fatalf("size %d: page %d: tokens %016b are in clusters", size, i, m)
			}
		}
		if clusterSize(members, 0) != 1 || members[0] != 1 {
			t.Errorf("size %d: the sink shares a cluster of %d", size, clusterSize(members, 0))
		}
	}
}
