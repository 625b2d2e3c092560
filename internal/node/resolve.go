package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/record"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

// Resolve keeps the data of this node's replica and gives up every other history (rule 14). Where
// the ledger records another one, this node becomes primary by force first, so that at each moment
// the record and the data of its set agree. What a crash leaves half done is seen in the status,
// and the same command goes on with it.
func (b *backend) Resolve(ctx context.Context, resource string, opts control.ResolveOptions) (control.ResolveResult, error) {
	w, _, err := b.local(resource)
	if err != nil {
		return control.ResolveResult{}, err
	}
	end, err := w.begin()
	if err != nil {
		return control.ResolveResult{}, err
	}
	defer end()
	res, err := b.plan(ctx, w)
	if err != nil || opts.DryRun {
		return res, err
	}
	if err := expected(opts.Expect, res.Lost); err != nil {
		return res, err
	}
	for _, l := range res.Lost {
		// Before anything is done: whether it can be undone must not be found out half way.
		if _, err := b.client(l.Node).GiveUp(ctx, resource, control.GiveUpOptions{Undo: opts.Undo, Newest: newestLost(l), Try: true}); err != nil {
			return res, err
		}
	}
	if res.Forced {
		limit, cancel := context.WithTimeout(ctx, verbTimeout)
		_, err := b.force(limit, w, forced{resolve: true})
		cancel()
		if err != nil {
			return res, err
		}
	}
	for i := range res.Lost {
		if err := b.giveUpOn(ctx, w, &res.Lost[i], opts.Undo); err != nil {
			return res, err
		}
	}
	return res, nil
}

// plan says what would be given up if this node's data were kept. Nothing is changed.
func (b *backend) plan(ctx context.Context, w *worker) (control.ResolveResult, error) {
	self := b.m.self.Node
	res := control.ResolveResult{Keep: self}
	rec, err := b.fresh(ctx, w.name)
	if err != nil {
		return res, err
	}
	rep, f := w.await(ctx)
	if rep == nil {
		return res, refusedf("the replica on %s is not open: %s", self, f.reason)
	}
	w.caughtUp(ctx, rec.Version)
	st := rep.Status()
	views := b.views(ctx, rec)
	for _, n := range record.Peers(rec, self) {
		if v, ok := views[n]; !ok || !v.Open {
			res.Silent = append(res.Silent, n)
		}
	}
	kept := rec.Lineage
	mine := rec.Replica(self)
	switch {
	case mine.InSet && st.State == replication.UpToDate:
		err = judgeKeepRecorded(rec, self)
	case st.State == replication.Diverged:
		res.Forced = true
		fork, _, own := parting(rec.Lineage, st.Lineage)
		at := slices.Index(rec.Lineage, fork) + 1 // 0 when there is no fork: all of it goes
		kept = slices.Concat(rec.Lineage[:at], own)
		err = judgeKeepOther(rec, self, res.Silent)
	default:
		err = refusedf("the replica on %s is %s and has no history of its own to keep", self, st.State).
			WithHint("lockstep status %s", rec.Name)
	}
	if err != nil {
		return res, err
	}
	for _, n := range record.Peers(rec, self) {
		if v, ok := views[n]; ok && v.Open {
			if l := lossOn(rec, kept, &v); l != nil {
				res.Lost = append(res.Lost, *l)
			}
		}
	}
	if len(res.Lost) == 0 && !res.Forced {
		return res, nothingDiverged(rec, res.Silent)
	}
	return res, nil
}

// lossOn returns what the replica of v holds beyond the history that is kept, nil if nothing.
func lossOn(rec *quorum.Resource, kept []uint64, v *view) *control.Loss {
	fork, _, own := parting(kept, v.Lineage)
	if len(own) == 0 && v.State != replication.Diverged.String() {
		return nil // a copy that is old at most; what has diverged stays so until it is given up
	}
	l := &control.Loss{Node: v.Node, Fork: generationID(fork), Generations: generations(rec, own), Bytes: -1}
	for _, r := range v.Resource.Replicas {
		if r.Node == v.Node && r.Divergence != nil {
			l.Bytes = r.Divergence.Bytes
		}
	}
	return l
}

