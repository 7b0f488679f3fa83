package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// pieces holds the text that each token stands for, one after the other.
type pieces struct {
	text string
	ends []uint32
}

// newPieces spells every token as text: byte-level tokens through GPT-2's alphabet, others with spaces for ▁.
func newPieces(v *vocabulary, byteLevel bool) pieces {
	size := 0
	for _, text := range v.tokens {
		size += len(text)
	}
	buf := make([]byte, 0, size)
	p := pieces{ends: make([]uint32, len(v.tokens))}
	for id, text := range v.tokens {
		switch kind := v.kinds[id]; {
		case kind == Control || kind == UserDefined || kind == Unknown:
			buf = append(buf, text...)
		case kind == Byte:
			b, _ := hexByte(text)
			buf = append(buf, b)
		case kind == Normal && byteLevel:
			for _, r := range text {
				if b, ok := spelledByte[r]; ok {
					buf = append(buf, b)
				} else {
					buf = utf8.AppendRune(buf, r)
				}
			}
		case kind == Normal:
			for {
				i := strings.Index(text, blank)
				if i < 0 {
					break
				}
				buf = append(append(buf, text[:i]...), ' ')
				text = text[i+len(blank):]
			}
			buf = append(buf, text...)
		}
		p.ends[id] = uint32(len(buf))
	}
	p.text = string(buf)
	return p
}

func (p *pieces) of(id int32) string {
	if id < 0 || int(id) >= len(p.ends) {
		return ""
	}
	start := uint32(0)
	if id > 0 {
		start = p.ends[id-1]
	}
	return p.text[start:p.ends[id]]
}

// DecodeOptions says how ids become text; the zero value leaves control tokens out.
type DecodeOptions struct {
	// Special shows control and unknown tokens by their names.
	Special bool
	// TrimPrefix says that the ids begin a text: the space that a llama model puts before a text is taken away again. Leave it unset for a continuation.
	TrimPrefix bool
}

// Decode returns the text of ids. It is not always UTF-8: a token may end inside a character. Ids outside the vocabulary have no text.
func (t *Tokenizer) Decode(ids []int32, o DecodeOptions) string {
	return string(t.AppendDecode(nil, ids, o))
}

// AppendDecode appends the text of ids to dst.
func (t *Tokenizer) AppendDecode(dst []byte, ids []int32, o DecodeOptions) []byte {
	trim := o.TrimPrefix && t.addSpacePrefix
	for _, id := range ids {
		dst = append(dst, t.shown(id, o.Special, &trim)...)
	}
	return dst
}

// shown returns a token's text as the options want it; trim is cleared by the first token that shows.
func (t *Tokenizer) shown(id int32, special bool, trim *bool) string {
	if k := t.Kind(id); !special && (k == Control || k == Unknown) {
		return ""
	}
	piece := t.pieces.of(id)
	if *trim && piece != "" {
		*trim = false
		piece = strings.TrimPrefix(piece, " ")
	}
	return piece
}

// Decoder decodes a stream of ids, one at a time, into whole characters. It is not safe for concurrent use.
type Decoder struct {
	t       *Tokenizer
	special bool
	trim    bool
	held    []byte // the beginning of a character
}

// NewDecoder returns a Decoder at the start of a text. What it returns in all, Flush included, is what Decode returns for the same ids.
func (t *Tokenizer) NewDecoder(o DecodeOptions) *Decoder {
	return &Decoder{t: t, special: o.Special, trim: o.TrimPrefix && t.addSpacePrefix}
}

// Next returns the text that a token completes, "" while a character is still incomplete. Bytes that cannot become a character are passed on as they are.
func (d *Decoder) Next(id int32) string {
	piece := d.t.shown(id, d.special, &d.trim)
	if len(d.held) == 0 && incomplete(piece) == 0 {
		return piece
	}
	d.held = append(d.held, piece...)
	n := len(d.held) - incomplete(string(d.held[max(0, len(d.held)-utf8.UTFMax):]))
	text := string(d.held[:n])
	d.held = append(d.held[:0], d.held[n:]...)
	return text
}

// Flush returns the bytes still held, the beginning of a character that never came, and makes the Decoder ready for more.
func (d *Decoder) Flush() string {
	text := string(d.held)
	d.held = d.held[:0]
	return text
}

// incomplete returns the number of bytes at the end of s that begin a character and do not complete it.
func incomplete(s string) int {
	for n := 1; n < utf8.UTFMax && n <= len(s); n++ {
		tail := s[len(s)-n:]
		if utf8.RuneStart(tail[0]) {
			if utf8.FullRuneInString(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
