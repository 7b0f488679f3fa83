package task

import (
	"bytes"
	"compress/gzip"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestChoose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total, n := rapid.IntRange(0, 50).Draw(t, "total"), rapid.IntRange(-1, 60).Draw(t, "n")
		seed := rapid.Uint64().Draw(t, "seed")
		got := Choose("x", total, n, seed)
		if len(got) != min(max(n, 0), total) || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("%d of %d: %v", n, total, got)
		}
		if len(got) > 0 && (got[0] < 0 || got[len(got)-1] >= total) {
			t.Fatalf("%d of %d: %v", n, total, got)
		}
		if again := Choose("x", total, n, seed); !slices.Equal(got, again) {
			t.Fatalf("%v, then %v", got, again)
		}
	})
}

func TestLargest(t *testing.T) {
	for last := -1; last < 12; last++ {
		want := min(max(last, 1), 9) // at least low-1, at most high
		if got := Largest(2, 9, func(n int) bool { return n <= last }); got != want {
			t.Errorf("fits up to %d: %d, want %d", last, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	count := func(s string) int { return len(strings.Fields(s)) }
	cut := func(s string, _, _ int) string { return s }
	for _, z := range []Size{{Tokens: 5, Count: count}, {Tokens: 0, Count: count, Cut: cut}, {Tokens: maxTokens + 1, Count: count, Cut: cut}} {
		if z.Validate() == nil {
			t.Errorf("%d tokens: no error", z.Tokens)
		}
	}
	z := Size{Tokens: 5, Count: count, Cut: cut}
	if err := z.Validate(); err != nil {
		t.Error(err)
	}
	if s := (Sample{Prompt: "one two", Begin: "three", MaxTokens: 4}); s.Tokens(z) != 7 {
		t.Error(s.Tokens(z))
	}
}

type row struct {
	A int
	B string
}

func checkRow(r *row) error {
	if r.A < 0 {
		return errors.New("a below zero")
	}
	return nil
}

func TestJSONL(t *testing.T) {
	const text = "{\"a\":1,\"b\":\"x\"}\n\n  {\"a\":2}"
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write([]byte(text)); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	want := []row{{1, "x"}, {2, ""}}
	for _, in := range []string{text, text + "\n", z.String()} {
		if got, err := DecodeJSONL(strings.NewReader(in), checkRow); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	}
	for in, message := range map[string]string{
		"":                                 "no rows",
		" \n\n":                            "no rows",
		"{\"a\":1}\n{":                     "line 2: unexpected end of JSON input",
		"{\"a\":\"x\"}":                    "line 1: json: cannot unmarshal",
		"{\"a\":1}\n{\"a\":-1}":            "line 2: a below zero",
		"\x1f\x8bnonsense":                 "gzip: invalid header",
		z.String()[:z.Len()-9]:             "unexpected EOF",
		strings.Repeat(" ", maxLine+1<<17): "line 1: longer than",
	} {
		if got, err := DecodeJSONL(strings.NewReader(in), checkRow); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%.40q: %v, %v; want an error of %q", in, got, err, message)
		}
	}
	if _, err := ReadJSONL(t.TempDir()+"/absent", checkRow); err == nil {
		t.Error("no error of a file that is not there")
	}
}

func FuzzJSONL(f *testing.F) {
	f.Add([]byte("{\"a\":1}\n{\"b\":\"y\"}\n"))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := DecodeJSONL(bytes.NewReader(data), checkRow)
		if (err == nil) != (len(rows) > 0) {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
	})
}
