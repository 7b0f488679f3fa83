package tokenizer

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/dlclark/regexp2/v2"
	"github.com/twilight-go/twilight/internal/testenv"
	"pgregory.net/rapid"
)

// Expressions that several pre-tokenizers share.
const (
	exprShort  = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
	exprEnd    = `|\s*[\r\n]+|\s+(?!\S)|\s+`
	exprGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	exprLlama3 = exprShort + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*` + exprEnd
	exprQwen2  = exprShort + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*` + exprEnd
	exprMarks  = `[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+` + exprShort + `?`
	exprSpaced = `| ?[^\s\p{L}\p{N}]+[\r\n/]*` + exprEnd
	exprCode   = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" + `|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+`
	exprKana   = `[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+`
	exprCJK    = `[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+`
	// A group of thousands and what precedes it.
	exprThousands = `[^\p{N}]*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))`
	exprSentence  = ` ?[^(\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+`
)

// exprCased is a word that turns once from capitals to small letters; class is what letters are.
func exprCased(class, end string) string {
	lead, upper, lower := `[^\r\n\p{L}\p{N}]?`, `(?:(?=`+class+`)[^a-z])`, `(?:(?=`+class+`)[^A-Z])`
	return lead + upper + `*` + lower + `+` + end + `|` + lead + upper + `+` + lower + `*` + end
}

// expressions say, for one name of each family, what its scanners must do: pass after pass, the matches and the gaps between them. They are what the vocabularies'
// own files hold, in llama.cpp's reading: \p{Lu} and the like are \p{L} there, and white space above ASCII is in no listed range. 中 stands for Han.
var expressions = map[string][]string{
	"default":                 {`[\p{P}\$\+<=>\^~\|]+`, exprGPT2, `\p{N}+`, `[0-9][0-9][0-9]`},
	"gpt-2":                   {exprGPT2},
	"starcoder":               {`\p{N}`, exprGPT2},
	"falcon":                  {"[\\p{P}\\$\\+<=>\\^~\\|`]+", exprGPT2, `[0-9][0-9][0-9]`},
	"llama3":                  {exprLlama3},
	"dbrx":                    {exprLlama3},
	"chatglm-bpe":             {exprLlama3},
	"glm4":                    {exprLlama3},
	"minicpm5":                {`\p{N}{1,3}`, strings.Replace(exprLlama3, `\p{N}{1,3}`, `\p{N}+`, 1)},
	"jais-2":                  {strings.Replace(exprLlama3, `\s+(?!\S)|\s+`, `\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`, 1)},
	"qwen2":                   {exprQwen2},
	"bailingmoe":              {strings.Replace(exprQwen2, `|\s*[\r\n]+`, `|\s*[\r\n]`, 1)},
	"laguna":                  {`[^\n]+|[\n]+`, exprQwen2},
	"seed-coder":              {strings.Replace(exprQwen2, `[^\s\p{L}\p{N}]+[\r\n]*`, `[^\s\p{L}\p{N}\r\n]+`, 1)},
	"ufakzeka":                {strings.TrimPrefix(exprQwen2, exprShort+"|")},
	"qwen35":                  {exprShort + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*` + exprEnd},
	"exaone-moe":              {exprShort + `|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`},
	"tekken":                  {exprCased(`\p{L}`, "") + `|\p{N}` + exprSpaced},
	"gpt-4o":                  {exprCased(`\p{L}`, exprShort+"?") + `|\p{N}{1,3}` + exprSpaced},
	"granite-embed-multi-97m": {exprCased(`[\p{L}\p{M}]`, exprShort+"?") + `|\p{N}{1,3}` + exprSpaced},
	"tiny_aya":                {exprThousands, exprMarks + `|\p{N}{1,3}` + exprSpaced},
	"youtu": {`[\uAC00-\uD7A3\u3131-\u318E]+|[\uFF01\u2026\u201C\u201D\u2018\u2019\u2014\uFF1A\uFF1B\uFF0C\u3001-\u303F\uFE30-\uFE4F]+|[\u3105-\u312F]+|` + exprKana,
		exprMarks + `|\p{N}` + exprSpaced},
	"kimi-k2": {`中+|[^\r\n\p{L}\p{N}]?(?:(?!中)\p{L})+` + exprShort + `?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*` + exprEnd},
	"deepseek-llm": {`[\r\n]`, `\s?[` + deepseekLetters + `]+`, `\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+`, `\s+$`,
		exprCJK, `\p{N}+`},
	"deepseek-coder": {`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, exprCJK, `\p{N}`},
	"deepseek-v3":    {`\p{N}{1,3}`, exprKana, exprCode + `| ?[\p{P}\p{S}]+[\r\n]*` + exprEnd},
	"spark2_5":       {`\p{N}{1,3}`, exprKana, exprCode + `| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+`, `\p{N}`},
	"afmoe": {exprThousands, `[\u4E00-\u9FFF\u3400-\u4DBF\u8C48-\uFAFF\u3040-\u309F\u30A0-\u30FF\uFF65-\uFF9F\u2F00-\u2FDF\u0E40-\u0E7F\u0E80-\u0EFF` +
		`\u1780-\u17FF\u1000-\u109F\uAA60-\uAA7F\uA9E0-\uA9FF\uAC00-\uD7AF\u1100-\u11FF]+`, exprCode + `| ?[\p{P}\p{S}]+[\r\n]*` + exprEnd},
	"bloom":      {exprSentence},
	"viking":     {exprSentence, `\p{N}`},
	"gemma4":     {`[^\n]+|[\n]+`},
	"sarvam-moe": {`[^\n]+|[\n]+`},
}

