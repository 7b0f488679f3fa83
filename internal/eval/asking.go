package eval

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/eval/task"
	"github.com/twilight-go/twilight/tokenizer"
)

// asking is a run under way. Its models share what mu guards, and Prompts, which reading does.
type asking struct {
	*Questions
	m       *twilight.Model // one of those that answer, for what all have in common
	specs   []labelled
	reading sync.Mutex

	mu          sync.Mutex // Log, Row and Progress too
	done, total int64
	jobs        [][][]*job // by length, task and sample; read when all work has ended
}

// job is a question with a row for each spec; Answer is nil in those that are missing.
type job struct {
	t       task.Task
	s       *task.Sample
	length  int
	prompt  []int32
	rows    []Row
	base    *twilight.Session // the prompt but for its last token, while a model has it
	prefill time.Duration
}

func (j *job) failed(err error) error {
	return fmt.Errorf("eval: task %s, sample %s at %d tokens: %w", j.t.Name(), j.s.ID, j.length, err)
}

// advance tells that more was done.
func (r *asking) advance(tokens int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress(tokens)
}

// progress is advance where mu is held.
func (r *asking) progress(tokens int) {
	if r.done += int64(tokens); r.Progress != nil {
		r.Progress(r.done, r.total)
	}
}

// rows are those with answers, in order. Called when all work has ended.
func (r *asking) rows() (out []Row) {
	for _, tasks := range r.jobs {
		for _, samples := range tasks {
			for _, j := range samples {
				for i := range j.rows {
					if j.rows[i].Answer != nil {
						out = append(out, j.rows[i])
					}
				}
			}
		}
	}
	return out
}

