package kvcache

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/mem"
)

// A saved cache is one sequence's tokens, keys and values on disk, little-endian. Planes are not in it: they follow from the keys, and are made anew for whatever
// pipelines the loading cache serves. Sections begin at multiples of 64 bytes, so that rows can be used in a mapping:
//
//	header    80 bytes, then padding: see SavedHeader, ended by its own CRC-32C
//	checksums layers × heads × (CRC-32C of keys, of values), then that of the tokens
//	tokens    int32 each
//	rows      per layer, per KV head: keys [tokens][dim] fp16, then values alike
const (
	savedMagic   = "TWLTKV\r\n" // the line end shows a transfer in text mode
	savedVersion = 1
	savedHeader  = 80
	savedFP16    = 1 // element type; the only one so far
	savedAlign   = 64
)

// Limits on what a header may claim: far beyond any model, and near enough that sizes cannot overflow unseen.
const (
	maxSavedDim    = 1 << 16
	maxSavedTokens = 1 << 30
)

// ErrSaved is in the error of a saved cache that cannot be used: damaged, of another version, model or shape. The text says what was found and expected.
var ErrSaved = errors.New("saved cache refused")

// SavedHeader says what a saved cache holds.
type SavedHeader struct {
	Fingerprint          [32]byte // of the model's file
	Layers, KVHeads, Dim int
	Tokens               int
	Bytes                int64 // of the whole file, as follows from the above
}

type savedLayout struct{ sums, tokens, rows, row, total uint64 }

// layout is where the sections stand. ok is false if the sizes overflow.
func (h *SavedHeader) layout() (l savedLayout, ok bool) {
	align := func(n uint64) uint64 { return (n + savedAlign - 1) &^ (savedAlign - 1) }
	heads := uint64(h.Layers) * uint64(h.KVHeads)
	l.sums = align(savedHeader)
	l.tokens = align(l.sums + heads*8 + 4)
	l.rows = align(l.tokens + uint64(h.Tokens)*4)
	l.row = align(uint64(h.Tokens) * uint64(h.Dim) * 2)
	hi, all := bits.Mul64(2*heads, l.row)
	l.total = l.rows + all
	return l, hi == 0 && l.total >= all && l.total < 1<<62
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h *SavedHeader) append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, savedMagic...)
	b = le.AppendUint32(b, savedVersion)
	b = le.AppendUint32(b, savedFP16)
	b = append(b, h.Fingerprint[:]...)
	for _, n := range []int{h.Layers, h.KVHeads, h.Dim} {
		b = le.AppendUint32(b, uint32(n))
	}
	b = le.AppendUint64(b, uint64(h.Tokens))
	b = le.AppendUint64(b, uint64(h.Bytes))
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// ParseSaved reads and checks the header of a saved cache of size bytes, of which data is at least the first eighty. Whatever it returns without an error agrees with the file's
// size. Errors contain ErrSaved.
func ParseSaved(data []byte, size int64) (SavedHeader, error) {
	var h SavedHeader
	le := binary.LittleEndian
	refuse := func(format string, args ...any) (SavedHeader, error) {
		return SavedHeader{}, fmt.Errorf("%w: "+format, append([]any{ErrSaved}, args...)...)
	}
	if len(data) < len(savedMagic) || string(data[:len(savedMagic)]) != savedMagic {
		return refuse("it begins with %q, expected %q", data[:min(len(data), len(savedMagic))], savedMagic)
	}
	if len(data) < savedHeader {
		return refuse("it ends after %d bytes, within the header of %d", len(data), savedHeader)
	}
	if v := le.Uint32(data[8:]); v != savedVersion {
		return refuse("it has version %d, expected %d; save it again", v, savedVersion)
	}
	if want, got := le.Uint32(data[savedHeader-4:]), crc32.Checksum(data[:savedHeader-4], castagnoli); want != got {
		return refuse("its header is damaged: checksum %08x, expected %08x", got, want)
	}
	if t := le.Uint32(data[12:]); t != savedFP16 {
		return refuse("it has rows of type %d, expected %d (fp16)", t, savedFP16)
	}
	copy(h.Fingerprint[:], data[16:48])
	for _, f := range []struct {
		at   int
		name string
		to   *int
		max  uint32
	}{{48, "layers", &h.Layers, maxSavedDim}, {52, "KV heads", &h.KVHeads, maxSavedDim}, {56, "channels", &h.Dim, maxSavedDim}} {
		n := le.Uint32(data[f.at:])
		if n < 1 || n > f.max {
			return refuse("%d %s, expected 1 to %d", n, f.name, f.max)
		}
		*f.to = int(n)
	}
	n := le.Uint64(data[60:])
	if n < 1 || n > maxSavedTokens {
		return refuse("%d tokens, expected 1 to %d", n, maxSavedTokens)
	}
	h.Tokens = int(n)
	l, ok := h.layout()
	if !ok || le.Uint64(data[68:]) != l.total {
		return refuse("its header says %d bytes for %d tokens, which does not agree with %d layers, %d KV heads and %d channels", le.Uint64(data[68:]), h.Tokens, h.Layers, h.KVHeads, h.Dim)
	}
	if h.Bytes = int64(l.total); h.Bytes != size {
		return refuse("it has %d bytes, expected %d: it is cut short or was appended to", size, h.Bytes)
	}
	return h, nil
}

