package ruler

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/eval/task"
	"github.com/twilight-go/twilight/internal/testenv"
)

// count is some tokenizer: a token for four letters or digits of a word, one for every other sign that is not a space.
func count(text string) (n int) {
	run := 0
	for _, r := range text {
		switch {
		case r == ' ' || r == '\n':
			run = 0
		case r >= '0' && r <= 'z':
			if run%4 == 0 {
				n++
			}
			run++
		default:
			n++
			run = 0
		}
	}
	return n
}

func size(tokens int) task.Size {
	return task.Size{Tokens: tokens, Count: count, Cut: func(text string, _, _ int) string { return text }}
}

// prose stands for a book: sentences of the plain words.
var prose = func() string {
	var b strings.Builder
	for i := range 1200 {
		w := plainWords[i*37%(len(plainWords)-6):]
		b.WriteString("Then the " + strings.Join(w[:5], " ") + `. "Why?" said Mr. ` + w[5] + ".\n")
	}
	return b.String()
}()

// options have material of our own, with a shared corpus where it is there.
func options(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	o := Options{Essay: prose, NQ: filepath.Join(dir, "nq.jsonl"), SQuAD: filepath.Join(dir, "squad.json"), HotpotQA: filepath.Join(dir, "hotpot.json")}
	var nq, squad, hotpot []string
	for i, n := range nouns[:60] {
		about := n + " and " + nouns[i+60] + " are things that one may " + plainWords[i*7] + ", as people say, number " + nouns[i+120]
		nq = append(nq, `{"question":"what of `+n+`","answers":["`+nouns[i+60]+`"],"ctxs":[{"title":"T`+n+`","text":"`+about+`","isgold":true}]}`)
		squad = append(squad, `{"context":"`+about+`","qas":[{"question":"what of `+n+`?","is_impossible":false,"answers":[{"text":"`+nouns[i+60]+`"}]},{"question":"why?","is_impossible":true,"answers":[]}]}`)
		hotpot = append(hotpot, `{"question":"what of `+n+`?","answer":"`+nouns[i+60]+`","context":[["T`+n+`",["`+about+`."," And more."]],["U`+n+`",["Else."]]]}`)
	}
	for path, text := range map[string]string{
		o.NQ: strings.Join(nq, "\n"), o.HotpotQA: "[" + strings.Join(hotpot, ",") + "]",
		o.SQuAD: `{"version":"v2.0","data":[{"title":"x","paragraphs":[` + strings.Join(squad[:30], ",") + `]},{"title":"y","paragraphs":[` + strings.Join(squad[30:], ",") + `]}]}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func tasks(t *testing.T, o Options) []task.Task {
	t.Helper()
	all, err := Tasks(o)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Every sample of every task fits its size and nearly fills it, is the same from the same seed whatever the number of samples, has its answers at the depths that
// it states, and scores 1 for its answers and 0 for nothing.
func TestSamples(t *testing.T) {
	names := []string{}
	for _, k := range tasks(t, options(t)) {
		names = append(names, k.Name())
		lengths := []int{2048, 8192}
		if testing.Short() {
			lengths = lengths[:1]
		}
		for _, tokens := range lengths {
			samples, err := k.Samples(6, 7, size(tokens))
			if err != nil || len(samples) != 6 {
				t.Fatalf("%s at %d: %d samples, %v", k.Name(), tokens, len(samples), err)
			}
			first, err := k.Samples(1, 7, size(tokens))
			if err != nil || !slices.ContainsFunc(samples, func(s task.Sample) bool { return reflect.DeepEqual(s, first[0]) }) {
				t.Errorf("%s at %d: the sample of one is not among the six: %v", k.Name(), tokens, err)
			}
			again, err := k.Samples(6, 7, size(tokens))
			if err != nil || !reflect.DeepEqual(again, samples) {
				t.Errorf("%s at %d: not the same again: %v", k.Name(), tokens, err)
			}
			other, err := k.Samples(6, 8, size(tokens))
			if err != nil || reflect.DeepEqual(other, samples) {
				t.Errorf("%s at %d: the same from another seed: %v", k.Name(), tokens, err)
			}
			ids := map[string]bool{}
			for _, s := range samples {
				ids[s.ID] = true
				if n := s.Tokens(size(tokens)); n > tokens || float64(n) < 0.93*float64(tokens) {
					t.Errorf("%s: %d tokens of %d", s.ID, n, tokens)
				}
				for _, a := range s.Answers {
					if !strings.Contains(s.Prompt, a) {
						t.Errorf("%s: its answer %q is not in the prompt", s.ID, a)
					}
				}
				for i, d := range s.Depths {
					rest := s.Prompt[int(math.Round(d*float64(len(s.Prompt)))):]
					if strings.HasPrefix(k.Name(), "niah") {
						rest, _, _ = strings.Cut(rest, ".")
						if !strings.HasPrefix(rest, "One of the special magic ") || !strings.HasSuffix(rest, s.Answers[i]) {
							t.Errorf("%s: at its depth %g stands %q, not a needle with %q", s.ID, d, rest, s.Answers[i])
						}
					} else if !strings.HasPrefix(rest, "VAR ") && !strings.HasPrefix(rest, "Document ") {
						t.Errorf("%s: at its depth %g stands %.40q", s.ID, d, rest)
					}
				}
				if score := k.Score(&s, " "+strings.ToUpper(strings.Join(s.Answers, ", "))); score != 1 {
					t.Errorf("%s: its own answers score %g", s.ID, score)
				}
				if score := k.Score(&s, ""); score != 0 {
					t.Errorf("%s: nothing scores %g", s.ID, score)
				}
			}
			if len(ids) != 6 {
				t.Errorf("%s: identifiers %v", k.Name(), ids)
			}
		}
	}
	want := "niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 niah_multikey_3 niah_multivalue niah_multiquery vt cwe fwe qa_1 qa_2 qa_nq"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// one is a sample of the task with a name.
func one(t *testing.T, all []task.Task, name string, tokens int) task.Sample {
	t.Helper()
	at := slices.IndexFunc(all, func(k task.Task) bool { return k.Name() == name })
	s, err := all[at].Samples(1, 3, size(tokens))
	if err != nil {
		t.Fatal(err)
	}
	return s[0]
}

// The prompts are the published ones, with the number of answers in their grammar.
func TestPrompts(t *testing.T) {
	all := tasks(t, options(t))
	for name, want := range map[string]string{
		"niah_single_1": `(?s)^A special magic number is hidden within the following text\. Make sure to memorize it\. I will quiz you about the number afterwards\.\n(?:The grass is green\. The sky is blue\. The sun is yellow\. Here we go\. There and back again\.\n)+` +
			`One of the special magic numbers for [a-z]+-[a-z]+ is: \d{7}\.\n(?:The grass [^\n]+\n)+What is the special magic number for [a-z]+-[a-z]+ mentioned in the provided text\?\| The special magic number for [a-z]+-[a-z]+ mentioned in the provided text is$`,
		"niah_single_3":   `(?s)^A special magic uuid is hidden .* about the uuid afterwards.*One of the special magic uuids for [a-z-]+ is: [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\. .*What is the special magic uuid for`,
		"niah_multikey_3": `(?s)afterwards\.\n(?:One of the special magic uuids for [0-9a-f-]{36} is: [0-9a-f-]{36}\.\n)+What is the special magic uuid for [0-9a-f-]{36} mentioned`,
		"niah_multivalue": `(?s)^Some special magic numbers are hidden within the following text\. Make sure to memorize it\. I will quiz you about the numbers afterwards\.\n.*What are all the special magic numbers for [a-z]+-[a-z]+ mentioned in the provided text\?\| The special magic numbers for [a-z]+-[a-z]+ mentioned in the provided text are$`,
		"niah_multiquery": `(?s)What are all the special magic numbers for [a-z-]+, [a-z-]+, [a-z-]+, and [a-z-]+ mentioned in the provided text\?\| The special magic numbers for [a-z-]+, [a-z-]+, [a-z-]+, and [a-z-]+ mentioned in the provided text are$`,
		"vt": `(?s)^Memorize and track .*VAR [A-Z]{3} = \d{5}\n.*VAR [A-Z]{3} = VAR [A-Z]{3} \n.*they are:  [A-Z]{3} [A-Z]{3} [A-Z]{3} [A-Z]{3} [A-Z]{3}\n\nMemorize and track the chain\(s\) of variable assignment hidden in the following text\.\n\n` +
			`.*VAR [A-Z]{5} = \d{5}\n.*\nQuestion: Find all variables that are assigned the value \d{5} in the text above\.\| Answer: According to the chain\(s\) of variable assignment in the text above, 5 variables are assigned the value \d{5}, they are: $`,
		"cwe":   `(?s)^Below is a numbered list of words\. .*\n1\. [a-z]+ 2\. [a-z]+ .*\nQuestion: What are the 10 most common words in the above list\? Answer: The top 10 words that appear most often in the list are: 1\. [a-z]+ .* 10\. [a-z]+\nBelow is .*\nQuestion: What are the 10 most common words in the above list\?\| Answer: The top 10 words that appear most often in the list are:$`,
		"fwe":   `(?s)^Read the following coded text .* coded words\. (?:[a-z]{6} |\.\.\. )+.*\nQuestion: Do not provide any explanation\. Please ignore the dots '\.\.\.\.'\. What are the three .*\| Answer: According to the coded text above, the three most frequently appeared words are:$`,
		"qa_nq": `(?s)^Answer the question based on the given documents\. Only give me the answer and do not output any other words\.\n\nThe following are given documents\.\n\nDocument 1:\nT[a-z]+\n[^\n]+\n\nDocument 2:.*\n\nAnswer the question [^\n]+\n\nQuestion: what of [a-z]+\| Answer:$`,
	} {
		s := one(t, all, name, 4096)
		if got := s.Prompt + "|" + s.Begin; !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %.600q … %q, want %s", name, got, got[max(0, len(got)-400):], want)
		}
	}
}

// Needles asked for are as often at the begin as at the end.
func TestDepths(t *testing.T) {
	for _, k := range tasks(t, Options{Essay: prose}) {
		if !strings.HasPrefix(k.Name(), "niah") {
			continue
		}
		samples, err := k.Samples(120, 5, size(1500))
		if err != nil {
			t.Fatal(err)
		}
		var thirds [3]int
		for _, s := range samples {
			for _, d := range s.Depths {
				thirds[min(2, int(d*3))]++
			}
		}
		// Of 120 or more drawn evenly, a third has fewer than 20 once in 10⁵ seeds; this is one seed.
		if slices.Min(thirds[:]) < 20 {
			t.Errorf("%s: needles in the thirds of the prompt: %v", k.Name(), thirds)
		}
	}
}

// In cwe and fwe the asked words are the most frequent, by the published counts.
func TestWordCounts(t *testing.T) {
	all := tasks(t, options(t))
	for _, c := range []struct{ tokens, often, seldom int }{{2048, 6, 1}, {8192, 30, 3}} {
		s := one(t, all, "cwe", c.tokens)
		n := map[string]int{}
		list := s.Prompt[strings.LastIndex(s.Prompt, "Below is"):]
		list = list[strings.Index(list, "\n"):strings.Index(list, "\nQuestion")]
		for _, w := range regexp.MustCompile(`\d+\. ([a-z]+)`).FindAllStringSubmatch(list, -1) {
			n[w[1]]++
		}
		for w, k := range n {
			if want := map[bool]int{true: c.often, false: c.seldom}[slices.Contains(s.Answers, w)]; k != want {
				t.Errorf("cwe at %d: %q stands %d times, want %d", c.tokens, w, k, want)
			}
		}
		if len(s.Answers) != 10 || len(n) < 20 {
			t.Errorf("cwe at %d: %d words, of which %d are asked for", c.tokens, len(n), len(s.Answers))
		}

		s = one(t, all, "fwe", c.tokens)
		n = map[string]int{}
		for w := range strings.FieldsSeq(s.Prompt[strings.Index(s.Prompt, "coded words. ")+13 : strings.Index(s.Prompt, "\nQuestion")]) {
			n[w]++
		}
		order := sortedSet(nil)
		for w := range n {
			order = append(order, w)
		}
		slices.SortFunc(order, func(a, b string) int { return n[b] - n[a] })
		if order[0] != "..." || !slices.Equal(order[1:4], s.Answers) || n[order[3]] <= n[order[4]] {
			t.Errorf("fwe at %d: %v of %v", c.tokens, s.Answers, order[:5])
		}
		if ratio := float64(n["..."]) / float64(n[s.Answers[0]]); math.Abs(ratio-4) > 0.1 {
			t.Errorf("fwe at %d: the first is %g times the second, want 4", c.tokens, ratio)
		}
	}
}

func TestErrors(t *testing.T) {
	if _, err := Tasks(Options{}); err == nil {
		t.Error("no essay: no error")
	}
	for _, o := range []Options{{Essay: prose, NQ: "absent"}, {Essay: prose, SQuAD: "absent"}, {Essay: prose, HotpotQA: "absent"}} {
		if _, err := Tasks(o); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	for _, k := range tasks(t, options(t)) {
		if s, err := k.Samples(2, 1, size(100)); !errors.Is(err, task.ErrSize) {
			t.Errorf("%s in 100 tokens: %d samples, %v", k.Name(), len(s), err)
		}
		if _, err := k.Samples(2, 1, task.Size{Tokens: 100}); err == nil {
			t.Errorf("%s: no error without a tokenizer", k.Name())
		}
		if s, err := k.Samples(-1, 1, size(4096)); err != nil || len(s) != 0 {
			t.Errorf("%s: minus one sample: %d, %v", k.Name(), len(s), err)
		}
	}
	for text, read := range map[string]func(string) (*corpus, error){
		`{"question":"x"}`: readNQ, `{"question":"x","answers":["y"],"ctxs":[{"title":"t","text":"u"}]}`: readNQ, `{"data":3}`: whole(parseSQuAD), `{"data":[]}`: whole(parseSQuAD),
		`[{"question":"x","answer":"y","context":[[1,["a"]]]}]`: whole(parseHotpot), `[]`: whole(parseHotpot), `[{"context":[["t"]]}]`: whole(parseHotpot),
	} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := read(path); err == nil {
			t.Errorf("%s: %d questions", text, len(c.questions))
		}
	}
}

func FuzzQuestions(f *testing.F) {
	f.Add([]byte(`{"question":"x","answers":["y"],"ctxs":[{"title":"t","text":"u","isgold":true},{"title":"v","text":"w"}]}`))
	f.Add([]byte(`{"data":[{"paragraphs":[{"context":"c","qas":[{"question":"q","answers":[{"text":"a"}]}]},{"context":"c"}]}]}`))
	f.Add([]byte(`[{"question":"x","answer":"y","context":[["t",["a","b"]],["u",[]]]}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		nq := func(data []byte) (*corpus, error) {
			rows, err := task.DecodeJSONL(bytes.NewReader(data), (*nqRow).check)
			if err != nil {
				return nil, err
			}
			return naturalQuestions(rows)
		}
		for _, parse := range []func([]byte) (*corpus, error){nq, parseSQuAD, parseHotpot} {
			c, err := parse(data)
			if err != nil {
				continue
			}
			s, err := answering("qa", c).Samples(2, 1, size(1<<12))
			if err != nil && !errors.Is(err, task.ErrSize) || err == nil && len(s) == 0 {
				t.Fatalf("%d samples, %v", len(s), err)
			}
		}
	})
}

func TestSentences(t *testing.T) {
	for text, want := range map[string][]string{
		`One two. Three? "Four!" Five… six`:         {"One two.", "Three?", `"Four!"`, "Five… six"},
		`Mr. Bolkonsky and J. S. Bach. (Yes.) So.`:  {"Mr. Bolkonsky and J. S. Bach.", "(Yes.)", "So."},
		`It is 3.5 km. so he said... and went.`:     {"It is 3.5 km. so he said... and went."},
		`He and I. Then “Well, Prince.” Émile rose`: {"He and I.", "Then “Well, Prince.”", "Émile rose"},
		"": nil, "...": {"..."}, ". A. B": {".", "A. B"},
	} {
		if got := sentences(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// The whole shared files make samples: the book at a long size, every question of Natural Questions.
func TestShared(t *testing.T) {
	if testing.Short() {
		t.Skip("slow: long samples of whole files")
	}
	book, err := os.ReadFile(testenv.Shared(t, "books", "war-and-peace.txt"))
	if err != nil {
		t.Fatal(err)
	}
	all := tasks(t, Options{Essay: string(book), NQ: testenv.Shared(t, "retrieval", "nq-open-oracle.jsonl.gz")})
	for _, k := range all {
		samples, err := k.Samples(1, 1, size(32768))
		if err != nil {
			t.Fatal(err)
		}
		if n := samples[0].Tokens(size(32768)); n > 32768 || n < 31000 {
			t.Errorf("%s: %d tokens of 32768", k.Name(), n)
		}
	}
	samples, err := all[len(all)-1].Samples(1<<20, 1, size(1000))
	if err != nil || len(samples) != 2655 {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	found := 0
	for i := range samples {
		found += int(task.MatchPart(samples[i].Prompt, samples[i].Answers))
	}
	// The rest write the answer in another way than the passage.
	if found < 2600 {
		t.Errorf("%d of %d prompts hold an answer", found, len(samples))
	}
}
