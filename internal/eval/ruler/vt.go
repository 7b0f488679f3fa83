package ruler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

const (
	hops          = 4   // assignments of a variable to the next
	exampleTokens = 500 // of the example that comes before the question
)

// tracking is variable tracking: one chain of five variables in noise, with a worked example of short names before it.
func tracking() *generator {
	g := &generator{name: "vt", maxTokens: 30, least: hops + 1}
	g.prepare = func(size task.Size) func(*rand.Rand, int, int) task.Sample {
		example := max(g.least, task.Largest(g.least, exampleTokens, func(lines int) bool {
			prompt, begin, vars := chain(rand.New(rand.NewPCG(0, 0)), lines, 3)
			return size.Count(prompt+begin+strings.Join(vars, " ")) <= exampleTokens
		}))
		return func(r *rand.Rand, _, units int) task.Sample {
			shown, answer, vars := chain(r, example, 3)
			prompt, begin, wanted := chain(r, units, 5)
			prompt = shown + answer + " " + strings.Join(vars, " ") + "\n\n" + prompt
			s := task.Sample{Prompt: prompt, Begin: begin, Answers: wanted}
			for _, v := range wanted {
				s.Depths = append(s.Depths, depth(prompt, "VAR "+v+" = "))
			}
			return s
		}
	}
	return g
}

// chain hides a chain of variables with names of some letters in lines of noise: the question, how its answer begins, and the variables.
func chain(r *rand.Rand, lines, letter int) (prompt, begin string, vars []string) {
	taken := make(map[string]bool)
	for range hops + 1 {
		vars = append(vars, letters(r, 'A', letter, taken))
	}
	value := fmt.Sprint(10000 + r.IntN(89999))
	text := slices.Repeat([]string{noiseText}, lines)
	for i, at := range positions(r, lines, len(vars)) {
		line := "VAR " + vars[0] + " = " + value
		if i > 0 {
			line = "VAR " + vars[i] + " = VAR " + vars[i-1] + " "
		}
		text = slices.Insert(text, at+i, line)
	}
	prompt = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n" + strings.Join(text, "\n") +
		"\nQuestion: Find all variables that are assigned the value " + value + " in the text above."
	begin = fmt.Sprintf(" Answer: According to the chain(s) of variable assignment in the text above, %d variables are assigned the value %s, they are: ", hops+1, value)
	return prompt, begin, vars
}
