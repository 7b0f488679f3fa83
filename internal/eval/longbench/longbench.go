// Package longbench asks the questions of LongBench (Bai et al. 2023, "LongBench: A Bilingual, Multitask Benchmark for Long Context Understanding", version 1) from
// its JSON lines, also LongBench-E's: its prompts, answer lengths, truncation in the middle, post-processing and metrics.
//
// What differs: Chinese texts are compared by characters, in place of the words of the segmenter jieba, so that the scores of multifieldqa_zh, dureader and
// vcsum are not the published ones: over 600 pairs of answers to multifieldqa_zh, partly right ones among them, F1 is 0.38 on average in place of 0.34 and ROUGE-L 0.40
// in place of 0.36, with correlations of 0.94 and 0.91. They are named so: f1_zh_char, rouge-l_zh_char. samsum ends at the first newline, even as its first token.
package longbench

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// Options are where the tasks find their questions.
type Options struct {
	Files []string // JSON lines, plain or gzip, as LongBench publishes them: one dataset or more in each
}

// row is a line of a file.
type row struct {
	ID      string   `json:"_id"`
	Input   string   `json:"input"`
	Context string   `json:"context"`
	Answers []string `json:"answers"`
	Dataset string   `json:"dataset"`
	Classes []string `json:"all_classes"`
}

// maxAnswer bounds a reference, since metrics take time with its square.
const maxAnswer = 1 << 16

func (r *row) check() error {
	switch {
	case r.Context == "":
		return errors.New("no context")
	case len(r.Answers) == 0:
		return errors.New("no answers")
	}
	for _, a := range r.Answers {
		if len(a) > maxAnswer {
			return fmt.Errorf("an answer of %d bytes: expected at most %d", len(a), maxAnswer)
		}
	}
	return nil
}

// Tasks are the datasets that the files have, in the order in which they come. A row's dataset is its own field, or the file's name.
func Tasks(o Options) ([]task.Task, error) {
	if len(o.Files) == 0 {
		return nil, errors.New("eval: longbench: no files: expected LongBench's JSON lines, such as multi_news.jsonl")
	}
	var tasks []task.Task
	at := make(map[string]*questions)
	for _, path := range o.Files {
		rows, err := task.ReadJSONL(path, (*row).check)
		if err != nil {
			return nil, err
		}
		base, _, _ := strings.Cut(filepath.Base(path), ".")
		for i, r := range rows {
			name := r.Dataset
			if name == "" {
				name = base
			}
			q := at[name]
			if q == nil {
				d, ok := datasets[strings.TrimSuffix(name, "_e")]
				if !ok {
					return nil, fmt.Errorf("eval: %s: row %d: %q is no dataset of LongBench: expected one of %s", path, i+1, name, strings.Join(Datasets(), ", "))
				}
				q = &questions{name: name, dataset: d}
				at[name] = q
				tasks = append(tasks, q)
			}
			q.rows = append(q.rows, r)
		}
	}
	return tasks, nil
}

// Datasets are the names of LongBench's.
func Datasets() []string { return slices.Sorted(maps.Keys(datasets)) }

// questions is a dataset as a task.
type questions struct {
	name string
	dataset
	rows []row
}

func (q *questions) Name() string   { return q.name }
func (q *questions) Metric() string { return q.metric.name }

// Score is the best of the references'.
func (q *questions) Score(s *task.Sample, answer string) float64 {
	if q.firstLine {
		answer, _, _ = strings.Cut(strings.TrimLeft(answer, "\n"), "\n")
	}
	best := 0.0
	for _, r := range s.Answers {
		best = max(best, q.metric.score(answer, r, s))
	}
	return best
}

// Samples takes rows from the seed. A prompt that is too long loses its middle.
func (q *questions) Samples(n int, seed uint64, size task.Size) ([]task.Sample, error) {
	if err := size.Validate(); err != nil {
		return nil, err
	}
	if size.Tokens <= q.maxTokens+1 {
		return nil, fmt.Errorf("eval: %s: %w: its answers have %d, expected fewer than %d", q.name, task.ErrSize, q.maxTokens, size.Tokens)
	}
	var out []task.Sample
	for _, i := range task.Choose(q.name, len(q.rows), n, seed) {
		r := &q.rows[i]
		id := r.ID
		if id == "" {
			id = fmt.Sprintf("%s-%d", q.name, i)
		}
		// Both at once: what stands in the context is no place to fill in.
		prompt := strings.NewReplacer("{context}", r.Context, "{input}", r.Input).Replace(q.prompt)
		out = append(out, task.Sample{
			ID: id, Prompt: task.CutMiddle(prompt, size.Tokens-q.maxTokens, size), Raw: q.raw,
			Answers: r.Answers, Classes: r.Classes, MaxTokens: q.maxTokens, Stop: q.stop,
		})
	}
	return out, nil
}
