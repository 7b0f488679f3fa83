package eval

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/eval/task"
	"github.com/twilight-go/twilight/tokenizer"
)

// Circumstances are what every row of a run says.
type Circumstances struct {
	Model   string // as the user named it
	Version string // of the program
	Threads int
}

func (c *Circumstances) row(m *twilight.Model, kind string) Row {
	id := m.Fingerprint()
	return Row{Kind: kind, Model: c.Model, Version: c.Version, Threads: c.Threads, Device: m.Device(), Fingerprint: hex.EncodeToString(id[:8])}
}

// Questions runs tasks of questions with known answers. Every prompt is prefilled densely, once for all specs, in a session of its own, so that a result depends neither on
// what was asked before nor on which specs are compared; from the prompt's last token on everything is a greedy decode step of the spec.
type Questions struct {
	Circumstances
	Tasks   []task.Task
	Lengths []int // tokens of a sample, template and answer included
	Samples int   // of a task and length
	Seed    uint64
	Specs   []string // of attention
	Raw     bool     // without the chat template
	Measure bool     // the true mass and the output error of every step, at the cost of a dense pass
	Log     *Log     // where rows are kept, and found if they stand there already
	// Progress is told how far the whole run is, in tokens of prompts and answers; total shrinks by what need not be computed. Row is told of each result, and whether
	// it was found. Either may be nil.
	Progress func(done, total int64)
	Row      func(r *Row, found bool)
}

// maxAnswer is the most tokens of an answer that a task may ask for: the cache has room for no more.
const maxAnswer = 1024

// Options are o with what the evaluation needs of the model.
func (q *Questions) Options(o twilight.Options) twilight.Options {
	o.Attention, o.Also = "dense", q.Specs
	o.Context = max(o.Context, slices.Max(q.Lengths))
	o.Spare = maxAnswer/attention.BlockTokens + 2 // one fork lives at a time
	return o
}

// labelled is a spec with the name that it goes by.
type labelled struct {
	label, canonical string
	observes         bool // whether it has to see the prompt's queries
}

// canonical are the specs without those that say the same as one before.
func canonical(specs []string) (out []labelled, err error) {
	for _, text := range specs {
		s, err := attention.Parse(text)
		if err != nil {
			return nil, err
		}
		if c := s.String(); !slices.ContainsFunc(out, func(l labelled) bool { return l.canonical == c }) {
			p, err := attention.New(s)
			if err != nil {
				return nil, err
			}
			out = append(out, labelled{text, c, p.Observes()})
		}
	}
	return out, nil
}

// Run evaluates, with a model opened by Options, and returns the rows of all questions and specs of the run, found ones too, in the order of lengths, tasks, samples and
// specs. A cancelled ctx is an error, with the rows that there are.
func (q *Questions) Run(ctx context.Context, m *twilight.Model) ([]Row, error) {
	specs, err := canonical(q.Specs)
	if err != nil {
		return nil, err
	}
	r := &asking{Questions: q, m: m, specs: specs}
	// The samples of the first length, the smallest by habit, are made before all others: what is wrong with a task is said at once, and how many samples there will be is known.
	var first [][]task.Sample
	for i, length := range q.Lengths {
		if length > m.Context() {
			return nil, fmt.Errorf("eval: samples of %d tokens: the model was opened for %d", length, m.Context())
		}
		for j, t := range q.Tasks {
			if i == 0 {
				samples, err := r.samples(t, length)
				if err != nil {
					return nil, err
				}
				first = append(first, samples)
			}
			r.total += int64(len(first[j])) * int64(length)
		}
	}
	for i, length := range q.Lengths {
		for j, t := range q.Tasks {
			samples := first[j]
			if i > 0 {
				if samples, err = r.samples(t, length); err != nil {
					return r.rows, err
				}
				r.total += int64(len(samples)-len(first[j])) * int64(length)
			}
			for k := range samples {
				if err := r.sample(ctx, t, &samples[k], length); err != nil {
					return r.rows, fmt.Errorf("eval: task %s, sample %s at %d tokens: %w", t.Name(), samples[k].ID, length, err)
				}
			}
		}
	}
	return r.rows, nil
}

// asking is a run under way.
type asking struct {
	*Questions
	m           *twilight.Model
	specs       []labelled
	done, total int64
	rows        []Row
}

func (r *asking) progress(within int) {
	if r.Progress != nil {
		r.Progress(r.done+int64(within), r.total)
	}
}

func (r *asking) samples(t task.Task, length int) ([]task.Sample, error) {
	size, err := sampleSize(r.m, length)
	if err == nil {
		err = size.Validate()
	}
	if err != nil {
		return nil, err
	}
	samples, err := t.Samples(r.Samples, r.Seed, size)
	if err != nil {
		return nil, fmt.Errorf("%w (samples of %d tokens, chat template and answer included)", err, length)
	}
	return samples, nil
}

