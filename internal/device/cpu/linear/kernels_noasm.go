//go:build !amd64 || noasm

package linear

import "github.com/twilight-go/twilight/internal/device/cpu/isa"

// kernelsFor finds none: the portable loops do everything.
func kernelsFor(*Matrix, isa.Level) kernels { return kernels{} }

func quantizeKernel(isa.Level) func(dst []actBlock, x []float32, w, planes int) {
	return quantizeGeneric
}
