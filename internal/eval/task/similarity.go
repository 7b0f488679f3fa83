package task

import (
	"math"
	"strings"
)

// CodeSimilarity is LongBench's edit similarity of a line of code: the first line of the answer that has no sign of Markdown or of a comment, against the reference.
func CodeSimilarity(answer, reference string) float64 {
	line := ""
	for l := range strings.SplitSeq(strings.TrimLeft(answer, "\n"), "\n") {
		if !strings.Contains(l, "`") && !strings.Contains(l, "#") && !strings.Contains(l, "//") {
			line = l
			break
		}
	}
	return math.RoundToEven(100*Similarity(line, reference)) / 100
}

// Similarity is Ratcliff and Obershelp's, as Python's difflib computes it: twice the characters in matching blocks over all characters. The longest block is
// found first, then those to its left and right; characters that are more than one in a hundred of a b of 200 or more do not start a block.
func Similarity(a, b string) float64 {
	if a == b {
		return 1
	}
	x, y := []rune(a), []rune(b)
	if len(x) == 0 || len(y) == 0 {
		return 0
	}
	m := matcher{a: x, b: y, at: make(map[rune][]int), run: make([]int, len(y)+1), next: make([]int, len(y)+1)}
	for j, r := range y {
		m.at[r] = append(m.at[r], j)
	}
	if len(y) >= 200 {
		for r, at := range m.at {
			if len(at) > len(y)/100+1 {
				delete(m.at, r)
			}
		}
	}
	return 2 * float64(m.matched()) / float64(len(x)+len(y))
}

type matcher struct {
	a, b []rune
	at   map[rune][]int // where in b a character may start a block
	// run[j+1] is the length of the block that ends at b[j] and at the last looked at character of a; next is that of the one being looked at.
	run, next []int
}

// matched is the number of characters in matching blocks.
func (m *matcher) matched() (total int) {
	type span struct{ a0, a1, b0, b1 int }
	for todo := []span{{0, len(m.a), 0, len(m.b)}}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		i, j, n := m.longest(s.a0, s.a1, s.b0, s.b1)
		if n == 0 {
			continue
		}
		total += n
		if s.a0 < i && s.b0 < j {
			todo = append(todo, span{s.a0, i, s.b0, j})
		}
		if i+n < s.a1 && j+n < s.b1 {
			todo = append(todo, span{i + n, s.a1, j + n, s.b1})
		}
	}
	return total
}

// longest is the longest block within a[a0:a1] and b[b0:b1]: of several the first in a, then the first in b.
func (m *matcher) longest(a0, a1, b0, b1 int) (besti, bestj, size int) {
	besti, bestj = a0, b0
	clear(m.run)
	for i := a0; i < a1; i++ {
		clear(m.next)
		for _, j := range m.at[m.a[i]] {
			if j < b0 || j >= b1 {
				continue
			}
			n := m.run[j] + 1
			m.next[j+1] = n
			if n > size {
				besti, bestj, size = i-n+1, j-n+1, n
			}
		}
		m.run, m.next = m.next, m.run
	}
	for besti > a0 && bestj > b0 && m.a[besti-1] == m.b[bestj-1] {
		besti, bestj, size = besti-1, bestj-1, size+1
	}
	for besti+size < a1 && bestj+size < b1 && m.a[besti+size] == m.b[bestj+size] {
		size++
	}
	return besti, bestj, size
}
