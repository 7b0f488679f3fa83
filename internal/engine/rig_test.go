package engine

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/device/reference"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/internal/tensor"
	"github.com/twilight-go/twilight/internal/testmodel"
	"github.com/twilight-go/twilight/tokenizer"
)

var (
	densely  = attention.MustNew("dense")
	sparsely = attention.MustNew("quest:keep=0.5+page-range+top-p:0.8,union,tail=mean+when:dense-layers=1,min-context=30")
)

// rig is an engine over a generated model.
type rig struct {
	*Engine
	tok *tokenizer.Tokenizer
}

func newRig(t *testing.T, dev string, arch string, c Config) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := testmodel.Write(path, testmodel.Config{Arch: arch, Seed: 21, Type: tensor.Q8_0}); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromGGUF(f)
	if err != nil {
		t.Fatal(err)
	}
	var d device.Device = reference.New()
	if dev != "reference" {
		fast, err := cpu.New(2)
		if err != nil {
			t.Fatal(err)
		}
		if d = fast; dev == "faulty" {
			d = &faulty{Device: fast}
		}
	}
	m, err := model.Load(f, d, model.Options{MaxRows: 64, MaxLogits: 16})
	if err != nil {
		t.Fatal(err)
	}
	c.Pipelines = append(c.Pipelines, densely, sparsely)
	e, err := New(m, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if free, all := e.cache.Free(); free != all {
			t.Errorf("%d of %d cache blocks are free in the end", free, all)
		}
		for _, err := range []error{e.Close(), d.Close(), f.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return &rig{e, tok}
}

// faulty is a device whose steps fail on request.
type faulty struct {
	*cpu.Device
	fail atomic.Int32 // so many
}

// Step implements device.Device.
func (f *faulty) Step(p *device.Plan, ops func() error) error {
	if f.fail.Load() > 0 && f.fail.Add(-1) >= 0 {
		return errors.New("rows_norm: the device is tired")
	}
	return f.Device.Step(p, ops)
}

// text is n tokens.
func text(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(3 + (i*i*7+i*13)%400)
	}
	return ids
}

func (r *rig) session(t *testing.T, p *attention.Pipeline) *Session {
	s := r.NewSession(p)
	t.Cleanup(s.Close)
	return s
}

func (r *rig) generate(t *testing.T, s *Session, q Request) Result {
	t.Helper()
	res, err := s.Generate(context.Background(), r.tok, q)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func same(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return true
}
