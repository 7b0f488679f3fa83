package tokenizer

// candidates is a binary heap: the first has the lowest order.
type candidates []candidate

// order makes a heap of candidates in any order.
func (h candidates) order() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h *candidates) push(c candidate) {
	*h = append(*h, c)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if s[up].order <= s[i].order {
			return
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

// pop drops the first.
func (h *candidates) pop() {
	last := len(*h) - 1
	(*h)[0] = (*h)[last]
	*h = (*h)[:last]
	h.down(0)
}

// down moves the candidate at i, whose order may have grown, to its place.
func (h candidates) down(i int) {
	for {
		k := 2*i + 1
		if k >= len(h) {
			return
		}
		if k+1 < len(h) && h[k+1].order < h[k].order {
			k++
		}
		if h[i].order <= h[k].order {
			return
		}
		h[i], h[k] = h[k], h[i]
		i = k
	}
}
