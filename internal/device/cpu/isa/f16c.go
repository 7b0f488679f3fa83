package isa

import "golang.org/x/sys/cpu"

// hasF16C: x/sys/cpu has no F16C flag; every processor with AVX2 and FMA3 that was ever sold has F16C (Haswell, Zen and later), so BMI2 beside them stands for it.
func hasF16C() bool { return cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasBMI2 }
