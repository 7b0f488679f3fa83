package cuda

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// TestOffload: where the exact keys and values are changes no bit, prompts over several blocks included; layers that are read whole stay on the device.
func TestOffload(t *testing.T) {
	for _, c := range models {
		t.Run(c.Arch, func(t *testing.T) {
			if c.Arch != "llama" && quick {
				t.Skip("slow in the emulator")
			}
			path := filepath.Join(t.TempDir(), "model.gguf")
			if err := testmodel.Write(path, c); err != nil {
				t.Fatal(err)
			}
			dev := openWith(t, Options{Offload: true})
			want, got := open(t, path, openGPU(t), 2), open(t, path, dev, 2)
			for _, p := range []*attention.Pipeline{densely, sparsely} {
				compareModels(t, want, got, p, p, tokens(300), 0)
			}
			read, there, back := want.NewSession(sparsely), got.NewSession(sparsely), want.NewSession(sparsely)
			_, _, err := read.Prefill(t.Context(), tokens(270), nil)
			for _, err := range []error{err, there.Take(read, 270, nil), back.Take(there, 270, nil)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			own, err := read.Step(7)
			own = slices.Clone(own)
			moved, err2 := back.Step(7)
			if err != nil || err2 != nil || !slices.Equal(own, moved) {
				t.Errorf("a text moved to host memory and back: %v, %v, logits are %g apart", err, err2, apartBy(moved, own))
			}
			for _, s := range []*engine.Session{read, there, back} {
				s.Close()
			}
		})
	}
}

// TestOffloadBytes: what an offloaded cache takes where.
func TestOffloadBytes(t *testing.T) {
	s := Shape{Dim: 64, KVHeads: 2, Group: 4, Batch: 3, Blocks: 10, Tokens: 2560, Layers: 5, Plain: []bool{true, false, false, false, false}}
	all, none := s.Bytes()
	s.Offload, s.Resident = true, 1
	device, host := s.Bytes()
	layer := 2 * 10 * 2 * attention.BlockTokens * 64 * 2
	if none != 0 || host != 4*layer || device != all-host {
		t.Errorf("%d and %d bytes, offloaded %d and %d: expected 0 on the host, and of four layers of %d", all, none, device, host, layer)
	}
}
