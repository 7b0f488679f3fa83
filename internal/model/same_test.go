package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// The fast device against the reference, whole models, as mean KL of the logits. Float weights differ by rounding; block formats by the eight-bit activations that they are
// multiplied with. Where the fast device also rounds the query of an estimate, other tokens lie above the threshold: that must cost less than the estimate itself does.
func TestCPUAgainstReference(t *testing.T) {
	const float, block = 1e-6, 3e-3
	narrow, wide := testmodel.Config{}, testmodel.Config{Embed: 256, FFN: 256, Heads: 4, KVHeads: 2, HeadDim: 64, Layers: 3}
	for _, c := range []struct {
		arch   string
		typ    tensor.Type
		config testmodel.Config
		kl     float64
	}{
		{"llama", tensor.F32, narrow, float}, {"qwen2", tensor.F32, narrow, float}, {"qwen3", tensor.F32, narrow, float}, {"gemma3", tensor.F32, narrow, float},
		{"llama", tensor.F16, testmodel.Config{HeadDim: 64, Heads: 7, KVHeads: 1}, float}, {"gemma3", tensor.BF16, testmodel.Config{HeadDim: 16}, float},
		{"llama", tensor.Q8_0, narrow, block}, {"qwen2", tensor.Q8_0, narrow, block}, {"qwen3", tensor.Q8_0, narrow, block}, {"gemma3", tensor.Q8_0, narrow, block},
		{"llama", tensor.Q4_0, narrow, block}, {"qwen2", tensor.Q5_1, narrow, block}, {"qwen3", tensor.IQ4_NL, narrow, block}, {"gemma3", tensor.Q5_0, narrow, block},
		{"llama", tensor.Q4_K, wide, block}, {"qwen2", tensor.Q6_K, wide, block}, {"qwen3", tensor.Q5_K, wide, block},
	} {
		t.Run(fmt.Sprintf("%s/%v", c.arch, c.typ), func(t *testing.T) {
			if testing.Short() && (c.config != narrow || c.arch != "llama") {
				t.Skip("slow; runs without -short")
			}
			c.config.Arch, c.config.Type, c.config.Seed = c.arch, c.typ, 5
			const n = 80
			f, ids := writeModel(t, c.config), testTokens(n, c.config)
			ref, fast := newRig(t, f, "reference", 1), newRig(t, f, "cpu", 2)
			wantDense := ref.run(t, ids, promptOf(n))
			for _, p := range []struct {
				piece
				rounded bool
			}{{piece{n, device.Prompt, dense}, false}, {piece{n, device.Decode, attention.MustNew("full+exact+top-p:0.9" + everywhere)}, false}, {piece{n, device.Decode, sparse[0]}, true}} {
				want, got := ref.run(t, ids, []piece{p.piece}), fast.run(t, ids, []piece{p.piece})
				limit := c.kl
				if p.rounded {
					limit += 0.3 * meanKL(wantDense, want)
				} else if p.mode == device.Decode {
					limit = 3*limit + 1e-4 // a token on the edge of the threshold may fall on either side
				}
				if kl := meanKL(want, got); !(kl < limit) {
					t.Errorf("%s: mean KL %.2g, want less than %.2g", p.pipe.Spec(), kl, limit)
				}
			}
		})
	}
}

// However a prompt is cut into steps, its logits are the same bits.
func TestPromptPieces(t *testing.T) {
	devices(t, func(t *testing.T, dev string) {
		for _, arch := range some(archs...) {
			c := testmodel.Config{Arch: arch, Type: tensor.Q8_0, Seed: 2}
			r, ids := newRig(t, writeModel(t, c), dev, 2), testTokens(300, c)
			want := r.run(t, ids, promptOf(300))
			steps := []int{1, 3, 17, 256}
			if dev == "reference" || testing.Short() {
				steps = []int{3, 17} // slow
			}
			for _, per := range steps {
				requireBits(t, fmt.Sprintf("%s in steps of %d", arch, per), r.run(t, ids, pieces(300, per, device.Prompt, dense)), want)
			}
		}
	})
}

// Many decode rows in one step are what single steps are; and a pipeline that keeps everything is dense attention, bit for bit.
func TestDecodeRows(t *testing.T) {
	devices(t, func(t *testing.T, dev string) {
		for i, arch := range some(archs...) {
			c := testmodel.Config{Arch: arch, Type: []tensor.Type{tensor.Q8_0, tensor.F16}[i%2], Seed: 3}
			const prompt, more = 240, 40
			r, ids := newRig(t, writeModel(t, c), dev, 2), testTokens(prompt+more, c)
			text := r.cache.NewSequence()
			r.feed(t, text, ids, promptOf(prompt))
			decode := func(per int, p *attention.Pipeline) [][]float32 {
				s := text.Fork()
				defer s.Release()
				return r.feed(t, s, ids[prompt:], pieces(more, per, device.Decode, p))
			}
			want := decode(1, dense)
			for _, p := range sparse {
				what := arch + " " + p.Spec().String()
				single := decode(1, p)
				requireBits(t, what+": many rows", decode(23, p), single)
				if strings.Contains(what, "top-p:1+") {
					requireBits(t, what+": against dense", single, want)
				} else if kl := meanKL(want, single); !(kl > 1e-9 && kl < 5) {
					t.Errorf("%s: mean KL %v from dense; expected sparse attention to differ, but not to lose the text", what, kl)
				}
			}
			text.Release()
		}
	})
}

