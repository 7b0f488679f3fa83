package grid

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"unicode/utf8"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// The needle's words. How the answer begins is given to the model, as benchmarks of retrieval do for models of every size: what is asked is whether attention finds the
// number, not whether the model likes to answer in a sentence.
const (
	needleTask  = "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the number afterwards.\n"
	needleText  = "The special magic number for %s is %d."
	needleAsk   = "\nWhat is the special magic number for %s mentioned in the text?"
	needleBegin = "The special magic number for %s mentioned in the text is"
)

// needleKeys are what the numbers are for.
var needleKeys = []string{"orchid", "harbor", "violin", "granite", "lantern", "falcon", "meadow", "compass", "saffron", "glacier", "walnut", "trumpet"}

// answerTokens is how much of an answer is looked at.
const answerTokens = 24

// ErrText is in the error of a haystack that is too short.
var ErrText = errors.New("the text is too short")

// Needle hides a sentence with a number of seven digits in a text at depths in percent, and asks for the number. Where the text is longer than a sample, each takes
// another part of it.
func Needle(text string, depths []float64) (task.Task, error) {
	if err := checkDepths(depths); err != nil {
		return nil, err
	}
	if text = strings.ToValidUTF8(text, ""); text == "" {
		return nil, fmt.Errorf("eval: the needle's haystack: %w: it is empty", ErrText)
	}
	sample := func(rng *rand.Rand, depth float64, size task.Size) (task.Sample, error) {
		key, number := needleKeys[rng.IntN(len(needleKeys))], 1_000_000+rng.IntN(9_000_000)
		needle, ask, begin := fmt.Sprintf(needleText, key, number), fmt.Sprintf(needleAsk, key), fmt.Sprintf(needleBegin, key)
		s := task.Sample{Begin: begin, Answers: []string{fmt.Sprint(number)}, MaxTokens: answerTokens}
		frame := needleTask + " " + needle + " " + ask
		room := size.Tokens - size.Count(frame) - size.Count(begin) - answerTokens
		if room < 1 {
			return s, fmt.Errorf("eval: a needle in %d tokens: %w: the question alone needs %d", size.Tokens, task.ErrSize, size.Tokens-room)
		}
		hay, err := part(rng, text, room, size)
		if err != nil {
			return s, err
		}
		at := place(hay, depth)
		s.Prompt = needleTask + hay[:at] + needle + " " + hay[at:] + ask
		s.Depths = []float64{float64(len(needleTask)+at) / float64(len(s.Prompt))}
		return s, nil
	}
	return &grid{"needle", depths, sample}, nil
}

// part takes tokens of a text from a random sentence on, or from its start where there is no room to choose.
func part(rng *rand.Rand, text string, tokens int, size task.Size) (string, error) {
	whole := size.Cut(text, tokens, 0)
	if spare := len(text) - 2*len(whole); spare > 0 { // twice: what stands elsewhere may have longer tokens
		at := rng.IntN(spare)
		for !utf8.RuneStart(text[at]) {
			at++
		}
		if i := strings.Index(text[at:at+min(len(whole), len(text)-at)], ". "); i >= 0 {
			whole = size.Cut(text[at+i+2:], tokens, 0)
		}
	}
	if n := size.Count(whole); n < tokens-tokens/64-8 { // a token cut in two may be counted as another number of them
		return "", fmt.Errorf("eval: the needle's haystack: %w: it has %d tokens, expected %d", ErrText, n, tokens)
	}
	return whole, nil
}
