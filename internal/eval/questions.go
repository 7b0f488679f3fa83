package eval

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/eval/task"
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
// what was asked before nor on which specs are compared; from the prompt's last token on everything is a greedy decode step of the spec. The answers of several specs are
// decoded in the same steps, which read the weights once and give each what steps of its own would.
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
	// Shard is which samples of each task are asked: those whose place leaves this remainder when divided by Shards; all where Shards is 0. The rows of all shards
	// together are those of one run.
	Shard, Shards int
	// Prompts, if not nil, is the same model on another device, opened by PromptOptions: it prefills, and the caches of its prompts are moved to the model that answers.
	// Where a spec has to see the prompt's queries, the answering model reads the prompt's last tokens itself.
	Prompts *twilight.Model
	// Together is how many prompts are held at once by a model, so that their answers can be decoded in the same steps; 0: 1.
	Together int
	// Progress is told how far the whole run is, in tokens of prompts and answers; total shrinks by what need not be computed. Row is told of each result, and whether
	// it was found. Either may be nil. Neither is called by two goroutines at once.
	Progress func(done, total int64)
	Row      func(r *Row, found bool)
}

// maxAnswer is the most tokens of an answer that a task may ask for: the cache has room for no more.
const maxAnswer = 1024

// maxBatch is the most answers that are decoded in the same steps.
const maxBatch = 64

// Options are o with what the evaluation needs of the models that answer.
func (q *Questions) Options(o twilight.Options) twilight.Options {
	o.Attention, o.Also = "dense", q.Specs
	o.Context = max(o.Context, slices.Max(q.Lengths))
	o.Sequences, o.ScoreRows, o.Spare = q.together(), maxBatch, q.spare()
	if o.BatchRows > 0 {
		o.BatchRows = max(o.BatchRows, maxBatch)
	}
	return o
}

// PromptOptions are o with what the evaluation needs of Prompts.
func (q *Questions) PromptOptions(o twilight.Options) twilight.Options {
	o.Attention, o.Also, o.Context = "dense", nil, max(o.Context, slices.Max(q.Lengths))
	return o
}

func (q *Questions) together() int { return max(q.Together, 1) }

// forkBlocks is how many blocks of its own an answer of that many tokens needs: a copy of the one that the prompt ends in, and those behind it.
func forkBlocks(tokens int) int { return 1 + attention.BlocksOf(tokens) }

// spare is the blocks that forks have: of short answers to all specs at once, or of the longest to one.
func (q *Questions) spare() int {
	return max(min(len(q.Specs)*q.together(), maxBatch)*forkBlocks(attention.BlockTokens), forkBlocks(maxAnswer))
}

// labelled is a spec with the name that it goes by.
type labelled struct {
	label, canonical string
	observed         int // how many of the prompt's last queries it has to see
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
			out = append(out, labelled{text, c, p.Observed()})
		}
	}
	return out, nil
}

// Run evaluates, with models opened by Options from one file, which share the questions among themselves, and returns the rows of all questions and specs of the run, found
// ones too, in the order of lengths, tasks, samples and specs. Questions are asked in turn of all tasks, so that a run that is stopped has the same share of each. A
// cancelled ctx is an error, with the rows that there are.
func (q *Questions) Run(ctx context.Context, models ...*twilight.Model) ([]Row, error) {
	specs, err := canonical(q.Specs)
	if err != nil {
		return nil, err
	}
	if q.Shards < 0 || q.Shard < 0 || q.Shard >= max(q.Shards, 1) {
		return nil, fmt.Errorf("eval: shard %d of %d: expected one of them, counted from 0", q.Shard, q.Shards)
	}
	for _, length := range q.Lengths {
		for _, m := range append(models[:len(models):len(models)], q.Prompts) {
			if m != nil && length > m.Context() {
				return nil, fmt.Errorf("eval: samples of %d tokens: the model was opened for %d", length, m.Context())
			}
		}
	}
	r := &asking{Questions: q, m: models[0], specs: specs}
	// The samples of the first length, the smallest by habit, are made before all others: what is wrong with a task is said at once, and how many samples there will be is known.
	first, err := r.samples(q.Lengths[0])
	if err != nil {
		return nil, err
	}
	for _, length := range q.Lengths {
		for _, samples := range first {
			r.total += int64(len(samples)) * int64(length)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan *job, len(models)) // prompts are made while others are read
	g.Go(func() error {
		defer close(jobs)
		return r.plan(ctx, first, jobs)
	})
	for _, m := range models {
		g.Go(func() error { return r.work(ctx, m, jobs) })
	}
	err = g.Wait()
	return r.rows(), err
}

// samples are those of every task that are of this shard.
func (r *asking) samples(length int) ([][]task.Sample, error) {
	size, err := sampleSize(r.m, length)
	if err == nil {
		err = size.Validate()
	}
	if err != nil {
		return nil, err
	}
	all, errs := make([][]task.Sample, len(r.Tasks)), make([]error, len(r.Tasks))
	parallel(len(r.Tasks), func(i int) {
		samples, err := r.Tasks[i].Samples(r.Samples, r.Seed, size)
		errs[i] = err
		for k := range samples {
			if r.Shards < 2 || k%r.Shards == r.Shard {
				all[i] = append(all[i], samples[k])
			}
		}
	})
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("%w (samples of %d tokens, chat template and answer included)", err, length)
		}
	}
	return all, nil
}
