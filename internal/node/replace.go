package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/quorum"
)

// ReplaceReplica makes the replica of this node anew at its recorded paths: another instance, which is
// outside of the set, has no history and is copied whole from the primary (rules 13 and 14). It is how a
// disk that failed is replaced on a node that lives on. What is left at the paths is kept beside them; a
// block device is overwritten.
//
// A crash before the new instance is recorded leaves a replica that the ledger does not know. To do it
// again is safe.
func (b *backend) ReplaceReplica(ctx context.Context, resource string) error {
	if _, err := b.fresh(ctx, resource); err != nil {
		return err
	}
	w, rec, err := b.local(resource)
	if err != nil {
		return err
	}
	rep, _ := w.open()
	if err := mayReplace(rec, b.m.self.Node, rep != nil && rep.Fitness().Hangs); err != nil {
		return err
	}
	end, err := w.begin()
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	made := make(chan error, 1)
	select {
	case w.anew <- made:
	case <-ctx.Done():
		return control.Errorf(control.CodeBusy, "the replica of %s here is being opened or closed", resource).WithHint("try again").WithSafety(control.SafetyYes)
	}
	if err := <-made; err != nil {
		return control.Errorf(control.CodeFailed, "no new replica was made: %v", err).
			WithHint("make the paths usable, then the same again").WithSafety(control.SafetyYes)
	}
	b.journal.add(resource, "replica_replaced", b.m.self.Node+" has made its replica anew; it is copied from the primary.")
	return b.awaitInstance(ctx, rec)
}

// mayReplace returns nil if nothing is lost that counts when the replica of self is made anew.
func mayReplace(rec *quorum.Resource, self string, hangs bool) error {
	mine := rec.Replica(self)
	switch {
	case rec.Primary.Node == self:
		return refusedf("%s is primary of %s", self, rec.Name).WithHint("lockstep switchover %s to another node first", rec.Name)
	case mine == nil || mine.Instance == 0 || rec.Epoch == 0:
		return refusedf("%s has made no replica of %s yet that could be replaced", self, rec.Name).WithHint("lockstep status %s", rec.Name)
	case mine.InSet && len(rec.Set()) == 1:
		return refusedf("the replica on %s alone holds every acknowledged write of %s", self, rec.Name).
			WithHint("put its files back; or, to give up what only it holds, promote another one by force: lockstep promote %s --on NODE --force", rec.Name)
	case mine.InSet:
		return refusedf("the replica on %s is in sync", self).WithHint("lockstep invalidate %s --on %s takes it out of the in-sync set and copies it anew", rec.Name, self)
	case hangs:
		return refusedf("the disk of %s hung, and what was sent to it may still be written", self).WithHint("restart the daemon, then the same again")
	}
	return nil
}

// awaitInstance returns once the ledger records another instance here than rec does.
func (b *backend) awaitInstance(ctx context.Context, rec *quorum.Resource) error {
	self := b.m.self.Node
	for {
		st, more := b.m.watch()
		now := st.Find(rec.Name)
		if now == nil || now.ID != rec.ID || now.Replica(self) == nil || now.Replica(self).Instance != rec.Replica(self).Instance {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return control.Errorf(control.CodeOutcomeUnknown, "the new replica was made, and the ledger does not know it yet").
				WithHint("lockstep status %s", rec.Name).WithSafety(control.SafetyYes)
		}
	}
}

// remake closes the replica, if it is open, and makes a new one at its paths.
func (w *worker) remake(cur *running) error {
	w.close(cur, closed)
	s := specOf(w.record(), w.m.self.Node)
	if err := w.m.opener.Replace(s, fmt.Sprintf(".replaced-%x", w.m.fresh())); err != nil {
		return err
	}
	w.remade = true
	return nil
}

// Replace makes metadata and backing where others may be: files are renamed, by suffix, a block device is
// taken. The new replica begins Inconsistent, so nothing is assumed of what is in it.
func (o *deviceOpener) Replace(s spec, suffix string) error {
	device := false
	if st, err := os.Stat(s.dataPath); err == nil {
		device = st.Mode()&os.ModeDevice != 0
	}
	paths := []string{s.metaPath, s.dataPath}
	if device {
		paths = paths[:1]
	}
	for _, p := range paths {
		st, err := os.Lstat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err == nil && !st.Mode().IsRegular():
			err = fmt.Errorf("%s is no regular file; make the path free", p)
		case err == nil:
			err = os.Rename(p, p+suffix)
		}
		if err != nil {
			return err
		}
		o.log.Info("kept what was at the path of a replica", "path", p+suffix)
	}
	_, err := store.Create(store.CreateOptions{
		DataPath: s.dataPath, MetaPath: s.metaPath,
		Cluster: o.cfg.Cluster, Resource: s.resource, ResourceID: s.id, Node: o.self.Node,
		Size: s.sizeBytes, BootID: o.self.Boot, Regions: o.cfg.ActivityLogRegions,
		TakeExisting: device, State: store.Inconsistent,
	})
	return err
}