// sample asks one question of every spec that has not answered it yet.
func (r *asking) sample(ctx context.Context, t task.Task, s *task.Sample, length int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	prompt, err := promptTokens(r.m, s, r.Raw)
	if err != nil {
		return err
	}
	if s.MaxTokens < 1 || s.MaxTokens > maxAnswer || len(prompt)+s.MaxTokens > length || len(prompt) < 2 {
		return fmt.Errorf("it has %d tokens and an answer of %d: expected an answer of 1 to %d, and together at most %d", len(prompt), s.MaxTokens, maxAnswer, length)
	}
	row := r.row(r.m, KindSample)
	row.Task, row.Sample, row.Size, row.Seed, row.Context, row.Prompt = t.Name(), s.ID, length, r.Seed, len(prompt), hashTokens(prompt)
	row.Measured = r.Measure
	rows, missing := make([]Row, len(r.specs)), 0
	for i, spec := range r.specs {
		rows[i] = row
		rows[i].Label, rows[i].Spec = spec.label, spec.canonical
		if old := r.Log.Find(&rows[i]); old != nil {
			rows[i] = *old
			rows[i].Label = spec.label // it may have gone by another name
			continue
		}
		missing++
	}
	cost := len(prompt) + missing*s.MaxTokens
	if missing == 0 {
		cost = 0
	}
	r.total += int64(cost - length)
	var base *twilight.Session
	var prefill time.Duration
	if missing > 0 {
		if base, err = r.m.NewSession("dense"); err != nil {
			return err
		}
		defer base.Close()
		start := time.Now()
		if _, _, err := base.Prefill(ctx, prompt[:len(prompt)-1], func(done, _ int) { r.progress(done) }); err != nil {
			return err
		}
		prefill = time.Since(start)
	}
	asked := 0
	for i := range rows {
		found := rows[i].Answer != nil
		if !found {
			if err := r.ask(ctx, t, s, base, prompt[len(prompt)-1], &rows[i]); err != nil {
				return err
			}
			rows[i].Prefill = prefill.Seconds()
			if err := r.Log.Append(&rows[i]); err != nil {
				return err
			}
			asked++
			r.progress(len(prompt) + asked*s.MaxTokens)
		}
		r.rows = append(r.rows, rows[i])
		if r.Row != nil {
			r.Row(&rows[i], found)
		}
	}
	r.done += int64(cost)
	return nil
}

// ask decodes an answer greedily in a fork of base, and fills the row.
func (r *asking) ask(ctx context.Context, t task.Task, s *task.Sample, base *twilight.Session, last int32, row *Row) error {
	fork, err := base.Fork(row.Label)
	if err != nil {
		return err
	}
	defer fork.Close()
	meter := newMeter(fork, 1, r.Measure)
	tok := r.m.Tokenizer()
	var answer []int32
	text, reason := "", "length"
	_, monotone := t.(task.Monotone)
	start := time.Now()
	for id := last; len(answer) < s.MaxTokens; {
		if err := ctx.Err(); err != nil {
			return err
		}
		logits, err := fork.Step(id)
		if err != nil {
			return err
		}
		meter.mark()
		if id = argmax(logits); tok.IsEOG(id) {
			reason = "stop"
			break
		}
		answer = append(answer, id)
		if monotone || len(s.Stop) > 0 || len(answer) == s.MaxTokens {
			text = tok.Decode(answer, tokenizer.DecodeOptions{})
			if cut := firstOf(text, s.Stop); cut >= 0 {
				text, reason = text[:cut], "stop-text"
				break
			}
			if monotone && t.Score(s, tidy(text)) == 1 {
				reason = "scored"
				break
			}
		}
	}
	seconds := time.Since(start).Seconds()
	if reason == "stop" {
		text = tok.Decode(answer, tokenizer.DecodeOptions{})
	}
	text = tidy(text)
	row.Attention = meter.attention()
	row.Answer = &Answer{Score: t.Score(s, text), Metric: t.Metric(), Reply: text, Expected: s.Answers[:min(len(s.Answers), 8)], Depths: percents(s.Depths), Generated: len(answer), Reason: reason, Seconds: seconds}
	return nil
}

// tidy is an answer as it is scored and kept.
func tidy(text string) string { return strings.ToValidUTF8(strings.TrimSpace(text), "\ufffd") }

// percents are shares of a whole in percent.
func percents(shares []float64) (out []float64) {
	for _, x := range shares {
		out = append(out, short(100*x))
	}
	return out
}

// firstOf is where the first of some texts begins, −1 for nowhere.
func firstOf(text string, stops []string) int {
	at := -1
	for _, s := range stops {
		if i := strings.Index(text, s); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	return at
}
