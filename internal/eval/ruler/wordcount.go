package ruler

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

const common = 10 // words that cwe asks for

// commonWords is common words extraction: ten words are repeated more often than the rest, 30 times against 3 (6 against 1 under 4096 tokens), with a worked example.
// Its words are the plain ones, or those of extra where it needs more than there are; a sample has at most what extra has.
func commonWords(extra []string) *generator {
	const ask = "\nQuestion: What are the 10 most common words in the above list?"
	const begin = " Answer: The top 10 words that appear most often in the list are:"
	g := &generator{name: "cwe", maxTokens: 120, least: 2 * common, most: max(len(plainWords), len(extra))}
	list := func(r *rand.Rand, words, often, seldom int) (prompt string, answer []string) {
		from := plainWords
		if words > len(from) {
			from = extra
		}
		drawn := draw(r, from, words)
		var all []string
		for i, w := range drawn {
			times := seldom
			if i < common {
				times = often
			}
			for range times {
				all = append(all, w)
			}
		}
		shuffle(r, all)
		return "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most often.\n" + numbered(all) + ask, drawn[:common]
	}
	g.prepare = func(size task.Size) func(*rand.Rand, int, int) task.Sample {
		g := [2][3]int{{40, 10, 3}, {0, 30, 3}} // words, and how often the common ones and the others stand in the list: of the example, of the question
		if size.Tokens < 4096 {
			g = [2][3]int{{20, 3, 1}, {0, 6, 1}}
		}
		return func(r *rand.Rand, _, units int) task.Sample {
			shown, answer := list(r, g[0][0], g[0][1], g[0][2])
			prompt, wanted := list(r, units, g[1][1], g[1][2])
			return task.Sample{Prompt: shown + begin + " " + numbered(answer) + "\n" + prompt, Begin: begin, Answers: wanted}
		}
	}
	return g
}

// numbered is "1. one 2. two".
func numbered(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d. %s", i+1, w)
	}
	return b.String()
}

// frequentWords is frequent words extraction: coded words of six letters whose counts fall with the square of their rank (a zeta distribution with α = 2); the first
// is noise, "...", and the next three are asked for.
func frequentWords() *generator {
	// With fewer words in all the fourth and fifth would not differ.
	g := &generator{name: "fwe", maxTokens: 50, least: 73}
	g.prepare = func(size task.Size) func(*rand.Rand, int, int) task.Sample {
		ranks := max(5, (size.Tokens-g.maxTokens)/50)
		return func(r *rand.Rand, _, units int) task.Sample {
			taken := make(map[string]bool)
			coded := make([]string, ranks)
			var all []string
			for k := range coded {
				coded[k] = "..."
				if k > 0 {
					coded[k] = letters(r, 'a', 6, taken)
				}
				const zeta2 = math.Pi * math.Pi / 6
				for range int(float64(units) / (float64((k+1)*(k+1)) * zeta2)) {
					all = append(all, coded[k])
				}
			}
			shuffle(r, all)
			return task.Sample{
				Prompt: "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded words. " + strings.Join(all, " ") +
					"\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently appeared words in the above coded text?",
				Begin:   " Answer: According to the coded text above, the three most frequently appeared words are:",
				Answers: coded[1:4],
			}
		}
	}
	return g
}
