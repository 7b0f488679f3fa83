package twilight

import (
	"context"
	"errors"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/catalog"
	"github.com/twilight-go/twilight/internal/checkpoint"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/model"
)

// Plan is how many texts of a length fit on a device at once under one attention spec.
type Plan struct {
	Spec   string `json:"spec"`
	Tokens int    `json:"tokens"`
	Texts  int    `json:"texts"`
	Bytes  int64  `json:"bytes"`      // that one takes on the device
	Host   int64  `json:"host_bytes"` // and, with Options.KVOffload, in this machine's memory
}

// PlanTexts says, for each spec and length, how many texts the device of o has room for beside the model's weights, which are not loaded. Of o it reads Device, KVOffload, GPUMemory, Threads
// and Sequences: how many decode together at most; 0: 256.
func PlanTexts(ctx context.Context, name string, o Options, specs []string, tokens []int) (out []Plan, err error) {
	path, err := catalog.Resolve(ctx, name, catalog.Options{})
	if err != nil {
		return nil, err
	}
	f, _, err := checkpoint.OpenFile(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h, err := model.ReadHyper(f)
	if err != nil {
		return nil, err
	}
	dev, err := openDevice(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if o.Sequences == 0 {
		o.Sequences = 256
	}
	for _, spec := range specs {
		p, err := pipeline(spec)
		if err != nil {
			return nil, err
		}
		for _, n := range tokens {
			x := Plan{Spec: spec, Tokens: n}
			if x.Texts, x.Bytes, x.Host, err = engine.Plan(dev, h, f.Size(), engine.Config{Context: n, Sequences: o.Sequences, Pipelines: []*attention.Pipeline{p}}); err != nil {
				return nil, err
			}
			out = append(out, x)
		}
	}
	return out, nil
}
