package voter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-ha/lockstep/quorum"
)

// askFormat is the version of questions and replies.
const askFormat = 1

// Question is asked of each member while a ledger is empty.
type Question struct {
	Format  int      `json:"v"`
	Cluster string   `json:"cluster"`
	Node    string   `json:"node"` // who asks
	Members []Member `json:"members"`
	Pledge  uint64   `json:"pledge"` // incarnation to pledge to; 0 only asks
}

// Reply is a member's answer, true when it was given and, but for a pledge, no longer.
type Reply struct {
	Format      int    `json:"v"`
	Voter       uint64 `json:"voter"`
	Empty       bool   `json:"empty"`       // it has no ledger
	Incarnation uint64 `json:"incarnation"` // that it is pledged to; 0: none
	SameList    bool   `json:"same_list"`
	KnownAs     uint64 `json:"known_as"` // voter id of the asking node in its state; 0: not in it
}

// Question returns what this node asks.
func (v *Voter) Question(pledge uint64) Question {
	return Question{Format: askFormat, Cluster: v.cfg.Cluster, Node: v.cfg.Node, Members: v.cfg.Members, Pledge: pledge}
}

// Answer answers a question of node peer, and makes the pledge it asks for if this ledger is
// free to.
//
// Errors: ErrFrame, or what ended this Voter.
func (v *Voter) Answer(peer string, q Question) (Reply, error) {
	if q.Format != askFormat || q.Cluster != v.cfg.Cluster || q.Node != peer {
		return Reply{}, fmt.Errorf("%w: question of version %d, cluster %.80q, node %.80q", ErrFrame, q.Format, q.Cluster, q.Node)
	}
	same := slices.Equal(q.Members, v.cfg.Members)
	if q.Pledge != 0 && same && q.Node == v.founder() {
		v.pledge(q.Pledge)
	}
	id := v.book.id
	r := Reply{Format: askFormat, Voter: id.Voter, Empty: v.book.empty(), Incarnation: id.Incarnation, SameList: same}
	if v.mach != nil {
		if n := v.mach.state.Node(q.Node); n != nil {
			r.KnownAs = n.VoterID
		}
	}
	return r, v.err
}

// pledge binds an empty ledger to an incarnation, once.
func (v *Voter) pledge(incarnation uint64) {
	id := v.book.id
	if v.err != nil || id.Incarnation != 0 || !v.book.empty() {
		return
	}
	id.Incarnation = incarnation
	v.err = v.book.setIdentity(id)
}

// CheckReply refuses what is no reply of a version that is known here.
func CheckReply(r Reply) error {
	if r.Format != askFormat || r.Voter == 0 {
		return fmt.Errorf("%w: answer of version %d, voter %x", ErrFrame, r.Format, r.Voter)
	}
	return nil
}

// founder is the member that founds the ledger: the first one with data.
func (v *Voter) founder() string {
	for _, m := range v.cfg.Members {
		if !m.Witness {
			return m.Name
		}
	}
	return ""
}

// NeedsFounding reports whether this node has no ledger, and waits neither for an operator nor
// for a leader to admit it. Who gave a ledger up never founds another one.
func (v *Voter) NeedsFounding() bool { return v.mach == nil && !v.idle() && !v.asks() }

// Judge weighs what the members answered, by node, and who was silent. It reports whether this
// node may ask for pledges now, and shows what keeps the ledger from being in Status.Problem.
func (v *Voter) Judge(replies map[string]Reply, silent []string) bool {
	if !v.NeedsFounding() {
		return false
	}
	problem := v.diagnose(replies, silent)
	free := problem == "" && v.cfg.Node == v.founder()
	for _, m := range v.cfg.Members {
		if r, ok := replies[m.Name]; m.Name != v.cfg.Node && (!ok || !r.Empty) {
			free = false
		}
	}
	if !free {
		v.setProblem(problem)
	}
	return free
}

// diagnose says why there is no ledger here yet and what to do, "" if it only takes time.
func (v *Voter) diagnose(replies map[string]Reply, silent []string) string {
	self, me := v.cfg.Node, v.book.id
	for _, m := range v.cfg.Members {
		r, ok := replies[m.Name]
		switch {
		case !ok:
		case !r.Empty && r.KnownAs == me.Voter:
			return "" // admitted; the leader will send the state
		case !r.Empty && r.KnownAs != 0:
			return fmt.Sprintf("the ledger file on %s is new (voter %x), but the cluster knows %s as voter %x: this node has no vote. "+
				"Where the cluster has certificates, give its place to this host: lockstep node replace %s on another node",
				self, me.Voter, self, r.KnownAs, self)
		case !r.Empty:
			return fmt.Sprintf("%s is no member of the cluster: it was removed, or the cluster was founded without it. A token lets it join: lockstep cluster token on a member", self)
		case !r.SameList:
			return fmt.Sprintf("the node files of %s and %s list other members, or in another order; make them equal", self, m.Name)
		}
	}
	for _, m := range v.cfg.Members {
		r, ok := replies[m.Name]
		if ok && r.Incarnation != 0 && me.Incarnation != r.Incarnation && self == v.founder() {
			return fmt.Sprintf("%s has pledged itself to a ledger that was never founded, or is lost. "+
				"If no node has a ledger with data, stop lockstep on %s, remove its ledger.db and start it", m.Name, m.Name)
		}
	}
	if len(silent) > 0 {
		return "the first start needs every member once; no answer yet from " + strings.Join(silent, ", ")
	}
	return ""
}

