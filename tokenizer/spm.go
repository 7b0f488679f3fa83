package tokenizer

import (
	"math"
	"strings"
)

// blank is how sentencepiece spells a space: U+2581.
const blank = "▁"

// spm merges characters into tokens by score, and writes as bytes what stays outside the vocabulary.
type spm struct {
	v     *vocabulary
	ranks []uint32   // of each token: lower for higher scores
	bytes [256]int32 // byte fall-back; the unknown token, or None, where the vocabulary has no token for a byte
}

func newSPM(v *vocabulary, scores []float32, unk int32) *spm {
	s := &spm{v: v, ranks: make([]uint32, len(v.tokens)), bytes: v.hexBytes()}
	for id := range s.ranks {
		var score float32
		if len(scores) > 0 {
			score = scores[id]
		}
		s.ranks[id] = rankOf(score)
	}
	for b, id := range s.bytes {
		if id != None {
			continue
		}
		if id, ok := v.ids[string([]byte{byte(b)})]; ok {
			s.bytes[b] = id
		} else {
			s.bytes[b] = unk
		}
	}
	return s
}

// rankOf maps scores to integers in the opposite order; equal scores stay equal.
func rankOf(score float32) uint32 {
	u := math.Float32bits(score + 0) // -0 becomes +0
	if u&(1<<31) != 0 {
		return u
	}
	return ^u &^ (1 << 31)
}

// join looks the joint text up: any token will do.
func (s *spm) join(word string, left, right *symbol) (uint32, int32, bool) {
	if int(right.end-left.start) > s.v.longest {
		return 0, 0, false
	}
	id, ok := s.v.ids[word[left.start:right.end]]
	if !ok {
		return 0, 0, false
	}
	return s.ranks[id], id, true
}

// encodeWord appends the tokens of one word, in which spaces are spelled ▁.
func (s *spm) encodeWord(out []int32, m *mergeScratch, word string) []int32 {
	m.reset(len(word))
	for i := 0; i < len(word); {
		n := min(symbolLen(word[i]), len(word)-i)
		id, ok := s.v.ids[word[i:i+n]]
		if !ok {
			id = unknown
		}
		m.add(id, i, i+n)
		i += n
	}
	m.merge(word, s)
	for i := int32(0); i != none; i = m.symbols[i].next {
		sym := &m.symbols[i]
		if sym.id != unknown {
			out = append(out, sym.id)
			continue
		}
		for k := sym.start; k < sym.end; k++ {
			if id := s.bytes[word[k]]; id != None {
				out = append(out, id)
			}
		}
	}
	return out
}

// beforeBlank is the pass that cuts text before a ▁ wherever no token has the ▁ after the character that precedes it. No merge can cross such a place, so
// what lies between two of them can be merged by itself, and found in the cache of words: the tokens are the same as those of the whole text.
type beforeBlank struct {
	joins map[string]bool // characters that some token has before a ▁
}

// newBeforeBlank collects the joins from all texts that merging can make.
func newBeforeBlank(v *vocabulary, extra map[string]int32) *beforeBlank {
	p := &beforeBlank{joins: map[string]bool{}}
	for _, text := range v.tokens {
		p.collect(text)
	}
	for text := range extra {
		p.collect(text)
	}
	return p
}

func (p *beforeBlank) collect(text string) {
	if strings.LastIndex(text, blank) < 1 {
		return
	}
	before := ""
	for i := 0; i < len(text); {
		n := min(symbolLen(text[i]), len(text)-i)
		if text[i:i+n] == blank && before != "" {
			p.joins[before] = true
		}
		before = text[i : i+n]
		i += n
	}
}

func (p *beforeBlank) next(_ *classTable, s string, i int, _ *int) int {
	before := ""
	for e := i; e < len(s); {
		n := min(symbolLen(s[e]), len(s)-e)
		if before != "" && s[e] == blank[0] && s[e:e+n] == blank && !p.joins[before] {
			return e
		}
		before = s[e : e+n]
		e += n
	}
	return len(s)
}
