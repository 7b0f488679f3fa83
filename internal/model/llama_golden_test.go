package model_test

import (
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/tokenizer"
)

// llamaGolden is NAME.json: what llama.cpp computes. Its activations are quantised to 8 bits, as the cpu device's are, so both differ from float32 and from each other.
type llamaGolden struct {
	Prompts []struct {
		Prompt string  `json:"prompt"`
		IDs    []int32 `json:"ids"`
		Steps  []struct {
			ID  int32        `json:"id"`
			Top [][2]float64 `json:"top"`
		} `json:"steps"`
	} `json:"prompts"`
	Perplexity struct {
		Bytes   int     `json:"bytes_from_start"`
		Tokens  int     `json:"tokens"`
		First   []int32 `json:"ids_first_32"`
		MeanNLL float64 `json:"mean_nll"`
	} `json:"perplexity"`
}

// catalogModels are all models with goldens of llama.cpp.
var catalogModels = append([]string{"gemma3-270m"}, floatModels...)

// nearTie is the largest gap between the log-probabilities of two tokens at which two correct implementations may choose differently: llama.cpp itself flips choices of the float32
// model at gaps up to 0.33.
const nearTie = 0.35

// perplexityLimit is how far a perplexity may be from llama.cpp's. Gemma's own is −0.73 % with 16-bit activations, where the models that have float32 goldens match them to
// a KL of 1e-6: there the gap is llama.cpp's rounding, and coming nearer would mean making its errors.
func perplexityLimit(name string) float64 {
	if name == "gemma3-270m" {
		return 0.008
	}
	return 0.005
}

func TestLlamaGolden(t *testing.T) {
	for _, dev := range []string{"cpu", "cuda"} {
		for _, name := range catalogModels {
			t.Run(dev+"/"+name, func(t *testing.T) {
				if testing.Short() {
					t.Skip("runs a real model")
				}
				llamaGoldens(t, openDevice(t, dev), name)
			})
		}
	}
}

