package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/twilight-go/twilight/tokenizer"
)

// added gathers the tokens that stand beside a tokenizer.model: added_tokens.json, and tokenizer_config.json with their attributes, which count.
func (f folder) added(s *settings) ([]addedToken, error) {
	const name = "added_tokens.json"
	raw, err := f.optional(name, maxSettings)
	if err != nil {
		return nil, err
	}
	var byText map[string]int64
	if err := decode(raw, &byText); err != nil {
		return nil, f.wrap(name, err)
	}
	byID := map[int64]addedToken{}
	for text, id := range byText {
		byID[id] = addedToken{ID: id, Content: text}
	}
	for key, t := range s.Added {
		if t.ID, err = strconv.ParseInt(key, 10, 32); err != nil {
			return nil, f.wrap(settingsName, fmt.Errorf("added_tokens_decoder: %w", err))
		}
		byID[t.ID] = t
	}
	var out []addedToken
	for _, t := range byID {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b addedToken) int { return int(a.ID - b.ID) })
	return out, nil
}

// parsePieces reads tokenizer.model, a sentencepiece model of the BPE kind: a protocol buffer.
func parsePieces(raw []byte, added []addedToken, rows int) (tokenizer.Config, error) {
	c := tokenizer.Config{Model: "llama", Pre: "default", Special: map[tokenizer.Role]int32{tokenizer.RoleUNK: tokenizer.None}}
	l := &lexicon{rows: rows, ids: map[string]int32{}}
	algorithm, prefix, squeeze, charsmap := uint64(1), true, true, false // the format's defaults
	err := fields(raw, func(number int, v uint64, sub []byte) error {
		switch number {
		case 1: // pieces
			text, score, kind := "", float32(0), tokenizer.Normal
			err := fields(sub, func(number int, v uint64, sub []byte) error {
				switch number {
				case 1:
					text = string(sub)
				case 2:
					score = math.Float32frombits(uint32(v))
				case 3:
					if v < uint64(tokenizer.Normal) || v > uint64(tokenizer.Byte) {
						return fmt.Errorf("piece %d is of kind %d, expected 1 to 6", len(l.texts), v)
					}
					kind = tokenizer.Kind(v)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if kind == tokenizer.Unknown {
				c.Special[tokenizer.RoleUNK] = int32(len(l.texts))
			}
			c.Scores = append(c.Scores, score)
			return l.add(int64(len(l.texts)), text, kind)
		case 2: // how it was trained
			return fields(sub, func(number int, v uint64, _ []byte) error {
				if number == 3 {
					algorithm = v
				}
				return nil
			})
		case 3: // how texts are normalised
			return fields(sub, func(number int, v uint64, sub []byte) error {
				switch number {
				case 2:
					charsmap = len(sub) > 0
				case 3:
					prefix = v != 0
				case 4:
					squeeze = v != 0
				}
				return nil
			})
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	switch {
	case len(l.texts) == 0:
		return c, errors.New("found no pieces: is this a sentencepiece model?")
	case algorithm != 2:
		return c, fmt.Errorf("the model is of kind %d; supported: 2 (BPE)", algorithm)
	case squeeze || charsmap:
		return c, errors.New("the model squeezes blanks or maps characters, which is not supported")
	}
	for _, a := range added {
		kind := a.kind()
		if a.ID >= 0 && a.ID < int64(len(l.kinds)) && l.kinds[a.ID] != int32(tokenizer.Normal) && l.kinds[a.ID] != 0 {
			kind = tokenizer.Kind(l.kinds[a.ID]) // the model knows better
		}
		if err := l.add(a.ID, a.Content, kind); err != nil {
			return c, err
		}
	}
	l.respellBlanks()
	c.Tokens, c.Types = l.finish()
	for len(c.Scores) < len(c.Tokens) {
		c.Scores = append(c.Scores, unmerged)
	}
	c.AddSpacePrefix = &prefix
	return c, nil
}

// respellBlanks writes the ▁ of user-defined tokens as blanks: they are found in a text as it is written.
func (l *lexicon) respellBlanks() {
	for id, kind := range l.kinds {
		if text := l.texts[id]; tokenizer.Kind(kind) == tokenizer.UserDefined && strings.Contains(text, blank) {
			delete(l.ids, text)
			text = strings.ReplaceAll(text, blank, " ")
			l.ids[text], l.texts[id] = int32(id), text
		}
	}
}

// fields calls back for each field of a protocol buffer's message: v is its number (the bits of a fixed one), sub its bytes.
func fields(data []byte, field func(number int, v uint64, sub []byte) error) error {
	broken := func(at []byte) error {
		return fmt.Errorf("field at %d bytes from the end: the message is damaged", len(at))
	}
	for len(data) > 0 {
		start := data
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 || tag>>3 > math.MaxInt32 {
			return broken(start)
		}
		data = data[n:]
		v, sub := uint64(0), []byte(nil)
		switch tag & 7 {
		case 0:
			if v, n = binary.Uvarint(data); n <= 0 {
				return broken(start)
			}
		case 1:
			if n = 8; len(data) < n {
				return broken(start)
			}
			v = binary.LittleEndian.Uint64(data)
		case 2:
			size, m := binary.Uvarint(data)
			if m <= 0 || size > uint64(len(data)-m) {
				return broken(start)
			}
			n = m + int(size)
			sub = data[m:n]
		case 5:
			if n = 4; len(data) < n {
				return broken(start)
			}
			v = uint64(binary.LittleEndian.Uint32(data))
		default:
			return broken(start)
		}
		data = data[n:]
		if err := field(int(tag>>3), v, sub); err != nil {
			return err
		}
	}
	return nil
}
