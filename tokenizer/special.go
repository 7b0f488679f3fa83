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

// longestToken is the limit on a token's bytes. The order of special tokens in find packs a length and a place into 64 bits.
const longestToken = 1 << 20

// rankPlace orders occurrences of special tokens: the longer first, then the leftmost.
func rankPlace(start, length int) uint64 { return uint64(longestToken-length)<<40 | uint64(start) }

// specialScratch is the memory that find uses again.
type specialScratch struct {
	spans []span
	heap  candidates // for each place at most one: the longest token that may still be there
	taken []uint64   // a bit for each byte that a token has claimed
}

func (m *specialScratch) has(i int) bool { return m.taken[i>>6]&(1<<(i&63)) != 0 }

// find returns the special tokens of a text in the order of their places. Where they overlap the longer wins, wherever it starts; then the leftmost. Without
// parse only user-defined tokens count. Time is O(n log n) for n places where one begins, memory a few words for each.
func (s *specials) find(m *specialScratch, text string, parse bool) []span {
	m.spans, m.heap = m.spans[:0], m.heap[:0]
	for i := range len(text) {
		if s.first[text[i]] {
			if end, id := s.longest(text, i, len(text), parse); id != None {
				m.heap = append(m.heap, candidate{order: rankPlace(i, end-i), id: id})
			}
		}
	}
	if len(m.heap) == 0 {
		return nil
	}
	m.heap.order()
	m.taken = append(m.taken[:0], make([]uint64, len(text)/64+1)...)
	for len(m.heap) > 0 {
		top := &m.heap[0]
		start, id := int(top.order&(1<<40-1)), top.id
		end := start + len(s.texts[id])
		free := start
		for free < end && !m.has(free) {
			free++
		}
		if free < end { // a shorter one may fit
			if end, id = s.longest(text, start, free, parse); id == None {
				m.heap.pop()
				continue
			}
			top.order, top.id = rankPlace(start, end-start), id
			m.heap.down(0)
			continue
		}
		m.heap.pop()
		for s.left[id] && start > 0 && isBlank(text[start-1]) && !m.has(start-1) {
			start--
		}
		for s.right[id] && end < len(text) && isBlank(text[end]) && !m.has(end) {
			end++
		}
		for i := start; i < end; i++ {
			m.taken[i>>6] |= 1 << (i & 63)
		}
		m.spans = append(m.spans, span{start, end, id})
	}
	slices.SortFunc(m.spans, func(a, b span) int { return a.start - b.start })
	return m.spans
}

// longest returns the end and the id of the longest special token that starts at byte i and ends at limit or before; the id is None if there is none.
func (s *specials) longest(text string, i, limit int, parse bool) (end int, id int32) {
	id = None
	node := int32(0)
	for j := i; j < limit; j++ {
		next, ok := s.edges[uint64(node)<<8|uint64(text[j])]
		if !ok {
			break
		}
		node = next
		if found := s.token[node]; found != None && (parse || s.kinds[found] == UserDefined) {
			end, id = j+1, found
		}
	}
	return end, id
}

// isBlank is C's isspace for the characters of ASCII.
func isBlank(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' }
