package eval

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode/utf8"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/eval/task"
	"github.com/twilight-go/twilight/tokenizer"
)

// promptSlack is left free in every sample: parts of a text that were counted one by one can have a few tokens more when they stand together.
const promptSlack = 16

// bytesPerToken bounds how much text is tokenised to take its first tokens. No vocabulary comes near it on prose; a text that does is taken shorter.
const bytesPerToken = 64

// promptTokens are the tokens of a sample: the conversation by the model's chat template, or the text as it stands where the sample or the run says so, with exactly
// one BOS where the model uses one; then the beginning of the answer. In a chat the answer begins the assistant's turn, so white space before it is dropped.
func promptTokens(m *twilight.Model, s *task.Sample, raw bool) ([]int32, error) {
	tok := m.Tokenizer()
	if raw || s.Raw {
		ids := tok.Encode(s.Prompt+s.Begin, tokenizer.EncodeOptions{})
		if tok.AddBOS() && tok.BOS() >= 0 {
			ids = append([]int32{tok.BOS()}, ids...)
		}
		return ids, nil
	}
	ids, err := m.EncodeChat([]twilight.Message{{Role: "user", Content: s.Prompt}})
	if err != nil || s.Begin == "" {
		return ids, err
	}
	return append(ids, tok.Encode(strings.TrimLeft(s.Begin, " \n"), tokenizer.EncodeOptions{})...), nil
}

// sampleSize is what generators are given to make samples that have at most length tokens when they are rendered.
func sampleSize(m *twilight.Model, length int) (task.Size, error) {
	empty, err := promptTokens(m, &task.Sample{}, false)
	if err != nil {
		return task.Size{}, err
	}
	tok := m.Tokenizer()
	encode := func(text string) []int32 { return tok.Encode(text, tokenizer.EncodeOptions{}) }
	decode := func(ids []int32, trim bool) string {
		return strings.ToValidUTF8(tok.Decode(ids, tokenizer.DecodeOptions{Special: true, TrimPrefix: trim}), "")
	}
	return task.Size{
		Tokens: length - len(empty) - promptSlack,
		Count:  func(text string) int { return len(encode(text)) },
		Cut: func(text string, head, tail int) string {
			if n := head * bytesPerToken; tail == 0 && len(text) > n {
				for n > 0 && !utf8.RuneStart(text[n]) {
					n--
				}
				text = text[:n]
			}
			ids := encode(text)
			if len(ids) <= head+tail {
				return text
			}
			return decode(ids[:head], true) + decode(ids[len(ids)-tail:], false)
		},
	}, nil
}

// hashTokens names a text by its tokens.
func hashTokens(ids []int32) string {
	h := sha256.New()
	var b [4]byte
	for _, id := range ids {
		binary.LittleEndian.PutUint32(b[:], uint32(id))
		h.Write(b[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
