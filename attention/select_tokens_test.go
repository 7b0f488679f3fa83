package attention

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func init() {
	arguments["oracle-k"] = []string{"", "k=40", "keep=0", "k=100000"}
	arguments["oracle-p"] = []string{"", "0", "0.5", "1"}
	arguments["sparq"] = []string{"", "keep=0.1,channels=5", "budget=60,channels=200"}
	arguments["double-sparsity"] = []string{"", "keep=0.1,channels=12", "budget=60,channels-file=" + testCalibration}
	arguments["tidal"] = []string{"", "budget=60,select=0", "keep=0.1,anchors-file=" + testCalibration}
	arguments["h2o"] = []string{"", "budget=50,observe=0", "keep=0.1,recent=0,observe=5"}
	arguments["snapkv"] = []string{"", "budget=60,window=5,kernel=1", "keep=0.1,pool=mean,kernel=4"}
	arguments["threshold"] = []string{"", "0", "0.3", "1"}
}

// testCalibration is made up: one layer with three KV heads of 32 channels.
var testCalibration = filepath.Join("testdata", "calibration.json")

// chosen runs a selector over one text of 700 tokens and returns the finished step.
func chosen(t *testing.T, spec string) (*batch, *Work) {
	t.Helper()
	b := newBatch(shape{3, 32, []int{700}})
	x := NewExec(Portable{}, Serial{})
	runAll(t, x, b.calls(1, MustNew(spec+"+when:dense-layers=0,min-context=0"), func(int) *Stats { return nil }))
	return b, x.works[0]
}

// byFallingScore is the tokens by score, the best first.
func byFallingScore(s []float64) []int {
	at := make([]int, len(s))
	for i := range at {
		at[i] = i
	}
	slices.SortStableFunc(at, func(a, b int) int {
		if s[a] > s[b] {
			return -1
		} else if s[a] < s[b] {
			return 1
		}
		return 0
	})
	return at
}

// requireBest fails unless head g attends to the newest page and exactly the want tokens of largest score, those whose score is within slack of the line aside.
func requireBest(t *testing.T, w *Work, g int, score []float64, want int, slack float64) {
	t.Helper()
	in, line := w.attended(g), score[byFallingScore(score)[want-1]]
	for i := range w.Head.N / PageTokens * PageTokens { // the last page is the newest
		if (score[i] > line+slack) && !in[i] || (score[i] < line-slack) && in[i] {
			t.Fatalf("head %d: token %d has score %v, the %d-th best %v, attended: %v", g, i, score[i], want, line, in[i])
		}
	}
}

func TestOracle(t *testing.T) {
	b, w := chosen(t, "oracle-k:k=50")
	for g := range b.group {
		requireBest(t, w, g, b.heads[0][g].s, 50, 1e-5)
	}
	b, w = chosen(t, "oracle-p:0.8")
	for g := range b.group {
		h, mass, want := b.heads[0][g], 0.0, 0
		for _, i := range byFallingScore(h.s) {
			if want++; mass+math.Exp(h.s[i]-h.lse) >= 0.8 {
				break
			}
			mass += math.Exp(h.s[i] - h.lse)
		}
		requireBest(t, w, g, h.s, want, 1e-4)
	}
}

// SparQ by its definition: partial logits, and the mass that it says it holds.
func TestSparq(t *testing.T) {
	const r = 6
	b, w := chosen(t, "sparq:budget=50,channels=6")
	for g := range b.group {
		q := make([]float64, b.dim)
		for c := range q {
			q[c] = math.Abs(float64(b.q[0][g*b.dim+c]))
		}
		channels := byFallingScore(q)
		var some, all float64
		for i, c := range channels {
			if all += q[c]; i < r {
				some += q[c]
			}
		}
		score, total, held := make([]float64, b.texts[0].n), 0.0, 0.0
		for i, k := range b.texts[0].k {
			for _, c := range channels[:r] {
				score[i] += float64(b.q[0][g*b.dim+c]) * k[c]
			}
		}
		requireBest(t, w, g, score, 50, 1e-4)
		for i, in := range w.attended(g) {
			e := math.Exp(score[i] * math.Sqrt(all/some))
			if total += e; in {
				held += e
			}
		}
		if got := float64(w.count.held[g]); math.Abs(got-held/total) > 1e-3 {
			t.Errorf("head %d: the kept are said to hold %v, want %v", g, got, held/total)
		}
	}
}

