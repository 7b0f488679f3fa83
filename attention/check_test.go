package attention

import (
	"math"
	"math/bits"
	"slices"
	"strings"
	"testing"
)

// What holds of every finished step of the matrix, whatever the pipeline.

// attended is the tokens that query head g attends to, read from the masks.
func (w *Work) attended(g int) []bool {
	in, n := make([]bool, w.Head.N), len(w.Pages)
	for h := range w.Group {
		if h != g && !w.call.Pipeline.spec.Union {
			continue
		}
		for j, p := range w.Pages {
			for m := w.keep[h*n+j]; m != 0; m &= m - 1 {
				in[int(p)*PageTokens+bits.TrailingZeros16(m)] = true
			}
		}
	}
	return in
}

// checkWork holds a finished step against the definitions and returns the true mass of what each query head attended to.
func checkWork(t *testing.T, name string, w *Work, x *text, heads []denseHead) (mass []float64) {
	t.Helper()
	n, last := len(w.Pages), (x.n-1)/PageTokens
	if !slices.IsSorted(w.Pages) || int(w.Pages[n-1]) != last {
		t.Fatalf("%s: candidate pages %v; expected ascending, up to the newest, %d", name, w.Pages, last)
	}
	read := make([]bool, x.n)
	for g := range w.Group {
		in := w.attended(g)
		for i, y := range in {
			read[i] = read[i] || y
		}
		for j, p := range w.Pages {
			keep, cand := w.keep[g*n+j], w.cand[g*n+j]
			if keep&^cand != 0 {
				t.Fatalf("%s: head %d keeps %016b of page %d, its candidates are %016b", name, g, keep, p, cand)
			}
			if beyond := ^laneMask(x.n - int(p)*PageTokens); cand&beyond != 0 {
				t.Fatalf("%s: head %d: candidates %016b of page %d lie beyond the text", name, g, cand, p)
			}
		}
		if got, want := w.keep[g*n+n-1], laneMask(x.n-last*PageTokens); got != want {
			t.Fatalf("%s: head %d keeps %016b of the newest page, want all, %016b", name, g, got, want)
		}
		_, lse := x.attend(heads[g].s, in)
		mass = append(mass, math.Exp(lse-heads[g].lse))
		if w.call.Pipeline.spec.Exact > 0 {
			checkPruned(t, name, w, g, in)
			want := w.expectedByWeight(t, name, x, heads[g].s, g)
			if d := distance(w.call.Out[g*x.dim:][:x.dim], want); !(d < 1e-4*(1+norm(want))) {
				t.Fatalf("%s: head %d: output is off by %v from precision by weight", name, g, d)
			}
			continue
		}
		want := w.expected(x, heads[g].s, g, in)
		held := float64(w.count.held[g])
		if w.call.Pipeline.prun != nil {
			held = checkPruned(t, name, w, g, in)
		}
		if w.call.Pipeline.tail {
			for c := range want {
				mean := 0.0
				for _, v := range x.v {
					mean += v[c] / float64(x.n)
				}
				want[c] = held*want[c] + (1-held)*mean
			}
		}
		if d := distance(w.call.Out[g*x.dim:][:x.dim], want); !(d < 1e-4) {
			t.Fatalf("%s: head %d: output is off by %v from attention over its %d survivors", name, g, d, w.count.b1[g])
		}
	}
	// the flattened survivors are the union, in order, at their rows
	var rows []int32
	for i, y := range read {
		if y {
			rows = append(rows, w.Head.Row(i))
		}
	}
	if !slices.Equal(rows, w.rows) {
		t.Fatalf("%s: %d rows are read, want the %d of the union of the survivors", name, len(w.rows), len(rows))
	}
	return mass
}

// expected is attention over the tokens of in at their odds, and over what query head g knows by summaries.
func (w *Work) expected(x *text, logits []float64, g int, in []bool) []float64 {
	logits = slices.Clone(logits)
	for i := range w.odds[:min(len(w.odds), x.n)] {
		logits[i] += float64(w.odds[g*x.n+i])
	}
	out, lse := x.attend(logits, in)
	if !w.hasFar || w.far[g].sum == 0 {
		return out
	}
	near := 1 / (1 + float64(w.far[g].sum)*math.Exp(float64(w.far[g].top)-lse))
	for c := range out {
		out[c] = near*out[c] + (1-near)*float64(w.farAcc[g*x.dim+c])/float64(w.far[g].sum)
	}
	return out
}

