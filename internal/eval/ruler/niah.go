package ruler

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// The haystacks: a sentence said again and again, an essay, and needles that nobody asks for.
const (
	noise  = "noise"
	essays = "essay"
	others = "needle"
)

// noiseText is the unit of the noise haystack.
const noiseText = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

// needleTask is a needle-in-a-haystack task.
type needleTask struct {
	name       string
	haystack   string
	key, value string // kinds
	keys       int    // hidden
	values     int    // of each key
	queries    int    // keys asked for
}

// needles are RULER's eight, with the parameters of its published configuration.
var needles = []needleTask{
	{name: "niah_single_1", haystack: noise, key: words, value: numbers, keys: 1, values: 1, queries: 1},
	{name: "niah_single_2", haystack: essays, key: words, value: numbers, keys: 1, values: 1, queries: 1},
	{name: "niah_single_3", haystack: essays, key: words, value: uuids, keys: 1, values: 1, queries: 1},
	{name: "niah_multikey_1", haystack: essays, key: words, value: numbers, keys: 4, values: 1, queries: 1},
	{name: "niah_multikey_2", haystack: others, key: words, value: numbers, keys: 1, values: 1, queries: 1},
	{name: "niah_multikey_3", haystack: others, key: uuids, value: uuids, keys: 1, values: 1, queries: 1},
	{name: "niah_multivalue", haystack: essays, key: words, value: numbers, keys: 1, values: 4, queries: 1},
	{name: "niah_multiquery", haystack: essays, key: words, value: numbers, keys: 4, values: 1, queries: 4},
}

// depths are where needles may stand in an essay, in percent of its sentences: 40 from 0 to 100.
var depths = func() []int {
	d := make([]int, 40)
	for i := range d {
		d[i] = int(math.RoundToEven(float64(i) * 100 / 39))
	}
	return d
}()

func (c needleTask) task(essay []string) *generator {
	g := &generator{name: c.name, maxTokens: 128, least: c.keys * c.values}
	g.prepare = func(task.Size) func(*rand.Rand, int, int) task.Sample {
		return func(r *rand.Rand, _, units int) task.Sample { return c.sample(r, essay, units) }
	}
	return g
}

// sentence is a needle.
func (c *needleTask) sentence(key, value string) string {
	return "One of the special magic " + c.value + " for " + key + " is: " + value + "."
}

// sample hides the needles in units of haystack: words of an essay, repeats of the noise, or other needles.
func (c *needleTask) sample(r *rand.Rand, essay []string, units int) task.Sample {
	taken := make(map[string]bool)
	keys, values := make([]string, c.keys), make([][]string, c.keys)
	var hidden []string
	for k := range keys {
		keys[k] = random(r, c.key, taken)
		for range c.values {
			v := random(r, c.value, taken)
			values[k] = append(values[k], v)
			hidden = append(hidden, c.sentence(keys[k], v))
		}
	}
	shuffle(r, hidden)

	var context string
	switch c.haystack {
	case essays:
		context = hideInEssay(r, essay, units, hidden)
	case noise:
		context = hideInLines(r, slices.Repeat([]string{noiseText}, units), hidden)
	case others:
		lines := make([]string, units)
		for i := range lines {
			lines[i] = c.sentence(random(r, c.key, taken), random(r, c.value, taken))
		}
		context = hideInLines(r, lines, hidden)
	}

	var asked, answers []string
	var asks []string // the needles that hold the answers
	for _, k := range r.Perm(c.keys)[:c.queries] {
		asked = append(asked, keys[k])
		answers = append(answers, values[k]...)
		for _, v := range values[k] {
			asks = append(asks, c.sentence(keys[k], v))
		}
	}
	query := strings.Join(asked, ", ")
	if n := len(asked); n > 1 {
		query = strings.Join(asked[:n-1], ", ") + ", and " + asked[n-1]
	}
	some, what, are := "Some", c.value, "are"
	all := "are all"
	if c.queries*c.values == 1 {
		some, what, are, all = "A", strings.TrimSuffix(c.value, "s"), "is", "is"
	}
	prompt := some + " special magic " + what + " " + are + " hidden within the following text. Make sure to memorize it. I will quiz you about the " + what + " afterwards.\n" +
		context + "\nWhat " + all + " the special magic " + what + " for " + query + " mentioned in the provided text?"
	s := task.Sample{Prompt: prompt, Begin: " The special magic " + what + " for " + query + " mentioned in the provided text " + are, Answers: answers}
	for _, needle := range asks {
		s.Depths = append(s.Depths, depth(prompt, needle))
	}
	return s
}

// depth is where a text stands in a prompt.
func depth(prompt, text string) float64 {
	return float64(strings.Index(prompt, text)) / float64(len(prompt))
}

// hideInLines puts each needle before a line of its own and joins the lines.
func hideInLines(r *rand.Rand, lines, hidden []string) string {
	at := positions(r, len(lines), len(hidden))
	for i, j := range slices.Backward(at) {
		lines = slices.Insert(lines, j, hidden[i])
	}
	return strings.Join(lines, "\n")
}

// hideInEssay puts the needles, in their order, between sentences of the first words of an essay, which begins again where it is too short, at depths of their own.
func hideInEssay(r *rand.Rand, essay []string, words int, hidden []string) string {
	var text []string
	for len(text) < words {
		text = append(text, essay[:min(len(essay), words-len(text))]...)
	}
	lines := sentences(strings.Join(text, " "))
	var out []string
	last := 0
	for i, d := range positions(r, len(depths), len(hidden)) {
		at := len(lines) * depths[d] / 100
		out = append(append(out, lines[last:at]...), hidden[i])
		last = at
	}
	return strings.Join(append(out, lines[last:]...), " ")
}
