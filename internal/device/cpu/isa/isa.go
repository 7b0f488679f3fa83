// Package isa says which instruction sets the kernels may use, and lets a test take some of them away.
package isa

import "golang.org/x/sys/cpu"

// Level is a rung of instruction sets; a kernel written for a level may use everything below it.
type Level int

// The levels that kernels are written for.
const (
	Portable Level = iota // plain Go
	AVX2                  // AVX2, FMA and F16C
	AVX512                // AVX-512 F, BW, DQ, VL and VNNI
)

// String is the name used in flags and tables.
func (l Level) String() string { return [...]string{"portable", "avx2", "avx512"}[l] }

var level = detect()

func detect() Level {
	switch x := &cpu.X86; {
	case noasm:
		return Portable
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VNNI && x.HasFMA:
		return AVX512
	case x.HasAVX2 && x.HasFMA && hasF16C():
		return AVX2
	}
	return Portable
}

// Best is the highest level in force on this machine. Dispatch tables are built from it when a device opens and when Limit changes it.
func Best() Level { return level }

// Limit lowers the level in force to at most l and returns what restores it. Tests only; not while kernels run.
func Limit(l Level) (restore func()) {
	old := level
	level = min(old, l)
	return func() { level = old }
}
