// Package grid makes the questions that are asked at every depth of a text: a needle in a haystack of prose, and a pass key in noise.
package grid

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// grid is what the tasks of this package share: n samples at every depth, each with a number of its own.
type grid struct {
	name   string
	depths []float64 // in percent
	sample func(rng *rand.Rand, depth float64, size task.Size) (task.Sample, error)
}

// Name implements task.Task.
func (g *grid) Name() string { return g.name }

// Metric implements task.Task.
func (g *grid) Metric() string { return "exact" }

// Samples implements task.Task.
func (g *grid) Samples(n int, seed uint64, size task.Size) ([]task.Sample, error) {
	if err := size.Validate(); err != nil {
		return nil, err
	}
	var out []task.Sample
	for i := range n {
		for _, depth := range g.depths {
			s, err := g.sample(task.Rand(g.name, seed, i), depth, size) // a column of the grid has one number
			if err != nil {
				return nil, err
			}
			s.ID = fmt.Sprintf("%g%s%d", depth, separator, i)
			out = append(out, s)
		}
	}
	return out, nil
}

// separator stands between depth and number in a sample's name.
const separator = "%-"

// Depth is the depth of a sample in percent, as it was asked for, from its name; false for samples of other tasks.
func Depth(id string) (percent float64, ok bool) {
	text, _, ok := strings.Cut(id, separator)
	percent, err := strconv.ParseFloat(text, 64)
	return percent, ok && err == nil
}

// Score implements task.Task: 1 if the number stands in the answer, whatever separates its digits.
func (g *grid) Score(s *task.Sample, answer string) float64 {
	for _, want := range s.Answers {
		if strings.Contains(digits(answer), want) {
			return 1
		}
	}
	return 0
}

// Monotone implements task.Monotone: what stands in an answer stays there.
func (g *grid) Monotone() {}

// digits drops what models write between digits of a long number.
func digits(s string) string { return strings.NewReplacer(",", "", " ", "", "\u202f", "").Replace(s) }

// place is where the sentence of text begins that follows the one that ends next after percent of it.
func place(text string, percent float64) int {
	at := int(float64(len(text)) * min(max(percent, 0), 100) / 100)
	if i := strings.Index(text[at:], ". "); at > 0 && i >= 0 {
		return at + i + 2
	}
	if i := strings.LastIndex(text[:at], ". "); i >= 0 {
		return i + 2
	}
	return 0
}

// checkDepths reports depths that are not percentages.
func checkDepths(depths []float64) error {
	if len(depths) == 0 {
		return fmt.Errorf("eval: no depths: expected percentages")
	}
	for _, d := range depths {
		if !(d >= 0 && d <= 100) {
			return fmt.Errorf("eval: depth %g: expected 0 to 100 percent", d)
		}
	}
	return nil
}
