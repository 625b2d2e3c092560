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

// exports offers a resource to NBD clients while this process is primary of it and serves.
type exports struct {
	m     *manager
	asker asker                    // for where the primary listens
	addr  func(node string) string // where the others reach it, "" if it is in no file
}

// Lookup returns the device of a resource that is served here. Elsewhere it refuses with a
// sentence that names the primary: it reaches the client's user.
func (e *exports) Lookup(ctx context.Context, name string) (*nbd.Export, error) {
	st, _ := e.m.watch()
	if st == nil {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: "this node has not heard from the ledger yet"}
	}
	rec := st.Find(name)
	if rec == nil || rec.Deleted {
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedUnknown, Reason: fmt.Sprintf("there is no resource %q", name)}
	}
	self := e.m.self.Node
	if w := e.m.find(name); w != nil {
		if rep, _ := w.open(); rep != nil {
			if b, ok := rep.Backend(); ok {
				return &nbd.Export{
					Name: name, Description: "lockstep resource " + name + " on " + self, Size: rep.Status().SizeBytes,
					BlockSize: nbd.BlockSize{Min: 1, Preferred: preferredBlock, Max: largestRequest},
					Features:  nbd.FeaturesUsual, Backend: b,
				}, nil
			}
			if st := rep.Status(); st.Role == rolePrimary {
				return nil, &nbd.ErrNotServed{Kind: nbd.NotServedShutdown, Reason: fmt.Sprintf("%s is primary of %s and does not serve now: %s", self, name, reason(st))}
			}
		}
	}
	return nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy, Reason: e.elsewhere(ctx, rec)}
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