// Labels estimate what their channels contribute, and where blocks choose them the mean of the others, as finely as four bits are.
func TestDoubleSparsity(t *testing.T) {
	for _, spec := range []string{"double-sparsity:channels=12", "double-sparsity:channels=12,channels-file=" + testCalibration} {
		b, w := chosen(t, spec)
		s := w.selector().Selector.(doubleSparsity)
		x := b.texts[0]
		for g := range b.group {
			q := b.q[0][g*b.dim:][:b.dim]
			for blk := range w.Head.Blocks() {
				fixed, last := s.labels.calibrated(0, 0), min((blk+1)*BlockTokens, x.n)
				exact := fixed == nil && last-blk*BlockTokens < BlockTokens
				labelled := make([]bool, b.dim)
				for i := range 12 {
					labelled[s.labels.channel(w.SelectorPlane(0, blk), b.dim, fixed, i)] = true
				}
				for i := blk * BlockTokens; i < last; i++ {
					var want, slack float64
					lo, hi := math.Inf(1), math.Inf(-1)
					for c, k := range x.k[i] {
						switch {
						case labelled[c] || exact:
							want += float64(q[c]) * k
							slack += math.Abs(float64(q[c]))
							lo, hi = min(lo, k), max(hi, k)
						case fixed == nil:
							for j := blk * BlockTokens; j < last; j++ {
								want += float64(q[c]) * x.k[j][c] / BlockTokens
							}
						}
					}
					slack *= (hi - lo) / 15 * 0.52 // half a step, and fp16 of the scale
					if got := float64(w.ScoreSlice(g)[i]); !(math.Abs(got-want) <= slack+1e-2) {
						t.Fatalf("%s: head %d token %d: score %v, want %v within %v", spec, g, i, got, want, slack)
					}
				}
			}
		}
	}
}

// Blocks choose the channels in which their keys are largest.
func TestLabelsDecide(t *testing.T) {
	const dim = 32
	x := newText(rand.New(rand.NewPCG(4, 4)), BlockTokens, dim)
	size := make([]float64, dim)
	for _, k := range x.k {
		for c, y := range k {
			size[c] += math.Abs(y)
		}
	}
	want := byFallingScore(size)[:5]
	slices.Sort(want)
	p := Labels{Count: 5}
	block := aligned(p.BlockBytes(dim))
	p.Append(block, Rows{K: x.kh, Dim: dim, To: BlockTokens})
	for i, c := range want {
		if got := p.channel(block, dim, nil, i); got != c {
			t.Errorf("channel %d is %d, want those of largest Σ|k|, %v", i, got, want)
		}
	}
}

func TestInt8Definition(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for _, dim := range []int{2, 20, 32, 128} {
		x := newText(rng, BlockTokens, dim)
		q := x.queries(rng, 3)
		block := aligned(Int8{}.BlockBytes(dim))
		Int8{}.Append(block, Rows{K: x.kh, Dim: dim, To: x.n})
		got := make([]float32, 3*3*PageTokens)
		tokenDot(got, 3*PageTokens, q, 3, dim, 8, block, 1<<2|1<<7|1<<15)
		for g := range 3 {
			s := x.logits(q[g*dim:][:dim])
			for j, page := range []int{2, 7, 15} {
				for i := range PageTokens {
					k := x.k[page*PageTokens+i]
					step, size := (slices.Max(k)-slices.Min(k))/255, 0.0
					for _, y := range q[g*dim:][:dim] {
						size += math.Abs(float64(y))
					}
					want := s[page*PageTokens+i]
					// half a step, and the scale in fp16, 255 times; below its normal numbers, 2^-25 each time
					if d := math.Abs(float64(got[g*3*PageTokens+j*PageTokens+i]) - want); d > size*(step*(0.5+255.0/2048)+255.0/(1<<25))+1e-5 {
						t.Fatalf("dim %d, page %d, token %d: logit is off by %v, with steps of %v", dim, page, i, d, step)
					}
				}
			}
		}
	}
}

