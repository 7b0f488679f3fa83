// Command twilight runs open-weight language models over long contexts, reading only the tokens that matter.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/twilight-go/twilight/internal/catalog"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitMisuse      = 2
	exitInterrupted = 130 // as shells report a program ended by Ctrl-C
)

// misuse is an error of the command line, not of the work.
type misuse struct{ error }

type commands struct {
	Run       runCommand       `cmd:"" help:"Answer one prompt, from arguments, --file or standard input."`
	Chat      chatCommand      `cmd:"" help:"Talk to a model; /help lists what can be typed."`
	Prefill   prefillCommand   `cmd:"" help:"Read a long text once and save its cache, or check a saved one."`
	Pull      pullCommand      `cmd:"" help:"Fetch models."`
	List      listCommand      `cmd:"" help:"List models, or with --methods the parts of attention specs."`
	Rm        rmCommand        `cmd:"" help:"Delete fetched models."`
	Inspect   inspectCommand   `cmd:"" help:"Say what is in a model file and what fits in this machine."`
	Calibrate calibrateCommand `cmd:"" help:"Learn from a text what some selectors want to know beforehand."`
	Eval      evalCommand      `cmd:"" help:"Measure what sparse attention costs in quality."`
	Report    reportCommand    `cmd:"" help:"Draw what evaluations found as a page of HTML."`
	Bench     benchCommand     `cmd:"" help:"Measure speed."`
	Version   versionCommand   `cmd:"" help:"Print the version."`
}

// console is where a command reads and writes. Text goes to out; progress and statistics to err.
type console struct {
	ctx context.Context
	in  io.Reader
	out io.Writer
	err io.Writer
}

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the whole program in one call, and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var cli commands
	exit := -1 // set by --help
	parser, err := kong.New(&cli, kong.Name("twilight"), kong.Writers(stdout, stderr), kong.Exit(func(code int) { exit = code }),
		kong.Description("Long-context inference with adaptive attention sparsity. Start with: twilight run \"What is the capital of France?\""),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, Tree: true}), vars())
	if err != nil {
		return report(stderr, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		return report(stderr, misuse{err})
	}
	return report(stderr, parsed.Run(&console{ctx, stdin, stdout, stderr}))
}

// report prints an error as one line and gives its exit code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "twilight: interrupted")
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "twilight:", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "twilight: "), "\n", "; "))
	if _, ok := errors.AsType[misuse](err); ok || errors.Is(err, catalog.ErrUnknown) {
		return exitMisuse
	}
	return exitFailed
}

// interruptible is the console's context until Ctrl-C, which ends the work cleanly; a second Ctrl-C ends the program.
func (c *console) interruptible() (ctx context.Context, stop func()) {
	ctx, stop = signal.NotifyContext(c.ctx, os.Interrupt)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
