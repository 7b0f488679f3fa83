package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// preTokenizer cuts text into the words inside which a BPE model merges, and carries what else a model's name implies.
type preTokenizer struct {
	passes       []pass
	ignoreMerges bool // a word that is a token is that token, whatever the merges say
	addBOS       bool // a text begins with BOS unless the file says otherwise
	noBOS        bool // there is no customary BOS
	characters   bool // merges start from characters, with blanks spelled ▁, not from bytes
	newlineRuns  bool // a run of newlines that is a token is that token
}

// The building blocks of several pre-tokenizers.
var (
	eachNumber   = search{runs{set: runeSet{class: number}, min: 1, max: 1}}
	numberRuns   = search{runs{set: runeSet{class: number}, min: 1}}
	numberTriple = search{runs{set: runeSet{class: number}, min: 1, max: 3}}
	digitTriple  = search{runs{set: newRuneSet("0-9"), min: 3, max: 3}}
	eachNewline  = search{runs{set: newRuneSet("\r\n"), min: 1, max: 1}}
	cjkRuns      = search{runs{set: newRuneSet("\u0800-\u9FA5\uAC00-\uD7FF"), min: 1}}
	kanaRuns     = search{runs{set: newRuneSet("\u3040-\u30FF\u4E00-\u9FA5"), min: 1}}
)

// punctRuns is [\p{P}...]+ with some ASCII symbols.
func punctRuns(symbols string) pass {
	set := newRuneSet(symbols)
	set.class = punct
	return search{runs{set: set, min: 1}}
}

// sentences is [ ]?[^(\s|.,!?…。，、।۔،)]+, in which all between the brackets is excluded, parentheses too.
func sentences() pass {
	set := newRuneSet("!(),.?|\u060C\u06D4\u0964\u2026\u3001\u3002\uFF0C")
	set.class, set.negate = space, true
	return search{runs{set: set, min: 1, blank: true}}
}

// deepseekLetters are the cased letters of the Latin, Greek, Cyrillic, Armenian, Georgian and other scripts that the first DeepSeek vocabularies join.
const deepseekLetters = "A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386" +
	"\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF" +
	"\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4" +
	"\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115" +
	"\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE" +
	"\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A" +
	"\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943"

const symbolStop = space | letter | number

