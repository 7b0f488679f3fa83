package engine

import (
	"fmt"
	"sync"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/model"
)

// racer is a device that can tell from which length a pipeline beats dense attention; see cpu.Device.Crossover.
type racer interface {
	Crossover(p *attention.Pipeline, s attention.Shape) (int, error)
}

// crossovers remembers what was measured in this process: crossing → tokens.
var crossovers sync.Map

// crossing is what a measurement depends on.
type crossing struct {
	device string // with its threads
	spec   string
	shape  attention.Shape
}

// Resolve gives a pipeline with min-context=auto the number of tokens from which it beats dense attention for this model on its device, measured once a
// process; attention.DefaultMinContext on a device that cannot measure. A device that settles it by itself, step by step, is given the pipeline as it is. Other pipelines are returned as they are. Not while the model steps.
func Resolve(m *model.Model, p *attention.Pipeline) (*attention.Pipeline, error) {
	spec := p.Spec()
	if spec.MinContext != attention.AutoMinContext {
		return p, nil
	}
	d := m.Device()
	if _, ok := d.(interface{ Adapts() }); ok {
		return p, nil
	}
	c := crossing{d.Name() + d.Description(), spec.String(), attention.Shape{Layers: m.Layers, KVHeads: m.KVHeads, Group: m.Group(), Dim: m.HeadDim}}
	n, known := crossovers.Load(c)
	if r, ok := d.(racer); !known && ok {
		tokens, err := r.Crossover(p, c.shape)
		if err != nil {
			return nil, fmt.Errorf("engine: %w", err)
		}
		n, _ = crossovers.LoadOrStore(c, tokens)
	} else if !known {
		n = attention.DefaultMinContext
	}
	spec.MinContext = n.(int)
	return attention.New(spec)
}
