// Package talk is the language between a test and its guest: one JSON object a line, over a virtio
// serial port. The guest says hello once; from then on every Request is answered by any number of
// outputs and one end.
package talk

// Port is the name of the virtio serial port.
const Port = "org.lockstep.rig"

// ID tells commands that run at the same time apart.
type ID uint64

// Request asks the guest for something. A request with a Script starts a command; one without kills the
// command of the same ID, with all that it has not put into a session of its own.
type Request struct {
	ID     ID     `json:"id"`
	Script string `json:"script,omitempty"` // for sh -c
	Kill   bool   `json:"kill,omitempty"`
}

// Reply is what the guest tells. Exactly one of its kinds is set.
type Reply struct {
	ID    ID     `json:"id,omitempty"`
	Hello *Hello `json:"hello,omitempty"`
	Out   []byte `json:"out,omitempty"` // of standard output
	Err   []byte `json:"err,omitempty"` // of standard error
	End   *End   `json:"end,omitempty"`
}

// Hello is the guest's first word.
type Hello struct {
	Kernel   string   `json:"kernel"`
	BootID   string   `json:"boot_id"`
	Problems []string `json:"problems,omitempty"` // what went wrong on the way here; the guest lives on
}

// End is how a command ended.
type End struct {
	Code int    `json:"code"`          // exit code; 128+n for signal n
	Why  string `json:"why,omitempty"` // why it could not be run
}
