package linear

import "encoding/binary"

// source is 32 columns of one row as a file stores them, taken apart: raw codes and scales, nothing rounded.
type source struct {
	codes rowCodes
	d, m  uint16   // float16 scale and minimum (m is 0 where the format has none)
	s, t  [2]uint8 // integer multipliers of d and m; one of each for 32 columns, or one for each 16
}

func u16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// spread puts the low four bits of v into the four bytes of a word.
func spread(v uint32) uint32 { return (v & 15) * 0x204081 & lane1 }

// nibbles takes 16 bytes whose low nibbles are columns 0 to 15 and whose high nibbles are columns 16 to 31.
func (c *rowCodes) nibbles(q []byte) {
	_ = q[15]
	for j := range 4 {
		v := u32(q[4*j:])
		c[j], c[j+4] = v&lane4, v>>4&lane4
	}
}

// addBits adds bit i of v to column i, at the place of value 16.
func (c *rowCodes) addBits(v uint32) {
	for g := range c {
		c[g] |= spread(v>>(4*g)) << 4
	}
}

// bits takes the field of each of 32 bytes that starts at shift.
func (c *rowCodes) bits(q []byte, shift int, mask uint32) {
	_ = q[31]
	for g := range c {
		c[g] = u32(q[4*g:]) >> shift & mask
	}
}

// addField adds that field of each of 32 bytes at the place of bit to.
func (c *rowCodes) addField(q []byte, shift int, mask uint32, to int) {
	_ = q[31]
	for g := range c {
		c[g] |= u32(q[4*g:]) >> shift & mask << to
	}
}

// splitQ4x is Q4_0, IQ4_NL (d, 16 bytes) and Q4_1 (d, m, 16 bytes).
func splitQ4x(dst *source, block []byte, _ int) {
	dst.d = u16(block)
	if len(block) == 20 {
		dst.m = u16(block[2:])
	}
	dst.codes.nibbles(block[len(block)-16:])
}

func splitQ5_0(dst *source, block []byte, _ int) {
	dst.d = u16(block)
	dst.codes.nibbles(block[6:])
	dst.codes.addBits(u32(block[2:]))
}

func splitQ5_1(dst *source, block []byte, _ int) {
	dst.d, dst.m = u16(block), u16(block[2:])
	dst.codes.nibbles(block[8:])
	dst.codes.addBits(u32(block[4:]))
}

func splitQ8_0(dst *source, block []byte, _ int) {
	dst.d = u16(block)
	for g := range dst.codes {
		dst.codes[g] = u32(block[2+4*g:]) ^ lane1<<7 // signed to offset 128
	}
}

// kScales reads the eight 6-bit scales and minima that Q4_K and Q5_K keep in 12 bytes.
func (dst *source) kScales(q []byte, b int) {
	if b < 4 {
		dst.s[0], dst.t[0] = q[b]&63, q[b+4]&63
		return
	}
	dst.s[0] = q[b+4]&15 | q[b-4]>>6<<4
	dst.t[0] = q[b+4]>>4 | q[b]>>6<<4
}

func splitQ4_K(dst *source, block []byte, b int) {
	dst.d, dst.m = u16(block), u16(block[2:])
	dst.kScales(block[4:16], b)
	dst.codes.bits(block[16+b/2*32:], b%2*4, lane4)
}

func splitQ5_K(dst *source, block []byte, b int) {
	dst.d, dst.m = u16(block), u16(block[2:])
	dst.kScales(block[4:16], b)
	dst.codes.bits(block[48+b/2*32:], b%2*4, lane4)
	dst.codes.addField(block[16:], b, lane1, 4)
}

func splitQ6_K(dst *source, block []byte, b int) {
	dst.d = u16(block[208:])
	dst.s = [2]uint8(block[192+2*b:])
	dst.codes.bits(block[b/4*64+b%2*32:], b%4/2*4, lane4)
	dst.codes.addField(block[128+b/4*32:], b%4*2, lane2, 4)
}

func splitQ2_K(dst *source, block []byte, b int) {
	dst.d, dst.m = u16(block[80:]), u16(block[82:])
	dst.codes.bits(block[16+b/4*32:], b%4*2, lane2)
	for i := range 2 {
		v := block[2*b+i]
		dst.s[i], dst.t[i] = v&15, v>>4
	}
}

func splitQ3_K(dst *source, block []byte, b int) {
	dst.d = u16(block[108:])
	dst.codes.bits(block[32+b/4*32:], b%4*2, lane2)
	dst.codes.addField(block, b, lane1, 2)
	scales := block[96:108]
	for i := range 2 {
		g := 2*b + i
		dst.s[i] = scales[g%8]>>(g/8*4)&15 | scales[8+g%4]>>(g/4*2)&3<<4 - 32
	}
}

func splitIQ4_XS(dst *source, block []byte, b int) {
	dst.d = u16(block)
	dst.s[0] = block[4+b/2]>>(b%2*4)&15 | uint8(u16(block[2:])>>(2*b)&3<<4) - 32
	dst.codes.nibbles(block[8+16*b:])
}