// expression is a compiled pass of the oracle.
type expression struct {
	re *regexp2.Regexp
	// collapse replaces the characters above ASCII by one of their class, so that the expression engine's own tables do not matter.
	collapse bool
}

func compile(t testing.TB, patterns []string) []expression {
	t.Helper()
	var list []expression
	for _, p := range patterns {
		re, err := regexp2.Compile(p)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		list = append(list, expression{re, strings.Contains(p, `\p{`)})
	}
	return list
}

// look is the character as the expression sees it.
func (x expression) look(r rune) rune {
	c := classes().of(r)
	switch {
	case r < 0x80:
		return r
	case c&space != 0:
		return '\v'
	case !x.collapse:
		return r
	case c&letter != 0 && c&han != 0:
		return '中'
	case c&letter != 0:
		return 'é'
	case c&number != 0:
		return '²'
	case c&mark != 0:
		return '\u0301'
	case c&punct != 0:
		return '¿'
	case c&sign != 0:
		return '×'
	}
	return '\u0080'
}

// cut returns the pieces of s by the expressions.
func cut(t interface{ Fatal(...any) }, s string, list []expression) []string {
	if len(list) == 0 {
		return []string{s}
	}
	rs := []rune(s)
	seen := make([]rune, len(rs))
	for i, r := range rs {
		seen[i] = list[0].look(r)
	}
	var out []string
	piece := func(from, to int) {
		if from < to {
			out = append(out, cut(t, string(rs[from:to]), list[1:])...)
		}
	}
	at := 0
	err := list[0].re.FindRunesMatches(seen, 0, func(m regexp2.MatchView) bool {
		i, n, _ := m.GroupRange(0)
		piece(at, i)
		piece(i, i+n)
		at = i + n
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	piece(at, len(rs))
	return out
}

// scan returns the pieces of s by the scanners.
func scan(s string, passes []pass) []string {
	if len(passes) == 0 {
		return []string{s}
	}
	var out []string
	for i, memo := 0, 0; i < len(s); {
		end := passes[0].next(classes(), s, i, &memo)
		out = append(out, scan(s[i:end], passes[1:])...)
		i = end
	}
	return out
}

// snippets are texts that the rules of some family treat apart.
var snippets = []string{
	" ", "  ", "   ", "    ", strings.Repeat(" ", 9), "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "\u2028", "a", "b c d", "The", "the", "HELLO", "iPhone", "é", "É",
	"ñandú", "ÀBC", "ABCd", "XÀÉ", "'s", "'S", "'ll", "'LL", "'re", "'Ve", "'d", "'", "1", "12", "123", "1234", "12345", "²", "٤٥٦", "Ⅷ", ".", "...", "!", ",", "$",
	"+", "<=>", "^", "`", "|", "~", "_", "-", "/", "//", "\\", "(", ")", "[", "]", "{", "}", "\"", "#", "中", "中文字", "日本の", "カナ", "한국어", "ㄱ", "ㄅ", "ไทย", "ຂ",
	"ខ", "ا", "،", "।", "हिन्दी", "\u0301", "e\u0301", "\u200d", "🙂", "€", "…", "—", "“x”", "、", "。", "，", "！", "\x00", "\x01", "\x7f", "\u0378", "\U00020000", "ǅ", "ʰ", "µ",
	"ſ", "K", "｜", "▁", "ﬁ",
}

// texts draws strings of snippets and single characters.
func texts() *rapid.Generator[string] {
	part := rapid.OneOf(rapid.SampledFrom(snippets), rapid.SampledFrom(snippets), rapid.SampledFrom(snippets), rapid.Map(rapid.Rune(), func(r rune) string { return string(r) }))
	return rapid.Map(rapid.SliceOfN(part, 0, 20), func(parts []string) string { return strings.Join(parts, "") })
}

// TestScannersMatchExpressions holds the hand-written scanners of every family against its expressions.
func TestScannersMatchExpressions(t *testing.T) {
	for _, family := range families {
		name := strings.Fields(family.names)[0]
		known := ""
		for _, n := range strings.Fields(family.names) {
			if expressions[n] != nil {
				known = n
			}
		}
		if known == "" {
			t.Errorf("family %s: no expressions to hold its scanners against", name)
			continue
		}
		list := compile(t, expressions[known])
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			s := strings.Map(func(r rune) rune {
				if c := classes().of(r); c&han != 0 && c&letter == 0 {
					return -1 // undefined characters in the blocks of Han: the expressions cannot say them
				}
				return r
			}, texts().Draw(t, "text"))
			want, got := cut(t, s, list), scan(s, family.passes)
			if !slices.Equal(want, got) {
				t.Fatalf("%q:\nwant %q\ngot  %q", s, want, got)
			}
		}))
	}
}

