package checkpoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// component is a step of a tokenizer.json's normalizer, pre_tokenizer or post_processor; its type says which fields count. A nil component has no steps.
type component struct {
	Type          string      `json:"type"`
	Normalizers   []component `json:"normalizers"` // of a Sequence
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`

	Pattern     pattern `json:"pattern"` // of Split and Replace
	Behavior    string  `json:"behavior"`
	Invert      bool    `json:"invert"`
	Content     string  `json:"content"`
	Prepend     string  `json:"prepend"`
	UseRegex    *bool   `json:"use_regex"` // of ByteLevel: cut as GPT-2 does
	SpacePrefix *bool   `json:"add_prefix_space"`
	EachDigit   bool    `json:"individual_digits"`
	Replacement string  `json:"replacement"` // of Metaspace
	Scheme      string  `json:"prepend_scheme"`

	Single []struct { // of TemplateProcessing
		Special *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
	} `json:"single"`
}

// pattern is what a step looks for.
type pattern struct {
	String *string
	Regex  *string
}

func (p pattern) is(s string) bool { return p.String != nil && *p.String == s }

// The types of steps that appear by name.
const (
	sequence  = "Sequence"
	byteLevel = "ByteLevel"
)

// steps flattens sequences.
func (c *component) steps() []component {
	if c == nil {
		return nil
	}
	if c.Type != sequence {
		return []component{*c}
	}
	var out []component
	for _, list := range [][]component{c.Normalizers, c.PreTokenizers, c.Processors} {
		for i := range list {
			out = append(out, list[i].steps()...)
		}
	}
	return out
}

// String describes a step for errors.
func (c component) String() string {
	switch {
	case c.Pattern.Regex != nil:
		return fmt.Sprintf("%.50s of %.300q (%.50s, invert %v)", c.Type, *c.Pattern.Regex, c.Behavior, c.Invert)
	case c.Pattern.String != nil:
		return fmt.Sprintf("%.50s of the text %.300q", c.Type, *c.Pattern.String)
	}
	return fmt.Sprintf("%.50s", c.Type)
}

// frame is the special tokens before and after a text.
type frame struct{ before, after []string }

// frame is what a post_processor puts around a single text.
func (c *component) frame() (f frame) {
	for _, s := range c.steps() {
		if s.Type != "TemplateProcessing" {
			continue
		}
		to := &f.before
		for _, piece := range s.Single {
			if piece.Special == nil { // the text
				to = &f.after
				continue
			}
			*to = append(*to, piece.Special.ID)
		}
	}
	return f
}

// Expressions that pre-tokenizers share, as tokenizer.json files spell them.
const (
	exprShort = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	exprTail  = `|\s*[\r\n]+|\s+(?!\S)|\s+`
	exprUpper = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	exprLower = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	exprWords = exprShort + `|[^\r\n\p{L}\p{N}]?\p{L}+`
	exprSigns = `| ?[^\s\p{L}\p{N}]+[\r\n]*` + exprTail
	exprPaths = `| ?[^\s\p{L}\p{N}]+[\r\n/]*` + exprTail
	exprCode  = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" + `|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*` + exprTail

	gpt2 = "GPT-2's cut" // ByteLevel with use_regex
)

// preTokenizers names the cuts of vocabularies over bytes: a cut is its expressions, one after the other. The names are tokenizer.PreTokenizers'; names[0] is that of
// the vocabulary that follows its merges, names[1] of one that ignores them for words that are tokens.
var preTokenizers = map[string][2]string{
	gpt2:                                  {"gpt-2"},
	cut(`\p{N}`, gpt2):                    {"smollm"},
	exprWords + `|\p{N}{1,3}` + exprSigns: {"dbrx", "llama-bpe"},
	exprWords + `|\p{N}` + exprSigns:      {"qwen2"},
	exprShort + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*` + exprTail:                                    {"qwen35"},
	exprUpper + `*` + exprLower + `+|` + exprUpper + `+` + exprLower + `*|\p{N}` + exprPaths:                                          {"", "tekken"},
	exprUpper + `*` + exprLower + `+` + exprShort + `?|` + exprUpper + `+` + exprLower + `*` + exprShort + `?|\p{N}{1,3}` + exprPaths: {"gpt-4o"},
	cut(`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+", `\p{N}`):                                    {"deepseek-coder"},
	cut(`\p{N}{1,3}`, "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+", exprCode):                                                         {"deepseek-v3"},
}

// cut joins the expressions of a cut's steps.
func cut(steps ...string) string { return strings.Join(steps, "\n") }

// name finds the pre-tokenizer that a pre_tokenizer is.
func (c *component) name(ignoreMerges bool) (string, error) {
	var found []string
	for _, s := range c.steps() {
		switch {
		case s.Type == "Split" && s.Pattern.Regex != nil && (s.Behavior == "Isolated" && !s.Invert || s.Behavior == "Removed" && s.Invert):
			// Matches apart, or only matches kept, which is the same where the expression matches everything.
			found = append(found, strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(*s.Pattern.Regex))
		case s.Type == "Digits" && s.EachDigit:
			found = append(found, `\p{N}`)
		case s.Type == byteLevel && (s.SpacePrefix == nil || !*s.SpacePrefix):
			if s.UseRegex == nil || *s.UseRegex {
				found = append(found, gpt2)
			}
		case s.Type == byteLevel:
			return "", fmt.Errorf("%s with add_prefix_space is not supported", s)
		default:
			return "", fmt.Errorf("%s is not supported; supported are Split, Digits and ByteLevel, to cut as one of %s", s, knownCuts())
		}
	}
	names, which := preTokenizers[cut(found...)], 0
	if ignoreMerges {
		which = 1
	}
	if names[which] == "" {
		return "", fmt.Errorf("a cut by %.1000q with ignore_merges %v is not known; known are those of %s", found, ignoreMerges, knownCuts())
	}
	return names[which], nil
}

// knownCuts lists the pre-tokenizers that are recognised.
func knownCuts() string {
	var all []string
	for names := range maps.Values(preTokenizers) {
		for _, name := range names {
			if name != "" {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
