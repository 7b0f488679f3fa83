//go:build !noasm

package linear

import (
	"github.com/twilight-go/twilight/internal/device/cpu/isa"
	"github.com/twilight-go/twilight/internal/tensor"
)

//go:generate go run -C _generate . -level avx512 -out ../avx512_amd64.s -stubs ../avx512_amd64.go -pkg linear
//go:generate go run -C _generate . -level avx2 -out ../avx2_amd64.s -stubs ../avx2_amd64.go -pkg linear

// quantAVX2, quantAVX512 and the like are the generated kernels, by the logarithm of how many activation rows each takes.
var (
	quantAVX2 = map[tensor.Type][4]quantKernel{
		tensor.Q4_0:   {avx2Q4_0x1, avx2Q4_0x2, avx2Q4_0x4},
		tensor.Q4_1:   {avx2Q4_1x1, avx2Q4_1x2, avx2Q4_1x4},
		tensor.Q5_0:   {avx2Q5_0x1, avx2Q5_0x2, avx2Q5_0x4},
		tensor.Q5_1:   {avx2Q5_1x1, avx2Q5_1x2, avx2Q5_1x4},
		tensor.Q8_0:   {avx2Q8_0x1, avx2Q8_0x2, avx2Q8_0x4},
		tensor.IQ4_NL: {avx2IQ4_NLx1, avx2IQ4_NLx2, avx2IQ4_NLx4},
		tensor.Q2_K:   {avx2Q2_Kx1, avx2Q2_Kx2, avx2Q2_Kx4},
		tensor.Q3_K:   {avx2Q3_Kx1, avx2Q3_Kx2, avx2Q3_Kx4},
		tensor.Q4_K:   {avx2Q4_Kx1, avx2Q4_Kx2, avx2Q4_Kx4},
		tensor.Q5_K:   {avx2Q5_Kx1, avx2Q5_Kx2, avx2Q5_Kx4},
		tensor.Q6_K:   {avx2Q6_Kx1, avx2Q6_Kx2, avx2Q6_Kx4},
		tensor.IQ4_XS: {avx2IQ4_XSx1, avx2IQ4_XSx2, avx2IQ4_XSx4},
	}
	floatAVX2 = map[*floatFormat][4]floatKernel{
		floatF16:  {avx2F16x1, avx2F16x2, avx2F16x4},
		floatBF16: {avx2BF16x1, avx2BF16x2, avx2BF16x4},
		floatF32:  {avx2F32x1, avx2F32x2, avx2F32x4},
	}
	quantAVX512 = map[tensor.Type][4]quantKernel{
		tensor.Q4_0:   {avx512Q4_0x1, avx512Q4_0x2, avx512Q4_0x4, avx512Q4_0x8},
		tensor.Q4_1:   {avx512Q4_1x1, avx512Q4_1x2, avx512Q4_1x4, avx512Q4_1x8},
		tensor.Q5_0:   {avx512Q5_0x1, avx512Q5_0x2, avx512Q5_0x4, avx512Q5_0x8},
		tensor.Q5_1:   {avx512Q5_1x1, avx512Q5_1x2, avx512Q5_1x4, avx512Q5_1x8},
		tensor.Q8_0:   {avx512Q8_0x1, avx512Q8_0x2, avx512Q8_0x4, avx512Q8_0x8},
		tensor.IQ4_NL: {avx512IQ4_NLx1, avx512IQ4_NLx2, avx512IQ4_NLx4, avx512IQ4_NLx8},
		tensor.Q2_K:   {avx512Q2_Kx1, avx512Q2_Kx2, avx512Q2_Kx4, avx512Q2_Kx8},
		tensor.Q3_K:   {avx512Q3_Kx1, avx512Q3_Kx2, avx512Q3_Kx4, avx512Q3_Kx8},
		tensor.Q4_K:   {avx512Q4_Kx1, avx512Q4_Kx2, avx512Q4_Kx4, avx512Q4_Kx8},
		tensor.Q5_K:   {avx512Q5_Kx1, avx512Q5_Kx2, avx512Q5_Kx4, avx512Q5_Kx8},
		tensor.Q6_K:   {avx512Q6_Kx1, avx512Q6_Kx2, avx512Q6_Kx4, avx512Q6_Kx8},
		tensor.IQ4_XS: {avx512IQ4_XSx1, avx512IQ4_XSx2, avx512IQ4_XSx4, avx512IQ4_XSx8},
	}
	floatAVX512 = map[*floatFormat][4]floatKernel{
		floatF16:  {avx512F16x1, avx512F16x2, avx512F16x4, avx512F16x8},
		floatBF16: {avx512BF16x1, avx512BF16x2, avx512BF16x4, avx512BF16x8},
		floatF32:  {avx512F32x1, avx512F32x2, avx512F32x4, avx512F32x8},
	}
)

// kernelsFor is the assembly for m at a level.
func kernelsFor(m *Matrix, l isa.Level) kernels {
	switch l {
	case isa.AVX2:
		return kernels{quant: quantAVX2[m.typ], float: floatAVX2[m.float], width: 4}
	case isa.AVX512:
		return kernels{quant: quantAVX512[m.typ], float: floatAVX512[m.float], width: 8}
	}
	return kernels{}
}

// quantizeKernel is quantizeGeneric at a level.
func quantizeKernel(l isa.Level) func(dst []actBlock, x []float32, w, planes int) {
	if l == isa.Portable {
		return quantizeGeneric
	}
	return func(dst []actBlock, x []float32, w, planes int) {
		avx2Quantize(&dst[0].q[0], &x[0], len(x)/blockCols, w*actBytes, planes)
	}
}
