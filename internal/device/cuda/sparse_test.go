package cuda

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cuda/driver"
)

var modes = map[string]Mode{
	"paper":             Paper(0.85),
	"paper_all_pages":   {Keep: 1, ExactMass: 0.95, Mass: 0.95, PerHead: true, TokenCodes: true},
	"union":             {Keep: 0.25, Reach: 0.75, ExactMass: 0.9, Mass: 0.9},
	"shared_pages":      {Pages: 100, Reach: 1, Shared: true, ExactMass: 0.9, Mass: 0.9, Tail: true},
	"twilight":          Twilight(0.9),
	"twilight_per_page": {Keep: 0.5, Reach: 0.5, ExactMass: 0.3, Mass: 0.95, Tail: true},
	"every_page":        {Keep: 1, ExactMass: 0.3, Mass: 0.9, Tail: true},
	"all":               {Keep: 1, Shared: true, ExactMass: 1, Mass: 1},
}

func TestSparseAgrees(t *testing.T) {
	d := gpu(t)
	for i, s := range shapes {
		for _, lens := range [][]int32{lengths, long} { // one thread block a unit or few, and clusters
			t.Run(fmt.Sprintf("%d_%d_%d", s.Dim, s.Group, len(lens)), func(t *testing.T) {
				withRig(t, d, s, lens, uint64(200+i), func(r *rig) {
					r.o.Readable = true
					for name, m := range modes {
						m.DenseBelow = 1
						out := r.run(m)
						if !quick && !slices.Equal(out, r.run(m)) {
							t.Errorf("%s: two runs differ", name)
						}
						r.compareSparse(name, out, m)
					}
				})
			})
		}
	}
}

func (r *rig) compareSparse(name string, out []float32, m Mode) {
	t, o := r.t, r.o
	stats, err := o.Stats(r.c, len(r.lens))
	r.must(err)
	cap, gp := o.stride*attention.BlockTokens, o.padded()
	type unit struct {
		exact, others []int32
		heads         []uint8
		logits        []int16
		pages         []uint8
		reference     []float32
	}
	units := make([]unit, len(r.heads))
	for u, h := range r.heads {
		x := &units[u]
		x.exact, x.others, x.heads, err = o.Survivors(r.c, u, h.n, len(r.lens))
		r.must(err)
		blocks := attention.BlocksOf(h.n)
		x.logits = inOrder(download[int16](r, o.p.logits+driver.Ptr(u*cap*gp*2), blocks*attention.BlockTokens*gp), blocks, o.ranks(len(r.lens)), attention.BlockTokens*gp)[:h.n*gp]
		x.pages, err = o.Candidates(r.c, u, h.n, len(r.lens))
		r.must(err)
		x.reference = download[float32](r, o.p.reference+driver.Ptr(u*maxGroup*4), maxGroup)
	}
	r.each(func(u, i int, h *refHead, q []float32) {
		x, g := &units[u], i%o.Group
		fail := func(format string, args ...any) {
			t.Errorf("%s: sequence of %d, head %d: "+format, append([]any{name, h.n, i}, args...)...)
		}
		newest := (h.n - 1) / attention.PageTokens
		// Candidate pages.
		marked := 0
		for p, who := range x.pages {
			if who>>g&1 != 0 && p != newest {
				marked++
			}
		}
		old := h.encodedPages
		if newest < old {
			old--
		}
		budget := m.Pages
		if share := int(m.Keep*float32(newest+1) + 0.5); share > budget {
			budget = share
		}
		if budget = min(budget, old); marked < budget || marked > budget+budget/4+8 {
			fail("%d candidate pages, expected %d", marked, budget)
		}
		if !m.Shared {
			worst, best := math.Inf(1), math.Inf(-1)
			slack := 0.0
			for p := range old {
				s, mag := h.bound(q, p, float64(m.Reach))
				slack = max(slack, mag*2e-3)
				if x.pages[p]>>g&1 != 0 {
					worst = min(worst, s)
				} else {
					best = max(best, s)
				}
			}
			if best > worst+slack {
				fail("a page of bound %g was left out and one of %g taken", best, worst)
			}
		}
		// Estimates, and the mass that survives.
		kept, all, rest, own := 0.0, 0.0, 0.0, 0
		in := make([]bool, h.n)
		add := func(t int32, mask uint8, group bool) {
			if int(t) >= h.n || in[t] && group {
				fail("survivor %d is listed twice or is no token", t)
				return
			}
			if mask>>g&1 != 0 {
				in[t] = true
			}
		}
		for k, t := range x.exact {
			add(t, x.heads[k], true)
		}
		for _, t := range x.others {
			add(t, 0xff, true)
		}
		for tok := range h.n {
			l := x.logits[tok*gp+g]
			if x.pages[tok/attention.PageTokens]>>g&1 == 0 {
				continue
			}
			want, mag := h.logit(q, tok), 0.0
			if tok/attention.PageTokens != newest {
				want, mag = h.estimate(q, tok, m.TokenCodes)
			}
			got := float64(x.reference[g]) - float64(l)/perOctave
			if math.Abs(got-want) > 0.01+mag*2e-3 && l < farthest && (l > 0 || want < got) { // beyond the window's ends nothing is told apart
				fail("token %d is estimated at %g, expected %g", tok, got, want)
				return
			}
			w := math.Exp2(-float64(l) / perOctave)
			if l >= farthest && !in[tok] {
				continue // beyond the window, where nothing weighs: the first page sets it, candidate or not
			}
			all += w
			if in[tok] {
				kept += w
				own++
			} else {
				rest += w
			}
		}
		if kept < all*float64(m.Mass)*(1-1e-5) {
			fail("the survivors hold %.4f of the estimated mass, expected %.4f", kept/all, m.Mass)
		}
		if m.Tail {
			rest *= meanShrink(h, q, x.pages)
		}
		st, held := stats[i], kept/(kept+rest)
		if math.Abs(float64(st.Held)-held) > 1e-2 || // the rest is counted by bins, 4 % wide; few tokens do not even out
			int(st.Exact) != len(x.exact) || int(st.Others) != len(x.others) {
			fail("statistics are %+v, expected %.4f held, %d exact, %d others", st, held, len(x.exact), len(x.others))
		}
		r.checkMinimal(m, h, x.logits, x.pages, g, gp, newest, int(st.Own), fail)
		// The output, given the survivors.
		var tokens []int32
		var logits []float64
		var exact []bool
		for k, t := range x.exact {
			if x.heads[k]>>g&1 != 0 {
				tokens, logits, exact = append(tokens, t), append(logits, h.logit(q, int(t))), append(exact, true)
			}
		}
		for _, t := range x.others {
			tokens, exact = append(tokens, t), append(exact, false)
			logits = append(logits, float64(x.reference[g])-float64(x.logits[int(t)*gp+g])/perOctave)
		}
		want := h.attend(tokens, logits, exact)
		if m.Tail {
			for c := range want {
				want[c] = float64(st.Held)*want[c] + (1-float64(st.Held))*h.sum[c]/float64(h.n)
			}
		}
		if e := apart(out[i*o.Dim:], want); !(e <= fp16Error) {
			fail("error %.2g with %d exact and %d other survivors", e, len(x.exact), len(x.others))
		}
	})
}

