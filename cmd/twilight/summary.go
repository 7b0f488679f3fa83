package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/twilight-go/twilight"
	"github.com/twilight-go/twilight/attention"
)

// summary is what a generation did, for --json and for the lines below an answer.
type summary struct {
	Text        string  `json:"text"`
	Model       string  `json:"model"`
	Device      string  `json:"device"`
	Spec        string  `json:"attention"`
	Reason      string  `json:"finish_reason"`
	Seed        *uint64 `json:"seed,omitempty"`
	Prompt      int     `json:"prompt_tokens"`
	Cached      int     `json:"cached_tokens"`
	Generated   int     `json:"generated_tokens"`
	PromptRate  float64 `json:"prompt_tokens_per_s"`
	DecodeRate  float64 `json:"decode_tokens_per_s"`
	PromptTime  float64 `json:"prompt_s"`
	DecodeTime  float64 `json:"decode_s"`
	Sparse      bool    `json:"sparse"`       // whether any step pruned; the three below are about those
	KeptMean    float64 `json:"kept_mean"`    // tokens a head
	ContextMean float64 `json:"context_mean"` // tokens in sight
	Pruned      float64 `json:"pruned"`
	UnionMean   float64 `json:"union_mean"`            // tokens read by a KV head
	Audits      int64   `json:"audits,omitempty"`      // estimates of the attended mass, by KV head; the next two are what they say of the answer
	AuditMass   float64 `json:"audit_mass,omitempty"`  // mean over heads and steps
	AuditError  float64 `json:"audit_error,omitempty"` // half-width of its 95 % interval
	Short       int64   `json:"short_steps,omitempty"` // steps of a KV head made dense for lack of mass
	KVBytes     int     `json:"kv_bytes"`
	CodesBytes  int     `json:"codes_bytes"`
}

func summarize(r *twilight.Result, model string, m *twilight.Model, spec string, s *twilight.Sampling) *summary {
	a := r.Attention
	o := &summary{Text: r.Text, Model: model, Device: m.Device(), Spec: spec, Reason: string(r.Reason), Prompt: r.Prompt, Cached: r.Cached, Generated: len(r.Tokens),
		PromptTime: r.PromptTime.Seconds(), DecodeTime: r.DecodeTime.Seconds(), Sparse: a.Steps > 0, KeptMean: r.MeanContext, ContextMean: r.MeanContext, UnionMean: r.MeanContext,
		Audits: a.Audits, AuditMass: a.AuditMass, AuditError: a.AuditError, Short: a.Short, KVBytes: r.Exact, CodesBytes: r.Planes}
	if n := r.Prompt - r.Cached; n > 0 && o.PromptTime > 0 {
		o.PromptRate = float64(n) / o.PromptTime
	}
	if r.Steps > 0 && o.DecodeTime > 0 {
		o.DecodeRate = float64(r.Steps) / o.DecodeTime
	}
	if o.Sparse {
		o.KeptMean, o.ContextMean, o.Pruned, o.UnionMean = a.Kept, a.Context, a.Pruned, a.Union
	}
	if s.Temperature > 0 {
		o.Seed = &s.Seed
	}
	return o
}

// print writes the lines below an answer.
func (s *summary) print(w io.Writer) {
	prompt := fmt.Sprintf("prompt %d tokens", s.Prompt)
	if s.Cached > 0 {
		prompt += fmt.Sprintf(" (%d cached)", s.Cached)
	}
	line := fmt.Sprintf("%s, %.1f/s · answer %d tokens, %.1f/s", prompt, s.PromptRate, s.Generated, s.DecodeRate)
	switch s.Reason {
	case "length":
		line += " · ended by --max-tokens"
	case "context":
		line += " · ended because the context is full"
	}
	if s.Seed != nil {
		line += fmt.Sprintf(" · seed %d", *s.Seed)
	}
	fmt.Fprintf(w, "%s\n%s\ncache %s of keys and values, %s of codes · %s on %s\n", line, s.attention(), size(int64(s.KVBytes)), size(int64(s.CodesBytes)), s.Model, s.Device)
}

func (s *summary) attention() string {
	p, err := attention.Parse(s.Spec)
	if err != nil {
		return "attention " + s.Spec
	}
	name := "attention " + s.Spec
	if full := p.String(); full != s.Spec {
		name += " (" + full + ")"
	}
	switch {
	case s.Sparse:
		return fmt.Sprintf("%s: kept %.0f tokens a head of %.0f on average, %.1f %% pruned; read %.0f a KV head%s", name, s.KeptMean, s.ContextMean, 100*s.Pruned, s.UnionMean, s.audit())
	case s.Audits > 0:
		return fmt.Sprintf("%s: kept all of %.0f tokens%s", name, s.ContextMean, s.audit())
	case p.Dense() || s.Generated < 2:
		return fmt.Sprintf("%s: kept all of %.0f tokens on average", name, s.ContextMean)
	}
	if p.MinContext == attention.AutoMinContext {
		return fmt.Sprintf("%s: kept all of %.0f tokens on average, because texts as short are read faster so", name, s.ContextMean)
	}
	return fmt.Sprintf("%s: kept all of %.0f tokens on average, because texts under %d stay dense", name, s.ContextMean, p.MinContext)
}

// audit is what the audits say, empty if there were none.
func (s *summary) audit() string {
	if s.Audits == 0 {
		return ""
	}
	text := fmt.Sprintf("; sparse attention held %.3f ± %.3f of the mass, by %d audits", s.AuditMass, s.AuditError, s.Audits)
	if s.Short > 0 {
		text += fmt.Sprintf(", and %d steps of a KV head were dense for lack of it", s.Short)
	}
	return text
}

// writeJSON writes v as one line.
func writeJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// table writes rows in columns, the first row being the heads: numbers to the right, texts to the left.
func table(w io.Writer, rows [][]string) {
	width := make([]int, len(rows[0]))
	right := make([]bool, len(rows[0]))
	for i, r := range rows {
		for c, s := range r {
			width[c] = max(width[c], len([]rune(s)))
			if i == 1 && s != "" {
				right[c] = strings.ContainsRune("0123456789.-", rune(s[0])) && !strings.ContainsAny(s, ":+")
			}
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for c, s := range r {
			pad := strings.Repeat(" ", width[c]-len([]rune(s)))
			switch {
			case right[c]:
				b.WriteString(pad + s + "  ")
			default:
				b.WriteString(s + pad + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
