package eval

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The kinds of rows.
const (
	KindSample = "sample" // one question, answered by one spec: Answer is set
	KindText   = "text"   // the last tokens of one text, scored by one spec: Text is set
)

// Row is one line of an evaluation's file: what one attention spec did with one question or one text. Rows are written as they come, so their order says nothing. The
// fields of Answer, Text and Attention stand in the same JSON object: every number has one name, whatever the kind.
type Row struct {
	Kind string `json:"kind"` // KindSample or KindText; readers skip kinds that they do not know

	Task   string `json:"task"`             // "needle", "niah_single_1", …; "text" for KindText
	Sample string `json:"sample"`           // the sample's id within its task; for KindText the text's name
	Label  string `json:"label"`            // the spec as it was asked for: a preset's name, or its text
	Spec   string `json:"spec"`             // the spec's canonical text
	Size   int    `json:"length"`           // tokens asked for, template and answer included
	Seed   uint64 `json:"seed"`             // of the samples; 0 for KindText
	Prompt string `json:"prompt_hash"`      // of the prompt's tokens, or of the text's
	Scored int    `json:"scored,omitempty"` // KindText: tokens scored, the last of the text

	Model       string `json:"model"`             // as it was named
	Fingerprint string `json:"model_fingerprint"` // of the file's size, header and some of its bytes
	Device      string `json:"device"`            // its name and what it runs on
	// PromptDevice is what read the prompt, where it was not Device: its name and what it runs on.
	PromptDevice string `json:"prompt_device,omitempty"`
	Threads      int    `json:"threads"`
	Version      string `json:"version"` // of this program

	Context int `json:"ctx"` // tokens of the prompt, or of the text

	*Answer
	*Text
	Attention
}

// Answer is the part of a KindSample row about the answer.
type Answer struct {
	Score  float64 `json:"score"`  // in [0,1]
	Metric string  `json:"metric"` // how it was scored
	Reply  string  `json:"answer"` // without white space around it
	// Expected is what was asked for: the first few of what the metric compares with.
	Expected  []string  `json:"expected"`
	Depths    []float64 `json:"depth_percent,omitempty"` // where the answers stand in the prompt, in percent, where the task knows it
	Generated int       `json:"generated_tokens"`
	Reason    string    `json:"finish_reason"` // "stop": ended by the model; "stop-text": by the task; "scored": nothing more could change a score of 1; "length": by the task's limit
	Seconds   float64   `json:"seconds"`       // of all decode steps; a step of several answers counts in equal parts
	Prefill   float64   `json:"prefill_s"`     // of the dense prefill that all specs share, waiting for PromptDevice included
}

// Text is the part of a KindText row about the text's last tokens. Lists by step are means over windows of StepTokens scored positions; the last window may be shorter.
type Text struct {
	Perplexity float64   `json:"ppl"`
	KL         float64   `json:"kl"`     // KL(dense ‖ spec) of the next-token distribution, nats, the mean over positions
	KL99       float64   `json:"kl_p99"` // one position in a hundred diverges more
	Agree      float64   `json:"top1_agreement"`
	NLLSteps   []float64 `json:"nll_by_step"` // negative log-likelihood of the text's own tokens, nats
	KLSteps    []float64 `json:"kl_by_step"`
	MicrosStep float64   `json:"us_per_step"` // median time of a decode step, without measuring; 0 if not timed
	Speedup    float64   `json:"speedup_vs_dense"`
}

