// Package task is what an evaluation by questions is made of: samples with known answers, and metrics.
package task

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sort"
)

// Sample is one question. It is plain data: the same name, seed, size and tokenizer give the same sample.
type Sample struct {
	ID string // unique within its task, stable between runs
	// Prompt is the user's message, or the text to be continued where Raw.
	Prompt string
	Raw    bool   // without the chat template, as the benchmark's authors ask for some tasks
	Begin  string // how the answer begins: given to the model, not part of what it answers; where Raw, it follows the prompt as it stands, white space included
	// Answers are what the metric compares with: all that are to be found, or the accepted alternatives, as the task's metric says.
	Answers []string
	// Classes are the labels of a classification task, for its metric; nil otherwise.
	Classes   []string
	MaxTokens int      // of the answer
	Stop      []string // texts that end the answer
	// Depths is where the answers stand in Prompt, each as a share of its bytes, 0 at its begin; nil for tasks that do not hide them at one place.
	Depths []float64
}

// Tokens counts what the sample needs of a context: the prompt, how the answer begins, and the answer. A chat template comes on top.
func (s *Sample) Tokens(size Size) int {
	return size.Count(s.Prompt) + size.Count(s.Begin) + s.MaxTokens
}

// Size says how large samples are to be made, and how text is counted.
type Size struct {
	// Tokens of the whole sample, the answer's MaxTokens included; generators fill up to it, files are cut in the middle to it. It does not include
	// what a chat template adds: a caller that uses one takes that off first.
	Tokens int
	Count  func(text string) int // tokens of a text
	// Cut takes the first and last tokens of a text, head+tail tokens in all, as benchmarks truncate in the middle.
	Cut func(text string, head, tail int) string
}

// maxTokens bounds the samples: a generator fills up to what it is told.
const maxTokens = 1 << 24

// Validate reports a size that no sample can have, or that cannot be counted.
func (z Size) Validate() error {
	switch {
	case z.Count == nil || z.Cut == nil:
		return errors.New("eval: a size without a tokenizer")
	case z.Tokens < 1 || z.Tokens > maxTokens:
		return fmt.Errorf("eval: samples of %d tokens: expected 1 to %d", z.Tokens, maxTokens)
	}
	return nil
}

// ErrSize is wrapped by the errors of Samples where even the smallest sample is larger than the size.
var ErrSize = errors.New("more tokens than asked for")

// Task makes samples and scores answers. Implementations hold no state that a call changes.
type Task interface {
	// Name is the task's published name, e.g. "niah_multikey_2".
	Name() string
	// Samples makes n samples from the seed; fewer if the task is a file with fewer, and n for every cell if the task is a grid. An error says what was missing.
	Samples(n int, seed uint64, size Size) ([]Sample, error)
	// Score is the metric of an answer, in [0,1].
	Score(s *Sample, answer string) float64
	// Metric names the score: "string_match_all", "f1", "rouge-l", "exact".
	Metric() string
}

// Monotone is a Task whose score no words that follow can lower, since its metric looks for what occurs anywhere in an answer. Once the score is 1, the answer may end.
type Monotone interface {
	Task
	Monotone()
}

// Rand is the generator of a task's i-th sample: samples do not depend on how many others were made before.
func Rand(name string, seed uint64, i int) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64()+uint64(i)))
}

// Choose draws min(n, total) of total rows of a file from the seed, in the file's order.
func Choose(name string, total, n int, seed uint64) []int {
	rows := Rand(name, seed, -1).Perm(total)
	rows = rows[:min(max(n, 0), total)]
	slices.Sort(rows)
	return rows
}

// Largest is the largest n in [low,high] for which fits holds, by bisection, or low-1 if there is none. fits must not hold again behind an n for which it does not.
func Largest(low, high int, fits func(n int) bool) int {
	return low - 1 + sort.Search(high-low+1, func(i int) bool { return !fits(low + i) })
}

// CutMiddle is a text of at most limit tokens: its first and last halves of that many where it has more, as LongBench truncates prompts. Where the two halves
// joined have more tokens than they had apart, they are shorter by as many.
func CutMiddle(text string, limit int, size Size) string {
	if size.Count(text) <= limit {
		return text
	}
	for keep := limit; keep > 1; {
		cut := size.Cut(text, keep/2, keep/2)
		n := size.Count(cut)
		if n <= limit {
			return cut
		}
		keep = min(keep-1, keep-(n-limit))
	}
	return ""
}
