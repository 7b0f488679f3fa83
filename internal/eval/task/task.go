// Package task is what an evaluation by questions is made of: samples with known answers, and metrics.
package task

// Sample is one question. It is plain data: the same name, seed, size and tokenizer give the same sample.
type Sample struct {
	ID string // unique within its task, stable between runs
	// Prompt is the user's message, or the text to be continued where Raw.
	Prompt string
	Raw    bool   // without the chat template, as the benchmark's authors ask for some tasks
	Begin  string // how the answer begins: given to the model, not part of what it answers
	// Answers are what the metric compares with: all that are to be found, or the accepted alternatives, as the task's metric says.
	Answers []string
	// Classes are the labels of a classification task, for its metric; nil otherwise.
	Classes   []string
	MaxTokens int      // of the answer
	Stop      []string // texts that end the answer
}

// Size says how large samples are to be made, and how text is counted.
type Size struct {
	Tokens int                   // of the whole sample, the answer's MaxTokens included; generators fill up to it, files are cut in the middle to it
	Count  func(text string) int // tokens of a text
	// Cut takes the first and last tokens of a text, head+tail tokens in all, as benchmarks truncate in the middle.
	Cut func(text string, head, tail int) string
}

// Task makes samples and scores answers. Implementations hold no state that a call changes.
type Task interface {
	// Name is the task's published name, e.g. "niah_multikey_2".
	Name() string
	// Samples makes n samples from the seed; fewer if the task is a file with fewer. An error says what was missing.
	Samples(n int, seed uint64, size Size) ([]Sample, error)
	// Score is the metric of an answer, in [0,1].
	Score(s *Sample, answer string) float64
	// Metric names the score: "string_match_all", "f1", "rouge-l", "exact".
	Metric() string
}
