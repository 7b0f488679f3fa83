package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// What calibrate writes is what selectors read, for that model alone; every method runs from its text.
func TestCalibrate(t *testing.T) {
	model, text := tiny(t)
	dir := t.TempDir()
	deep, out := filepath.Join(dir, "deep.gguf"), filepath.Join(dir, "calibration.json")
	if err := testmodel.Write(deep, testmodel.Config{Seed: 3, Layers: 5}); err != nil {
		t.Fatal(err)
	}
	r := must(t, "", "calibrate", "-m", deep, "-f", text, "-o", out, "--tokens", "700", "--samples", "4", "--anchors", "2")
	if !strings.Contains(r.err, "wrote channels of 5 layers") || !strings.Contains(r.err, "tidal:anchors-file="+out) {
		t.Errorf("%q", r.err)
	}
	c, err := attention.ReadCalibration(out)
	if err != nil || c.Tokens != 700 || len(c.Channels) != 5 || len(c.Anchors) == 0 || c.Anchors[0] != attention.DefaultDenseLayers || !(c.Held > 0 && c.Held <= 1) {
		t.Fatalf("%+v, %v", c, err)
	}
	args := []string{"eval", "ppl", "-m", deep, "-f", text, "--length", "700", "--score", "4", "--time", "0", "--out="}
	calibrated := []string{"double-sparsity:channels-file=" + out, "tidal:anchors-file=" + out}
	for _, spec := range append(calibrated, "oracle-k", "oracle-p", "sparq", "double-sparsity+int8+threshold:0.1", "tidal", "h2o", "snapkv>quest+int4+top-p") {
		args = append(args, "-a", spec)
	}
	if r := must(t, "", args...); strings.Count(r.out, "\n") < 9 {
		t.Errorf("%s", r.out)
	}
	for _, spec := range calibrated {
		r := command(t.Context(), "", "run", "-m", model, "-a", spec, "hi")
		if r.code != exitFailed || !strings.Contains(r.err, "calibration "+out+" is of 5 layers") {
			t.Errorf("%s on another model: code %d, %q", spec, r.code, r.err)
		}
	}
	damaged := filepath.Join(dir, "published.json")
	if err := os.WriteFile(damaged, []byte(`{"model.layers.0.self_attn.k_proj": [[1]]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := command(t.Context(), "", "calibrate", "-m", deep, "--import", damaged, "-o", out); r.code != exitFailed || !strings.Contains(r.err, "model.layers.0.self_attn.k_proj") {
		t.Errorf("a damaged channel file: code %d, %q", r.code, r.err)
	}
	for want, args := range map[string][]string{
		"as --file, or a published channel file as --import": {"calibrate", "-o", out},
		"give a file with --out":                             {"calibrate", "-f", text},
		"--tokens=1":                                         {"calibrate", "-f", text, "-o", out, "--tokens", "1"},
		"--keep=0: expected more than 0":                     {"calibrate", "-f", text, "-o", out, "--keep", "0"},
	} {
		if r := command(t.Context(), "", args...); r.code != exitMisuse || !strings.Contains(r.err, want) {
			t.Errorf("%q: code %d, %q, want %q", args, r.code, r.err, want)
		}
	}
}
