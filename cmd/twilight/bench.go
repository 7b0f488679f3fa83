package main

type benchCommand struct {
	Attention benchAttention `cmd:"" help:"Time, bytes and error of decode attention by itself, on real queries and keys."`
	Decode    benchDecode    `cmd:"" help:"Time of a decode step at some depths, and of prompts."`
	Serve     benchServe     `cmd:"" help:"Many requests that come and go: tokens a second, and what a reader waits for."`
	Kernels   benchKernels   `cmd:"" help:"What this machine can do at all, and what products and dense attention reach of it."`
}
