package model

// llama: Llama 1 to 3, SmolLM, Mistral and the many that follow them. Converters permute the query and key rows so that rotated channels are neighbours.
func init() {
	architectures["llama"] = func(_ *reader, h *Hyper) { h.Rope.Interleaved = true }
}
