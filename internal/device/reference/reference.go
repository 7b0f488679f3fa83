// Package reference is the device in plain Go float32: slow, obvious, and the oracle that every other device is held against. It runs everything.
package reference

import (
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/tensor"
)

// Device implements device.Device.
type Device struct{ exec *attention.Exec }

// New makes a reference device.
func New() *Device { return &Device{exec: attention.NewExec(attention.Portable{}, attention.Serial{})} }

// Name implements device.Device.
func (*Device) Name() string { return "reference" }

// Description implements device.Device.
func (*Device) Description() string { return "plain Go float32" }

// Close implements device.Device.
func (*Device) Close() error { return nil }

// weight is a matrix decoded to float32.
type weight struct {
	rows, cols int
	data       []float32
}

// Shape implements device.Weight.
func (w *weight) Shape() (rows, cols int) { return w.rows, w.cols }

// Weight implements device.Device: it decodes the whole matrix.
func (*Device) Weight(m device.Matrix) (device.Weight, error) {
	w := &weight{m.Rows, m.Cols, make([]float32, m.Rows*m.Cols)}
	if err := tensor.Decode(m.Type, w.data, m.Data); err != nil {
		return nil, fmt.Errorf("reference: weight %s: %w", m.Name, err)
	}
	return w, nil
}

// Alloc implements device.Device.
func (*Device) Alloc(rows, cols int) (device.Tensor, error) {
	return device.Tensor{Rows: rows, Cols: cols, Data: make([]float32, rows*cols)}, nil
}

// Room implements device.Device.
func (*Device) Room(s kvcache.Shape, planes []attention.Plane) (device.Room, error) {
	return device.HostRoom(s, planes), nil
}

// Cache implements device.Device.
func (*Device) Cache(s kvcache.Shape, blocks int, planes []attention.Plane) (device.Cache, error) {
	return kvcache.NewHost(s, blocks, planes)
}

// Step implements device.Device.
func (*Device) Step(_ *device.Plan, ops func() error) error { return ops() }

// Embed implements device.Device.
func (*Device) Embed(dst device.Tensor, w device.Weight, ids []int32, scale float32) {
	m := w.(*weight)
	for i, id := range ids {
		for c, x := range m.data[int(id)*m.cols:][:m.cols] {
			dst.Row(i)[c] = x * scale
		}
	}
}

// Norm implements device.Device.
func (*Device) Norm(dst, src device.Tensor, weight []float32, eps float32) {
	n := len(weight)
	for at := 0; at < len(src.Data); at += n {
		x, y := src.Data[at:at+n], dst.Data[at:at+n]
		var sum float64
		for _, v := range x {
			sum += float64(v) * float64(v)
		}
		f := float32(1 / math.Sqrt(sum/float64(n)+float64(eps)))
		for c, v := range x {
			y[c] = v * f * weight[c]
		}
	}
}

// Linear implements device.Device.
func (*Device) Linear(x device.Tensor, out []device.Linear) {
	for _, l := range out {
		w := l.W.(*weight)
		parallel(w.rows, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				row := w.data[r*w.cols:][:w.cols]
				for i := range x.Rows {
					y := dot(row, x.Row(i))
					if l.Bias != nil {
						y += l.Bias[r]
					}
					l.Dst.Data[i*l.Dst.Cols+r] = y
				}
			}
		})
	}
}

// dot sums in four lanes, so that the additions do not wait for each other.
func dot(a, b []float32) float32 {
	var s [4]float32
	b = b[:len(a)]
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s[0] += a[i] * b[i]
		s[1] += a[i+1] * b[i+1]
		s[2] += a[i+2] * b[i+2]
		s[3] += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s[0] += a[i] * b[i]
	}
	return s[0] + s[1] + (s[2] + s[3])
}

// parallel calls f for ranges that cover [0,n), on every processor.
func parallel(n int, f func(lo, hi int)) {
	p := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for i := range p {
		if lo, hi := n*i/p, n*(i+1)/p; lo < hi {
			wg.Go(func() { f(lo, hi) })
		}
	}
	wg.Wait()
}

