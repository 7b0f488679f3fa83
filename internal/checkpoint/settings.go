package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/twilight-go/twilight/gguf"
	"github.com/twilight-go/twilight/tokenizer"
)

const (
	settingsName   = "tokenizer_config.json"
	generationName = "generation_config.json"
	piecesName     = "tokenizer.model"
	templateName   = "chat_template.jinja"
)

// settings is tokenizer_config.json, as far as it is read.
type settings struct {
	BOS      special               `json:"bos_token"`
	EOS      special               `json:"eos_token"`
	UNK      special               `json:"unk_token"`
	PAD      special               `json:"pad_token"`
	AddBOS   *bool                 `json:"add_bos_token"`
	AddEOS   *bool                 `json:"add_eos_token"`
	Template template              `json:"chat_template"`
	Added    map[string]addedToken `json:"added_tokens_decoder"` // by id
}

// special is a token by its text, which stands alone or with attributes.
type special string

// UnmarshalJSON implements json.Unmarshaler.
func (s *special) UnmarshalJSON(data []byte) error {
	if data[0] == '{' {
		var t addedToken
		err := json.Unmarshal(data, &t)
		*s = special(t.Content)
		return err
	}
	return json.Unmarshal(data, (*string)(s))
}

// template is a chat template, or a list of which one is called default.
type template string

// UnmarshalJSON implements json.Unmarshaler.
func (t *template) UnmarshalJSON(data []byte) error {
	if data[0] != '[' {
		return json.Unmarshal(data, (*string)(t))
	}
	var list []struct{ Name, Template string }
	err := json.Unmarshal(data, &list)
	for _, l := range list {
		if l.Name == "default" {
			*t = template(l.Template)
		}
	}
	return err
}

// vocabulary reads everything about the tokens, as GGUF metadata; rows is how many the network has embeddings for.
func (f folder) vocabulary(net *network, rows int) ([]gguf.KV, error) {
	var s settings
	raw, err := f.optional(settingsName, maxSettings)
	if err != nil {
		return nil, err
	}
	if err := decode(raw, &s); err != nil {
		return nil, f.wrap(settingsName, err)
	}
	var generation struct {
		EOS ids `json:"eos_token_id"`
	}
	if raw, err = f.optional(generationName, maxConfig); err != nil {
		return nil, err
	}
	if err := decode(raw, &generation); err != nil {
		return nil, f.wrap(generationName, err)
	}
	c, err := f.tokens(&s, rows)
	if err != nil {
		return nil, err
	}
	if err := s.roles(&c, net.bos, slices.Concat(generation.EOS, net.eos)); err != nil {
		return nil, f.wrap(settingsName, err)
	}
	kv := vocabularyKeys(&c)
	if raw, err = f.optional(templateName, maxTemplate); err != nil {
		return nil, err
	}
	if raw != nil {
		s.Template = template(raw)
	}
	if s.Template != "" {
		kv = append(kv, gguf.KV{Key: "tokenizer.chat_template", Value: string(s.Template)})
	}
	return kv, nil
}

// tokens reads the vocabulary from the file that has it.
func (f folder) tokens(s *settings, rows int) (tokenizer.Config, error) {
	raw, err := f.optional(tokenizerName, maxVocabulary)
	if err != nil {
		return tokenizer.Config{}, err
	}
	if raw != nil {
		c, around, err := parseTokenizer(raw, rows)
		if err == nil {
			err = s.around(&c, around)
		}
		if err != nil {
			return c, f.wrap(tokenizerName, err)
		}
		return c, nil
	}
	if raw, err = f.optional(piecesName, maxVocabulary); err != nil {
		return tokenizer.Config{}, err
	}
	if raw == nil {
		return tokenizer.Config{}, fmt.Errorf("checkpoint: folder %s: found neither %s nor %s", string(f), tokenizerName, piecesName)
	}
	added, err := f.added(s)
	if err != nil {
		return tokenizer.Config{}, err
	}
	c, err := parsePieces(raw, added, rows)
	if err != nil {
		return c, f.wrap(piecesName, err)
	}
	c.AddBOS, c.AddEOS = s.AddBOS, s.AddEOS
	return c, nil
}