// plan makes the prompts and hands on those that some spec has not answered yet.
func (r *asking) plan(ctx context.Context, first [][]task.Sample, jobs chan<- *job) error {
	for i, length := range r.Lengths {
		all := first
		if i > 0 {
			var err error
			if all, err = r.samples(length); err != nil {
				return err
			}
		}
		most, planned := 0, make([][]*job, len(all))
		r.mu.Lock()
		for j, samples := range all {
			most = max(most, len(samples))
			r.total += int64(len(samples)-len(first[j])) * int64(length)
		}
		r.mu.Unlock()
		r.jobs = append(r.jobs, planned)
		for round := range most {
			for t, samples := range all {
				for len(planned[t])*most < (round+1)*len(samples) { // so many of each by now, in proportion
					j := &job{t: r.Tasks[t], s: &samples[len(planned[t])], length: length}
					if err := r.prepare(j); err != nil {
						return j.failed(err)
					}
					planned[t] = append(planned[t], j)
					if !slices.ContainsFunc(j.rows, unanswered) {
						continue
					}
					select {
					case jobs <- j:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			}
		}
	}
	return ctx.Err()
}

func unanswered(r Row) bool { return r.Answer == nil }

// prepare makes a job's prompt, and its rows as far as they are found.
func (r *asking) prepare(j *job) (err error) {
	if j.prompt, err = promptTokens(r.m, j.s, r.Raw); err != nil {
		return err
	}
	n, s := len(j.prompt), j.s
	if s.MaxTokens < 1 || s.MaxTokens > maxAnswer || n+s.MaxTokens > j.length || n < 2 {
		return fmt.Errorf("it has %d tokens and an answer of %d: expected an answer of 1 to %d, and together at most %d", n, s.MaxTokens, maxAnswer, j.length)
	}
	row := r.row(r.m, KindSample)
	row.Task, row.Sample, row.Size, row.Seed, row.Context, row.Prompt = j.t.Name(), s.ID, j.length, r.Seed, n, hashTokens(j.prompt)
	row.Measured = r.Measure
	if r.Prompts != nil {
		row.PromptDevice = r.Prompts.Device()
	}
	missing := 0
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, spec := range r.specs {
		one := row
		one.Label, one.Spec = spec.label, spec.canonical
		old := r.Log.Find(&one)
		if old != nil {
			one = *old
			one.Label = spec.label // it may have gone by another name
		} else {
			missing++
		}
		if j.rows = append(j.rows, one); old != nil && r.Row != nil {
			r.Row(&j.rows[len(j.rows)-1], true)
		}
	}
	cost := n + missing*s.MaxTokens
	if missing == 0 {
		cost = 0
	}
	r.total += int64(cost - j.length)
	return nil
}

// work answers jobs with one model, as many at a time as may be held together.
func (r *asking) work(ctx context.Context, m *twilight.Model, jobs <-chan *job) error {
	for {
		var held []*job
		for j := range jobs {
			if held = append(held, j); len(held) == r.together() {
				break
			}
		}
		if len(held) == 0 {
			return nil
		}
		err := r.answer(ctx, m, held)
		for _, j := range held {
			if j.base != nil {
				j.base.Close()
				j.base = nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// answer reads prompts, and has all specs answer that have not yet.
func (r *asking) answer(ctx context.Context, m *twilight.Model, held []*job) error {
	for _, j := range held {
		if err := r.read(ctx, m, j); err != nil {
			return j.failed(err)
		}
	}
	var batch []*answering
	blocks := 0
	decode := func() error {
		err := r.decode(ctx, m, batch)
		batch, blocks = batch[:0], 0
		return err
	}
	for i := range r.specs {
		for _, j := range held {
			if j.rows[i].Answer != nil {
				continue
			}
			need := forkBlocks(j.s.MaxTokens)
			if len(batch) == maxBatch || blocks+need > r.spare() {
				if err := decode(); err != nil {
					return err
				}
			}
			blocks += need
			batch = append(batch, &answering{job: j, row: &j.rows[i]})
		}
		if len(batch) > 0 && deviceName(m.Device()) == "cuda" { // it counts what attention reads in steps of one spec
			if err := decode(); err != nil {
				return err
			}
		}
	}
	return decode()
}

// read makes a job's base.
func (r *asking) read(ctx context.Context, m *twilight.Model, j *job) (err error) {
	if j.base, err = m.NewSession("dense"); err != nil {
		return err
	}
	start, prompt, done := time.Now(), j.prompt[:len(j.prompt)-1], 0
	progress := func(n, _ int) {
		r.advance(n - done)
		done = n
	}
	if r.Prompts != nil {
		from := len(prompt) // what a selector has to see does not come with a cache
		for i := range j.rows {
			if j.rows[i].Answer == nil {
				from = min(from, max(0, len(prompt)-r.specs[i].observed))
			}
		}
		if err := r.fetch(ctx, j.base, prompt[:from], progress); err != nil {
			return err
		}
	}
	if j.base.Len() < len(prompt) {
		if _, _, err := j.base.Prefill(ctx, prompt, progress); err != nil {
			return err
		}
	}
	j.prefill = time.Since(start)
	r.advance(len(j.prompt) - done)
	return nil
}

// fetch has Prompts read a text, and moves its cache.
func (r *asking) fetch(ctx context.Context, to *twilight.Session, text []int32, progress func(done, total int)) error {
	if len(text) == 0 {
		return nil
	}
	r.reading.Lock()
	release := sync.OnceFunc(r.reading.Unlock)
	defer release()
	s, err := r.Prompts.NewSession("dense")
	if err != nil {
		return err
	}
	closing := sync.OnceFunc(s.Close)
	defer closing()
	if _, _, err := s.Prefill(ctx, text, progress); err != nil {
		return err
	}
	return to.Take(s.Session, len(text), func() { // another prompt can be read while this one's planes are made
		closing()
		release()
	})
}

// answering is an answer that is being decoded.
type answering struct {
	*job
	row     *Row
	fork    *twilight.Session
	meter   *meter
	next    int32
	tokens  []int32
	text    string
	reason  string // "": it goes on
	seconds float64
}

// decode decodes answers greedily, each in a fork of its prompt, and writes their rows as they end.
func (r *asking) decode(ctx context.Context, m *twilight.Model, batch []*answering) (err error) {
	defer func() {
		for _, a := range batch {
			if a.fork != nil {
				a.fork.Close()
			}
		}
	}()
	for _, a := range batch {
		if a.fork, err = a.base.Fork(a.row.Label); err != nil {
			return a.failed(err)
		}
		a.meter, a.next = newMeter(a.fork, 1, r.Measure), a.prompt[len(a.prompt)-1]
	}
	live := slices.Clone(batch)
	sessions, ids, next := make([]*twilight.Session, len(batch)), make([]int32, len(batch)), make([]int32, len(batch))
	for len(live) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		for i, a := range live {
			sessions[i], ids[i] = a.fork, a.next
		}
		n, start := len(live), time.Now()
		if err := m.NextBatch(sessions[:n], ids[:n], next[:n]); err != nil {
			return live[0].failed(err)
		}
		share := time.Since(start).Seconds() / float64(n)
		for i, a := range live {
			a.seconds += share
			a.meter.mark()
			if a.take(m.Tokenizer(), next[i]); a.reason == "" {
				continue
			}
			if err := r.finish(a); err != nil {
				return a.failed(err)
			}
		}
		live = slices.DeleteFunc(live, func(a *answering) bool { return a.reason != "" })
	}
	return nil
}

// take adds a token to the answer, and says whether it ends.
func (a *answering) take(tok *tokenizer.Tokenizer, id int32) {
	if a.next = id; tok.IsEOG(id) {
		a.text, a.reason = tok.Decode(a.tokens, tokenizer.DecodeOptions{}), "stop"
		return
	}
	a.tokens = append(a.tokens, id)
	_, monotone := a.t.(task.Monotone)
	full := len(a.tokens) == a.s.MaxTokens
	if !monotone && len(a.s.Stop) == 0 && !full {
		return
	}
	a.text = tok.Decode(a.tokens, tokenizer.DecodeOptions{})
	if cut := firstOf(a.text, a.s.Stop); cut >= 0 {
		a.text, a.reason = a.text[:cut], "stop-text"
	} else if monotone && a.t.Score(a.s, tidy(a.text)) == 1 {
		a.reason = "scored"
	} else if full {
		a.reason = "length"
	}
}

// finish writes the row of an answer that has ended.
func (r *asking) finish(a *answering) error {
	text := tidy(a.text)
	a.row.Attention = a.meter.attention()
	answer := &Answer{Score: a.t.Score(a.s, text), Metric: a.t.Metric(), Reply: text, Expected: a.s.Answers[:min(len(a.s.Answers), 8)], Depths: percents(a.s.Depths),
		Generated: len(a.tokens), Reason: a.reason, Seconds: a.seconds, Prefill: a.prefill.Seconds()}
	r.mu.Lock()
	defer r.mu.Unlock()
	a.row.Answer = answer
	if err := r.Log.Append(a.row); err != nil {
		a.row.Answer = nil
		return err
	}
	r.progress(a.s.MaxTokens)
	if r.Row != nil {
		r.Row(a.row, false)
	}
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
