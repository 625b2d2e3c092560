package nbdtest

import (
	"context"
	"maps"
	"slices"

	"github.com/lockstep-ha/lockstep/nbd"
)

// Exports is a fixed set of exports by name. A nil export is refused by policy.
type Exports map[string]*nbd.Export

// Refusal is what a client hears that asks for a nil export.
const Refusal = "r1 is Secondary here; the primary is node-b"

// Lookup implements nbd.Exports.
func (e Exports) Lookup(_ context.Context, name string) (*nbd.Export, error) {
	x, ok := e[name]
	switch {
	case !ok:
		return nil, &nbd.ErrNotServed{Reason: "no export " + name}
	case x == nil:
		return nil, &nbd.ErrNotServed{Kind: nbd.NotServedPolicy, Reason: Refusal}
	}
	return x, nil
}

// List implements nbd.Exports.
func (e Exports) List() (infos []nbd.ExportInfo) {
	for _, name := range slices.Sorted(maps.Keys(e)) {
		infos = append(infos, nbd.ExportInfo{Name: name})
	}
	return infos
}
