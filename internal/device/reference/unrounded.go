package reference

import (
	"math"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// Unrounded is the reference device with dense attention over float32 keys and values beside the fp16 cache: it tells the rounding of the cache from errors of the
// arithmetic. It attends densely whatever the pipeline, and keeps what it cached until it is closed.
type Unrounded struct {
	*Device
	kv map[unroundedKey]*unroundedKV
}

type unroundedKey struct {
	seq   *kvcache.Sequence
	layer int
}

type unroundedKV struct{ k, v []float32 } // [position][KV heads · Dim]

// NewUnrounded makes an Unrounded device.
func NewUnrounded() *Unrounded { return &Unrounded{New(), map[unroundedKey]*unroundedKV{}} }

// Attend implements device.Device.
func (d *Unrounded) Attend(a *device.Attention) error {
	group, width := a.Heads/a.KVHeads, a.KVHeads*a.Dim
	for _, s := range a.Segments {
		key := unroundedKey{s.Seq, a.Layer}
		c := d.kv[key]
		if c == nil {
			c = &unroundedKV{}
			d.kv[key] = c
		}
		c.k = append(c.k[:s.Pos*width], a.K.Data[s.Row*width:(s.Row+s.N)*width]...)
		c.v = append(c.v[:s.Pos*width], a.V.Data[s.Row*width:(s.Row+s.N)*width]...)
		for i := range s.N {
			n := s.Pos + i + 1
			first := 0
			if a.Window > 0 {
				first = max(0, n-a.Window)
			}
			for h := range a.Heads {
				at := h / group * a.Dim
				q, out := a.Q.Row(s.Row + i)[h*a.Dim:][:a.Dim], a.Out.Row(s.Row + i)[h*a.Dim:][:a.Dim]
				logits := make([]float32, n-first)
				for j := range logits {
					logits[j] = a.Scale * dot(q, c.k[(first+j)*width+at:][:a.Dim])
				}
				sum := attention.Portable{}.Exp(logits, attention.Portable{}.Max(logits))
				acc := make([]float64, a.Dim)
				for j, w := range logits {
					for e, v := range c.v[(first+j)*width+at:][:a.Dim] {
						acc[e] += float64(w) * float64(v)
					}
				}
				for e := range out {
					out[e] = float32(acc[e] / math.Max(float64(sum), math.SmallestNonzeroFloat64))
				}
			}
		}
	}
	return nil
}
