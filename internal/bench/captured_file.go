package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/tensor"
)

// A capture on disk, little-endian:
//
//	magic    8 bytes
//	header   uint32: channels, group, KV heads of the model, heads, contexts, window, bytes of the model's name
//	         uint32 each context; the name
//	heads    uint32 layer, KV head; fp16 queries [contexts][window][group][dim]; keys, then values alike: per block of attention.BlockTokens tokens float32 low[dim], step[dim] and
//	         a byte for each number, [tokens][dim], which is low + step·byte
//	checksum CRC-32C of all before it
//
// Bytes between a channel's extremes over a block are half of fp16, and far finer than the codes that estimates are made from.
const captureMagic = "TWLTCAP2"

// Limits on what a header may claim: far beyond any model, and sizes cannot overflow.
const (
	maxCaptureDim      = 1 << 10
	maxCaptureHeads    = 1 << 12
	maxCaptureContexts = 1 << 8
	maxCaptureTokens   = 1 << 24
	maxCaptureName     = 1 << 10
	maxCaptureBytes    = 1 << 34
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCapture is in the error of a file that is no capture, or a damaged one.
var ErrCapture = errors.New("capture refused")

// Save writes c to a file.
func (c *Capture) Save(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("bench: saving a capture: %w", err)
	}
	if _, err = c.WriteTo(f); err == nil {
		err = f.Close()
	} else {
		f.Close() //nolint:errcheck // the first error counts
	}
	if err != nil {
		return errors.Join(fmt.Errorf("bench: saving a capture: %w", err), os.Remove(path))
	}
	return nil
}

// WriteTo implements io.WriterTo. Keys and values lose what a byte between the extremes of a channel over a block does not hold.
func (c *Capture) WriteTo(to io.Writer) (int64, error) {
	w := &captureWriter{w: bufio.NewWriterSize(to, 1<<20)}
	w.write([]byte(captureMagic))
	for _, n := range append([]int{c.Dim, c.Group, c.KVHeads, len(c.Heads), len(c.Contexts), c.Window, len(c.Model)}, c.Contexts...) {
		w.number(n)
	}
	w.write([]byte(c.Model))
	for i := range c.Heads {
		h := &c.Heads[i]
		w.number(h.Layer)
		w.number(h.Head)
		for _, x := range h.q {
			w.write(binary.LittleEndian.AppendUint16(w.buf[:0], x))
		}
		w.rows(h.k, c.Dim)
		w.rows(h.v, c.Dim)
	}
	w.number(int(w.sum))
	return w.n, w.w.Flush()
}

// captureWriter sums what it writes. Errors surface in Flush.
type captureWriter struct {
	w   *bufio.Writer
	sum uint32
	n   int64
	buf [4]byte
}

func (w *captureWriter) write(b []byte) {
	w.sum = crc32.Update(w.sum, castagnoli, b)
	w.n += int64(len(b))
	w.w.Write(b) //nolint:errcheck // bufio keeps the first error for Flush
}

func (w *captureWriter) number(n int) {
	w.write(binary.LittleEndian.AppendUint32(w.buf[:0], uint32(n)))
}

// rows writes fp16 rows block by block.
func (w *captureWriter) rows(x []uint16, dim int) {
	low, step, codes := make([]float32, dim), make([]float32, dim), make([]byte, attention.BlockTokens*dim)
	for at := 0; at < len(x); at += attention.BlockTokens * dim {
		block := x[at:min(at+attention.BlockTokens*dim, len(x))]
		for i, u := range block {
			f, c := tensor.F16ToF32(u), i%dim
			if i < dim {
				low[c], step[c] = f, f
			}
			low[c], step[c] = min(low[c], f), max(step[c], f)
		}
		for c := range dim {
			step[c] = (step[c] - low[c]) / 255
		}
		for i, u := range block {
			c := i % dim
			codes[i] = 0
			if step[c] > 0 {
				codes[i] = byte(min(max((tensor.F16ToF32(u)-low[c])/step[c]+0.5, 0), 255))
			}
		}
		for _, f := range append(low[:dim:dim], step...) {
			w.number(int(math.Float32bits(f)))
		}
		w.write(codes[:len(block)])
	}
}

