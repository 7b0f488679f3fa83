//go:build !noasm

package kernel

import "github.com/twilight-go/twilight/internal/device/cpu/isa"

func forLevel(level isa.Level) Kernels {
	if level >= isa.AVX512 {
		return avx512{}
	}
	return portable{}
}
