package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// byteLevel is a small byte-level vocabulary: all bytes, and merges of random pairs of what is there already, a few of them not tokens themselves.
func byteLevel(pre string, merges int) Config {
	c := Config{Model: "gpt2", Pre: pre, Special: map[Role]int32{}}
	rng := rand.New(rand.NewPCG(1, 2))
	texts := slices.Clone(byteSpelling[:])
	c.Tokens = slices.Clone(texts)
	seen := map[string]bool{}
	likely := []byte(" etaoinshr\n1'é中")
	for len(c.Merges) < merges {
		var pair [2]string
		for k := range pair {
			pair[k] = texts[rng.IntN(len(texts))]
			if rng.IntN(2) == 0 {
				pair[k] = byteSpelling[likely[rng.IntN(len(likely))]]
			}
		}
		joint := pair[0] + pair[1]
		if seen[joint] {
			continue
		}
		seen[joint] = true
		c.Merges = append(c.Merges, pair[0]+" "+pair[1])
		texts = append(texts, joint)
		if rng.IntN(8) > 0 {
			c.Tokens = append(c.Tokens, joint)
		}
	}
	c.Types = make([]int32, len(c.Tokens))
	for id := range c.Types {
		c.Types[id] = int32(Normal)
	}
	add := func(text string, kind Kind) int32 {
		c.Tokens, c.Types = append(c.Tokens, text), append(c.Types, int32(kind))
		return int32(len(c.Tokens) - 1)
	}
	c.Special[RoleBOS] = add("<s>", Control)
	c.Special[RoleEOS] = add("<|im_end|>", Control)
	add("[[user]]", UserDefined)
	add("]]more", UserDefined)
	return c
}

// characters is a small sentencepiece-like vocabulary with byte fall-back.
func characters(model string) Config {
	c := Config{Model: model, Tokens: []string{"<unk>", "<s>", "</s>"}, Types: []int32{int32(Unknown), int32(Control), int32(Control)}}
	for b := range 256 {
		c.Tokens, c.Types = append(c.Tokens, fmt.Sprintf("<0x%02X>", b)), append(c.Types, int32(Byte))
	}
	rng := rand.New(rand.NewPCG(3, 4))
	letters := strings.Split("▁abcdeé中", "")
	texts := slices.Clone(letters)
	seen := map[string]bool{}
	for len(texts) < 300 {
		left, right := texts[rng.IntN(len(texts))], letters[rng.IntN(len(letters))]
		if t := left + right; !seen[t] {
			seen[t] = true
			texts = append(texts, t)
			c.Merges = append(c.Merges, left+" "+right)
		}
	}
	for _, t := range texts {
		c.Tokens, c.Types = append(c.Tokens, t), append(c.Types, int32(Normal))
	}
	c.Scores = make([]float32, len(c.Tokens))
	for id := range c.Scores {
		c.Scores[id] = float32(rng.IntN(100)-90) / 4
	}
	c.Special = map[Role]int32{RoleBOS: 1, RoleEOS: 2, RoleUNK: 0}
	return c
}

// words is a small WordPiece vocabulary.
func wordPieces() Config {
	c := Config{Model: "bert", Special: map[Role]int32{RoleBOS: 1, RoleSEP: 2, RoleUNK: 0, RolePAD: None, RoleMASK: None}}
	c.Tokens = append(c.Tokens, "[UNK]", "[CLS]", "[SEP]", "▁un", "▁cafe", "▁!", "▁中", "able", "s", "▁a", "▁b", "▁ᄀ")
	c.Types = append(c.Types, 3, 3, 3)
	for len(c.Types) < len(c.Tokens) {
		c.Types = append(c.Types, 1)
	}
	return c
}

