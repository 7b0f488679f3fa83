// Package device is the contract between models and the machines that run them: the operations of a transformer step, and tensors that live where the device computes.
//
// The interfaces here are for decoupling: a device of one's own is not an extension point. The consumer is package model, which says in terms of them what a step
// is; a device that runs a step as one graph records the same calls.
package device

import (
	"math"
	"sync"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/mem"
	"github.com/twilight-go/twilight/internal/tensor"
)

// Tensor is float32 activations, row-major, in the memory of the device that allocated it. It lives until the device closes.
type Tensor struct {
	Rows, Cols int
	Data       []float32 // host devices: Rows × Cols
	Addr       uintptr   // others: the address on the device
}

// Top is the first n rows.
func (t Tensor) Top(n int) Tensor {
	t.Rows = n
	if t.Data != nil {
		t.Data = t.Data[:n*t.Cols]
	}
	return t
}

// Row is row i of a tensor of a host device.
func (t Tensor) Row(i int) []float32 { return t.Data[i*t.Cols:][:t.Cols:t.Cols] }

// Matrix is a weight matrix as it stands in a model file: Rows outputs, each a row of Cols inputs in blocks of Type. The data must outlive the device.
type Matrix struct {
	Name       string // for errors
	Type       tensor.Type
	Rows, Cols int
	Data       []byte
}

// Weight is a matrix that a device has taken in. It belongs to that device.
type Weight interface{ Shape() (rows, cols int) }

// Linear is one product of a step: Dst = x · Wᵀ (+ Bias). Several products of one x are given together, so that a device prepares x once.
type Linear struct {
	W    Weight
	Bias []float32 // nil: none
	Dst  Tensor    // at least as many rows as x
	// Fine asks for more than 8 bits of x where a device quantises it, as products that feed a softmax need. The products of
	// one x share the answer.
	Fine bool
}

// Activation is the non-linearity of a gated feed-forward layer.
type Activation int

// The activations of the supported architectures.
const (
	SiLU Activation = iota // x·σ(x)
	GELU                   // the tanh approximation, as the models were trained with
)

// Mode says how the rows of a segment attend.
type Mode int

const (
	// Prompt rows attend densely to everything up to themselves.
	Prompt Mode = iota
	// Decode rows each are a decode step of the segment's pipeline: row i is appended, then attends, before row i+1 is appended. Many rows of one
	// sequence (scoring a known text) thus give what as many single steps give.
	Decode
)

// Segment is the rows of one sequence in a step: rows [Row,Row+N) are its tokens at positions Pos…; Reserve was called for them, and Advance is called after the step.
type Segment struct {
	Seq      *kvcache.Sequence
	Row, N   int
	Pos      int
	Mode     Mode
	Pipeline *attention.Pipeline
	Stats    *attention.Stats // nil: not counted
	// Observers are shown the queries of a segment in Prompt mode: attention.Observers of the pipelines that the sequence or a fork of it may decode with.
	Observers []*attention.Pipeline
}

// Cache is a device's key-value cache.
type Cache interface {
	NewSequence() *kvcache.Sequence
	// Free is the number of free blocks and of all.
	Free() (free, all int)
	// BlockBytes is what a block of attention.BlockTokens tokens costs: exact keys and values, and planes.
	BlockBytes() (exact, planes int)
	Close() error
}

// Room is what a cache finds on a device, in bytes. HostFree and HostBlock are of this machine's memory, for a device that keeps exact keys and values there and all else in its own; 0: it does
// not. A number that is not known is 0 too.
type Room struct {
	Free, HostFree   int64 // beside what the device holds already
	Step             int64 // what the largest step needs, whatever the blocks
	Block, HostBlock int64 // a block of attention.BlockTokens tokens: all layers, and the planes of all pipelines
}

// HostRoom is the room of a device whose cache is a kvcache.Host.
func HostRoom(s kvcache.Shape, planes []attention.Plane) Room {
	return Room{Free: mem.Available(), Block: int64(s.BlockBytes(planes))}
}

// Blocks is how many blocks there is room for.
func (r Room) Blocks() int {
	n := int64(math.MaxInt32 / attention.BlockTokens)
	if r.Free > 0 {
		n = min(n, max(r.Free-r.Step, 0)/max(r.Block, 1))
	}
	if r.HostFree > 0 && r.HostBlock > 0 {
		n = min(n, r.HostFree/r.HostBlock)
	}
	return int(n)
}

// Attention is one layer's attention: the rows' keys and values are appended to the cache and the rows attend.
type Attention struct {
	Layer               int
	Heads, KVHeads, Dim int
	Scale               float32 // of the logits, usually 1/√Dim
	Window              int     // tokens in sight, 0: all
	Q, K, V, Out        Tensor  // [rows][heads·Dim]; Q may be overwritten
	Cache               Cache
	Segments            []Segment
}

