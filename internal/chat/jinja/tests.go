package jinja

import (
	"errors"
	"strings"
)

func makeTests() map[string]*builtin {
	is := func(f func(v Value) bool) *builtin {
		return &builtin{"", func(_ *machine, v Value, _ []Value) (Value, error) { return f(v), nil }}
	}
	compare := func(op string) *builtin {
		return &builtin{"other", func(m *machine, v Value, a []Value) (Value, error) { return m.compareOp(op, v, a[0]) }}
	}
	equal, less, greater := compare("=="), compare("<"), compare(">")
	unequal, atMost, atLeast := compare("!="), compare("<="), compare(">=")
	divisible := func(by func(n int64, a []Value) (int64, int64, error)) func(m *machine, v Value, a []Value) (Value, error) {
		return func(_ *machine, v Value, a []Value) (Value, error) {
			n, ok := asInt(v)
			if !ok {
				return nil, errors.New("expected an integer")
			}
			d, want, err := by(n, a)
			if err != nil {
				return nil, err
			}
			return n%d == want || n%d == want-d, nil
		}
	}
	cased := func(convert func(string) string) *builtin {
		return &builtin{"", func(m *machine, v Value, _ []Value) (Value, error) {
			s, err := m.str(v)
			if err != nil {
				return nil, err
			}
			return isCased(s, convert(s)), m.grow(3 * len(s))
		}}
	}
	return map[string]*builtin{
		"defined":   is(func(v Value) bool { _, no := v.(undefined); return !no }),
		"undefined": is(func(v Value) bool { _, yes := v.(undefined); return yes }),
		"none":      is(func(v Value) bool { return v == None }),
		"true":      is(func(v Value) bool { return v == true }),
		"false":     is(func(v Value) bool { return v == false }),
		"boolean":   is(func(v Value) bool { _, yes := v.(bool); return yes }),
		"integer":   is(func(v Value) bool { _, yes := v.(int64); return yes }),
		"float":     is(func(v Value) bool { _, yes := v.(float64); return yes }),
		"number":    is(func(v Value) bool { _, yes := asFloat(v); return yes }),
		"string":    is(func(v Value) bool { _, yes := v.(string); return yes }),
		"mapping":   is(func(v Value) bool { _, yes := v.(*Dict); return yes }),
		"sequence":  is(isSequence),
		"iterable":  is(isSequence),
		"callable":  is(func(v Value) bool { _, yes := v.(callable); return yes }),
		"escaped":   is(func(Value) bool { return false }),
		"filter":    is(func(v Value) bool { s, ok := v.(string); return ok && filters[s] != nil }),
		"test":      is(func(v Value) bool { s, ok := v.(string); return ok && tests[s] != nil }),
		"lower":     cased(strings.ToLower),
		"upper":     cased(strings.ToUpper),
		"odd":       {"", divisible(func(int64, []Value) (int64, int64, error) { return 2, 1, nil })},
		"even":      {"", divisible(func(int64, []Value) (int64, int64, error) { return 2, 0, nil })},
		"divisibleby": {"num", divisible(func(_ int64, a []Value) (int64, int64, error) {
			d, err := orInt(a[0], 0)
			if err == nil && d == 0 {
				err = errors.New("division by zero")
			}
			return d, 0, err
		})},
		"in": compare("in"),
		"sameas": {"other", func(m *machine, v Value, a []Value) (Value, error) {
			if s, ok := v.(string); ok {
				if err := m.scan(len(s)); err != nil {
					return nil, err
				}
			}
			return v == a[0], nil
		}},
		"eq": equal, "==": equal, "equalto": equal,
		"ne": unequal, "!=": unequal,
		"lt": less, "<": less, "lessthan": less,
		"le": atMost, "<=": atMost,
		"gt": greater, ">": greater, "greaterthan": greater,
		"ge": atLeast, ">=": atLeast,
	}
}

// isSequence holds for what has items and a length. What is undefined counts as empty, as in Jinja2.
func isSequence(v Value) bool {
	switch v.(type) {
	case string, *List, *Dict, undefined:
		return true
	}
	return false
}
