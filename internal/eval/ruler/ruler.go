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
// What differs on purpose: keys and variables are distinct, so that no question has two answers; a sample that would be too long loses as many units of haystack
// as it has to, not a fixed number; samples may be shorter than the original's least haystack, down to what holds the answers.
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

// Samples fills each sample up to the size: the units that fit one of them are found by bisection, and a sample in which they take more tokens has fewer.
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
	make := func(i, units int) (task.Sample, int) {
		s := sample(task.Rand(g.name, seed, i), i, units)
		s.MaxTokens = g.maxTokens
		return s, s.Tokens(size)
	}
	units := g.fill(size.Tokens, func(units int) int { _, tokens := make(measured, units); return tokens })
	var out []task.Sample
	for _, i := range rows {
		for u := units; ; {
			s, tokens := make(i, u)
			if tokens <= size.Tokens {
				s.ID = fmt.Sprintf("%s-%d", g.name, i)
				out = append(out, s)
				break
			}
			if u <= g.least {
				return nil, fmt.Errorf("eval: %s: %w: its smallest sample has %d, expected at most %d", g.name, task.ErrSize, tokens, size.Tokens)
			}
			u = max(g.least, u-max(1, u*(tokens-size.Tokens)/tokens))
		}
	}
	return out, nil
}

// fill is the largest number of units of at most limit tokens: a bound by doubling, then bisection. It is the least number if even that has more.
func (g *generator) fill(limit int, tokens func(units int) int) int {
	most := max(g.least, limit)
	if g.most > 0 {
		most = g.most
	}
	low, high := g.least, g.least
	for tokens(high) <= limit {
		if low = high; high == most {
			return high
		}
		high = min(2*high, most)
	}
	return max(g.least, task.Largest(low+1, high-1, func(units int) bool { return tokens(units) <= limit }))
}
