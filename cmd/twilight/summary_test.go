package main

import "testing"

// The line about attention says what the audits found, where there were any.
func TestSummaryAudit(t *testing.T) {
	s := summary{Spec: "quest+when:audit=8,ensure=0.85", Sparse: true, KeptMean: 250, ContextMean: 1000, Pruned: 0.75, UnionMean: 400, Audits: 12, AuditMass: 0.8604, AuditError: 0.0041}
	const kept = "attention quest+when:audit=8,ensure=0.85: kept 250 tokens a head of 1000 on average, 75.0 % pruned; read 400 a KV head"
	const held = "; sparse attention held 0.860 ± 0.004 of the mass, by 12 audits"
	if got := s.attention(); got != kept+held {
		t.Errorf("got %s", got)
	}
	s.Short = 7
	const short = ", and 7 steps of a KV head were dense for lack of it"
	if got := s.attention(); got != kept+held+short {
		t.Errorf("got %s", got)
	}
	s.Sparse, s.ContextMean = false, 900
	if got := s.attention(); got != "attention quest+when:audit=8,ensure=0.85: kept all of 900 tokens"+held+short {
		t.Errorf("got %s", got)
	}
	s.Audits, s.Short, s.Sparse, s.ContextMean = 0, 0, true, 1000
	if got := s.attention(); got != kept {
		t.Errorf("got %s", got)
	}
}
