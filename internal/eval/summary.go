package eval

import (
	"cmp"
	"slices"
)

// Summary is what a spec did with all samples of a task at one length, or with a text.
type Summary struct {
	Kind   string `json:"kind"` // that of the rows
	Model  string `json:"model"`
	Device string `json:"device"`
	Task   string `json:"task"`
	Sample string `json:"sample,omitempty"` // KindText: the text's name
	Metric string `json:"metric,omitempty"`
	Size   int    `json:"length"`
	Label  string `json:"label"`
	Spec   string `json:"spec"`

	// KindSample: the score, and how much higher it is than dense attention's on the same samples, where dense was asked too.
	Score *Mean `json:"score,omitempty"`
	// KindText: the negative log-likelihood of a token and the divergence from dense, in nats. Windows of successive tokens are resampled, because neighbours are alike.
	NLL        *Mean `json:"nll,omitempty"`
	Divergence *Mean `json:"kl_mean,omitempty"`
	// VsDense is the paired difference to dense of the score, or of the negative log-likelihood.
	VsDense *Mean `json:"vs_dense,omitempty"`

	Seconds float64 `json:"seconds,omitempty"` // KindSample: of an answer's decode steps

	Attention // of KindSample the means alone, without lists
	*Text     // KindText: the row's
}

// question is what rows of different specs have in common when they can be compared.
func (r *Row) question() key {
	k := r.key()
	k.spec = ""
	return k
}

// Summarize reduces rows to one summary for each task, length and spec, in the order in which those first stand in the rows; Task's samples are averaged. Intervals are
// drawn from the seed, and do not depend on the order of rows.
func Summarize(rows []Row, seed uint64) []Summary {
	type group struct {
		key
		metric string
	}
	dense := map[key]*Row{}
	groups := map[group][]*Row{}
	var order []group
	for i := range rows {
		r := &rows[i]
		k := r.question()
		if r.Spec == "dense" {
			dense[k] = r
		}
		k.spec = r.Spec
		if r.Kind == KindSample {
			k.sample, k.prompt = "", ""
		}
		g := group{key: k}
		if r.Answer != nil {
			g.metric = r.Metric
		}
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], r)
	}
	var out []Summary
	for _, g := range order {
		switch g.kind {
		case KindSample:
			out = append(out, summarizeSamples(groups[g], dense, seed))
		case KindText:
			out = append(out, summarizeText(groups[g][0], dense[groups[g][0].question()], seed))
		}
	}
	return out
}

func (r *Row) summary() Summary {
	return Summary{Kind: r.Kind, Model: r.Model, Device: r.Device, Task: r.Task, Size: r.Size, Label: r.Label, Spec: r.Spec}
}

func summarizeSamples(rows []*Row, dense map[key]*Row, seed uint64) Summary {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b *Row) int { return cmp.Or(cmp.Compare(a.Sample, b.Sample), cmp.Compare(a.Prompt, b.Prompt)) })
	s := rows[0].summary()
	s.Metric, s.Measured = rows[0].Metric, rows[0].Measured
	n := float64(len(rows))
	var scores, diffs []float64
	for _, r := range rows {
		scores = append(scores, r.Score)
		if d := dense[r.question()]; d != nil {
			diffs = append(diffs, r.Score-d.Score)
		}
		s.ContextMean += r.ContextMean / n
		s.Candidates += r.Candidates / n
		s.Kept += r.Kept / n
		s.Union += r.Union / n
		s.Pruned += r.Pruned / n
		s.Bytes += r.Bytes / n
		s.DenseBytes += r.DenseBytes / n
		s.Mass += r.Mass / n
		s.OutErr += r.OutErr / n
		s.Seconds += r.Seconds / n
	}
	score := Bootstrap(scores, seed)
	s.Score = &score
	if len(diffs) == len(rows) {
		diff := Bootstrap(diffs, seed)
		s.VsDense = &diff
	}
	return s
}

func summarizeText(r, dense *Row, seed uint64) Summary {
	s := r.summary()
	s.Sample, s.Text, s.Attention = r.Sample, r.Text, r.Attention
	nll, kl := Bootstrap(r.NLLSteps, seed), Bootstrap(r.KLSteps, seed)
	s.NLL, s.Divergence = &nll, &kl
	if dense != nil && dense.Text != nil && len(dense.NLLSteps) == len(r.NLLSteps) {
		diffs := make([]float64, len(r.NLLSteps))
		for i, x := range r.NLLSteps {
			diffs[i] = x - dense.NLLSteps[i]
		}
		diff := Bootstrap(diffs, seed)
		s.VsDense = &diff
	}
	return s
}
