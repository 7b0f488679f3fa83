package twilight

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/twilight-go/twilight/internal/testmodel"
)

// A batch answers many conversations at once, each as a session would.
func TestBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, testmodel.Config{Seed: 3}); err != nil {
		t.Fatal(err)
	}
	m, err := Open(t.Context(), path, Options{Attention: "twilight", Also: []string{"dense"}, Context: 200, Sequences: 3, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ask, specs, want := []string{"One.", "Two, and more.", "Three?", "Four!"}, []string{"", "dense"}, []Result{}
	chat := func(i int) []Message { return []Message{{Role: "user", Content: ask[i]}} }
	for i := range ask {
		s, err := m.NewSession(specs[i%2])
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Chat(t.Context(), chat(i), Request{MaxTokens: 9})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		want = append(want, r)
	}
	b := m.NewBatch(BatchOptions{})
	defer b.Close()
	var all sync.WaitGroup
	for i := range ask {
		all.Go(func() {
			r, err := b.Chat(t.Context(), specs[i%2], chat(i), Request{MaxTokens: 9})
			if err != nil || r.Text != want[i].Text || !slices.Equal(r.Tokens, want[i].Tokens) || r.Reason != want[i].Reason {
				t.Errorf("%q: %v, %+v; alone %+v", ask[i], err, r, want[i])
			}
		})
	}
	all.Wait()
	if l := b.Load(); l.Written < 4 || l.Waiting+l.Reading+l.Writing > 0 {
		t.Errorf("the load at the end: %+v", l)
	}
	if _, err := b.Generate(context.Background(), "quest", Request{Prompt: []int32{5}}); err == nil {
		t.Error("a spec that the model was opened without was taken")
	}
}