// judgeKeepRecorded returns nil if the others may be made equal to the set, to which self belongs.
func judgeKeepRecorded(rec *quorum.Resource, self string) error {
	if rec.Primary.None() {
		return refusedf("%s has no primary that a replica could be copied from", rec.Name).
			WithHint("lockstep promote %s --on %s, then: lockstep resolve %s --keep %s", rec.Name, self, rec.Name, self)
	}
	return nil
}

// judgeKeepOther returns nil if the recorded history may be given up for that of self.
func judgeKeepOther(rec *quorum.Resource, self string, silent []string) error {
	if !rec.Primary.None() {
		return refusedf("the ledger records the other history of %s, and %s serves it", rec.Name, rec.Primary.Node).
			WithHint("lockstep demote %s, then: lockstep resolve %s --keep %s", rec.Name, rec.Name, self)
	}
	var away []string
	confirm := ""
	for _, n := range rec.Set() {
		if slices.Contains(silent, n) {
			away = append(away, n)
			confirm += " --confirm-down " + n
		}
	}
	if len(away) > 0 {
		return refusedf("%s, with the history of %s that the ledger records, does not answer", strings.Join(away, ", "), rec.Name).
			WithHint("start it; or, if it is down for certain and not to be had back: lockstep promote %s --on %s --force%s", rec.Name, self, confirm)
	}
	return nil
}

func nothingDiverged(rec *quorum.Resource, silent []string) error {
	if len(silent) > 0 {
		return refusedf("no replica of %s that answers holds another history; silent: %s", rec.Name, strings.Join(silent, ", ")).
			WithHint("start what is silent, then look with: lockstep status %s", rec.Name)
	}
	return refusedf("no replica of %s holds another history", rec.Name).WithHint("lockstep status %s", rec.Name)
}

// expected refuses to go on when the operator saw something else than there is now.
func expected(seen []control.Expected, lost []control.Loss) error {
	if seen == nil {
		return nil
	}
	same := func(e control.Expected, l control.Loss) bool { return e.Node == l.Node && e.Newest == newestLost(l) }
	if !slices.EqualFunc(seen, lost, same) {
		return refusedf("what would be lost has changed since it was shown").WithHint("give the same command again and look anew")
	}
	return nil
}

// newestLost is the newest generation of the replica that is given up.
func newestLost(l control.Loss) string {
	if len(l.Generations) == 0 {
		return l.Fork
	}
	return l.Generations[len(l.Generations)-1].ID
}

// giveUpOn has the node of l give its replica up once that knows that it has diverged: after a
// forced promotion it finds out from the new primary.
func (b *backend) giveUpOn(ctx context.Context, w *worker, l *control.Loss, undo control.Undo) error {
	limit, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	var pause backoff
	for {
		a, err := b.asker.ask(limit, l.Node, question{Op: "view", Resource: w.name, ID: w.id})
		if err == nil && a.View != nil && a.View.State == replication.Diverged.String() {
			break
		}
		if !pause.wait(limit) {
			return control.Errorf(control.CodeOutcomeUnknown, "%s does not say that its history is another one", l.Node).
				WithHint("lockstep status %s --node %s; then the same command again", w.name, l.Node).WithSafety(control.SafetyYes)
		}
	}
	up, err := b.client(l.Node).GiveUp(ctx, w.name, control.GiveUpOptions{Undo: undo, Newest: newestLost(*l)})
	if err != nil {
		return err
	}
	l.Undo, l.Shared = up.Undo, up.Shared
	return nil
}