func llamaGoldens(t *testing.T, dev device.Device, name string) {
	var golden llamaGolden
	readJSON(t, testenv.Shared(t, "golden", name+".json"), &golden)
	l, tok := load(t, dev, name, 512, 9), readTokenizer(t, name)
	same := 0
	for i, p := range golden.Prompts {
		ids := tok.Encode(p.Prompt, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if !slices.Equal(ids, p.IDs) {
			t.Fatalf("prompt %d: tokens %v; expected %v", i, ids, p.IDs)
		}
		got, _ := l.follow(t, p.IDs, nil, len(p.Steps))
		want := make([]int32, len(p.Steps))
		for j, s := range p.Steps {
			want[j] = s.ID
		}
		j := 0
		for j < len(want) && got[j] == want[j] {
			j++
		}
		if j == len(want) {
			same++
			continue
		}
		// What follows continues another text.
		gap := apart(p.Steps[j].Top, want[j], got[j])
		goldenRule(t, name, fmt.Sprintf("prompt %d, token %d", i, j), append(slices.Clone(ids), want[:j]...), "llama.cpp", want[j], got[j], gap, tok)
	}
	t.Logf("%d of %d greedy texts equal llama.cpp's whole", same, len(golden.Prompts))
	l.perplexity(t, tok, &golden, perplexityLimit(name))
}

func readTokenizer(t *testing.T, name string) *tokenizer.Tokenizer {
	t.Helper()
	f, err := gguf.Open(testenv.Model(t, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tok, err := tokenizer.FromGGUF(f)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// apart is how much more likely token a is than b in a list of tokens with their log-probabilities; without end if one is not in it.
func apart(top [][2]float64, a, b int32) float64 {
	p := map[int32]float64{}
	for _, e := range top {
		p[int32(e[0])] = e[1]
	}
	x, ok := p[a]
	y, ok2 := p[b]
	if !ok || !ok2 {
		return math.Inf(1)
	}
	return x - y
}

// goldenRule: where two implementations choose differently, both choices are nearly as likely. gap is how far apart their log-probabilities are for whom the first choice is;
// beyond nearTie the float32 model decides, because who chose first rounds activations to 8 bits.
func goldenRule(t *testing.T, name, at string, text []int32, whose string, want, got int32, gap float64, tok *tokenizer.Tokenizer) {
	t.Helper()
	said := fmt.Sprintf("%s: %d %q, %s %d %q: for %s they are %.3f apart", at, got, tok.Decode([]int32{got}, tokenizer.DecodeOptions{}), whose, want,
		tok.Decode([]int32{want}, tokenizer.DecodeOptions{}), whose, gap)
	if gap > nearTie {
		l := load(t, reference.NewUnrounded(), name, len(text), attention.BlocksOf(len(text)))
		last := l.logProbs(t, text, len(text)-1, device.Prompt)[0]
		gap = math.Abs(last[want] - last[got])
		said += fmt.Sprintf(", in float32 %.3f", gap)
	}
	t.Log(said)
	if gap > nearTie {
		t.Errorf("%s; expected at most %g", said, nearTie)
	}
}

// follow reads ids and then one token a step: those of along, or, if that is nil, what it chooses itself. It returns n choices, and for each how far, in log-probability, another token
// was behind.
func (l *loaded) follow(t *testing.T, ids, along []int32, n int) (chosen []int32, behind []func(int32) float64) {
	t.Helper()
	s := l.cache.NewSequence()
	defer s.Release()
	step := model.Step{Cache: l.cache, Segments: []device.Segment{{Seq: s, Pipeline: dense, Mode: device.Prompt}}}
	for len(chosen) < n {
		m := min(len(ids), l.MaxRows())
		seg := &step.Segments[0]
		seg.N, seg.Pos = m, s.Len()
		step.Tokens, step.Logits = ids[:m], nil
		if ids = ids[m:]; len(ids) == 0 {
			step.Logits = []int32{int32(m - 1)}
		}
		if err := s.Reserve(m); err != nil {
			t.Fatal(err)
		}
		logits, err := l.Forward(&step)
		if err != nil {
			t.Fatal(err)
		}
		s.Advance(m)
		if len(ids) > 0 {
			continue
		}
		best := int32(0)
		for i, x := range logits {
			if x > logits[best] {
				best = int32(i)
			}
		}
		row := slices.Clone(logits)
		chosen, behind = append(chosen, best), append(behind, func(id int32) float64 { return float64(row[best] - row[id]) })
		next := best
		if along != nil {
			next = along[len(chosen)-1]
		}
		ids, seg.Mode = []int32{next}, device.Decode
	}
	return chosen, behind
}

// perplexity scores the second half of the golden text's tokens, given all before each.
func (l *loaded) perplexity(t *testing.T, tok *tokenizer.Tokenizer, golden *llamaGolden, limit float64) {
	t.Helper()
	text, err := os.ReadFile(testenv.Shared(t, "books", "war-and-peace.txt"))
	if err != nil {
		t.Fatal(err)
	}
	g := golden.Perplexity
	ids := tok.Encode(string(text[:g.Bytes]), tokenizer.EncodeOptions{AddSpecial: true})[:g.Tokens]
	s := l.cache.NewSequence()
	defer s.Release()
	var nll float64
	scored := 0
	for at := 0; at < len(ids); at += 256 {
		chunk := ids[at : at+256]
		step := &model.Step{Tokens: chunk, Cache: l.cache, Segments: []device.Segment{{Seq: s, N: len(chunk), Pos: at, Pipeline: dense}}}
		for i := range chunk {
			if next := at + i + 1; next >= len(ids)/2 && next < len(ids) {
				step.Logits = append(step.Logits, int32(i))
			}
		}
		if err := s.Reserve(len(chunk)); err != nil {
			t.Fatal(err)
		}
		logits, err := l.Forward(step)
		if err != nil {
			t.Fatal(err)
		}
		s.Advance(len(chunk))
		for i, row := range step.Logits {
			nll -= logSoftmax(logits[i*l.Vocab:][:l.Vocab])[ids[at+int(row)+1]]
			scored++
		}
	}
	nll /= float64(scored)
	off := math.Exp(nll-g.MeanNLL) - 1
	t.Logf("perplexity %.4f over %d tokens, llama.cpp %.4f: %+.2f %%", math.Exp(nll), scored, math.Exp(g.MeanNLL), 100*off)
	if math.Abs(off) > limit {
		t.Errorf("perplexity %.4f; expected within %.1f %% of %.4f", math.Exp(nll), 100*limit, math.Exp(g.MeanNLL))
	}
}