// Sequences that share a step, prompts beside decodes, in any order, get what each would get alone.
func TestBatch(t *testing.T) {
	devices(t, func(t *testing.T, dev string) {
		for _, arch := range some("llama", "gemma3") {
			c := testmodel.Config{Arch: arch, Type: tensor.Q4_0, Seed: 4}
			r, text := newRig(t, writeModel(t, c), dev, 2), testTokens(600, c)
			type member struct {
				join int // the step with its first piece
				ids  []int32
				plan []piece
			}
			var all []member
			for i, n := range []int{270, 9, 180, 60} { // a prompt, then decode steps of a pipeline of its own
				m := member{join: i % 3, ids: text[100*i:][:n]}
				m.plan = append(promptOf(n-n/3), pieces(n/3, max(1, n/15), device.Decode, sparse[i])...)
				all = append(all, m)
			}
			var want [][][]float32
			for _, m := range all {
				want = append(want, r.run(t, m.ids, m.plan))
			}
			for _, order := range [][]int{{0, 1, 2, 3}, {3, 1, 0, 2}} {
				seqs, got, fed := make([]*kvcache.Sequence, len(all)), make([][][]float32, len(all)), make([]int, len(all))
				for i := range all {
					seqs[i] = r.cache.NewSequence()
				}
				for step := range 10 {
					var who []int
					var ss []*kvcache.Sequence
					var ids [][]int32
					var ps []piece
					for _, i := range order {
						m := &all[i]
						if at := step - m.join; at >= 0 && at < len(m.plan) {
							who, ss, ids, ps = append(who, i), append(ss, seqs[i]), append(ids, m.ids[fed[i]:]), append(ps, m.plan[at])
							fed[i] += m.plan[at].n
						}
					}
					if len(who) == 0 {
						continue
					}
					for k, logits := range r.step(t, ss, ids, ps) {
						got[who[k]] = append(got[who[k]], logits...)
					}
				}
				for i := range all {
					requireBits(t, fmt.Sprintf("%s: sequence %d in the order %v", arch, i, order), got[i], want[i])
					seqs[i].Release()
				}
			}
		}
	})
}

// The number of threads changes nothing.
func TestThreads(t *testing.T) {
	for _, arch := range some(archs...) {
		c := testmodel.Config{Arch: arch, Type: tensor.Q4_0, Seed: 6}
		f, ids := writeModel(t, c), testTokens(300, c)
		plan := append(promptOf(270), pieces(30, 7, device.Decode, sparse[0])...)
		var want [][]float32
		for _, threads := range []int{1, 2, 5} {
			got := newRig(t, f, "cpu", threads).run(t, ids, plan)
			if want == nil {
				want = got
			}
			requireBits(t, fmt.Sprintf("%s with %d threads", arch, threads), got, want)
		}
	}
}

// Every level of instructions computes the same model.
func TestLevels(t *testing.T) {
	c := testmodel.Config{Type: tensor.Q8_0, Seed: 8, HeadDim: 64}
	f, ids := writeModel(t, c), testTokens(60, c)
	plan := append(promptOf(40), pieces(20, 20, device.Decode, sparse[1])...)
	want := newRig(t, f, "reference", 1).run(t, ids, plan)
	for _, level := range []isa.Level{isa.Portable, isa.AVX2, isa.AVX512} {
		restore := isa.Limit(level)
		got := newRig(t, f, "cpu", 2).run(t, ids, plan)
		if kl := meanKL(want, got); !(kl < 5e-2) {
			t.Errorf("%v: mean KL %.2g from the reference", level, kl)
		}
		restore()
	}
}

// Forks continue in different ways, each as if it were alone; and a text that is cut back and continued is as if written so at once.
func TestForkTruncate(t *testing.T) {
	devices(t, func(t *testing.T, dev string) {
		for _, arch := range some("llama", "gemma3") {
			c := testmodel.Config{Arch: arch, Type: tensor.Q8_0, Seed: 7, Layers: 6}
			r, text := newRig(t, writeModel(t, c), dev, 2), testTokens(500, c)
			p, lengths := sparse[0], []int{100, 256, 270}
			if dev == "reference" || testing.Short() {
				lengths = []int{70}
			}
			for _, shared := range lengths {
				decode := pieces(20, 1, device.Decode, p)
				alone := func(more []int32) [][]float32 {
					return r.run(t, append(append([]int32(nil), text[:shared]...), more...), append(promptOf(shared), decode...))[shared:]
				}
				a := r.cache.NewSequence()
				r.feed(t, a, text, promptOf(shared))
				b := a.Fork()
				cut := a.Fork()
				requireBits(t, "first of a fork", r.feed(t, a, text[300:], decode), alone(text[300:320]))
				requireBits(t, "second of a fork", r.feed(t, b, text[400:], decode), alone(text[400:420]))
				a.Truncate(shared)
				requireBits(t, "cut back", r.feed(t, a, text[350:], decode), alone(text[350:370]))
				cut.Truncate(shared - 30) // into a block that others hold
				b.Release()
				a.Release()
				got := r.feed(t, cut, text[200:], append(promptOf(30), decode...))
				want := r.run(t, append(append([]int32(nil), text[:shared-30]...), text[200:250]...), append(append(promptOf(shared-30), promptOf(30)...), decode...))
				requireBits(t, "cut back while shared", got, want[shared-30:])
				cut.Release()
			}
		}
	})
}
