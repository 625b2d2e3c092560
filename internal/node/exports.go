package node

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/quorum"
)

// Block sizes that clients are told, in bytes. Any alignment is served; less than the preferred
// one costs a read before the write on devices with larger sectors.
const (
	preferredBlock = 4096
	largestRequest = nbd.MaxPayload
)

// exports offers a resource to NBD clients while this process is primary of it and serves: to those
// who are attached to it, and, unless one of these is so alone, to everybody.
type exports struct {
	m       *manager
	asker   asker                    // for where the primary listens
	addr    func(node string) string // where the others reach it, "" if it is in no file
	srv     doorkeeper
	watched watched
}

var _ nbd.Attachments = (*exports)(nil)

// Lookup returns the device of a resource that is served here. Elsewhere it refuses with a
// sentence that names the primary: it reaches the client's user.
func (e *exports) Lookup(ctx context.Context, name string) (*nbd.Export, error) {
	_, rep, rec, err := e.served(ctx, name)
	if err != nil {
		return nil, err
	}
	if a := rec.Exclusive(); a != nil {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy,
			Reason: fmt.Sprintf("%s is attached to %s on %s, for that host alone; next: lockstep attachments %s", name, a.Device, a.Holder, name)}
	}
	b, ok := rep.Backend()
	if !ok {
		return nil, e.notServing(rep, name)
	}
	return e.export(name, rep, b), nil
}

// leading is served for an attached client, who comes again when the primary has moved.
func (e *exports) leading(ctx context.Context, name string) (*worker, replica, *quorum.Resource, error) {
	w, rep, rec, err := e.served(ctx, name)
	return w, rep, rec, elsewhereLater(err)
}

// served returns the replica here that is primary of a resource and takes clients, and the newest
// record that is known.
func (e *exports) served(ctx context.Context, name string) (*worker, replica, *quorum.Resource, error) {
	st, _ := e.m.watch()
	if st == nil {
		return nil, nil, nil, shutdownf("this node has not heard from the ledger yet")
	}
	rec := st.Find(name)
	if rec == nil || rec.Deleted {
		return nil, nil, nil, &nbd.ErrNotServed{Kind: nbd.NotServedUnknown, Reason: fmt.Sprintf("there is no resource %q", name)}
	}
	if w := e.m.find(name); w != nil && w.id == rec.ID {
		if rep, _ := w.open(); rep != nil {
			if _, ok := rep.Backend(); ok {
				return w, rep, w.prop.note(rec), nil
			}
			if rep.Status().Role == rolePrimary {
				return nil, nil, nil, e.notServing(rep, name)
			}
		}
	}
	return nil, nil, nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy, Reason: e.elsewhere(ctx, rec)}
}

func (e *exports) notServing(rep replica, name string) error {
	return shutdownf("%s is primary of %s and does not serve now: %s", e.m.self.Node, name, reason(rep.Status()))
}

// export is the device of an open replica as a connection sees it that b serves.
func (e *exports) export(name string, rep replica, b nbd.Backend) *nbd.Export {
	return &nbd.Export{
		Name: name, Description: "lockstep resource " + name + " on " + e.m.self.Node, Size: rep.Status().SizeBytes,
		BlockSize: nbd.BlockSize{Min: 1, Preferred: preferredBlock, Max: largestRequest},
		Features:  nbd.FeaturesUsual, Backend: b,
	}
}

// elsewhere says where a resource is served.
func (e *exports) elsewhere(ctx context.Context, rec *quorum.Resource) string {
	self, name, primary := e.m.self.Node, rec.Name, rec.Primary.Node
	switch primary {
	case "":
		return fmt.Sprintf("nobody is primary of %s; next: lockstep promote %s", name, name)
	case self:
		return fmt.Sprintf("%s is recorded as primary of %s by an earlier process; next: lockstep promote %s --on %s", self, name, name, self)
	}
	ctx, cancel := context.WithTimeout(ctx, viewTime)
	defer cancel()
	where := "there"
	if a, err := e.asker.ask(ctx, primary, question{Op: "view", Resource: name, ID: rec.ID}); err == nil && a.View != nil {
		n := a.View.Resource.NBD
		if where = tcpURI(name, n, e.addr(primary)); where == "" {
			where = uri(name, control.NBD{Unix: n.Unix}) // on that host alone
		}
	}
	return fmt.Sprintf("%s is secondary of %s; its primary is %s: connect to %s", self, name, primary, where)
}

// uri is where clients of n connect for a resource.
func uri(name string, n control.NBD) string {
	switch {
	case n.TCP != "" && n.TLS == config.TLSRequired:
		return "nbds://" + n.TCP + "/" + url.PathEscape(name)
	case n.TCP != "":
		return "nbd://" + n.TCP + "/" + url.PathEscape(name)
	case n.Unix != "":
		return "nbd+unix:///" + url.PathEscape(name) + "?socket=" + url.QueryEscape(n.Unix)
	}
	return "there"
}

// List returns the resources of which this node holds a replica.
func (e *exports) List() []nbd.ExportInfo {
	var out []nbd.ExportInfo
	for _, w := range e.m.all() {
		rec := w.record()
		if rec == nil || rec.Deleted {
			continue
		}
		out = append(out, nbd.ExportInfo{Name: rec.Name})
	}
	slices.SortFunc(out, func(a, b nbd.ExportInfo) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
