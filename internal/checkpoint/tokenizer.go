package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/tokenizer"
)

const tokenizerName = "tokenizer.json"

// tokenizerFile is tokenizer.json, as far as it is read.
type tokenizerFile struct {
	Added         []addedToken `json:"added_tokens"`
	Normalizer    *component   `json:"normalizer"`
	PreTokenizer  *component   `json:"pre_tokenizer"`
	PostProcessor *component   `json:"post_processor"`
	Model         struct {
		Type         string `json:"type"`
		Vocab        vocab  `json:"vocab"`
		Merges       merges `json:"merges"`
		Unknown      string `json:"unk_token"`
		ByteFallback bool   `json:"byte_fallback"`
		IgnoreMerges bool   `json:"ignore_merges"`
		Prefix       string `json:"continuing_subword_prefix"`
		Suffix       string `json:"end_of_word_suffix"`
	} `json:"model"`
}

// addedToken is a token that is found in a text before all else.
type addedToken struct {
	ID      int64  `json:"id"`
	Content string `json:"content"`
	Special bool   `json:"special"`
}

// kind is the Kind that GGUF files give such a token: some are control tokens by their looks alone.
func (a *addedToken) kind() tokenizer.Kind {
	s := a.Content
	looks := strings.HasPrefix(s, "<|") && strings.HasSuffix(s, "|>") || strings.HasPrefix(s, "<｜") && strings.HasSuffix(s, "｜>") ||
		strings.HasPrefix(s, "<unused") && strings.HasSuffix(s, ">") || s == "<pad>" || s == "<mask>"
	if a.Special || looks {
		return tokenizer.Control
	}
	return tokenizer.UserDefined
}

// parseTokenizer reads tokenizer.json; rows is how many tokens the network has embeddings for. The roles of tokens, which are said elsewhere, are left out of the
// Config. around is the special tokens that a text is put between.
func parseTokenizer(raw []byte, rows int) (c tokenizer.Config, around frame, err error) {
	var f tokenizerFile
	if err = decode(raw, &f); err == nil {
		c, err = f.config(rows)
	}
	return c, f.PostProcessor.frame(), err
}

// config is the file as a Config.
func (f *tokenizerFile) config(rows int) (tokenizer.Config, error) {
	m := &f.Model
	if m.Type != "BPE" && !(m.Type == "" && m.Merges != nil) { // older files leave BPE out
		return tokenizer.Config{}, fmt.Errorf("model of type %.100q is not supported; supported: BPE", m.Type)
	}
	if m.Prefix != "" || m.Suffix != "" {
		return tokenizer.Config{}, errors.New("continuing_subword_prefix and end_of_word_suffix are not supported")
	}
	l := &lexicon{rows: rows, ids: make(map[string]int32, len(m.Vocab)+len(f.Added))}
	for _, t := range m.Vocab {
		if err := l.add(t.id, t.text, tokenizer.Normal); err != nil {
			return tokenizer.Config{}, err
		}
	}
	for _, a := range f.Added {
		if err := l.add(a.ID, a.Content, a.kind()); err != nil {
			return tokenizer.Config{}, err
		}
	}
	c := tokenizer.Config{Special: map[tokenizer.Role]int32{tokenizer.RoleUNK: l.id(m.Unknown)}}
	var err error
	if slices.ContainsFunc(f.PreTokenizer.steps(), func(s component) bool { return s.Type == byteLevel }) {
		err = f.byteLevel(&c)
	} else {
		err = f.sentencepiece(&c, l)
	}
	if err != nil {
		return tokenizer.Config{}, err
	}
	c.Tokens, c.Types = l.finish()
	if len(c.Tokens) == 0 {
		return tokenizer.Config{}, errors.New("the vocabulary has no tokens")
	}
	return c, nil
}

// lexicon gathers tokens by id and by text.
type lexicon struct {
	rows  int
	ids   map[string]int32
	texts []string // by id; "" for one that no token has
	kinds []int32
}

// add notes a token. An added token may name one of the vocabulary again, to give it its kind.
func (l *lexicon) add(id int64, text string, kind tokenizer.Kind) error {
	if id < 0 || id >= int64(l.rows) {
		return fmt.Errorf("token %.100q has id %d; expected 0 to %d, for which the network has embeddings", text, id, l.rows-1)
	}
	if text == "" {
		return fmt.Errorf("token %d is empty", id)
	}
	if grow := int(id) + 1 - len(l.texts); grow > 0 {
		l.texts, l.kinds = append(l.texts, make([]string, grow)...), append(l.kinds, make([]int32, grow)...)
	}
	if other, taken := l.ids[text]; taken && int64(other) != id {
		return fmt.Errorf("token %.100q has two ids, %d and %d", text, other, id)
	}
	if other := l.texts[id]; other != "" && other != text {
		return fmt.Errorf("id %d is that of two tokens, %.100q and %.100q", id, other, text)
	}
	l.ids[text], l.texts[id], l.kinds[id] = int32(id), text, int32(kind)
	return nil
}

