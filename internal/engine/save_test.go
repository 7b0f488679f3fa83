package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/testmodel"
)

// open opens a small model with a context of that many tokens.
func open(t *testing.T, c testmodel.Config, context int) *twilight.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, c); err != nil {
		t.Fatal(err)
	}
	m, err := twilight.Open(t.Context(), path, twilight.Options{Attention: "twilight", Also: []string{"dense"}, Context: context, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func session(t *testing.T, m *twilight.Model) *twilight.Session {
	t.Helper()
	s, err := m.NewSession("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A loaded text decodes as the one that was saved, to the last bit, whatever the architecture.
func TestSaveLoad(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2", "qwen3", "gemma3"} {
		c := testmodel.Config{Arch: arch, Seed: 3}
		m := open(t, c, 1024)
		s := session(t, m)
		tokens := make([]int32, 700)
		for i := range tokens {
			tokens[i] = int32(i * i % 400)
		}
		if _, _, err := s.Prefill(t.Context(), tokens, nil); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "cache")
		if err := s.Save(path); err != nil {
			t.Fatal(err)
		}
		r := session(t, open(t, c, 1024))
		if err := r.Load(path); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.Tokens(), tokens) {
			t.Fatalf("%s: %d tokens came back of %d", arch, r.Len(), len(tokens))
		}
		for i := range 5 {
			want, err := s.Step(int32(i))
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Step(int32(i))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s: step %d differs", arch, i)
			}
		}
		if s.Summary().Steps == 0 {
			t.Errorf("%s: no step was sparse: the planes were not compared", arch)
		}
		small := session(t, open(t, c, 300))
		if err := small.Load(path); !errors.Is(err, twilight.ErrContext) || small.Len() != 0 {
			t.Errorf("a text of 700 tokens in a context of 300: %v", err)
		}
		c.Seed++
		if err := session(t, open(t, c, 1024)).Load(path); !errors.Is(err, kvcache.ErrSaved) {
			t.Errorf("another model's cache: %v", err)
		}
		if err := r.Load(path + "x"); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
}
