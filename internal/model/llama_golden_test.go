package model_test

import (
	"math"
	"os"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
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

// nearTie is the largest gap between the two best log-probabilities at which two correct implementations may choose differently: llama.cpp itself flips choices of the float32
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
	for _, name := range catalogModels {
		t.Run(name, func(t *testing.T) {
			if testing.Short() {
				t.Skip("runs a real model")
			}
			var golden llamaGolden
			readJSON(t, testenv.Shared(t, "golden", name+".json"), &golden)
			var exact floatGolden
			if name != "gemma3-270m" {
				readJSON(t, testenv.Shared(t, "golden", name+".f32.json"), &exact)
			}
			dev, err := cpu.New(0)
			if err != nil {
				t.Fatal(err)
			}
			l := load(t, dev, name, 512, 9)
			f, err := gguf.Open(testenv.Model(t, name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			tok, err := tokenizer.FromGGUF(f)
			if err != nil {
				t.Fatal(err)
			}
			same := 0
			for i, p := range golden.Prompts {
				ids := tok.Encode(p.Prompt, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true})
				if len(ids) != len(p.IDs) {
					t.Fatalf("prompt %d: %d tokens %v; expected %v", i, len(ids), ids, p.IDs)
				}
				for j := range ids {
					if ids[j] != p.IDs[j] {
						t.Fatalf("prompt %d: token %d is %d; expected %d", i, j, ids[j], p.IDs[j])
					}
				}
				got := l.greedy(t, p.IDs, len(p.Steps))
				same++
				for j, s := range p.Steps {
					if got[j] == s.ID {
						continue
					}
					gap := s.Top[0][1] - s.Top[1][1]
					if exact.Prompts != nil {
						gap = exact.Prompts[i].Top[j][0][1] - exact.Prompts[i].Top[j][1][1]
					} else if gap > nearTie { // llama.cpp's own activations are rounded; float32 decides
						text := slices.Clone(p.IDs)
						for _, before := range p.Steps[:j] {
							text = append(text, before.ID)
						}
						gap = exactGap(t, name, text)
					}
					if gap > nearTie {
						t.Errorf("prompt %d: greedy token %d is %d, llama.cpp's %d, and the two best are %.3f apart", i, j, got[j], s.ID, gap)
					}
					same--
					break // what follows continues another text
				}
			}
			t.Logf("%d of %d greedy texts equal llama.cpp's whole", same, len(golden.Prompts))
			l.perplexity(t, tok, &golden, perplexityLimit(name))
		})
	}
}

// exactGap is how far the two best log-probabilities after ids lie apart in float32.
func exactGap(t *testing.T, name string, ids []int32) float64 {
	t.Helper()
	l := load(t, reference.NewUnrounded(), name, len(ids), 1)
	last := l.logProbs(t, ids, len(ids)-1, device.Prompt)[0]
	slices.Sort(last)
	return last[len(last)-1] - last[len(last)-2]
}

// greedy decodes n tokens after ids, one step at a time.
func (l *loaded) greedy(t *testing.T, ids []int32, n int) (out []int32) {
	t.Helper()
	s := l.cache.NewSequence()
	defer s.Release()
	mode := device.Prompt
	for len(out) < n {
		if err := s.Reserve(len(ids)); err != nil {
			t.Fatal(err)
		}
		logits, err := l.Forward(&model.Step{Tokens: ids, Cache: l.cache, Logits: []int32{int32(len(ids) - 1)},
			Segments: []device.Segment{{Seq: s, N: len(ids), Pos: s.Len(), Mode: mode, Pipeline: dense}}})
		if err != nil {
			t.Fatal(err)
		}
		s.Advance(len(ids))
		best := 0
		for i, x := range logits {
			if x > logits[best] {
				best = i
			}
		}
		out = append(out, int32(best))
		ids, mode = []int32{int32(best)}, device.Decode
	}
	return out
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
