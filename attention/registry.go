package attention

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Info describes a registered part.
type Info struct {
	Doc   string // what it does, in a line
	Paper string // arXiv number, if it comes from one
	// New makes the part from its arguments. Reading an argument also declares it, so that an unknown one can be answered with the list of the known.
	New func(*Args) (any, error)
}

var selectors, estimators, pruners = map[string]Info{}, map[string]Info{}, map[string]Info{}

// RegisterSelector adds a selector by name; New must return a Selector. Call it from init; a repeated name panics.
func RegisterSelector(name string, i Info) { register(selectors, name, i) }

// RegisterEstimator adds an estimator; New must return an Estimator.
func RegisterEstimator(name string, i Info) { register(estimators, name, i) }

// RegisterPruner adds a pruner; New must return a Pruner. The arguments union, per-head, exact= and tail= belong to every pruner and never reach New.
func RegisterPruner(name string, i Info) { register(pruners, name, i) }

func register(m map[string]Info, name string, i Info) {
	if _, dup := m[name]; dup || strings.ContainsAny(name, "+:,=> ") || name == "none" || name == "when" || name == "dense" {
		panic("attention: cannot register " + name)
	}
	m[name] = i
}

// Method is a line of the table of registered parts.
type Method struct {
	Stage, Name, Paper, Doc, Args string
	Stores, Reads                 []float64 // bytes a token of one KV head with MethodDims channels, with default arguments
}

// MethodDims is the head sizes that the table of parts shows costs for.
var MethodDims = [...]int{64, 128}

// MethodTokens is the length of text that it shows reads for, of selectors that do not read in proportion to it.
const MethodTokens = 32768

// Coster is a Selector that says what it keeps for each token, and what it reads of that and of keys in a step for each token in sight, where these are not just its
// planes. The table of parts shows it.
type Coster interface {
	PerToken(dim int) (stores, reads float64)
}

// costs fills in what the part keeps, and what it reads: a selector for each token in sight, an estimator for each candidate.
func (m *Method) costs(part any) {
	for _, dim := range MethodDims {
		var stores float64
		if p, ok := part.(interface{ Planes() []Plane }); ok {
			for _, pl := range p.Planes() {
				stores += float64(pl.BlockBytes(dim)) / BlockTokens
			}
		}
		reads := stores
		switch p := part.(type) {
		case Coster:
			stores, reads = p.PerToken(dim)
		case Estimator:
			reads = float64(p.PageBytes(dim)) / PageTokens
		}
		m.Stores, m.Reads = append(m.Stores, stores), append(m.Reads, reads)
	}
}

// Methods lists every registered part, by stage and name.
func Methods() (out []Method) {
	for _, s := range []struct {
		stage string
		parts map[string]Info
	}{{"selector", selectors}, {"estimator", estimators}, {"pruner", pruners}} {
		for _, n := range names(s.parts) {
			i := s.parts[n]
			a := newArgs(Part{Name: n})
			part, _ := i.New(a) // an error, of an argument that must be given, leaves what it costs unknown: nothing
			m := Method{Stage: s.stage, Name: n, Paper: i.Paper, Doc: i.Doc, Args: strings.Join(a.help(), ", ")}
			m.costs(part)
			out = append(out, m)
		}
	}
	return out
}

func names(m map[string]Info) []string { return slices.SortedFunc(maps.Keys(m), cmp.Compare[string]) }

func build(m map[string]Info, p Part) (any, error) {
	i, ok := m[p.Name]
	if !ok {
		return nil, fmt.Errorf("unknown part %q; known: %s", p.Name, strings.Join(names(m), ", "))
	}
	a := newArgs(p)
	v, err := i.New(a)
	if e := a.err(); e != nil {
		return nil, e
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	return v, nil
}

// positional is the key of an argument written as a bare number; it means the part's first argument.
const positional = ""

// Args reads a part's arguments. Each getter declares the argument; problems are kept and reported together after New returns.
type Args struct {
	part  string
	given []Arg
	used  []bool
	known []argDoc
	bad   error
}

type argDoc struct{ key, def, doc string }

func newArgs(p Part) *Args {
	return &Args{part: p.Name, given: p.Args, used: make([]bool, len(p.Args))}
}

func (a *Args) find(key, def, doc string) (string, bool) {
	first := len(a.known) == 0
	a.known = append(a.known, argDoc{key, def, doc})
	val, ok := "", false
	for i, g := range a.given {
		if g.Key == key || first && g.Key == positional {
			if ok {
				a.fail(fmt.Errorf("%s: %s is given twice", a.part, key))
			}
			a.used[i] = true
			val, ok = g.Value, true
		}
	}
	return val, ok
}

func (a *Args) fail(err error) {
	if a.bad == nil {
		a.bad = err
	}
}

// Int reads a whole number within [lo,hi].
func (a *Args) Int(key string, def, lo, hi int, doc string) int {
	s, ok := a.find(key, strconv.Itoa(def), doc)
	if !ok {
		return def
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < lo || v > hi {
		a.fail(fmt.Errorf("%s: %s=%s: expected a whole number from %d to %d", a.part, key, s, lo, hi))
	}
	return v
}

// Float reads a number within [lo,hi].
func (a *Args) Float(key string, def, lo, hi float64, doc string) float64 {
	s, ok := a.find(key, strconv.FormatFloat(def, 'g', -1, 64), doc)
	if !ok {
		return def
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) || v < lo || v > hi {
		a.fail(fmt.Errorf("%s: %s=%s: expected a number from %g to %g", a.part, key, s, lo, hi))
	}
	return v
}

// Text reads a word: anything without the signs that specs are made of, "+", ">" and ",".
func (a *Args) Text(key, def, doc string) string {
	s, ok := a.find(key, def, doc)
	if !ok {
		return def
	}
	if s == "" {
		a.fail(fmt.Errorf("%s: %s: expected %s=TEXT", a.part, key, key))
	}
	return s
}

// Flag reads an argument that is there or not.
func (a *Args) Flag(key, doc string) bool {
	s, ok := a.find(key, "", doc)
	if ok && s != "" {
		a.fail(fmt.Errorf("%s: %s=%s: expected %s alone", a.part, key, s, key))
	}
	return ok
}

func (a *Args) err() error {
	if a.bad != nil {
		return a.bad
	}
	for i, u := range a.used {
		if u {
			continue
		}
		known := "it takes none"
		if len(a.known) > 0 {
			known = "known: " + strings.Join(a.help(), ", ")
		}
		return fmt.Errorf("%s: unknown argument %q; %s", a.part, a.given[i].Key+a.given[i].Value, known)
	}
	return nil
}

func (a *Args) help() (out []string) {
	for _, k := range a.known {
		if k.def == "" {
			out = append(out, k.key)
		} else {
			out = append(out, k.key+"="+k.def)
		}
	}
	return out
}

func unexpected(key string, got any, want string) error {
	return fmt.Errorf("%s=%v: expected %s", key, got, want)
}
