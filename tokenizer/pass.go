package tokenizer

import "unicode/utf8"

// A pass cuts a fragment of repaired text into pieces. A pre-tokenizer is a list of passes: each cuts the pieces of the one before it, and sees nothing beyond
// its own piece. The passes here are hand-written scanners, each equal to a regular expression that the tests hold it against.
type pass interface {
	// next returns the end of the piece that starts at byte i of s; i < next ≤ len(s). memo is the pass's own note from one call to the next within s,
	// 0 at the first: it keeps scanners that must look far ahead linear.
	next(t *classTable, s string, i int, memo *int) int
}

// matcher finds one kind of piece; what lies between two matches is a piece too.
type matcher interface {
	// match returns the end of the match that starts exactly at byte i of s, or i.
	match(t *classTable, s string, i int) int
}

// search is the pass over a matcher's matches and the gaps between them.
type search struct{ matcher }

func (p search) next(t *classTable, s string, i int, _ *int) int {
	if e := p.match(t, s, i); e > i {
		return e
	}
	for j := i; ; {
		_, n := t.at(s, j)
		j += n
		if j >= len(s) {
			return len(s)
		}
		if p.match(t, s, j) > j {
			return j
		}
	}
}

// runs matches min to max characters of a set: set{min,max}, after one optional white space (\s?) or blank ( ?) where lead says so. max 0 means no limit.
type runs struct {
	set      runeSet
	min, max int
	lead     class // space: \s?; 0: none
	blank    bool  // an optional ' ' before the run
}

func (p runs) match(t *classTable, s string, i int) int {
	start := i
	if c, n := t.at(s, i); c&p.lead != 0 || p.blank && n > 0 && s[i] == ' ' {
		start += n
	}
	e := p.end(t, s, start)
	if e == start && start > i {
		start, e = i, p.end(t, s, i)
	}
	if e == start {
		return i
	}
	return e
}

// end returns the end of the run from byte i on, or i if it is shorter than min.
func (p runs) end(t *classTable, s string, i int) int {
	e, n := i, 0
	for e < len(s) && (p.max == 0 || n < p.max) {
		r, size := rune(s[e]), 1
		if r >= utf8.RuneSelf {
			r, size = decodeRune(s, e)
		}
		if !p.set.has(t, r) {
			break
		}
		e += size
		n++
	}
	if n < p.min {
		return i
	}
	return e
}

// runeSet is a set of characters: those of a class, and listed ranges. White space above ASCII is in no range, whatever its bounds.
type runeSet struct {
	class  class
	ascii  [2]uint64
	ranges []rune // pairs lo, hi above ASCII, ascending
	negate bool
}

// newRuneSet reads the inside of a bracket expression: characters and ranges a-b, in ascending order above ASCII; a '-' that stands first is itself.
func newRuneSet(spec string) runeSet {
	var set runeSet
	rs := []rune(spec)
	for i := 0; i < len(rs); i++ {
		lo, hi := rs[i], rs[i]
		if i+2 < len(rs) && rs[i+1] == '-' {
			hi = rs[i+2]
			i += 2
		}
		for ; lo <= hi && lo < utf8.RuneSelf; lo++ {
			set.ascii[lo>>6] |= 1 << (lo & 63)
		}
		if lo <= hi {
			set.ranges = append(set.ranges, lo, hi)
		}
	}
	return set
}

func (s *runeSet) has(t *classTable, r rune) bool {
	c := t.of(r)
	if c&s.class != 0 {
		return !s.negate
	}
	if r < utf8.RuneSelf {
		return (s.ascii[r>>6]&(1<<(r&63)) != 0) != s.negate
	}
	if c&space != 0 {
		return s.negate
	}
	lo, hi := 0, len(s.ranges)/2
	for lo < hi {
		m := (lo + hi) / 2
		if r > s.ranges[2*m+1] {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return (lo < len(s.ranges)/2 && s.ranges[2*lo] <= r) != s.negate
}

// trailing cuts off the white space at the end: \s+$.
type trailing struct{}

func (trailing) next(t *classTable, s string, i int, memo *int) int {
	if *memo == 0 { // note where the trailing white space begins, plus one
		e := len(s)
		for e > 0 {
			j := e - 1
			for j > 0 && !utf8.RuneStart(s[j]) {
				j--
			}
			if c, _ := t.at(s, j); c&space == 0 {
				break
			}
			e = j
		}
		*memo = e + 1
	}
	if i < *memo-1 {
		return *memo - 1
	}
	return len(s)
}

// thousands cuts runs of \p{N} into threes counted from the right, as numbers are written. What precedes a run stays with its first group, which is how
// llama.cpp cuts; the passes after this one see to it.
type thousands struct{}

func (thousands) next(t *classTable, s string, i int, memo *int) int {
	take := 3
	if i >= *memo { // beyond the last run, which ends at *memo
		i = t.run(s, i, number, false)
		*memo = t.run(s, i, number, true)
		if rest := utf8.RuneCountInString(s[i:*memo]) % 3; rest > 0 {
			take = rest
		}
	}
	for ; take > 0 && i < len(s); take-- {
		_, n := t.at(s, i)
		i += n
	}
	return i
}

// lines separates runs of newlines from what lies between them: [^\n]+|[\n]+.
type lines struct{}

func (lines) next(_ *classTable, s string, i int, _ *int) int {
	e := i + 1
	for e < len(s) && (s[e] == '\n') == (s[i] == '\n') {
		e++
	}
	return e
}
