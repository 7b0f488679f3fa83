package ruler

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"
)

var (
	//go:embed nouns.txt
	nounList string
	//go:embed adjectives.txt
	adjectiveList string
	//go:embed verbs.txt
	verbList string

	nouns, adjectives = strings.Fields(nounList), strings.Fields(adjectiveList)
	plainWords        = sortedSet(slices.Concat(nouns, adjectives, strings.Fields(verbList)))
)

func sortedSet(words []string) []string {
	slices.Sort(words)
	return slices.Compact(words)
}

// vocabulary is the distinct words of a text that it writes in small letters, of three letters or more.
func vocabulary(text []string) []string {
	var words []string
	for _, w := range text {
		w = strings.TrimFunc(w, func(r rune) bool { return !unicode.IsLetter(r) })
		if len(w) >= 3 && strings.IndexFunc(w, func(r rune) bool { return r < 'a' || r > 'z' }) < 0 {
			words = append(words, w)
		}
	}
	return sortedSet(words)
}

// draw is n of the words, each once. It panics if there are fewer: generators ask for at most what there is.
func draw(r *rand.Rand, words []string, n int) []string {
	// The first n steps of a shuffle, with a map for the places that were swapped, so that the list is neither copied nor changed.
	moved := make(map[int]int, n)
	at := func(i int) int {
		if j, ok := moved[i]; ok {
			return j
		}
		return i
	}
	out := make([]string, n)
	for i := range out {
		j := i + r.IntN(len(words)-i)
		out[i] = words[at(j)]
		moved[j] = at(i)
	}
	return out
}

// positions are k distinct numbers below n, ascending.
func positions(r *rand.Rand, n, k int) []int {
	p := r.Perm(n)[:k]
	slices.Sort(p)
	return p
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// The kinds of keys and values, by the names that stand in the prompts.
const (
	words   = "words"
	numbers = "numbers"
	uuids   = "uuids"
)

// random is a new key or value of a kind, none of those that were taken, and takes it.
func random(r *rand.Rand, kind string, taken map[string]bool) string {
	for {
		var s string
		switch kind {
		case words:
			s = adjectives[r.IntN(len(adjectives))] + "-" + nouns[r.IntN(len(nouns))]
		case numbers:
			s = fmt.Sprint(1_000_000 + r.IntN(9_000_000))
		case uuids:
			a, b := r.Uint64()&^(0xf<<12)|4<<12, r.Uint64()&^(3<<62)|2<<62
			s = fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", a>>32, a>>16&0xffff, a&0xffff, b>>48, b&(1<<48-1))
		}
		if !taken[s] {
			taken[s] = true
			return s
		}
	}
}

// letters is a new word of n letters from first on, none of those that were taken, and takes it.
func letters(r *rand.Rand, first byte, n int, taken map[string]bool) string {
	b := make([]byte, n)
	for {
		for i := range b {
			b[i] = first + byte(r.IntN(26))
		}
		if s := string(b); !taken[s] {
			taken[s] = true
			return s
		}
	}
}

// sentences splits a text behind full stops, question and exclamation marks, with the quotes and brackets that close there, where a space and then no small letter
// follows. Titles and initials end none.
func sentences(text string) (out []string) {
	start := 0
	for at := 0; at < len(text); at++ {
		if !strings.ContainsRune(".!?", rune(text[at])) {
			continue
		}
		end := at + 1
		for rest := text[end:]; rest != ""; rest = text[end:] {
			closing := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune(".!?\"')]”’", r) })
			if closing <= 0 {
				break
			}
			end += closing
		}
		next := strings.IndexFunc(text[end:], func(r rune) bool { return !unicode.IsSpace(r) })
		if next <= 0 || abbreviation(text[start:at]) {
			continue // in the middle of a word, at the end of the text, or a title
		}
		if r := []rune(text[end+next : min(len(text), end+next+4)])[0]; unicode.IsLower(r) {
			continue
		}
		out = append(out, text[start:end])
		start, at = end+next, end+next-1
	}
	if start < len(text) {
		out = append(out, text[start:])
	}
	return out
}

// abbreviation reports whether a text ends with a title or an initial, whose full stop ends no sentence.
func abbreviation(text string) bool {
	last := text[strings.LastIndexAny(text, " \"'(“‘")+1:]
	switch last {
	case "Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Capt", "Col", "Gen", "Lt", "Rev", "Hon", "vs", "etc", "No", "vol":
		return true
	}
	return len(last) == 1 && last[0] >= 'A' && last[0] <= 'Z' && last != "I"
}
