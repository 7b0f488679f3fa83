package jinja

import (
	"encoding/json"
	"os"
	"testing"
)

// A golden is what Jinja2 made of a template; Want is nil where it failed.
type golden struct {
	Source string
	Want   *string
}

func goldens(t testing.TB) (vars map[string]json.RawMessage, cases []golden) {
	t.Helper()
	data, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vars  map[string]json.RawMessage
		Cases []golden
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Vars, file.Cases
}

func values(t testing.TB, vars map[string]json.RawMessage) map[string]Value {
	t.Helper()
	out := make(map[string]Value)
	for name, data := range vars {
		v, err := FromJSON(data)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = v
	}
	return out
}

// render parses and runs a template.
func render(source string, env Env) (string, error) {
	tmpl, err := Parse(source)
	if err != nil {
		return "", err
	}
	return tmpl.Render(env)
}

// Small templates render as in Jinja2, and fail where it fails.
func TestGoldens(t *testing.T) {
	vars, cases := goldens(t)
	for _, c := range cases {
		got, err := render(c.Source, Env{Vars: values(t, vars)})
		switch {
		case c.Want == nil:
			if err == nil {
				t.Errorf("%q gives %q; Jinja2 fails", c.Source, got)
			}
		case err != nil:
			t.Errorf("%q: %v; expected %q", c.Source, err, *c.Want)
		case got != *c.Want:
			t.Errorf("%q gives\n\t%q, expected\n\t%q", c.Source, got, *c.Want)
		}
	}
}