func mustNew(t testing.TB, c Config) *Tokenizer {
	t.Helper()
	tok, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func (t *Tokenizer) names(ids []int32) []string {
	var out []string
	for _, id := range ids {
		out = append(out, t.Token(id))
	}
	return out
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"model":         {func(c *Config) { c.Model = "t5" }, `unknown model "t5"; known are gpt2`},
		"pre":           {func(c *Config) { c.Pre = "nosuch" }, `unknown pre-tokenizer "nosuch"; known are `},
		"empty":         {func(c *Config) { c.Tokens = nil }, `no tokens`},
		"scores":        {func(c *Config) { c.Scores = []float32{1, 2} }, `2 scores for`},
		"types":         {func(c *Config) { c.Types = c.Types[:3] }, `3 token types for`},
		"no merges":     {func(c *Config) { c.Merges = nil }, `needs merges`},
		"merge":         {func(c *Config) { c.Merges[4] = "xy" }, `merge 4 is "xy"`},
		"empty merge":   {func(c *Config) { c.Merges[4] = "" }, `merge 4 is ""`},
		"blank merge":   {func(c *Config) { c.Merges[4] = " " }, `merge 4 is " "`},
		"bos":           {func(c *Config) { c.Special[RoleBOS] = 1 << 30 }, `the bos token's id is 1073741824`},
		"negative":      {func(c *Config) { c.Special[RoleEOT] = -7 }, `the eot token's id is -7`},
		"role":          {func(c *Config) { c.Special[99] = 1 }, `unknown role 99`},
		"duplicate":     {func(c *Config) { c.Tokens[7] = c.Tokens[3] }, `token 7 is`},
		"long":          {func(c *Config) { c.Tokens[9] = strings.Repeat("x", longestToken+1) }, `token 9 is 1048577 bytes long`},
		"byte":          {func(c *Config) { c.Types[5] = int32(Byte) }, `token 5 is of kind byte`},
		"no bos to add": {func(c *Config) { c.AddBOS = new(true); c.Special[RoleBOS] = None }, `bos token`},
		"no eos to add": {func(c *Config) { c.AddEOS = new(true); c.Special[RoleEOS] = None }, `eos token`},
	} {
		t.Run(name, func(t *testing.T) {
			config := byteLevel("gpt-2", 20)
			c.change(&config)
			if _, err := New(config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	nan := characters("llama")
	nan.Scores[9] /= 0
	nan.Scores[9] -= nan.Scores[9]
	if _, err := New(nan); err == nil || !strings.Contains(err.Error(), "score of token 9") {
		t.Errorf("error %v for a score that is not a number", err)
	}
	bert := wordPieces()
	delete(bert.Special, RoleSEP)
	if _, err := New(bert); err == nil || !strings.Contains(err.Error(), "sep token") {
		t.Errorf("error %v for a bert model without a separator", err)
	}
}

// TestMergeMatchesNaive holds the heap against the definition: join the best pair, the leftmost of equals, until none is left.
func TestMergeMatchesNaive(t *testing.T) {
	naive := func(word string, m *mergeScratch, j joiner) []string {
		list := slices.Clone(m.symbols)
		for {
			best, at, id := uint32(0), -1, int32(0)
			for i := 0; i+1 < len(list); i++ {
				if rank, joint, ok := j.join(word, &list[i], &list[i+1]); ok && (at < 0 || rank < best) {
					best, at, id = rank, i, joint
				}
			}
			if at < 0 {
				break
			}
			list[at].id, list[at].end = id, list[at+1].end
			list = slices.Delete(list, at+1, at+2)
		}
		var out []string
		for _, s := range list {
			out = append(out, word[s.start:s.end])
		}
		return out
	}
	bpeTok, spmTok := mustNew(t, byteLevel("gpt-2", 400)), mustNew(t, characters("llama"))
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOfN(rapid.SampledFrom([]rune("▁ etaoinshrbcd\n1'é中xyz")), 1, 60, -1).Draw(t, "word")
		for _, tok := range []*Tokenizer{bpeTok, spmTok} {
			var m mergeScratch
			for i := 0; i < len(word); {
				n, id := 1, int32(unknown)
				if b, ok := tok.model.(*bpe); ok {
					id = b.bytes[word[i]]
				} else {
					n = symbolLen(word[i])
					id = tok.v.idOr(word[i:i+n], unknown)
				}
				m.add(id, i, i+n)
				i += n
			}
			want := naive(word, &m, tok.model.(joiner))
			m.merge(word, tok.model.(joiner))
			var got []string
			for i := int32(0); i != none; i = m.symbols[i].next {
				got = append(got, word[m.symbols[i].start:m.symbols[i].end])
			}
			if !slices.Equal(want, got) {
				t.Fatalf("%q: want %q, got %q", word, want, got)
			}
		}
	})
}

// TestCutsBeforeBlanks holds that cutting text before blanks, and remembering words, changes no token.
func TestCutsBeforeBlanks(t *testing.T) {
	for _, config := range []Config{characters("llama"), characters("gemma4")} {
		tok := mustNew(t, config)
		cuts := 0
		for _, before := range "abcdeé中z" {
			cuts += len(scan(string(before)+blank+"z", tok.passes)) - 1
		}
		if cuts == 0 {
			t.Fatalf("%s: no text is ever cut", config.Model)
		}
		rapid.Check(t, func(t *rapid.T) {
			text := rapid.StringOfN(rapid.SampledFrom([]rune("▁   abcdeé中z")), 1, 60, -1).Draw(t, "text")
			whole := tok.model.encodeWord(nil, new(mergeScratch), string(escapeBlanks(nil, text, tok.addSpacePrefix)))
			got := tok.Encode(text, EncodeOptions{})
			if !slices.Equal(whole, got) {
				t.Fatalf("%q: as a whole %q, in pieces %q", text, tok.names(whole), tok.names(got))
			}
		})
	}
}

func TestSpecialTokens(t *testing.T) {
	tok := mustNew(t, byteLevel("gpt-2", 1))
	for _, c := range []struct {
		text string
		o    EncodeOptions
		want string
	}{
		{"", EncodeOptions{}, ""},
		{"", EncodeOptions{AddSpecial: true}, ""},
		{"<s>", EncodeOptions{}, "< s >"},
		{"<s>", EncodeOptions{ParseSpecial: true}, "<s>"},
		{"a<s><s>b", EncodeOptions{ParseSpecial: true}, "a <s> <s> b"},
		{"a[[user]]b", EncodeOptions{}, "a [[user]] b"},
		{"[[user]]more", EncodeOptions{}, "[[user]] m o r e"},              // the longer of two that overlap
		{"]]more[[user]]more", EncodeOptions{}, "]]more [[user]] m o r e"}, // and what is left over
		{"<|im_end|>x<|im_end|", EncodeOptions{ParseSpecial: true}, "<|im_end|> x < | i m _ e n d |"},
	} {
		got := strings.Join(tok.names(tok.Encode(c.text, c.o)), " ")
		if got != c.want {
			t.Errorf("%q %+v: %s, want %s", c.text, c.o, got, c.want)
		}
	}
	config := byteLevel("llama3", 1)
	config.AddEOS = new(true)
	tok = mustNew(t, config)
	if got, want := tok.names(tok.Encode("a", EncodeOptions{AddSpecial: true})), []string{"<s>", "a", "<|im_end|>"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if !tok.AddBOS() || !tok.AddEOS() || !tok.IsEOG(tok.EOS()) || tok.IsEOG(tok.BOS()) || tok.EOT() != tok.EOS() || tok.PAD() != None {
		t.Errorf("bos %d eos %d eot %d pad %d", tok.BOS(), tok.EOS(), tok.EOT(), tok.PAD())
	}
}

// TestSpecialMatchesPartition holds find against the definition: token after token, the longest first, each takes its places from the text that is left.
func TestSpecialMatchesPartition(t *testing.T) {
	c := byteLevel("gpt-2", 1)
	for k, text := range []string{"a", "aa", "aaaa", "ab", "aba", "baab", "cc", "acca", "\n\n", "\n\n\n"} {
		c.Tokens, c.Types = append(c.Tokens, "@"+text), append(c.Types, int32(Control))
		if k%2 == 0 {
			c.Types[len(c.Types)-1] = int32(UserDefined)
		}
		c.Tokens[len(c.Tokens)-1] = strings.ReplaceAll(text, "a", "@")
	}
	// The names of bytes are ordinary tokens; single ones must not clash with the special "@".
	c.Tokens[slices.Index(c.Tokens, "@")] = "at"
	tok := mustNew(t, c)
	var m specialScratch
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune("@@@@bc\n\nx")), 0, 40, -1).Draw(t, "text")
		parse := rapid.Bool().Draw(t, "parse")
		var order []int32
		for id, kind := range tok.v.kinds {
			if kind == UserDefined || parse && (kind == Control || kind == Unknown) {
				order = append(order, int32(id))
			}
		}
		slices.SortStableFunc(order, func(a, b int32) int { return len(tok.Token(b)) - len(tok.Token(a)) })
		left := []byte(text)
		var want []span
		for len(order) > 0 {
			same := order[:1] // of equal length: the leftmost goes first
			for len(same) < len(order) && len(tok.Token(order[len(same)])) == len(tok.Token(order[0])) {
				same = order[:len(same)+1]
			}
			order = order[len(same):]
			for i := range left {
				for _, id := range same {
					if s := tok.Token(id); strings.HasPrefix(string(left[i:]), s) {
						want = append(want, span{i, i + len(s), id})
						copy(left[i:], make([]byte, len(s)))
					}
				}
			}
		}
		slices.SortFunc(want, func(a, b span) int { return a.start - b.start })
		if got := tok.specials.find(&m, text, parse); !slices.Equal(got, want) {
			t.Fatalf("%q: %v, want %v", text, got, want)
		}
	})
}

