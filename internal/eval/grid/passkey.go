package grid

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// The published prompt of passkey retrieval (Landmark Attention, arXiv 2305.16300, appendix).
const (
	passkeyTask  = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you about the important information there.\n"
	passkeyNoise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
	passkeyText  = "\nThe pass key is %[1]d. Remember it. %[1]d is the pass key.\n"
	passkeyAsk   = "\nWhat is the pass key?"
	passkeyBegin = " The pass key is"
)

// Passkey hides a number of five digits in noise at depths in percent, and asks for it, in the words of the published prompt.
func Passkey(depths []float64) (task.Task, error) {
	if err := checkDepths(depths); err != nil {
		return nil, err
	}
	sample := func(rng *rand.Rand, depth float64, size task.Size) (task.Sample, error) {
		key := 10_000 + rng.IntN(90_000)
		s := task.Sample{Begin: passkeyBegin, Answers: []string{fmt.Sprint(key)}, MaxTokens: answerTokens}
		info := fmt.Sprintf(passkeyText, key)
		frame := passkeyTask + info + passkeyAsk
		each := size.Count(passkeyNoise) // at least what each further one adds
		repeat := (size.Tokens - size.Count(frame) - size.Count(passkeyBegin) - answerTokens) / each
		if repeat < 1 {
			return s, fmt.Errorf("eval: a pass key in %d tokens: %w", size.Tokens, task.ErrSize)
		}
		noise := strings.Repeat(passkeyNoise, repeat)
		at := place(noise, depth)
		before := passkeyTask + strings.TrimRight(noise[:at], " ")
		s.Prompt = before + info + strings.TrimRight(noise[at:], " ") + passkeyAsk
		s.Depths = []float64{float64(len(before)) / float64(len(s.Prompt))}
		return s, nil
	}
	return &grid{"passkey", depths, sample}, nil
}
