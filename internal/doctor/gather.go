package doctor

import (
	"context"
	"sync"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// Asker is what Gather needs of *control.Client.
type Asker interface {
	Status(ctx context.Context, resource string) (control.Status, error)
	Facts(ctx context.Context) (control.Facts, error)
}

// Gather asks for the status, and each node for its facts; on returns who asks a node. A node that does not
// answer is part of the result. Errors: of the status.
func Gather(ctx context.Context, ask Asker, on func(node string) Asker) (*Cluster, error) {
	st, err := ask.Status(ctx, "")
	if err != nil {
		return nil, err
	}
	c := &Cluster{Status: st, Nodes: make([]Node, len(st.Nodes))}
	var wg sync.WaitGroup
	for i, n := range st.Nodes {
		c.Nodes[i].Name = n.Name
		wg.Go(func() {
			f, err := on(n.Name).Facts(ctx)
			if err != nil {
				c.Nodes[i].Silent = err.Error()
				return
			}
			c.Nodes[i].Facts = &f
		})
	}
	wg.Wait()
	return c, nil
}