// meanShrink is the mean of shrink over the candidate pages but the newest.
func meanShrink(h *refHead, q []float32, pages []uint8) float64 {
	sum, n := 0.0, 0
	for p, who := range pages[:len(pages)-1] {
		if who != 0 {
			sum, n = sum+h.shrink(q, p*attention.PageTokens), n+1
		}
	}
	return sum / float64(max(n, 1))
}

// checkMinimal: a head's own survivors are hardly more than the fewest that hold the mass.
func (r *rig) checkMinimal(m Mode, h *refHead, logits []int16, pages []uint8, g, gp, newest, own int, fail func(string, ...any)) {
	var w []float64
	total := 0.0
	for tok := range h.n {
		if l := logits[tok*gp+g]; pages[tok/attention.PageTokens]>>g&1 != 0 && l != noLogit {
			w = append(w, math.Exp2(-float64(l)/perOctave))
			total += w[len(w)-1]
		}
	}
	slices.Sort(w)
	slices.Reverse(w)
	// What the histogram may cost: kept and rest are counted a bin apart, and the last bin is kept whole. Beyond the last bin nothing is told apart.
	edge := math.Exp2(1.0 / (perOctave >> binShift))
	p := float64(m.Mass)
	p = p * edge * edge / (p*edge*edge + 1 - p)
	need, sum := 0, 0.0
	for need < len(w) && sum < p*total {
		sum += w[need]
		need++
	}
	if need > 0 {
		for last := w[need-1] / edge / edge; need < len(w) && (w[need] >= last || m.Mass == 1); {
			need++
		}
	}
	if own > need+attention.PageTokens {
		fail("%d survivors, expected at most %d", own, need+attention.PageTokens)
	}
}

