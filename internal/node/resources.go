package node

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/quorum"
)

const (
	// MinSize is the smallest resource, in bytes: below it the metadata would outweigh the data.
	MinSize = 1 << 20

	goneWithin = 3 * time.Second // wait for the replicas of a deleted resource to be let go
)

// resourceName is what a resource may be called. It becomes an export name, part of a URI and a
// file name on hosts that fold case, so it is lower case.
var resourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// checkCreate judges a request by itself and by the nodes of the cluster.
func checkCreate(req control.CreateRequest, st *quorum.State) error {
	if err := req.Validate(); err != nil {
		return err
	}
	if !resourceName.MatchString(req.Resource) {
		return control.Usagef("resource name %q: use lower-case letters, digits, '-', '_' and '.', at most 63, the first a letter or a digit", req.Resource)
	}
	if req.SizeBytes < MinSize {
		return control.Usagef("size %d is below the smallest resource, 1 MiB", req.SizeBytes)
	}
	if len(req.Replicas) > quorum.MaxReplicas {
		return control.Usagef("%d replicas; at most %d are possible", len(req.Replicas), quorum.MaxReplicas)
	}
	if st.Find(req.Resource) != nil {
		return control.Errorf(control.CodeExists, "resource %s exists", req.Resource).
			WithHint("lockstep status %s", req.Resource).WithSafety(control.SafetyYes)
	}
	for _, r := range req.Replicas {
		switch n := st.Node(r.Node); {
		case n == nil:
			return control.Errorf(control.CodeNotFound, "there is no node %s in this cluster", r.Node).WithSafety(control.SafetyYes)
		case n.Witness:
			return control.Usagef("node %s is a witness: it votes and holds no data", r.Node)
		}
	}
	return nil
}

// CreateResource makes a resource and returns when every node has made and registered its
// replica. If one cannot, the resource is deleted again and the error says why.
func (b *backend) CreateResource(ctx context.Context, req control.CreateRequest) error {
	if err := b.m.ledger.Barrier(ctx); err != nil {
		return control.Errorf(control.CodeNoQuorum, "the ledger has no majority, so nothing can be created: %v", err).
			WithHint("start the missing nodes; lockstep status shows who is there").WithSafety(control.SafetyYes)
	}
	st := b.m.ledger.State()
	if err := checkCreate(req, st); err != nil {
		return err
	}
	if err := b.reachable(ctx, req); err != nil {
		return err
	}
	id := b.m.fresh()
	if err := b.proposeCreate(ctx, req, id); err != nil {
		return err
	}
	b.journal.add(req.Resource, "created", fmt.Sprintf("Created with %d bytes.", req.SizeBytes), "size_bytes", strconv.FormatInt(req.SizeBytes, 10))
	err := b.awaitRegistered(ctx, req.Resource, id)
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), verbTimeout/4)
	defer cancel()
	if rec := b.m.ledger.State().Find(req.Resource); rec != nil && rec.ID == id {
		if derr := b.deleteRecord(undo, rec); derr != nil {
			return fmt.Errorf("%w; and it could not be deleted again: %w", err, derr)
		}
		_ = b.awaitGone(undo, req.Resource, id) // the name is free a little later then
	}
	return err
}

// reachable refuses when a node that is to hold a replica does not answer.
func (b *backend) reachable(ctx context.Context, req control.CreateRequest) error {
	ctx, cancel := context.WithTimeout(ctx, 4*viewTime)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(req.Replicas))
	for i, r := range req.Replicas {
		if r.Node == b.m.self.Node {
			continue
		}
		wg.Go(func() { _, errs[i] = b.asker.ask(ctx, r.Node, question{Op: "view"}) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return control.Errorf(control.CodeUnreachable, "node %s does not answer, and each node makes its own replica: %v", req.Replicas[i].Node, err).
				WithHint("start it, then try again").WithSafety(control.SafetyYes)
		}
	}
	return nil
}

func (b *backend) proposeCreate(ctx context.Context, req control.CreateRequest, id uint64) error {
	c := quorum.CreateResource{SizeBytes: req.SizeBytes, Source: req.Source}
	c.Policy.Lease = quorum.Duration(b.cfg.Lease)
	c.Policy.PeerTimeout = quorum.Duration(b.cfg.PeerTimeout)
	for _, r := range req.Replicas {
		c.Replicas = append(c.Replicas, quorum.NewReplica{Node: r.Node, DataPath: r.DataPath, MetaPath: r.MetaPath, Direct: b.cfg.DirectIO})
	}
	var pause backoff
	var cmd quorum.Command
	unknown := false
	for {
		st := b.m.ledger.State()
		if rec := st.Find(req.Resource); unknown && rec != nil && rec.ID == id {
			return nil
		}
		cmd = quorum.Command{Resource: req.Resource, ResourceID: id, Version: st.Version, CreateResource: &c}
		res, err := attempt(ctx, b.m.ledger, cmd)
		switch {
		case err == nil && res.Code == quorum.CodeExists && res.Resource != nil && res.Resource.ID == id:
			return nil
		case err == nil && res.Code != quorum.CodeStale:
			return refusal(res)
		case err != nil:
			unknown = unknown || outcomeUnknown(err)
		}
		// Stale: another resource or node came first, and our copy of the state may lag behind.
		if !pause.wait(ctx) {
			return lostProposal(&cmd, unknown, err)
		}
	}
}

