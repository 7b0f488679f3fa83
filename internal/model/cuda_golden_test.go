package model_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/testenv"
	"github.com/twilight-go/twilight/tokenizer"
)

// The greedy text of the cuda device is the cpu device's, but for choices between tokens that are nearly as likely. Both read what the cpu device writes, so that every place
// of a text is compared and not only those before the first difference.
func TestGreedyOfGPU(t *testing.T) {
	for _, name := range catalogModels {
		t.Run(name, func(t *testing.T) {
			if testing.Short() {
				t.Skip("runs a real model twice")
			}
			const steps, longest = 64, 1500
			gpu := load(t, openDevice(t, "cuda"), name, 512, attention.BlocksOf(longest+steps))
			cpu, tok := load(t, openDevice(t, "cpu"), name, 512, attention.BlocksOf(longest+steps)), readTokenizer(t, name)
			var golden llamaGolden
			readJSON(t, testenv.Shared(t, "golden", name+".json"), &golden)
			var texts [][]int32
			for _, p := range golden.Prompts {
				texts = append(texts, p.IDs)
			}
			book, err := os.ReadFile(testenv.Shared(t, "books", "war-and-peace.txt"))
			if err != nil {
				t.Fatal(err)
			}
			ids := tok.Encode(string(book[:20_000]), tokenizer.EncodeOptions{AddSpecial: true})
			for _, n := range []int{200, 600, longest} {
				texts = append(texts, ids[:n])
			}
			places, differ := 0, 0
			for i, text := range texts {
				want, sure := cpu.follow(t, text, nil, steps)
				got, _ := gpu.follow(t, text, want, steps)
				for j := range want {
					if places++; got[j] == want[j] {
						continue
					}
					differ++
					goldenRule(t, name, fmt.Sprintf("text %d of %d tokens, then %d", i, len(text), j), append(slices.Clone(text), want[:j]...), "cpu", want[j], got[j], sure[j](got[j]), tok)
				}
			}
			t.Logf("%d of %d choices differ", differ, places)
		})
	}
}