// Rope implements device.Device.
func (*Device) Rope(x device.Tensor, r *device.Rope, dim int, pos []int32) {
	half := len(r.Freq)
	for i := range x.Rows {
		p := int(pos[i])
		table := r.Table(p + 1)[p*2*half:]
		cos, sin := table[:half], table[half:2*half]
		row := x.Row(i)
		for h := 0; h < len(row); h += dim {
			for j := range half {
				a, b := &row[h+j], &row[h+half+j]
				if r.Interleaved {
					a, b = &row[h+2*j], &row[h+2*j+1]
				}
				*a, *b = *a*cos[j]-*b*sin[j], *a*sin[j]+*b*cos[j]
			}
		}
	}
}

// Attend implements device.Device: one row and head at a time.
func (d *Device) Attend(a *device.Attention) error {
	cache := a.Cache.(*kvcache.Host)
	group := a.Heads / a.KVHeads
	for i := range a.Q.Data {
		a.Q.Data[i] *= a.Scale
	}
	for _, s := range a.Segments {
		p := s.Pipeline
		if s.Mode == device.Prompt {
			p = dense
		}
		s.Seq.Memory.Prepare(p, cache.AttentionShape(group))
		for i := range s.N {
			row, n := s.Row+i, s.Pos+i+1
			first := 0
			if a.Window > 0 {
				first = max(0, n-a.Window)
			}
			for h := range a.KVHeads {
				cache.Write(s.Seq, a.Layer, h, n-1, 1, a.K.Row(row)[h*a.Dim:], a.V.Row(row)[h*a.Dim:], a.Dim)
				c := attention.Call{Pipeline: p, Layer: a.Layer, KVHead: h, Head: cache.Head(s.Seq, a.Layer, h, n), Planes: cache.PlaneNames(), First: first, Exact: a.Window > 0,
					Group: group, Q: a.Q.Row(row)[h*group*a.Dim:][:group*a.Dim], Out: a.Out.Row(row)[h*group*a.Dim:][:group*a.Dim], Memory: &s.Seq.Memory}
				if s.Mode == device.Decode {
					c.Stats = s.Stats
				}
				if err := d.exec.Add(c); err != nil {
					return err
				}
			}
			d.exec.Run()
		}
		if s.Mode == device.Prompt && a.Window == 0 {
			d.observe(a, cache, s)
		}
	}
	return nil
}

// observe shows a prompt's queries to the pipelines that ask for them.
func (d *Device) observe(a *device.Attention, cache *kvcache.Host, s device.Segment) {
	group := a.Heads / a.KVHeads
	for _, p := range s.Observers {
		s.Seq.Memory.Prepare(p, cache.AttentionShape(group))
		for h := range a.KVHeads {
			p.Observe(&s.Seq.Memory, attention.Observation{Layer: a.Layer, KVHead: h, Group: group, Head: cache.Head(s.Seq, a.Layer, h, s.Pos+s.N),
				First: s.Pos, Rows: s.N, Q: a.Q.Data[s.Row*a.Q.Cols+h*group*a.Dim:], Stride: a.Q.Cols, Kern: attention.Portable{}})
		}
	}
}

var dense = attention.MustNew("dense")

// Gate implements device.Device.
func (*Device) Gate(gate, up device.Tensor, act device.Activation) {
	for i, x := range gate.Data {
		v := float64(x)
		if act == device.SiLU {
			v /= 1 + math.Exp(-v)
		} else {
			v *= 0.5 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
		}
		gate.Data[i] = float32(v) * up.Data[i]
	}
}

// Pick implements device.Device.
func (*Device) Pick(dst, src device.Tensor, rows []int32) {
	for i, r := range rows {
		copy(dst.Row(i), src.Row(int(r)))
	}
}

// Add implements device.Device.
func (*Device) Add(dst, src device.Tensor) {
	for i, x := range src.Data {
		dst.Data[i] += x
	}
}

// Read implements device.Device.
func (*Device) Read(dst []float32, src device.Tensor) { copy(dst, src.Data) }
