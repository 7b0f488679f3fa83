package cuda

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// TestMoved: a text that was read on one device is decoded on another as if it had been read there; its saved file is the same, whichever device writes it.
func TestMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := testmodel.Write(path, models[1]); err != nil {
		t.Fatal(err)
	}
	host, err := cpu.New(2)
	if err != nil {
		t.Fatal(err)
	}
	gpu, other := open(t, path, openGPU(t), 2), open(t, path, host, 2)
	n := 520 // three blocks
	if quick {
		n = 270
	}
	read := gpu.NewSession(densely)
	defer read.Close()
	if _, _, err := read.Prefill(context.Background(), tokens(n), nil); err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "gpu.kv")
	if err := read.Save(saved); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*attention.Pipeline{densely, sparsely} {
		// To the host and back: the same bits, and codes made by encode instead of append.
		there, back, loaded := other.NewSession(p), gpu.NewSession(p), gpu.NewSession(p)
		for _, err := range []error{there.Take(read, n, nil), back.Take(there, n, nil), loaded.Load(saved)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		own := read.Fork(p)
		for i := range 3 {
			var logits [4][]float32
			for j, s := range []*engine.Session{own, back, loaded, there} {
				x, err := s.Step(int32(7 + i))
				if err != nil {
					t.Fatal(err)
				}
				logits[j] = slices.Clone(x)
			}
			if !slices.Equal(logits[0], logits[1]) || !slices.Equal(logits[0], logits[2]) {
				t.Errorf("%s, step %d: logits after a move are %g apart, after loading %g", p.Spec(), i, apartBy(logits[1], logits[0]), apartBy(logits[2], logits[0]))
			}
			limit := 0.02
			if p == sparsely {
				limit = 0.1
			}
			if e := apartBy(logits[3], logits[0]); !(e < limit) {
				t.Errorf("%s, step %d: logits on the host are %g apart", p.Spec(), i, e)
			}
		}
		for _, s := range []*engine.Session{own, there, back, loaded} {
			s.Close()
		}
	}
	// A cut move, and what cannot be moved.
	part := other.NewSession(densely)
	defer part.Close()
	if err := part.Take(read, 100, nil); err != nil || part.Len() != 100 || !slices.Equal(part.Tokens(), tokens(100)) {
		t.Errorf("a hundred tokens: %d, error %v", part.Len(), err)
	}
	if err := part.Take(read, n+1, nil); err == nil {
		t.Error("more tokens were moved than there are")
	}
	if x, _, err := part.Prefill(context.Background(), tokens(n), nil); err != nil {
		t.Error(err)
	} else if y, _, err := read.Prefill(context.Background(), tokens(n), nil); err != nil || !(apartBy(y, x) < 0.02) {
		t.Errorf("a prompt that goes on from a move: logits are %g apart, error %v", apartBy(y, x), err)
	}
}