// ReadCapture reads a file that Save wrote. Errors of its content contain ErrCapture.
func ReadCapture(path string) (*Capture, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("bench: reading a capture: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxCaptureBytes))
	if err != nil {
		return nil, fmt.Errorf("bench: reading a capture: %w", err)
	}
	c, err := ParseCapture(raw)
	if err != nil {
		return nil, fmt.Errorf("bench: %s: %w", path, err)
	}
	return c, nil
}

// ParseCapture reads the bytes of a file that Save wrote.
func ParseCapture(raw []byte) (*Capture, error) {
	refuse := func(format string, args ...any) (*Capture, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{ErrCapture}, args...)...)
	}
	if len(raw) < len(captureMagic)+4 || string(raw[:len(captureMagic)]) != captureMagic {
		return refuse("it begins with %q, expected %q", raw[:min(len(raw), len(captureMagic))], captureMagic)
	}
	body := raw[:len(raw)-4]
	if want, got := binary.LittleEndian.Uint32(raw[len(body):]), crc32.Checksum(body, castagnoli); want != got {
		return refuse("its checksum is %08x, expected %08x: it is damaged or cut short", got, want)
	}
	r := captureReader(body[len(captureMagic):])
	c := &Capture{}
	var heads, contexts, name int
	for _, f := range []struct {
		what string
		to   *int
		max  int
	}{{"channels", &c.Dim, maxCaptureDim}, {"query heads a group", &c.Group, maxCaptureHeads}, {"KV heads", &c.KVHeads, maxCaptureHeads}, {"captured heads", &heads, maxCaptureHeads},
		{"contexts", &contexts, maxCaptureContexts}, {"positions", &c.Window, maxCaptureTokens}, {"bytes of the model's name", &name, maxCaptureName}} {
		if *f.to = r.number(); *f.to < 1 || *f.to > f.max {
			return refuse("%d %s, expected 1 to %d", *f.to, f.what, f.max)
		}
	}
	for range contexts {
		c.Contexts = append(c.Contexts, r.number())
	}
	if !ascending(c.Contexts) || c.Contexts[0] < c.Window || c.Tokens() > maxCaptureTokens {
		return refuse("contexts of %d tokens and %d positions, expected them ascending, at most %d tokens, and no more positions than tokens", c.Contexts, c.Window, maxCaptureTokens)
	}
	c.Model = string(r.bytes(name))
	queries := int64(contexts) * int64(c.Window) * int64(c.Group) * int64(c.Dim) * 2
	blocks := int64(c.Tokens()+attention.BlockTokens-1) / attention.BlockTokens
	rows := blocks*int64(c.Dim)*8 + int64(c.Tokens())*int64(c.Dim)
	if want := int64(heads) * (8 + queries + 2*rows); queries > maxCaptureBytes || want != int64(len(r)) {
		return refuse("%d bytes of heads, expected %d: %d heads of %d channels, %d queries a head at %d positions of %d contexts, %d tokens", len(r), want, heads, c.Dim, c.Group, c.Window, contexts, c.Tokens())
	}
	for range heads {
		h := CapturedHead{Layer: r.number(), Head: r.number()}
		q := r.bytes(int(queries))
		h.q = make([]uint16, len(q)/2)
		for i := range h.q {
			h.q[i] = binary.LittleEndian.Uint16(q[2*i:])
		}
		h.k, h.v = r.rows(c.Tokens(), c.Dim), r.rows(c.Tokens(), c.Dim)
		c.Heads = append(c.Heads, h)
	}
	return c, nil
}

// captureReader is what has not been read yet. Beyond its end are zeros, which the header's limits refuse.
type captureReader []byte

func (r *captureReader) bytes(n int) []byte {
	n = min(n, len(*r))
	b := (*r)[:n]
	*r = (*r)[n:]
	return b
}

func (r *captureReader) number() int {
	if b := r.bytes(4); len(b) == 4 {
		return int(binary.LittleEndian.Uint32(b))
	}
	return 0
}

func (r *captureReader) rows(tokens, dim int) []uint16 {
	x := make([]uint16, 0, tokens*dim)
	low, step := make([]float32, dim), make([]float32, dim)
	for at := 0; at < tokens; at += attention.BlockTokens {
		for _, s := range [][]float32{low, step} {
			for c := range s {
				s[c] = math.Float32frombits(uint32(r.number()))
			}
		}
		for i, u := range r.bytes(min(attention.BlockTokens, tokens-at) * dim) {
			x = append(x, tensor.F32ToF16(low[i%dim]+step[i%dim]*float32(u)))
		}
	}
	return x
}
