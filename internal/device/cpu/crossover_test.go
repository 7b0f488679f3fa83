package cpu

import (
	"testing"

	"github.com/twilight-go/twilight/attention"
)

func TestCrossing(t *testing.T) {
	for _, c := range []struct {
		name string
		took [2][2]float64 // at 1024 and 4096 tokens: dense, sparse
		want int
	}{
		{"always faster", [2][2]float64{{10, 1}, {40, 2}}, 512},
		{"from between the two on", [2][2]float64{{10, 18}, {40, 20}}, 3072},      // 9 + 27x = 18 + 2x at x = 0.36 times 3072 tokens beyond 1024
		{"from beyond the second on", [2][2]float64{{10, 40}, {40, 60}}, 1 << 14}, // 9 + 27x = 40 + 20x at x = 4.43
		{"never", [2][2]float64{{10, 20}, {40, 80}}, NeverSparse},
		{"as fast, and so not worth it", [2][2]float64{{10, 10}, {40, 40}}, NeverSparse},
		{"faster while short, slower a token", [2][2]float64{{10, 1}, {40, 39}}, 512},
		{"so late that no text is as long", [2][2]float64{{10, 1e6}, {40, 1e6}}, NeverSparse},
	} {
		if got := crossing(c.took); got != c.want {
			t.Errorf("%s: from %d tokens on, expected %d", c.name, got, c.want)
		}
	}
}

// What is measured depends on the machine, what can be answered does not.
func TestCrossover(t *testing.T) {
	d, err := New(2)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	shape := attention.Shape{Layers: 4, KVHeads: 2, Group: 3, Dim: 64}
	for _, text := range []string{"dense", "twilight+when:dense-layers=4"} {
		if n, err := d.Crossover(attention.MustNew(text), shape); err != nil || n != NeverSparse {
			t.Errorf("%s: from %d tokens on, %v", text, n, err)
		}
	}
	specs := []string{"full+page-range+top-p:0.9,union,tail=mean"}
	for _, p := range attention.Presets[1:] {
		specs = append(specs, p.Spec)
	}
	for _, text := range specs {
		n, err := d.Crossover(attention.MustNew(text), shape)
		if err != nil || n < attention.DefaultMinContext || n != NeverSparse && n&(n-1) != 0 && n%3 != 0 {
			t.Errorf("%s: from %d tokens on, %v", text, n, err)
		}
		t.Logf("%s: %d", text, n)
	}
}

func BenchmarkCrossover(b *testing.B) {
	d, err := New(1)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for _, s := range []attention.Shape{{Layers: 30, KVHeads: 3, Group: 3, Dim: 64}, {Layers: 24, KVHeads: 2, Group: 7, Dim: 64}, {Layers: 28, KVHeads: 2, Group: 6, Dim: 128}, {Layers: 18, KVHeads: 1, Group: 4, Dim: 256}} {
		for _, p := range attention.Presets[1:] {
			b.Run(p.Name, func(b *testing.B) {
				for b.Loop() {
					n, err := d.Crossover(attention.MustNew(p.Name), s)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(n), "tokens")
				}
			})
		}
	}
}
