package attention

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Spec says how attention is done: the parts of a pipeline and the options that hold for all. It is a value, and by Parse and String also text that a person
// can type: selector+estimator+pruner, each with arguments after a colon, any of them but the selector left out:
//
//	dense                                     exact attention over everything
//	twilight                                  a preset; see Presets
//	quest:keep=0.25+int4+top-p:0.9            the paper's pipeline
//	streaming:sink=4,window=1020              a selector alone: the method with its fixed budget
//	full+page-range:bits=2+top-p:0.95,union,tail=mean+when:dense-layers=2,min-context=512
//	twilight+when:audit=16,ensure=0.85        says what mass was attended to, and goes dense where it is too little
//	snapkv:keep=0.3>quest+int4+top-p          a selector within what another proposes
type Spec struct {
	Within                  []Part // selectors whose proposals bound those of Select, the outermost first
	Select, Estimate, Prune Part
	Union                   bool    // every head of a group attends to the union of the group's survivors
	Exact                   float64 // precision by weight: the share of the estimated mass that is read exactly; 0: all survivors are
	Tail                    bool    // what was pruned counts as its estimated mass times the mean value
	DenseLayers             int     // layers at the start of the model that stay dense
	MinContext              int     // tokens below which a sequence stays dense; AutoMinContext: whoever runs the pipeline finds out
	Audit                   int     // every how many steps of a sequence the mass that a head attends to is estimated from pages it did not read; 0: never
	AuditPages              int     // pages an audit draws; 0: DefaultAuditPages
	Ensure                  float64 // a KV head whose audited mass may be less than this is dense until its next audit; 0: whatever it is
}

// Part is one stage: a registered name and its arguments in canonical order.
type Part struct {
	Name string
	Args []Arg
}

// Arg is one argument: key=value, or a flag, whose value is empty.
type Arg struct{ Key, Value string }

// What holds when a spec does not say otherwise. The paper keeps layers 0 and 1 dense; with precision by weight and the tail counted, as the twilight presets have it, that gains
// nothing. Below some hundreds of tokens there is nothing to prune.
const (
	DefaultDenseLayers = 2
	DefaultMinContext  = 512
)

// AutoMinContext is min-context=auto: the length from which the pipeline is faster than dense attention on the machine at hand. An engine measures it and runs a
// pipeline with the number; anything else takes DefaultMinContext. Answers between the two lengths then depend on the machine, so it is asked for, not given.
const AutoMinContext = -1

// Presets are names for whole specs, in the order in which they are shown.
var Presets = []struct{ Name, Spec, Doc string }{
	{"dense", "dense", "exact attention over every token"},
	{"twilight-paper", "quest:keep=0.25+int4+top-p:0.9", "the pipeline as published: Quest pages, INT4 per token, each head its own survivors"},
	{"twilight", "full+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0",
		"every page, since what page lists leave out is what questions ask for; block-range codes; 0.3 of the mass read exactly, the rest of it by codes, what is pruned by the mean value"},
	{"twilight-fast", "quest:keep=0.5,least=4096,reach=0.7,shared,middle+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0",
		"the same over half the pages but 4096 tokens, one list a group: what a single query looks for once may be missed"},
	{"twilight-adaptive", "quest:keep=0.5,least=4096,reach=0.7,shared,middle,adapt=0.003+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0",
		"the same, each KV head's list from a quarter of the context on as long as pays; on a CPU"},
	{"twilight-tokens", "quest:keep=0.25,least=1024,shared,middle,channels=16+block-range+top-p:0.9,union,exact=0.3,tail=mean+when:dense-layers=0",
		"over a quarter of the pages, chosen by every token in the channels that matter to the step's queries, so that what is looked up once is found; on a CPU"},
}

// Dense reports whether the spec is dense attention.
func (s Spec) Dense() bool { return s.Select.Name == "dense" }

// shortest is the tokens from which sequences are sparse.
func (s Spec) shortest() int {
	if s.MinContext == AutoMinContext {
		return DefaultMinContext
	}
	return s.MinContext
}

