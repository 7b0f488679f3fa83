package tokenizer

import (
	"strings"
	"testing"
)

// FuzzRoundTrip holds that byte-level BPE keeps every text, and bytes that are none as llama.cpp reads them, under every pre-tokenizer; and that
// sentencepiece-like models keep all bytes.
func FuzzRoundTrip(f *testing.F) {
	for _, s := range snippets {
		f.Add(s+" "+s, uint8(len(s)))
	}
	for _, s := range []string{"\xff\xfe", "\xe2\x96", "\xc0\x80", "\xed\xa0\x80x", "\xf4\x90\x80\x80", "\xc2 ", "[[user]]more", "<s>"} {
		f.Add(s, uint8(0))
	}
	names := PreTokenizers()
	toks := map[string]*Tokenizer{}
	for _, name := range names {
		if !byName()[name].characters {
			toks[name] = mustNew(f, byteLevel(name, 400))
		}
	}
	spm := characters("llama")
	spm.AddSpacePrefix = new(false)
	spmTok, wpmTok := mustNew(f, spm), mustNew(f, wordPieces())
	f.Fuzz(func(t *testing.T, text string, pick uint8) {
		o := EncodeOptions{ParseSpecial: pick&1 == 0}
		if tok := toks[names[int(pick)%len(names)]]; tok != nil {
			ids := tok.Encode(text, o)
			if got, want := tok.Decode(ids, DecodeOptions{Special: true}), repair(text); got != want {
				t.Errorf("%q became %q, want %q", text, got, want)
			}
		}
		ids := spmTok.Encode(text, o)
		// A stray byte before a space takes the space's spelling apart, which then comes back as spelled.
		plain := func(s string) string { return strings.ReplaceAll(s, blank, " ") }
		if got, want := plain(spmTok.Decode(ids, DecodeOptions{Special: true})), plain(text); got != want {
			t.Errorf("llama: %q became %q, want %q", text, got, want)
		}
		for _, id := range wpmTok.Encode(text, o) {
			if wpmTok.Token(id) == "" {
				t.Errorf("bert: %q has token %d", text, id)
			}
		}
	})
}

// FuzzNew builds tokenizers from arbitrary vocabularies: lines of tokens and merges.
func FuzzNew(f *testing.F) {
	f.Add("gpt2", "gpt-2", "a\nb\nab", "a b", "abba", uint8(0), int32(1))
	f.Add("llama", "", "<unk>\n<s>\n</s>\n▁a\n▁", "", "a a", uint8(6), int32(0))
	f.Add("bert", "", "[UNK]\n[CLS]\n[SEP]\n▁a", "", "a b", uint8(1), int32(2))
	f.Add("gemma4", "", "a\n▁\n\n\n\n<0x41>", "a ▁\na▁ a", "a a A", uint8(6), int32(3))
	f.Fuzz(func(t *testing.T, model, pre, tokens, merges, text string, kind uint8, special int32) {
		c := Config{Model: model, Pre: pre, Tokens: strings.Split(tokens, "\n"), Special: map[Role]int32{Role(kind) % numRoles: special, RoleUNK: 0, RoleSEP: 0}}
		if merges != "" {
			c.Merges = strings.Split(merges, "\n")
		}
		for range c.Tokens {
			c.Types = append(c.Types, int32(kind%8))
			c.Scores = append(c.Scores, float32(special))
			kind = kind*5 + 1
		}
		tok, err := New(c)
		if err != nil {
			return
		}
		for _, o := range []EncodeOptions{{}, {AddSpecial: true, ParseSpecial: true}} {
			for _, id := range tok.Encode(text, o) {
				if id < 0 || int(id) >= tok.VocabSize() {
					t.Errorf("%q has token %d of %d", text, id, tok.VocabSize())
				}
			}
		}
	})
}
