package kernel

import "testing"

// TestReadBandwidth holds that what is read is whole runs, all of them and nothing beyond.
func TestReadBandwidth(t *testing.T) {
	levels(t, func(t *testing.T, k Kernels) {
		const run = 512
		b := guarded[byte](t, 3*run)
		for i := range b {
			b[i] = 1
		}
		for n := range len(b) + 1 {
			const word = 0x0101010101010101
			if got, want := k.ReadBandwidth(b[len(b)-n:]), uint64(n/run*(run/8))*word; got != want {
				t.Fatalf("the words of %d bytes sum to %#x, want %#x", n, got, want)
			}
		}
	})
}
