package bench

import (
	"path/filepath"
	"testing"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/internal/testmodel"
)

func TestServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	if err := testmodel.Write(path, testmodel.Config{Seed: 5}); err != nil {
		t.Fatal(err)
	}
	var rows []ServeRow
	// Requests come faster than the first is answered, so that some are written together.
	s := Serve{Model: "tiny", Text: "A text that has to be repeated.", Specs: []string{"dense", "twilight"}, Requests: 12, Prompt: Span{70, 300}, Answer: Span{250, 350}, Shared: 64, Rate: 20000, Sequences: 4, Chunk: 32,
		Threads: 1, Row: func(r ServeRow) { rows = append(rows, r) }}
	m, err := twilight.Open(t.Context(), path, s.Options(twilight.Options{Threads: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := s.Run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		if r.Spec != s.Specs[i] || r.Requests != 12 || r.PromptTokens != rows[0].PromptTokens || r.AnswerTokens < 12*250 || r.AnswerTokens > 12*350 || r.SharedTokens < 64 || r.Most < 2 || r.Most > 4 ||
			r.TokensSec <= 0 || r.MicrosToken <= 0 || r.MicrosP99 < r.MicrosToken || r.First <= 0 || r.FirstP99 < r.First || r.DenseFactor <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if len(rows) != 2 {
		t.Errorf("%d rows, expected 2", len(rows))
	}
	for _, wrong := range []Serve{{Specs: s.Specs}, {Specs: s.Specs, Requests: 1, Sequences: 1, Prompt: Span{5, 4}, Answer: Span{1, 1}}, {Specs: s.Specs, Requests: 1, Sequences: 1, Prompt: Span{5, 5}, Answer: Span{1, 1}}} {
		if err := wrong.Run(t.Context(), m); err == nil {
			t.Errorf("%+v was taken", wrong)
		}
	}
}
