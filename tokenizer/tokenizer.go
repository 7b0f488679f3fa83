// Package tokenizer turns text into the token ids of a model's vocabulary and back. Its ids are those of llama.cpp for the same GGUF file: byte-level BPE with
// pre-tokenizers by name, sentencepiece-like merging by score with byte fall-back, and WordPiece.
package tokenizer

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// Tokenizer is a vocabulary ready for use. It is immutable and safe for concurrent use.
type Tokenizer struct {
	v              *vocabulary
	model          wordModel
	normalizer     *wpm   // of a bert model, else nil
	passes         []pass // cut a fragment into words; none for a bert model
	specials       *specials
	escape         bool // spaces are spelled ▁
	repair         bool // bytes that are no text are replaced first
	addSpacePrefix bool
	addBOS, addEOS bool
	addSEP         bool
	pieces         pieces
	classes        *classTable
	encoders       sync.Pool // of *encoder
}

// wordModel finds the tokens of one word. The scratch memory is the caller's.
type wordModel interface {
	encodeWord(out []int32, m *mergeScratch, word string) []int32
}

// New builds a Tokenizer from a vocabulary. A Config that contradicts itself is an error that names what was found.
func New(c Config) (*Tokenizer, error) {
	fam, err := c.check()
	if err != nil {
		return nil, err
	}
	pre := &preTokenizer{}
	if fam == familyBPE {
		name := c.Pre
		if c.Model == "gemma4" {
			name = c.Model
		}
		if pre, err = lookupPre(name); err != nil {
			return nil, err
		}
	}
	v, err := newVocabulary(&c, fam, pre)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{v: v, specials: newSpecials(&c, v), classes: classes(), passes: pre.passes}
	byteLevel := false
	switch fam {
	case familyBPE:
		b, err := newBPE(v, pre, c.Merges)
		if err != nil {
			return nil, err
		}
		t.model, t.repair = b, true
		byteLevel = !pre.characters
		if pre.characters {
			t.escape = true
			t.passes = append(slices.Clip(t.passes), newBeforeBlank(v, b.extraIDs))
		}
		t.addBOS = pre.addBOS
	case familySPM:
		t.model = newSPM(v, c.Scores, v.special[RoleUNK])
		t.passes = []pass{newBeforeBlank(v, nil)}
		t.escape, t.addSpacePrefix, t.addBOS = true, true, true
	case familyWPM:
		w := &wpm{v: v, unk: v.special[RoleUNK], lowercase: orTrue(c.Lowercase)}
		w.strip = w.lowercase
		if c.StripAccents != nil {
			w.strip = *c.StripAccents
		}
		t.model, t.normalizer, t.repair, t.addSEP = w, w, true, true
	}
	if fam == familySPM && c.AddSpacePrefix != nil {
		t.addSpacePrefix = *c.AddSpacePrefix
	}
	if c.AddBOS != nil {
		t.addBOS = *c.AddBOS
	}
	if c.AddEOS != nil {
		t.addEOS = *c.AddEOS
	}
	if pre.newlineRuns || fam == familyWPM {
		t.addBOS = true // files of these families that say otherwise are mistaken
	}
	t.addEOS = t.addEOS && fam != familyWPM // a bert model ends with the separator
	for _, need := range []struct {
		role Role
		by   bool
	}{{RoleBOS, t.addBOS}, {RoleEOS, t.addEOS}, {RoleSEP, t.addSEP}, {RoleUNK, fam == familyWPM}} {
		if need.by && v.special[need.role] == None {
			return nil, fmt.Errorf("tokenizer: the %s model puts a %v token into texts, and its vocabulary has none", c.Model, need.role)
		}
	}
	t.pieces = newPieces(v, byteLevel)
	t.encoders.New = func() any {
		return &encoder{t: t, cache: wordCache{seed: maphash.MakeSeed(), slots: make([]cacheSlot, cacheSlots)}}
	}
	return t, nil
}

func orTrue(b *bool) bool { return b == nil || *b }

// EncodeOptions says how a text is to be read; the zero value reads it as plain text.
type EncodeOptions struct {
	// AddSpecial puts the tokens around the text that the model expects at the ends of a prompt (BOS, EOS), where the vocabulary's file says so.
	AddSpecial bool
	// ParseSpecial recognises control tokens where the text spells them, as a rendered chat template does. Never set it for text that users may write:
	// without it such text is only text. User-defined tokens are recognised in any case.
	ParseSpecial bool
}

