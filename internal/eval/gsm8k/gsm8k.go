// Package gsm8k asks the problems of GSM8K (Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems") with the eight worked examples of Wei et al. 2022
// ("Chain-of-Thought Prompting Elicits Reasoning in Large Language Models", appendix), as a text to be continued. An answer is right if its last number is.
//
// It is no task of retrieval: it shows whether long chains of thought survive sparse attention. Where the size has no room for eight examples, there are fewer.
package gsm8k

import (
	"errors"
	"fmt"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// Options are where the task finds its problems.
type Options struct {
	File string // GSM8K's JSON lines, plain or gzip, e.g. test.jsonl
}

// row is a line of the file: the solution ends with "#### " and the number.
type row struct {
	Question string `json:"question"`
	Answer   string `json:"answer"`
	number   string
}

func (r *row) check() error {
	_, after, ok := strings.Cut(r.Answer, "#### ")
	if _, number := task.LastNumber(after); !ok || !number {
		return errors.New(`an answer without "#### " and a number`)
	}
	if r.Question == "" {
		return errors.New("no question")
	}
	r.number = strings.TrimSpace(after)
	return nil
}

// Tasks is the one task, gsm8k.
func Tasks(o Options) ([]task.Task, error) {
	if o.File == "" {
		return nil, errors.New("eval: gsm8k: no file: expected GSM8K's test.jsonl")
	}
	rows, err := task.ReadJSONL(o.File, (*row).check)
	if err != nil {
		return nil, err
	}
	return []task.Task{problems(rows)}, nil
}

type problems []row

func (problems) Name() string   { return "gsm8k" }
func (problems) Metric() string { return "exact" }

// Score compares numbers: 18, 18.00 and $18 are the same.
func (problems) Score(s *task.Sample, answer string) float64 {
	return task.SameNumber(answer, s.Answers[0])
}

// answerTokens is room for a chain of thought.
const answerTokens = 256

// Samples takes problems from the seed.
func (p problems) Samples(n int, seed uint64, size task.Size) ([]task.Sample, error) {
	if err := size.Validate(); err != nil {
		return nil, err
	}
	var out []task.Sample
	for _, i := range task.Choose(p.Name(), len(p), n, seed) {
		sample := func(shots int) task.Sample {
			return task.Sample{
				ID: fmt.Sprintf("gsm8k-%d", i), Raw: true, Prompt: strings.Join(examples[:shots], "") + "Q: " + p[i].Question + "\nA:",
				Answers: []string{p[i].number}, MaxTokens: answerTokens, Stop: []string{"Q:"},
			}
		}
		shots := task.Largest(0, len(examples), func(shots int) bool {
			s := sample(shots)
			return s.Tokens(size) <= size.Tokens
		})
		if shots < 0 {
			s := sample(0)
			return nil, fmt.Errorf("eval: gsm8k: %w: problem %d alone has %d, expected at most %d", task.ErrSize, i, s.Tokens(size), size.Tokens)
		}
		out = append(out, sample(shots))
	}
	return out, nil
}

// examples are the published ones, each with the blank line behind it.
var examples = []string{
	`Q: There are 15 trees in the grove. Grove workers will plant trees in the grove today. After they are done, there will be 21 trees. How many trees did the grove workers plant today?
A: There are 15 trees originally. Then there were 21 trees after some more were planted. So there must have been 21 - 15 = 6. The answer is 6.

`,
	`Q: If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the parking lot?
A: There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The answer is 5.

`,
	`Q: Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in total?
A: Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. After eating 35, they had 74 - 35 = 39. The answer is 39.

`,
	`Q: Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How many lollipops did Jason give to Denny?
A: Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave Denny 20 - 12 = 8. The answer is 8.

`,
	`Q: Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many toys does he have now?
A: Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 more toys. 5 + 4 = 9. The answer is 9.

`,
	`Q: There were nine computers in the server room. Five more computers were installed each day, from monday to thursday. How many computers are now in the server room?
A: There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 * 4 = 20 computers were added. 9 + 20 is 29. The answer is 29.

`,
	`Q: Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 more. How many golf balls did he have at the end of wednesday?
A: Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. After losing 2 more, he had 35 - 2 = 33 golf balls. The answer is 33.

`,
	`Q: Olivia has $23. She bought five bagels for $3 each. How much money does she have left?
A: Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has 23 - 15 dollars left. 23 - 15 is 8. The answer is 8.

`,
}
