package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/bench"
	"github.com/twilight-go/twilight/internal/kvcache"
)

// ErrText is in the error of a text that is too short, or is not the one that was saved.
var ErrText = errors.New("the text does not do")

// Document is a text with a name.
type Document struct{ Name, Text string }

// Texts scores the last tokens of texts, teacher-forced, each as a decode step of the spec: perplexity, and divergence from dense attention over the same context.
// Everything before them is prefilled densely, once for all specs. The true mass of what is attended is always measured.
type Texts struct {
	Circumstances
	Documents []Document
	Load      string   // a saved cache: of the only document's beginning, to prefill less, or, without documents, the text itself; ""
	Lengths   []int    // tokens of a text, counted from its start
	Score     int      // how many of them, at the end, are scored
	Specs     []string // of attention
	Time      int      // decode steps that are timed one by one at the start of the scored part; 0: none
	Log       *Log     // where rows are kept, and found if they stand there already
	// Progress is told how far the whole run is, in tokens. Row is told of each result, and whether it was found. Either may be nil.
	Progress func(done, total int64)
	Row      func(r *Row, found bool)
}

// window is how many positions a step scores: those of one point of a time line. What is held of the dense distribution is a window, not the whole text.
const window = 16

// together is how many specs are compared in one pass over a text. A run that is stopped loses no more than one pass; dense is scored anew in each.
const together = 4

// Options are o with what the evaluation needs of the model.
func (t *Texts) Options(o twilight.Options) (twilight.Options, error) {
	o.Attention, o.Also = "dense", t.Specs
	o.Context, o.ScoreRows = max(o.Context, slices.Max(t.Lengths)), window
	if t.Load != "" {
		h, err := kvcache.ReadSaved(t.Load)
		if err != nil {
			return o, err
		}
		o.Context = max(o.Context, h.Tokens)
	}
	blocks := attention.BlocksOf(t.Score) + 2 // a fork's own: what it scores, across block ends, and a copy of the block it starts in
	if t.Time > 0 {
		blocks += attention.BlocksOf(t.Time) + 2 // steps are timed on forks of their own while the scored ones live
	}
	o.Spare = (together + 1) * blocks
	return o, nil
}

// Run evaluates, with a model opened by Options, and returns the rows of all texts, lengths and specs, found ones too. A cancelled ctx is an error, with the rows that
// there are.
func (t *Texts) Run(ctx context.Context, m *twilight.Model) ([]Row, error) {
	if t.Score < 1 || t.Score >= slices.Min(t.Lengths) {
		return nil, fmt.Errorf("eval: scoring %d of %d tokens: expected at least 1, and some before them", t.Score, slices.Min(t.Lengths))
	}
	if len(t.Documents) > 1 && t.Load != "" {
		return nil, fmt.Errorf("eval: %d texts and a saved cache: expected one text at most", len(t.Documents))
	}
	specs, err := canonical(t.Specs)
	if err != nil {
		return nil, err
	}
	r := &scoring{Texts: t, m: m, specs: specs}
	docs := t.Documents
	if len(docs) == 0 {
		docs = []Document{{Name: filepath.Base(t.Load)}}
	}
	r.total = int64(len(docs)) * r.cost(slices.Max(t.Lengths)-t.Score, len(t.Lengths)*len(specs))
	for _, d := range docs {
		if err := r.document(ctx, d); err != nil {
			return r.rows, err
		}
	}
	return r.rows, nil
}

// cost estimates work in tokens.
func (t *Texts) cost(prefill, specs int) int64 { return int64(prefill) + int64(t.Score)*int64(specs) }

// scoring is a run under way.
type scoring struct {
	*Texts
	m           *twilight.Model
	specs       []labelled
	done, total int64
	rows        []Row
}

func (r *scoring) progress(within int64) {
	if r.Progress != nil {
		r.Progress(r.done+within, r.total)
	}
}

// document scores one text at every length, each continuing the cache of the one before.
func (r *scoring) document(ctx context.Context, d Document) error {
	base, err := r.m.NewSession("dense")
	if err != nil {
		return err
	}
	defer func() { base.Close() }()
	text := r.m.Encode(d.Text)
	if r.Load != "" {
		if err := base.Load(r.Load); err != nil {
			return err
		}
		saved := base.Tokens()
		r.total -= int64(min(len(saved), slices.Max(r.Lengths)-r.Score))
		switch {
		case len(r.Documents) == 0:
			text = slices.Clone(saved)
		case !slices.Equal(saved[:min(len(saved), len(text))], text[:min(len(saved), len(text))]):
			return fmt.Errorf("eval: %w: the saved cache %s does not hold the beginning of %s as it stands, without a chat template", ErrText, r.Load, d.Name)
		}
	}
	lengths := slices.Compact(slices.Sorted(slices.Values(r.Lengths)))
	if n := lengths[len(lengths)-1]; len(text) < n {
		return fmt.Errorf("eval: %s: %w: it has %d tokens, expected %d", d.Name, ErrText, len(text), n)
	}
	for _, n := range lengths {
		s, err := base.Fork("dense") // a saved cache may be longer than this length, and is wanted again for the next
		if err != nil {
			return err
		}
		err = r.length(ctx, d.Name, s, text[:n])
		if s.Len() > base.Len() {
			s, base = base, s
		}
		s.Close()
		if err != nil {
			return fmt.Errorf("eval: %s at %d tokens: %w", d.Name, n, err)
		}
	}
	return nil
}

