// Package ruler makes the tasks of RULER (Hsieh et al. 2024, "RULER: What's the Real Context Size of Your Long-Context Language Models?") as its published
// generators do: the same prompts, parameters, depths, answer prefixes and metrics, filled up to a number of tokens, from a seed.
//
// What differs, since the original's material is not here:
//   - The essay haystack is the text that the caller gives, such as a book, in place of Paul Graham's essays. Like the original, every sample begins at its start.
//   - Words come from lists of plain English nouns, adjectives and verbs of our own, in place of the wonderwords package; where cwe needs more than those have,
//     they are the words of the caller's text, in place of a list of English words.
//   - Sentences end by a rule for full stops, quotes and abbreviations, in place of NLTK's Punkt model.
//   - qa_1 and qa_2 are made where the caller has SQuAD's and HotpotQA's files. qa_nq is the same task over questions of Natural Questions with the passage
//     that answers each; the passages of other questions are its distractors.
//   - Random numbers are our own: samples are drawn alike, but are not the same.
//
// What differs on purpose: keys and variables are distinct, so that no question has two answers; each sample is filled by itself, where the original takes the haystack
// that fits its first, and less of it in large steps where that is too long; haystacks may be smaller than the original's least, down to what holds the answers.
package ruler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// Options are where the tasks find their material.
type Options struct {
	Essay    string // a long text: the haystack of the tasks that hide needles in essays
	NQ       string // path of JSON lines of questions with passages, plain or gzip; "": no qa_nq
	SQuAD    string // path of SQuAD 2.0's JSON; "": no qa_1
	HotpotQA string // path of HotpotQA's JSON; "": no qa_2
}

// Tasks are RULER's tasks in its order: niah_single_1 to 3, niah_multikey_1 to 3, niah_multivalue, niah_multiquery, vt, cwe, fwe, and the qa tasks whose files were given.
// Samples may be made by many goroutines at once.
func Tasks(o Options) ([]task.Task, error) {
	essay := strings.Fields(o.Essay)
	if len(essay) == 0 {
		return nil, errors.New("eval: ruler: no text for the essay haystack: expected a long one, such as a book")
	}
	var tasks []task.Task
	for _, c := range needles {
		tasks = append(tasks, c.task(essay))
	}
	tasks = append(tasks, tracking(), commonWords(vocabulary(essay)), frequentWords())
	for _, q := range []struct {
		name, path string
		read       func(path string) (*corpus, error)
	}{{"qa_1", o.SQuAD, whole(parseSQuAD)}, {"qa_2", o.HotpotQA, whole(parseHotpot)}, {"qa_nq", o.NQ, readNQ}} {
		if q.path == "" {
			continue
		}
		c, err := q.read(q.path)
		if err != nil {
			return nil, fmt.Errorf("eval: %s: %w", q.name, err)
		}
		tasks = append(tasks, answering(q.name, c))
	}
	return tasks, nil
}

// generator is a task whose samples are made of any number of units of haystack.
type generator struct {
	name      string
	maxTokens int
	least     int // units that a sample must have
	most      int // units that there are; 0: any number, each of at least a token
	rows      int // of questions; 0: any number
	part      bool
	// prepare returns how to make the i-th sample with some units. Everything that it draws comes from r, which begins anew at each call.
	prepare func(size task.Size) func(r *rand.Rand, i, units int) task.Sample
}

// Name is the name in RULER's tables.
func (g *generator) Name() string { return g.name }

// Metric is RULER's name of it.
func (g *generator) Metric() string {
	if g.part {
		return "string_match_part"
	}
	return "string_match_all"
}

// Score is a share of the references, or 1 for any of them.
func (g *generator) Score(s *task.Sample, answer string) float64 {
	answer = strings.Map(func(r rune) rune {
		if r < ' ' {
			return '\n'
		}
		return r
	}, answer)
	if g.part {
		return task.MatchPart(answer, s.Answers)
	}
	return task.MatchAll(answer, s.Answers)
}

// Monotone implements task.Monotone: what stands in an answer stays there.
func (g *generator) Monotone() {}

// Samples fills each sample up to the size: the units that fit one of them are found by bisection, and are where the search for every other's begins.
func (g *generator) Samples(n int, seed uint64, size task.Size) ([]task.Sample, error) {
	if err := size.Validate(); err != nil {
		return nil, err
	}
	// The sample that is measured does not depend on n, and so no sample does.
	rows, measured := make([]int, max(n, 0)), 0
	for i := range rows {
		rows[i] = i
	}
	if g.rows > 0 {
		rows, measured = task.Choose(g.name, g.rows, n, seed), task.Choose(g.name, g.rows, 1, seed)[0]
	}
	sample := g.prepare(size)
	build := func(i, units int) (task.Sample, int) {
		s := sample(task.Rand(g.name, seed, i), i, units)
		s.ID, s.MaxTokens = fmt.Sprintf("%s-%d", g.name, i), g.maxTokens
		return s, s.Tokens(size)
	}
	units := g.fill(size.Tokens, func(units int) int { _, tokens := build(measured, units); return tokens })
	var out []task.Sample
	for _, i := range rows {
		s, err := g.fit(units, size.Tokens, func(units int) (task.Sample, int) { return build(i, units) })
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// tries bounds the samples that are built to fill one, once one fits.
const tries = 8

// fit builds a sample of at most limit tokens, and if it can of more than 99 in a hundred of them, from a first guess of its units.
func (g *generator) fit(units, limit int, build func(units int) (task.Sample, int)) (best task.Sample, err error) {
	low, high := g.least-1, g.bound(limit)+1 // that fit, that do not
	for try := 0; try < tries || low < g.least; try++ {
		s, tokens := build(units)
		if tokens <= limit {
			best, low = s, units
			if 100*(limit-tokens) <= limit {
				return best, nil
			}
		} else if high = units; high == g.least {
			return best, fmt.Errorf("eval: %s: %w: its smallest sample has %d, expected at most %d", g.name, task.ErrSize, tokens, limit)
		}
		if high-low == 1 {
			break
		}
		units = min(max(units*limit/max(tokens, 1), low+1), high-1)
	}
	return best, nil
}

// bound is the most units of a sample of limit tokens.
func (g *generator) bound(limit int) int {
	if g.most > 0 {
		return g.most
	}
	return max(g.least, limit)
}

// fill is the largest number of units of at most limit tokens: a bound by doubling, then bisection. It is the least number if even that has more.
func (g *generator) fill(limit int, tokens func(units int) int) int {
	low, high, most := g.least, g.least, g.bound(limit)
	for tokens(high) <= limit {
		if low = high; high == most {
			return high
		}
		high = min(2*high, most)
	}
	return max(g.least, task.Largest(low+1, high-1, func(units int) bool { return tokens(units) <= limit }))
}
