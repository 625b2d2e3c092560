package quorum

import (
	"fmt"

	"github.com/lockstep-ha/lockstep/internal/planted"
)

// Apply returns the State after c, and what became of c. It is deterministic, keeps no
// reference to c's slices and never changes s. A refused command returns s itself.
//
// Apply checks every precondition that the State can show, however sure the proposer was: the
// command may be a late copy, or its proposer may have been wrong about its role.
func Apply(s *State, c Command) (*State, Result) {
	next, err := apply(s, &c)
	if err != nil {
		next = s
	}
	res := Result{Resource: next.Find(c.Resource)}
	if err != nil {
		res.Code, res.Reason = codeOf(err), err.Error()
	}
	return next, res
}

func apply(s *State, c *Command) (*State, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	switch k := c.Kind(); {
	case k == KindCreateResource:
		return applyCreate(s, c)
	case k.aboutNodes():
		return applyToNodes(s, c)
	}
	return applyToResource(s, c)
}

// applyToResource checks that the record is the one that c was decided on, changes a copy of
// it and raises its version. Rule 2 of the design rests on the version check here.
func applyToResource(s *State, c *Command) (*State, error) {
	i, ok := s.find(c.Resource)
	if !ok {
		return nil, refusef(ErrUnknown, "resource %q does not exist", c.Resource)
	}
	old := &s.Resources[i]
	if old.ID != c.ResourceID {
		return nil, refusef(ErrUnknown, "resource %q is another one than the command means: it has id %x, not %x",
			c.Resource, old.ID, c.ResourceID)
	}
	if old.Epoch != c.Epoch || old.Version != c.Version && !planted.On(planted.VersionIgnored) {
		return nil, refusef(ErrStale, "resource %q is at epoch %d, version %d; %s was decided on epoch %d, version %d",
			c.Resource, old.Epoch, old.Version, c.Kind(), c.Epoch, c.Version)
	}
	if old.Deleted && c.ResourceGone == nil && c.NoOp == nil {
		return nil, refusef(ErrDeleted, "resource %q is deleted; its name is free once every replica is removed", c.Resource)
	}
	r := old.clone()
	if err := change(s, r, c); err != nil {
		return nil, err
	}
	r.Version++
	if r.Deleted && len(r.Replicas) == 0 {
		return s.withResources(remove(s.Resources, i)), nil
	}
	if len(old.Set()) > 0 && len(r.Set()) == 0 && !r.Deleted && !planted.On(planted.LastMemberDropped) {
		panic(fmt.Sprintf("quorum: %s emptied the in-sync set, record %+v", c, *old))
	}
	return s.withResource(i, r), nil
}

// change carries c out on r, a copy that nobody else sees yet.
func change(s *State, r *Resource, c *Command) error {
	switch c.Kind() {
	case KindRegisterReplica:
		return registerReplica(r, c.RegisterReplica)
	case KindReplicaError:
		return replicaError(r, c.ReplicaError)
	case KindDeleteResource:
		return deleteResource(r)
	case KindResourceGone:
		return resourceGone(r, c.ResourceGone)
	case KindPromote:
		return promote(s, r, c.Promote)
	case KindForcePromote:
		return forcePromote(s, r, c.ForcePromote)
	case KindStepDown:
		return stepDown(r, c.StepDown)
	case KindDropReplica:
		return dropReplica(r, c.DropReplica)
	case KindJoinReplica:
		return joinReplica(s, r, c.JoinReplica)
	case KindResize:
		return resize(r, c.Resize)
	case KindSetPolicy:
		return setPolicy(r, c.SetPolicy)
	case KindSetPriority:
		return setPriority(r, c.SetPriority)
	case KindSetServices:
		return setServices(r, c.SetServices)
	case KindServicesFailed:
		return servicesFailed(r, c.ServicesFailed)
	case KindPauseFailover:
		r.Paused, r.PausedText = c.PauseFailover.On, c.PauseFailover.Text
		return nil
	case KindAttach:
		return attach(r, c.Attach)
	case KindDetach:
		return detach(r, c.Detach)
	case KindHold:
		r.Hold = c.Hold.On
		return nil
	case KindNoOp:
		return nil
	}
	panic(fmt.Sprintf("quorum: command passed its check without a kind: %+v", *c))
}

// refusef returns a refusal that wraps sentinel and whose text is the sentence alone.
func refusef(sentinel error, format string, a ...any) error {
	return &refusalText{sentinel: sentinel, text: fmt.Sprintf(format, a...)}
}

type refusalText struct {
	sentinel error
	text     string
}

func (e *refusalText) Error() string { return e.text }
func (e *refusalText) Unwrap() error { return e.sentinel }

// withResource returns a State in which record i is r.
func (s *State) withResource(i int, r *Resource) *State {
	all := append([]Resource(nil), s.Resources...)
	all[i] = *r
	return s.withResources(all)
}

func (s *State) withResources(all []Resource) *State {
	n := *s
	n.Resources = all
	return &n
}

// remove returns a copy of all without element i.
func remove[T any](all []T, i int) []T {
	out := make([]T, 0, len(all))
	out = append(out, all[:i]...)
	return append(out, all[i+1:]...)
}

// insert returns a copy of all with v at i.
func insert[T any](all []T, i int, v T) []T {
	out := make([]T, 0, len(all)+1)
	out = append(out, all[:i]...)
	out = append(out, v)
	return append(out, all[i:]...)
}