// id finds a token by text; None where there is none.
func (l *lexicon) id(text string) int32 {
	if id, ok := l.ids[text]; ok {
		return id
	}
	return tokenizer.None
}

// finish is the vocabulary as GGUF files have it: ids without a token are named so.
func (l *lexicon) finish() (tokens []string, types []int32) {
	for id, text := range l.texts {
		if text != "" {
			continue
		}
		for text = fmt.Sprintf("[PAD%d]", id); l.id(text) != tokenizer.None; text += "_" {
		}
		l.ids[text], l.texts[id], l.kinds[id] = int32(id), text, int32(tokenizer.Unused)
	}
	return l.texts, l.kinds
}

// byteLevel completes the Config of a vocabulary over bytes.
func (f *tokenizerFile) byteLevel(c *tokenizer.Config) error {
	for _, s := range f.Normalizer.steps() {
		if s.Type != "NFC" { // the form in which all engines that read GGUF files expect texts
			return fmt.Errorf("normalizer: %s is not supported; supported in a vocabulary over bytes: NFC", s)
		}
	}
	var err error
	c.Model = "gpt2"
	if c.Pre, err = f.PreTokenizer.name(f.Model.IgnoreMerges); err != nil {
		return fmt.Errorf("pre_tokenizer: %w", err)
	}
	c.Merges = make([]string, len(f.Model.Merges))
	for i, m := range f.Model.Merges {
		if strings.Contains(m.left, " ") || m.left == "" || m.right == "" {
			return fmt.Errorf("merge %d is of %.100q and %.100q; expected texts without a blank", i, m.left, m.right)
		}
		c.Merges[i] = m.left + " " + m.right
	}
	return nil
}

// sentencepiece completes the Config of a vocabulary of pieces, which was made from a sentencepiece model: the order of the merges gives the pieces' scores again.
func (f *tokenizerFile) sentencepiece(c *tokenizer.Config, l *lexicon) error {
	prefix, err := f.blanks()
	if err != nil {
		return err
	}
	c.Model, c.Pre, c.AddSpacePrefix = "llama", "default", &prefix
	if f.Model.IgnoreMerges {
		return errors.New("ignore_merges is not supported in a vocabulary of pieces")
	}
	if id := c.Special[tokenizer.RoleUNK]; id != tokenizer.None {
		l.kinds[id] = int32(tokenizer.Unknown)
	}
	if f.Model.ByteFallback {
		for b := range 256 {
			if id := l.id(fmt.Sprintf("<0x%02X>", b)); id != tokenizer.None {
				l.kinds[id] = int32(tokenizer.Byte)
			}
		}
	}
	if c.Scores, err = f.Model.Merges.scores(l); err != nil {
		return err
	}
	l.respellBlanks()
	return nil
}

// blank is how pieces spell a space.
const blank = "▁"

// blanks understands how blanks are spelled, and reports whether one is put before a text.
func (f *tokenizerFile) blanks() (prefix bool, err error) {
	spelled := false
	for _, s := range f.Normalizer.steps() {
		switch {
		case s.Type == "Prepend" && s.Prepend == blank:
			prefix = true
		case s.Type == "Replace" && s.Pattern.is(" ") && s.Content == blank:
			spelled = true
		default:
			return false, fmt.Errorf("normalizer: %s is not supported; supported in a vocabulary of pieces: Prepend and Replace of blanks by ▁", s)
		}
	}
	for _, s := range f.PreTokenizer.steps() {
		switch {
		case s.Type == "Metaspace" && (s.Replacement == blank || s.Replacement == ""):
			spelled = true
			prefix = prefix || s.Scheme != "never" && (s.Scheme != "" || s.SpacePrefix == nil || *s.SpacePrefix)
		case s.Type == "Split" && s.Pattern.is(" "): // there are no blanks left
		default:
			return false, fmt.Errorf("pre_tokenizer: %s is not supported; supported: ByteLevel, with or without Split and Digits before it, and Metaspace", s)
		}
	}
	if !spelled {
		return false, errors.New("the tokenizer neither works on bytes (pre_tokenizer ByteLevel) nor spells blanks as ▁: neither kind is supported")
	}
	return prefix, nil
}
