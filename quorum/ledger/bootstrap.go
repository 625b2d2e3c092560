package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/lockstep-ha/lockstep/quorum"
)

// askFormat is the version of questions and answers.
const askFormat = 1

// question is asked of each member while this ledger is empty.
type question struct {
	Format  int        `json:"v"`
	Cluster string     `json:"cluster"`
	Node    string     `json:"node"`
	Members []listItem `json:"members"`
	Pledge  uint64     `json:"pledge"` // incarnation to pledge to; 0 only asks
}

// listItem is a member as far as all node files must agree on it, in their order.
type listItem struct {
	Name    string `json:"name"`
	Witness bool   `json:"witness"`
}

// reply is a member's answer, true when it was given and, but for a pledge, no longer.
type reply struct {
	Format      int    `json:"v"`
	Voter       uint64 `json:"voter"`
	Empty       bool   `json:"empty"`       // it has no ledger
	Incarnation uint64 `json:"incarnation"` // that it is pledged to; 0: none
	SameList    bool   `json:"same_list"`
	KnownAs     uint64 `json:"known_as"` // voter id of the asking node in its state; 0: not in it
}

func (l *Ledger) list() []listItem {
	var out []listItem
	for _, m := range l.cfg.Members {
		out = append(out, listItem{Name: m.Name, Witness: m.Witness})
	}
	return out
}

