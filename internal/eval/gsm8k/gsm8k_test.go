package gsm8k

import (
	"bytes"
	"errors"
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
	return task.Size{Tokens: tokens, Count: func(s string) int { return len(strings.Fields(s)) }, Cut: func(text string, _, _ int) string { return text }}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gsm8k.jsonl")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const problem = `{"question":"Two and two?","answer":"2 + 2 = <<2+2=4>>4\n#### 4"}`

func TestPrompt(t *testing.T) {
	tasks, err := Tasks(Options{File: write(t, problem)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := tasks[0].Samples(1, 1, size(2000))
	if err != nil {
		t.Fatal(err)
	}
	p := s[0].Prompt
	if strings.Count(p, "Q: ") != 9 || strings.Count(p, "The answer is ") != 8 || !strings.HasPrefix(p, "Q: There are 15 trees") || !strings.HasSuffix(p, "The answer is 8.\n\nQ: Two and two?\nA:") || !s[0].Raw {
		t.Errorf("%s", p)
	}
	s, err = tasks[0].Samples(1, 1, size(answerTokens+5+len(strings.Fields(examples[0]))))
	if err != nil || s[0].Prompt != examples[0]+"Q: Two and two?\nA:" {
		t.Errorf("%+v, %v; want one example", s, err)
	}
	s, err = tasks[0].Samples(1, 1, size(answerTokens+5))
	if err != nil || s[0].Prompt != "Q: Two and two?\nA:" {
		t.Errorf("%+v, %v; want none", s, err)
	}
	if _, err := tasks[0].Samples(1, 1, size(answerTokens+4)); !errors.Is(err, task.ErrSize) {
		t.Error(err)
	}
	for answer, want := range map[string]float64{" 2 + 2 = 4. The answer is 4.": 1, "4 of 5": 0, "$4.00": 1, "four": 0} {
		if got := tasks[0].Score(&s[0], answer); got != want {
			t.Errorf("%q: %g, want %g", answer, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for text, message := range map[string]string{`{"question":"x","answer":"4"}`: "####", `{"question":"x","answer":"#### four"}`: "number", `{"answer":"#### 4"}`: "no question"} {
		if _, err := Tasks(Options{File: write(t, problem+"\n"+text)}); err == nil || !strings.Contains(err.Error(), message) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Tasks(Options{}); err == nil {
		t.Error("no file: no error")
	}
}

// The whole shared file: each solution of the file is a right answer.
func TestShared(t *testing.T) {
	tasks, err := Tasks(Options{File: testenv.Shared(t, "gsm8k", "test.jsonl")})
	if err != nil {
		t.Fatal(err)
	}
	samples, err := tasks[0].Samples(1<<20, 1, size(2000))
	if err != nil || len(samples) != 1319 {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	for i := range samples {
		if s := &samples[i]; tasks[0].Score(s, "So it is $"+s.Answers[0]+".") != 1 || s.Tokens(size(2000)) > 2000 {
			t.Errorf("%s: %+v", s.ID, s.Answers)
		}
	}
	some, err := tasks[0].Samples(20, 4, size(2000))
	again, err2 := tasks[0].Samples(20, 4, size(2000))
	if err := errors.Join(err, err2); err != nil || len(some) != 20 || !reflect.DeepEqual(some, again) {
		t.Errorf("%d samples, %v", len(some), err)
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte(problem))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := task.DecodeJSONL(bytes.NewReader(data), (*row).check)
		if err != nil {
			return
		}
		samples, err := problems(rows).Samples(3, 1, task.Size{Tokens: 1 << 24, Count: func(string) int { return 1 }, Cut: func(string, int, int) string { return "" }})
		if err != nil {
			t.Fatal(err)
		}
		for i := range samples {
			if s := &samples[i]; problems(nil).Score(s, s.Answers[0]) != 1 {
				t.Fatalf("%q is not its own answer", s.Answers[0])
			}
		}
	})
}
