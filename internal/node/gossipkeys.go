package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
)

// The gossip key of a cluster with certificates protects hints alone and can be changed while nodes run. Its
// file holds the key in use and, during a change, others that are believed; see control.GossipKey for the
// steps. An operator may as well write the files himself.

// keepKeys takes up the keys in file as they change, until ctx ends. A file that cannot be used changes
// nothing.
func (m *members) keepKeys(ctx context.Context, file string, log *slog.Logger) {
	tick := time.NewTicker(certTick)
	defer tick.Stop()
	told := ""
	for {
		m.keysMu.Lock()
		keys, err := config.ReadKeys(file)
		if err == nil {
			err = m.useKeys(keys, log)
		}
		m.keysMu.Unlock()
		why := ""
		if err != nil {
			why = err.Error()
		}
		if why != "" && why != told {
			log.Error("gossip keys cannot be used; those that were read before stay in force", "err", err)
		}
		told = why
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// useKeys sends with the first key and believes all of them. Caller holds keysMu.
func (m *members) useKeys(keys []config.Key, log *slog.Logger) error {
	if slices.Equal(keys, m.keys) {
		return nil
	}
	var raw [][]byte
	for _, k := range keys {
		raw = append(raw, k[:])
	}
	if err := m.gossip.SetKeys(raw...); err != nil {
		return err
	}
	m.keys = keys
	log.Info("gossip keys taken up", "keys", len(keys))
	return nil
}

// step takes one step of a change to key: in the file first, so that a restart does not undo it.
func (m *members) step(file, step string, key config.Key, log *slog.Logger) error {
	m.keysMu.Lock()
	defer m.keysMu.Unlock()
	have, err := config.ReadKeys(file)
	if err != nil {
		return err
	}
	next, err := stepped(have, step, key)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, k := range next {
		text.WriteString(k.Encode() + "\n")
	}
	if err := replaceFile(file, []byte(text.String())); err != nil {
		return fmt.Errorf("gossip keys: %w", err)
	}
	return m.useKeys(next, log)
}

// stepped is what becomes of the keys that a node has.
//
// Errors: control.ErrUsage, control.ErrRefused.
func stepped(have []config.Key, step string, key config.Key) ([]config.Key, error) {
	known := slices.Contains(have, key)
	rest := slices.DeleteFunc(slices.Clone(have), func(k config.Key) bool { return k == key })
	switch {
	case step == control.GossipKeyBelieve && known:
		return have, nil
	case step == control.GossipKeyBelieve && len(have) == config.MaxKeys:
		return nil, refusedf("this node believes %d gossip keys already, of changes that did not end", len(have)).
			WithHint("leave the first line of gossip.key, which must be the same on all nodes, and begin again")
	case step == control.GossipKeyBelieve:
		return append(slices.Clone(have), key), nil
	case step == control.GossipKeyUse && known:
		return append([]config.Key{key}, rest...), nil
	case step == control.GossipKeyOnly && have[0] == key:
		return []config.Key{key}, nil
	case step == control.GossipKeyUse || step == control.GossipKeyOnly:
		return nil, refusedf("this node has not taken the step before, so the others would not be heard by it").WithHint("lockstep cluster rotate-keys")
	}
	return nil, control.Usagef("a change of the gossip key has no step %q", step)
}

// GossipKey takes one step of a change of the gossip key on this node.
func (b *backend) GossipKey(_ context.Context, req control.GossipKey) error {
	if !formed(b.cfg) || b.gossipKey == nil {
		return notFormed()
	}
	key, err := config.ParseKey(req.Key)
	if err != nil {
		return control.Usagef("%v", err)
	}
	if err := b.gossipKey(req.Step, key); err != nil {
		return err
	}
	if req.Step == control.GossipKeyOnly {
		b.journal.add("", "gossip_key", "The gossip key was changed; the old one is worth nothing here.")
	}
	return nil
}
