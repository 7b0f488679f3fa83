package eval

import (
	"cmp"
	"math"
	"slices"

	"github.com/twilight-go/twilight/internal/eval/grid"
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

// Average is the task of summaries over all tasks, each task counting the same.
const Average = "average"

// Summarize reduces rows to one summary for each task, length and spec, in the order in which those first stand in the rows; a task's samples are averaged. Where there are
// several tasks of questions, their average at each length follows; needles asked at depths are a task of their own, and not in it. Intervals are drawn from the seed, and do not depend on the order of rows.
func Summarize(rows []Row, seed uint64) []Summary {
	type group struct {
		key
		metric string
	}
	dense := map[key]*Row{}
	groups := map[group][]*Row{}
	tasks := map[string]bool{}
	var order, averages []group
	add := func(order []group, g group, r *Row) []group {
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], r)
		return order
	}
	for i := range rows {
		r := &rows[i]
		k := r.question()
		if r.Spec == "dense" {
			dense[k] = r
		}
		k.spec = r.Spec
		switch r.Kind {
		case KindText:
			order = add(order, group{key: k}, r)
		case KindSample:
			k.sample, k.prompt = "", ""
			order = add(order, group{k, r.Metric}, r)
			if _, ok := grid.Depth(r.Sample); ok {
				continue
			}
			tasks[r.Task] = true
			k.task = Average
			averages = add(averages, group{key: k}, r)
		}
	}
	if len(tasks) > 1 {
		order = append(order, averages...)
	}
	var out []Summary
	for _, g := range order {
		if g.kind == KindText {
			out = append(out, summarizeText(groups[g][0], dense[groups[g][0].question()], seed))
			continue
		}
		s := summarizeSamples(groups[g], dense, seed)
		s.Task, s.Metric = g.task, g.metric
		out = append(out, s)
	}
	return out
}

func (r *Row) summary() Summary {
	return Summary{Kind: r.Kind, Model: r.Model, Device: r.Device, Task: r.Task, Size: r.Size, Label: r.Label, Spec: r.Spec}
}

func summarizeSamples(rows []*Row, dense map[key]*Row, seed uint64) Summary {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b *Row) int {
		return cmp.Or(cmp.Compare(a.Task, b.Task), cmp.Compare(a.Sample, b.Sample), cmp.Compare(a.Prompt, b.Prompt))
	})
	count := map[string]int{}
	for _, r := range rows {
		count[r.Task]++
	}
	s := rows[0].summary()
	s.Measured = rows[0].Measured
	var scores, diffs []float64
	for _, r := range rows {
		share := 1 / float64(len(count)*count[r.Task]) // of the average
		weight := share * float64(len(rows))           // 1, unless tasks have different numbers of samples
		scores = append(scores, weight*r.Score)
		if d := dense[r.question()]; d != nil {
			diffs = append(diffs, weight*(r.Score-d.Score))
		}
		s.ContextMean += share * r.ContextMean
		s.Candidates += share * r.Candidates
		s.Kept += share * r.Kept
		s.Union += share * r.Union
		s.Pruned += share * r.Pruned
		s.Bytes += share * r.Bytes
		s.DenseBytes += share * r.DenseBytes
		s.Mass += share * r.Mass
		s.OutErr += share * r.OutErr
		s.Seconds += share * r.Seconds
	}
	s.averageAudits(rows, count)
	score := Bootstrap(scores, seed)
	s.Score = &score
	if len(diffs) == len(rows) {
		diff := Bootstrap(diffs, seed)
		s.VsDense = &diff
	}
	return s
}

// averageAudits sets what the audits say of samples taken together: the mean of what they say of each, and the half-width that independent errors have. Samples that were not
// audited, or too seldom to say anything, are left out; where nothing is known of any, the half-width is 1. count is the samples of a task, which count as much as any other's.
func (s *Summary) averageAudits(rows []*Row, count map[string]int) {
	var sum, square, weight, all, weights float64
	for _, r := range rows {
		if r.Audits == 0 {
			continue
		}
		share := 1 / float64(count[r.Task])
		s.Audits += r.Audits
		all += share * r.AuditMass
		weights += share
		if r.AuditHalf < 1 {
			sum += share * r.AuditMass
			square += share * share * r.AuditHalf * r.AuditHalf
			weight += share
		}
	}
	switch {
	case weight > 0:
		s.AuditMass, s.AuditHalf = sum/weight, math.Sqrt(square)/weight
	case weights > 0:
		s.AuditMass, s.AuditHalf = all/weights, 1
	}
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