// families lists the pre-tokenizers with all the names that vocabularies know them by.
var families = []struct {
	names string
	preTokenizer
}{
	{names: "default", preTokenizer: preTokenizer{passes: []pass{punctRuns("$+<=>^|~"), gpt2Words{}, numberRuns, digitTriple}}},
	{names: "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling exaone4",
		preTokenizer: preTokenizer{passes: []pass{gpt2Words{}}}},
	{names: "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", preTokenizer: preTokenizer{passes: []pass{eachNumber, gpt2Words{}}}},
	{names: "falcon", preTokenizer: preTokenizer{passes: []pass{punctRuns("$+<=>^`|~"), gpt2Words{}, digitTriple}}},
	{names: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", preTokenizer: preTokenizer{ignoreMerges: true, addBOS: true,
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 3, shorten: apart, tail: "\r\n"}}}},
	{names: "dbrx smaug-bpe", preTokenizer: preTokenizer{
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 3, shorten: apart, tail: "\r\n"}}}},
	{names: "chatglm-bpe", preTokenizer: preTokenizer{noBOS: true,
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 3, shorten: apart, tail: "\r\n"}}}},
	{names: "glm4 glm5", preTokenizer: preTokenizer{noBOS: true, ignoreMerges: true,
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 3, shorten: apart, tail: "\r\n"}}}},
	{names: "minicpm5", preTokenizer: preTokenizer{ignoreMerges: true,
		passes: []pass{numberTriple, &wordRule{letters: letter, symbols: symbolStop, shorten: apart, tail: "\r\n"}}}},
	{names: "jais-2", preTokenizer: preTokenizer{
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 3, shorten: apart, tail: "\r\n", steps: true}}}},
	{names: "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe", preTokenizer: preTokenizer{
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 1, shorten: apart, tail: "\r\n"}}}},
	{names: "laguna", preTokenizer: preTokenizer{
		passes: []pass{lines{}, &wordRule{letters: letter, symbols: symbolStop, digits: 1, shorten: apart, tail: "\r\n"}}}},
	{names: "seed-coder", preTokenizer: preTokenizer{passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 1, shorten: apart}}}},
	{names: "ufakzeka", preTokenizer: preTokenizer{passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 1, tail: "\r\n"}}}},
	{names: "qwen35", preTokenizer: preTokenizer{
		passes: []pass{&wordRule{letters: letter | mark, symbols: symbolStop | mark, digits: 1, shorten: apart, tail: "\r\n"}}}},
	{names: "exaone-moe", preTokenizer: preTokenizer{
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 1, shorten: apart, tail: "\r\n/", tailOnce: true, phrases: true}}}},
	{names: "tekken", preTokenizer: preTokenizer{ignoreMerges: true, addBOS: true,
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 1, tail: "\r\n/", cased: true}}}},
	{names: "gpt-4o llama4 kanana2 talkie minimax-m2", preTokenizer: preTokenizer{
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 3, shorten: attached, tail: "\r\n/", cased: true}}}},
	{names: "granite-embed-multi-97m", preTokenizer: preTokenizer{ignoreMerges: true,
		passes: []pass{&wordRule{letters: letter | mark, symbols: symbolStop, digits: 3, shorten: attached, tail: "\r\n/", cased: true}}}},
	{names: "tiny_aya cohere2moe", preTokenizer: preTokenizer{
		passes: []pass{thousands{}, &wordRule{letters: letter | mark, symbols: symbolStop, digits: 3, shorten: attached, tail: "\r\n/"}}}},
	{names: "youtu", preTokenizer: preTokenizer{ignoreMerges: true, passes: []pass{
		search{runs{set: newRuneSet("\u3131-\u318E\uAC00-\uD7A3"), min: 1}}, search{runs{set: newRuneSet("\u2014\u2018\u2019\u201C\u201D\u2026\u3001-\u303F\uFE30-\uFE4F\uFF01\uFF0C\uFF1A\uFF1B"), min: 1}},
		search{runs{set: newRuneSet("\u3105-\u312F"), min: 1}}, kanaRuns,
		&wordRule{letters: letter | mark, symbols: symbolStop, digits: 1, shorten: attached, tail: "\r\n/"}}}},
	{names: "kimi-k2", preTokenizer: preTokenizer{
		passes: []pass{&wordRule{letters: letter, symbols: symbolStop, digits: 3, shorten: attached, tail: "\r\n", ideogram: true}}}},
	{names: "deepseek-llm", preTokenizer: preTokenizer{passes: []pass{eachNewline,
		search{runs{set: newRuneSet(deepseekLetters), min: 1, lead: space}}, search{runs{set: newRuneSet("!-/:-~\u2018-\u201F\u3001\u3002\uFF01-\uFF0F\uFF1A-\uFF5E"), min: 1, lead: space}},
		trailing{}, cjkRuns, numberRuns}}},
	{names: "deepseek-coder", preTokenizer: preTokenizer{passes: []pass{eachNewline,
		search{runs{set: runeSet{class: letter}, min: 1, lead: space}}, search{runs{set: runeSet{class: punct}, min: 1, lead: space}}, cjkRuns, eachNumber}}},
	{names: "deepseek-v3 hunyuan-dense joyai-llm hy_v4", preTokenizer: preTokenizer{passes: []pass{numberTriple, kanaRuns, search{codeRule{}}}}},
	{names: "spark2_5", preTokenizer: preTokenizer{passes: []pass{numberTriple, kanaRuns, search{codeRule{newlines: true}}, eachNumber}}},
	{names: "afmoe", preTokenizer: preTokenizer{passes: []pass{thousands{},
		search{runs{set: newRuneSet("\u0E40-\u0EFF\u1000-\u109F\u1100-\u11FF\u1780-\u17FF\u2F00-\u2FDF\u3040-\u30FF\u3400-\u4DBF\u4E00-\uFAFF\uFF65-\uFF9F"), min: 1}}, search{codeRule{}}}}},
	{names: "poro-chat bloom gpt3-finnish", preTokenizer: preTokenizer{passes: []pass{sentences()}}},
	{names: "viking", preTokenizer: preTokenizer{passes: []pass{sentences(), eachNumber}}},
	{names: "gemma4 granite-embed-multi-311m", preTokenizer: preTokenizer{addBOS: true, characters: true, newlineRuns: true, passes: []pass{lines{}}}},
	{names: "sarvam-moe", preTokenizer: preTokenizer{characters: true, passes: []pass{lines{}}}},
}

// byName indexes families.
var byName = sync.OnceValue(func() map[string]*preTokenizer {
	m := make(map[string]*preTokenizer)
	for i := range families {
		for _, name := range strings.Fields(families[i].names) {
			m[name] = &families[i].preTokenizer
		}
	}
	return m
})

// PreTokenizers returns the names of the known pre-tokenizers, sorted.
func PreTokenizers() []string {
	var names []string
	for name := range byName() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// lookupPre finds a pre-tokenizer by name.
func lookupPre(name string) (*preTokenizer, error) {
	if name == "" {
		name = "default"
	}
	if p, ok := byName()[name]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("tokenizer: unknown pre-tokenizer %q; known are %s", name, strings.Join(PreTokenizers(), ", "))
}
