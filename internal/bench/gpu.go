package bench

import (
	"context"
	"fmt"
	"slices"
)

// GPUAttention measures the attention operator on a GPU by itself, on captured attention, over batches, contexts and views. Every sequence has a copy of its own of its keys and values, in
// scattered blocks; texts take turns over a batch. Times are medians of replays of a graph whose steps go through more keys than the GPU's cache holds.
type GPUAttention struct {
	Captures       []*Capture // of one head size
	Views          []string   // ViewGQA, ViewMHA
	Batches        []int      // sequences of a step, ascending
	Contexts       []int      // tokens, ascending; none: all that the captures have
	Specs          []string
	Heads, KVHeads int // of the shape, made by stacking captured layers; 0: the model's. ViewMHA has Heads KV heads
	// Progress is told of rows done, Row of each result, Note of what is left out. Each may be nil.
	Progress func(stage string, done, total int64)
	Row      func(AttentionRow)
	Note     func(string)
	library  string // the driver's; "" is the system's, otherwise a test's
	pace     pace   // of a test
}

// pace is how much is done for a number.
type pace struct {
	rotation        int // how many times what the GPU's cache holds the keys and values of all sequences are at least
	steps           int // of a graph at least: what it costs to launch one is not the operator's
	warmup, replays int
	copyBytes       int
}

// gpuStages are the operator's stages in order.
var gpuStages = [...]string{"bases", "scan", "choose", "estimate", "prune", "list", "attend"}

// GPUStageNames are the keys of AttentionRow.Stages on a GPU, in the order in which stages run: the queries' products with blocks' origins, page bounds, candidates, codes, thresholds, lists of
// survivors, and attention over those.
func GPUStageNames() []string { return gpuStages[:] }

// check completes the defaults and refuses what cannot be measured.
func (b *GPUAttention) check() error {
	if len(b.Captures) == 0 || len(b.Batches) == 0 || !ascending(b.Batches) || b.Batches[0] < 1 || !ascending(b.Contexts) || b.Heads < 0 || b.KVHeads < 0 {
		return fmt.Errorf("bench: %d captures, batches of %v, contexts %v, %d query and %d KV heads: expected a capture, and batches and contexts ascending", len(b.Captures), b.Batches, b.Contexts, b.Heads, b.KVHeads)
	}
	if err := checkViews(b.Views); err != nil {
		return err
	}
	if len(b.Contexts) == 0 {
		for _, c := range b.Captures {
			b.Contexts = append(b.Contexts, c.Contexts...)
		}
		slices.Sort(b.Contexts)
		b.Contexts = slices.Compact(b.Contexts)
	}
	if i := slices.Index(b.Specs, "dense"); i != 0 { // the others are compared with it
		if i > 0 {
			b.Specs = slices.Delete(slices.Clone(b.Specs), i, i+1)
		}
		b.Specs = append([]string{"dense"}, b.Specs...)
	}
	for _, v := range b.Views {
		for _, n := range b.Contexts {
			if _, err := newLineup(b.Captures, v, n, b.Heads, b.KVHeads); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *GPUAttention) note(format string, args ...any) {
	if b.Note != nil {
		b.Note(fmt.Sprintf(format, args...))
	}
}

// Run measures. "dense" is measured in any case, and first.
func (b *GPUAttention) Run(ctx context.Context) error {
	if err := b.check(); err != nil {
		return err
	}
	if b.library == "" {
		b.pace = pace{rotation: 16, steps: 4, warmup: 3, replays: 11, copyBytes: 1 << 28}
	}
	return b.run(ctx)
}
