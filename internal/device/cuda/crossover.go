package cuda

// decided is the mode of a step of so many sequences with so many tokens together: dense, where it is left to the operator whether selecting pays, and it does not.
func (o *Operator) decided(m Mode, batch, tokens int) Mode {
	if !m.Dense && m.DenseBelow == 0 && !o.pays(m, batch, tokens) {
		return Mode{Dense: true}
	}
	return m
}

// held is how many tokens sequences [first,first+batch) have.
func (o *Operator) held(first, batch int) (n int) {
	for _, l := range o.lens[first : first+batch] {
		n += int(l)
	}
	return n
}

// pays says whether a sparse step takes less time than a dense one, by what both took on an H200, in µs and thousands of tokens of one KV head: dense attention reads everything. Selecting is a chain of
// dependent stages that takes its time however little there is to select from, longer for wide groups and for heads that keep their own survivors, and less where there are no pages to choose; to that
// comes what a thread block has to look through, more where more pages are candidates. Where the memory is slower selecting pays a little earlier.
func (o *Operator) pays(m Mode, batch, tokens int) bool {
	const nearly = 0.94 // what both take differs by the text
	all, group, keep := float32(tokens*o.KVHeads)/1000, float32(o.Group), min(m.Keep, 1)
	block := max(float32(tokens)/float32(1000*batch*o.ranks(batch)), all/float32(o.lib.dev.Multiprocessor))
	dense := 4 + 0.92e-3*float32(o.Dim)*all
	begin, each := 16+0.75*group, 1.1+(3.6+0.3*group)*keep
	if keep == 1 {
		begin -= 4
	}
	if m.PerHead {
		begin, each = begin+0.4*group, each*(0.85+0.15*group)
	}
	return begin+each*block < nearly*dense
}