// Parse reads a spec. A preset's name may stand alone or with +when. Errors say which part is wrong and list what is known.
func Parse(text string) (Spec, error) {
	s := Spec{DenseLayers: DefaultDenseLayers, MinContext: DefaultMinContext, AuditPages: DefaultAuditPages}
	fields := strings.Split(text, "+")
	for i, f := range fields {
		fields[i] = strings.TrimSpace(f)
	}
	for _, p := range Presets {
		if fields[0] == p.Name && p.Spec != p.Name {
			fields = append(strings.Split(p.Spec, "+"), fields[1:]...)
		}
	}
	stage := 0
	for i, f := range fields {
		if err := s.read(f, i, &stage); err != nil {
			return Spec{}, fmt.Errorf("attention: %q: %w", text, err)
		}
	}
	if s.Dense() && (s.Estimate.Name != "" || s.Prune.Name != "") {
		return Spec{}, fmt.Errorf("attention: %q: dense takes no further stages", text)
	}
	if _, err := New(s); err != nil {
		return Spec{}, fmt.Errorf("attention: %q: %w", text, err)
	}
	return s, nil
}

// read takes in field i of a text.
func (s *Spec) read(field string, i int, stage *int) error {
	if i == 0 {
		chain := strings.Split(field, ">")
		field = chain[len(chain)-1]
		for _, f := range chain[:len(chain)-1] {
			part, err := parsePart(f)
			if err != nil {
				return err
			}
			if _, ok := selectors[part.Name]; !ok {
				return fmt.Errorf("unknown selector %q before >; known: %s", part.Name, strings.Join(names(selectors), ", "))
			}
			s.Within = append(s.Within, part)
		}
	}
	part, err := parsePart(field)
	if err != nil {
		return err
	}
	return s.place(part, i, stage)
}

// place puts part i where its name belongs; stages must come in order.
func (s *Spec) place(p Part, i int, stage *int) error {
	_, isSel := selectors[p.Name]
	_, isEst := estimators[p.Name]
	_, isPrun := pruners[p.Name]
	switch {
	case i == 0 && (isSel || p.Name == "dense"):
		if p.Name == "dense" && (len(p.Args) > 0 || len(s.Within) > 0) {
			return fmt.Errorf("dense takes no arguments and stands alone")
		}
		s.Select = p
	case i == 0:
		return fmt.Errorf("unknown selector or preset %q; known: %s", p.Name, strings.Join(append(presetNames(), names(selectors)...), ", "))
	case p.Name == "none" && *stage < 2:
		*stage++
	case isEst && *stage < 1:
		s.Estimate, *stage = p, 1
	case isPrun && *stage < 2:
		*stage = 2
		return s.takeOptions(p)
	case p.Name == "when" && i > 0:
		*stage = 3
		return s.when(p)
	case isSel || isEst || isPrun || p.Name == "none":
		return fmt.Errorf("%s stands in the wrong place; expected selector+estimator+pruner+when", p.Name)
	default:
		return fmt.Errorf("unknown part %q; estimators: %s; pruners: %s; or when:dense-layers=,min-context=,audit=,ensure=", p.Name, strings.Join(names(estimators), ", "), strings.Join(names(pruners), ", "))
	}
	return nil
}

// takeOptions makes p the pruner, without the options that hold for every pruner: those are the spec's.
func (s *Spec) takeOptions(p Part) error {
	var own, rest []Arg
	for _, a := range p.Args {
		if a.Key == "exact" {
			own = append(own, a)
			continue
		}
		switch {
		case a.Key == "union" && a.Value == "":
			s.Union = true
		case a.Key == "per-head" && a.Value == "":
			s.Union = false
		case a.Key == "tail" && a.Value == "mean":
			s.Tail = true
		case a.Key == "tail" && a.Value == "none":
			s.Tail = false
		default:
			rest = append(rest, a)
		}
	}
	args := newArgs(Part{p.Name, own})
	s.Exact = args.Float("exact", s.Exact, 0, 1, "share of the mass that is read exactly")
	s.Prune = Part{p.Name, rest}
	return args.err()
}