// Pledge binds this node to the incarnation that it is about to found, and returns that. A crash
// before it is founded leaves pledges to the same one, and the next try goes on with it.
//
// Errors: what ended this Voter.
func (v *Voter) Pledge() (uint64, error) {
	v.pledge(randomID(v.rng))
	return v.book.id.Incarnation, v.err
}

// Found founds the ledger if every other member has pledged itself to the same incarnation:
// it writes the genesis, which the others get from here by raft. addrs gives the address of each
// member. It reports whether there is a ledger here now.
//
// Errors: quorum.ErrInvalid, or what ended this Voter.
func (v *Voter) Found(pledges map[string]Reply, addrs map[string]string) (bool, error) {
	if v.err != nil || !v.book.empty() {
		return v.err == nil, v.err
	}
	me := v.book.id
	nodes := make([]quorum.Node, 0, len(v.cfg.Members))
	for _, m := range v.cfg.Members {
		voter := me.Voter
		if m.Name != v.cfg.Node {
			r, ok := pledges[m.Name]
			if !ok || !r.Empty || !r.SameList || r.Incarnation != me.Incarnation {
				return false, nil
			}
			voter = r.Voter
		}
		nodes = append(nodes, quorum.Node{Name: m.Name, VoterID: voter, Addr: addrs[m.Name], Witness: m.Witness})
	}
	m, err := genesis(v.cfg.Cluster, me.Incarnation, nodes)
	if err != nil {
		return false, err
	}
	if v.err = v.book.founded(m); v.err == nil {
		v.mach, v.changed = m, true
		v.err = v.startRaft()
	}
	if v.err != nil {
		return false, v.err
	}
	v.setProblem("")
	v.log.Info("ledger founded", "incarnation", me.Incarnation, "voters", len(nodes))
	v.publish() // links and voter names first, so that the votes are asked for at once
	return true, v.rn.Campaign()
}

func genesis(cluster string, incarnation uint64, nodes []quorum.Node) (*machine, error) {
	st, err := quorum.Genesis(cluster, quorum.Incarnation{Counter: 1, ID: incarnation}, nodes)
	if err != nil {
		return nil, err
	}
	return newMachine(st), nil
}

// Identify makes the identity of a node's voter in a new storage, if there is none, and returns its
// id. The ledger itself stays empty: a leader that names this id fills it.
//
// Errors: ErrForeign, ErrCorrupt, or that of the storage.
func Identify(st Storage, cluster, node string, rng func() uint64) (uint64, error) {
	b, err := openBook(st, cluster, node, rng)
	if err != nil {
		return 0, err
	}
	return b.id.Voter, nil
}

// Seat is a node of a ledger that is founded at once, by FoundOn.
type Seat struct {
	Node    quorum.Node // its VoterID is set
	Storage Storage
}

// FoundOn founds a ledger on new storages, without the questions and pledges that nodes need who
// cannot see each other's. Every storage has the genesis from the start.
//
// Errors: quorum.ErrInvalid, ErrCorrupt if a storage is not new, or that of a storage.
func FoundOn(cluster string, seats []Seat, rng func() uint64) error {
	incarnation := randomID(rng)
	books := make([]*book, 0, len(seats))
	nodes := make([]quorum.Node, 0, len(seats))
	for _, s := range seats {
		b, err := openBook(s.Storage, cluster, s.Node.Name, rng)
		if err != nil {
			return err
		}
		if !b.empty() || b.id.Incarnation != 0 {
			return fmt.Errorf("%w: %s has a ledger", ErrCorrupt, s.Node.Name)
		}
		s.Node.VoterID = b.id.Voter
		books, nodes = append(books, b), append(nodes, s.Node)
	}
	m, err := genesis(cluster, incarnation, nodes)
	if err != nil {
		return err
	}
	for _, b := range books {
		id := b.id
		id.Incarnation = incarnation
		if err := b.setIdentity(id); err != nil {
			return err
		}
		if err := b.founded(m); err != nil {
			return err
		}
	}
	return nil
}
