package cuda

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/testmodel"
	"github.com/twilight-go/twilight/tokenizer"
)

// TestScheduler: texts that come and go are written as each would be alone, but for choices between tokens that are nearly as likely: products of more than 32 rows add in another order.
func TestScheduler(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := testmodel.Write(path, models[0]); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tok, err := tokenizer.FromGGUF(f)
	if err != nil {
		t.Fatal(err)
	}
	n, longest, most := 60, 500, 40
	if quick {
		n, longest, most = 5, 130, 4
	}
	e := open(t, path, openGPU(t), 8)
	rng, pipes := rand.New(rand.NewPCG(5, 6)), []*attention.Pipeline{densely, sparsely}
	var asked []engine.Request
	var want []engine.Result
	for i := range n {
		p := tokens(20 + rng.IntN(longest-20))
		for j := rng.IntN(len(p)); j < len(p); j++ {
			p[j] = int32(3 + rng.IntN(400))
		}
		asked = append(asked, engine.Request{Prompt: p, MaxTokens: 1 + rng.IntN(most), IgnoreEOG: true})
		s := e.NewSession(pipes[i%2])
		r, err := s.Generate(t.Context(), tok, asked[i])
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		want = append(want, r)
	}
	got, errs := make([]engine.Result, n), make([]error, n)
	s := engine.NewScheduler(e, tok, 48)
	var all sync.WaitGroup
	for i := range asked {
		all.Go(func() { got[i], errs[i] = s.Generate(t.Context(), pipes[i%2], asked[i]) })
	}
	all.Wait()
	load := s.Load()
	s.Close()
	differ := 0
	for i, w := range want {
		if errs[i] != nil || len(got[i].Tokens) != len(w.Tokens) {
			t.Fatalf("text %d: %v, %d tokens; alone %d", i, errs[i], len(got[i].Tokens), len(w.Tokens))
		}
		j := 0
		for j < len(w.Tokens) && got[i].Tokens[j] == w.Tokens[j] {
			j++
		}
		if j == len(w.Tokens) {
			continue
		}
		differ++
		s := e.NewSession(pipes[i%2])
		logits, _, err := s.Prefill(t.Context(), asked[i].Prompt, nil)
		for k := 0; k < j && err == nil; k++ {
			logits, err = s.Step(w.Tokens[k])
		}
		if err != nil {
			t.Fatal(err)
		}
		if gap := math.Abs(float64(logits[w.Tokens[j]] - logits[got[i].Tokens[j]])); gap > 0.1 {
			t.Errorf("text %d, token %d: %d, alone %d, whose logits are %.3g apart", i, j, got[i].Tokens[j], w.Tokens[j], gap)
		}
		s.Close()
	}
	// In the emulator texts are short, and wait for each other where they begin alike: one may have ended before the next is read.
	t.Logf("%d of %d texts differ from a token on; %+v", differ, n, load)
	if !quick && load.Most < 2 || slices.Max([]int{load.Waiting, load.Reading, load.Writing}) > 0 {
		t.Errorf("the load at the end: %+v", load)
	}
}
