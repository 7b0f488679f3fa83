package attention

import (
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// Runner shares work among workers: Run calls t.Do(i) once for every i in [0,n), concurrently and in any order, and returns when all are done. Workers is how many there are.
type Runner interface {
	Run(n int, t Task)
	Workers() int
}

// Task is what a Runner runs.
type Task interface{ Do(i int) }

// Serial is the Runner with one worker.
type Serial struct{}

// Run implements Runner.
func (Serial) Run(n int, t Task) {
	for i := range n {
		t.Do(i)
	}
}

// Workers implements Runner.
func (Serial) Workers() int { return 1 }

// Call is one KV head's attention in a decode step.
type Call struct {
	Pipeline *Pipeline
	Layer    int
	KVHead   int
	Head     Head
	Planes   []string  // names of Head.Planes
	First    int       // first token in sight, of a sliding window
	Exact    bool      // dense whatever the pipeline: a sliding-window layer
	Group    int       // query heads that share the KV head, at most MaxGroup
	Q        []float32 // [Group][Dim] queries after RoPE, scaled by 1/√Dim
	Out      []float32 // [Group][Dim]
	Stats    *Stats    // nil: not counted
	Memory   *Memory   // of the sequence, made ready by Prepare; nil will do for pipelines without Stateful selectors
}

// MaxGroup is the largest query group: one bit a head in a mask.
const MaxGroup = 32

// Exec runs the stages for many KV heads, of one sequence or of many, at once: Add the calls of a step, then Run. It keeps its scratch between steps, so that a
// step allocates nothing once the longest context was seen. Not safe for concurrent use.
type Exec struct {
	// OnStage, if set, is told how long each stage of a Run took, all calls together. Benchmarks set it; it costs two looks at the clock a stage.
	OnStage func(name string, took time.Duration)

	kern  Kernels
	run   Runner
	calls []bound // added since the last Run
	works []*Work // of the wave that is run
	items []item
	stage stage
	slots []slot
	binds map[*Pipeline]*binding
}

// bound is a call and where the cache keeps what its pipeline reads.
type bound struct {
	call Call
	bind *binding
}

type item struct {
	w      *Work
	lo, hi int
}

type stage uint8

const (
	stageScan stage = iota
	stageChoose
	stageEstimate
	stagePrune
	stageAttend
	stageMerge
	stageAudit
	stageDense // the dense pass of a measured sparse step
	stageCompare
)

// StageNames is what OnStage may name, in the order in which stages run; audit only where a spec asks for it, the last two only where statistics measure.
var StageNames = [...]string{
	stageScan: "scan", stageChoose: "choose", stageEstimate: "estimate", stagePrune: "prune", stageAttend: "attend", stageMerge: "merge", stageAudit: "audit",
	stageDense: "dense", stageCompare: "compare",
}

// How stages are cut into tasks.
const (
	scanPart     = 32  // blocks
	estimatePart = 128 // candidate pages
)

// waveBytes is how much scratch of sparse calls a worker's caches are to hold from one stage to the next: calls beyond that wait for the next wave.
const waveBytes = 1 << 20

// NewExec makes an executor of the given arithmetic and workers.
func NewExec(k Kernels, r Runner) *Exec {
	return &Exec{kern: k, run: r, slots: make([]slot, r.Workers()), binds: map[*Pipeline]*binding{}}
}

// Add takes a call into the next Run. It fails if the cache does not keep what the pipeline reads.
func (x *Exec) Add(c Call) error {
	if c.Group < 1 || c.Group > MaxGroup {
		return fmt.Errorf("attention: layer %d: %d query heads share a KV head, at most %d can", c.Layer, c.Group, MaxGroup)
	}
	b := x.binds[c.Pipeline]
	if c.Exact {
		b = nil
	} else if b == nil || !slices.Equal(b.names, c.Planes) {
		var err error
		if b, err = c.Pipeline.bindTo(c.Planes); err != nil {
			return err
		}
		x.binds[c.Pipeline] = b
	}
	for i := 0; !c.Exact && i < len(c.Pipeline.chain); i++ {
		if _, ok := c.Pipeline.chain[i].Selector.(Stateful); ok && c.Memory.find(c.Pipeline.chain[i].memory) == nil {
			return fmt.Errorf("attention: %s: the call brings no memory of its sequence for %s, expected one made ready by Prepare", c.Pipeline.spec, c.Pipeline.chain[i].text)
		}
	}
	if p := c.Pipeline; !c.Exact && p.ensured != "" && c.Memory.find(p.ensured) == nil {
		return fmt.Errorf("attention: %s: the call brings no memory of its sequence for ensure=, expected one made ready by Prepare", p.spec)
	}
	x.calls = append(x.calls, bound{c, b})
	return nil
}

func (w *Work) prepare(c Call, b *binding, k Kernels) {
	w.call, w.bind, w.Kern, w.Head, w.Group, w.Q = c, b, k, c.Head, c.Group, c.Q
	w.hasFar, w.link, w.odds, w.bias = false, 0, w.odds[:0], w.bias[:0]
	w.sparse = !c.Exact && c.Pipeline.Sparse(c.Layer, c.Head.N)
	w.planAudit()
	if !w.sparse {
		w.room(w.partCount(true))
		return
	}
	pages := c.Head.Pages()
	w.whole, w.some, w.lanes = grow(w.whole, pages), grow(w.some, pages), grow(w.lanes, pages*w.Group)
	clear(w.whole)
	clear(w.some)
	w.uniform, w.mixed, w.judged, w.cuts, w.weighings = nil, false, false, c.Pipeline.cuts(&w.call), w.weighings[:0]
	w.tmp = grow(w.tmp, TmpBytes(w.Group, c.Head.Dim)*(pages/estimatePart+1))
	if c.Pipeline.shares {
		w.queries = grow(w.queries, c.Head.Blocks()*ReadyBytes(w.Group, c.Head.Dim))
	}
	w.reach = grow(w.reach, w.Group)
	for g := range w.reach {
		sum := float32(0)
		if c.Pipeline.reach > 0 {
			for _, x := range c.Q[g*c.Head.Dim:][:c.Head.Dim] {
				sum += max(x, -x)
			}
		}
		w.reach[g] = sum * c.Pipeline.reach
	}
	w.count.b0, w.count.b1 = grow(w.count.b0, w.Group), grow(w.count.b1, w.Group)
	w.count.held = grow(w.count.held, w.Group)
	w.count.mass, w.count.diff = grow(w.count.mass, w.Group), grow(w.count.diff, w.Group)
	w.count.selBytes = 0
	for g := range w.count.held {
		w.count.held[g] = 1
	}
	w.scoreRoom()
}

// scoreRoom makes room for the scores of the selector at work.
func (w *Work) scoreRoom() {
	w.scoreLD = w.selector().Scores(w.Head.N)
	w.scores = grow(w.scores, w.Group*w.scoreLD)
}

// Run runs the added calls and forgets them. Calls are independent of each other, so they go in waves whose scratch stays in the caches from stage to stage.
func (x *Exec) Run() {
	for at := 0; at < len(x.calls); {
		n := x.wave(at)
		for len(x.works) < n {
			x.works = append(x.works, &Work{})
		}
		works := x.works[:n]
		for i, w := range works {
			w.prepare(x.calls[at+i].call, x.calls[at+i].bind, x.kern)
		}
		x.stages(works)
		at += n
	}
	x.calls = x.calls[:0]
}

// wave is how many calls from at on run together: those whose weights fit the caches, and at least one a worker.
func (x *Exec) wave(at int) (n int) {
	workers, size := x.run.Workers(), 0
	for _, b := range x.calls[at:] {
		if c := &b.call; !c.Exact && c.Pipeline.Sparse(c.Layer, c.Head.N) {
			size += 4 * c.Group * c.Head.N
		}
		if n >= workers && size > waveBytes*workers {
			break
		}
		n++
	}
	return n
}

// stages runs a wave.
func (x *Exec) stages(works []*Work) {
	sparse := false
	for _, w := range works {
		sparse = sparse || w.sparse
	}
	if sparse {
		for i := 0; x.selects(works, i); i++ {
		}
		for _, w := range works {
			if w.sparse && w.call.Pipeline.est != nil {
				x.split(w, len(w.Pages), estimatePart)
			}
		}
		x.flush(stageEstimate)
		for _, w := range works {
			if w.sparse {
				x.split(w, 1, 1)
			}
		}
		x.flush(stagePrune)
	}
	for _, w := range works {
		x.split(w, w.partCount(!w.sparse), 1)
	}
	x.flush(stageAttend)
	for _, w := range works {
		x.split(w, 1, 1)
	}
	x.flush(stageMerge)
	x.audit(works)
	x.measure(works)
	for _, w := range works {
		if s := w.call.Stats; s != nil {
			s.add(w)
		}
	}
}

// selects runs selector i of each chain, and reports whether there was any.
func (x *Exec) selects(works []*Work, i int) (any bool) {
	for _, w := range works {
		if w.link == i && w.sparse {
			any = true
			if w.scoreLD > 0 {
				x.split(w, w.Head.Blocks(), scanPart)
			}
		}
	}
	x.flush(stageScan)
	for _, w := range works {
		if w.link == i && w.sparse {
			x.split(w, 1, 1)
		}
	}
	x.flush(stageChoose)
	return any
}

// choose lets the selector at work propose, and makes ready for the next one or for what follows the last.
func (w *Work) choose() {
	if w.link == 0 && w.call.Pipeline.est != nil {
		w.fetchUncoded()
	}
	w.selector().Choose(w)
	if w.link+1 < len(w.call.Pipeline.chain) {
		w.nextLink()
		w.scoreRoom()
		return
	}
	w.gather()
	if w.call.Pipeline.prun != nil {
		w.refer()
	}
}

// audit runs the audits that are due, and does densely the steps whose mass was not enough.
func (x *Exec) audit(works []*Work) {
	for _, w := range works {
		if w.audit.due {
			x.split(w, 1, 1)
		}
	}
	if len(x.items) == 0 {
		return
	}
	x.flush(stageAudit)
	for _, s := range [...]stage{stageAttend, stageMerge} {
		for _, w := range works {
			if !w.audit.due || !w.audit.failed {
				continue
			}
			n := 1
			if s == stageAttend {
				w.sparse, w.hasFar = false, false
				n = w.partCount(true)
				w.room(n)
			}
			x.split(w, n, 1)
		}
		x.flush(s)
	}
}

// split queues [0,n) of w in tasks of at most per.
func (x *Exec) split(w *Work, n, per int) {
	for lo := 0; lo < n; lo += per {
		x.items = append(x.items, item{w, lo, min(n, lo+per)})
	}
}

func (x *Exec) flush(s stage) {
	if len(x.items) == 0 {
		return
	}
	var start time.Time
	if x.OnStage != nil {
		start = time.Now()
	}
	x.stage = s
	x.run.Run(len(x.items), x)
	x.items = x.items[:0]
	if x.OnStage != nil {
		x.OnStage(StageNames[s], time.Since(start))
	}
}

// Do implements Task: one task of the stage in force. Called by the Runner only.
func (x *Exec) Do(i int) {
	it := x.items[i]
	w := it.w
	switch x.stage {
	case stageScan:
		w.selector().Scan(w, it.lo, it.hi)
	case stageChoose:
		w.choose()
	case stageEstimate:
		w.estimate(it.lo, it.hi)
	case stagePrune:
		w.prune()
	case stageAttend:
		s := x.take()
		w.attend(it.lo, !w.sparse, s)
		s.busy.Store(false)
	case stageMerge:
		w.finish()
	case stageAudit:
		w.auditStep()
	case stageDense:
		s := x.take()
		w.attend(it.lo, true, s)
		s.busy.Store(false)
	case stageCompare:
		s := x.take()
		w.compare(s)
		s.busy.Store(false)
	}
}

// take finds a slot that no other task has; there are as many as workers.
func (x *Exec) take() *slot {
	for {
		for i := range x.slots {
			if s := &x.slots[i]; s.busy.CompareAndSwap(false, true) {
				return s
			}
		}
	}
}

// estimate runs the estimator over candidate pages [lo,hi) and, for a pruner, weighs what it says.
func (w *Work) estimate(lo, hi int) {
	if w.call.Pipeline.prun != nil {
		w.estimateWeights(lo, hi)
	} else {
		w.estimateLogits(lo, hi)
	}
}

// prune decides the survivors of every query head and flattens what is to be read.
func (w *Work) prune() {
	p, n := w.call.Pipeline, len(w.Pages)
	if p.prun != nil {
		w.sumWeights()
	}
	if p.spec.Exact > 0 {
		w.heavy = grow(w.heavy, w.Group*n)
	}
	for g := range w.Group {
		keep := w.keep[g*n:][:n]
		if p.prun == nil {
			w.keepAll(g)
			w.count.b1[g] = countLanes(keep)
		} else {
			w.count.b1[g] = w.pruneHead(g, keep)
		}
	}
	union := w.attendsUnion()
	w.bodyEnds, w.count.body = [3]int{}, 0
	if p.spec.Exact > 0 {
		w.collect(union, w.heavy)
		w.collectBody(union)
	} else {
		w.collect(union, w.keep)
		if p.tail && p.prun != nil {
			for g := range w.Group {
				w.count.held[g] = w.estimatedMass(g, union)
			}
		}
	}
	w.room(w.partCount(false))
}

// pruneHead decides the survivors of query head g and, in precision by weight, which of them are read exactly. The newest page is always kept, and read exactly. It returns how many survive.
func (w *Work) pruneHead(g int, keep []uint16) (kept int) {
	p, n, weights, total := w.call.Pipeline, len(w.Pages), w.Logits(g), w.total[g]
	newest := w.cand[g*n+n-1]
	w.searched, w.heldBy = search{}, nil
	if c, ok := p.prun.(cutter); ok && p.spec.Exact > 0 {
		if cut, ok := c.cut(w, g, weights, total, coarseGrid); ok {
			heavy := w.heavy[g*n:][:n]
			much := max(cut, w.heavyCut(g, p.spec.Exact))
			pages := w.heldBy
			if pages == nil {
				pages = w.listPages(w.cand[g*n:][:n])
			}
			kept = w.Kern.SplitLanes(keep, heavy, weights, pages, cut, much)
			kept += bits.OnesCount16(newest) - bits.OnesCount16(keep[n-1])
			keep[n-1], heavy[n-1] = newest, newest
			return kept
		}
	}
	p.prun.Prune(w, g, weights, total, keep)
	andMasks(keep, w.cand[g*n:][:n]) // a damaged logit must not make a survivor of what was no candidate
	keep[n-1] = newest
	if p.spec.Exact > 0 {
		heavy := w.heavy[g*n:][:n]
		w.Kern.Lanes(heavy, weights, w.heavyCut(g, p.spec.Exact))
		andMasks(heavy, keep)
		heavy[n-1] = newest
	}
	return countLanes(keep)
}

// attendsUnion reports whether every head of the group attends to what any of them keeps.
func (w *Work) attendsUnion() bool { return w.call.Pipeline.spec.Union || w.Group == 1 }

// finish merges the parts into the output and makes up for the tail.
func (w *Work) finish() {
	dim, n, p := w.Head.Dim, w.partCount(!w.sparse), w.call.Pipeline
	if w.sparse && p.tail && p.spec.Exact > 0 {
		w.addTail(w.attendsUnion())
	}
	var values []float32
	if w.sparse && p.tail && p.spec.Exact == 0 {
		values = w.valueSums()
	}
	var lse [MaxGroup]float32
	for g := range w.Group {
		out := w.call.Out[g*dim:][:dim]
		lse[g] = w.merge(out, g, n, w.hasFar)
		if values != nil {
			w.compensate(out, w.count.held[g], values)
		}
	}
	if w.sparse && w.judged {
		w.selector().Selector.(judge).judge(w, w.lateChange(lse[:]))
	}
}

// compensate replaces o by held·o + (1−held)·v̄: what was pruned counts as its estimated mass times the mean value (SparQ's tail, arXiv 2312.04985). values is the sum of all.
func (w *Work) compensate(out []float32, held float32, values []float32) {
	if held < 1 {
		w.Kern.Scale(out, held)
		w.Kern.AddScaled(out, values, (1-held)/float32(w.Head.N))
	}
}

// valueSums is the sum of all values, in scratch.
func (w *Work) valueSums() []float32 {
	sum := w.Scratch(w.Head.Dim)
	clear(sum)
	w.Kern.AddRows(sum, as[float32](w.Head.Planes[w.bind.sum]), w.Head.Table[:w.Head.Blocks()])
	return sum
}
