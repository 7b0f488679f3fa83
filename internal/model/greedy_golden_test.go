package model_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/tokenizer"
)

// greedyText is a line of testdata/greedy/NAME.jsonl: what the cpu device writes after a text.
type greedyText struct {
	IDs   []int32      `json:"ids"`
	Steps []greedyStep `json:"steps"`
}

// greedyStep is a choice, and the tokens that were less than nearby behind it, with how far: all that another device may choose under the golden rule, and some more to tell by how much it is broken.
type greedyStep struct {
	ID   int32        `json:"id"`
	Near [][2]float64 `json:"near,omitempty"`
}

const nearby = 2 * nearTie

var updateGreedy = flag.Bool("update", false, "TestGreedy writes anew what the cpu device chooses")

// TestGreedy: what a device writes is what the cpu device wrote into testdata, but for choices between tokens that are nearly as likely. It reads what the cpu device chose, so that every place of
// a text is compared and not only those before the first difference. The cpu device itself may differ where it has other instructions.
func TestGreedy(t *testing.T) {
	for _, dev := range []string{"cpu", "cuda"} {
		for _, name := range catalogModels {
			t.Run(dev+"/"+name, func(t *testing.T) {
				if testing.Short() || dev == "cpu" && name != floatModels[0] && os.Getenv("TWILIGHT_SLOW") == "" {
					t.Skip("slow: runs without -short, and with TWILIGHT_SLOW=1 beyond smollm2 on the processors")
				}
				const rows = 2048 // so that each text is read in one step
				d, path := openDevice(t, dev), filepath.Join("testdata", "greedy", name+".jsonl")
				l, tok := load(t, d, name, rows, attention.BlocksOf(rows)), readTokenizer(t, name)
				if dev == "cpu" && *updateGreedy {
					writeGreedy(t, path, l, greedyPrompts(t, name, tok))
				}
				places, differ := 0, 0
				for i, text := range readGreedy(t, path) {
					along := make([]int32, len(text.Steps))
					for j, s := range text.Steps {
						along[j] = s.ID
					}
					got, _ := l.follow(t, text.IDs, along, len(along))
					for j, s := range text.Steps {
						if places++; got[j] == s.ID {
							continue
						}
						differ++
						at := fmt.Sprintf("text %d of %d tokens, then %d", i, len(text.IDs), j)
						goldenRule(t, name, at, append(slices.Clone(text.IDs), along[:j]...), "the cpu device", s.ID, got[j], apart(append(s.Near, [2]float64{float64(s.ID), 0}), s.ID, got[j]), tok)
					}
				}
				t.Logf("%d of %d choices differ", differ, places)
			})
		}
	}
}

// greedyPrompts are those of llama.cpp's goldens, and longer ones from the beginning of a book.
func greedyPrompts(t *testing.T, name string, tok *tokenizer.Tokenizer) (all [][]int32) {
	t.Helper()
	var golden llamaGolden
	readJSON(t, testenv.Shared(t, "golden", name+".json"), &golden)
	for _, p := range golden.Prompts {
		all = append(all, p.IDs)
	}
	book, err := os.ReadFile(testenv.Shared(t, "books", "war-and-peace.txt"))
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode(string(book[:20_000]), tokenizer.EncodeOptions{AddSpecial: true})
	return append(all, ids[:200], ids[:600], ids[:1500])
}

func writeGreedy(t *testing.T, path string, l *loaded, prompts [][]int32) {
	t.Helper()
	const steps = 64
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, ids := range prompts {
		text := greedyText{IDs: ids}
		chosen, behind := l.follow(t, ids, nil, steps)
		for j, id := range chosen {
			s := greedyStep{ID: id}
			for other := range int32(l.Vocab) {
				if gap := behind[j](other); other != id && gap < nearby {
					s.Near = append(s.Near, [2]float64{float64(other), float64(int(-gap*1e4)) / 1e4})
				}
			}
			text.Steps = append(text.Steps, s)
		}
		err = errors.Join(err, json.NewEncoder(f).Encode(text))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func readGreedy(t *testing.T, path string) (all []greedyText) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for d := json.NewDecoder(f); ; {
		var text greedyText
		if err := d.Decode(&text); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: text %d: %v", path, len(all), err)
		}
		all = append(all, text)
	}
}
