package node

import (
	"context"
	"slices"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/replication"
)

// Verify compares the replica of each connected peer with the primary's, one peer after the other,
// in order with the writes that go on. With Repair, what differs is copied from the primary. The
// end of ctx ends the waiting; the comparison under way then runs to its end unobserved.
func (b *backend) Verify(ctx context.Context, resource string, opts control.VerifyOptions) (control.VerifyResult, error) {
	var out control.VerifyResult
	w, rep, rec, err := b.leading(resource)
	if err != nil {
		return out, err
	}
	if opts.Source != "" && opts.Source != b.m.self.Node {
		return out, control.Errorf(control.CodeUnsupported, "repair copies from the primary, %s; to repair from %s make it primary first", b.m.self.Node, opts.Source).
			WithHint("lockstep switchover %s --to %s", resource, opts.Source).WithSafety(control.SafetyYes)
	}
	end, err := w.begin()
	if err != nil {
		return out, err
	}
	defer end()
	compared := 0
	for _, p := range rep.Status().Peers {
		if p.Connection != "Connected" {
			continue
		}
		if err := rep.Verify(p.Node, opts.Repair); err != nil {
			return out, control.Errorf(control.CodeFailed, "verify with %s: %v", p.Node, err)
		}
		v, err := awaitVerify(ctx, w, rep, p.Node)
		if err != nil {
			return out, err
		}
		collect(&out, v, rec.SizeBytes)
		compared++
	}
	if compared == 0 {
		return out, refusedf("no other replica of %s is connected, so there is nothing to compare with", resource).
			WithHint("lockstep status %s", resource)
	}
	return out, nil
}

// awaitVerify waits for the end of the verify with peer.
func awaitVerify(ctx context.Context, w *worker, rep replica, peer string) (*replication.VerifyStatus, error) {
	for {
		more := w.notices() // before the look, so that no end is missed
		v := rep.Status().Verify
		switch {
		case v == nil || v.Node != peer:
			return nil, control.Errorf(control.CodeFailed, "the verify with %s did not begin", peer)
		case !v.Running && v.Err != "":
			return nil, control.Errorf(control.CodeFailed, "the verify with %s ended early: %s", peer, v.Err)
		case !v.Running:
			return v, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// collect adds the result of one peer to out, adjacent blocks as one difference.
func collect(out *control.VerifyResult, v *replication.VerifyStatus, size int64) {
	out.CheckedBytes += v.Done
	out.Truncated = out.Truncated || v.Mismatches > int64(len(v.First))
	offs := slices.Clone(v.First)
	slices.Sort(offs)
	for i, off := range offs {
		length := min(bitmap.BlockSize, size-off)
		if v.Repaired {
			out.RepairedBytes += length
		}
		if n := len(out.Differences); i > 0 && out.Differences[n-1].OffBytes+out.Differences[n-1].LenBytes == off {
			out.Differences[n-1].LenBytes += length
			continue
		}
		out.Differences = append(out.Differences, control.Difference{Node: v.Node, OffBytes: off, LenBytes: length, Repaired: v.Repaired})
	}
	if rest := v.Mismatches - int64(len(v.First)); v.Repaired && rest > 0 {
		out.RepairedBytes += rest * bitmap.BlockSize
	}
}
