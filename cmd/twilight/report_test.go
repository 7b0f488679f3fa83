package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	rows := filepath.Join("..", "..", "internal", "report", "testdata", "small.jsonl")
	dir := t.TempDir()
	page, figures := filepath.Join(dir, "page.html"), filepath.Join(dir, "figures")
	r := must(t, "", "report", rows, rows, "--out", page, "--svg", figures)
	if r.out != "" || !strings.Contains(r.err, page) || !strings.Contains(r.err, figures) {
		t.Errorf("standard output %q, error %q", r.out, r.err)
	}
	b, err := os.ReadFile(page)
	if err != nil || !strings.HasPrefix(string(b), "<!DOCTYPE html>") {
		t.Errorf("the page begins with %.40q, %v", b, err)
	}
	if names, err := filepath.Glob(filepath.Join(figures, "*.svg")); err != nil || len(names) != strings.Count(string(b), "<figure ") {
		t.Errorf("%d files, %d figures in the page, %v", len(names), strings.Count(string(b), "<figure "), err)
	}
	if r := must(t, "", "report", rows, "--averages", "--out", "-"); strings.Contains(r.out, ">vt, ") || len(r.out) > len(b) {
		t.Errorf("a page of averages has %d bytes, one of all %d", len(r.out), len(b))
	}
	text, err := os.ReadFile(rows)
	if err != nil {
		t.Fatal(err)
	}
	if r := must(t, string(text), "report", "-", "--out", "-"); !strings.HasSuffix(r.out, "</html>\n") {
		t.Errorf("from standard input to output: %.80q", r.out)
	}
}

func TestReportFails(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	if err := os.WriteFile(bad, []byte("{\"kind\":\"text\"}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "page.html")
	for _, c := range []struct {
		code int
		in   string
		args []string
		says string
	}{
		{exitMisuse, "", []string{"report"}, "file"},
		{exitFailed, "", []string{"report", bad, "--out", out}, "bad.jsonl: eval: line 1"},
		{exitFailed, "", []string{"report", bad + "x", "--out", out}, "bad.jsonlx"},
		{exitFailed, "", []string{"report", "-", "--out", out}, "no rows"},
	} {
		r := command(t.Context(), c.in, c.args...)
		if r.code != c.code || !strings.Contains(r.err, c.says) {
			t.Errorf("twilight %q: exit code %d, %q", c.args, r.code, r.err)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a report that failed left a page")
	}
}
