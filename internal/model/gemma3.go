package model

import (
	"math"

	"github.com/twilight-go/twilight/internal/device"
)

// gemma3: sliding-window layers with a rotary base of their own, five to each global layer; norms before and after each block, and on query and key heads; embeddings
// scaled by the root of their width. The pattern is not in the files.
func init() {
	architectures["gemma3"] = func(r *reader, h *Hyper) {
		const (
			pattern   = 6 // every sixth layer is global
			localBase = 10000
			layers27B = 62 // the one size whose logits are scaled by the width a head, not by the head size
		)
		h.Act = device.GELU
		h.EmbedScale = float32(math.Sqrt(float64(h.Embed)))
		h.Window = r.int("attention.sliding_window", -1, 1, math.MaxInt32)
		h.Sliding = make([]bool, h.Layers)
		for l := range h.Sliding {
			h.Sliding[l] = l%pattern != pattern-1
		}
		h.LocalRope = &device.Rope{Freq: make([]float64, h.HeadDim/2), Magnitude: 1}
		for i := range h.LocalRope.Freq {
			h.LocalRope.Freq[i] = math.Pow(localBase, -2*float64(i)/float64(h.HeadDim))
		}
		if h.Layers == layers27B {
			h.AttnScale = float32(1 / math.Sqrt(float64(h.Embed)/float64(h.Heads)))
		}
	}
}
