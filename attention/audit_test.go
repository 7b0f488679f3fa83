package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

const always = "+when:dense-layers=0,min-context=0"

// auditedSpecs are kinds of steps that an audit must tell the mass of: candidates of all heads or of each, estimated or not, by weight, drawn at odds, summarised.
var auditedSpecs = []string{
	"quest:keep=0.25,shared",
	"quest:keep=0.25",
	"quest:keep=0.25+int4+top-p:0.9",
	"quest:keep=0.5,reach=0.2,shared,middle+block-range+top-p:0.9,union,exact=0.3,tail=mean",
	"full+page-range:bits=4+top-p:0.8,exact=0.2",
	"magicpig:bits=4,tables=9",
	"magicpig:bits=4,tables=9+int4+top-p:0.9",
	"double-p:size=32,p=0.3,refine=0.5",
	"streaming:sink=20,window=300>quest:keep=0.6+int4+top-k:k=60",
}

// Over what is drawn, an audit's estimates have the true mass as their mean, and scatter as they say.
func TestAuditUnbiased(t *testing.T) {
	b := newBatch(shape{3, 32, []int{1300}})
	const times = 300
	for _, spec := range auditedSpecs {
		t.Run(spec, func(t *testing.T) {
			stats := Stats{Measure: true}
			x := NewExec(Portable{}, Serial{})
			call := b.calls(1, MustNew(spec+always), func(int) *Stats { return &stats })[0]
			runAll(t, x, []Call{call})
			w := x.works[0]
			truth := 0.0
			for g := range w.Group {
				truth += w.count.mass[g] / float64(w.Group)
			}
			call.Pipeline, call.Stats = MustNew(spec+always+",audit=1"), nil
			runAll(t, x, []Call{call})
			var sum, squares, variance float64
			var heads [3]float64
			for i := range times {
				w.call.Layer = i
				w.auditStep()
				e := w.audit.group
				sum += e.mean / times
				squares += (e.mean - truth) * (e.mean - truth) / times
				variance += e.variance / times
				for g := range heads {
					heads[g] += w.audit.heads[g].mean / times
				}
			}
			t.Logf("true %.5f, mean %.5f, scatter %.5f, stated %.5f", truth, sum, math.Sqrt(squares), math.Sqrt(variance))
			if d := math.Abs(sum - truth); !(d <= 4*math.Sqrt(squares/times)+1e-5) {
				t.Errorf("the estimates' mean is %.5f, the mass is %.5f", sum, truth)
			}
			if r := variance / squares; !(r > 0.6 && r < 1.6) {
				t.Errorf("the estimates scatter by %.5f, they state %.5f", math.Sqrt(squares), math.Sqrt(variance))
			}
			mean := (heads[0] + heads[1] + heads[2]) / 3
			if math.Abs(mean-sum) > 1e-9 {
				t.Errorf("the group's estimate is %v, its heads' %v", sum, mean)
			}
		})
	}
}

// The stated interval of a request's mean mass covers it in at least nine of ten requests, whether all steps are audited or some, and nowhere much less often.
func TestAuditCoverage(t *testing.T) {
	const requests, steps = 40, 24 // of 20 an interval that covers 92 % would now and then have less than 85 %: short runs have half of the specs instead
	specs := auditedSpecs[:4]
	if testing.Short() {
		specs = auditedSpecs[2:4]
	}
	texts := newBatch(shape{2, 32, []int{1100, 1000}})
	all, inside := 0, 0
	for _, spec := range specs {
		for _, every := range []int{1, 4} {
			p := MustNew(spec + always + fmt.Sprintf(",audit=%d", every))
			x := NewExec(Portable{}, Serial{})
			covered, off, stated := 0, 0.0, 0.0
			rng := rand.New(rand.NewPCG(5, uint64(every)))
			for r := range requests {
				stats := Stats{Measure: true}
				calls := texts.calls(1, p, func(int) *Stats { return &stats })
				for range steps {
					for i := range calls {
						c := &calls[i]
						c.Layer, c.Head.N, c.Q = r%7, c.Head.N-1, texts.texts[i].queries(rng, 2)
					}
					runAll(t, x, calls)
				}
				s := stats.Summary(32)
				if math.Abs(s.AuditMass-s.Mass) <= s.AuditError {
					covered++
				}
				off += (s.AuditMass - s.Mass) / float64(requests)
				stated += s.AuditError / float64(requests)
			}
			t.Logf("%s, every %d: %d of %d covered, off by %.5f on average, stated ±%.5f", spec, every, covered, requests, off, stated)
			all += requests
			inside += covered
			if covered*100 < requests*85 {
				t.Errorf("%s, every %d: the interval covers the mass in %d of %d requests", spec, every, covered, requests)
			}
			if math.Abs(off) > 0.5*stated {
				t.Errorf("%s, every %d: the estimate is off by %.5f on average, by a stated ±%.5f", spec, every, off, stated)
			}
		}
	}
	if inside*10 < all*9 {
		t.Errorf("the interval covers the mass in %d of %d requests", inside, all)
	}
}

// An audit changes no output and allocates nothing; where everything is attended to it says so.
func TestAuditIsOnlooker(t *testing.T) {
	b := newBatch(shape{3, 32, []int{700, 300, 17}})
	x := NewExec(Portable{}, Serial{})
	for _, spec := range append([]string{"full+int4+top-p:1", "full"}, auditedSpecs...) {
		want := b.calls(1, MustNew(spec+always), func(int) *Stats { return nil })
		runAll(t, x, want)
		var stats Stats
		got := b.calls(1, MustNew(spec+always+",audit=1,audit-pages=8"), func(int) *Stats { return &stats })
		runAll(t, x, got)
		for i := range got {
			requireSame(t, spec, got[i].Out, want[i].Out)
		}
		if n := testing.AllocsPerRun(3, func() { runAll(t, x, got) }); n != 0 {
			t.Errorf("%s: %v allocations a step", spec, n)
		}
		s := stats.Summary(32)
		if want := int64(5 * len(got)); s.Audits != want { // AllocsPerRun runs once more than it is told
			t.Errorf("%s: %d audits, want %d", spec, s.Audits, want)
		}
		if strings.HasPrefix(spec, "full") && !strings.Contains(spec, "0.8") && (math.Abs(s.AuditMass-1) > 1e-5 || s.AuditError != 0) {
			t.Errorf("%s: mass %v ± %v; everything is attended to", spec, s.AuditMass, s.AuditError)
		}
	}
}
