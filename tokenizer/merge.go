package tokenizer

import "slices"

// symbol is a run of text on its way to become a token: bytes start to end of the word, linked to its neighbours.
type symbol struct {
	id         int32 // what the text is in the model's terms; absorbed once the left neighbour took it in
	start, end int32
	prev, next int32 // indexes, none at the ends
}

const (
	unknown  int32 = -1 // a symbol that is no token
	absorbed int32 = -2
	none     int32 = -1
)

// joiner says which neighbours may become one symbol. It is the only difference between BPE and sentencepiece-like merging.
type joiner interface {
	// join returns the id of the two symbols' joint text and the pair's rank, lowest first; ok is false if they do not join.
	join(word string, left, right *symbol) (rank uint32, id int32, ok bool)
}

// candidate is a pair of neighbours that may join. It has lapsed when either has changed since.
type candidate struct {
	order       uint64 // rank, then the left symbol's index: ties go to the leftmost
	left, right int32  // the ids at the time
	id          int32
}

// mergeScratch is the memory that merging one word after another reuses.
type mergeScratch struct {
	symbols  []symbol
	heap     candidates
	spelling []byte // of a word, for looking it up whole
}

// reset makes room for a word of at most n symbols.
func (m *mergeScratch) reset(n int) {
	m.symbols = slices.Grow(m.symbols[:0], n)
	m.heap = slices.Grow(m.heap[:0], n)
}

// add appends the symbol of bytes start to end, which the caller gives in order.
func (m *mergeScratch) add(id int32, start, end int) {
	n := int32(len(m.symbols))
	if n > 0 {
		m.symbols[n-1].next = n
	}
	m.symbols = append(m.symbols, symbol{id: id, start: int32(start), end: int32(end), prev: n - 1, next: none})
}

// merge joins neighbours of the word's symbols, best rank first, until no pair is left: O(n log n) for n symbols.
func (m *mergeScratch) merge(word string, j joiner) {
	for i := 0; i+1 < len(m.symbols); i++ {
		if c, ok := m.candidate(word, j, int32(i)); ok {
			m.heap = append(m.heap, c)
		}
	}
	m.heap.order()
	for len(m.heap) > 0 {
		c := m.heap[0]
		left := int32(uint32(c.order))
		l := &m.symbols[left]
		if l.id != c.left || l.next == none || m.symbols[l.next].id != c.right {
			m.heap.pop()
			continue
		}
		r := &m.symbols[l.next]
		l.id, l.end, l.next = c.id, r.end, r.next
		r.id = absorbed
		if l.next != none {
			m.symbols[l.next].prev = left
		}
		// The new pairs: one takes the place of the pair just joined, without another walk through the heap.
		if c, ok := m.candidate(word, j, left); ok {
			m.heap[0] = c
			m.heap.down(0)
		} else {
			m.heap.pop()
		}
		if c, ok := m.candidate(word, j, l.prev); ok {
			m.heap.push(c)
		}
	}
}

// candidate returns the pair of symbol i and the one after it.
func (m *mergeScratch) candidate(word string, j joiner, i int32) (candidate, bool) {
	if i == none || m.symbols[i].next == none {
		return candidate{}, false
	}
	l := &m.symbols[i]
	r := &m.symbols[l.next]
	rank, id, ok := j.join(word, l, r)
	return candidate{order: uint64(rank)<<32 | uint64(uint32(i)), left: l.id, right: r.id, id: id}, ok
}