// around says whether a text begins with BOS and ends with EOS: tokenizer_config.json, or else what tokenizer.json puts around it.
func (s *settings) around(c *tokenizer.Config, f frame) error {
	for _, side := range []struct {
		tokens []string
		name   special
		add    *bool
		to     **bool
	}{{f.before, s.BOS, s.AddBOS, &c.AddBOS}, {f.after, s.EOS, s.AddEOS, &c.AddEOS}} {
		if *side.to = side.add; side.add != nil {
			continue
		}
		if len(side.tokens) > 1 || len(side.tokens) == 1 && side.tokens[0] != string(side.name) {
			return fmt.Errorf("post_processor: puts %.200q at an end of a text; supported are bos_token before it and eos_token after it", side.tokens)
		}
		*side.to = new(len(side.tokens) == 1)
	}
	return nil
}

// roles gives tokens their roles; bos and ends are the ids that the network's configs name.
func (s *settings) roles(c *tokenizer.Config, bos *int64, ends ids) error {
	id := func(text special) int32 {
		if text == "" {
			return tokenizer.None
		}
		return int32(slices.Index(c.Tokens, string(text)))
	}
	for _, n := range append(slices.Clone(ends), *or(bos, new(int64(0)))) {
		if n < 0 || n >= int64(len(c.Tokens)) {
			return fmt.Errorf("%s or %s: special token %d; expected 0 to %d", configName, generationName, n, len(c.Tokens)-1)
		}
	}
	c.Special[tokenizer.RoleBOS], c.Special[tokenizer.RoleEOS], c.Special[tokenizer.RolePAD] = id(s.BOS), id(s.EOS), id(s.PAD)
	if s.UNK != "" {
		c.Special[tokenizer.RoleUNK] = id(s.UNK)
	}
	if c.Special[tokenizer.RoleBOS] == tokenizer.None && bos != nil {
		c.Special[tokenizer.RoleBOS] = int32(*bos)
	}
	if c.Special[tokenizer.RoleEOS] == tokenizer.None && len(ends) > 0 {
		c.Special[tokenizer.RoleEOS] = int32(ends[0])
	}
	return endings(c, ends)
}

// endings sees to it that the tokens that end a generation are known as such. Most are by their spelling; up to two others take the roles of ending a turn or a message.
func endings(c *tokenizer.Config, ends ids) error {
	free := []tokenizer.Role{tokenizer.RoleEOT, tokenizer.RoleEOM}
	for i, n := range ends {
		if int32(n) == c.Special[tokenizer.RoleEOS] || slices.Contains(ends[:i], n) {
			continue
		}
		alone, err := tokenizer.New(tokenizer.Config{Model: "llama", Tokens: []string{c.Tokens[n]}, AddBOS: new(false),
			Special: map[tokenizer.Role]int32{tokenizer.RoleBOS: tokenizer.None, tokenizer.RoleEOS: tokenizer.None, tokenizer.RoleUNK: tokenizer.None}})
		if err != nil {
			return err
		}
		if alone.IsEOG(0) {
			continue
		}
		if len(free) == 0 {
			return fmt.Errorf("eos_token_id %d: more than two tokens of unknown spelling end a generation", ends)
		}
		c.Special[free[0]], free = int32(n), free[1:]
	}
	return nil
}

// vocabularyKeys is a vocabulary under GGUF's keys.
func vocabularyKeys(c *tokenizer.Config) []gguf.KV {
	const prefix = "tokenizer.ggml."
	kv := []gguf.KV{{Key: prefix + "model", Value: c.Model}, {Key: prefix + "pre", Value: c.Pre}, {Key: prefix + "tokens", Value: c.Tokens}}
	add := func(name string, value any) { kv = append(kv, gguf.KV{Key: prefix + name, Value: value}) }
	if c.Scores != nil {
		add("scores", c.Scores)
	}
	add("token_type", c.Types)
	if c.Merges != nil {
		add("merges", c.Merges)
	}
	for _, r := range []struct {
		role tokenizer.Role
		key  string
	}{{tokenizer.RoleBOS, "bos_token_id"}, {tokenizer.RoleEOS, "eos_token_id"}, {tokenizer.RoleUNK, "unknown_token_id"}, {tokenizer.RolePAD, "padding_token_id"},
		{tokenizer.RoleEOT, "eot_token_id"}, {tokenizer.RoleEOM, "eom_token_id"}} {
		id, said := c.Special[r.role]
		switch {
		case id == tokenizer.None:
			add(r.key, uint32(math.MaxUint32))
		case said:
			add(r.key, uint32(id))
		}
	}
	for _, flag := range []struct {
		key   string
		value *bool
	}{{"add_bos_token", c.AddBOS}, {"add_eos_token", c.AddEOS}, {"add_space_prefix", c.AddSpacePrefix}} {
		if flag.value != nil {
			add(flag.key, *flag.value)
		}
	}
	return kv
}