// Rope is rotary position embedding over the first 2·len(Freq) channels of each head.
type Rope struct {
	Freq        []float64 // radians a position, per pair of channels
	Magnitude   float64   // factor on the rotated channels (YaRN's attention scale); 1 usually
	Interleaved bool      // pairs are channels 2i,2i+1 (llama); else i, i+len(Freq) (neox)

	mu    sync.Mutex
	table []float32 // [position][cos…, sin…]
}

// Table is the cosines and sines of positions [0,n): 2·len(Freq) values a position, cosines first. It grows as positions are asked for; the returned slice stays valid.
func (r *Rope) Table(n int) []float32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := 2 * len(r.Freq)
	if have := len(r.table) / w; have < n {
		n = max(n, have+have/2, 256)
		t := make([]float32, n*w)
		copy(t, r.table)
		for p := have; p < n; p++ {
			for i, f := range r.Freq {
				s, c := math.Sincos(float64(p) * f)
				t[p*w+i], t[p*w+len(r.Freq)+i] = float32(c*r.Magnitude), float32(s*r.Magnitude)
			}
		}
		r.table = t
	}
	return r.table
}

// Plan is what a step is about to do, told before its operations.
type Plan struct {
	Tokens   []int32 // by row: what Embed is called with
	Pos      []int32 // by row: what Rope is called with
	Segments []Segment
	Logits   []int32 // what Pick is called with
	Cache    Cache
	Choice   Choice
}

// Choice is what becomes of a step's logits.
type Choice int

// The choices.
const (
	ReadLogits Choice = iota // they are read
	BestToken                // the step ends with the Chooser's Choose
	TopTokens                // the step ends with the Chooser's List
)

// Listed is how many tokens a Top lists, and MassError how far off its mass may be, as a share of it.
const (
	Listed    = 256
	MassError = 1e-5
)

// Top is the most likely tokens of a row of logits: those within 64 of the largest, but at most Listed.
type Top struct {
	Count int32 // listed; 0: the device could not tell, and the logits must be read
	_     int32
	Mass  float64 // sum over all tokens of exp(logit − largest)
	ID    [Listed]int32
	Logit [Listed]float32 // falling; of equal ones the lower id is first
}

// Chooser is a device that finds the most likely tokens itself, so that logits need not leave it.
type Chooser interface {
	// Choose finds the first of the largest of each row; the last operation of a step.
	Choose(src Tensor)
	// Chosen copies what Choose found to host memory, and waits for it.
	Chosen(dst []int32)
	// List finds the most likely tokens of each row; the last operation of a step.
	List(src Tensor)
	// Listed copies what List found to host memory, and waits for it.
	Listed(dst []Top)
	// Row copies one row of src to host memory, once the step that made it is over.
	Row(dst []float32, src Tensor, row int)
}

// Device runs the operations of a step, in order. Dimensions are checked when a model is loaded; an operation with tensors that do not fit is a bug and may panic.
// Not safe for concurrent use, except for Weight during loading.
type Device interface {
	// Name is "reference", "cpu" or "cuda"; Description says more, for a person.
	Name() string
	Description() string
	// Weight takes a matrix in. An error names the matrix and a type that the device cannot compute with.
	Weight(m Matrix) (Weight, error)
	// Alloc makes activations, contents undefined.
	Alloc(rows, cols int) (Tensor, error)
	// Room says what a cache of that shape would find.
	Room(s kvcache.Shape, planes []attention.Plane) (Room, error)
	// Cache makes a key-value cache.
	Cache(s kvcache.Shape, blocks int, planes []attention.Plane) (Cache, error)

	// Step runs a step: ops calls the operations below, all but Read, which comes after. A device may record them and, when a step of the same form comes again,
	// repeat them on the new plan without calling ops. An error of a device that finds out late what failed is returned here, and the device can go on.
	Step(p *Plan, ops func() error) error
	// Embed sets row i of dst to row ids[i] of w, times scale.
	Embed(dst Tensor, w Weight, ids []int32, scale float32)
	// Norm sets dst to src normalised by its root mean square over each run of len(weight) channels, times weight. dst may be src.
	Norm(dst, src Tensor, weight []float32, eps float32)
	// Linear computes several products of x.
	Linear(x Tensor, out []Linear)
	// Rope rotates the heads of dim channels in each row of x to position pos[row].
	Rope(x Tensor, r *Rope, dim int, pos []int32)
	// Attend runs a layer's attention. It fails if a pipeline reads what the cache does not keep.
	Attend(a *Attention) error
	// Gate sets gate to act(gate)·up.
	Gate(gate, up Tensor, act Activation)
	// Pick copies the listed rows of src, in order, to the first rows of dst.
	Pick(dst, src Tensor, rows []int32)
	// Add adds src to dst.
	Add(dst, src Tensor)
	// Read copies rows of src to host memory, and waits for what computes them.
	Read(dst []float32, src Tensor)
	Close() error
}
