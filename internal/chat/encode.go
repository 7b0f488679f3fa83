package chat

import "github.com/twilight-go/twilight/tokenizer"

// A Tokenizer is what Encode needs of one; *tokenizer.Tokenizer is one.
type Tokenizer interface {
	Encode(text string, o tokenizer.EncodeOptions) []int32
	BOS() int32   // the token that begins a text; negative if there is none
	AddBOS() bool // the model expects it at the start of every text
}

// Encode returns the tokens of a rendered conversation, or of its beginning. It begins with exactly one BOS token if the template wrote one or the tokenizer wants
// one, whichever of them or both; else with none. No token is added at the end: the assistant's turn is open.
func Encode(tok Tokenizer, text string) []int32 {
	ids := tok.Encode(text, tokenizer.EncodeOptions{ParseSpecial: true})
	bos := tok.BOS()
	if bos < 0 {
		return ids
	}
	n := 0
	for n < len(ids) && ids[n] == bos {
		n++
	}
	switch {
	case n > 1:
		return ids[n-1:]
	case n == 0 && tok.AddBOS():
		return append([]int32{bos}, ids...)
	}
	return ids
}
