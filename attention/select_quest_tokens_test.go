package attention

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/internal/tensor"
)

// A token that stands out is found where another of its page stands out the other way, so that the page's middle shows nothing of either.
func TestQuestChannels(t *testing.T) {
	const dim, n, group, token = 64, 6*BlockTokens + 40, 2, 2*BlockTokens + 5*PageTokens + 7
	rng := rand.New(rand.NewPCG(11, 3))
	for _, c := range []struct {
		spec string
		held bool
	}{
		{"quest:keep=0.1,reach=0,shared,middle", false},
		{"quest:keep=0.1,shared,middle,channels=8", true},
		{"quest:keep=0.1,middle,channels=24", true},
		{"quest:keep=0.1,shared,middle,channels=64", true},
	} {
		p := MustNew(c.spec + "+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:min-context=0,dense-layers=0")
		x := newText(rng, n, dim)
		q := x.queries(rng, group)
		for i := range 8 { // eight channels that stand together, as those of a line do
			at := 16 + i
			q[dim+at] = 1
			for page := token / PageTokens * PageTokens; page < token/PageTokens*PageTokens+PageTokens; page++ {
				x.kh[page*dim+at] = 0
			}
			x.kh[token*dim+at], x.kh[(token+1)*dim+at] = tensor.F32ToF16(4), tensor.F32ToF16(-4)
		}
		x.k = widen(x.kh, dim)
		head, names := x.place(rng, p.Planes())
		exec := NewExec(Portable{}, Serial{})
		if err := exec.Add(Call{Pipeline: p, Layer: 2, Head: head, Planes: names, Group: group, Q: q, Out: make([]float32, group*dim)}); err != nil {
			t.Fatal(err)
		}
		exec.Run()
		if held := slices.Contains(exec.works[0].Pages, int32(token/PageTokens)); held != c.held {
			t.Errorf("%s: the token's page is proposed: %v, want %v", c.spec, held, c.held)
		}
	}
	for spec, want := range map[string]string{
		"quest:channels=8":           "channels=8: expected middle",
		"quest:middle,channels=12":   "channels=12: expected a multiple of 8",
		"quest:middle,channels=1000": "channels=1000: expected a whole number from 0 to 256",
	} {
		s, err := Parse(spec)
		if err == nil {
			_, err = New(s)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
}
