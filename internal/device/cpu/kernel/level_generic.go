//go:build noasm || !amd64

package kernel

import "github.com/twilight-go/twilight/internal/device/cpu/isa"

func forLevel(isa.Level) Kernels { return portable{} }