func TestThreshold(t *testing.T) {
	b, w := chosen(t, "full+exact+threshold:0.2")
	for g := range b.group {
		s, in := b.heads[0][g].s, w.attended(g)
		line := slices.Max(s) + math.Log(0.2)
		for i := range b.n[0] / PageTokens * PageTokens {
			if math.Abs(s[i]-line) > 1e-4 && in[i] != (s[i] > line) {
				t.Fatalf("head %d: token %d, %v from the line, is kept: %v", g, i, s[i]-line, in[i])
			}
		}
	}
}

func TestCalibrationErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"layers": 1`, "unexpected end of JSON input"},
		{`{"layers": 2, "channels": [[]]}`, "it lists channels of 1 layers, expected 2"},
		{`{"layers": 1, "kv_heads": 2, "channels": [[[0]]]}`, "layer 0 has channels of 1 heads, expected 2"},
		{`{"layers": 1, "kv_heads": 1, "dim": 3, "channels": [[[0, 1]]]}`, "layer 0, head 0 has 2 channels, expected 3"},
		{`{"layers": 1, "kv_heads": 1, "dim": 2, "channels": [[[0, 2]]]}`, "layer 0, head 0: channels [0 2] are not those from 0 to 1, each once"},
		{`{"layers": 3, "anchors": [1, 1]}`, "anchors [1 1]: expected rising layers from 0 to 2"},
		{`{"layers": 3, "anchors": [3]}`, "anchors [3]: expected rising layers from 0 to 2"},
	} {
		if _, err := parseCalibration([]byte(c.text)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
	for _, spec := range []string{"double-sparsity:channels-file=" + testCalibration, "tidal:anchors-file=" + testCalibration} {
		p := MustNew(spec)
		if err := p.Fits(Shape{Layers: 1, KVHeads: 3, Dim: 32}); err != nil {
			t.Error(err)
		}
		want := "calibration " + testCalibration + " is of 1 layers with 3 KV heads of 32 channels, the model has 2 with 3 of 32"
		if err := p.Fits(Shape{Layers: 2, KVHeads: 3, Dim: 32}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for _, spec := range []string{"double-sparsity:channels-file=nowhere", "tidal:anchors-file=nowhere", "tidal:select=2/x", "tidal:select=1,anchors-file=" + testCalibration, "snapkv:pool=min"} {
		if _, err := Parse(spec); err == nil {
			t.Errorf("%s went through", spec)
		}
	}
}

// What the table says of costs is what planes and steps have.
func TestMethodCosts(t *testing.T) {
	want := map[string][4]float64{ // stored and read bytes a token, at 64 and at 128 channels
		"quest": {16, 32, 16, 32}, "sparq": {128, 256, 32, 64}, "oracle-k": {0, 0, 128, 256}, "int4": {36, 68, 36, 68}, "int8": {68, 132, 68, 132},
		"page-range": {48, 96, 48, 96}, "exact": {0, 0, 128, 256}, "top-p": {}, "full": {}, "pqcache": {2, 2, 2, 2}, "magicpig": {195.5, 195.5, 187.5, 187.5},
		"hip": {0, 0, 12, 24},
	}
	for _, m := range Methods() {
		got := [4]float64{m.Stores[0], m.Stores[1], m.Reads[0], m.Reads[1]}
		if w, ok := want[m.Name]; ok && got != w {
			t.Errorf("%s: %v, want %v", m.Name, got, w)
		}
		delete(want, m.Name)
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}