// awaitRegistered waits until every replica has registered, or one reports an error.
func (b *backend) awaitRegistered(ctx context.Context, name string, id uint64) error {
	for {
		st, more := b.m.watch()
		if st != nil {
			if rec := st.Find(name); rec != nil && rec.ID == id {
				if rec.Registered() {
					return nil
				}
				for i := range rec.Replicas {
					if r := &rec.Replicas[i]; r.Error != "" {
						return control.Errorf(control.CodeFailed, "node %s cannot make its replica of %s: %s", r.Node, name, r.Error).
							WithHint("nothing was created; repair that and try again").WithSafety(control.SafetyYes)
					}
				}
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return control.Errorf(control.CodeFailed, "not every node made its replica of %s in time", name).
				WithHint("nothing was created; lockstep status shows which nodes are there").WithSafety(control.SafetyYes)
		}
	}
}

func (b *backend) awaitGone(ctx context.Context, name string, id uint64) error {
	for {
		st, more := b.m.watch()
		if st != nil {
			if rec := st.Find(name); rec == nil || rec.ID != id {
				return nil
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// DeleteResource forgets a resource that nobody is primary of. Its files stay. It returns when
// the ledger has marked it; the name is free when every node has let its replica go, which an
// absent node does when it is back.
func (b *backend) DeleteResource(ctx context.Context, resource string) error {
	rec, err := b.fresh(ctx, resource)
	if err != nil {
		return err
	}
	if err := b.deleteRecord(ctx, rec); err != nil {
		return err
	}
	b.journal.add(resource, "delete_recorded", "The ledger has marked it deleted.")
	wait, cancel := context.WithTimeout(ctx, goneWithin)
	defer cancel()
	_ = b.awaitGone(wait, resource, rec.ID) // see the comment above
	return nil
}

func (b *backend) deleteRecord(ctx context.Context, rec *quorum.Resource) error {
	id := rec.ID
	var refused error
	done := func(r *quorum.Resource) bool { return r.ID != id || r.Deleted }
	res, err := decide(ctx, b.m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		switch {
		case done(r):
			return nil
		case !r.Primary.None():
			refused = refusedf("%s is primary of %s", r.Primary.Node, r.Name).WithHint("lockstep demote %s --node %s", r.Name, r.Primary.Node)
			return nil
		case len(r.Attachments) > 0:
			at := r.Attachments[0]
			refused = refusedf("%s is attached to %s on %s", r.Name, at.Device, at.Holder).
				WithHint("lockstep detach %s on %s, or, if that host is gone: lockstep attachment drop %s %d", at.Device, at.Holder, r.Name, at.Number)
			return nil
		}
		c := quorum.On(r)
		c.DeleteResource = &quorum.DeleteResource{}
		return &c
	}, done)
	if err == nil {
		err = refused
	}
	if err == nil {
		err = refusal(res)
	}
	return err
}

// ResizeResource grows a resource: first every replica's backing, then the record, and only then
// can a client see the new size (rule 16). A replica that is away refuses the whole of it.
func (b *backend) ResizeResource(ctx context.Context, resource string, sizeBytes int64) error {
	w, rep, rec, err := b.leading(resource)
	if err != nil {
		return err
	}
	if err := control.CheckSize(sizeBytes); err != nil {
		return err
	}
	switch {
	case sizeBytes == rec.SizeBytes:
		return nil
	case sizeBytes < rec.SizeBytes:
		return control.Usagef("%s has %d bytes, and a resource only grows", resource, rec.SizeBytes)
	}
	end, err := w.begin()
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	for _, node := range record.Peers(rec, b.m.self.Node) {
		a, err := b.asker.ask(ctx, node, question{Op: "grow", Resource: resource, ID: rec.ID, Size: sizeBytes})
		if err != nil {
			return refusedf("%s does not answer, and every replica grows before the resource does: %v", node, err).
				WithHint("start %s, then try again; the size is unchanged", node)
		}
		if a.Error != nil {
			return a.Error
		}
	}
	if err := b.grow(w, sizeBytes); err != nil {
		return err
	}
	return b.proposeResize(ctx, w, rep, rec, sizeBytes)
}

func (b *backend) proposeResize(ctx context.Context, w *worker, rep replica, rec *quorum.Resource, sizeBytes int64) error {
	self := w.prop.incumbent()
	done := func(r *quorum.Resource) bool { return r.ID == w.id && r.SizeBytes >= sizeBytes }
	res, err := decide(ctx, b.m.ledger, rec, func(r *quorum.Resource) *quorum.Command {
		if done(r) {
			return nil
		}
		c := quorum.On(r)
		c.Resize = &quorum.Resize{Incumbent: self, SizeBytes: sizeBytes}
		return &c
	}, done)
	if err == nil {
		err = refusal(res)
	}
	if err != nil {
		return err
	}
	if err := rep.SetRecord(record.Project(b.m.ledger.State(), w.prop.note(res.Resource), self, w.prop.peers)); err != nil {
		return err
	}
	b.journal.add(w.name, "resized", fmt.Sprintf("Grown to %d bytes; clients see it when they connect anew.", sizeBytes),
		"size_bytes", strconv.FormatInt(sizeBytes, 10))
	return nil
}
