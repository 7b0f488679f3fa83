package attention

// Stats accumulates what sparse attention did for one sequence (or one evaluation): per layer and head, how many tokens were in sight, proposed, kept and read. Dense
// steps are counted by layer too, but not into the means, which speak of the sparse layers. Not safe for concurrent use; one step at a time adds to it.
type Stats struct {
	// Measure asks for the true kept mass and the output error of every sparse step. It costs a dense pass.
	Measure bool
	Layers  []LayerStats
}

// LayerStats is one layer's sums over steps.
type LayerStats struct {
	Dense int64       // dense steps, counted per KV head
	Heads []HeadStats // per query head
	KV    []KVStats   // per KV head
}

// HeadStats is one query head's sums over sparse steps.
type HeadStats struct {
	Steps    int64
	N        int64   // tokens in sight
	B0       int64   // candidates
	B1       int64   // survivors of the head's own
	Measured int64   // steps with a measured mass
	Mass     float64 // Σ true mass of what was attended
	OutErr   float64 // Σ ‖o − o_dense‖/‖o_dense‖
	Audited  int64   // steps with an estimated mass (Spec.Audit)
	Audit    float64 // Σ estimated mass of what sparse attention attended to
	AuditVar float64 // Σ variance of the estimates
}

// KVStats is one KV head's sums over sparse steps.
type KVStats struct {
	Steps     int64
	N         int64
	Candidate int64 // union of the group's candidates
	Union     int64 // union of the group's survivors that exact attention reads
	Body      int64 // and of those that are read by codes of their values
	Bytes     Bytes
	Short     int64 // steps made dense because an audit found too little mass (Spec.Ensure); LayerStats.Dense counts them too
	Audit     AuditStats
}

// Bytes is what the stages of a step read.
type Bytes struct{ Select, Estimate, Attend int64 }

// Total is the sum over the stages.
func (b Bytes) Total() int64 { return b.Select + b.Estimate + b.Attend }

func (b *Bytes) add(o Bytes) {
	b.Select += o.Select
	b.Estimate += o.Estimate
	b.Attend += o.Attend
}

// at makes room for a layer with that many KV heads.
func (s *Stats) at(layer, kv, group int) *LayerStats {
	for len(s.Layers) <= layer {
		s.Layers = append(s.Layers, LayerStats{})
	}
	l := &s.Layers[layer]
	for len(l.KV) <= kv {
		l.KV = append(l.KV, KVStats{})
	}
	for len(l.Heads) < (kv+1)*group {
		l.Heads = append(l.Heads, HeadStats{})
	}
	return l
}

// Counted is what a device with an executor of its own counted of one KV head's sparse step.
type Counted struct {
	N               int   // tokens in sight
	Candidates, Own []int // by query head of the group: tokens proposed, and survivors of the head's own
	Union, Body     int   // survivors of the group that were read exactly, and by codes of their values
	Bytes           Bytes
}

// Count adds a sparse step of a KV head that some other executor ran.
func (s *Stats) Count(layer, kvHead int, c *Counted) {
	group := len(c.Own)
	l := s.at(layer, kvHead, group)
	for g := range group {
		h := &l.Heads[kvHead*group+g]
		h.Steps++
		h.N += int64(c.N)
		h.B0 += int64(c.Candidates[g])
		h.B1 += int64(c.Own[g])
	}
	k := &l.KV[kvHead]
	k.Steps++
	k.N += int64(c.N)
	k.Union += int64(c.Union)
	k.Body += int64(c.Body)
	k.Bytes.add(c.Bytes)
}

// CountDense adds a dense step of a KV head that some other executor ran.
func (s *Stats) CountDense(layer, kvHead, group int) { s.at(layer, kvHead, group).Dense++ }

func (s *Stats) add(w *Work) {
	c := &w.call
	l := s.at(c.Layer, c.KVHead, w.Group)
	if w.audit.valid {
		l.audited(w)
	}
	if !w.sparse {
		l.Dense++
		if w.audit.failed {
			l.KV[c.KVHead].Short++
		}
		return
	}
	for g := range w.Group {
		h := &l.Heads[c.KVHead*w.Group+g]
		h.Steps++
		h.N += int64(w.Head.N)
		h.B0 += int64(w.count.b0[g])
		h.B1 += int64(w.count.b1[g])
		if s.Measure {
			h.Measured++
			h.Mass += w.count.mass[g]
			h.OutErr += w.count.diff[g]
		}
	}
	k := &l.KV[c.KVHead]
	k.Steps++
	k.N += int64(w.Head.N)
	k.Candidate += int64(w.count.cand)
	k.Union += int64(w.count.union)
	k.Body += int64(w.count.body)
	b := Bytes{Select: int64(w.count.selBytes), Attend: int64(w.count.union)*int64(w.Head.Dim)*4 + int64(w.count.body)*int64(w.Head.Dim+4)}
	if e := c.Pipeline.est; e != nil {
		b.Estimate = int64(len(w.Pages)) * int64(e.PageBytes(w.Head.Dim))
	}
	k.Bytes.add(b)
}

// Summary is the means of a Stats over its sparse layers and heads.
type Summary struct {
	Steps      int64   // sparse steps, counted per query head
	Context    float64 // mean tokens in sight
	Candidate  float64 // mean candidates a query head
	Kept       float64 // mean survivors a query head
	Union      float64 // mean tokens that exact attention read per KV head
	Body       float64 // mean tokens read by codes of their values per KV head
	Pruned     float64 // 1 − Kept/Context
	Mass       float64 // mean true mass of what was attended, if measured; else 0
	OutErr     float64 // mean relative output error, if measured
	BytesStep  float64 // mean bytes read per KV head and step by all stages
	DenseStep  float64 // what dense attention would have read
	Audits     int64   // audits, counted per KV head
	Short      int64   // steps made dense by what audits said, counted per KV head
	AuditMass  float64 // the audits' estimate of Mass, the mean over query heads and steps; see AuditedMass
	AuditError float64 // half-width of its 95 % interval
}

// Summary reduces s. dim is the head size, for the dense bytes.
func (s *Stats) Summary(dim int) Summary {
	var h HeadStats
	var k KVStats
	for _, l := range s.Layers {
		for _, x := range l.Heads {
			h.Steps += x.Steps
			h.N += x.N
			h.B0 += x.B0
			h.B1 += x.B1
			h.Measured += x.Measured
			h.Mass += x.Mass
			h.OutErr += x.OutErr
		}
		for _, x := range l.KV {
			k.Short += x.Short
			k.Steps += x.Steps
			k.N += x.N
			k.Union += x.Union
			k.Body += x.Body
			k.Bytes.add(x.Bytes)
		}
	}
	mass, half, audits := s.AuditedMass()
	if h.Steps == 0 {
		return Summary{Audits: audits, Short: k.Short, AuditMass: mass, AuditError: half}
	}
	n, m := float64(h.Steps), float64(max(h.Measured, 1))
	return Summary{
		Steps: h.Steps, Context: float64(h.N) / n, Candidate: float64(h.B0) / n, Kept: float64(h.B1) / n, Union: float64(k.Union) / float64(k.Steps), Body: float64(k.Body) / float64(k.Steps),
		Pruned: 1 - float64(h.B1)/float64(h.N), Mass: h.Mass / m, OutErr: h.OutErr / m,
		BytesStep: float64(k.Bytes.Total()) / float64(k.Steps), DenseStep: float64(k.N) / float64(k.Steps) * float64(dim) * 4,
		Audits: audits, Short: k.Short, AuditMass: mass, AuditError: half,
	}
}
