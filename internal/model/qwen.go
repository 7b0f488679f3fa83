package model

// qwen2: Qwen 1.5 to 2.5, with biases on the query, key and value products. qwen3: no biases, a norm on each query and key head. Both are what the
// tensors in the file say, so nothing is left to set.
func init() {
	architectures["qwen2"] = func(*reader, *Hyper) {}
	architectures["qwen3"] = func(*reader, *Hyper) {}
}