// TestScannersOnBook does the same on prose, and on prose of one long white space, number and word.
func TestScannersOnBook(t *testing.T) {
	if testing.Short() {
		t.Skip("seconds of expression matching")
	}
	book, err := os.ReadFile(testenv.Shared(t, "books", "war-and-peace.txt"))
	if err != nil {
		t.Fatal(err)
	}
	prose := string(book[:1<<16])
	for _, text := range []string{prose, strings.Repeat(" ", 3000) + "x", strings.Repeat(" ", 700) + "\n" + strings.Repeat("\u3000 ", 700), strings.Repeat("12", 2000), strings.Repeat("Aé", 2000)} {
		for _, family := range families {
			for _, name := range strings.Fields(family.names) {
				if expressions[name] == nil {
					continue
				}
				want := cut(t, text, compile(t, expressions[name]))
				if got := scan(text, family.passes); !slices.Equal(want, got) {
					t.Errorf("%s: pieces differ", name)
				}
			}
		}
	}
}

// TestScannersLinear runs every family over texts that make a careless scanner look at the same bytes again and again: one that does takes minutes here.
func TestScannersLinear(t *testing.T) {
	if testing.Short() {
		t.Skip("long texts")
	}
	const size = 1 << 18
	for _, unit := range []string{" ", "\n ", "\u3000", "1", "a", "A", "é", "Aé", "!", "中", "\x01", "\u0301", "'", " a", "a b "} {
		text := strings.Repeat(unit, size/len(unit))
		for _, family := range families {
			if total := measure(text, family.passes); total != len(text) {
				t.Errorf("%s on %q: pieces of %d bytes, text of %d", family.names, unit, total, len(text))
			}
		}
	}
}

// measure returns the bytes in all pieces of s.
func measure(s string, passes []pass) int {
	if len(passes) == 0 {
		return len(s)
	}
	total := 0
	for i, memo := 0, 0; i < len(s); {
		end := passes[0].next(classes(), s, i, &memo)
		total += measure(s[i:end], passes[1:])
		i = end
	}
	return total
}

func TestClasses(t *testing.T) {
	tab := classes()
	for _, c := range []struct {
		r    rune
		want class
	}{
		{'a', letter}, {'1', number}, {' ', space}, {'\n', space | control}, {'\u3000', space}, {'+', sign}, {'_', punct}, {'\u0301', mark}, {'²', number},
		{'中', letter | han}, {'\U0002EBF0', letter}, {'\u31EF', sign}, {'\u0378', 0}, {unicode.MaxRune, 0}, {unicode.MaxRune + 1, 0}, {0xD800, control}, {'\u200d', control},
	} {
		if got := tab.of(c.r); got != c.want {
			t.Errorf("U+%04X: class %b, want %b", c.r, got, c.want)
		}
	}
	if len(tab.pages) > 1000 {
		t.Errorf("%d different pages: equal ones are not shared", len(tab.pages))
	}
}

func TestRepair(t *testing.T) {
	for _, c := range [][2]string{
		{"", ""}, {"aé中🙂", "aé中🙂"}, {"\xff", "\uFFFD"}, {"a\xc3", "a\uFFFD"}, {"\xc3(", "\uFFFD("}, {"\xe2\x96", "\uFFFD\uFFFD"}, {"\x80x", "\uFFFDx"},
		{"\xc0\x80", "\x00"}, {"\xed\xa0\x80", "\xed\xa0\x80"}, {"\xf0\x8d\xa0\x80", "\xed\xa0\x80"}, {"\xf4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"}, {"\xf8\x88\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
	} {
		if got := repair(c[0]); got != c[1] {
			t.Errorf("repair(%q) = %q, want %q", c[0], got, c[1])
		}
	}
}

func ExamplePreTokenizers() {
	fmt.Println(slices.Contains(PreTokenizers(), "qwen2"), slices.Contains(PreTokenizers(), "tekken"))
	// Output: true true
}
