package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

var nonlinearMem = map[int]Mem{}

// nonlinearData is the table of IQ4_NL with offset added to every value, as bytes; 16 of them, twice over.
func nonlinearData(offset int) Mem {
	if m, ok := nonlinearMem[offset]; ok {
		return m
	}
	m := GLOBL(fmt.Sprintf("nonlinear%d", offset), RODATA|NOPTR)
	for i := range 32 {
		DATA(i, U8(uint8(int(nonlinear[i%16])+offset)))
	}
	nonlinearMem[offset] = m
	return m
}

var maskMem = map[uint32]Mem{}

// maskData is a 32-bit pattern in memory.
func maskData(v uint32) Mem {
	if m, ok := maskMem[v]; ok {
		return m
	}
	m := GLOBL(fmt.Sprintf("mask%08x", v), RODATA|NOPTR)
	DATA(0, U32(v))
	maskMem[v] = m
	return m
}

var wideMem = map[uint32]Mem{}

// wideData is a 32-bit pattern, eight times.
func wideData(v uint32) Mem {
	if m, ok := wideMem[v]; ok {
		return m
	}
	m := GLOBL(fmt.Sprintf("wide%08x", v), RODATA|NOPTR)
	for i := range 8 {
		DATA(4*i, U32(v))
	}
	wideMem[v] = m
	return m
}

var laneMasksMem *Mem

// laneMasks are eight lanes set and eight clear.
func laneMasks() Mem {
	if laneMasksMem == nil {
		m := GLOBL("laneMasks", RODATA|NOPTR)
		for i := range 16 {
			v := ^uint32(0)
			if i >= 8 {
				v = 0
			}
			DATA(4*i, U32(v))
		}
		laneMasksMem = &m
	}
	return *laneMasksMem
}