// TestStrips holds that the families that do so swallow white space beside their special tokens.
func TestStrips(t *testing.T) {
	config := byteLevel("gpt-2", 1)
	config.Name = "Phi-3 mini"
	tok := mustNew(t, config)
	if got, want := tok.names(tok.Encode("a <|im_end|> \n b<s> c", EncodeOptions{ParseSpecial: true})), []string{"a", "Ġ", "<|im_end|>", "b", "<s>", "Ġ", "c"}; !slices.Equal(got, want) {
		t.Errorf("phi-3: %q, want %q", got, want)
	}
	config = byteLevel("jina-v2-code", 1)
	config.Tokens[len(config.Tokens)-1] = "<mask>"
	tok = mustNew(t, config)
	if got, want := tok.names(tok.Encode("a \t<mask> b", EncodeOptions{})), []string{"a", "<mask>", "Ġ", "b"}; !slices.Equal(got, want) {
		t.Errorf("jina: %q, want %q", got, want)
	}
}

// TestEndings holds the derivation of the tokens that end a generation.
func TestEndings(t *testing.T) {
	build := func(extra ...string) *Tokenizer {
		c := byteLevel("gpt-2", 1)
		c.Special = map[Role]int32{RoleEOS: None}
		for _, text := range extra {
			c.Tokens, c.Types = append(c.Tokens, text), append(c.Types, int32(Normal))
		}
		return mustNew(t, c)
	}
	is := func(tok *Tokenizer, text string) (bool, Kind) {
		id, ok := tok.ID(text)
		if !ok {
			t.Fatalf("no token %q", text)
		}
		return tok.IsEOG(id), tok.Kind(id)
	}
	for _, c := range []struct {
		with []string
		text string
		eog  bool
		kind Kind
	}{
		{nil, "<|im_end|>", true, Control},
		{[]string{"<eos>"}, "<eos>", true, Control},
		{[]string{"<|fim_pad|>"}, "<|fim_pad|>", true, Control},
		{[]string{"<|fim_prefix|>"}, "<|fim_prefix|>", false, Control},
		{[]string{"<|end|>", "<|call|>"}, "<|end|>", true, Control},
		{[]string{"<|end|>", "<|call|>", "<|return|>"}, "<|end|>", false, UserDefined},
		{[]string{"<|end|>", "<|calls|>", "<|flush|>"}, "<|end|>", false, UserDefined},
		{[]string{"</s>"}, "</s>", true, Control},
		{[]string{"</s>", "<|tool_response>"}, "</s>", false, Normal},
		{[]string{"<|channel|>"}, "<|channel|>", false, UserDefined},
	} {
		if eog, kind := is(build(c.with...), c.text); eog != c.eog || kind != c.kind {
			t.Errorf("%q among %q: ends %v, kind %v; want %v, %v", c.text, c.with, eog, kind, c.eog, c.kind)
		}
	}
	tok := build()
	for _, id := range []int32{None, -5, int32(tok.VocabSize()), 1 << 30} {
		if tok.IsEOG(id) || tok.Kind(id) != Undefined || tok.Piece(id) != "" || tok.Token(id) != "" {
			t.Errorf("id %d outside the vocabulary has properties", id)
		}
	}
	if tok.Special(numRoles) != None {
		t.Error("an unknown role has a token")
	}
}

