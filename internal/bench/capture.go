package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twilight-go/twilight/attention"
	"github.com/twilight-go/twilight/internal/catalog"
	"github.com/twilight-go/twilight/internal/checkpoint"
	"github.com/twilight-go/twilight/internal/device"
	"github.com/twilight-go/twilight/internal/device/cpu"
	"github.com/twilight-go/twilight/internal/engine"
	"github.com/twilight-go/twilight/internal/kvcache"
	"github.com/twilight-go/twilight/internal/model"
	"github.com/twilight-go/twilight/tokenizer"
)

// step is the attention of one decode step in all layers, as a model asked for it: real queries over the cache of a real text.
type step struct {
	host *kvcache.Host
	seq  *kvcache.Sequence // its tokens, the step's own included, are those in sight
	q    [][]float32       // by layer: [query heads][channels], after RoPE, scaled
}

// recorder is a device that keeps what the last decode step attended with.
type recorder struct {
	*cpu.Device
	step
}

// Cache implements device.Device.
func (r *recorder) Cache(s kvcache.Shape, blocks int, planes []attention.Plane) (device.Cache, error) {
	c, err := r.Device.Cache(s, blocks, planes)
	if err == nil {
		r.host, r.q = c.(*kvcache.Host), make([][]float32, s.Layers)
	}
	return c, err
}

// Attend implements device.Device.
func (r *recorder) Attend(a *device.Attention) error {
	if s := &a.Segments[0]; s.Mode == device.Decode {
		r.seq = s.Seq
		q := append(r.q[a.Layer][:0], a.Q.Row(s.Row)...)
		for i := range q {
			q[i] *= a.Scale
		}
		r.q[a.Layer] = q
	}
	return r.Device.Attend(a)
}

// source is an open model that decodes a text on a recorder.
type source struct {
	hyper model.Hyper
	rec   *recorder
	base  *engine.Session // the text as far as it is cached
	text  []int32
	close []func() error
}

// openSource opens a model and caches the text up to the last of the lengths, which are ascending: from a saved cache, or by reading the text, and that with the first layers alone if
// their number is not 0.
func openSource(ctx context.Context, b *Attention, pipes []*attention.Pipeline, layers int) (_ *source, err error) {
	s := &source{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	path, err := catalog.Resolve(ctx, b.Model, catalog.Options{Progress: b.progress})
	if err != nil {
		return nil, err
	}
	file, meta, err := checkpoint.OpenFile(path)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, file.Close)
	dev, err := cpu.New(b.Threads)
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, dev.Close)
	s.rec = &recorder{Device: dev}
	size := file.Size()
	if layers > 0 && b.Load == "" {
		file = shallow{file, layers}
	}
	m, err := model.Load(file, s.rec, model.Options{Progress: func(done int64) { b.progress("loading "+b.Model, done, size) }})
	if err != nil {
		return nil, err
	}
	s.hyper = m.Hyper
	if b.Load == "" {
		tok, err := tokenizer.FromGGUF(meta)
		if err != nil {
			return nil, err
		}
		s.text = tok.Encode(b.Text, tokenizer.EncodeOptions{AddSpecial: true})
		return s, s.cache(ctx, b, m, pipes, len(s.text))
	}
	h, err := kvcache.ReadSaved(b.Load)
	if err != nil {
		return nil, err
	}
	return s, s.cache(ctx, b, m, pipes, h.Tokens)
}

// cache makes the engine and fills its cache, of a text that has the given number of tokens.
func (s *source) cache(ctx context.Context, b *Attention, m *model.Model, pipes []*attention.Pipeline, have int) error {
	if len(b.Contexts) == 0 {
		b.Contexts = []int{have}
	}
	last := b.Contexts[len(b.Contexts)-1]
	if last > have || have < b.Steps+3 {
		return fmt.Errorf("bench: a context of %d tokens and %d steps: the text has %d tokens, expected that many and at least %d", last, b.Steps, have, b.Steps+3)
	}
	room := last
	if b.Load != "" {
		room = have
	}
	e, err := engine.New(m, engine.Config{Context: room, Spare: 3 + b.Steps/attention.BlockTokens, Pipelines: pipes})
	if err != nil {
		return err
	}
	s.close = append(s.close, e.Close)
	s.base = e.NewSession(attention.MustNew("dense"))
	if b.Load != "" {
		b.progress("loading "+b.Load, 0, 0)
		if err := s.base.Load(b.Load); err != nil {
			return err
		}
		s.text = slices.Clone(s.base.Tokens())
		return nil
	}
	_, _, err = s.base.Prefill(ctx, s.text[:last], func(done, total int) { b.progress("reading the text", int64(done), int64(total)) })
	return err
}

// layers are those after the first skip without a sliding window.
func (s *source) layers(skip int) (list []int) {
	for l := skip; l < s.hyper.Layers; l++ {
		if s.hyper.Sliding == nil || !s.hyper.Sliding[l] {
			list = append(list, l)
		}
	}
	return list
}

// replay decodes the text's tokens [from,to) behind those before them, and calls f after each.
func (s *source) replay(ctx context.Context, from, to int, f func(i int) error) error {
	fork := s.base.Fork(attention.MustNew("dense"))
	defer fork.Close()
	if _, _, err := fork.Prefill(ctx, s.text[:from], nil); err != nil {
		return err
	}
	for i, id := range s.text[from:to] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := fork.Step(id); err != nil {
			return err
		}
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

// Close ends everything, the last opened first.
func (s *source) Close() error {
	if s.base != nil {
		s.base.Close()
	}
	var errs []error
	for _, f := range slices.Backward(s.close) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