// length scores a text with every spec that has not scored it yet.
func (r *scoring) length(ctx context.Context, name string, base *twilight.Session, text []int32) error {
	row := r.row(r.m, KindText)
	row.Task, row.Sample, row.Size, row.Context, row.Prompt, row.Scored, row.Measured = "text", name, len(text), len(text), hashTokens(text), r.Score, true
	first := len(r.rows)
	var missing []*Row
	for _, spec := range r.specs {
		one := row
		one.Label, one.Spec = spec.label, spec.canonical
		if old := r.Log.Find(&one); old != nil {
			one = *old
			one.Label = spec.label
		}
		r.rows = append(r.rows, one)
	}
	rows := r.rows[first:]
	for i := range rows {
		if rows[i].Text == nil {
			missing = append(missing, &rows[i])
		} else if r.Row != nil {
			r.Row(&rows[i], true)
		}
	}
	r.total -= r.cost(0, len(rows)-len(missing))
	from := len(text) - r.Score - 1 // the step of token i gives the distribution of token i+1
	if len(missing) > 0 && from > 0 {
		start := min(base.Len(), from)
		if r.Load != "" { // what a selector has to see does not come with a cache
			for _, s := range r.specs {
				start = min(start, max(from-s.observed, 1))
			}
			if start < base.Len() {
				if _, _, err := base.Prefill(ctx, text[:start], nil); err != nil {
					r.rows = r.rows[:first]
					return err
				}
			}
		}
		if _, _, err := base.Prefill(ctx, text[:from], func(done, _ int) { r.progress(int64(max(0, done-start))) }); err != nil {
			r.rows = r.rows[:first]
			return err
		}
		r.done += int64(from - start)
	}
	for pass := range slices.Chunk(missing, together) {
		if err := r.pass(ctx, base, text, pass); err != nil {
			r.rows = append(r.rows[:first], slices.DeleteFunc(slices.Clone(rows), func(x Row) bool { return x.Text == nil })...)
			return err
		}
	}
	return nil
}

// scored is one spec at work.
type scored struct {
	s     *twilight.Session
	dist  distribution
	meter *meter
	nll   []float64
	kl    []float64
	agree int
}

// pass scores a text with some specs, side by side, and writes their rows. Dense is the first of the scored whether it has a row or not: the others are compared with it.
func (r *scoring) pass(ctx context.Context, base *twilight.Session, text []int32, rows []*Row) error {
	specs := []string{"dense"}
	for _, row := range rows {
		if row.Spec != "dense" {
			specs = append(specs, row.Label)
		}
	}
	runs := make([]*scored, 0, len(specs))
	defer func() {
		for _, run := range runs {
			run.s.Close()
		}
	}()
	for _, spec := range specs {
		s, err := base.Fork(spec)
		if err != nil {
			return err
		}
		runs = append(runs, &scored{s: s, meter: newMeter(s, window, true)})
	}
	from := base.Len()
	for at := from; at < len(text)-1; at += window {
		n := min(window, len(text)-1-at)
		for i, run := range runs {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := run.window(text[at:at+n+1], runs[0]); err != nil {
				return err
			}
			r.progress(int64((at-from)*len(rows) + n*(i+1)*len(rows)/len(runs)))
		}
	}
	var times []bench.Timing
	if r.Time > 0 {
		var err error
		if times, err = bench.Steps(ctx, base, specs, text[from:][:min(r.Time, len(text)-from)]); err != nil {
			return err
		}
	}
	for _, row := range rows {
		i := max(0, slices.Index(specs, row.Label)) // dense may go by another name
		row.Text, row.Attention = runs[i].text(), runs[i].meter.attention()
		if times != nil {
			row.MicrosStep, row.Speedup = times[i].Median()*1e6, times[0].Median()/times[i].Median()
		}
		if err := r.Log.Append(row); err != nil {
			return err
		}
		if r.Row != nil {
			r.Row(row, false)
		}
	}
	r.done += r.cost(0, len(rows))
	return nil
}

// window scores the tokens of a text behind the first, and compares with the dense run, which has scored them before.
func (s *scored) window(text []int32, dense *scored) error {
	n := len(text) - 1
	logits, err := s.s.Score(text[:n])
	if err != nil {
		return err
	}
	s.meter.mark()
	s.dist.set(logits, n, s == dense)
	at := len(s.kl)
	s.kl = append(s.kl, make([]float64, n)...)
	dense.dist.kl(s.kl[at:], &s.dist)
	for i, id := range text[1:] {
		s.nll = append(s.nll, s.dist.nll(i, id))
		if argmax(s.dist.row(i)) == argmax(dense.dist.row(i)) {
			s.agree++
		}
	}
	return nil
}

func (s *scored) text() *Text {
	n := len(s.nll)
	sorted := slices.Sorted(slices.Values(s.kl))
	return &Text{Perplexity: math.Exp(sumOf(s.nll) / float64(n)), KL: sumOf(s.kl) / float64(n), KL99: sorted[min(n-1, n*99/100)], Agree: float64(s.agree) / float64(n),
		NLLSteps: windows(s.nll), KLSteps: windows(s.kl)}
}

// windows are the means of values over the windows of a time line.
func windows(values []float64) (out []float64) {
	for w := range slices.Chunk(values, window) {
		out = append(out, short(sumOf(w)/float64(len(w))))
	}
	return out
}