// answerAsk answers a question, and makes the pledge it asks for if this ledger is free to.
func (l *Ledger) answerAsk(ctx context.Context, peer string, b []byte) ([]byte, error) {
	var q question
	if err := decodeStrict(b, &q); err != nil {
		return nil, err
	}
	if q.Format != askFormat || q.Cluster != l.cfg.Cluster || q.Node != peer {
		return nil, fmt.Errorf("%w: question of version %d, cluster %.80q, node %.80q", errFrame, q.Format, q.Cluster, q.Node)
	}
	var r reply
	var failed error
	err := l.call(ctx, func() {
		same := slices.Equal(q.Members, l.list())
		id := l.store.id
		if q.Pledge != 0 && id.Incarnation == 0 && l.store.empty() && same && q.Node == l.cfg.founder() {
			id.Incarnation = q.Pledge
			failed = l.store.setIdentity(id)
		}
		r = reply{Format: askFormat, Voter: l.store.id.Voter, Empty: l.store.empty(), Incarnation: l.store.id.Incarnation, SameList: same}
		if l.mach != nil {
			if n := l.mach.state.Node(q.Node); n != nil {
				r.KnownAs = n.VoterID
			}
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

func decodeStrict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	if d.More() {
		return fmt.Errorf("%w: something follows", errFrame)
	}
	return nil
}

// bootstrap asks the members until there is a ledger here, founded by this node or received.
func (l *Ledger) bootstrap(ctx context.Context) {
	pause := 4 * l.cfg.TickInterval
	for {
		founded, err := l.tryFound(ctx)
		if founded || errors.Is(err, ErrClosed) || ctx.Err() != nil {
			return
		}
		if err != nil {
			l.log.Error("ledger cannot be founded", "error", err)
		}
		if !wait(ctx, pause) {
			return
		}
		pause = min(2*pause, max(2*time.Second, 4*l.cfg.TickInterval))
	}
}

// tryFound reports whether there is a ledger here, after it has tried to make that so.
func (l *Ledger) tryFound(ctx context.Context) (bool, error) {
	var me identity
	founded := false
	if err := l.call(ctx, func() { me, founded = l.store.id, l.mach != nil }); err != nil || founded {
		return founded, err
	}
	replies, silent := l.askAll(ctx, 0)
	problem := l.diagnose(me, replies, silent)
	if problem == "" && l.cfg.Node == l.cfg.founder() && len(replies) == len(l.cfg.Members)-1 && allEmpty(replies) {
		return l.pledgeAndFound(ctx, me)
	}
	err := l.call(ctx, func() {
		if l.mach == nil && !l.store.id.Lost {
			l.setProblem(problem)
		}
	})
	return false, err
}

func allEmpty(replies map[string]reply) bool {
	for _, r := range replies {
		if !r.Empty {
			return false
		}
	}
	return true
}

// diagnose says why there is no ledger here yet and what to do, "" if it only takes time.
func (l *Ledger) diagnose(me identity, replies map[string]reply, silent []string) string {
	for _, m := range l.cfg.Members {
		r, ok := replies[m.Name]
		switch {
		case !ok:
		case !r.Empty && r.KnownAs == me.Voter:
			return "" // admitted; the leader will send the state
		case !r.Empty && r.KnownAs != 0:
			return fmt.Sprintf("the ledger file on %s is new (voter %x), but the cluster knows %s as voter %x: this node has no vote. "+
				"Restore the old ledger.db in its data directory; a lost voter cannot be replaced by this version",
				l.cfg.Node, me.Voter, l.cfg.Node, r.KnownAs)
		case !r.Empty:
			return fmt.Sprintf("%s is not part of the cluster, which was founded without it; nodes cannot be added by this version", l.cfg.Node)
		case !r.SameList:
			return fmt.Sprintf("the node files of %s and %s list other members, or in another order; make them equal", l.cfg.Node, m.Name)
		}
	}
	for _, m := range l.cfg.Members {
		r, ok := replies[m.Name]
		if ok && r.Incarnation != 0 && me.Incarnation != r.Incarnation && l.cfg.Node == l.cfg.founder() {
			return fmt.Sprintf("%s has pledged itself to a ledger that was never founded, or is lost. "+
				"If no node has a ledger with data, stop lockstep on %s, remove its ledger.db and start it", m.Name, m.Name)
		}
	}
	if len(silent) > 0 {
		return "the first start needs every member once; no answer yet from " + strings.Join(silent, ", ")
	}
	return ""
}

// pledgeAndFound binds this node, then every other one, to one incarnation, and founds it. A
// crash in between leaves pledges to the same incarnation, and the next try goes on with it.
func (l *Ledger) pledgeAndFound(ctx context.Context, me identity) (bool, error) {
	if me.Incarnation == 0 {
		var failed error
		err := l.call(ctx, func() {
			if l.store.id.Incarnation == 0 && l.store.empty() {
				id := l.store.id
				id.Incarnation = randomID()
				failed = l.store.setIdentity(id)
			}
			me = l.store.id
		})
		if err := errors.Join(err, failed); err != nil {
			return false, err
		}
	}
	replies, _ := l.askAll(ctx, me.Incarnation)
	nodes := make([]quorum.Node, 0, len(l.cfg.Members))
	for _, m := range l.cfg.Members {
		voter := me.Voter
		if m.Name != l.cfg.Node {
			r, ok := replies[m.Name]
			if !ok || !r.Empty || !r.SameList || r.Incarnation != me.Incarnation {
				return false, nil
			}
			voter = r.Voter
		}
		nodes = append(nodes, quorum.Node{Name: m.Name, VoterID: voter, Addr: m.Addr, Witness: m.Witness})
	}
	founded := false
	var failed error
	err := l.call(ctx, func() { founded, failed = l.found(me.Incarnation, nodes) })
	return founded, errors.Join(err, failed)
}

// found writes the genesis and starts raft on it.
func (l *Ledger) found(incarnation uint64, nodes []quorum.Node) (bool, error) {
	if !l.store.empty() || l.store.id.Incarnation != incarnation {
		return !l.store.empty(), nil
	}
	st, err := quorum.Genesis(l.cfg.Cluster, quorum.Incarnation{Counter: 1, ID: incarnation}, nodes)
	if err != nil {
		return false, err
	}
	m := newMachine(st)
	data, err := m.encode()
	if err != nil {
		return false, err
	}
	one := uint64(1)
	conf := &pb.ConfState{}
	for _, n := range st.Nodes {
		conf.Voters = append(conf.Voters, n.VoterID)
	}
	snap := &pb.Snapshot{Data: data, Metadata: &pb.SnapshotMetadata{ConfState: conf, Index: &one, Term: &one}}
	if err := l.store.save(&pb.HardState{Term: &one, Commit: &one, Vote: new(uint64)}, nil, snap); err != nil {
		return false, err
	}
	l.mach, l.changed = m, true
	if err := l.startRaft(); err != nil {
		return false, err
	}
	l.setProblem("")
	l.log.Info("ledger founded", "incarnation", incarnation, "voters", len(nodes))
	l.publish() // links and voter names first, so that the votes are asked for at once
	return true, l.rn.Campaign()
}

// askAll asks every other member and returns the answers, and who gave none.
func (l *Ledger) askAll(ctx context.Context, pledge uint64) (map[string]reply, []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	replies := map[string]reply{}
	var silent []string
	for _, m := range l.cfg.Members {
		if m.Name == l.cfg.Node {
			continue
		}
		wg.Go(func() {
			r, err := l.askOne(ctx, m, pledge)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				l.log.Debug("member does not answer", "peer", m.Name, "error", err)
				silent = append(silent, m.Name)
				return
			}
			replies[m.Name] = r
		})
	}
	wg.Wait()
	slices.Sort(silent)
	return replies, silent
}

func (l *Ledger) askOne(ctx context.Context, m Member, pledge uint64) (reply, error) {
	var r reply
	conn, err := l.cfg.Transport.Dial(ctx, m.Addr, m.Name, Service)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	b, err := json.Marshal(question{Format: askFormat, Cluster: l.cfg.Cluster, Node: l.cfg.Node, Members: l.list(), Pledge: pledge})
	if err != nil {
		return r, err
	}
	if _, err := conn.Write(seal(append(appendFrame(nil, frameAsk), b...))); err != nil {
		return r, err
	}
	f, err := readFrame(bufio.NewReader(conn))
	if err != nil {
		return r, err
	}
	if f.kind != frameAnswer {
		return r, fmt.Errorf("%w: kind %d instead of an answer", errFrame, f.kind)
	}
	if err := decodeStrict(f.body, &r); err != nil {
		return r, err
	}
	if r.Format != askFormat || r.Voter == 0 {
		return r, fmt.Errorf("%w: answer of version %d, voter %x", errFrame, r.Format, r.Voter)
	}
	return r, nil
}
