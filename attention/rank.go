package attention

import "math"

// kthLargest is the k-th largest of x (1 ≤ k ≤ len(x)), and how many elements equal to it belong to the k largest. scratch has len(x) elements and is overwritten; x is not.
// Quickselect with a median-of-three pivot; NaN counts as −Inf, so that a damaged score is never preferred.
func kthLargest(scratch, x []float32, k int) (t float32, ties int) {
	s := scratch[:len(x)]
	for i, v := range x {
		if v != v {
			v = negInf
		}
		s[i] = v
	}
	lo, hi := 0, len(s)-1
	for lo < hi {
		pivot := median3(s[lo], s[(lo+hi)/2], s[hi])
		i, j := lo, hi
		for i <= j {
			for s[i] > pivot {
				i++
			}
			for s[j] < pivot {
				j--
			}
			if i <= j {
				s[i], s[j] = s[j], s[i]
				i++
				j--
			}
		}
		if k-1 <= j {
			hi = j
		} else if k-1 >= i {
			lo = i
		} else {
			break
		}
	}
	t, ties = s[k-1], k
	for _, v := range x {
		if v > t {
			ties--
		}
	}
	return t, ties
}

func median3(a, b, c float32) float32 {
	return max(min(a, b), min(max(a, b), c))
}

// logSumExp is ln Σ exp(x); scratch has len(x) elements.
func logSumExp(k Kernels, x, scratch []float32) float32 {
	top := k.Max(x)
	if top == negInf {
		return negInf
	}
	copy(scratch, x)
	return top + float32(math.Log(float64(k.Exp(scratch[:len(x)], top))))
}