// Attention is what attention read, over the row's decode steps. Means are over the sparse layers and their heads; of dense attention, which keeps everything, over all.
type Attention struct {
	ContextMean float64 `json:"context_mean"` // tokens in sight
	Candidates  float64 `json:"candidates_mean"`
	Kept        float64 `json:"kept_mean"`  // survivors of a head: the paper's budget B1
	Pruned      float64 `json:"pruned"`     // 1 − kept/context
	Union       float64 `json:"union_mean"` // tokens read by a KV head: the union of its group's survivors
	Bytes       float64 `json:"bytes_per_step"`
	DenseBytes  float64 `json:"dense_bytes_per_step"` // a KV head and step
	Measured    bool    `json:"measured"`             // whether mass and error were measured; they are 0 if not
	Mass        float64 `json:"mass"`                 // true attention mass of what was attended
	OutErr      float64 `json:"out_err"`              // ‖o − o_dense‖/‖o_dense‖ of a head's output
	// Audits is how many audits a spec with audit= made, AuditMass the true mass that they estimate, and AuditHalf the half-width of its 95 % interval; 1: nothing is known.
	Audits    int64   `json:"audits,omitempty"`
	AuditMass float64 `json:"audit_mass,omitempty"`
	AuditHalf float64 `json:"audit_mass_half_width,omitempty"`
	// KeptHeads and MassHeads are the means of each query head, [layer][head]; an empty list is a layer that stayed dense. Both are left out of a dense spec's rows, and
	// MassHeads where it was not measured.
	KeptHeads [][]float64 `json:"kept_heads,omitempty"`
	MassHeads [][]float64 `json:"mass_heads,omitempty"`
	// KeptSteps is the mean kept tokens in each window of StepTokens decode steps, in order, and MassSteps their mass: the time line. The last window may be shorter.
	// Steps that stayed dense, because the text was still short, are 0.
	StepTokens int       `json:"step_tokens,omitempty"`
	KeptSteps  []float64 `json:"kept_by_step,omitempty"`
	MassSteps  []float64 `json:"mass_by_step,omitempty"`
}

// ErrRow is in the error of a file that holds something else than rows.
var ErrRow = errors.New("not a row of an evaluation")

// MaxRow is the longest line that is read or written, in bytes: some hundred layers of as many heads, and a time line of some ten thousand steps.
const MaxRow = 8 << 20

// ReadRows reads rows to the end. A last line without its line break was being written when somebody stopped it, and is left out. An error names the line, and comes
// with the rows before it.
func ReadRows(r io.Reader) ([]Row, error) {
	rows, _, err := readRows(r)
	return rows, err
}

// readRows is ReadRows, and says how many bytes the whole lines have.
func readRows(r io.Reader) (rows []Row, whole int64, err error) {
	in := bufio.NewReaderSize(r, 1<<16)
	var line []byte
	for n := 1; ; n++ {
		line, err = readLine(in, line[:0])
		switch {
		case errors.Is(err, io.EOF):
			if !beginsRow(line) {
				return rows, whole, fmt.Errorf("eval: line %d: %w", n, ErrRow)
			}
			return rows, whole, nil
		case err != nil:
			return rows, whole, fmt.Errorf("eval: line %d: %w", n, err)
		}
		whole += int64(len(line)) + 1
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var row Row
		if err := json.Unmarshal(line, &row); err != nil {
			return rows, whole, fmt.Errorf("eval: line %d: %w: %w", n, ErrRow, err)
		}
		if err := row.check(); err != nil {
			return rows, whole, fmt.Errorf("eval: line %d: %w: %w", n, ErrRow, err)
		}
		rows = append(rows, row)
	}
}

// readLine appends the next line without its break; io.EOF comes with what stood behind the last break.
func readLine(in *bufio.Reader, line []byte) ([]byte, error) {
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > MaxRow {
			return line, fmt.Errorf("%w: it has more than %d bytes", ErrRow, MaxRow)
		}
		line = append(line, part...)
		if err == nil {
			return line[:len(line)-1], nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// rowStart is how every row begins.
const rowStart = `{"kind":"`

// beginsRow reports whether a torn line may have been a row, so that nobody's novel is taken for one and cut.
func beginsRow(line []byte) bool {
	n := min(len(line), len(rowStart))
	return string(line[:n]) == rowStart[:n]
}

// check reports a row that lacks the part that its kind promises, or whose lists do not fit together.
func (r *Row) check() error {
	switch {
	case r.Kind == "":
		return errors.New("it has no kind")
	case r.Kind == KindSample && r.Answer == nil, r.Kind == KindText && r.Text == nil:
		return fmt.Errorf("it is of kind %s, but has none of its fields", r.Kind)
	case len(r.MassHeads) > 0 && len(r.MassHeads) != len(r.KeptHeads):
		return fmt.Errorf("it has masses of %d layers, but kept tokens of %d", len(r.MassHeads), len(r.KeptHeads))
	}
	for l := range r.MassHeads {
		if len(r.MassHeads[l]) != len(r.KeptHeads[l]) {
			return fmt.Errorf("layer %d has masses of %d heads, but kept tokens of %d", l, len(r.MassHeads[l]), len(r.KeptHeads[l]))
		}
	}
	return nil
}
