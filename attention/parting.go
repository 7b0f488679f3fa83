package attention

import "sync"

// parting is where forks of a sequence part: what they make of the tokens that they share, each with what it is for, they make once for all of them. They may do so concurrently.
type parting struct {
	at   int // tokens
	mu   sync.Mutex
	kept map[string]any // *common of some type
}

// joining is a State that makes something expensive of a text. Forks of the text make it together if their first step follows the tokens that they share.
type joining interface{ join(p *parting) }

// joined has a state join, if it does and there are others.
func (p *parting) joined(s State) {
	if j, ok := s.(joining); ok && p != nil {
		j.join(p)
	}
}

// common is something that forks make once for all of them, for each of some heads. Nobody changes it afterwards.
type common[T any] struct {
	at    int // tokens that it is made of
	heads []once[T]
}

type once[T any] struct {
	sync.Once
	made T
}

// commonOf is what goes by a name, for so many heads.
func commonOf[T any](p *parting, name string, heads int) *common[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.kept[name].(*common[T]); ok {
		return c
	}
	c := &common[T]{p.at, make([]once[T], heads)}
	if p.kept == nil {
		p.kept = map[string]any{}
	}
	p.kept[name] = c
	return c
}

// covers reports whether it is made of the first n tokens. A nil one never is.
func (c *common[T]) covers(n int) bool { return c != nil && c.at == n }

// head is what was made for head i; if nothing was, it is made now.
func (c *common[T]) head(i int, make func() T) T {
	o := &c.heads[i]
	o.Do(func() { o.made = make() })
	return o.made
}