func (s *Spec) when(p Part) error {
	a := newArgs(p)
	s.DenseLayers = a.Int("dense-layers", s.DenseLayers, 0, 1<<20, "layers at the start that stay dense")
	if slices.Contains(p.Args, Arg{"min-context", "auto"}) {
		s.MinContext = AutoMinContext
		a.Text("min-context", "", "")
	} else {
		s.MinContext = a.Int("min-context", s.MinContext, 0, 1<<30, "tokens below which a sequence stays dense, or auto: found out by measurement")
	}
	s.Audit = a.Int("audit", s.Audit, 0, 1<<20, "steps between estimates of the mass that a head attends to; 0: none are made")
	s.AuditPages = a.Int("audit-pages", s.AuditPages, 4, 1<<10, "pages that an estimate is made from")
	s.Ensure = a.Float("ensure", s.Ensure, 0, 1, "estimated mass under which a KV head is dense until the next estimate")
	return a.err()
}

func parsePart(f string) (Part, error) {
	name, args, found := strings.Cut(f, ":")
	p := Part{Name: strings.TrimSpace(name)}
	if p.Name == "" {
		return p, fmt.Errorf("a part is empty; expected selector+estimator+pruner")
	}
	if !found {
		return p, nil
	}
	for i, a := range strings.Split(args, ",") {
		k, v, eq := strings.Cut(strings.TrimSpace(a), "=")
		switch {
		case k == "" || eq && v == "":
			return p, fmt.Errorf("%s: argument %q; expected key=value", p.Name, a)
		case i == 0 && !eq && isNumber(k): // top-p:0.9 stands for top-p:p=0.9
			k, v = positional, k
		}
		p.Args = append(p.Args, Arg{k, v})
	}
	return p, nil
}

func isNumber(s string) bool { _, err := strconv.ParseFloat(s, 64); return err == nil }

// String is the canonical text; Parse(s.String()) gives s again.
func (s Spec) String() string {
	var b strings.Builder
	for _, p := range s.Within {
		b.WriteString(p.String() + ">")
	}
	b.WriteString(s.Select.String())
	part := func(p Part, extra ...Arg) {
		p.Args = append(slices.Clone(p.Args), extra...)
		b.WriteString("+" + p.String())
	}
	if s.Estimate.Name != "" {
		part(s.Estimate)
	}
	if s.Prune.Name != "" {
		var extra []Arg
		if s.Union {
			extra = append(extra, Arg{Key: "union"})
		}
		if s.Exact > 0 {
			extra = append(extra, Arg{"exact", strconv.FormatFloat(s.Exact, 'g', -1, 64)})
		}
		if s.Tail {
			extra = append(extra, Arg{"tail", "mean"})
		}
		part(s.Prune, extra...)
	}
	var when []Arg
	if s.DenseLayers != DefaultDenseLayers {
		when = append(when, Arg{"dense-layers", strconv.Itoa(s.DenseLayers)})
	}
	switch s.MinContext {
	case DefaultMinContext:
	case AutoMinContext:
		when = append(when, Arg{"min-context", "auto"})
	default:
		when = append(when, Arg{"min-context", strconv.Itoa(s.MinContext)})
	}
	if s.Audit != 0 {
		when = append(when, Arg{"audit", strconv.Itoa(s.Audit)})
	}
	if s.AuditPages != 0 && s.AuditPages != DefaultAuditPages {
		when = append(when, Arg{"audit-pages", strconv.Itoa(s.AuditPages)})
	}
	if s.Ensure > 0 {
		when = append(when, Arg{"ensure", strconv.FormatFloat(s.Ensure, 'g', -1, 64)})
	}
	if when != nil {
		part(Part{"when", when})
	}
	return b.String()
}

// String is the part as it is typed.
func (p Part) String() string {
	var args []string
	for _, a := range p.Args {
		switch {
		case a.Key == positional:
			args = append(args, a.Value)
		case a.Value == "":
			args = append(args, a.Key)
		default:
			args = append(args, a.Key+"="+a.Value)
		}
	}
	if args == nil {
		return p.Name
	}
	return p.Name + ":" + strings.Join(args, ",")
}

func presetNames() (out []string) {
	for _, p := range Presets {
		out = append(out, p.Name)
	}
	return out
}