// expectedByWeight is attention by exact logits and values over the heavy survivors, by estimated logits and coded values over the body, and by the mean value over the rest.
func (w *Work) expectedByWeight(t *testing.T, name string, x *text, exact []float64, g int) []float64 {
	n, spec := len(w.Pages), w.call.Pipeline.spec
	sum, held, all, out := 0.0, 0.0, 0.0, make([]float64, x.dim)
	top := math.Inf(-1)
	for _, y := range exact {
		top = max(top, y, float64(w.top[g]))
	}
	if w.hasFar {
		top = max(top, float64(w.far[g].top))
	}
	add := func(weight float64, v func(c int) float64) {
		sum += weight
		for c := range out {
			out[c] += weight * v(c)
		}
	}
	for j, p := range w.Pages {
		for i, y := range w.Logits(g)[j*PageTokens:][:PageTokens] {
			all += float64(y)
			token, keep, heavy := int(p)*PageTokens+i, false, false
			for h := range w.Group {
				if h == g || spec.Union {
					keep = keep || w.keep[h*n+j]>>i&1 != 0
					heavy = heavy || w.heavy[h*n+j]>>i&1 != 0
				}
			}
			weight := float64(y) * math.Exp(float64(w.top[g])-top)
			switch {
			case heavy:
				add(math.Exp(exact[token]-top), func(c int) float64 { return x.v[token][c] })
				held += float64(y)
			case keep:
				largest := 0.0
				for _, v := range x.v[token] {
					largest = max(largest, math.Abs(v))
				}
				step := float64(float32(largest) / 127)
				if err := w.codeError(x, token, step); err > 0.51*step {
					t.Fatalf("%s: token %d: its value codes are off by %v, their step is %v", name, token, err, step)
				}
				add(weight, func(c int) float64 { return w.coded(x, token, c) })
				held += float64(y)
			}
		}
	}
	if own := w.massOf(w.heavy, g); own < (spec.Exact-1e-5)*all && own < w.massOf(w.keep, g)-1e-5*all {
		t.Fatalf("%s: head %d reads %v of the estimated mass exactly, want %v", name, g, own/all, spec.Exact)
	}
	if summarised := strings.Contains(spec.String(), "double-p"); w.hasFar && (summarised || !spec.Tail) { // the tail is then among the summaries
		for c := range out {
			out[c] += float64(w.farAcc[g*x.dim+c]) * math.Exp(float64(w.far[g].top)-top)
		}
		sum += float64(w.far[g].sum) * math.Exp(float64(w.far[g].top)-top)
	} else if spec.Tail {
		add((all-held)*math.Exp(float64(w.top[g])-top), func(c int) (mean float64) {
			for _, v := range x.v {
				mean += v[c] / float64(x.n)
			}
			return mean
		})
	}
	for c := range out {
		out[c] /= sum
	}
	return out
}

// massOf is the estimated mass of query head g in masks.
func (w *Work) massOf(masks []uint16, g int) (sum float64) {
	for j, m := range masks[g*len(w.Pages):][:len(w.Pages)] {
		for ; m != 0; m &= m - 1 {
			sum += float64(w.Logits(g)[j*PageTokens+bits.TrailingZeros16(m)])
		}
	}
	return sum
}

// coded is a token's value as its codes have it.
func (w *Work) coded(x *text, token, c int) float64 {
	row := int(w.Head.Row(token))
	return float64(as[float32](w.Head.Planes[w.bind.scales])[row]) * float64(int8(w.Head.Planes[w.bind.values][row*x.dim+c]))
}

func (w *Work) codeError(x *text, token int, step float64) (worst float64) {
	for c, v := range x.v[token] {
		worst = max(worst, math.Abs(v-w.coded(x, token, c)))
	}
	return worst
}

func norm(x []float64) (sum float64) {
	for _, v := range x {
		sum += v * v
	}
	return math.Sqrt(sum)
}

