package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/twilight-go/twilight/internal/eval"
)

var rewrite = flag.Bool("rewrite", false, "write the golden page anew")

func small(t testing.TB) []eval.Row {
	t.Helper()
	f, err := os.Open("testdata/small.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := Read(f.Name(), f)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func render(t testing.TB, rows []eval.Row, files ...string) string {
	t.Helper()
	r, err := New(rows, files...)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// elements reads a text as XML and counts what is in it; it fails if it is not well-formed, or loads or runs anything beyond what the page brings.
func elements(t interface{ Fatalf(string, ...any) }, text string) map[string]int {
	count, ids := map[string]int{}, map[string]bool{}
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return count
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		e, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		count[e.Name.Local]++
		for _, a := range e.Attr {
			switch name := a.Name.Local; {
			case strings.HasPrefix(name, "on"), name == "src", name == "style", name == "href" && !strings.HasPrefix(a.Value, "#"):
				t.Fatalf("<%s %s=%q>", e.Name.Local, name, a.Value)
			case name == "id" && ids[a.Value]:
				t.Fatalf("two elements have the id %q", a.Value)
			case name == "id":
				ids[a.Value] = true
			}
		}
	}
}

func TestGolden(t *testing.T) {
	got := render(t, small(t), "runs/small.jsonl")
	if *rewrite {
		if err := os.WriteFile("testdata/small.html", []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/small.html")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Fatalf("the page differs from testdata/small.html at byte %d: …%.200s (go test -rewrite writes it anew)", at, got[at:])
	}
}

func TestPageIsWhole(t *testing.T) {
	page := render(t, small(t), "small.jsonl")
	n := elements(t, page)
	// Of the text: three measures by two budgets, three by step, time, and two heat maps of four specs. Of each task: two measures by two budgets, time, and two heat maps of one
	// spec; of their average only the first.
	if want := 10 + 8 + 2*(5+2) + 4; n["figure"] != want || n["article"] != 4 || n["script"] != 1 || n["link"]+n["img"]+n["iframe"] != 0 {
		t.Errorf("%d figures, expected %d; %d articles; %d scripts", n["figure"], want, n["article"], n["script"])
	}
	if page := strings.ReplaceAll(page, "http://www.w3.org/2000/svg", ""); regexp.MustCompile(`https?:|//[a-z]+\.|@import|url\(`).MatchString(page) {
		t.Error("the page names something outside of it")
	}
	for _, want := range []string{"tiny.gguf", "0123456789abcdef", "cpu (avx2, 4 threads)", "v0.1.0 abcdef", "seed 1", "average over tasks", "book.txt, 1,024 tokens, the last 96 scored"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, "models/") {
		t.Error("the page says where the model lay")
	}
}

func TestTwiceTheSameRows(t *testing.T) {
	rows := small(t)
	if render(t, rows) != render(t, append(rows, small(t)...)) {
		t.Error("rows that stand in two files count twice")
	}
}

func TestFigureFiles(t *testing.T) {
	r, err := New(small(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	n, err := r.WriteFigures(dir)
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || n == 0 || len(names) != n {
		t.Fatalf("%d figures, %d files, %v", n, len(names), err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if c := elements(t, string(b)); c["svg"] != 1 || c["style"] != 1 {
			t.Errorf("%s: %v", name, c)
		}
	}
}

const hostile = "</title></svg><script>alert('1')</script><img src=x onerror=\"alert(1)\">&amp;{{.}}]]>\x00\x1b\u202e\uffff\n../../x"

func TestHostileTexts(t *testing.T) {
	plain := elements(t, render(t, small(t)))
	rows := small(t)
	for i := range rows {
		r := &rows[i]
		for _, s := range []*string{&r.Task, &r.Sample, &r.Model, &r.Fingerprint, &r.Device, &r.Version} {
			*s += hostile
		}
		if r.Label += hostile; r.Spec != "dense" {
			r.Spec += hostile
		}
		if r.Answer != nil {
			r.Metric += hostile
		}
	}
	page := render(t, rows, hostile)
	n := elements(t, page)
	for _, name := range []string{"script", "style", "img", "figure", "svg", "title"} {
		if n[name] != plain[name] {
			t.Errorf("%d <%s>, but %d of plain rows", n[name], name, plain[name])
		}
	}
	if strings.ContainsAny(page, "\x00\x1b\u202e\uffff") {
		t.Error("characters that no page should hold")
	}
	r, err := New(rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Figures() {
		if !regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`).MatchString(f.Name) || strings.Contains(f.Name, "..") || len(f.Name) > 200 {
			t.Errorf("a figure's file would be called %q", f.Name)
		}
	}
}

func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"novel":   {"It was a dark and stormy night.\n", "reading novel: eval: line 1:"},
		"damaged": {`{"kind":"text","ppl":1}` + "\n" + `{"kind":"text","ppl":"x"}` + "\n", "reading damaged: eval: line 2:"},
		"partial": {`{"kind":"sample"}` + "\n", "reading partial: eval: line 1:"},
	} {
		if _, err := Read(name, strings.NewReader(c.text)); !errors.Is(err, eval.ErrRow) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{"empty": "", "unknown kinds": `{"kind":"newer"}` + "\n", "torn": `{"kind":"text","pp`} {
		rows, err := Read(name, strings.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := New(rows, name); !errors.Is(err, ErrEmpty) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever numbers stand in a file, the page is whole and draws nothing that is no number.
func TestAnyNumbers(t *testing.T) {
	odd := []float64{0, -1, 1, 0.5, 100, 1e-320, 1e-9, 1e-3, 1e12, 1e300, -1e300, 1.7e308, 1e-12}
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.SampledFrom(odd), rapid.Float64Range(0, 2000))
		list := rapid.SliceOfN(number, 0, 4)
		var rows []eval.Row
		for i := range rapid.IntRange(1, 5).Draw(t, "rows") {
			r := eval.Row{Kind: eval.KindText, Task: "text", Sample: "s", Label: fmt.Sprint(i), Spec: fmt.Sprintf("quest:keep=%d", i), Size: rapid.Int().Draw(t, "size") >> rapid.IntRange(0, 62).Draw(t, "shift")}
			if i == 0 {
				r.Spec = "dense"
			}
			if rows != nil {
				r.Size = rows[0].Size
			}
			n := func(s string) float64 { return number.Draw(t, s) }
			r.Attention = eval.Attention{ContextMean: n("context"), Kept: n("kept"), Bytes: n("bytes"), DenseBytes: n("dense"), Measured: true, Mass: n("mass"), OutErr: n("err"),
				StepTokens: rapid.Int().Draw(t, "step"), KeptSteps: list.Draw(t, "kepts"), MassSteps: list.Draw(t, "masses")}
			for range rapid.IntRange(0, 3).Draw(t, "layers") {
				heads := list.Draw(t, "heads")
				r.KeptHeads, r.MassHeads = append(r.KeptHeads, heads), append(r.MassHeads, heads)
			}
			if rapid.Bool().Draw(t, "sample") {
				r.Kind, r.Answer = eval.KindSample, &eval.Answer{Score: n("score"), Seconds: n("seconds"), Generated: rapid.IntRange(-1, 3).Draw(t, "generated")}
			} else {
				r.Text = &eval.Text{Perplexity: n("ppl"), KL: n("kl"), KL99: n("kl99"), Agree: n("agree"), NLLSteps: list.Draw(t, "nll"), KLSteps: list.Draw(t, "kls"), MicrosStep: n("us")}
			}
			rows = append(rows, r)
		}
		r, err := New(rows)
		if err != nil {
			t.Fatalf("%v", err)
		}
		var b bytes.Buffer
		if err := r.WriteHTML(&b); err != nil {
			t.Fatalf("%v", err)
		}
		elements(t, b.String())
		if bad := regexp.MustCompile(`="[^"]*(NaN|Inf)|>[+−-]?(NaN|Inf)`).FindString(b.String()); bad != "" {
			t.Fatalf("%q in the page", bad)
		}
	})
}

// A file of too many, too large or uneven results makes a page of bounded size, which says what it lacks.
func TestBounds(t *testing.T) {
	wide := make([][]float64, 200)
	for l := range wide {
		wide[l] = make([]float64, 128)
		for h := range wide[l] {
			wide[l][h] = float64(1 + l + h)
		}
	}
	var rows []eval.Row
	for i := range maxResults + 5 {
		rows = append(rows, eval.Row{Kind: eval.KindText, Sample: "s", Spec: fmt.Sprintf("quest:budget=%d", i), Label: strings.Repeat("é", 1000), Text: &eval.Text{Perplexity: 2, KL: 1},
			Attention: eval.Attention{ContextMean: 1000, Kept: float64(i + 1), KeptHeads: wide}})
	}
	page := render(t, rows)
	if n := elements(t, page); len(page) > 4<<20 || n["details"] != 1 {
		t.Errorf("%d bytes, %d heat maps", len(page), n["details"])
	}
	for _, want := range []string{"5 kinds of attention", fmt.Sprintf("%d more maps", maxResults-1)} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(page, strings.Repeat("é", maxText)) {
		t.Error("a long label was not cut")
	}
}
