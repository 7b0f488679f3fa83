package testmodel

import (
	"fmt"

	"github.com/twilight-go/twilight/gguf"
)

// letters in the order of how common they are; joined by twos they fill a vocabulary.
const letters = "etaoinshrdlcumwfgypbvkjxqz"

const chatML = `{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

const chatGemma = `{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}`

// Token types of the format.
const (
	normal  = 1
	unknown = 2
	control = 3
	byted   = 6
)

func (c Config) tokenizer() ([]gguf.KV, error) {
	v := &vocabulary{size: c.Vocab}
	if c.Arch == "gemma3" {
		return v.pieces()
	}
	return v.bytePairs()
}

type vocabulary struct {
	size   int
	tokens []string
	types  []int32
}

func (v *vocabulary) add(kind int32, texts ...string) {
	for _, t := range texts {
		v.tokens, v.types = append(v.tokens, t), append(v.types, kind)
	}
}

// fill adds pairs of letters until the vocabulary is full, and returns them.
func (v *vocabulary) fill() (pairs [][2]string, err error) {
	for rarest := range len(letters) { // the pairs of ever more letters
		for n := range 2*rarest + 1 {
			if len(v.tokens) == v.size {
				break
			}
			i, j := min(n, rarest), min(2*rarest-n, rarest)
			p := [2]string{letters[i : i+1], letters[j : j+1]}
			v.add(normal, p[0]+p[1])
			pairs = append(pairs, p)
		}
	}
	if len(v.tokens) != v.size || len(pairs) == 0 {
		return nil, fmt.Errorf("testmodel: a vocabulary of %d tokens: expected %d to %d", v.size, len(v.tokens)-len(pairs)+1, len(v.tokens)-len(pairs)+len(letters)*len(letters))
	}
	return pairs, nil
}

// bytePairs is a byte-level BPE: the 256 bytes in GPT-2's spelling, pairs of letters, and the special tokens of ChatML at the front.
func (v *vocabulary) bytePairs() ([]gguf.KV, error) {
	v.add(control, "<|endoftext|>", "<|im_start|>", "<|im_end|>")
	next := rune(256)
	for b := range rune(256) {
		printable := b > ' ' && b < 0x7f || b > 0xa0 && b != 0xad
		if !printable {
			b, next = next, next+1
		}
		v.add(normal, string(b))
	}
	pairs, err := v.fill()
	var merges []string
	for _, p := range pairs {
		merges = append(merges, p[0]+" "+p[1])
	}
	return []gguf.KV{
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.pre", Value: "qwen2"},
		{Key: "tokenizer.ggml.tokens", Value: v.tokens},
		{Key: "tokenizer.ggml.token_type", Value: v.types},
		{Key: "tokenizer.ggml.merges", Value: merges},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(0)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(2)},
		{Key: "tokenizer.ggml.add_bos_token", Value: false},
		{Key: "tokenizer.chat_template", Value: chatML},
	}, err
}

// pieces is a sentencepiece vocabulary: special tokens and bytes where Gemma has them, the printable characters, and pairs of letters, better ones first.
func (v *vocabulary) pieces() ([]gguf.KV, error) {
	v.add(control, "<pad>", "<eos>", "<bos>")
	v.add(unknown, "<unk>")
	v.add(control, "<start_of_turn>", "<end_of_turn>")
	for b := range 256 {
		v.add(byted, fmt.Sprintf("<0x%02X>", b))
	}
	v.add(normal, "\n", "▁")
	for b := '!'; b <= '~'; b++ {
		v.add(normal, string(b))
	}
	_, err := v.fill()
	scores := make([]float32, len(v.tokens))
	for i := range scores {
		scores[i] = -float32(i)
	}
	return []gguf.KV{
		{Key: "tokenizer.ggml.model", Value: "llama"},
		{Key: "tokenizer.ggml.tokens", Value: v.tokens},
		{Key: "tokenizer.ggml.scores", Value: scores},
		{Key: "tokenizer.ggml.token_type", Value: v.types},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(2)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(1)},
		{Key: "tokenizer.ggml.padding_token_id", Value: uint32(0)},
		{Key: "tokenizer.ggml.unknown_token_id", Value: uint32(3)},
		{Key: "tokenizer.ggml.add_bos_token", Value: true},
		{Key: "tokenizer.ggml.add_space_prefix", Value: false},
		{Key: "tokenizer.chat_template", Value: chatGemma},
	}, err
}
