package tokenizer

import (
	"fmt"
	"strings"
)

// vocabulary is the tokens with what is known of each, and the tokens that have a role.
type vocabulary struct {
	tokens  []string
	ids     map[string]int32
	kinds   []Kind
	special [numRoles]int32
	eog     map[int32]bool
	longest int // bytes of the longest token
}

// newVocabulary indexes the tokens of a checked Config.
func newVocabulary(c *Config, fam family, pre *preTokenizer) (*vocabulary, error) {
	v := &vocabulary{
		tokens:  c.Tokens,
		ids:     make(map[string]int32, len(c.Tokens)),
		kinds:   make([]Kind, len(c.Tokens)),
		special: customary(fam, c.Model),
	}
	for id, text := range c.Tokens {
		if text == "" {
			if len(v.tokens) > 0 && &v.tokens[0] == &c.Tokens[0] {
				v.tokens = append([]string(nil), c.Tokens...) // the caller's slice stays as it is
			}
			text = fmt.Sprintf("[EMPTY_%d]", id)
			v.tokens[id] = text
		}
		v.ids[text] = int32(id)
		if len(v.ids) != id+1 {
			return nil, fmt.Errorf("tokenizer: token %d is %q, which an earlier token is already", id, text)
		}
		v.longest = max(v.longest, len(text))
		v.kinds[id] = Normal
		if len(c.Types) > 0 {
			v.kinds[id] = Undefined
			if t := c.Types[id]; t >= 0 && t <= int32(Byte) {
				v.kinds[id] = Kind(t)
			}
		}
		if _, ok := hexByte(text); v.kinds[id] == Byte && !ok {
			return nil, fmt.Errorf("tokenizer: token %d is of kind byte and spelled %q, expected <0x00> to <0xFF>", id, text)
		}
	}
	if pre.noBOS {
		v.special[RoleBOS] = None
	}
	for role, id := range v.special {
		if given, ok := c.Special[Role(role)]; ok {
			v.special[role] = given
		} else if int(id) >= len(v.tokens) {
			v.special[role] = None
		}
	}
	v.findSpecial()
	return v, nil
}

// hexByte reads the spelling of a byte token.
func hexByte(text string) (byte, bool) {
	if len(text) != 6 || text[:3] != "<0x" || text[5] != '>' {
		return 0, false
	}
	var b byte
	for _, c := range []byte(text[3:5]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		b = b<<4 | c
	}
	return b, true
}

// hexBytes returns the tokens spelled <0x00> to <0xFF>, None where there is none.
func (v *vocabulary) hexBytes() (ids [256]int32) {
	for b := range ids {
		id, ok := v.ids[fmt.Sprintf("<0x%02X>", b)]
		if !ok {
			id = None
		}
		ids[b] = id
	}
	return ids
}

// knownByText lists, for roles that files often leave out, the spellings that give them away; the first that the vocabulary has counts.
var knownByText = []struct {
	role  Role
	texts []string
}{
	{RoleEOT, []string{"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"}},
	{RoleEOM, []string{"<|eom_id|>"}},
	{RoleFIMPre, []string{"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"}},
	{RoleFIMSuf, []string{"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"}},
	{RoleFIMMid, []string{"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"}},
	{RoleFIMPad, []string{"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
	{RoleFIMRep, []string{"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
	{RoleFIMSep, []string{"<|file_sep|>"}},
}

// endings are the spellings of tokens that end a generation wherever they occur.
var endings = []string{
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>",
	"<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
}

// findSpecial completes the roles by spelling and derives the tokens that end a generation, with the corrections that known vocabularies need. Which spellings
// and which corrections is llama.cpp's collected experience; files do not say it.
func (v *vocabulary) findSpecial() {
	v.eog = map[int32]bool{}
	for _, k := range knownByText {
		for _, text := range k.texts {
			if id, ok := v.ids[text]; ok && v.special[k.role] == None {
				v.special[k.role] = id
				v.kinds[id] = Control
			}
		}
	}
	for _, role := range []Role{RoleFIMPad, RoleFIMRep, RoleFIMSep} {
		v.eog[v.special[role]] = true
	}
	for _, text := range endings {
		if id, ok := v.ids[text]; ok {
			v.eog[id] = true
			v.kinds[id] = Control
		}
	}
	// The channel marks of gpt-oss are shown to the user's program.
	for _, text := range []string{"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"} {
		if id, ok := v.ids[text]; ok {
			v.kinds[id] = UserDefined
		}
	}
	for _, role := range []Role{RoleEOS, RoleEOT, RoleEOM} {
		v.eog[v.special[role]] = true
	}
	delete(v.eog, None)
	// Where turns end by return and call, or by flush and calls, <|end|> only ends a part of one.
	if v.ends("<|call|>", "<|calls|>") && v.ends("<|return|>", "<|flush|>") && v.ends("<|end|>") {
		v.unend("<|end|>", UserDefined)
	}
	// Where these end a generation, </s> is ordinary text.
	if v.ends("<|tool_response>", "<|plamo:eos|>") {
		v.unend("</s>", Normal)
	}
}

// ends reports whether one of the spellings is a token that ends a generation.
func (v *vocabulary) ends(texts ...string) bool {
	for _, text := range texts {
		if id, ok := v.ids[text]; ok && v.eog[id] {
			return true
		}
	}
	return false
}

// unend takes a token out of those that end a generation.
func (v *vocabulary) unend(text string, kind Kind) {
	if id, ok := v.ids[text]; ok && v.eog[id] {
		delete(v.eog, id)
		v.kinds[id] = kind
	}
}

// strips says on which sides the special tokens of a few families swallow white space.
func strips(c *Config, v *vocabulary, special []int32) (left, right map[int32]bool) {
	left, right = map[int32]bool{}, map[int32]bool{}
	name := strings.ToLower(c.Name)
	mask := ""
	switch {
	case containsAny(c.Pre, "jina-v2-de", "jina-v2-es", "jina-v2-code") || containsAny(c.Architecture, "nomic-bert-moe", "jina-bert-v3"):
		mask = "<mask>"
	case containsAny(name, "phi-3", "phi3"):
		for _, id := range special {
			right[id] = true
		}
		for _, text := range []string{"<unk>", "<s>", "<|endoftext|>"} {
			delete(right, v.idOr(text, None))
		}
	case containsAny(name, "modern-bert"):
		mask = "[MASK]"
	}
	if id := v.idOr(mask, None); id != None {
		left[id] = true
	}
	return left, right
}

func (v *vocabulary) idOr(text string, or int32) int32 {
	if id, ok := v.ids[text]; ok {
		return id
	}
	return or
}

func containsAny(s string, subs ...string) bool {
	for _, sub := range subs {
		if strings.Contains(s, sub) {
			return true
		}
	}
	return false
}
