package ruler

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// builder collects a corpus in which a document stands once.
type builder struct {
	corpus
	index map[string]int
}

func (b *builder) doc(text string) int {
	i, ok := b.index[text]
	if !ok {
		i = len(b.docs)
		if b.index == nil {
			b.index = make(map[string]int)
		}
		b.index[text] = i
		b.docs = append(b.docs, text)
	}
	return i
}

// done is the corpus, if it has what a question needs.
func (b *builder) done() (*corpus, error) {
	if len(b.questions) == 0 {
		return nil, errors.New("no questions with answers and documents")
	}
	return &b.corpus, nil
}

// nqRow is a line of the questions of Natural Questions with retrieved passages, as published with "Lost in the Middle" (Liu et al. 2023).
type nqRow struct {
	Question string   `json:"question"`
	Answers  []string `json:"answers"`
	Ctxs     []struct {
		Title  string `json:"title"`
		Text   string `json:"text"`
		IsGold bool   `json:"isgold"`
	} `json:"ctxs"`
}

func (r *nqRow) check() error {
	switch {
	case r.Question == "":
		return errors.New("no question")
	case len(r.Answers) == 0:
		return errors.New("no answers")
	case len(r.Ctxs) == 0:
		return errors.New("no passages (ctxs)")
	}
	return nil
}

// readNQ reads the file. An error names it.
func readNQ(path string) (*corpus, error) {
	rows, err := task.ReadJSONL(path, (*nqRow).check)
	if err != nil {
		return nil, err
	}
	return naturalQuestions(rows)
}

// naturalQuestions takes the passages that answer each question; a document is a title, then the text, as in HotpotQA's.
func naturalQuestions(rows []nqRow) (*corpus, error) {
	var b builder
	for _, r := range rows {
		q := question{text: r.Question, answers: r.Answers}
		for _, p := range r.Ctxs {
			if d := b.doc(p.Title + "\n" + p.Text); p.IsGold {
				q.docs = append(q.docs, d)
			}
		}
		if len(q.docs) > 0 {
			b.questions = append(b.questions, q)
		}
	}
	return b.done()
}

// parseSQuAD reads SQuAD 2.0's JSON: the questions that have an answer, and the paragraphs of the same article as their first distractors.
func parseSQuAD(data []byte) (*corpus, error) {
	var file struct {
		Data []struct {
			Paragraphs []struct {
				Context string `json:"context"`
				QAs     []struct {
					Question   string `json:"question"`
					Impossible bool   `json:"is_impossible"`
					Answers    []struct {
						Text string `json:"text"`
					} `json:"answers"`
				} `json:"qas"`
			} `json:"paragraphs"`
		} `json:"data"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	var b builder
	for _, article := range file.Data {
		var near []int
		for _, p := range article.Paragraphs {
			near = append(near, b.doc(p.Context))
		}
		for k, p := range article.Paragraphs {
			for _, qa := range p.QAs {
				if qa.Impossible || len(qa.Answers) == 0 {
					continue
				}
				q := question{text: qa.Question, docs: near[k : k+1], near: near}
				for _, a := range qa.Answers {
					q.answers = append(q.answers, a.Text)
				}
				b.questions = append(b.questions, q)
			}
		}
	}
	return b.done()
}

// parseHotpot reads HotpotQA's JSON: each question comes with all of its own passages.
func parseHotpot(data []byte) (*corpus, error) {
	var file []struct {
		Question string               `json:"question"`
		Answer   string               `json:"answer"`
		Context  [][2]json.RawMessage `json:"context"` // a title and its sentences
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	var b builder
	for i, r := range file {
		q := question{text: r.Question, answers: []string{r.Answer}}
		for _, c := range r.Context {
			var title string
			var lines []string
			if err := errors.Join(json.Unmarshal(c[0], &title), json.Unmarshal(c[1], &lines)); err != nil {
				return nil, fmt.Errorf("question %d: %w", i, err)
			}
			q.docs = append(q.docs, b.doc(title+"\n"+strings.Join(lines, "")))
		}
		if len(q.docs) > 0 {
			b.questions = append(b.questions, q)
		}
	}
	return b.done()
}

// maxJSON bounds a file that is read whole; SQuAD's and HotpotQA's have some 50 MB.
const maxJSON = 1 << 28

// whole returns a reader of a file that is parsed as a whole.
func whole(parse func(data []byte) (*corpus, error)) func(path string) (*corpus, error) {
	return func(path string) (*corpus, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
		if err == nil && len(data) > maxJSON {
			err = fmt.Errorf("more than %d bytes", maxJSON)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		c, err := parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return c, nil
	}
}
