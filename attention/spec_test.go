package attention

import (
	"strings"
	"testing"
)

func TestSpecRoundTrip(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"dense", "dense"},
		{"full", "full"},
		{"quest", "quest"},
		{"streaming:sink=4,window=1020", "streaming:sink=4,window=1020"},
		{"quest:page=16,keep=0.25+int4+top-p:0.95", "quest:page=16,keep=0.25+int4+top-p:0.95"},
		{"full+int4+top-p:1", "full+int4+top-p:1"},
		{"full+page-range:bits=2+top-p:0.9,tail=mean,union", "full+page-range:bits=2+top-p:0.9,union,tail=mean"},
		{"twilight", "full+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0"},
		{"twilight-paper+when:min-context=0,dense-layers=0", "quest:keep=0.25+int4+top-p:0.9+when:dense-layers=0,min-context=0"},
		{"dense+when:min-context=64", "dense+when:min-context=64"},
		{"twilight+when:min-context=auto", "full+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0,min-context=auto"},
		{" full+exact+top-k:keep=0.1 ", "full+exact+top-k:keep=0.1"},
		{"quest+none+none", "quest"},
		{"quest+when:ensure=0.850,audit=16", "quest+when:audit=16,ensure=0.85"},
		{"quest+int4+top-p+when:audit-pages=16,audit=0", "quest+int4+top-p"},
		{"twilight-paper+when:audit=4,audit-pages=32,min-context=9", "quest:keep=0.25+int4+top-p:0.9+when:min-context=9,audit=4,audit-pages=32"},
	} {
		s, err := Parse(c.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.in, err)
			continue
		}
		if got := s.String(); got != c.out {
			t.Errorf("Parse(%q).String() = %q, want %q", c.in, got, c.out)
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("Parse(%q) = %v, %v", s, again, err)
		}
	}
}

func TestSpecErrors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", `attention: "": a part is empty; expected selector+estimator+pruner`},
		{"qest", `attention: "qest": unknown selector or preset "qest"; known: dense, twilight-paper, twilight, twilight-fast, twilight-adaptive, twilight-tokens, ` + strings.Join(names(selectors), ", ")},
		{"quest+int5", `attention: "quest+int5": unknown part "int5"; estimators: ` + strings.Join(names(estimators), ", ") + `; pruners: ` + strings.Join(names(pruners), ", ") + `; or when:dense-layers=,min-context=,audit=,ensure=`},
		{"quest:kep=0.5", `attention: "quest:kep=0.5": quest: unknown argument "kep0.5"; known: page=16, keep=0.25, least=0, budget=0, reach=1, shared, middle, channels=0, adapt=0, floor=0.25`},
		{"quest:keep=2", `attention: "quest:keep=2": quest: keep=2: expected a number from 0 to 1`},
		{"quest:page=24", `attention: "quest:page=24": quest: page=24: expected 8, 16, 32 or 64`},
		{"quest+top-p:0.9+int4", `attention: "quest+top-p:0.9+int4": int4 stands in the wrong place; expected selector+estimator+pruner+when`},
		{"quest+when:min-context=auto,min-context=auto", `attention: "quest+when:min-context=auto,min-context=auto": when: min-context is given twice`},
		{"quest+when:ensure=0.9", `attention: "quest+when:ensure=0.9": attention: quest+when:ensure=0.9: ensure=0.9 needs audit=STEPS, which finds out`},
		{"quest+when:audit=-1", `attention: "quest+when:audit=-1": when: audit=-1: expected a whole number from 0 to 1048576`},
		{"quest+when:audit=4,audit-pages=3", `attention: "quest+when:audit=4,audit-pages=3": when: audit-pages=3: expected a whole number from 4 to 1024`},
		{"dense+int4", `attention: "dense+int4": dense takes no further stages`},
		{"full+int4+top-k", `attention: "full+int4+top-k": top-k: expected k=TOKENS or keep=SHARE`},
		{"full+int4+top-p:p=0.9,p=0.8", `attention: "full+int4+top-p:p=0.9,p=0.8": top-p: p is given twice`},
		{"full+int4+top-p:nan", `attention: "full+int4+top-p:nan": top-p: p=nan: expected a number from 0 to 1`},
	} {
		if _, err := Parse(c.in); err == nil || err.Error() != c.want {
			t.Errorf("Parse(%q):\n got %v\nwant %s", c.in, err, c.want)
		}
	}
}
