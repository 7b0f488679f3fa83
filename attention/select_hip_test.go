package attention

import (
	"math/rand/v2"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// With as many leaves as fit the beam HiP proposes everything; a lone loud stretch of keys is found among thousands.
func TestHipFinds(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(71, 71)), 4000, decoderDim)
	q := x.queries(rand.New(rand.NewPCG(72, 72)), decoderGroup)
	for i := 2048; i < 2048+400; i++ {
		for c := range decoderDim {
			x.kh[i*decoderDim+c] = tensor.F32ToF16(q[c] * 30)
		}
	}
	d := newDecoder(MustNew("hip:k=256,block=4,sink=0,window=16+when:dense-layers=0,min-context=0"), q)
	d.fill(x.kh, x.vh, x.n)
	d.step(t)
	found := 0
	for i, y := range d.x.works[0].attended(0) {
		if y && i >= 2048 && i < 2448 {
			found++
		}
	}
	if found < 200 {
		t.Errorf("%d of the 400 loud tokens are among the 256 proposed, want nearly all of those to be", found)
	}
	d.fill(x.kh, x.vh, 300)
	d.step(t)
	if n := d.x.works[0].count.b0[1]; n < 256+16 {
		t.Errorf("%d of 300 tokens are proposed, want 272 at least", n)
	}
}

// The table of parts says what a step reads: as much for every query head, and next to nothing less.
func TestHipCosts(t *testing.T) {
	x := newText(rand.New(rand.NewPCG(73, 73)), MethodTokens, decoderDim)
	d := newDecoder(MustNew("hip+when:dense-layers=0,min-context=0"), x.queries(rand.New(rand.NewPCG(74, 74)), decoderGroup))
	d.fill(x.kh, x.vh, x.n)
	d.step(t)
	_, reads := hip{k: 512, block: 2, sink: 16, window: 256}.PerToken(decoderDim)
	most := reads * MethodTokens * decoderGroup
	if got := float64(d.x.works[0].count.selBytes); got > most || got < 0.95*most {
		t.Errorf("%g bytes are read, want %g or little less", got, most)
	}
}
