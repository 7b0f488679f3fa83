package calibrate

import "github.com/twilight-go/twilight/attention"

// bestAnchors chooses at most n layers such that the layers between them, each taking over what the last of them selected, hold the most mass on average; the first is
// the first layer that is sparse by default. held is by selecting and by reusing layer, zero for layers that nobody sees. It returns the anchors and the mean over the
// sparse layers that were seen.
func bestAnchors(held [][]float64, n int) (anchors []int, mean float64) {
	layers := len(held)
	first := attention.DefaultDenseLayers
	for first < layers && held[first][first] == 0 {
		first++
	}
	if first >= layers {
		return nil, 0
	}
	// best[k][b] is the largest sum over layers [first,b) with k anchors, the last of which is last[k][b].
	best, last := make([][]float64, n+1), make([][]int, n+1)
	for k := range best {
		best[k], last[k] = make([]float64, layers+1), make([]int, layers+1)
	}
	seen := 0.0
	for b := first + 1; b <= layers; b++ {
		best[1][b] = best[1][b-1] + held[first][b-1]
		last[1][b] = first
		if held[b-1][b-1] > 0 {
			seen++
		}
	}
	for k := 1; k < n; k++ {
		for a := first + 1; a < layers; a++ {
			if held[a][a] == 0 {
				continue
			}
			sum := best[k][a]
			for b := a + 1; b <= layers; b++ {
				if sum += held[a][b-1]; sum > best[k+1][b] {
					best[k+1][b], last[k+1][b] = sum, a
				}
			}
		}
	}
	k := 1
	for i := range best { // more anchors than one gain as a rule, but not always
		if best[i][layers] > best[k][layers] {
			k = i
		}
	}
	mean = best[k][layers] / seen
	anchors = make([]int, k)
	for b := layers; k > 0; k-- {
		b = last[k][b]
		anchors[k-1] = b
	}
	return anchors, mean
}
