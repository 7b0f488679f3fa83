// Package retrieval asks for one record of many: values of keys in a JSON object (Liu et al. 2023, "Lost in the Middle: How Language Models Use Long Contexts")
// and contents of lines (Li et al. 2023, "How Long Can Open-Source LLMs Truly Promise on Context Length?", LongChat), with the prompts and accuracies of their authors.
//
// Where all records of a question do not fit the size, it has fewer: as many as fit, in their order, with the wanted one among them.
package retrieval

import (
	"errors"
	"fmt"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// Options are where the tasks find their questions, as JSON lines, plain or gzip.
type Options struct {
	KV    string   // of Lost in the Middle, e.g. kv-retrieval-75_keys.jsonl.gz; "": no kv_retrieval
	Lines []string // of LongChat, e.g. longchat-200_lines.jsonl: one number of lines in each
}

// Tasks are kv_retrieval_N for a file of N keys, and lines_N for each file of N lines.
func Tasks(o Options) ([]task.Task, error) {
	var tasks []task.Task
	if o.KV != "" {
		rows, err := task.ReadJSONL(o.KV, (*kvRow).check)
		if err == nil {
			tasks, err = add(tasks, o.KV, "kv_retrieval", len(rows), func(i int) record { return rows[i].record() }, contains)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, path := range o.Lines {
		rows, err := task.ReadJSONL(path, (*linesRow).check)
		if err == nil {
			tasks, err = add(tasks, path, "lines", len(rows), func(i int) record { return rows[i].record() }, lastInteger)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(tasks) == 0 {
		return nil, errors.New("eval: retrieval: no files: expected kv-retrieval-N_keys.jsonl.gz or longchat-N_lines.jsonl")
	}
	return tasks, nil
}

// add adds the task of a file's rows, named by how many records each has.
func add(tasks []task.Task, path, name string, rows int, row func(i int) record, score func(answer, want string) float64) ([]task.Task, error) {
	n := len(row(0).lines)
	for i := range rows {
		if have := len(row(i).lines); have != n {
			return nil, fmt.Errorf("eval: %s: row %d has %d records, the first %d: expected one number in a file", path, i+1, have, n)
		}
	}
	return append(tasks, &records{name: fmt.Sprintf("%s_%d", name, n), rows: rows, record: row, score: score}), nil
}

// record is a question: text before the records, records, text behind.
type record struct {
	head, tail string
	lines      []string
	gold       int  // the line that holds the answer
	moves      bool // to a place drawn from the seed, as Lost in the Middle varies it; otherwise it stays at its depth
	answer     string
	join       func(lines []string) string
}

// answerTokens is how much both authors let a model answer.
const answerTokens = 100

// records is a file of questions as a task.
type records struct {
	name   string
	rows   int
	record func(i int) record
	score  func(answer, want string) float64
}

func (t *records) Name() string                                { return t.name }
func (t *records) Metric() string                              { return "accuracy" }
func (t *records) Score(s *task.Sample, answer string) float64 { return t.score(answer, s.Answers[0]) }

// Samples takes questions from the seed, each with as many records as fit.
func (t *records) Samples(n int, seed uint64, size task.Size) ([]task.Sample, error) {
	if err := size.Validate(); err != nil {
		return nil, err
	}
	var out []task.Sample
	for _, i := range task.Choose(t.name, t.rows, n, seed) {
		r := t.record(i)
		place := float64(r.gold) / float64(max(1, len(r.lines)-1))
		if r.moves {
			place = task.Rand(t.name, seed, i).Float64()
		}
		sample := func(lines int) task.Sample {
			s := r.sample(lines, place)
			s.ID = fmt.Sprintf("%s-%d", t.name, i)
			return s
		}
		lines := task.Largest(1, len(r.lines), func(lines int) bool {
			s := sample(lines)
			return s.Tokens(size) <= size.Tokens
		})
		if lines == 0 {
			s := sample(1)
			return nil, fmt.Errorf("eval: %s: %w: a question with one record has %d, expected at most %d", t.name, task.ErrSize, s.Tokens(size), size.Tokens)
		}
		out = append(out, sample(lines))
	}
	return out, nil
}

// sample is the question with n of its records, the wanted one at a place from 0, the first, to 1, the last.
func (r *record) sample(n int, place float64) task.Sample {
	at := int(place*float64(n-1) + 0.5)
	lines := make([]string, 0, n)
	if r.moves {
		for i, l := range r.lines {
			if i != r.gold && len(lines) < n-1 {
				lines = append(lines, l)
			}
		}
		lines = append(lines[:at], append([]string{r.lines[r.gold]}, lines[at:]...)...)
	} else {
		at = min(at, r.gold)
		from := min(r.gold-at, len(r.lines)-n)
		lines = append(lines, r.lines[from:from+n]...)
	}
	prompt := r.head + r.join(lines) + r.tail
	depth := float64(strings.Index(prompt, r.lines[r.gold])) / float64(len(prompt))
	return task.Sample{Prompt: prompt, Answers: []string{r.answer}, MaxTokens: answerTokens, Depths: []float64{depth}}
}
