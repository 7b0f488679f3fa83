// Package attention is the heart of Twilight: attention that decides, per head, layer and step, how many tokens it needs (arXiv 2502.02770).
//
// A decode step of one KV head runs four stages. A Selector proposes candidate tokens from cheap metadata; an Estimator computes their logits from
// low-bit codes of the keys; a Pruner keeps the fewest that hold the wanted mass; exact attention then runs over the survivors alone. Which parts stand
// in which stage is a Spec, a value that a person can also type: quest:keep=0.25+int4+top-p:0.9.
//
// The package is plain Go on slices. It knows no device, model or server: Kernels is the arithmetic that a device may replace, Runner its workers,
// Plane what a cache must keep beside the keys. To add a method, write one file with a Selector and Register it (see select_streaming.go for the shortest).
package attention
