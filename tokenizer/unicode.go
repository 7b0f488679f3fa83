package tokenizer

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// class is the set of properties of a code point that pre-tokenizers ask for. Undefined code points have none.
type class uint8

const (
	letter  class = 1 << iota // \p{L}
	number                    // \p{N}
	mark                      // \p{M}
	punct                     // \p{P}
	sign                      // \p{S}
	space                     // \s, which is Unicode's White_Space
	control                   // \p{C} but for undefined code points
	han                       // the blocks of CJK ideographs
)

// laterLetters and laterSymbols were defined in Unicode 15.1. Vocabularies are tokenized elsewhere with those tables, so they count whatever Go's tables say.
var (
	laterLetters = &unicode.RangeTable{R32: []unicode.Range32{{Lo: 0x2EBF0, Hi: 0x2EE5D, Stride: 1}}}
	laterSymbols = &unicode.RangeTable{R16: []unicode.Range16{{Lo: 0x2FFC, Hi: 0x2FFF, Stride: 1}, {Lo: 0x31EF, Hi: 0x31EF, Stride: 1}}}
	hanBlocks    = &unicode.RangeTable{
		R16: []unicode.Range16{{Lo: 0x3400, Hi: 0x4DBF, Stride: 1}, {Lo: 0x4E00, Hi: 0x9FFF, Stride: 1}, {Lo: 0xF900, Hi: 0xFAFF, Stride: 1}},
		R32: []unicode.Range32{{Lo: 0x20000, Hi: 0x2A6DF, Stride: 1}, {Lo: 0x2A700, Hi: 0x2EBEF, Stride: 1}, {Lo: 0x2F800, Hi: 0x2FA1F, Stride: 1}},
	}
)

const maxRune = unicode.MaxRune + 1

// classTable maps code points to classes in two steps, a page of 256 and a place in it; equal pages are stored once, so that the table stays in the cache.
type classTable struct {
	ascii [128]class
	page  [maxRune >> 8]uint16
	pages [][256]class
}

// classes builds the table once, at the first Encode or New.
var classes = sync.OnceValue(func() *classTable {
	flat := make([]class, maxRune)
	for _, s := range []struct {
		c      class
		tables []*unicode.RangeTable
	}{
		{letter, []*unicode.RangeTable{unicode.L, laterLetters}},
		{number, []*unicode.RangeTable{unicode.N}},
		{mark, []*unicode.RangeTable{unicode.M}},
		{punct, []*unicode.RangeTable{unicode.P}},
		{sign, []*unicode.RangeTable{unicode.S, laterSymbols}},
		{space, []*unicode.RangeTable{unicode.White_Space}},
		{control, []*unicode.RangeTable{unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs}},
		{han, []*unicode.RangeTable{hanBlocks}},
	} {
		for _, table := range s.tables {
			for _, r := range table.R16 {
				for c := uint32(r.Lo); c <= uint32(r.Hi); c += uint32(r.Stride) {
					flat[c] |= s.c
				}
			}
			for _, r := range table.R32 {
				for c := r.Lo; c <= r.Hi; c += r.Stride {
					flat[c] |= s.c
				}
			}
		}
	}
	t := new(classTable)
	copy(t.ascii[:], flat)
	seen := make(map[[256]class]uint16)
	for i := range t.page {
		p := [256]class(flat[i<<8:])
		n, ok := seen[p]
		if !ok {
			n = uint16(len(t.pages))
			seen[p] = n
			t.pages = append(t.pages, p)
		}
		t.page[i] = n
	}
	return t
})

// of returns the class of a code point.
func (t *classTable) of(r rune) class {
	if uint32(r) >= maxRune {
		return 0
	}
	return t.pages[t.page[r>>8]][r&0xFF]
}

// at returns the class of the character at byte i of s and its length in bytes; at the end of s both are 0.
func (t *classTable) at(s string, i int) (class, int) {
	if i >= len(s) {
		return 0, 0
	}
	if b := s[i]; b < utf8.RuneSelf {
		return t.ascii[b], 1
	}
	r, n := decodeRune(s, i)
	return t.of(r), n
}

// run returns the end of the longest run of characters from byte i on whose class shares a bit with mask (in true) or shares none (in false).
func (t *classTable) run(s string, i int, mask class, in bool) int {
	for i < len(s) {
		if b := s[i]; b < utf8.RuneSelf {
			if (t.ascii[b]&mask != 0) != in {
				return i
			}
			i++
			continue
		}
		r, n := decodeRune(s, i)
		if (t.of(r)&mask != 0) != in {
			return i
		}
		i += n
	}
	return i
}

// decodeRune decodes the character at byte i of repaired text. Unlike utf8.DecodeRuneInString it accepts surrogates, which repair lets pass.
func decodeRune(s string, i int) (rune, int) {
	switch b := s[i]; {
	case b < 0xC0 || i+1 >= len(s):
		return rune(b), 1
	case b < 0xE0:
		return rune(b&0x1F)<<6 | rune(s[i+1]&0x3F), 2
	case b < 0xF0 && i+2 < len(s):
		return rune(b&0x0F)<<12 | rune(s[i+1]&0x3F)<<6 | rune(s[i+2]&0x3F), 3
	case b >= 0xF0 && i+3 < len(s):
		return rune(b&0x07)<<18 | rune(s[i+1]&0x3F)<<12 | rune(s[i+2]&0x3F)<<6 | rune(s[i+3]&0x3F), 4
	}
	return rune(s[i]), 1
}

// repair returns text in which every byte that belongs to no character is replaced by U+FFFD, as llama.cpp reads it: surrogates are kept, forms longer than
// needed are shortened. Valid text is returned as it is.
func repair(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	out := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			out = append(out, s[i])
			i++
			continue
		}
		n := 0
		switch b := s[i]; {
		case b < 0xC0 || b >= 0xF8:
		case b < 0xE0:
			n = 2
		case b < 0xF0:
			n = 3
		default:
			n = 4
		}
		for k := 1; k < n; k++ {
			if i+k >= len(s) || s[i+k]&0xC0 != 0x80 {
				n = 0
			}
		}
		r := rune(unicode.ReplacementChar)
		if n > 0 {
			r, _ = decodeRune(s, i)
		}
		switch {
		case n == 0 || r > unicode.MaxRune:
			out = utf8.AppendRune(out, unicode.ReplacementChar)
			n = 1
		case 0xD800 <= r && r <= 0xDFFF:
			out = append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0xBF)
		default:
			out = utf8.AppendRune(out, r)
		}
		i += n
	}
	return string(out)
}

// symbolLen returns the length in bytes that a character starting with b claims; stray bytes claim one.
func symbolLen(b byte) int {
	switch {
	case b < 0xC0:
		return 1
	case b < 0xE0:
		return 2
	case b < 0xF0:
		return 3
	}
	return 4
}
