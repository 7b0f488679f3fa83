package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twilight-go/twilight/internal/eval/grid"
	"github.com/twilight-go/twilight/internal/eval/gsm8k"
	"github.com/twilight-go/twilight/internal/eval/longbench"
	"github.com/twilight-go/twilight/internal/eval/retrieval"
	"github.com/twilight-go/twilight/internal/eval/ruler"
	"github.com/twilight-go/twilight/internal/eval/task"
)

// taskFlag chooses among the tasks of a benchmark.
type taskFlag struct {
	Task []string `placeholder:"NAME,..." help:"Ask only these tasks; repeat it for more (all)."`
}

// choose are the tasks that were asked for, in the benchmark's order.
func (f *taskFlag) choose(tasks []task.Task) ([]task.Task, error) {
	var known []string
	for _, t := range tasks {
		known = append(known, t.Name())
	}
	for _, name := range f.Task {
		if !slices.Contains(known, name) {
			return nil, misuse{fmt.Errorf("--task=%s: unknown; known: %s", name, strings.Join(known, ", "))}
		}
	}
	if len(f.Task) == 0 {
		return tasks, nil
	}
	return slices.DeleteFunc(tasks, func(t task.Task) bool { return !slices.Contains(f.Task, t.Name()) }), nil
}

// askThese asks tasks that were just made, if they were.
func (f *questionFlags) askThese(con *console, choice taskFlag, tasks []task.Task, err error) error {
	if err == nil {
		tasks, err = choice.choose(tasks)
	}
	if err != nil {
		return err
	}
	return f.ask(con, tasks, false)
}

type rulerCommand struct {
	File     string    `short:"f" placeholder:"FILE" help:"The text that needles hide in, such as a book."`
	NQ       string    `name:"nq" type:"path" placeholder:"FILE" help:"Questions with passages for task qa_nq, JSON lines as lost-in-the-middle publishes them."`
	SQuAD    string    `name:"squad" type:"path" placeholder:"FILE" help:"SQuAD 2.0, for task qa_1."`
	HotpotQA string    `name:"hotpotqa" type:"path" placeholder:"FILE" help:"HotpotQA, for task qa_2."`
	Needle   []float64 `placeholder:"N,..." help:"Ask in turn with these what 'eval needle' asks, of the same text at these depths."`
	taskFlag
	questionFlags
}

// Validate is called by the parser.
func (c *rulerCommand) Validate() error {
	if c.File == "" {
		return errors.New("no haystack: give a long text with --file")
	}
	return c.questionFlags.Validate()
}

// Run is called by the parser.
func (c *rulerCommand) Run(con *console) error {
	text, err := con.readFile(c.File)
	if err != nil {
		return err
	}
	tasks, err := ruler.Tasks(ruler.Options{Essay: text, NQ: c.NQ, SQuAD: c.SQuAD, HotpotQA: c.HotpotQA})
	if err == nil && len(c.Needle) > 0 {
		var needle task.Task
		if needle, err = grid.Needle(text, c.Needle); err != nil {
			return misuse{err}
		}
		tasks = append([]task.Task{needle}, tasks...)
	}
	return c.askThese(con, c.taskFlag, tasks, err)
}

// fileFlag is where a benchmark's questions stand.
type fileFlag struct {
	File []string `short:"f" sep:"none" placeholder:"FILE" help:"The benchmark's JSON lines, plain or gzip, as they are published; repeat it for more."`
}

// Validate reports that there are none.
func (f *fileFlag) Validate() error {
	if len(f.File) == 0 {
		return errors.New("no questions: give the benchmark's file with --file")
	}
	return nil
}

type longbenchCommand struct {
	fileFlag
	taskFlag
	questionFlags
}

// Validate is called by the parser.
func (c *longbenchCommand) Validate() error {
	return errors.Join(c.fileFlag.Validate(), c.questionFlags.Validate())
}

// Run is called by the parser.
func (c *longbenchCommand) Run(con *console) error {
	tasks, err := longbench.Tasks(longbench.Options{Files: c.File})
	return c.askThese(con, c.taskFlag, tasks, err)
}

// one is a benchmark of one task a file.
type one struct {
	fileFlag
	questionFlags
}

// Validate is called by the parser.
func (c *one) Validate() error { return errors.Join(c.fileFlag.Validate(), c.questionFlags.Validate()) }

// ask asks the tasks of every file.
func (c *one) ask(con *console, read func(file string) ([]task.Task, error)) error {
	var all []task.Task
	for _, file := range c.File {
		tasks, err := read(file)
		if err != nil {
			return err
		}
		all = append(all, tasks...)
	}
	return c.questionFlags.ask(con, all, false)
}

type (
	kvCommand    struct{ one }
	linesCommand struct{ one }
	gsm8kCommand struct{ one }
)

// Run is called by the parser.
func (c *kvCommand) Run(con *console) error {
	return c.ask(con, func(file string) ([]task.Task, error) { return retrieval.Tasks(retrieval.Options{KV: file}) })
}

// Run is called by the parser.
func (c *linesCommand) Run(con *console) error {
	return c.ask(con, func(file string) ([]task.Task, error) {
		return retrieval.Tasks(retrieval.Options{Lines: []string{file}})
	})
}

// Run is called by the parser.
func (c *gsm8kCommand) Run(con *console) error {
	return c.ask(con, func(file string) ([]task.Task, error) { return gsm8k.Tasks(gsm8k.Options{File: file}) })
}
