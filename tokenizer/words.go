package tokenizer

// gpt2Words is the pre-tokenizer of GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
type gpt2Words struct{}

func (gpt2Words) next(t *classTable, s string, i int, _ *int) int {
	if e := contraction(s, i, false); e > i {
		return e
	}
	c, n := t.at(s, i)
	j := i
	if s[i] == ' ' {
		if after, m := t.at(s, i+1); m > 0 && after&space == 0 {
			j, c, n = i+1, after, m
		}
	}
	switch {
	case c&letter != 0:
		return t.run(s, j+n, letter, true)
	case c&number != 0:
		return t.run(s, j+n, number, true)
	case c&space == 0:
		return t.run(s, j+n, space|letter|number, false)
	}
	_, e := blanks(t, s, i)
	return e
}

// wordRule is the family of pre-tokenizers that began with GPT-4 and Llama 3. In its plainest form:
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
type wordRule struct {
	letters  class    // what words are made of: letter, or letter|mark
	symbols  class    // what a run of symbols is not made of: space|letter|number, or with mark
	digits   int      // characters in a piece of a number, 0 for any
	shorten  suffixes // where 's, 't, 're, 've, 'm, 'll, 'd are pieces, or parts of one
	tail     string   // what a run of symbols takes with it
	tailOnce bool     // it takes at most one such character
	cased    bool     // a word turns once from capitals to small letters
	ideogram bool     // runs of Han are pieces of their own
	phrases  bool     // words separated by single blanks are one piece
	steps    bool     // white space comes in pieces of 512, 256, ... 4, 2, 1
}

// suffixes says what becomes of English contractions.
type suffixes uint8

const (
	ordinary suffixes = iota // nothing special
	apart                    // pieces of their own
	attached                 // they stay with the word before them
)

func (p *wordRule) next(t *classTable, s string, i int, memo *int) int {
	if p.shorten == apart {
		if e := contraction(s, i, true); e > i {
			return e
		}
	}
	c, n := t.at(s, i)
	b := s[i]
	if p.ideogram && c&han != 0 {
		return t.run(s, i+n, han, true)
	}
	if c&number == 0 && b != '\r' && b != '\n' {
		start := i
		if !p.inWord(c) {
			start = i + n // one character of any other kind may lead a word
			if c2, _ := t.at(s, start); !p.inWord(c2) {
				start = -1
			}
		}
		if start >= 0 {
			e := p.wordEnd(t, s, start)
			if p.shorten == attached {
				e = contraction(s, e, true)
			}
			return e
		}
	}
	if c&number != 0 {
		e := i + n
		for k := 1; p.digits == 0 || k < p.digits; k++ {
			c, n := t.at(s, e)
			if c&number == 0 {
				break
			}
			e += n
		}
		return e
	}
	j := i
	if b == ' ' {
		if after, m := t.at(s, i+1); m > 0 && after&p.symbols == 0 {
			j, c = i+1, after
		}
	}
	if c&p.symbols == 0 {
		e := t.run(s, j, p.symbols, false)
		for start := e; e < len(s) && indexByte(p.tail, s[e]) && !(p.tailOnce && e > start); e++ {
		}
		return e
	}
	if p.steps && i < *memo { // blanks without a newline up to *memo
		return p.step(t, s, i, *memo)
	}
	newline, e := blanks(t, s, i)
	if newline > 0 {
		return newline
	}
	if p.steps {
		*memo = t.run(s, i, space, true)
		return p.step(t, s, i, *memo)
	}
	return e
}

// inWord reports whether a character of class c is part of words.
func (p *wordRule) inWord(c class) bool {
	return c&p.letters != 0 && !(p.ideogram && c&han != 0)
}

// wordEnd returns the end of the word that starts at byte i.
func (p *wordRule) wordEnd(t *classTable, s string, i int) int {
	if p.cased {
		return p.casedEnd(t, s, i)
	}
	for i < len(s) {
		c, n := t.at(s, i)
		if !p.inWord(c) && !(p.phrases && c&mark != 0) {
			if !p.phrases || s[i] != ' ' {
				break
			}
			if c, _ := t.at(s, i+1); c&letter == 0 {
				break
			}
		}
		i += n
	}
	return i
}

