package eval

import (
	"context"
	"fmt"
	"strings"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/bench"
	"github.com/twilight-go/twilight/tokenizer"
)

// The needle, its question and how the answer begins. The beginning is given to the model, as benchmarks of retrieval do for models of every size: what is asked is
// whether attention finds the number, not whether the model likes to answer in a sentence.
const (
	needleKey    = "orchid"
	needleNumber = "8271946"
	needle       = "The special magic number for " + needleKey + " is " + needleNumber + "."
	needleTask   = "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the number afterwards.\n"
	needleAsk    = "\nWhat is the special magic number for " + needleKey + " mentioned in the text?"
	needleBegin  = "The special magic number for " + needleKey + " mentioned in the text is"
)

// answerTokens is how much of an answer is looked at.
const answerTokens = 24

// Needle hides a sentence in a text at some depths and asks for it through the chat template. The prompt is prefilled densely, once for all specs; from its last
// token on everything is a greedy decode step of the spec.
type Needle struct {
	Model  string    // named in the rows
	Text   string    // the haystack
	Tokens int       // of the haystack, counted from its start
	Depths []float64 // where the needle stands, in percent of the haystack
	Specs  []string  // of attention
	// Progress is told of prompt tokens done, Row of each result. Either may be nil.
	Progress func(stage string, done, total int64)
	Row      func(NeedleRow)
}

// NeedleRow is the result of one spec at one depth.
type NeedleRow struct {
	Eval    string  `json:"eval"` // "needle"
	Model   string  `json:"model"`
	Device  string  `json:"device"`
	Spec    string  `json:"spec"`
	Depth   float64 `json:"depth_percent"`
	Context int     `json:"ctx"` // tokens of the prompt
	Found   bool    `json:"found"`
	Answer  string  `json:"answer"`
	Kept    float64 `json:"kept_mean"`
	Pruned  float64 `json:"pruned"`
	Bytes   float64 `json:"bytes_per_step"`
	Dense   float64 `json:"dense_bytes_per_step"`
}

// promptTokens bounds what template, task and question add to the haystack.
const promptTokens = 256

// Options are o with what the evaluation needs of the model.
func (c *Needle) Options(o twilight.Options) twilight.Options {
	o.Attention, o.Also = "dense", c.Specs
	o.Context = max(o.Context, c.Tokens+promptTokens+answerTokens)
	o.Spare = 3 // one fork lives at a time
	return o
}

// Run evaluates, with a model opened by Options.
func (c *Needle) Run(ctx context.Context, m *twilight.Model) error {
	hay, n := m.Head(c.Text, c.Tokens)
	if n < c.Tokens {
		return fmt.Errorf("eval: %w: it has %d tokens, expected %d", ErrText, n, c.Tokens)
	}
	base, err := m.NewSession("dense")
	if err != nil {
		return err
	}
	defer base.Close()
	for _, depth := range c.Depths {
		prompt, err := m.EncodeChat([]twilight.Message{{Role: "user", Content: needleTask + insert(hay, depth) + needleAsk}})
		if err != nil {
			return err
		}
		prompt = append(prompt, m.Tokenizer().Encode(needleBegin, tokenizer.EncodeOptions{})...)
		last := len(prompt) - 1
		stage := fmt.Sprintf("reading the prompt, needle at %g %%", depth)
		if _, _, err := base.Prefill(ctx, prompt[:last], func(done, total int) {
			if c.Progress != nil {
				c.Progress(stage, int64(done), int64(total))
			}
		}); err != nil {
			return err
		}
		for _, spec := range c.Specs {
			answer, a, err := ask(ctx, m, base, spec, prompt[last])
			if err != nil {
				return err
			}
			if c.Row != nil {
				c.Row(NeedleRow{Eval: "needle", Model: c.Model, Device: m.Device(), Spec: spec, Depth: depth, Context: len(prompt), Found: strings.Contains(digits(answer), needleNumber),
					Answer: strings.TrimSpace(answer), Kept: a.Kept, Pruned: a.Pruned, Bytes: a.BytesStep, Dense: a.DenseStep})
			}
		}
	}
	return nil
}

// insert puts the needle behind the sentence that ends next after percent of the text.
func insert(text string, percent float64) string {
	at := int(float64(len(text)) * min(max(percent, 0), 100) / 100)
	if i := strings.Index(text[at:], ". "); at > 0 && i >= 0 {
		at += i + 2
	} else if i := strings.LastIndex(text[:at], ". "); i >= 0 {
		at = i + 2
	} else {
		at = 0
	}
	return text[:at] + needle + " " + text[at:]
}

// digits drops what models write between digits of a long number.
func digits(s string) string { return strings.NewReplacer(",", "", " ", "", "\u202f", "").Replace(s) }

// ask decodes the answer greedily in a fork of base.
func ask(ctx context.Context, m *twilight.Model, base *twilight.Session, spec string, last int32) (string, attention.Summary, error) {
	s, err := base.Fork(spec)
	if err != nil {
		return "", attention.Summary{}, err
	}
	defer s.Close()
	var answer []int32
	for id := last; len(answer) < answerTokens; {
		if err := ctx.Err(); err != nil {
			return "", attention.Summary{}, err
		}
		logits, err := s.Step(id)
		if err != nil {
			return "", attention.Summary{}, err
		}
		if id = argmax(logits); m.Tokenizer().IsEOG(id) {
			break
		}
		answer = append(answer, id)
	}
	return m.Tokenizer().Decode(answer, tokenizer.DecodeOptions{}), bench.Summary(s, base.Len()), nil
}
