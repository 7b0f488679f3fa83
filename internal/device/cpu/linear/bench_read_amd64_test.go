//go:build !noasm

package linear

import "github.com/twilight-go/twilight/internal/device/cpu/isa"

// readAll reads b as fast as the machine can.
func readAll(b []byte) float32 {
	if isa.Best() == isa.AVX512 {
		return float32(avx512Read(&b[0], len(b)&^511))
	}
	return 0
}
