package tokenizer

// VocabSize returns the number of tokens; ids run from 0 to VocabSize-1.
func (t *Tokenizer) VocabSize() int { return len(t.v.tokens) }

// Special returns the id of the token with a role, or None.
func (t *Tokenizer) Special(r Role) int32 {
	if r >= numRoles {
		return None
	}
	return t.v.special[r]
}

// BOS returns the token that begins a text, or None.
func (t *Tokenizer) BOS() int32 { return t.Special(RoleBOS) }

// EOS returns the token that ends a text, or None.
func (t *Tokenizer) EOS() int32 { return t.Special(RoleEOS) }

// EOT returns the token that ends a turn, or None.
func (t *Tokenizer) EOT() int32 { return t.Special(RoleEOT) }

// PAD returns the token that fills batches, or None.
func (t *Tokenizer) PAD() int32 { return t.Special(RolePAD) }

// AddBOS reports whether Encode with AddSpecial begins with BOS. A chat template that writes BOS itself is to be encoded without AddSpecial.
func (t *Tokenizer) AddBOS() bool { return t.addBOS }

// AddEOS reports whether Encode with AddSpecial ends with EOS.
func (t *Tokenizer) AddEOS() bool { return t.addEOS }

// IsEOG reports whether a token ends a generation: end of text, of turn or of message, and what is known by its spelling to do so.
func (t *Tokenizer) IsEOG(id int32) bool { return t.v.eog[id] }

// Kind returns what the vocabulary says a token is; Undefined for ids outside it.
func (t *Tokenizer) Kind(id int32) Kind {
	if id < 0 || int(id) >= len(t.v.kinds) {
		return Undefined
	}
	return t.v.kinds[id]
}

// Piece returns the bytes that a token stands for, a control token's name included; "" for ids outside the vocabulary.
func (t *Tokenizer) Piece(id int32) string { return t.pieces.of(id) }

// Token returns a token as the vocabulary spells it (Ġthe or ▁the, not " the"); "" for ids outside the vocabulary.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.v.tokens) {
		return ""
	}
	return t.v.tokens[id]
}

// ID returns the id of the token that the vocabulary spells so.
func (t *Tokenizer) ID(token string) (int32, bool) {
	id, ok := t.v.ids[token]
	return id, ok
}
