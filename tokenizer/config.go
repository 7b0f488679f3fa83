package tokenizer

import (
	"errors"
	"fmt"
	"math"
)

// None is the id of a special token that a vocabulary does not have.
const None int32 = -1

// Kind is what a vocabulary says a token is; the values are those of GGUF's tokenizer.ggml.token_type.
type Kind uint8

const (
	// Undefined tokens have no text: they decode to nothing.
	Undefined Kind = iota
	// Normal tokens are ordinary pieces of text.
	Normal
	// Unknown stands for text that the vocabulary cannot express.
	Unknown
	// Control tokens structure a conversation and are no text: Encode finds them only with ParseSpecial, Decode shows them only with Special.
	Control
	// UserDefined tokens are text that is matched before everything else, with or without ParseSpecial.
	UserDefined
	// Unused tokens decode to nothing.
	Unused
	// Byte tokens, spelled <0x00> to <0xFF>, stand for one byte.
	Byte
)

// String names the kind in lower case, for messages and listings.
func (k Kind) String() string {
	names := [...]string{"undefined", "normal", "unknown", "control", "user-defined", "unused", "byte"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Role names a token that has a part to play in a prompt or in generation.
type Role uint8

// The roles; GGUF's metadata names them as tokenizer.ggml.<name>_token_id.
const (
	RoleBOS    Role = iota // begins a text
	RoleEOS                // ends a text
	RoleEOT                // ends a turn
	RoleEOM                // ends a message, the turn goes on
	RoleUNK                // stands for what cannot be expressed
	RoleSEP                // separates or ends segments (bert)
	RolePAD                // fills batches
	RoleMASK               // to be guessed (bert)
	RoleFIMPre             // fill-in-the-middle: before the text that precedes the hole
	RoleFIMSuf             // before the text that follows the hole
	RoleFIMMid             // before what fills the hole
	RoleFIMPad             // fills
	RoleFIMRep             // before a repository's name
	RoleFIMSep             // before a file's name
	numRoles
)

// String returns the role's short name, such as "bos".
func (r Role) String() string {
	names := [numRoles]string{"bos", "eos", "eot", "eom", "unk", "sep", "pad", "mask", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"}
	if r < numRoles {
		return names[r]
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Config is a vocabulary as plain data. Its meaning is that of the tokenizer.ggml.* metadata of a GGUF file; New checks it and keeps the slices, which must not
// change afterwards.
type Config struct {
	// Model is the algorithm: "gpt2" (byte-level BPE), "gemma4" (BPE on characters), "llama" (sentencepiece-like merging by score) or "bert" (WordPiece).
	Model string
	// Pre names the pre-tokenizer of a gpt2 model (see PreTokenizers); empty means "default".
	Pre string
	// Tokens is each token's text as the vocabulary spells it, indexed by id. An empty one is named [EMPTY_id].
	Tokens []string
	// Scores, per token, order the merges of a llama model: higher first. Empty means all 0.
	Scores []float32
	// Types is each token's Kind as a number. Empty means that all are Normal.
	Types []int32
	// Merges are the pairs of a BPE model, "left right", best first.
	Merges []string
	// Special gives the ids of tokens with a role. A missing role takes the model's customary id; None says that there is no such token.
	Special map[Role]int32
	// AddBOS and AddEOS say whether Encode with AddSpecial puts these tokens around a text; nil means what is customary for the model.
	AddBOS, AddEOS *bool
	// AddSpacePrefix says whether a llama model reads a text as if it began with a space; nil means yes.
	AddSpacePrefix *bool
	// Lowercase and StripAccents normalise a bert model's text; nil means yes, and StripAccents follows Lowercase.
	Lowercase, StripAccents *bool
	// Name is the model's general name, Architecture its network's: for a few families they decide whether special tokens swallow the white space beside them.
	Name, Architecture string
}

// family is the algorithm that a model name selects.
type family uint8

const (
	familyBPE family = iota
	familySPM
	familyWPM
)

// check finds everything in a Config that would let later code index out of range or loop, and returns the model's family.
func (c *Config) check() (family, error) {
	var fam family
	switch c.Model {
	case "gpt2", "gemma4":
		fam = familyBPE
	case "llama":
		fam = familySPM
	case "bert":
		fam = familyWPM
	default:
		return 0, fmt.Errorf("tokenizer: unknown model %q; known are gpt2, gemma4, llama, bert", c.Model)
	}
	n := len(c.Tokens)
	if n == 0 {
		return 0, errors.New("tokenizer: the vocabulary has no tokens")
	}
	if n > math.MaxInt32/2 {
		return 0, fmt.Errorf("tokenizer: the vocabulary has %d tokens, more than the %d supported", n, math.MaxInt32/2)
	}
	for id, text := range c.Tokens {
		if len(text) > longestToken {
			return 0, fmt.Errorf("tokenizer: token %d is %d bytes long, more than the %d supported", id, len(text), longestToken)
		}
	}
	if len(c.Scores) != 0 && len(c.Scores) < n {
		return 0, fmt.Errorf("tokenizer: %d scores for %d tokens", len(c.Scores), n)
	}
	for id, s := range c.Scores {
		if s != s {
			return 0, fmt.Errorf("tokenizer: the score of token %d is not a number", id)
		}
	}
	if len(c.Types) != 0 && len(c.Types) < n {
		return 0, fmt.Errorf("tokenizer: %d token types for %d tokens", len(c.Types), n)
	}
	for role, id := range c.Special {
		if role >= numRoles {
			return 0, fmt.Errorf("tokenizer: token %d has the unknown %v", id, role)
		}
		if id != None && (id < 0 || int(id) >= n) {
			return 0, fmt.Errorf("tokenizer: the %v token's id is %d, the vocabulary has %d tokens", role, id, n)
		}
	}
	if fam == familyBPE && len(c.Merges) == 0 {
		return 0, fmt.Errorf("tokenizer: a %s model needs merges and has none", c.Model)
	}
	return fam, nil
}

// customary returns the ids that a role has in a model whose file does not say.
func customary(fam family, model string) [numRoles]int32 {
	var ids [numRoles]int32
	for r := range ids {
		ids[r] = None
	}
	switch {
	case fam == familySPM:
		ids[RoleBOS], ids[RoleEOS], ids[RoleUNK] = 1, 2, 0
	case fam == familyWPM:
		ids[RoleBOS], ids[RoleUNK], ids[RoleSEP], ids[RolePAD], ids[RoleMASK] = 101, 100, 102, 0, 103
	case model == "gpt2":
		ids[RoleBOS], ids[RoleEOS] = 11, 11
	}
	return ids
}