// Encode returns the token ids of a text. Bytes that are no UTF-8 become U+FFFD, or byte tokens in models that have them.
func (t *Tokenizer) Encode(text string, o EncodeOptions) []int32 {
	return t.AppendEncode(nil, text, o)
}

// AppendEncode appends the token ids of a text to dst.
func (t *Tokenizer) AppendEncode(dst []int32, text string, o EncodeOptions) []int32 {
	e := t.encoders.Get().(*encoder)
	dst = e.encode(dst, text, o)
	e.trim()
	t.encoders.Put(e)
	return dst
}

// encoder is what one Encode needs and the next may use again.
type encoder struct {
	t       *Tokenizer
	out     []int32
	cache   wordCache
	merge   mergeScratch
	special specialScratch
	memo    [8]int // of each pass
	buf     []byte // the fragment, or the word, as the model spells it
}

// encode appends the token ids of a text to dst.
func (e *encoder) encode(dst []int32, text string, o EncodeOptions) []int32 {
	t := e.t
	e.out = slices.Grow(dst, len(text)/4+4)
	if o.AddSpecial && t.addBOS {
		e.out = append(e.out, t.v.special[RoleBOS])
	}
	at := 0
	for _, s := range t.specials.find(&e.special, text, o.ParseSpecial) {
		e.fragment(text[at:s.start])
		e.out = append(e.out, s.id)
		at = s.end
	}
	e.fragment(text[at:])
	if o.AddSpecial && t.addEOS {
		e.out = append(e.out, t.v.special[RoleEOS])
	}
	if o.AddSpecial && t.addSEP {
		e.out = append(e.out, t.v.special[RoleSEP])
	}
	dst, e.out = e.out, nil
	return dst
}

// fragment encodes text between special tokens. Each counts as the beginning of a text, which is where the space prefix stands.
func (e *encoder) fragment(text string) {
	if text == "" {
		return
	}
	t := e.t
	if t.escape && (t.addSpacePrefix || strings.Contains(text, " ")) {
		e.buf = escapeBlanks(e.buf[:0], text, t.addSpacePrefix)
		text = view(e.buf) // nothing below keeps it
	}
	if t.repair {
		text = repair(text)
	}
	if t.normalizer != nil {
		e.buf = t.normalizer.split(t.classes, text, e.buf, e.word)
		return
	}
	e.split(text, 0)
}

// split cuts a piece with the passes from depth on and encodes the words.
func (e *encoder) split(s string, depth int) {
	p := e.t.passes[depth]
	last := depth+1 == len(e.t.passes)
	e.memo[depth] = 0
	for i := 0; i < len(s); {
		end := p.next(e.t.classes, s, i, &e.memo[depth])
		if last {
			e.word(s[i:end])
		} else {
			e.split(s[i:end], depth+1)
		}
		i = end
	}
}

// word appends the tokens of a word, from the cache if it is there.
func (e *encoder) word(w string) {
	if len(w) > cacheWord {
		const longest = 1 << 30 // indexes are 32 bits wide
		for ; len(w) > longest; w = w[longest:] {
			e.out = e.t.model.encodeWord(e.out, &e.merge, w[:longest])
		}
		e.out = e.t.model.encodeWord(e.out, &e.merge, w)
		return
	}
	h := e.cache.hash(w)
	out, ok := e.cache.get(e.out, h, w)
	if !ok {
		n := len(out)
		out = e.t.model.encodeWord(out, &e.merge, w)
		e.cache.put(h, w, out[n:])
	}
	e.out = out
}

// trim lets go of what a very long text made the encoder hold.
func (e *encoder) trim() {
	const keep = 1 << 16
	if cap(e.merge.symbols) > keep {
		e.merge = mergeScratch{}
	}
	if cap(e.special.heap) > keep || cap(e.special.taken) > keep {
		e.special = specialScratch{}
	}
	if cap(e.buf) > keep {
		e.buf = nil
	}
}

// escapeBlanks appends text to buf with spaces spelled ▁, and one more before it if prefix is set.
func escapeBlanks(buf []byte, text string, prefix bool) []byte {
	if prefix {
		buf = append(buf, blank...)
	}
	for {
		i := strings.IndexByte(text, ' ')
		if i < 0 {
			return append(buf, text...)
		}
		buf = append(append(buf, text[:i]...), blank...)
		text = text[i+1:]
	}
}

// view is a string that shares b's memory. It must not outlive the next change of b.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