// checkPruned holds a pruner against what it promises of the estimated logits, and returns the estimated mass of what is attended.
func checkPruned(t *testing.T, name string, w *Work, g int, in []bool) (held float64) {
	t.Helper()
	n, spec := len(w.Pages), w.call.Pipeline.spec
	var all, own float64
	for j, p := range w.Pages {
		for i, x := range w.Logits(g)[j*PageTokens:][:PageTokens] {
			if w.cand[g*n+j]>>i&1 == 0 && x != 0 {
				t.Fatalf("%s: head %d: page %d lane %d is no candidate and weighs %v", name, g, p, i, x)
			}
			all += float64(x)
			if w.keep[g*n+j]>>i&1 != 0 {
				own += float64(x)
			}
			if at := int(p)*PageTokens + i; at < len(in) && in[at] {
				held += float64(x)
			}
		}
	}
	switch a := newArgs(spec.Prune); spec.Prune.Name {
	case "top-p":
		if p := a.Float("p", 0.9, 0, 1, ""); own < (p-1e-5)*all {
			t.Fatalf("%s: head %d keeps %v of the estimated mass, want at least %v", name, g, own/all, p)
		}
	case "top-k":
		newest := bits.OnesCount16(w.cand[g*n+n-1])
		k := a.Int("k", 0, 0, 1<<30, "")
		if k > 0 && (w.count.b1[g] < min(k, w.count.b0[g]) || w.count.b1[g] > k+newest) {
			t.Fatalf("%s: head %d keeps %d tokens of %d, want %d and the newest page", name, g, w.count.b1[g], w.count.b0[g], k)
		}
	}
	return held / all
}

func checkStats(t *testing.T, name string, w *Work, s *Stats, heads []denseHead, mass []float64) {
	t.Helper()
	l, dim, n := s.Layers[0], w.Head.Dim, w.Head.N
	kv := l.KV[w.call.KVHead]
	var sum, most int64
	for g := range w.Group {
		h := l.Heads[w.call.KVHead*w.Group+g]
		if h.Steps != 1 || h.N != int64(n) || h.B1 < 1 || h.B1 > h.B0 || h.B0 > h.N || h.Measured != 1 {
			t.Fatalf("%s: head %d: statistics %+v", name, g, h)
		}
		in := 0
		for _, m := range w.keep[g*len(w.Pages):][:len(w.Pages)] {
			in += bits.OnesCount16(m)
		}
		if int(h.B1) != in {
			t.Fatalf("%s: head %d: %d survivors are counted, the masks hold %d", name, g, h.B1, in)
		}
		sum += h.B1
		most = max(most, h.B1)
		if math.Abs(h.Mass-mass[g]) > 2e-4 {
			t.Fatalf("%s: head %d: measured mass %v, want %v", name, g, h.Mass, mass[g])
		}
		var diff, norm float64
		for c, y := range heads[g].out {
			d := float64(w.call.Out[g*dim+c]) - y
			diff += d * d
			norm += y * y
		}
		if want := math.Sqrt(diff / norm); math.Abs(h.OutErr-want) > 1e-3*(1+want) {
			t.Fatalf("%s: head %d: measured output error %v, want %v", name, g, h.OutErr, want)
		}
	}
	if kv.Steps != 1 || kv.N != int64(n) || kv.Union+kv.Body < most || kv.Union > sum || kv.Body > sum || kv.Candidate < max(kv.Union, kv.Body) || kv.Candidate > kv.N {
		t.Fatalf("%s: statistics %+v with survivors of up to %d, %d in sum", name, kv, most, sum)
	}
	if kv.Bytes.Attend != kv.Union*int64(dim)*4+kv.Body*int64(dim+4) || kv.Bytes.Select < 0 || kv.Bytes.Estimate < 0 {
		t.Fatalf("%s: bytes %+v for %d rows of %d channels", name, kv.Bytes, kv.Union, dim)
	}
	sm := s.Summary(dim)
	if want := float64(sum) / float64(w.Group); sm.Kept != want || sm.Context != float64(n) || math.Abs(sm.Pruned-(1-want/float64(n))) > 1e-12 || sm.Union != float64(kv.Union) {
		t.Fatalf("%s: summary %+v, want %v kept of %d", name, sm, want, n)
	}
}
