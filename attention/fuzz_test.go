package attention

import (
	"reflect"
	"strings"
	"testing"
)

// Whatever is typed, Parse answers with a spec that its own text gives again, or with an error that quotes the input; and what parses can be made.
func FuzzParse(f *testing.F) {
	for _, p := range Presets {
		f.Add(p.Name)
		f.Add(p.Spec + "+when:dense-layers=0,min-context=7")
	}
	for _, s := range []string{"full+page-range:bits=2+top-p:0.95,union,tail=mean", "quest:16,keep=1e-3,shared+none+top-k:keep=0.5,per-head", "streaming+exact+top-p", "quest:", "++", "full+top-p:,", "dense:x",
		"full+top-k:k=99999999999999999999", "quest:page=0", "full+top-p:tail=half", "when:1", "full+when:x=1", "full+int4+top-p:p=0x1p-1", " twilight + when:dense-layers=1", "quest:keep=\x00", "none", "quest+when:audit=16,ensure=0.85", "quest+when:audit-pages=8", "twilight+when:ensure=1", "full+when:audit=1e3", "dense+when:audit=3,ensure=0x1p-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "attention: ") {
				t.Errorf("Parse(%q): error %q does not say where it comes from", text, err)
			}
			return
		}
		canonical := s.String()
		again, err := Parse(canonical)
		if err != nil || !reflect.DeepEqual(again, s) || again.String() != canonical {
			t.Fatalf("Parse(%q) = %#v, but Parse(%q) = %#v, %v", text, s, canonical, again, err)
		}
		if _, err := New(s); err != nil {
			t.Fatalf("New(%q): %v", canonical, err)
		}
	})
}

func TestPresets(t *testing.T) {
	b := newBatch(shape{3, 32, []int{300}})
	for _, p := range Presets {
		s, err := Parse(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != p.Spec {
			t.Errorf("%s is %s, declared as %s", p.Name, s, p.Spec)
		}
		if s.MinContext != DefaultMinContext {
			t.Errorf("%s: %+v; presets leave it to the default which texts are short", p.Name, s)
		}
		s.DenseLayers, s.MinContext = 0, 0
		pl, err := New(s)
		if err != nil {
			t.Fatal(err)
		}
		var stats Stats
		runAll(t, NewExec(Portable{}, Serial{}), b.calls(1, pl, func(int) *Stats { return &stats }))
		if k := stats.Summary(b.dim).Kept; !s.Dense() && !(k >= 1 && k < 300) {
			t.Errorf("%s keeps %v tokens of 300", p.Name, k)
		}
	}
}

// Methods lists every part with what its arguments are: the table that help and documents show.
func TestMethods(t *testing.T) {
	all := Methods()
	if len(all) != len(selectors)+len(estimators)+len(pruners) {
		t.Fatalf("%d methods", len(all))
	}
	for _, m := range all {
		if m.Doc == "" || m.Stage == "" {
			t.Errorf("%+v lacks a description", m)
		}
		if m.Name == "quest" && (m.Args != "page=16, keep=0.25, least=0, budget=0, reach=1, shared, middle, channels=0, adapt=0, floor=0.25" || m.Paper != "2406.10774") {
			t.Errorf("quest: %+v", m)
		}
	}
}

// Parts register under new names only.
func TestRegisterRefuses(t *testing.T) {
	for _, name := range []string{"full", "dense", "none", "when", "a+b", "a:b", "a b"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("registering %q went through", name)
				}
			}()
			RegisterSelector(name, Info{New: func(*Args) (any, error) { return full{}, nil }})
		}()
	}
}
