package retrieval

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/task"
)

// kvRow is a line of Lost in the Middle's.
type kvRow struct {
	Records [][]string `json:"ordered_kv_records"`
	Key     string     `json:"key"`
	Value   string     `json:"value"`
	gold    int
}

func (r *kvRow) check() error {
	r.gold = -1
	keys := make(map[string]bool, len(r.Records))
	for i, p := range r.Records {
		if len(p) != 2 {
			return fmt.Errorf("record %d has %d strings: expected a key and a value", i, len(p))
		}
		if keys[p[0]] {
			return fmt.Errorf("key %q stands twice", p[0])
		}
		keys[p[0]] = true
		if p[0] == r.Key && p[1] == r.Value {
			r.gold = i
		}
	}
	if r.gold < 0 || r.Value == "" {
		return fmt.Errorf("no record of key %q and value %q", r.Key, r.Value)
	}
	return nil
}

func (r *kvRow) record() record {
	q := record{
		head: "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{",
		tail: "}\n\nKey: \"" + r.Key + "\"\nCorresponding value:",
		gold: r.gold, moves: true, answer: r.Value,
		join: func(lines []string) string { return strings.Join(lines, ",\n ") },
	}
	for _, p := range r.Records {
		q.lines = append(q.lines, `"`+p[0]+`": "`+p[1]+`"`)
	}
	return q
}

// contains is Lost in the Middle's accuracy: the value occurs in the answer, whatever its case.
func contains(answer, want string) float64 { return task.MatchPart(answer, []string{want}) }

// linesRow is a line of LongChat's.
type linesRow struct {
	Prompt  string `json:"prompt"`
	Correct string `json:"correct_line"`
	Number  uint64 `json:"expected_number"`

	head, tail string
	lines      []string
	gold       int
}

// check finds the lines between the prompt's instruction and its question.
func (r *linesRow) check() error {
	all := strings.SplitAfter(r.Prompt, "\n")
	isLine := func(l string) bool {
		return strings.HasPrefix(l, "line ") && strings.Contains(l, "REGISTER_CONTENT is <")
	}
	from := slices.IndexFunc(all, isLine)
	if from < 0 {
		return errors.New("a prompt without lines")
	}
	to := from
	for to < len(all) && isLine(all[to]) {
		to++
	}
	r.head, r.lines, r.tail = strings.Join(all[:from], ""), all[from:to], strings.Join(all[to:], "")
	if r.gold = slices.Index(r.lines, r.Correct); r.gold < 0 {
		return fmt.Errorf("the correct line %q is not in the prompt", r.Correct)
	}
	if !strings.Contains(r.Correct, fmt.Sprintf("<%d>", r.Number)) {
		return fmt.Errorf("the correct line %q has no <%d>", r.Correct, r.Number)
	}
	return nil
}

func (r *linesRow) record() record {
	return record{head: r.head, tail: r.tail, lines: r.lines, gold: r.gold, answer: fmt.Sprint(r.Number), join: func(lines []string) string { return strings.Join(lines, "") }}
}

// lastInteger is LongChat's accuracy: the answer's last number is the wanted one.
func lastInteger(answer, want string) float64 {
	numbers := task.Integers(answer)
	if len(numbers) == 0 {
		return 0
	}
	if last := strings.TrimLeft(numbers[len(numbers)-1], "0"); last == strings.TrimLeft(want, "0") {
		return 1
	}
	return 0
}
