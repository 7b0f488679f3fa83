package tokenizer

import (
	"errors"
	"fmt"
	"math"

	"github.com/twilight-go/twilight/gguf"
)

// roleKeys are the metadata keys of the roles, the later overriding the earlier: the last three are old names.
var roleKeys = []struct {
	key  string
	role Role
}{
	{"bos_token_id", RoleBOS}, {"eos_token_id", RoleEOS}, {"eot_token_id", RoleEOT}, {"eom_token_id", RoleEOM}, {"unknown_token_id", RoleUNK},
	{"seperator_token_id", RoleSEP}, {"padding_token_id", RolePAD}, {"mask_token_id", RoleMASK}, {"fim_pre_token_id", RoleFIMPre},
	{"fim_suf_token_id", RoleFIMSuf}, {"fim_mid_token_id", RoleFIMMid}, {"fim_pad_token_id", RoleFIMPad}, {"fim_rep_token_id", RoleFIMRep},
	{"fim_sep_token_id", RoleFIMSep}, {"prefix_token_id", RoleFIMPre}, {"suffix_token_id", RoleFIMSuf}, {"middle_token_id", RoleFIMMid},
}

// FromGGUF builds the Tokenizer that a model file describes. It keeps nothing of the file, which may be closed afterwards.
func FromGGUF(f *gguf.File) (*Tokenizer, error) {
	c, err := ConfigFromGGUF(f)
	if err != nil {
		return nil, err
	}
	t, err := New(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return t, nil
}

// ConfigFromGGUF reads the vocabulary of a model file as plain data, unchecked but for the types of its metadata.
func ConfigFromGGUF(f *gguf.File) (Config, error) {
	const prefix = "tokenizer.ggml."
	c := Config{Special: map[Role]int32{}}
	r := reader{f: f}
	c.Model = r.text(prefix+"model", true)
	c.Pre = r.text(prefix+"pre", false)
	c.Name = r.text("general.name", false)
	c.Architecture = r.text("general.architecture", false)
	c.Tokens = optional(&r, f.Strings, prefix+"tokens", true)
	c.Scores = optional(&r, f.Floats, prefix+"scores", false)
	c.Types = optional(&r, f.Ints, prefix+"token_type", false)
	c.Merges = optional(&r, f.Strings, prefix+"merges", false)
	for _, k := range roleKeys {
		if !f.Has(prefix + k.key) {
			continue
		}
		switch id := optional(&r, f.Uint, prefix+k.key, true); {
		case id == math.MaxUint32: // how some writers say that there is none
			c.Special[k.role] = None
		case id > math.MaxInt32:
			return Config{}, fmt.Errorf("tokenizer: %s: %s is %d, expected a token id", f.Name(), prefix+k.key, id)
		default:
			c.Special[k.role] = int32(id)
		}
	}
	c.AddBOS = r.flag(prefix + "add_bos_token")
	c.AddEOS = r.flag(prefix + "add_eos_token")
	c.AddSpacePrefix = r.flag(prefix + "add_space_prefix")
	c.Lowercase = r.flag(prefix + "normalizer.lowercase")
	c.StripAccents = r.flag(prefix + "normalizer.strip_accents")
	if r.err != nil {
		return Config{}, fmt.Errorf("tokenizer: %w", r.err)
	}
	return c, nil
}

// reader gathers the first error of many reads.
type reader struct {
	f   *gguf.File
	err error
}

func (r *reader) text(key string, need bool) string { return optional(r, r.f.String, key, need) }

func (r *reader) flag(key string) *bool {
	if !r.f.Has(key) {
		return nil
	}
	return new(optional(r, r.f.Bool, key, true))
}

// optional reads a key; one that is absent and not needed reads as the zero value.
func optional[T any](r *reader, get func(string) (T, error), key string, need bool) T {
	v, err := get(key)
	if err != nil && r.err == nil && (need || !errors.Is(err, gguf.ErrNotFound)) {
		r.err = err
	}
	return v
}
