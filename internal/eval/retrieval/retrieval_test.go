package retrieval

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/eval/task"
	"github.com/twilight-go/twilight/internal/testenv"
)

// size counts bytes.
func size(tokens int) task.Size {
	return task.Size{Tokens: tokens, Count: func(s string) int { return len(s) }, Cut: func(text string, head, tail int) string { return text[:head] + text[len(text)-tail:] }}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	kv    = `{"ordered_kv_records":[["a","1"],["b","2"],["c","3"],["d","4"]],"key":"c","value":"3"}`
	lines = `{"expected_number":31,"correct_line":"line b-b: REGISTER_CONTENT is <31>\n","prompt":"Below. Now the record start:\n\nline a-a: REGISTER_CONTENT is <5>\nline b-b: REGISTER_CONTENT is <31>\nline c-c: REGISTER_CONTENT is <7>\n\nNow the record is over. Tell me what is the <REGISTER_CONTENT> in line b-b? I need the number. "}`
)

func TestPrompts(t *testing.T) {
	tasks, err := Tasks(Options{KV: write(t, "kv", kv), Lines: []string{write(t, "lines", lines)}})
	if err != nil {
		t.Fatal(err)
	}
	places := map[int]bool{}
	for seed := range uint64(40) {
		s, err := tasks[0].Samples(1, seed, size(400))
		if err != nil {
			t.Fatal(err)
		}
		places[strings.Index(s[0].Prompt, `"c": "3"`)] = true
		if seed > 0 {
			continue
		}
		records := []string{`"a": "1"`, `"b": "2"`, `"d": "4"`}
		at := 0
		for ; at < 4 && !strings.Contains(s[0].Prompt, "{"+strings.Join(slices.Insert(slices.Clone(records), at, `"c": "3"`), ",\n ")+"}"); at++ {
		}
		head, tail := "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{\"", "\"}\n\nKey: \"c\"\nCorresponding value:"
		if at == 4 || !strings.HasPrefix(s[0].Prompt, head) || !strings.HasSuffix(s[0].Prompt, tail) {
			t.Errorf("%q", s[0].Prompt)
		}
	}
	if len(places) != 4 { // of 40 fixed seeds
		t.Errorf("the key's places over the seeds: %v, want four", places)
	}

	full := "Below. Now the record start:\n\nline a-a: REGISTER_CONTENT is <5>\nline b-b: REGISTER_CONTENT is <31>\nline c-c: REGISTER_CONTENT is <7>\n\nNow the record is over. Tell me what is the <REGISTER_CONTENT> in line b-b? I need the number. "
	s, err := tasks[1].Samples(1, 1, size(len(full)+answerTokens))
	if err != nil || s[0].Prompt != full {
		t.Errorf("%q, %v", s[0].Prompt, err)
	}
	one := strings.Replace(strings.Replace(full, "line a-a: REGISTER_CONTENT is <5>\n", "", 1), "line c-c: REGISTER_CONTENT is <7>\n", "", 1)
	s, err = tasks[1].Samples(1, 1, size(len(one)+answerTokens))
	if err != nil || s[0].Prompt != one {
		t.Errorf("%q, %v", s[0].Prompt, err)
	}
	if _, err := tasks[1].Samples(1, 1, size(len(one)+answerTokens-1)); !errors.Is(err, task.ErrSize) {
		t.Error(err)
	}
}

func TestScores(t *testing.T) {
	for answer, want := range map[string][2]float64{
		"It is <024140>.": {1, 1}, "24140 in line 7": {0, 1}, "24140": {1, 1}, "none": {0, 0}, "": {0, 0},
	} {
		if a, b := lastInteger(answer, "24140"), contains(answer, "24140"); a != want[0] || b != want[1] {
			t.Errorf("%q: %g and %g, want %g", answer, a, b, want)
		}
	}
	if lastInteger("0", "0") != 1 {
		t.Error("nought")
	}
}