// casedEnd returns the end of a word in the reading U*L+ or else U+L*, where U is every letter but a-z and L every letter but A-Z; letters outside ASCII are
// both. The expression backtracks: where no small letter follows, U*L+ ends after the last letter that is not A-Z.
func (p *wordRule) casedEnd(t *classTable, s string, i int) int {
	both := -1
	for i < len(s) && !('a' <= s[i] && s[i] <= 'z') {
		c, n := t.at(s, i)
		if !p.inWord(c) {
			break
		}
		i += n
		if n > 1 {
			both = i
		}
	}
	e := i
	for e < len(s) && !('A' <= s[e] && s[e] <= 'Z') {
		c, n := t.at(s, e)
		if !p.inWord(c) {
			break
		}
		e += n
	}
	if e > i || both < 0 {
		return e
	}
	return both
}

// step returns the end of a piece of the white space from byte i to end: the largest power of two, 512 to 4, or 1 or 2, that leaves one blank to what follows.
func (p *wordRule) step(t *classTable, s string, i, end int) int {
	const longest = 512
	var ends [longest + 1]int // ends[k] is where k blanks end
	ends[0] = i
	have := 0
	for have < longest && ends[have] < end {
		_, n := t.at(s, ends[have])
		have++
		ends[have] = ends[have-1] + n
	}
	fits := func(k int) bool { // \s{k}(?!\S)
		return k < have || k == have && (end == len(s) || ends[have] < end)
	}
	for k := longest; k > 0; k /= 2 {
		if fits(k) {
			return ends[k]
		}
	}
	return ends[1]
}

// codeRule is the family of DeepSeek-V3:
//
//	[!-/:-~&&[^A-Za-z]][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
type codeRule struct {
	newlines bool // a newline is a piece, and symbols take none with them
}

func (p codeRule) match(t *classTable, s string, i int) int {
	c, n := t.at(s, i)
	b := s[i]
	if b < 0x80 && c&(punct|sign) != 0 && i+1 < len(s) && isAlpha(s[i+1]) {
		e := i + 2
		for e < len(s) && isAlpha(s[e]) {
			e++
		}
		return e
	}
	if c&(letter|mark) != 0 {
		return t.run(s, i+n, letter|mark, true)
	}
	if c&(punct|sign) == 0 && b != '\r' && b != '\n' {
		if c2, n2 := t.at(s, i+n); c2&(letter|mark) != 0 {
			return t.run(s, i+n+n2, letter|mark, true)
		}
	}
	j := i
	if b == ' ' {
		j++
	}
	if e := t.run(s, j, punct|sign, true); e > j {
		for !p.newlines && e < len(s) && (s[e] == '\r' || s[e] == '\n') {
			e++
		}
		return e
	}
	if c&space == 0 {
		return i
	}
	if p.newlines && (b == '\r' || b == '\n') {
		return i + 1
	}
	newline, e := blanks(t, s, i)
	if newline > 0 && !p.newlines {
		return newline
	}
	return e
}

// blanks looks at the white space from byte i on: newline is the end of \s*[\r\n]+, 0 if there is none; end that of \s+(?!\S)|\s+, which leaves the last
// blank to the word that follows.
func blanks(t *classTable, s string, i int) (newline, end int) {
	last, e := i, i
	for e < len(s) {
		c, n := t.at(s, e)
		if c&space == 0 {
			break
		}
		if s[e] == '\r' || s[e] == '\n' {
			newline = e + 1
		}
		last = e
		e += n
	}
	if e < len(s) && last > i {
		return newline, last
	}
	return newline, e
}

// contraction returns the end of one of 's 't 're 've 'm 'll 'd at byte i, or i; anyCase also accepts capitals.
func contraction(s string, i int, anyCase bool) int {
	if i+1 >= len(s) || s[i] != '\'' {
		return i
	}
	var low byte
	if anyCase {
		low = 0x20
	}
	switch s[i+1] | low {
	case 's', 't', 'm', 'd':
		return i + 2
	case 'r', 'v':
		if i+2 < len(s) && s[i+2]|low == 'e' {
			return i + 3
		}
	case 'l':
		if i+2 < len(s) && s[i+2]|low == 'l' {
			return i + 3
		}
	}
	return i
}

func isAlpha(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

func indexByte(set string, b byte) bool {
	for k := 0; k < len(set); k++ {
		if set[k] == b {
			return true
		}
	}
	return false
}
