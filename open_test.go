package twilight_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	twilight "github.com/twilight-go/twilight"
)

// A checkpoint folder is a model like any other: it answers, by its own chat template, on every device.
func TestOpenCheckpoint(t *testing.T) {
	folder := filepath.Join("internal", "checkpoint", "testdata", "llama")
	for _, path := range []string{folder, filepath.Join(folder, "config.json")} {
		answers := map[string]bool{}
		for _, dev := range twilight.Devices {
			if dev == "cuda" {
				continue // not on every machine
			}
			m, err := twilight.Open(context.Background(), path, twilight.Options{Device: dev})
			if err != nil {
				t.Fatal(err)
			}
			s, err := m.NewSession("")
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Chat(context.Background(), []twilight.Message{{Role: "user", Content: "All happy families"}}, twilight.Request{MaxTokens: 8, IgnoreEOG: true})
			if err != nil || len(r.Tokens) != 8 {
				t.Fatalf("%s on %s: %+v, error %v", path, dev, r, err)
			}
			answers[r.Text] = true
			s.Close()
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(answers) != 1 {
			t.Errorf("%s: answers differ: %v", path, answers)
		}
	}
	if _, err := twilight.Open(context.Background(), t.TempDir(), twilight.Options{}); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("an empty folder: %v", err)
	}
}
