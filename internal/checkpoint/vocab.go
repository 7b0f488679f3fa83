package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/twilight-go/twilight/tokenizer"
)

// The two large values of tokenizer.json are read by hand: half a million merges through reflection take seconds.

// vocab is the tokens, in the file's order.
type vocab []struct {
	text string
	id   int64
}

// merges are pairs of pieces that become one, best first.
type merges []pair

type pair struct{ left, right string }

// typical is about how many bytes of text an entry of either takes.
const typical = 16

// UnmarshalJSON implements json.Unmarshaler.
func (v *vocab) UnmarshalJSON(data []byte) error {
	*v = make(vocab, 0, len(data)/typical)
	c := cursor{data: string(data)} // its texts are parts of this one copy
	if c.null() {
		return nil
	}
	if !c.eat('{') {
		return fmt.Errorf("vocab: found %.20q, expected an object of tokens and ids", data)
	}
	for !c.eat('}') {
		c.eat(',')
		text, err := c.string()
		if err != nil {
			return fmt.Errorf("vocab: %w", err)
		}
		c.eat(':')
		id, err := strconv.ParseInt(c.word(), 10, 32)
		if err != nil {
			return fmt.Errorf("vocab: the id of token %.100q: %w", text, err)
		}
		*v = append(*v, struct {
			text string
			id   int64
		}{text, id})
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. A merge is "left right", or ["left", "right"] in newer files.
func (m *merges) UnmarshalJSON(data []byte) error {
	*m = make(merges, 0, len(data)/typical)
	c := cursor{data: string(data)} // its texts are parts of this one copy
	if c.null() {
		return nil
	}
	if !c.eat('[') {
		return fmt.Errorf("merges: found %.20q, expected an array", data)
	}
	for !c.eat(']') {
		c.eat(',')
		p, err := c.pair()
		if err != nil {
			return fmt.Errorf("merge %d: %w", len(*m), err)
		}
		*m = append(*m, p)
	}
	return nil
}

// pair reads a merge.
func (c *cursor) pair() (p pair, err error) {
	if c.eat('[') {
		p.left, err = c.string()
		if err == nil && c.eat(',') {
			if p.right, err = c.string(); err == nil && c.eat(']') {
				return p, nil
			}
		}
		return p, errors.Join(errors.New("expected two texts"), err)
	}
	text, err := c.string()
	if err != nil {
		return p, err
	}
	for i := 1; i < len(text); i++ {
		if text[i] == ' ' {
			return pair{text[:i], text[i+1:]}, nil
		}
	}
	return p, fmt.Errorf("found %.100q, expected two texts separated by a blank", text)
}

// unmerged is the score of tokens that no merge makes: below all that one does.
const unmerged = -1e9

// scores gives each token the score that its place among the merges stands for. A sentencepiece model joins any two pieces whose joint text is a piece, best score
// first: its merges are all such pairs. Others cannot be told by scores, and are an error.
func (m merges) scores(l *lexicon) ([]float32, error) {
	found := make([]int32, len(l.texts))
	out := make([]float32, len(l.texts))
	for i := range out {
		out[i] = unmerged
	}
	var joint []byte
	for rank, p := range m {
		joint = append(append(joint[:0], p.left...), p.right...)
		id, ok := l.ids[string(joint)]
		if !ok {
			return nil, fmt.Errorf("merge %d makes %.100q, which is no token", rank, joint)
		}
		if found[id]++; out[id] == unmerged {
			out[id] = -float32(rank)
		}
	}
	for id, text := range l.texts {
		if l.kinds[id] != int32(tokenizer.Normal) { // found before merging
			continue
		}
		pairs := int32(0)
		for i := range text {
			if i > 0 && l.mergeable(text[:i]) && l.mergeable(text[i:]) {
				pairs++
			}
		}
		if pairs > found[id] {
			return nil, fmt.Errorf("token %.100q is made by %d merges, but %d pairs of tokens make it: only merges that come from a sentencepiece model are supported here", text, found[id], pairs)
		}
	}
	return out, nil
}

// mergeable reports whether a text is a token that merging can meet.
func (l *lexicon) mergeable(text string) bool {
	id, ok := l.ids[text]
	return ok && l.kinds[id] == int32(tokenizer.Normal)
}

// cursor reads JSON that is known to be valid UTF-8 and valid JSON, front to back.
type cursor struct {
	data string
	at   int
}

func (c *cursor) blanks() {
	for c.at < len(c.data) && (c.data[c.at] == ' ' || c.data[c.at] == '\n' || c.data[c.at] == '\t' || c.data[c.at] == '\r') {
		c.at++
	}
}

// eat passes over a delimiter if it is next.
func (c *cursor) eat(b byte) bool {
	c.blanks()
	if c.at < len(c.data) && c.data[c.at] == b {
		c.at++
		return true
	}
	return false
}

func (c *cursor) null() bool { return c.data == "null" }

// word passes over a number.
func (c *cursor) word() string {
	c.blanks()
	start := c.at
	for c.at < len(c.data) && (c.data[c.at] == '-' || '0' <= c.data[c.at] && c.data[c.at] <= '9') {
		c.at++
	}
	return c.data[start:c.at]
}

// string reads a text. Most have no escapes and are parts of the file's text.
func (c *cursor) string() (string, error) {
	c.blanks()
	start := c.at
	if c.at >= len(c.data) || c.data[c.at] != '"' {
		return "", fmt.Errorf("found %.20q, expected a text", c.data[min(c.at, len(c.data)):])
	}
	plain := true
	for c.at++; c.at < len(c.data) && c.data[c.at] != '"'; c.at++ {
		if c.data[c.at] == '\\' {
			plain = false
			c.at++
		}
	}
	c.at = min(c.at+1, len(c.data))
	raw := c.data[start:c.at]
	if plain && len(raw) > 1 {
		return raw[1 : len(raw)-1], nil
	}
	var s string
	err := json.Unmarshal([]byte(raw), &s)
	if err == nil && !utf8.ValidString(s) {
		err = errors.New("a text is not UTF-8")
	}
	return s, err
}
