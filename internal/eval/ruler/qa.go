package ruler

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// corpus is questions over documents.
type corpus struct {
	docs      []string
	questions []question
}

type question struct {
	text    string
	answers []string
	docs    []int // that answer it
	near    []int // the distractors to take first: of the same article
}

// answering is question answering: the documents that answer a question among others, in random order. A unit is a document.
func answering(name string, c *corpus) *generator {
	const ask = "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
	g := &generator{name: name, maxTokens: 32, least: 1, rows: len(c.questions), part: true}
	g.prepare = func(task.Size) func(*rand.Rand, int, int) task.Sample {
		return func(r *rand.Rand, i, units int) task.Sample {
			q := &c.questions[i]
			docs := c.choose(r, q, units)
			var b strings.Builder
			var gold []string
			for k, d := range docs {
				text := fmt.Sprintf("Document %d:\n%s\n\n", k+1, c.docs[d])
				if d == q.docs[0] {
					gold = append(gold, text)
				}
				b.WriteString(text)
			}
			prompt := ask + "The following are given documents.\n\n" + b.String() + ask + "Question: " + q.text
			return task.Sample{Prompt: prompt, Begin: " Answer:", Answers: q.answers, Depths: []float64{depth(prompt, gold[0])}}
		}
	}
	return g
}

// choose is n documents, and at least those that answer the question, shuffled. Where there are fewer than n, distractors come again.
func (c *corpus) choose(r *rand.Rand, q *question, n int) []int {
	docs := append([]int(nil), q.docs...)
	used := make(map[int]bool)
	for _, d := range docs {
		used[d] = true
	}
	var more []int
	for _, k := range r.Perm(len(q.near)) {
		if d := q.near[k]; !used[d] {
			used[d] = true
			more = append(more, d)
		}
	}
	for _, d := range r.Perm(len(c.docs)) {
		if !used[d] {
			more = append(more, d)
		}
	}
	for len(more) > 0 && len(docs) < n {
		docs = append(docs, more[:min(len(more), n-len(docs))]...)
	}
	shuffle(r, docs)
	return docs
}
