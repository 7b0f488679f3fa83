package attention

import "math"

// normal95 is the normal distribution's quantile of two-sided 95 % intervals.
const normal95 = 1.959964

// student95 is Student's for that many degrees of freedom, by its expansion.
func student95(freedom float64) float64 {
	z, f := normal95, freedom
	return z + (z*z*z+z)/(4*f) + (5*math.Pow(z, 5)+16*z*z*z+3*z)/(96*f*f)
}

// AuditStats is one KV head's audits: sums of the estimated mass, a mean over the group's query heads.
type AuditStats struct {
	N        int64   // audits
	Sum      float64 // Σ x
	Squares  float64 // Σ x²
	Variance float64 // Σ variance of each estimate, from the pages drawn
}

func (a *AuditStats) add(b AuditStats) {
	a.N += b.N
	a.Sum += b.Sum
	a.Squares += b.Squares
	a.Variance += b.Variance
}

// scatter is Σ (x−x̄)².
func (a *AuditStats) scatter() float64 {
	return max(a.Squares-a.Sum*a.Sum/float64(max(a.N, 1)), 0)
}

// variance is that of the mean of the audits as an estimate for the mean of as many steps, whose estimates scatter by square about it. Steps were drawn, and then pages of the
// drawn steps. Audits stand at equal distances; taking them as drawn at random is too careful where neighbouring steps are alike, as they are.
func (a *AuditStats) variance(steps int64, square float64) float64 {
	n, f := float64(a.N), float64(a.N)/float64(steps)
	return (1-f)*square/n + f*a.Variance/(n*n)
}

// audited takes in the outcome of an audit.
func (l *LayerStats) audited(w *Work) {
	for g, e := range w.audit.heads[:w.Group] {
		h := &l.Heads[w.call.KVHead*w.Group+g]
		h.Audited++
		h.Audit += e.mean
		h.AuditVar += e.variance
	}
	e := w.audit.group
	l.KV[w.call.KVHead].Audit.add(AuditStats{1, e.mean, e.mean * e.mean, e.variance})
}

// AuditedMass is the audits' estimate of the mean over query heads and steps of the mass that sparse attention holds, the half-width of its 95 % interval, and the number of
// audits, counted by KV head. The half-width is 1, nothing is known, where there are too few audits to say. A step that was made dense for lack of mass counts with what it lacked.
func (s *Stats) AuditedMass() (mean, half float64, n int64) {
	var all AuditStats
	var steps int64
	var within, freedom float64 // of all heads about their own means
	missing := false            // some head was never audited: all steps are then taken as one population
	for _, l := range s.Layers {
		for i := range l.KV {
			if k := &l.KV[i]; k.Steps+k.Short > 0 {
				steps += k.Steps + k.Short
				all.add(k.Audit)
				within += k.Audit.scatter()
				freedom += float64(max(k.Audit.N-1, 0))
				missing = missing || k.Audit.N == 0
			}
		}
	}
	if all.N == 0 {
		return 0, 0, 0
	}
	if missing {
		within, freedom = all.scatter(), float64(all.N-1)
	}
	if all.N < steps && freedom == 0 {
		return all.Sum / float64(all.N), 1, all.N
	}
	square, variance := within/max(freedom, 1), 0.0
	if missing {
		mean, variance = all.Sum/float64(all.N), all.variance(steps, square)
	} else {
		for _, l := range s.Layers {
			for i := range l.KV {
				k := &l.KV[i]
				if k.Audit.N == 0 {
					continue
				}
				share, own := float64(k.Steps+k.Short)/float64(steps), square
				if k.Audit.N > 1 {
					own = k.Audit.scatter() / float64(k.Audit.N-1)
				}
				mean += share * k.Audit.Sum / float64(k.Audit.N)
				variance += share * share * k.Audit.variance(k.Steps+k.Short, own)
			}
		}
	}
	quantile := normal95
	if all.N < steps {
		quantile = student95(freedom)
	}
	return mean, min(quantile*math.Sqrt(variance), 1), all.N
}
