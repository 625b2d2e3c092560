package node

import (
	"context"
	"os"

	"github.com/lockstep-ha/lockstep/internal/services"
	"github.com/lockstep-ha/lockstep/internal/services/device"
	"github.com/lockstep-ha/lockstep/internal/services/service"
	"github.com/lockstep-ha/lockstep/quorum"
)

// builder returns what makes the carriers of w's services.
func (c *caretakers) builder(w *worker) func(service.Spec) (services.Carrier, error) {
	if c.build != nil {
		return c.build
	}
	return func(s service.Spec) (services.Carrier, error) {
		if s.Kind != service.KindAttach {
			return services.Build(s, w.name, c.m.self.Node)
		}
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		flags := make([]string, len(s.Options))
		for i, o := range s.Options {
			flags[i] = "--" + o
		}
		return device.New(device.Config{
			Resource: w.name, Device: s.Target, Node: c.m.self.Node, Socket: c.socket, Flags: flags, Program: self,
			Release: func(ctx context.Context, own bool) error { return c.release(ctx, w, own) },
		}), nil
	}
}

// release ends the attachments of w that the services of nodes have made which are not its primary any more; with
// own, that of this node, too. The record is read after this node was told that it is primary, and only a primary
// registers: there is none that it does not know of.
func (c *caretakers) release(ctx context.Context, w *worker, own bool) error {
	rec := w.record()
	if rec == nil {
		return nil
	}
	mine := device.Holder(c.m.self.Node)
	return c.m.endAttachment(ctx, rec, func(r *quorum.Resource) *quorum.Detach {
		for i := range r.Attachments {
			if a := &r.Attachments[i]; device.OfServices(a.Holder) && (own || a.Holder != mine) {
				return &quorum.Detach{Number: a.Number, Force: true}
			}
		}
		return nil
	})
}
