package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sampleRow(sample, spec string, score float64) Row {
	return Row{Kind: KindSample, Task: "t", Sample: sample, Label: spec, Spec: spec, Size: 100, Seed: 3, Prompt: "p" + sample, Model: "m", Fingerprint: "f", Device: "cpu (x)", Threads: 2, Version: "v",
		Context: 90, Answer: &Answer{Score: score, Metric: "exact", Reply: "a\n\"b\"", Expected: []string{"a"}, Depths: []float64{10}, Generated: 4, Reason: "stop", Seconds: 0.5}}
}

func textRow() Row {
	return Row{Kind: KindText, Task: "text", Sample: "book.txt", Spec: "quest", Size: 100, Scored: 20,
		Text:      &Text{Perplexity: 9, KL: 0.1, NLLSteps: []float64{2, 2.1}, KLSteps: []float64{0.1, 0.1}},
		Attention: Attention{Kept: 7, Measured: true, KeptHeads: [][]float64{{}, {3, 4}}, MassHeads: [][]float64{{}, {0.5, 0.6}}, StepTokens: 16, KeptSteps: []float64{6, 8}, MassSteps: []float64{0.5, 0.6}}}
}

func lines(t *testing.T, rows ...Row) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, r := range rows {
		if err := json.NewEncoder(&b).Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestReadRows(t *testing.T) {
	rows := []Row{sampleRow("1", "dense", 1), textRow(), {Kind: "of-tomorrow"}}
	data := lines(t, rows...)
	got, err := ReadRows(bytes.NewReader(data))
	if diff := cmp.Diff(rows, got); diff != "" || err != nil {
		t.Fatalf("%v\n%s", err, diff)
	}
	// Wherever a run was stopped, the whole lines stand and the torn one is left out.
	whole := bytes.IndexByte(data, '\n') + 1
	for cut := range whole + 40 {
		got, err := ReadRows(bytes.NewReader(data[:cut]))
		if want := bytes.Count(data[:cut], []byte{'\n'}); err != nil || len(got) != want {
			t.Fatalf("cut at %d: %d rows, %v; want %d", cut, len(got), err, want)
		}
	}
	for _, bad := range []string{
		"a novel without an end of line", "a novel\n", "{}\n", "[]\n", `{"kind":"sample"}` + "\n", `{"kind":"text","kl":"x"}` + "\n", `{"kind":1}` + "\n",
		`{"kind":"text","ppl":1,"mass_heads":[[1]]}` + "\n", `{"kind":"text","ppl":1,"kept_heads":[[1,2]],"mass_heads":[[1]]}` + "\n",
		`{"kind":"` + strings.Repeat("x", MaxRow) + "\"}\n", strings.Repeat(" ", MaxRow+1),
	} {
		got, err := ReadRows(strings.NewReader(string(data) + bad))
		if !errors.Is(err, ErrRow) || !strings.Contains(err.Error(), "line 4") || len(got) != 3 {
			t.Errorf("%.40q: %d rows, %v", bad, len(got), err)
		}
	}
}

func FuzzReadRows(f *testing.F) {
	f.Add([]byte(`{"kind":"sample","task":"t","score":1,"depth_percent":[1,2]}` + "\n" + `{"kind":"text","ppl":3,"kept_heads":[[],[1]],"mass_heads":[[],[1]]}` + "\n{\"kin"))
	f.Add([]byte("\n\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, whole, err := readRows(bytes.NewReader(data))
		if whole < 0 || whole > int64(len(data)) {
			t.Fatalf("%d of %d bytes are whole lines", whole, len(data))
		}
		for i := range rows {
			if err := rows[i].check(); err != nil {
				t.Fatal(err)
			}
		}
		Summarize(rows, 1)
		if err != nil {
			return
		}
		// What was read can be written and read again.
		again, err := ReadRows(bytes.NewReader(lines(t, rows...)))
		if err != nil || len(again) != len(rows) {
			t.Fatalf("%d rows became %d: %v", len(rows), len(again), err)
		}
	})
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows.jsonl")
	first, second := sampleRow("1", "dense", 1), sampleRow("2", "dense", 0)
	// Torn anywhere within the second row, the file goes on behind the first.
	data := lines(t, first, second)
	one := bytes.IndexByte(data, '\n') + 1
	for _, cut := range []int{0, 5, one - 1, one, one + 1, one + 12, len(data) - 1, len(data)} {
		if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLog(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []Row{first, second} {
			if l.Find(&r) == nil {
				if err := l.Append(&r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("cut at %d: %v\n%s\nwant\n%s", cut, err, got, data)
		}
	}
	// Another question, seed, model or device is another row; another machine's cpu is not.
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, change := range map[string]func(*Row){
		"task": func(r *Row) { r.Task = "u" }, "sample": func(r *Row) { r.Sample = "3" }, "spec": func(r *Row) { r.Spec = "full" }, "size": func(r *Row) { r.Size++ }, "seed": func(r *Row) { r.Seed++ },
		"model": func(r *Row) { r.Fingerprint = "g" }, "device": func(r *Row) { r.Device = "reference" }, "prompt": func(r *Row) { r.Prompt = "x" }, "measure": func(r *Row) { r.Measured = true },
	} {
		r := first
		change(&r)
		if l.Find(&r) != nil {
			t.Errorf("another %s is found", name)
		}
	}
	same := first
	same.Device, same.Threads, same.Version, same.Label, same.Answer = "cpu (another)", 9, "w", "l", nil
	if found := l.Find(&same); found == nil || found.Score != 1 {
		t.Errorf("%+v", found)
	}
	if err := l.Append(&Row{Kind: KindText}); err == nil {
		t.Error("a row without its part is written")
	}
}

// A file of something else is refused and stays as it was.
func TestLogRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "book.txt")
	for _, text := range []string{"It was a fine day", "It was a fine day\n", "\x00\x01"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenLog(path); !errors.Is(err, ErrRow) || !strings.Contains(err.Error(), "book.txt") {
			t.Errorf("%q: %v", text, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
}

func TestSummarize(t *testing.T) {
	rows := []Row{sampleRow("1", "dense", 1), sampleRow("1", "quest", 0), sampleRow("2", "dense", 1), sampleRow("2", "quest", 1), sampleRow("3", "full", 1), textRow()}
	dense := textRow()
	dense.Spec, dense.Text = "dense", &Text{NLLSteps: []float64{1.5, 1.6}}
	rows = append(rows, dense)
	sums := Summarize(rows, 1)
	if len(sums) != 5 {
		t.Fatalf("%+v", sums)
	}
	quest := sums[1]
	if quest.Spec != "quest" || quest.Score.N != 2 || quest.Score.Mean != 0.5 || *quest.Score.CI95 != [2]float64{0, 1} || quest.VsDense.Mean != -0.5 || *quest.VsDense.CI95 != [2]float64{-1, 0} {
		t.Errorf("%+v %+v %+v", quest, quest.Score, quest.VsDense)
	}
	if sums[2].VsDense != nil {
		t.Error("a difference to dense, which was not asked")
	}
	text := sums[3]
	if text.Kind != KindText || text.VsDense.Mean != 0.5 || text.KL != 0.1 || len(text.KeptHeads) != 2 || text.NLL.Mean != 2.05 {
		t.Errorf("%+v", text)
	}
	// Over several tasks, each counts the same whatever its number of samples.
	other := sampleRow("1", "quest", 0.25)
	other.Task = "u"
	denseOther := sampleRow("1", "dense", 0.75)
	denseOther.Task = "u"
	sums = Summarize(append(rows[:4:4], other, denseOther), 1)
	if len(sums) != 6 || sums[4].Task != Average || sums[5].Task != Average {
		t.Fatalf("%+v", sums)
	}
	for _, s := range sums {
		if s.Task == Average && s.Spec == "quest" && (s.Score.N != 3 || math.Abs(s.Score.Mean-(0.5+0.25)/2) > 1e-12 || math.Abs(s.VsDense.Mean+0.5) > 1e-12 || s.Metric != "") {
			t.Errorf("%+v %+v %+v", s, s.Score, s.VsDense)
		}
	}
	// What audits say of answers is averaged over those of which they say anything.
	audited := slices.Clone(rows[:4])
	for i, half := range []float64{0.03, 1, 0.04} {
		r := sampleRow(string(rune('5'+i)), "quest", 1)
		r.Audits, r.AuditMass, r.AuditHalf = 10, 0.8+0.1*float64(i), half
		audited = append(audited, r)
	}
	if s := Summarize(audited, 1)[1]; s.Audits != 30 || math.Abs(s.AuditMass-0.9) > 1e-12 || math.Abs(s.AuditHalf-0.025) > 1e-12 {
		t.Errorf("%d audits, %g ± %g; want 30, .9 ± .025", s.Audits, s.AuditMass, s.AuditHalf)
	}
	if s := Summarize(audited[5:6], 1)[0]; s.Audits != 10 || s.AuditMass != 0.9 || s.AuditHalf != 1 {
		t.Errorf("%d audits, %g ± %g; want 10, .9, and nothing known", s.Audits, s.AuditMass, s.AuditHalf)
	}
	turned := []Row{rows[3], rows[0], rows[2], rows[1]}
	if o := Summarize(turned, 1)[0]; cmp.Diff(quest, o) != "" {
		t.Errorf("in another order %s", cmp.Diff(quest, o))
	}
}
