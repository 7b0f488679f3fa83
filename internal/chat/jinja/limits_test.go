package jinja

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

// hostile templates try to run for ever or to fill the memory.
var hostile = map[string]string{
	"nested loops":         "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
	"output":               "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
	"text":                 "{% for a in range(99999) %}{% for b in range(99999) %}" + strings.Repeat("x", 1000) + "{% endfor %}{% endfor %}",
	"doubling string":      "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
	"doubling by ~":        "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
	"doubling list":        "{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
	"doubling in place":    "{% set l = [1] %}{% for a in range(99) %}{% set _ = l.extend(l) %}{% endfor %}",
	"doubling macro":       "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = f(ns.s) %}{% endfor %}",
	"doubling replace":     "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s|replace('x', 'xx') %}{% endfor %}",
	"doubling join":        "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
	"doubling block":       "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}{% endfor %}",
	"doubling JSON":        "{% set ns = namespace(l=['\"']) %}{% for a in range(99) %}{% set ns.l = [ns.l|tojson] %}{% endfor %}",
	"doubling tree":        "{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
	"comparing trees":      "{% set ns = namespace(l=[1], m=[1]) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
	"hashing trees":        "{% set ns = namespace(l=(1,)) %}{% for a in range(99) %}{% set ns.l = (ns.l, ns.l) %}{% endfor %}{{ {ns.l: 1} }}",
	"repeated string":      "{{ 'x' * 999999999999 }}",
	"repeated empty":       "{{ '' * 9223372036854775807 }}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
	"repeated list":        "{{ ([1] * 99999999999)|length }}",
	"overflowing size":     "{{ ('xxxx' * 1000) * 9223372036854775807 }}",
	"range":                "{{ range(999999999999) }}",
	"indent":               "{{ 'a\nb'|indent(999999999999) }}",
	"JSON indent":          "{{ [1]|tojson(indent=99999999999) }}",
	"center":               "{{ 'a'|center(99999999999) }}",
	"ljust":                "{{ 'a'.ljust(99999999999) }}",
	"zfill":                "{{ 'a'.zfill(99999999999) }}",
	"width":                "{{ '%99999999999d' % 1 }}",
	"precision":            "{{ '%.99999999999f' % 1 }}",
	"batch":                "{{ [1]|batch(99999999999, 0) }}",
	"recursion":            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
	"recursion by caller":  "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
	"recursion by loop":    "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
	"recursion by default": "{% macro f(x=f()) %}{% endmacro %}{{ f() }}",
	"wide recursion":       "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
	"list in itself":       "{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}",
	"JSON of itself":       "{% set d = {} %}{% set _ = d.update({'d': d}) %}{{ d|tojson }}",
	"equal to itself":      "{% set a = [1] %}{% set _ = a.append(a) %}{% set b = [1] %}{% set _ = b.append(b) %}{{ a == b }}",
	"less than itself":     "{% set a = [] %}{% set _ = a.append(a) %}{% set b = [] %}{% set _ = b.append(b) %}{{ a < b }}",
	"long look-ups":        strings.Repeat("{% with %}", 300) + "{% for a in range(99999) %}{% for b in range(99999) %}{{ nothing }}{% endfor %}{% endfor %}" + strings.Repeat("{% endwith %}", 300),
	"long scans":           "{% set s = 'x' * 9999999 %}{% for a in range(99999) %}{% for b in range(99999) %}{{ 'y' in s }}{% endfor %}{% endfor %}",
	"long characters":      "{% set s = 'x' * 9999999 %}{% for a in range(99999) %}{% for b in range(99999) %}{{ s[999999] }}{% endfor %}{% endfor %}",
	"long sameness":        "{% set s = 'x' * 9999999 %}{% set t = s|string %}{% for a in range(99999) %}{% for b in range(99999) %}{{ s is sameas t }}{% endfor %}{% endfor %}",
	"long attributes":      "{% set s = 'x.' * 9999999 %}{% for a in range(99999) %}{% for b in range(99999) %}{{ [{}]|map(attribute=s, default=1) }}{% endfor %}{% endfor %}",
	"long strip sets":      "{% set s = 'x' * 9999999 %}{% set t = 'y' * 999999 ~ 'x' %}{% for a in range(99999) %}{% for b in range(99999) %}{{ s.strip(t) }}{% endfor %}{% endfor %}",
	"long keys":            "{% set s = 'x' * 9999999 %}{% set d = {s: 1} %}{% for a in range(99999) %}{% for b in range(99999) %}{{ d[s] }}{% endfor %}{% endfor %}",
	"variables":            "{% macro f(n) %}{% set a = n %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
	"sorting":              "{% for a in range(99999) %}{{ range(99999)|sort(reverse=true)|first }}{% endfor %}",
	"arguments":            "{% macro f() %}{{ varargs|length }}{% endmacro %}{% for a in range(99999) %}{{ f(*range(99999)) }}{% endfor %}",
	"splitting":            "{% set s = ' x' * 999999 %}{% for a in range(99999) %}{{ s.split()|length }}{% endfor %}",
	"rsplitting":           "{% set s = ' x' * 999999 %}{% for a in range(99999) %}{{ s.rsplit(' ')|length }}{% endfor %}",
	"captured":             "{% set s = 'x' * 500000 %}{% macro f() %}{{ s }}{{ f() }}{% endmacro %}{{ f() }}",
}

