package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// scratchName names a resource of a drill; see control.ScratchName.
func scratchName() string { return "drill-" + strings.ToLower(rand.Text()[:8]) }

// makeScratch makes the scratch resource, with the policy of the one that it is like, and has the same node
// serve it.
func (d *drill) makeScratch(ctx context.Context) error {
	p := d.plan
	d.name = scratchName()
	for i := range p.replicas {
		r := &p.replicas[i]
		r.DataPath = filepath.Join(r.DataPath, d.name+".img")
		r.MetaPath = r.DataPath + ".meta"
	}
	d.say("making %s on %s", d.name, strings.Join(p.Nodes, ", "))
	if err := d.cfg.Client.CreateResource(ctx, control.CreateRequest{Resource: d.name, SizeBytes: scratchBytes, Replicas: p.replicas}); err != nil {
		return fmt.Errorf("make the scratch resource: %w", err)
	}
	s := control.Settings{Failover: &p.policy.Failover, Fencing: &p.policy.Fencing, Lease: &p.policy.Lease, ReadsConfirm: &p.policy.ReadsConfirm}
	if err := d.cfg.Client.Set(ctx, d.name, s); err != nil {
		return fmt.Errorf("set the policy of the scratch resource: %w", err)
	}
	if err := d.cfg.On(p.primary).Promote(ctx, d.name, control.PromoteOptions{}); err != nil {
		return fmt.Errorf("promote the scratch resource: %w", err)
	}
	return nil
}

const (
	cleanWithin = 60 * time.Second
	cleanEvery  = 250 * time.Millisecond
)

// removeScratch demotes and deletes the scratch resource and removes its files. A node that is on its way back
// is waited for.
func (d *drill) removeScratch(ctx context.Context) error {
	d.say("removing %s", d.name)
	ctx, cancel := context.WithTimeout(ctx, cleanWithin)
	defer cancel()
	err := insistOn(ctx, func(ctx context.Context) error {
		st, err := d.cfg.Client.Status(ctx, d.name)
		switch {
		case errors.Is(err, control.ErrNotFound):
			return nil
		case err != nil:
			return err
		case st.Resources[0].Primary != "":
			if err := d.cfg.On(st.Resources[0].Primary).Demote(ctx, d.name); err != nil {
				return err
			}
		}
		return d.cfg.Client.DeleteResource(ctx, d.name)
	})
	for _, r := range d.plan.replicas {
		if err != nil {
			break
		}
		order := control.DrillOrder{Op: control.DrillClean, Resource: d.name, Paths: []string{r.DataPath, r.MetaPath}}
		err = insistOn(ctx, func(ctx context.Context) error {
			_, err := d.cfg.On(r.Node).Drill(ctx, order)
			return err
		})
	}
	return err
}

// callWithin bounds one call to a node that may be gone.
const callWithin = 5 * time.Second

// insistOn repeats do until it works or ctx ends; then it returns the last error.
func insistOn(ctx context.Context, do func(ctx context.Context) error) error {
	for {
		call, cancel := context.WithTimeout(ctx, callWithin)
		err := do(call)
		cancel()
		if err == nil {
			return nil
		}
		if wait(ctx, cleanEvery) != nil {
			return err
		}
	}
}

// leftover tells what to type when a scratch resource could not be removed.
func (d *drill) leftover(err error) string {
	var files []string
	for _, r := range d.plan.replicas {
		files = append(files, r.Node+":"+r.DataPath)
	}
	return fmt.Sprintf("%s could not be removed: %v. Remove it: lockstep demote %s; lockstep resource delete %s; then the files %s and those with .meta behind the name",
		d.name, err, d.name, d.name, strings.Join(files, ", "))
}
