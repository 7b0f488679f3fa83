package calibrate

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/model"
)

// Import makes a calibration of a channel file as the authors of Double Sparsity publish them (config/*.json of their repository): for each layer the channels by
// falling importance, "model.layers.0.self_attn.qk_proj" of each query head, by |q·k| after rotary positions, or "….k_proj" of each KV head, by |k| before them. The
// first is preferred; the heads of a group are joined by the sum of a channel's places in their lists, since a list says no more. Channels are renumbered where the model
// file interleaves the halves that rotary positions pair.
func Import(text []byte, name string, h *model.Hyper) (*attention.Calibration, error) {
	var lists map[string][][]int
	if err := json.Unmarshal(text, &lists); err != nil {
		return nil, fmt.Errorf("calibrate: %w", err)
	}
	c := &attention.Calibration{Model: name, Layers: h.Layers, KVHeads: h.KVHeads, Dim: h.HeadDim}
	for l := range h.Layers {
		key := fmt.Sprintf("model.layers.%d.self_attn.qk_proj", l)
		group := h.Group()
		heads, ok := lists[key]
		if !ok {
			key, group = fmt.Sprintf("model.layers.%d.self_attn.k_proj", l), 1
			if heads, ok = lists[key]; !ok {
				return nil, fmt.Errorf("calibrate: layer %d has neither qk_proj nor k_proj, expected %d layers as the model has", l, h.Layers)
			}
		}
		if len(heads) != h.KVHeads*group {
			return nil, fmt.Errorf("calibrate: %s lists %d heads, expected %d", key, len(heads), h.KVHeads*group)
		}
		var joined [][]int
		for kv := range h.KVHeads {
			places := make([]float64, h.HeadDim)
			for g, list := range heads[kv*group:][:group] {
				if !permutation(list, h.HeadDim) {
					return nil, fmt.Errorf("calibrate: %s, head %d: expected the channels from 0 to %d, each once", key, kv*group+g, h.HeadDim-1)
				}
				for i, channel := range list {
					places[renumbered(channel, h)] -= float64(i)
				}
			}
			joined = append(joined, ranked(places))
		}
		c.Channels = append(c.Channels, joined)
	}
	return c, nil
}

func permutation(list []int, n int) bool {
	sorted := slices.Sorted(slices.Values(list))
	for i, x := range sorted {
		if x != i {
			return false
		}
	}
	return len(sorted) == n
}

// renumbered is the place in the model file of a channel that checkpoints number by halves.
func renumbered(channel int, h *model.Hyper) int {
	if !h.Rope.Interleaved {
		return channel
	}
	half := h.HeadDim / 2
	return channel%half*2 + channel/half
}
