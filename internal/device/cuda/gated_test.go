package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/tensor"
)

// TestGatedPlans holds gates that products of few rows make themselves against float64, with all sizes of clusters.
func TestGatedPlans(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		rng := rand.New(rand.NewPCG(19, 20))
		for ranks := 1; ranks <= maxCluster && (ranks == 1 || b.l.hopper); ranks *= 2 {
			few, many := work{rows: 11, units: 6, unitBytes: layouts[w4m].unit, gated: true}, work{rows: 70, units: 6, unitBytes: layouts[w4m].unit, gated: true}
			plans := map[plan]work{linearPlan(few, 2, 128): few, linearPlan(few, 4, 256): few, linearPlan(many, 4, 128): many}
			if b.l.hopper {
				plans[panelPlan(many, 8, 1, 2, ranks, 64<<10)], plans[panelPlan(many, 16, 2, 1, ranks, 200<<10)], plans[panelPlan(few, 2, 1, 3, ranks, 64<<10)] = many, many, few
			}
			for n, k := range plans {
				if err := b.gate(rng, n, k, 90, device.Activation(ranks%2)); err != nil {
					return fmt.Errorf("%+v: %w", n, err)
				}
			}
		}
		return nil
	})
}

// gate runs a plan of a gate.
func (b *bank) gate(rng *rand.Rand, n plan, k work, outputs int, act device.Activation) error {
	cols := k.units * unitCols
	x, want := b.activations(rng, k.rows, cols)
	var out []product
	var values [2][]float32
	for i := range values {
		var m device.Matrix
		m, values[i] = matrix(rng, tensor.Q4_1, outputs, cols)
		out = append(out, product{w: b.weight(m)})
	}
	got := slices.Repeat([]uint16{0x7e00}, (k.rows+1)*outputs)
	dst := put(b, got)
	if err := errors.Join(b.l.runGated(b.c, 0, n, &gatedOp{x: x, out: [2]product(out), rows: k.rows, act: act, dst: halves{values: dst}}), b.c.Synchronize(), b.c.Download(bytesOf(got), dst)); err != nil {
		return err
	}
	for r := range k.rows {
		var wrong, size float64
		for i, h := range got[r*outputs:][:outputs] {
			var sum [2]float64
			for kind := range sum {
				for c, v := range want[r*cols:][:cols] {
					sum[kind] += v * float64(values[kind][i*cols+c])
				}
			}
			g := sum[0] / (1 + math.Exp(-sum[0]))
			if act == device.GELU {
				g = 0.5 * sum[0] * (1 + math.Tanh(0.7978845608*(sum[0]+0.044715*sum[0]*sum[0]*sum[0])))
			}
			v := float64(tensor.F16ToF32(h)) * gatedParts
			wrong += (v - g*sum[1]) * (v - g*sum[1])
			size += g * sum[1] * g * sum[1]
		}
		if e := math.Sqrt(wrong / size); !(e <= 4e-3) {
			return fmt.Errorf("row %d: relative error %g", r, e)
		}
	}
	for _, h := range got[k.rows*outputs:] {
		if h != 0x7e00 {
			return fmt.Errorf("wrote beyond row %d", k.rows)
		}
	}
	return nil
}

// TestGated: of many rows, two products and their gate in one kernel, ordinary values and such as fp16 takes only with a scale.
func TestGated(t *testing.T) {
	withLibrary(t, func(b *bank) error {
		if !b.l.hopper {
			return nil
		}
		const rows, cols, n = 270, 96, 160
		rng := rand.New(rand.NewPCG(23, 24))
		if err := b.l.find(b.c, "rows_gate", "rows_gate_long"); err != nil {
			return err
		}
		for _, c := range []struct {
			act  device.Activation
			size float64
		}{{device.SiLU, 1}, {device.GELU, 1}, {device.SiLU, 1000}} {
			x, values := b.activations(rng, rows, cols)
			for i, v := range values {
				values[i] = v * c.size
			}
			scale := make([]float32, rows)
			if err := b.c.Download(bytesOf(scale), x.scale); err != nil {
				return err
			}
			for i := range scale {
				scale[i] *= float32(c.size)
			}
			x.scale = put(b, scale)
			o := gatedOp{x: x, rows: rows, act: c.act, over: put(b, []int32{0}), dst: halves{values: put(b, make([]uint16, rows*n)), scale: put(b, make([]float32, rows)), rows: rows, cols: n}}
			var w [2][]float32
			for i, typ := range []tensor.Type{tensor.Q4_1, tensor.Q8_0} {
				var m device.Matrix
				m, w[i] = matrix(rng, typ, n, cols)
				o.out[i] = product{w: b.weight(m), dst: put(b, make([]float32, rows*n))}
			}
			got, over := make([]uint16, rows*n), []int32{0}
			if err := errors.Join(b.l.gated(b.c, 0, &o), b.c.Synchronize(), b.c.Download(bytesOf(got), o.dst.values), b.c.Download(bytesOf(scale), o.dst.scale), b.c.Download(bytesOf(over), o.over)); err != nil {
				return err
			}
			if (over[0] != 0) != (c.size > 1) {
				t.Errorf("values of size %g: over is %d", c.size, over[0])
			}
			var wrong, size float64
			for r := range rows {
				for i := range n {
					var y [2]float64
					for k := range y {
						for j, v := range values[r*cols:][:cols] {
							y[k] += v * float64(w[k][i*cols+j])
						}
					}
					want := y[0] / (1 + math.Exp(-y[0])) * y[1]
					if c.act == device.GELU {
						want = 0.5 * y[0] * (1 + math.Tanh(0.7978845608*(y[0]+0.044715*y[0]*y[0]*y[0]))) * y[1]
					}
					d := float64(tensor.F16ToF32(got[r*n+i]))*float64(scale[r]) - want
					wrong, size = wrong+d*d, size+want*want
				}
			}
			if e := math.Sqrt(wrong / size); !(e <= 2e-3) {
				t.Errorf("activation %d of values of size %g: relative error %g", c.act, c.size, e)
			}
		}
		return nil
	})
}
