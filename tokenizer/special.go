package tokenizer

import "slices"

// specials finds tokens that are recognised in raw text before any other processing: control, unknown and user-defined ones.
type specials struct {
	first [256]bool        // bytes that begin one
	edges map[uint64]int32 // trie: node<<8 | byte → node; the root is 0
	token []int32          // of each node the token that ends there, or None
	left  map[int32]bool   // tokens that swallow the white space before them
	right map[int32]bool   // and after them
	kinds []Kind
	texts []string
}

// span is an occurrence of a special token: bytes start to end of the text, and the white space around that it swallows.
type span struct {
	start, end int
	id         int32
}

func newSpecials(c *Config, v *vocabulary) *specials {
	s := &specials{edges: map[uint64]int32{}, token: []int32{None}, kinds: v.kinds, texts: v.tokens}
	var ids []int32
	for id, kind := range v.kinds {
		if kind != Control && kind != UserDefined && kind != Unknown {
			continue
		}
		ids = append(ids, int32(id))
		text := v.tokens[id]
		s.first[text[0]] = true
		node := int32(0)
		for k := range len(text) {
			edge := uint64(node)<<8 | uint64(text[k])
			next, ok := s.edges[edge]
			if !ok {
				next = int32(len(s.token))
				s.token = append(s.token, None)
				s.edges[edge] = next
			}
			node = next
		}
		s.token[node] = int32(id)
	}
	s.left, s.right = strips(c, v, ids)
	return s
}

// find appends the special tokens of a text in the order of their places. Where they overlap the longer wins, wherever it starts; then the lower id; then the
// leftmost. Without parse only user-defined tokens count. taken is scratch memory: a bit for each byte that a token has claimed.
func (s *specials) find(out []span, taken *[]uint64, text string, parse bool) []span {
	out = s.candidates(out, text, parse)
	if len(out) == 0 {
		return out
	}
	slices.SortFunc(out, func(a, b span) int {
		if d := (b.end - b.start) - (a.end - a.start); d != 0 {
			return d
		}
		if a.id != b.id {
			return int(a.id - b.id)
		}
		return a.start - b.start
	})
	*taken = append((*taken)[:0], make([]uint64, len(text)/64+1)...)
	bits := *taken
	has := func(i int) bool { return bits[i>>6]&(1<<(i&63)) != 0 }
	kept := out[:0]
	for _, m := range out {
		free := true
		for i := m.start; i < m.end && free; i++ {
			free = !has(i)
		}
		if !free {
			continue
		}
		if s.left[m.id] {
			for m.start > 0 && isBlank(text[m.start-1]) && !has(m.start-1) {
				m.start--
			}
		}
		if s.right[m.id] {
			for m.end < len(text) && isBlank(text[m.end]) && !has(m.end) {
				m.end++
			}
		}
		for i := m.start; i < m.end; i++ {
			bits[i>>6] |= 1 << (i & 63)
		}
		kept = append(kept, m)
	}
	slices.SortFunc(kept, func(a, b span) int { return a.start - b.start })
	return kept
}

// candidates appends every occurrence, overlapping or not.
func (s *specials) candidates(out []span, text string, parse bool) []span {
	for i := range len(text) {
		if !s.first[text[i]] {
			continue
		}
		node := int32(0)
		for j := i; j < len(text); j++ {
			next, ok := s.edges[uint64(node)<<8|uint64(text[j])]
			if !ok {
				break
			}
			node = next
			if id := s.token[node]; id != None && (parse || s.kinds[id] == UserDefined) {
				out = append(out, span{i, j + 1, id})
			}
		}
	}
	return out
}

// isBlank is C's isspace for the characters of ASCII.
func isBlank(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' }
