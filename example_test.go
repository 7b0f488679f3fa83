package twilight_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/twilight-go/twilight"
)

// Many conversations are answered at once, each on a goroutine of its own.
func ExampleModel_NewBatch() {
	ctx := context.Background()
	m, err := twilight.Open(ctx, "smollm2-135m", twilight.Options{Attention: "twilight", Context: 4096, Sequences: 8, Fit: true})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	b := m.NewBatch(twilight.BatchOptions{Chunk: 64})
	defer b.Close()
	var all sync.WaitGroup
	for _, question := range []string{"What is the capital of France?", "And of Peru?"} {
		all.Go(func() {
			r, err := b.Chat(ctx, "", []twilight.Message{{Role: "user", Content: question}}, twilight.Request{MaxTokens: 50})
			if err != nil {
				log.Print(err)
				return
			}
			fmt.Println(question, r.Text)
		})
	}
	all.Wait()
}