// ReadSaved is the header of the saved cache at path.
func ReadSaved(path string) (SavedHeader, error) {
	f, err := os.Open(path)
	if err != nil {
		return SavedHeader{}, fmt.Errorf("kvcache: reading a saved cache: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return SavedHeader{}, fmt.Errorf("kvcache: reading a saved cache: %w", err)
	}
	b := make([]byte, savedHeader)
	n, _ := f.ReadAt(b, 0) // a short file is told by its header
	h, err := ParseSaved(b[:n], st.Size())
	if err != nil {
		return SavedHeader{}, fmt.Errorf("kvcache: %s: %w", path, err)
	}
	return h, nil
}

// Save writes a sequence of a cache to path, tied to the model with the fingerprint. The file appears whole or not at all: it is written under another name beside
// path, flushed and renamed.
func Save(path string, c Exact, s *Sequence, fingerprint [32]byte) error {
	if s.n < 1 || len(s.Tokens) != s.n {
		return fmt.Errorf("kvcache: saving %s: the sequence has %d cached tokens and %d ids, expected at least one, and as many", path, s.n, len(s.Tokens))
	}
	shape := c.Shape()
	h := SavedHeader{Fingerprint: fingerprint, Layers: shape.Layers, KVHeads: shape.KVHeads, Dim: shape.Dim, Tokens: s.n}
	l, ok := h.layout()
	if !ok || s.n > maxSavedTokens {
		return fmt.Errorf("kvcache: saving %s: %d tokens are more than a file can hold", path, s.n)
	}
	h.Bytes = int64(l.total)
	if err := writeAtomically(path, func(f *os.File) error { return writeSaved(f, c, s, &h, l) }); err != nil {
		return fmt.Errorf("kvcache: saving %s: %w", path, err)
	}
	return nil
}

func writeSaved(f *os.File, c Exact, s *Sequence, h *SavedHeader, l savedLayout) error {
	if _, err := f.Seek(int64(l.tokens), 0); err != nil {
		return err
	}
	w := &sectionWriter{Writer: bufio.NewWriterSize(f, 1<<20)}
	w.section(bytesOf(s.Tokens))
	tokens := w.end()
	var sums []byte
	rows := make([]uint16, attention.BlockTokens*h.Dim)
	for i := range 2 * h.Layers * h.KVHeads {
		err := s.spans(s.n, func(_, n, block int) error {
			part := rows[:n*h.Dim]
			err := c.ReadRows(part, i/2/h.KVHeads, i/2%h.KVHeads, Kind(i%2), int32(block))
			w.section(bytesOf(part))
			return err
		})
		if err != nil {
			return err
		}
		sums = binary.LittleEndian.AppendUint32(sums, w.end())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	sums = binary.LittleEndian.AppendUint32(sums, tokens)
	if _, err := f.WriteAt(sums, int64(l.sums)); err != nil {
		return err
	}
	_, err := f.WriteAt(h.append(nil), 0)
	return err
}

// sectionWriter writes sections with their checksums. Errors surface in Flush.
type sectionWriter struct {
	*bufio.Writer
	sum uint32
	n   int
}

func (w *sectionWriter) section(b []byte) {
	w.sum = crc32.Update(w.sum, castagnoli, b)
	w.n += len(b)
	w.Write(b) //nolint:errcheck // bufio keeps the first error for Flush
}

// end pads the section and returns its checksum.
func (w *sectionWriter) end() uint32 {
	sum := w.sum
	w.Write(make([]byte, -w.n&(savedAlign-1))) //nolint:errcheck // as above
	w.sum, w.n = 0, 0
	return sum
}

// bytesOf views numbers as bytes in the machine's order, which is little-endian on everything that this package supports.
func bytesOf[T uint16 | int32](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// writeAtomically lets f fill a file that gets its name when it is complete and on the disk.
func writeAtomically(path string, f func(*os.File) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = f(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(tmp.Name()))
	}
	return err
}

// Load makes s, a sequence of c, the one saved at path. A file of another model, version or shape, or a damaged one, is ErrSaved with what was found and expected; one that
// needs more blocks than are free is ErrFull. After an error the sequence is empty.
func Load(path string, c Exact, s *Sequence, fingerprint [32]byte) (err error) {
	s.Release()
	data, err := mem.Map(path)
	if err != nil {
		return fmt.Errorf("kvcache: loading %s: %w", path, err)
	}
	defer func() {
		if e := mem.Unmap(data); err == nil {
			err = e
		}
		if err != nil {
			s.Release()
			err = fmt.Errorf("kvcache: loading %s: %w", path, err)
		}
	}()
	h, err := ParseSaved(data, int64(len(data)))
	if err != nil {
		return err
	}
	if h.Fingerprint != fingerprint {
		return fmt.Errorf("%w: it was saved from another model: fingerprint %x…, expected %x…", ErrSaved, h.Fingerprint[:8], fingerprint[:8])
	}
	if shape := c.Shape(); h.Layers != shape.Layers || h.KVHeads != shape.KVHeads || h.Dim != shape.Dim {
		return fmt.Errorf("%w: it has %d layers of %d KV heads with %d channels, expected %d, %d and %d", ErrSaved, h.Layers, h.KVHeads, h.Dim, shape.Layers, shape.KVHeads, shape.Dim)
	}
	if err := s.Reserve(h.Tokens); err != nil {
		return err
	}
	return readSaved(data, c, s, &h)
}

// readSaved fills the reserved blocks of s from a checked file.
func readSaved(data []byte, c Exact, s *Sequence, h *SavedHeader) error {
	l, _ := h.layout()
	sums, heads := data[l.sums:], h.Layers*h.KVHeads
	check := func(i int, section []byte, what string, args ...any) error {
		if want, got := binary.LittleEndian.Uint32(sums[4*i:]), crc32.Checksum(section, castagnoli); want != got {
			return fmt.Errorf("%w: "+what+" are damaged: checksum %08x, expected %08x", append(append([]any{ErrSaved}, args...), got, want)...)
		}
		return nil
	}
	tokens := data[l.tokens:][:h.Tokens*4]
	if err := check(2*heads, tokens, "the tokens"); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range 2 * heads {
		g.Go(func() error {
			section := data[l.rows+uint64(i)*l.row:][:h.Tokens*h.Dim*2]
			if err := check(i, section, "the %s of layer %d, head %d", Kind(i%2), i/2/h.KVHeads, i/2%h.KVHeads); err != nil {
				return err
			}
			rows := mem.Slice[uint16](section)
			return s.spans(h.Tokens, func(at, n, block int) error {
				return c.WriteRows(rows[at*h.Dim:][:n*h.Dim], i/2/h.KVHeads, i/2%h.KVHeads, Kind(i%2), int32(block))
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.Advance(h.Tokens)
	s.Tokens = append(s.Tokens[:0], mem.Slice[int32](tokens)...)
	return c.Derive(s)
}
