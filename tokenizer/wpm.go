package tokenizer

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// wpm is WordPiece: it normalises the text, cuts it at white space and punctuation, and covers each word greedily by the longest tokens.
type wpm struct {
	v         *vocabulary
	unk       int32
	lowercase bool
	strip     bool // accents
}

// split calls word with each word of a fragment, spelled with ▁ before it. buf is memory for the words; split returns it grown.
func (w *wpm) split(t *classTable, text string, buf []byte, word func(string)) []byte {
	buf = append(buf[:0], blank...)
	flush := func() {
		if len(buf) > len(blank) {
			word(view(buf))
			buf = buf[:len(blank)]
		}
	}
	for i := 0; i < len(text); {
		r, n := decodeRune(text, i)
		i += n
		if w.strip {
			r = base(r)
		}
		c := t.of(r)
		switch {
		case c&space != 0:
			flush()
		case r == 0 || r == unicode.ReplacementChar || c&control != 0:
		case w.strip && c&mark != 0:
		case c&punct != 0 || r < 0x7F && c&sign != 0 || isIdeograph(r):
			flush()
			buf = w.append(buf, r)
			flush()
		default:
			buf = w.append(buf, r)
		}
	}
	flush()
	return buf
}

// append appends a character of a word.
func (w *wpm) append(buf []byte, r rune) []byte {
	if w.lowercase {
		r = unicode.ToLower(r)
	}
	return utf8.AppendRune(buf, r)
}

// encodeWord appends the tokens of one word, or the unknown token if they cannot cover all of it.
func (w *wpm) encodeWord(out []int32, _ *mergeScratch, word string) []int32 {
	start := len(out)
	for i := 0; i < len(word); {
		end := min(len(word), i+w.v.longest)
		for ; end > i; end-- {
			if id, ok := w.v.ids[word[i:end]]; ok {
				out = append(out, id)
				break
			}
		}
		if end == i {
			return append(out[:start], w.unk)
		}
		i = end
	}
	return out
}

// base returns the first code point of a character's canonical decomposition: the letter without its accents.
func base(r rune) rune {
	if r < 0xC0 {
		return r
	}
	const firstHangul, lastHangul, firstJamo, perJamo = 0xAC00, 0xD7A3, 0x1100, 588
	if firstHangul <= r && r <= lastHangul {
		return firstJamo + (r-firstHangul)/perJamo
	}
	var b [utf8.UTFMax]byte
	n := utf8.EncodeRune(b[:], r)
	if d := norm.NFD.Properties(b[:n]).Decomposition(); len(d) > 0 {
		r, _ = utf8.DecodeRune(d)
	}
	return r
}

// isIdeograph reports whether a character is a word by itself. The blocks, the gap in extension E included, are those of the original tokenizer.
func isIdeograph(r rune) bool {
	return 0x4E00 <= r && r <= 0x9FFF || 0x3400 <= r && r <= 0x4DBF || 0x20000 <= r && r <= 0x2A6DF || 0x2A700 <= r && r <= 0x2B73F ||
		0x2B740 <= r && r <= 0x2B81F || 0x2B920 <= r && r <= 0x2CEAF || 0xF900 <= r && r <= 0xFAFF || 0x2F800 <= r && r <= 0x2FA1F
}
