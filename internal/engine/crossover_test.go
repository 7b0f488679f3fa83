package engine

import (
	"testing"

	"github.com/twilight-go/twilight/attention"
)

func TestResolve(t *testing.T) {
	auto := attention.MustNew("twilight+when:min-context=auto")
	for _, dev := range []string{"cpu", "reference"} {
		r := newRig(t, dev, "llama", Config{Context: 64})
		if p, err := Resolve(r.model, sparsely); err != nil || p != sparsely {
			t.Errorf("%s: a pipeline with a number became %v, %v", dev, p.Spec(), err)
		}
		p, err := Resolve(r.model, auto)
		if err != nil {
			t.Fatal(err)
		}
		n := p.Spec().MinContext
		if n < attention.DefaultMinContext || dev == "reference" && n != attention.DefaultMinContext {
			t.Errorf("%s: sparse from %d tokens on", dev, n)
		}
		if n > 0 && (p.Sparse(2, n-1) || !p.Sparse(2, n)) {
			t.Errorf("%s: %s is sparse at %d tokens, or not at %d", dev, p.Spec(), n-1, n)
		}
		if again, err := Resolve(r.model, auto); err != nil || again.Spec().MinContext != n {
			t.Errorf("%s: %d tokens, then %d: %v", dev, n, again.Spec().MinContext, err)
		}
	}
}