// Each ends with an error that says which limit, soon, and having allocated no more than some multiple of its limit.
func TestHostile(t *testing.T) {
	limits := Limits{Steps: 1_000_000, Memory: 32 << 20, Output: 1 << 20}
	for name, source := range hostile {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			got, err := render(source, Env{Limits: limits})
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrLimit) {
				t.Errorf("%.60q, %v; expected a limit", got, err)
			}
			// About a second on a busy machine for a million steps; the default limits allow five times as many.
			if took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if made := after.TotalAlloc - before.TotalAlloc; made > 8*uint64(limits.Memory) {
				t.Errorf("allocated %d bytes under a limit of %d", made, limits.Memory)
			}
			t.Logf("%v, %d MB: %v", took, (after.TotalAlloc-before.TotalAlloc)>>20, err)
		})
	}
}

// Sources that are too large or too deep are refused by the parser.
func TestDeepSources(t *testing.T) {
	const n = 20_000
	for name, source := range map[string]string{
		"brackets": "{{ " + strings.Repeat("(", n) + strings.Repeat(")", n) + " }}",
		"lists":    "{{ " + strings.Repeat("[", n) + strings.Repeat("]", n) + " }}",
		"dicts":    "{{ " + strings.Repeat("{1:", n) + "1" + strings.Repeat("}", n) + " }}",
		"signs":    "{{ " + strings.Repeat("-", n) + "1 }}",
		"nots":     "{{ " + strings.Repeat("not ", n) + "1 }}",
		"sums":     "{{ 1" + strings.Repeat("+1", n) + " }}",
		"ors":      "{{ 1" + strings.Repeat(" or 1", n) + " }}",
		"filters":  "{{ 1" + strings.Repeat("|e", n) + " }}",
		"items":    "{{ x" + strings.Repeat("[0]", n) + " }}",
		"calls":    "{{ x" + strings.Repeat("()", n) + " }}",
		"elses":    "{{ 1" + strings.Repeat(" if 1 else 1", n) + " }}",
		"ifs":      strings.Repeat("{% if 1 %}", n) + strings.Repeat("{% endif %}", n),
		"fors":     strings.Repeat("{% for x in y %}", n/2) + strings.Repeat("{% endfor %}", n/2),
		"targets":  "{% for " + strings.Repeat("(", n) + "a" + strings.Repeat(")", n) + " in y %}{% endfor %}",
		"size":     strings.Repeat("x", maxSource+1),
	} {
		if _, err := Parse(source); err == nil || len(err.Error()) > 1000 {
			t.Errorf("%s: %.100v; expected a short error", name, err)
		}
	}
}