func TestErrors(t *testing.T) {
	for text, message := range map[string]string{
		`{"ordered_kv_records":[["a"]],"key":"a","value":"1"}`:                     "record 0 has 1 strings",
		`{"ordered_kv_records":[["a","1"],["a","2"]],"key":"a","value":"1"}`:       "stands twice",
		`{"ordered_kv_records":[["a","1"]],"key":"b","value":"1"}`:                 "no record",
		`{"ordered_kv_records":[["a",""]],"key":"a","value":""}`:                   "no record",
		`{"ordered_kv_records":[["a","1"]],"key":"a","value":"1"}` + "\n{\"key\":": "line 2",
	} {
		if _, err := Tasks(Options{KV: write(t, "kv", text)}); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v, want %q", text, err, message)
		}
	}
	longer := strings.Replace(lines, "line c-c: REGISTER_CONTENT is <7>\\n", "line c-c: REGISTER_CONTENT is <7>\\nline d-d: REGISTER_CONTENT is <8>\\n", 1)
	for text, message := range map[string]string{
		`{"prompt":"none"}`: "without lines", strings.Replace(lines, ":31", ":32", 1): "no <32>", strings.Replace(lines, `"line b-b`, `"line x`, 1): "not in the prompt",
		lines + "\n" + longer: "row 2 has 4 records",
	} {
		if _, err := Tasks(Options{Lines: []string{write(t, "lines", text)}}); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v, want %q", text, err, message)
		}
	}
	if _, err := Tasks(Options{}); err == nil {
		t.Error("no files: no error")
	}
}

// The whole shared files: every question fits and holds its answer at the depth that it states, in full where there is room, and else as full as it gets.
func TestShared(t *testing.T) {
	o := Options{KV: testenv.Shared(t, "retrieval", "kv-retrieval-75_keys.jsonl.gz")}
	for _, n := range []int{200, 600} {
		o.Lines = append(o.Lines, testenv.Shared(t, "retrieval", fmt.Sprintf("longchat-%d_lines.jsonl", n)))
	}
	tasks, err := Tasks(o)
	if err != nil || len(tasks) != 3 {
		t.Fatalf("%d tasks, %v", len(tasks), err)
	}
	for k, want := range []struct {
		name  string
		rows  int
		lines int
	}{{"kv_retrieval_75", 500, 75}, {"lines_200", 50, 200}, {"lines_600", 50, 600}} {
		if got := tasks[k].Name(); got != want.name {
			t.Errorf("%s, want %s", got, want.name)
		}
		for _, tokens := range []int{3000, 100_000} {
			samples, err := tasks[k].Samples(1000, 1, size(tokens))
			if err != nil || len(samples) != want.rows {
				t.Fatalf("%s: %d samples, %v", want.name, len(samples), err)
			}
			again, err := tasks[k].Samples(1000, 1, size(tokens))
			if err != nil || !reflect.DeepEqual(again, samples) {
				t.Errorf("%s: not the same again: %v", want.name, err)
			}
			var early, late int
			for i := range samples {
				s := &samples[i]
				n := strings.Count(s.Prompt, "REGISTER_CONTENT is <") + strings.Count(s.Prompt, "\": \"")
				if got := s.Tokens(size(tokens)); got > tokens || n < want.lines && got < tokens-120 || tokens == 100_000 && n != want.lines {
					t.Errorf("%s: %d tokens of %d, %d records", s.ID, got, tokens, n)
				}
				record, _, _ := strings.Cut(s.Prompt[int(s.Depths[0]*float64(len(s.Prompt))+0.5):], "\n")
				if !strings.Contains(record, s.Answers[0]) {
					t.Errorf("%s: at depth %g stands %q, want %s", s.ID, s.Depths[0], record, s.Answers[0])
				}
				if s.Depths[0] < 0.5 {
					early++
				} else {
					late++
				}
				if tasks[k].Score(s, "It is "+s.Answers[0]+".") != 1 || tasks[k].Score(s, "17") != 0 {
					t.Errorf("%s: scores", s.ID)
				}
			}
			if min(early, late) < want.rows/5 {
				t.Errorf("%s: %d in the first half, %d in the second", want.name, early, late)
			}
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte(kv))
	f.Add([]byte(lines))
	f.Fuzz(func(t *testing.T, data []byte) {
		var all []record
		if rows, err := task.DecodeJSONL(bytes.NewReader(data), (*kvRow).check); err == nil {
			for i := range rows {
				all = append(all, rows[i].record())
			}
		}
		if rows, err := task.DecodeJSONL(bytes.NewReader(data), (*linesRow).check); err == nil {
			for i := range rows {
				all = append(all, rows[i].record())
			}
		}
		for _, r := range all {
			for n := 1; n <= min(len(r.lines), 5); n++ {
				for _, place := range []float64{0, 0.5, 1} {
					if s := r.sample(n, place); !strings.Contains(s.Prompt, r.lines[r.gold]) {
						t.Fatalf("%q without %q", s.Prompt, r.lines[r.gold])
					}
				}
			}
		}
	})
}
