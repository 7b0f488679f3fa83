package engine

import (
	"fmt"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/model"
)

// layout is what a cache for a model and its pipelines keeps, if device and model take them.
func layout(d device.Device, h *model.Hyper, c Config) (s kvcache.Shape, planes []attention.Plane, err error) {
	seen := map[string]bool{}
	takes, _ := d.(interface {
		Takes(*attention.Pipeline) error
	})
	for _, p := range c.Pipelines {
		if takes != nil {
			if err := takes.Takes(p); err != nil {
				return s, nil, fmt.Errorf("engine: %w", err)
			}
		}
		if err := p.Fits(attention.Shape{Layers: h.Layers, KVHeads: h.KVHeads, Group: h.Group(), Dim: h.HeadDim}); err != nil {
			return s, nil, fmt.Errorf("engine: %w", err)
		}
		for _, pl := range p.Planes() {
			if !seen[pl.Name()] {
				seen[pl.Name()] = true
				planes = append(planes, pl)
			}
		}
	}
	return kvcache.Shape{Layers: h.Layers, KVHeads: h.KVHeads, Dim: h.HeadDim, Exact: h.Sliding, Group: h.Group(), Sequences: max(c.Sequences, 1), Tokens: c.Context, Whole: wholeLayers(c.Pipelines)}, planes, nil
}

// wholeLayers is how many layers at the start every sparse pipeline reads whole.
func wholeLayers(all []*attention.Pipeline) (n int) {
	sparse := false
	for _, p := range all {
		if s := p.Spec(); !s.Dense() {
			if !sparse || s.DenseLayers < n {
				n = s.DenseLayers
			}
			sparse = true
		}
	}
	return n
}

// Plan says how many texts of c.Context tokens, at most c.Sequences that decode together, a device has room for beside so many bytes of weights that it does not hold yet, and what a text takes
// there and, where exact keys and values are kept apart, in this machine's memory. A device of which it is not known how much is free has room for as many as it could number.
func Plan(d device.Device, h *model.Hyper, weights int64, c Config) (texts int, bytes, host int64, err error) {
	shape, planes, err := layout(d, h, c)
	if err != nil {
		return 0, 0, 0, err
	}
	each := attention.BlocksOf(c.Context)
	for range 4 { // the more texts there are, the more does their step take
		r, err := d.Room(shape, planes)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("engine: %w", err)
		}
		if r.Free > 0 {
			r.Free = max(r.Free-weights, 1)
		}
		texts, bytes, host = r.Blocks()/each, r.Block*int64(each), r.HostBlock*int64(each)
		if n := max(min(texts, c.Sequences), 1); n != shape.Sequences {
			shape.Sequences = n
			continue
		}
		break
	}
	return texts, bytes, host, nil
}