func TestWordPieces(t *testing.T) {
	tok := mustNew(t, wordPieces())
	for text, want := range map[string]string{
		"unable Cafés!": "[CLS] ▁un able ▁cafe s ▁! [SEP]",
		"a\u200bb a\tb": "[CLS] [UNK] ▁a ▁b [SEP]", // the joiner vanishes, and no token makes ab
		"a中b \x00\xff":  "[CLS] ▁a ▁中 ▁b [SEP]",
		"unx":           "[CLS] [UNK] [SEP]",
		"각":             "[CLS] ▁ᄀ [SEP]",
	} {
		if got := strings.Join(tok.names(tok.Encode(text, EncodeOptions{AddSpecial: true})), " "); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	config := wordPieces()
	config.Lowercase = new(false)
	tok = mustNew(t, config)
	if got, want := strings.Join(tok.names(tok.Encode("Un un café", EncodeOptions{})), " "), "[UNK] ▁un [UNK]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestDecoder holds that decoding one token at a time gives whole characters, and in all what decoding at once gives.
func TestDecoder(t *testing.T) {
	toks := []*Tokenizer{mustNew(t, byteLevel("gpt-2", 400)), mustNew(t, characters("llama")), mustNew(t, characters("gemma4")), mustNew(t, wordPieces())}
	rapid.Check(t, func(t *rapid.T) {
		tok := rapid.SampledFrom(toks).Draw(t, "tokenizer")
		o := DecodeOptions{Special: rapid.Bool().Draw(t, "special"), TrimPrefix: rapid.Bool().Draw(t, "trim")}
		ids := rapid.SliceOf(rapid.Int32Range(-2, int32(tok.VocabSize()+2))).Draw(t, "ids")
		if rapid.Bool().Draw(t, "text") {
			ids = tok.Encode(texts().Draw(t, "text"), EncodeOptions{})
		}
		whole := tok.Decode(ids, o)
		d := tok.NewDecoder(o)
		for range 2 { // Flush makes it ready for more
			var b strings.Builder
			for _, id := range ids {
				part := d.Next(id)
				if utf8.ValidString(whole) && !utf8.ValidString(part) {
					t.Fatalf("part %q is no text", part)
				}
				b.WriteString(part)
			}
			b.WriteString(d.Flush())
			if b.String() != whole {
				t.Fatalf("%v: in parts %q, at once %q", ids, b.String(), whole)
			}
			d.trim = o.TrimPrefix && tok.addSpacePrefix
		}
	})
}

func TestDecodeTrimsPrefix(t *testing.T) {
	tok := mustNew(t, characters("llama"))
	ids := tok.Encode("ab c", EncodeOptions{AddSpecial: true})
	for o, want := range map[DecodeOptions]string{{}: " ab c", {TrimPrefix: true}: "ab c", {Special: true}: "<s> ab c"} {
		if got := tok.Decode(ids, o); got != want {
			t.Errorf("%+v: %q, want %q", o, got, want)
		}
	}
}

// TestConcurrent holds that goroutines that share a Tokenizer do not disturb each other.
func TestConcurrent(t *testing.T) {
	tok := mustNew(t, byteLevel("qwen2", 400))
	var inputs []string
	var want [][]int32
	for i := range 64 {
		text := strings.Repeat(snippets[i%len(snippets)]+snippets[i*7%len(snippets)], 20)
		inputs, want = append(inputs, text), append(want, tok.Encode(text, EncodeOptions{}))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i, text := range inputs {
				if got := tok.Encode(text, EncodeOptions{}); !slices.Equal(got, want[i]) {
					t.Errorf("%q: %v, want %v", text, got, want[i])
				}
			}
		})
	}
	wg.Wait()
}

