package task

import "strings"

// maxSentence bounds the words of a sentence that RougeL looks at, since its table has a cell for each pair.
const maxSentence = 4096

// RougeL is the F-measure of ROUGE-L over whole summaries, as the Python package rouge defines it: sentences end at full stops, words at spaces, case and
// other punctuation count; precision and recall are shares of distinct words that stand in a longest common subsequence of a sentence of each. Where that
// package overflows its stack, at sentences of some 1,000 words, and LongBench then counts 0, this goes on.
func RougeL(answer, reference string) float64 { return rougeL(sentences(answer), sentences(reference)) }

// RougeLCharacters is RougeL of the characters of Chinese texts, punctuation included; full stops of ASCII end sentences.
func RougeLCharacters(answer, reference string) float64 {
	return RougeL(spaced(answer), spaced(reference))
}

// spaced puts spaces around the characters of a text, but not into runs of ASCII letters and digits.
func spaced(text string) string {
	var b strings.Builder
	last := false
	for _, r := range text {
		word := asciiWord(r)
		if !word || !last {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
		last = word
	}
	return b.String()
}

func rougeL(answer, reference [][]string) float64 {
	if len(answer) == 0 || len(reference) == 0 {
		return 0
	}
	common := make(map[string]struct{})
	for _, r := range reference {
		for _, a := range answer {
			commonSubsequence(common, r, a)
		}
	}
	precision, recall := float64(len(common))/float64(distinct(answer)), float64(len(common))/float64(distinct(reference))
	return 2 * precision * recall / (precision + recall + 1e-8)
}

// sentences splits a text into sentences of words. A sentence of spaces alone has one empty word.
func sentences(text string) (out [][]string) {
	for s := range strings.SplitSeq(text, ".") {
		if s == "" {
			continue
		}
		words := strings.Fields(s)
		if len(words) == 0 {
			words = []string{""}
		}
		out = append(out, words[:min(len(words), maxSentence)])
	}
	return out
}

func distinct(text [][]string) int {
	words := make(map[string]struct{})
	for _, s := range text {
		for _, w := range s {
			words[w] = struct{}{}
		}
	}
	return len(words)
}

// commonSubsequence adds the words of a longest common subsequence of x and y. Of several, it is the one that is found from the end, passing over y first.
func commonSubsequence(words map[string]struct{}, x, y []string) {
	width := len(y) + 1
	length := make([]uint16, (len(x)+1)*width)
	for i := range x {
		for j := range y {
			switch at := (i+1)*width + j + 1; {
			case x[i] == y[j]:
				length[at] = length[at-width-1] + 1
			default:
				length[at] = max(length[at-width], length[at-1])
			}
		}
	}
	for i, j := len(x), len(y); i > 0 && j > 0; {
		switch {
		case x[i-1] == y[j-1]:
			i, j = i-1, j-1
			words[x[i]] = struct{}{}
		case length[(i-1)*width+j] > length[i*width+j-1]:
			i--
		default:
			j--
		}
	}
}
