package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"unsafe"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// capture is the content of a file of command capture, which says how it is laid out.
type capture struct {
	dim, group, tokens, window int
	at                         []int
	heads                      []capturedHead
	rows                       [][]float32 // keys of each head as floats, made when first asked for
	once                       []sync.Once
}

type capturedHead struct {
	q    []float32 // [len(at)][window][group][dim]
	k, v []uint16  // fp16 [tokens][dim]
}

// readCapture reads a file, packed by gzip or not.
func readCapture(path string) (*capture, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if raw, err = io.ReadAll(z); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	r := &reader{rest: raw}
	if string(r.bytes(8)) != "TWLTCAP1" {
		return nil, fmt.Errorf("%s: no file of command capture", path)
	}
	d := &capture{dim: r.int(), group: r.int()}
	heads := r.int()
	d.tokens = r.int()
	positions := r.int()
	d.window = r.int()
	for range min(positions, 64) {
		d.at = append(d.at, r.int())
	}
	for range min(heads, 1024) {
		h := capturedHead{q: r.floats(positions * d.window * d.group * d.dim)}
		h.k, h.v = d.blocks(r), d.blocks(r)
		d.heads = append(d.heads, h)
	}
	if r.short || len(r.rest) != 0 {
		return nil, fmt.Errorf("%s: its size does not agree with its header (%d heads, %d tokens)", path, heads, d.tokens)
	}
	d.rows, d.once = make([][]float32, len(d.heads)), make([]sync.Once, len(d.heads))
	return d, nil
}

type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.short = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) int() int {
	b := r.bytes(4)
	if b == nil {
		return 0
	}
	return int(binary.LittleEndian.Uint32(b))
}

func (r *reader) floats(n int) []float32 {
	b := r.bytes(4 * n)
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}

func (d *capture) blocks(r *reader) (rows []uint16) {
	for b := 0; b < d.tokens && !r.short; b += attention.BlockTokens {
		low, step := r.floats(d.dim), r.floats(d.dim)
		codes := r.bytes(min(attention.BlockTokens, d.tokens-b) * d.dim)
		for i, u := range codes {
			rows = append(rows, tensor.F32ToF16(low[i%d.dim]+step[i%d.dim]*float32(u)))
		}
	}
	return rows
}

// query is one query in fp16: head, index of the context, position in the window, query head.
func (d *capture) query(head, at, w, g int) []uint16 {
	q := make([]uint16, d.dim)
	for c, x := range d.heads[head].q[((at*d.window+w)*d.group+g)*d.dim:][:d.dim] {
		q[c] = tensor.F32ToF16(x)
	}
	return q
}

// weights is the exact softmax of a query over the first n tokens.
func (d *capture) weights(head, at, w, g, n int) []float64 {
	d.once[head].Do(func() { d.rows[head] = floats(d.heads[head].k) })
	q, k := floats(d.query(head, at, w, g)), d.rows[head]
	p, top, sum := make([]float64, n), math.Inf(-1), 0.0
	for t := range p {
		var s float32
		row := k[t*d.dim:][:len(q)]
		for c, x := range q {
			s += x * row[c]
		}
		p[t] = float64(s) / math.Sqrt(float64(d.dim))
		top = max(top, p[t])
	}
	for t, x := range p {
		p[t] = math.Exp(x - top)
		sum += p[t]
	}
	for t := range p {
		p[t] /= sum
	}
	return p
}

func floats(h []uint16) []float32 {
	f := make([]float32, len(h))
	for i, x := range h {
		f[i] = tensor.F16ToF32(x)
	}
	return f
}

func bytesOf(x []uint16) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 2*len(x))
}