// TestCacheStartsOver fills the cache of words several times over.
func TestCacheStartsOver(t *testing.T) {
	tok := mustNew(t, byteLevel("gpt-2", 400))
	rng := rand.New(rand.NewPCG(5, 6))
	var b strings.Builder
	for b.Len() < 4*cacheBytes {
		fmt.Fprintf(&b, " %x", rng.Uint64()>>rng.IntN(64))
	}
	ids := tok.Encode(b.String(), EncodeOptions{})
	if got := tok.Decode(ids, DecodeOptions{}); got != b.String() {
		t.Error("the text changed")
	}
	var want []int32
	for _, word := range scan(b.String(), tok.passes) {
		want = tok.model.encodeWord(want, new(mergeScratch), word)
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Error("tokens from the cache differ")
	}
}

// TestCacheCollisions holds that words whose hashes are equal are told apart.
func TestCacheCollisions(t *testing.T) {
	c := wordCache{slots: make([]cacheSlot, cacheSlots)}
	const hash = 12345
	for i := range int32(cacheProbe + 2) { // more than a hash has slots for
		word := strings.Repeat("w", int(i)+1)
		if _, ok := c.get(nil, hash, word); ok {
			t.Errorf("%q is known before it was put", word)
		}
		c.put(hash, word, []int32{i, i})
		if ids, ok := c.get(nil, hash, word); !ok || !slices.Equal(ids, []int32{i, i}) {
			t.Errorf("%q has tokens %v, %v", word, ids, ok)
		}
	}
}

func TestEncodeAllocates(t *testing.T) {
	tok := mustNew(t, byteLevel("gpt-2", 400))
	text := strings.Repeat("the rain in spain, 123\n", 100)
	e := tok.encoders.New().(*encoder)
	dst := e.encode(nil, text, EncodeOptions{})
	if n := testing.AllocsPerRun(100, func() { dst = e.encode(dst[:0], text, EncodeOptions{ParseSpecial: true}) }); n > 0 {
		t.Errorf("%v allocations for a text that was seen before, into a slice that is long enough", n)
	}
}
