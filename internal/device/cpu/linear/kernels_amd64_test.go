//go:build !noasm

package linear

import (
	"testing"

	"github.com/twilight-go/twilight/internal/device/cpu/isa"
)

// TestKernelsComplete: no format falls back to the portable loops unnoticed.
func TestKernelsComplete(t *testing.T) {
	for typ := range formats {
		m := &Matrix{typ: typ}
		if k := kernelsFor(m, isa.AVX512); k.width != 8 || k.quant[0] == nil || k.quant[1] == nil || k.quant[2] == nil || k.quant[3] == nil {
			t.Errorf("%s: kernels are missing at avx512", typ)
		}
		if k := kernelsFor(m, isa.AVX2); k.width != 4 || k.quant[0] == nil || k.quant[1] == nil || k.quant[2] == nil {
			t.Errorf("%s: kernels are missing at avx2", typ)
		}
	}
	for _, f := range []*floatFormat{floatF16, floatBF16, floatF32} {
		m := &Matrix{float: f}
		if k := kernelsFor(m, isa.AVX512); k.float[0] == nil || k.float[1] == nil || k.float[2] == nil || k.float[3] == nil {
			t.Errorf("floats of %d bytes: kernels are missing at avx512", f.size)
		}
		if k := kernelsFor(m, isa.AVX2); k.float[0] == nil || k.float[1] == nil || k.float[2] == nil {
			t.Errorf("floats of %d bytes: kernels are missing at avx2", f.size)
		}
	}
}
