package longbench

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/eval/task"
	"github.com/twilight-go/twilight/internal/testenv"
)

// size counts words.
func size(tokens int) task.Size {
	return task.Size{Tokens: tokens, Count: func(s string) int { return len(strings.Fields(s)) }, Cut: func(text string, head, tail int) string {
		w := strings.Fields(text)
		return strings.Join(w[:head], " ") + " " + strings.Join(w[len(w)-tail:], " ")
	}}
}

// write writes rows to a file.
func write(t *testing.T, name string, rows ...row) string {
	t.Helper()
	var b bytes.Buffer
	for _, r := range rows {
		if err := json.NewEncoder(&b).Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every dataset has a prompt with its context, and scores a right answer 1 and nothing 0.
func TestDatasets(t *testing.T) {
	if len(datasets) != 21 {
		t.Fatalf("%d datasets", len(datasets))
	}
	right := map[string]string{"retrieval": "Paragraph 7", "retrieval_zh": "段落7", "count": "7", "code_sim": "x = y", "classification": "Date"}
	for name, d := range datasets {
		answer, ok := right[d.metric.name]
		if !ok {
			answer = "blue whale"
		}
		path := write(t, name+".jsonl", row{ID: "r", Input: "THE {context} INPUT", Context: "THE {input} CONTEXT", Answers: []string{"other 3", answer}, Classes: []string{"Date", "City"}})
		if d.metric.name == "retrieval" || d.metric.name == "retrieval_zh" {
			path = write(t, name+".jsonl", row{ID: "r", Input: "THE {context} INPUT", Context: "THE {input} CONTEXT", Answers: []string{answer}})
		}
		tasks, err := Tasks(Options{Files: []string{path}})
		if err != nil || len(tasks) != 1 || tasks[0].Name() != name || tasks[0].Metric() != d.metric.name {
			t.Fatalf("%s: %v, %v", name, tasks, err)
		}
		samples, err := tasks[0].Samples(5, 1, size(4096))
		if err != nil || len(samples) != 1 {
			t.Fatalf("%s: %d samples, %v", name, len(samples), err)
		}
		s := &samples[0]
		if !strings.Contains(s.Prompt, "THE {input} CONTEXT") || strings.Contains(d.prompt, "{input}") != strings.Contains(s.Prompt, "THE {context} INPUT") {
			t.Errorf("%s: %s", name, s.Prompt)
		}
		if s.ID != "r" || s.MaxTokens != d.maxTokens || s.Raw != d.raw {
			t.Errorf("%s: %+v", name, s)
		}
		after := "\nDialogue: more 8"
		if !d.firstLine {
			after = ""
		}
		if got := tasks[0].Score(s, answer+after); got < 1-1e-7 { // ROUGE's denominator has 1e-8 more
			t.Errorf("%s: the answer scores %g", name, got)
		}
		if got := tasks[0].Score(s, ""); got != 0 {
			t.Errorf("%s: nothing scores %g", name, got)
		}
	}
}

func TestTruncation(t *testing.T) {
	words := strings.Repeat("left ", 300) + strings.Repeat("right ", 300)
	path := write(t, "hotpotqa_e.jsonl", row{Context: words, Input: "LAST", Answers: []string{"x"}})
	tasks, err := Tasks(Options{Files: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	samples, err := tasks[0].Samples(1, 1, size(332))
	if err != nil {
		t.Fatal(err)
	}
	s := samples[0]
	left, right := strings.Count(s.Prompt, "left"), strings.Count(s.Prompt, "right")
	if n := s.Tokens(size(332)); n != 332 || !strings.HasPrefix(s.Prompt, "Answer the question based") || !strings.HasSuffix(s.Prompt, "LAST Answer:") || left < 100 || right < 100 {
		t.Errorf("%d tokens, %d left, %d right: %s", n, left, right, s.Prompt)
	}
	if s.ID != "hotpotqa_e-0" {
		t.Error(s.ID)
	}
	if _, err := tasks[0].Samples(1, 1, size(33)); err == nil {
		t.Error("no error where the answer alone is too long")
	}
}

func TestErrors(t *testing.T) {
	ok := row{Context: "c", Answers: []string{"a"}}
	for message, files := range map[string][]string{
		"no files": nil, "expected one of 2wikimqa, dureader": {write(t, "mystery.jsonl", ok)}, "no context": {write(t, "trec.jsonl", row{Answers: []string{"a"}})},
		"line 2: no answers": {write(t, "trec.jsonl", ok, row{Context: "c"})}, "absent.jsonl": {"absent.jsonl"},
		"expected at most 65536": {write(t, "trec.jsonl", row{Context: "c", Answers: []string{strings.Repeat("a", maxAnswer+1)}})},
	} {
		if _, err := Tasks(Options{Files: files}); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%v, want %q", err, message)
		}
	}
}

// The shared files are read whole; samples are as many as asked, the same from the same seed, and fit.
func TestShared(t *testing.T) {
	tasks, err := Tasks(Options{Files: []string{testenv.Shared(t, "longbench", "multi_news.jsonl"), testenv.Shared(t, "longbench", "multifieldqa_zh.jsonl")}})
	if err != nil || len(tasks) != 2 {
		t.Fatalf("%d tasks, %v", len(tasks), err)
	}
	// Chinese has no spaces: characters are tokens.
	chars := task.Size{Tokens: 4000, Count: func(s string) int { return len([]rune(s)) }, Cut: func(text string, head, tail int) string {
		r := []rune(text)
		return string(r[:head]) + string(r[len(r)-tail:])
	}}
	for _, k := range tasks {
		for n, want := range map[int]int{7: 7, 1000: 200} {
			samples, err := k.Samples(n, 3, chars)
			if err != nil || len(samples) != want {
				t.Fatalf("%s: %d samples, %v", k.Name(), len(samples), err)
			}
			for i := range samples {
				s := &samples[i]
				if got := s.Tokens(chars); got > chars.Tokens {
					t.Errorf("%s: %d tokens", s.ID, got)
				}
				if got := k.Score(s, s.Answers[0]); got < 1-1e-7 {
					t.Errorf("%s: the answer scores %g", s.ID, got)
				}
			}
			if again, err := k.Samples(n, 3, chars); err != nil || !reflect.DeepEqual(again, samples) {
				t.Errorf("%s: not the same again: %v", k.Name(), err)
			}
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte(`{"_id":"a","input":"q","context":"c","answers":["x"],"all_classes":null}`))
	f.Add([]byte(`{"context":"c","answers":[""],"dataset":"trec"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := task.DecodeJSONL(bytes.NewReader(data), (*row).check)
		if err != nil {
			return
		}
		for name, d := range datasets {
			q := questions{name: name, dataset: d, rows: rows}
			samples, err := q.Samples(2, 1, size(1000))
			if err != nil {
				t.Fatal(err)
			}
			for i := range samples {
				if got := q.Score(&samples[i], "Paragraph 3"); !(got >= 0 && got <= 1) {
					t.Fatalf("%s: %g", name, got)
				}
			}
		}
	})
}