// Errors say where, and raise_exception speaks for itself.
func TestErrors(t *testing.T) {
	for source, want := range map[string]string{
		"a\n{{ 1 + nothing }}":                                    "jinja: line 2: 'nothing' is undefined",
		"{% if true %}\n\n{{ {}.a.b }}{% endif %}":                "jinja: line 3: 'dict' object has no attribute 'a'",
		"{% for x in 5 %}{% endfor %}":                            "jinja: line 1: 'int' object is not iterable",
		"\n{% macro m() %}\n{{ 1/0 }}\n{% endmacro %}\n{{ m() }}": "jinja: line 3: division by zero",
		"{{ raise_exception('not ' ~ 1) }}":                       "not 1",
		"\n{% include 'x' %}":                                     `jinja: line 2: unknown or unsupported tag "include"`,
		"{% if 1 %}":                                              "jinja: line 1: block without endif",
		"{{ 9223372036854775807 + 1 }}":                           "jinja: line 1: integer beyond 64 bits",
		"{{ -9223372036854775807 - 2 }}":                          "jinja: line 1: integer beyond 64 bits",
		"{{ 4294967296 * 4294967296 }}":                           "jinja: line 1: integer beyond 64 bits",
		"{{ 10 ** 19 }}":                                          "jinja: line 1: integer beyond 64 bits",
		"{% break %}":                                             "jinja: line 1: break or continue outside of a loop",
	} {
		if got, err := render(source, Env{}); err == nil || err.Error() != want {
			t.Errorf("%q: %q, %v; expected the error %q", source, got, err, want)
		}
	}
}

func TestStrftime(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	env := Env{Now: time.Date(2026, 3, 7, 15, 4, 5, 678901000, zone)}
	for format, want := range map[string]string{
		"%Y-%m-%d %H:%M:%S":          "2026-03-07 15:04:05",
		"%d %b %Y|%B %d, %Y|%A %a":   "07 Mar 2026|March 07, 2026|Saturday Sat",
		"%-d %-m %-H %e|%j|%I %p|%y": "7 3 15  7|066|03 PM|26",
		"%f %u %w %U %W %V %G":       "678901 6 6 09 09 10 2026",
		"%F %T %R %D %z %Z %%":       "2026-03-07 15:04:05 15:04 03/07/26 +0100 CET %",
		"%c|%x|%X":                   "Sat Mar  7 15:04:05 2026|03/07/26|15:04:05",
		"%Q %":                       "%Q %",
	} {
		if got, err := render("{{ strftime_now('"+format+"') }}", env); err != nil || got != want {
			t.Errorf("%q gives %q, %v; expected %q", format, got, err, want)
		}
	}
}

// A template may change what it is given, but not what another rendering is given, nor itself.
func TestRenderingsAreApart(t *testing.T) {
	tmpl, err := Parse("{% set ns = namespace(l=[1]) %}{% set _ = ns.l.append(2) %}{% set c = [3] %}{% set _ = c.append(4) %}{{ ns.l }}{{ c }}{{ 'k'|d }}")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got, err := tmpl.Render(Env{}); err != nil || got != "[1, 2][3, 4]k" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Whatever the source, parsing and rendering end, with a text or an error, within the limits.
func FuzzRender(f *testing.F) {
	vars, cases := goldens(f)
	for _, c := range cases {
		f.Add(c.Source)
	}
	for _, source := range hostile {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		limits := Limits{Steps: 20_000, Memory: 1 << 20, Output: 1 << 16, Depth: 500}
		start := time.Now()
		got, err := render(source, Env{Vars: values(t, vars), Limits: limits})
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) && len(source) <= maxSource {
				t.Errorf("error of type %T: %v", err, err)
			}
			return
		}
		if len(got) > limits.Output {
			t.Errorf("%d bytes of output, limit %d", len(got), limits.Output)
		}
		if again, err := render(source, Env{Vars: values(t, vars), Limits: limits}); again != got || err != nil {
			t.Errorf("once %q, then %q (%v)", got, again, err)
		}
	})
}

func FuzzFromJSON(f *testing.F) {
	f.Add([]byte(`{"a": [1, 2.5, "x\u00e9", null, true], "a": {}}`))
	f.Add([]byte(strings.Repeat("[", 500)))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := FromJSON(data)
		if err != nil {
			return
		}
		text, err := render("{{ v|tojson }}", Env{Vars: map[string]Value{"v": v}})
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		again, err := FromJSON([]byte(text))
		if err != nil {
			t.Fatalf("%q became %q: %v", data, text, err)
		}
		if eq, err := (&machine{limits: Limits{}.orDefault()}).equal(v, again); !eq || err != nil {
			t.Errorf("%q became %q (%v)", data, text, err)
		}
	})
}
