package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// bpe merges the symbols of a word by ranked pairs. Byte-level models begin with one symbol a byte, spelled by a printable character; others with characters.
type bpe struct {
	v            *vocabulary
	pairs        pairTable
	bytes        [256]int32 // byte-level: the symbol of each byte
	extra        [][]int32  // what merged symbols that are not tokens are written as; their ids follow the tokens'
	hex          [256]int32 // character models: the tokens <0x00> to <0xFF>, None where missing
	characters   bool
	newlineRuns  bool
	ignoreMerges bool
	extraIDs     map[string]int32
}

// newBPE reads the merges. Symbols that merges mention and the vocabulary lacks get ids of their own, because they may still lead to tokens.
func newBPE(v *vocabulary, pre *preTokenizer, merges []string) (*bpe, error) {
	b := &bpe{v: v, characters: pre.characters, newlineRuns: pre.newlineRuns, ignoreMerges: pre.ignoreMerges, extraIDs: map[string]int32{}}
	b.hex = v.hexBytes()
	for c := range b.bytes {
		b.bytes[c] = b.intern(byteSpelling[c])
	}
	b.pairs.init(len(merges))
	var joint []byte
	for rank, m := range merges {
		cut := -1
		if len(m) > 1 {
			cut = strings.IndexByte(m[1:], ' ') + 1
		}
		if cut < 1 {
			return nil, fmt.Errorf("tokenizer: merge %d is %q, expected two texts separated by a space", rank, m)
		}
		left, right := b.intern(m[:cut]), b.intern(m[cut+1:])
		joint = append(append(joint[:0], m[:cut]...), m[cut+1:]...)
		id, ok := v.ids[string(joint)]
		if !ok {
			id = b.intern(string(joint))
		}
		b.pairs.put(left, right, uint32(rank), id)
	}
	return b, nil
}

// intern returns the id of a symbol's text, a token's or a new one.
func (b *bpe) intern(text string) int32 {
	if id, ok := b.v.ids[text]; ok {
		return id
	}
	if id, ok := b.extraIDs[text]; ok {
		return id
	}
	id := int32(len(b.v.tokens) + len(b.extra))
	b.extraIDs[text] = id
	b.extra = append(b.extra, b.spell(nil, text))
	return id
}

// spell appends the tokens of the single bytes of a text that is no token itself. Bytes without a token are lost. (llama.cpp also loses the bytes of byte-level
// models that another character stands for; no vocabulary in use has such symbols.)
func (b *bpe) spell(out []int32, text string) []int32 {
	if b.characters {
		for k := range len(text) {
			if id := b.hex[text[k]]; id != None {
				out = append(out, id)
			}
		}
		return out
	}
	for _, r := range text {
		if id, ok := b.v.ids[string(r)]; ok {
			out = append(out, id)
		}
	}
	return out
}

// join looks the pair up in the merges.
func (b *bpe) join(_ string, left, right *symbol) (uint32, int32, bool) {
	return b.pairs.get(left.id, right.id)
}

// encodeWord appends the tokens of one word.
func (b *bpe) encodeWord(out []int32, m *mergeScratch, word string) []int32 {
	if b.ignoreMerges {
		if id, ok := b.whole(m, word); ok {
			return append(out, id)
		}
	}
	if b.newlineRuns && word[0] == '\n' {
		if id, ok := b.v.ids[word]; ok {
			return append(out, id)
		}
	}
	m.reset(len(word))
	for i := 0; i < len(word); {
		n := 1
		id := b.bytes[word[i]]
		if b.characters {
			n = min(symbolLen(word[i]), len(word)-i)
			id = b.lookup(word[i : i+n])
		}
		m.add(id, i, i+n)
		i += n
	}
	m.merge(word, b)
	for i := int32(0); i != none; i = m.symbols[i].next {
		switch s := &m.symbols[i]; {
		case s.id == unknown:
			out = b.spell(out, word[s.start:s.end])
		case int(s.id) < len(b.v.tokens):
			out = append(out, s.id)
		default:
			out = append(out, b.extra[int(s.id)-len(b.v.tokens)]...)
		}
	}
	return out
}

// lookup returns the id of a symbol's text, or unknown.
func (b *bpe) lookup(text string) int32 {
	if id, ok := b.v.ids[text]; ok {
		return id
	}
	if id, ok := b.extraIDs[text]; ok {
		return id
	}
	return unknown
}

// whole looks a word up as one token.
func (b *bpe) whole(m *mergeScratch, word string) (int32, bool) {
	if len(word) > b.v.longest {
		return 0, false
	}
	m.spelling = m.spelling[:0]
	for k := range len(word) {
		m.spelling = append(m.spelling, byteSpelling[word[k]]...)
	}
	id, ok := b.v.ids[string(m.spelling)]
	return id, ok
}

// byteSpelling is GPT-2's spelling of bytes by printable characters: those that print stand for themselves, the rest are U+0100 and on.
var byteSpelling, spelledByte = func() (spelling [256]string, back map[rune]byte) {
	back = make(map[rune]byte, 256)
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if b < 0x21 || 0x7E < b && b < 0xA1 || b == 0xAD {
			r = next
			next++
		}
		spelling[b] = string(utf8.AppendRune(nil, r))
		back[r] = byte(b)
	}
	return spelling, back
}()

// pairTable maps pairs of symbols to their rank and joint symbol: open addressing over a power of two slots, at most half full, never changed once built.
type pairTable struct {
	slots []pairSlot
	shift uint8
}

type pairSlot struct {
	pair  uint64 // left<<32 | right, plus one; 0 is empty
	rank  uint32
	joint int32
}

func (t *pairTable) init(n int) {
	t.shift = 63
	for 1<<(64-t.shift) < 2*n {
		t.shift--
	}
	t.slots = make([]pairSlot, 1<<(64-t.shift))
}

// find returns the slot of a pair, or the empty one where it belongs.
func (t *pairTable) find(left, right int32) *pairSlot {
	pair := uint64(uint32(left))<<32 | uint64(uint32(right)) + 1
	mask := uint64(len(t.slots) - 1)
	for i := pair * 0x9E3779B97F4A7C15 >> t.shift; ; i++ {
		if s := &t.slots[i&mask]; s.pair == pair || s.pair == 0 {
			return s
		}
	}
}

// put stores a pair; the first of several equal ones counts.
func (t *pairTable) put(left, right int32, rank uint32, joint int32) {
	if s := t.find(left, right); s.pair == 0 {
		*s = pairSlot{uint64(uint32(left))<<32 | uint64(uint32(right)) + 1, rank, joint}
	}
}

func (t *pairTable) get(left, right int32) (rank uint32, joint int32, ok bool) {
	if left < 0 || right < 0 {
		return 0, 0, false
	}
	s := t.find(left, right)
	return s.rank, s.joint, s.pair != 0
}
