package cuda

import (
	"strings"
	"testing"

	"github.com/twilight-go/twilight/attention"
)

func TestModes(t *testing.T) {
	for spec, want := range map[string]Mode{
		"dense":          {Dense: true},
		"twilight-paper": {Keep: 0.25, Reach: 1, ExactMass: 0.9, Mass: 0.9, PerHead: true, TokenCodes: true, DenseBelow: 512},
		"twilight-fast":  {Keep: 0.5, Pages: 256, Reach: 0.2, Shared: true, ExactMass: 0.3, Mass: 0.9, Tail: true, DenseBelow: 512},
		"full+block-range+top-p:0.95,union,exact=0.3,tail=mean":                       {Keep: 1, ExactMass: 0.3, Mass: 0.95, Tail: true, DenseBelow: 512},
		"quest:budget=1024,reach=0.25,shared+int4+top-p:0.9,union+when:min-context=0": {Pages: 64, Reach: 0.25, Shared: true, ExactMass: 0.9, Mass: 0.9, TokenCodes: true, DenseBelow: 1},
		"quest:keep=0.5,least=4096+int4+top-p:0.8+when:min-context=auto":              {Keep: 0.5, Pages: 256, Reach: 1, ExactMass: 0.8, Mass: 0.8, PerHead: true, TokenCodes: true, MinContext: 512},
	} {
		got, err := ModeOf(attention.MustNew(spec))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for spec, want := range map[string]string{
		"h2o": "its selector", "quest": "its estimator", "quest+int8+top-p": "its estimator", "quest+int4+top-k:k=64": "its pruner", "quest:page=32+int4+top-p": "page of quest", "quest:middle,channels=16+block-range+top-p": "channels of quest",
		"streaming>quest+int4+top-p": "chains", "quest+int4+top-p:0.9,exact=0.3": "union only", "full+block-range:bits=2+top-p": "4 bits",
	} {
		if _, err := ModeOf(attention.MustNew(spec)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want an error about %q", spec, err, want)
		}
	}
}