// TestManyUnits: with more units than multiprocessors each has one thread block in select.
func TestManyUnits(t *testing.T) {
	if quick {
		t.Skip("the emulator takes long for many units; TestPortable has one thread block a unit as well")
	}
	d := gpu(t)
	for _, dim := range []int{64, 128} {
		s := Shape{Dim: dim, KVHeads: d.Multiprocessor/len(lengths) + 1, Group: 2, TokenCodes: true}
		withRig(t, d, s, lengths, uint64(dim), func(r *rig) {
			if n := r.o.ranks(len(lengths)); n != 1 {
				t.Errorf("%d thread blocks a unit, expected 1", n)
			}
			for name, m := range modes {
				m.DenseBelow = 1
				r.compareSparse(name, r.run(m), m)
			}
		})
	}
}

// TestBlocksFirst: a unit with one thread block chooses among the pages of the blocks whose bounds are the largest.
func TestBlocksFirst(t *testing.T) {
	d := gpu(t)
	m := Mode{Keep: 0.1, Reach: 0.5, Shared: true, ExactMass: 0.3, Mass: 0.9, Tail: true, DenseBelow: 1}
	for _, s := range []Shape{{Dim: 64, KVHeads: 1, Group: 7}, {Dim: 128, KVHeads: 1, Group: 1}} {
		withRig(t, d, s, []int32{4321}, uint64(s.Dim), func(r *rig) {
			r.o.SelectRanks, r.o.SelectThreads = 1, 0
			r.compareSparse("blocks first", r.run(m), m)
			h := r.heads[0]
			pages, err := r.o.Candidates(r.c, 0, h.n, 1)
			r.must(err)
			newest, slack := (h.n-1)/attention.PageTokens, 0.0
			// distances is how far blocks, or the pages of some, lie below the best for the head to which they matter most.
			distances := func(n int, in func(i int) bool, bound func(q []float32, i int) (float64, float64)) []float64 {
				least := make([]float64, n)
				for i := range least {
					least[i] = math.Inf(1)
				}
				for _, q := range r.q {
					bounds, best := make([]float64, n), math.Inf(-1)
					for i := range n {
						if bounds[i] = math.Inf(-1); in(i) {
							b, magnitude := bound(q, i)
							bounds[i], slack, best = b, max(slack, magnitude*4e-3), max(best, b)
						}
					}
					for i, b := range bounds {
						least[i] = min(least[i], best-b)
					}
				}
				return least
			}
			blocks := distances(len(h.low)/s.Dim, func(int) bool { return true }, h.blockBound)
			sorted := slices.Sorted(slices.Values(blocks))
			looked := (3*int(m.Keep*float32(newest+1)+0.5)+attention.BlockPages-1)/attention.BlockPages + 1
			last := sorted[looked-1]
			in := func(page int) bool { return blocks[page/attention.BlockPages] <= last-slack-0.125 && page != newest }
			least := distances(h.encodedPages, in, func(q []float32, page int) (float64, float64) { return h.bound(q, page, float64(m.Reach)) })
			worst, best := 0.0, math.Inf(1)
			for page, who := range pages[:h.encodedPages] {
				if who != 0 && page != newest && blocks[page/attention.BlockPages] > last+slack+0.125 && page/attention.BlockPages != newest/attention.BlockPages {
					t.Errorf("page %d is a candidate, of a block at %g; expected none beyond %g", page, blocks[page/attention.BlockPages], last)
				}
				if who != 0 && in(page) {
					worst = max(worst, least[page])
				} else if in(page) {
					best = min(best, least[page])
				}
			}
			if best < worst-2*slack-0.5 { // a bin of pages is wide
				t.Errorf("a page at %g was left out and one at %g taken", best, worst)
			}
		})
	}
}

// TestPortable: the portable image does what the other does.
func TestPortable(t *testing.T) {
	d := gpu(t)
	useHopper = false
	defer func() { useHopper = true }()
	for _, dim := range []int{64, 128} {
		withRig(t, d, Shape{Dim: dim, KVHeads: 2, Group: 3, TokenCodes: true}, lengths, uint64(dim), func(r *rig) {
			r.comparePlanes()
			for name, m := range modes {
				m.DenseBelow = 1
				r.compareSparse(name, r.run(m), m)
			}
			out := r.run(Mode{Dense: true})
			r.each(func(u, i int, h *refHead, q []float32) {
				if e := apart(out[i*dim:], h.dense(q)); !(e <= fp16Error) {
					t.Errorf("dense: sequence of %d, head %d: error %.2g", h.n, i, e)
				}
			})
		})
	}
}
