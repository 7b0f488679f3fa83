package task

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The scores of testdata/metrics.json are those of LongBench's own functions, over the Python packages rouge 1.0.1 and fuzzywuzzy 0.18.0 (with difflib), and for
// Chinese with a tokenizer of characters in place of jieba.
func TestPublishedScores(t *testing.T) {
	data, err := os.ReadFile("testdata/metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Metric, Answer, Reference string
		Score                     float64
		Classes                   []string
	}
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, r := range rows {
		var got float64
		switch r.Metric {
		case "f1":
			got = F1(Words(r.Answer), Words(r.Reference))
		case "f1_zh":
			got = F1(Characters(r.Answer), Characters(r.Reference))
		case "rouge-l":
			got = RougeL(r.Answer, r.Reference)
		case "rouge-l_zh":
			got = RougeLCharacters(r.Answer, r.Reference)
		case "code_sim":
			got = CodeSimilarity(r.Answer, r.Reference)
		case "classification":
			got = ClassMatch(r.Answer, r.Reference, r.Classes)
		case "count":
			got = CountMatch(r.Answer, r.Reference)
		case "retrieval":
			got = RetrievalMatch(r.Answer, r.Reference, "Paragraph ")
		case "retrieval_zh":
			got = RetrievalMatch(r.Answer, r.Reference, "段落")
		default:
			t.Fatalf("%q: no such metric", r.Metric)
		}
		seen[r.Metric]++
		if math.Abs(got-r.Score) > 1e-12 {
			t.Errorf("%s of %q for %q: %.17g, published %.17g", r.Metric, r.Answer, r.Reference, got, r.Score)
		}
	}
	if len(seen) != 9 {
		t.Errorf("%v: expected nine metrics", seen)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		answer    string
		want      []string
		all, part float64
	}{
		{"The numbers are 12, 34.", []string{"12", "34"}, 1, 1},
		{"12", []string{"12", "34", "56", "78"}, 0.25, 1},
		{"GREEN-House", []string{"green-house"}, 1, 1},
		{"", []string{"x"}, 0, 0},
		{"x", nil, 0, 0},
	} {
		if all, part := MatchAll(c.answer, c.want), MatchPart(c.answer, c.want); all != c.all || part != c.part {
			t.Errorf("%q for %q: %g and %g, want %g and %g", c.answer, c.want, all, part, c.all, c.part)
		}
	}
}

func TestLastNumber(t *testing.T) {
	for text, want := range map[string]float64{
		"The answer is 18.": 18, "She makes $1,234.50 a day": 1234.5, "#### -7": -7, "3 + 4 = 7 dollars...": 7, "about 70000": 70000, "5 apples, 1.2.3": 5, "9 , .": 9,
	} {
		if got, ok := LastNumber(text); !ok || got != want {
			t.Errorf("%q: %g %v, want %g", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "none", "...", "$,", strings.Repeat("9", 400)} {
		if got, ok := LastNumber(text); ok {
			t.Errorf("%q: %g, want none", text, got)
		}
	}
	if SameNumber("so it is 18.00", "#### 18") != 1 || SameNumber("17", "18") != 0 || SameNumber("none", "none") != 0 {
		t.Error("SameNumber")
	}
}

// Every metric of any two texts is a share, and 1 of a text with itself where it has anything to compare.
func TestMetricRange(t *testing.T) {
	text := rapid.StringOf(rapid.RuneFrom([]rune("ab.c 1,é中文\n-$`#_’")))
	rapid.Check(t, func(t *rapid.T) {
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		for name, f := range map[string]func(a, b string) float64{
			"f1":         func(a, b string) float64 { return F1(Words(a), Words(b)) },
			"f1_zh":      func(a, b string) float64 { return F1(Characters(a), Characters(b)) },
			"rouge":      RougeL,
			"rouge_zh":   RougeLCharacters,
			"code":       CodeSimilarity,
			"similarity": Similarity,
			"number":     SameNumber,
			"count":      CountMatch,
			"class":      func(a, b string) float64 { return ClassMatch(a, b, []string{"a", "b", "ab", a}) },
			"retrieval":  func(a, b string) float64 { return RetrievalMatch(a, b, "a") },
		} {
			if got := f(a, b); !(got >= 0 && got <= 1) {
				t.Fatalf("%s: %g", name, got)
			}
		}
		if w := Words(a); len(w) > 0 && F1(w, w) != 1 {
			t.Fatal("F1 with itself")
		}
		if Similarity(a, a) != 1 {
			t.Fatal("similarity with itself")
		}
	})
}
