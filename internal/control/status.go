package control

import "time"

// Status is what one node knows of the cluster and its resources.
type Status struct {
	Node      string     `json:"node"`    // who answers
	Version   string     `json:"version"` // of its program
	Resources []Resource `json:"resources"`
	Nodes     []Node     `json:"nodes"`
	Ledger    Ledger     `json:"ledger"`
	Security  *Security  `json:"security,omitempty"` // of the answering node's links; null: a shared key
}

// Node is one member of the cluster as the answering node sees it.
type Node struct {
	Name    string `json:"name"`
	Alive   bool   `json:"alive"` // a hint: it was heard of lately
	Witness bool   `json:"witness"`
	Leader  bool   `json:"leader"` // of the ledger
	Voter   bool   `json:"voter"`  // it has a vote in the ledger: a node that was left behind gets one again later
}

// Ledger is the answering node's view of the quorum ledger.
type Ledger struct {
	Leader  string `json:"leader"`  // empty: none is known
	Quorum  bool   `json:"quorum"`  // a majority of the voters is reached
	Term    uint64 `json:"term"`    // of raft
	Applied uint64 `json:"applied"` // index of the last command applied here
	// Problem is a sentence: what is wrong with this node's ledger, and what to type.
	Problem string `json:"problem,omitempty"`
}

// Roles of a replica's node.
const (
	RolePrimary   = "Primary"
	RoleSecondary = "Secondary"
	RoleUnknown   = "Unknown" // no word from that node
)

// Disk states.
const (
	DiskUpToDate     = "UpToDate"     // holds every acknowledged write
	DiskOutdated     = "Outdated"     // clean but old
	DiskInconsistent = "Inconsistent" // a resync into it has begun and not ended
	DiskDiskless     = "Diskless"     // no replica here
	DiskFailed       = "Failed"       // an I/O error; stays so until it is replaced
	DiskDiverged     = "Diverged"     // another history; waits for an operator
	DiskUnknown      = "Unknown"      // no word from that node
)

// Connection states between two replicas.
const (
	ConnLocal         = "Local"         // the answering node itself
	ConnConnected     = "Connected"     // a session is up
	ConnConnecting    = "Connecting"    // tried again and again
	ConnDisconnected  = "Disconnected"  // by an operator
	ConnRefused       = "Refused"       // the peer will not have it: another history, size or key
	ConnNotApplicable = "NotApplicable" // neither end is primary
)

// I/O states of a resource on the answering node.
const (
	IORunning = "running" // requests are served
	IOFrozen  = "frozen"  // requests wait; Reason says for what
	IOFailed  = "failed"  // requests fail; Reason says why
	IONone    = "none"    // this node is not primary
)

// Resource is one replicated device.
type Resource struct {
	Name      string    `json:"resource"`
	Epoch     uint64    `json:"epoch"`
	Primary   string    `json:"primary"` // node; empty: none
	InSync    []string  `json:"in_sync"` // nodes that hold every acknowledged write, from the ledger
	Role      string    `json:"role"`    // of the answering node
	SizeBytes int64     `json:"size_bytes"`
	IO        IO        `json:"io"`
	DiskState string    `json:"disk_state"` // of the answering node's replica
	Replicas  []Replica `json:"replicas"`
	NBD       NBD       `json:"nbd"`
	Policy    Policy    `json:"policy"`
	// Attachments are the kernel devices that show this resource, and so may use it.
	Attachments []Attachment `json:"attachments"`
	Services    *Services    `json:"services,omitempty"` // null: nothing follows the primary
	Verify      *Verify      `json:"verify"`             // the last or running verify; null: none since the start
	Advice      []string     `json:"advice"`             // what is wrong, whether data is safe, what to type next
}

// Policy is what operators chose for a resource, and whether the cluster may promote by itself.
type Policy struct {
	Failover       string        `json:"failover"` // auto or manual
	Paused         bool          `json:"paused"`   // an operator paused failover
	PausedWhy      string        `json:"paused_why,omitempty"`
	Held           bool          `json:"held"`               // an operator demoted it: only an operator promotes it again
	Fencing        string        `json:"fencing"`            // lease, stonith or manual
	OnNoQuorum     string        `json:"on_no_quorum"`       // freeze or io-error
	FreezeDeadline time.Duration `json:"freeze_deadline_ns"` // 0: never
	Lease          time.Duration `json:"lease_ns"`
	ReadsConfirm   bool          `json:"reads_confirm"`
	ResyncImpact   int           `json:"resync_impact"` // percent
}

// IO tells whether requests are served.
type IO struct {
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"` // a sentence
}

// Replica is one node's copy, as the answering node sees it.
type Replica struct {
	Node          string  `json:"node"`
	DiskState     string  `json:"disk_state"`
	Connection    string  `json:"connection"`
	DirtyBytes    int64   `json:"dirty_bytes"`    // known to be missing there; 0 when not known
	UnstableBytes int64   `json:"unstable_bytes"` // acknowledged, not yet flushed there
	Resync        *Resync `json:"resync"`         // null: none
	InSync        bool    `json:"in_sync"`
	Priority      int     `json:"priority"` // the highest one is promoted first
	// ServicesFailed says why the services are not tried on that node; empty: they are.
	ServicesFailed string `json:"services_failed,omitempty"`
	// Divergence is set for a replica that holds another history than the ledger records.
	Divergence *Divergence `json:"divergence,omitempty"`
}

// Resync is a copy in progress into a replica.
type Resync struct {
	Percent     float64 `json:"percent"`     // 0 to 100
	BytesPerSec int64   `json:"bytes_per_s"` // over the last seconds
	ETASeconds  int64   `json:"eta_s"`       // -1: cannot be told
	Paused      bool    `json:"paused"`
}

// NBD tells where clients connect.
type NBD struct {
	Unix    string `json:"unix"`            // path of the socket; empty: none
	TCP     string `json:"tcp"`             // host:port; empty: none
	Reach   string `json:"reach,omitempty"` // host:port for clients on other hosts; empty: none
	TLS     string `json:"tls,omitempty"`   // of TCP: required, allowed or, empty, off
	Clients int    `json:"clients"`         // connections open now
}

// Verify is the state of the last or running comparison.
type Verify struct {
	Running     bool       `json:"running"`
	Percent     float64    `json:"percent"` // 0 to 100
	BytesPerSec int64      `json:"bytes_per_s"`
	ETASeconds  int64      `json:"eta_s"` // -1: cannot be told
	Differences int        `json:"differences"`
	Repaired    int        `json:"repaired"`
	Finished    *time.Time `json:"finished,omitempty"`
}

// Event is one entry of the log of transitions.
type Event struct {
	Seq      uint64            `json:"seq"` // rises by one; begins anew when the daemon starts
	Time     time.Time         `json:"time"`
	Node     string            `json:"node"`
	Resource string            `json:"resource,omitempty"` // empty: of the node itself
	Kind     string            `json:"kind"`               // stable, for programs: "resync_done"
	Text     string            `json:"text"`               // a sentence, for people
	Attrs    map[string]string `json:"attrs,omitempty"`
}