// GiveUp gives up the replica here, which has diverged: a copy of its backing is made, then its
// data and history are discarded, and the primary copies it anew.
func (b *backend) GiveUp(ctx context.Context, resource string, opts control.GiveUpOptions) (control.GivenUp, error) {
	var out control.GivenUp
	w, _, err := b.local(resource)
	if err != nil {
		return out, err
	}
	end, err := w.begin()
	if err != nil {
		return out, err
	}
	defer end()
	rec, err := b.fresh(ctx, resource)
	if err != nil {
		return out, err
	}
	rep, f := w.await(ctx)
	if rep == nil {
		return out, refusedf("the replica on %s is not open: %s", b.m.self.Node, f.reason)
	}
	w.caughtUp(ctx, rec.Version)
	st, self := rep.Status(), b.m.self.Node
	switch {
	case opts.Newest == "" || newest(st.Lineage) != opts.Newest:
		return out, refusedf("the newest generation on %s is %q, not %q: it is not the replica that was to be given up", self, newest(st.Lineage), opts.Newest).
			WithHint("lockstep status %s --node %s", resource, self)
	case opts.Try:
	case st.State != replication.Diverged || rec.Replica(self).InSet:
		return out, refusedf("the replica on %s is %s and in use: only one that has diverged is given up", self, st.State).
			WithHint("lockstep status %s --node %s", resource, self)
	}
	if !opts.Undo.None {
		if out, err = keepUndo(ctx, rec.Replica(self).DataPath, opts); err != nil || opts.Try {
			return out, err
		}
	}
	if opts.Try {
		return out, nil
	}
	if err := b.Invalidate(ctx, resource); err != nil {
		return out, err
	}
	if st := rep.Status(); st.State == replication.Diverged {
		return out, refusedf("the replica on %s does not give its data up", self).WithHint("lockstep events --node %s", self)
	}
	b.journal.add(resource, "given_up", fmt.Sprintf("%s gave up its history of %s; undo copy: %s.", self, resource, orNone(out.Undo)), "newest", opts.Newest, "undo", out.Undo)
	return out, nil
}

func orNone(path string) string {
	if path == "" {
		return "none"
	}
	return path
}

// keepUndo copies a backing that nobody writes to. Its name tells which history is in it.
func keepUndo(ctx context.Context, data string, opts control.GiveUpOptions) (control.GivenUp, error) {
	var out control.GivenUp
	dir := opts.Undo.Dir
	if dir == "" {
		dir = filepath.Dir(data)
		if st, err := os.Stat(data); err == nil && !st.Mode().IsRegular() {
			return out, refusedf("%s is no file, so there is no place beside it for an undo copy", data).
				WithHint("say where with --undo-dir DIR --copy; or keep nothing with --no-undo")
		}
	}
	out.Undo = filepath.Join(dir, filepath.Base(data)+".undo-"+opts.Newest)
	if _, err := os.Lstat(out.Undo); err == nil {
		return out, refusedf("%s exists already: an undo copy of this history, or another file", out.Undo).
			WithHint("move it away; or give another --undo-dir; or, if it is the copy you want: --no-undo")
	}
	mode, to := store.ShareOnly, out.Undo
	if opts.Undo.Copy {
		mode = store.MayCopy
	}
	if opts.Try {
		if opts.Undo.Copy {
			return out, writable(dir) // a copy of all bytes only to see would take as long as the real one
		}
		to += ".try"
	}
	var err error
	out.Shared, err = store.Clone(ctx, data, to, mode)
	if err == nil && opts.Try {
		err = os.Remove(to)
	}
	return out, undoError(err, out.Undo)
}

// undoError says what an operator can do about a copy that could not be made. Nothing was given up.
func undoError(err error, path string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNoReflink):
		return refusedf("an undo copy at %s would take as much time and space as the data: its file system cannot share blocks between files", path).
			WithHint("the same command with --copy makes it all the same, with --no-undo keeps nothing; so far nothing was given up")
	}
	return control.Errorf(control.CodeFailed, "the undo copy %s could not be made, and nothing was given up: %v", path, err).
		WithHint("mend that, or say where with --undo-dir DIR").WithSafety(control.SafetyYes)
}

// writable returns an error if no file can be made in dir.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".lockstep-undo-*")
	if err != nil {
		return undoError(err, dir)
	}
	return undoError(errors.Join(f.Close(), os.Remove(f.Name())), dir)
}
