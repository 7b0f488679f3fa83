package report

import (
	"strings"

	"github.com/twilight-go/twilight/attention"
)

// family is the specs that differ only in how much they keep: one series of a figure. Its colour stands for the innermost selector; families of one selector have different shapes.
type family struct {
	name   string // the spec without what varies, or the preset's
	preset string // where the spec is long; ""
	pruned bool   // a pruner decides how much is kept; drawn full, fixed budgets are drawn hollow
	bound  bool   // an oracle: it reads everything to find out what to keep, so it bounds others and is on no front
	colour int    // 0 is that of text, for dense; the last that of bounds
	shape  int
}

// colours and shapes that are told apart without seeing colours alike.
const (
	colours = 8
	shapes  = 7
)

// families numbers families as they come.
type families struct {
	byName    map[string]*family
	selectors map[string]int // colour
	members   map[int]int    // families of a colour
	pruners   map[string]bool
	presets   map[string]string // names of families whose own are long
}

// longName is how many letters of a family's name are as many as one wants to read; a preset's name stands for more.
const longName = 48

func newFamilies() *families {
	f := &families{byName: map[string]*family{}, selectors: map[string]int{}, members: map[int]int{}, pruners: map[string]bool{}}
	for _, m := range attention.Methods() {
		if m.Stage == "pruner" {
			f.pruners[m.Name] = true
		}
	}
	f.presets = map[string]string{}
	for _, p := range attention.Presets {
		if s, err := attention.Parse(p.Spec); err == nil {
			if name, _, _ := f.split(s.String()); len(name) > longName {
				f.presets[name] = p.Name
			}
		}
	}
	return f
}

// knobs are the arguments that say how much is kept, the first that is there counts.
var (
	selectorKnobs = []string{"keep", "budget", "k", "p", "window", "tables"}
	prunerKnobs   = []string{"p", "k", "keep", "t", ""}
)

// of is a spec's family, and what varies in it as text. It reads text alone: specs of other versions, and of files that are not here, have families too.
func (f *families) of(spec string) (*family, string) {
	name, knob, pruned := f.split(spec)
	fam := f.byName[name]
	if fam == nil {
		chain := strings.Split(strings.Split(spec, "+")[0], ">")
		selector, _, _ := strings.Cut(chain[len(chain)-1], ":")
		fam = &family{name: name, pruned: pruned, bound: strings.HasPrefix(selector, "oracle-"), preset: f.presets[name]}
		if fam.preset != "" {
			fam.name = fam.preset
		}
		if selector != "dense" {
			if _, ok := f.selectors[selector]; !ok && !fam.bound {
				f.selectors[selector] = 1 + len(f.selectors)%(colours-1)
			}
			if fam.colour = f.selectors[selector]; fam.bound {
				fam.colour = colours
			}
			fam.shape = f.members[fam.colour] % shapes
			f.members[fam.colour]++
		}
		f.byName[name] = fam
	}
	return fam, knob
}

// split is the spec without what varies within its family, what varies, and whether a pruner decides how much is kept.
func (f *families) split(spec string) (name, knob string, pruned bool) {
	fields := strings.Split(spec, "+")
	for i := 1; i < len(fields); i++ {
		if name, _, _ := strings.Cut(fields[i], ":"); f.pruners[name] {
			fields[i], knob = without(fields[i], prunerKnobs)
			pruned = true
			break
		}
	}
	if chain := strings.Split(fields[0], ">"); !pruned {
		last := len(chain) - 1
		chain[last], knob = without(chain[last], selectorKnobs)
		fields[0] = strings.Join(chain, ">")
	}
	return strings.Join(fields, "+"), knob, pruned
}

// without takes the first of some arguments out of a stage, and says what it was; "" names an argument that stands for itself, such as top-p:0.9.
func without(stage string, keys []string) (rest, knob string) {
	name, list, _ := strings.Cut(stage, ":")
	args := strings.Split(list, ",")
	for _, key := range keys {
		for i, a := range args {
			k, _, eq := strings.Cut(a, "=")
			if eq && k == key || key == "" && i == 0 && a != "" && !eq && a[0] <= '9' {
				args = append(args[:i:i], args[i+1:]...)
				if len(args) == 0 {
					return name, a
				}
				return name + ":" + strings.Join(args, ","), a
			}
		}
	}
	return stage, ""
}
