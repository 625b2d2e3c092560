package quorum

import "slices"

// Bounds of attachments.
const (
	MaxAttachments = 64        // of one resource; more than one only if all are shared
	MaxHolder      = 253       // bytes of a holder's host name
	MaxDevice      = 255       // bytes of a device's path
	MaxAttachment  = 1<<24 - 1 // highest Attachment.Number: client sessions carry it in 24 bits

	keySize = 16 // bytes of Attachment.Key
)

// Attachment is a registered user of a resource: a kernel device on some host, which survives the
// connections that serve it, and the primary that they lead to. While an exclusive one is
// registered, nobody else is served.
type Attachment struct {
	Number uint64 `json:"number"` // given by Apply, counts up within a resource, never used again
	Key    string `json:"key"`    // chosen by the holder, 16 random bytes in hex; shown to nobody
	Holder string `json:"holder"` // host name
	Device string `json:"device"` // path on that host
	Boot   string `json:"boot"`   // boot id of that host's kernel
	Shared bool   `json:"shared,omitempty"`
}

// Attach registers an attachment, for the recorded primary alone: it has seen to it that nobody is
// served whom the new attachment excludes.
//
// The holder's own attachment of the same device from another boot is replaced: what held it is
// gone. A key that is registered already is refused with ErrExists; the record tells the number.
type Attach struct {
	Incumbent Incumbent `json:"incumbent"` // the primary that proposes it, as recorded
	Key       string    `json:"key"`
	Holder    string    `json:"holder"`
	Device    string    `json:"device"`
	Boot      string    `json:"boot"`
	Shared    bool      `json:"shared,omitempty"`
}

// Detach ends an attachment. Its holder proves itself by the key; Force is an operator's.
type Detach struct {
	Number uint64 `json:"number"`
	Key    string `json:"key,omitempty"` // "" with Force
	Force  bool   `json:"force,omitempty"`
}

// Exclusive returns the attachment that excludes everybody else, nil if there is none.
func (r *Resource) Exclusive() *Attachment {
	if len(r.Attachments) == 1 && !r.Attachments[0].Shared {
		return &r.Attachments[0]
	}
	return nil
}

// Attachment returns the attachment of that number, nil if there is none. The caller must not
// change it.
func (r *Resource) Attachment(number uint64) *Attachment {
	return r.attachment(func(a *Attachment) bool { return a.Number == number })
}

// Keyed returns the attachment with that key, nil if there is none.
func (r *Resource) Keyed(key string) *Attachment {
	return r.attachment(func(a *Attachment) bool { return a.Key == key })
}

func (r *Resource) attachment(is func(*Attachment) bool) *Attachment {
	for i := range r.Attachments {
		if is(&r.Attachments[i]) {
			return &r.Attachments[i]
		}
	}
	return nil
}

// replacedBy reports whether a is of an earlier boot of who asks for n.
func (a *Attachment) replacedBy(n *Attach) bool {
	return a.Holder == n.Holder && a.Device == n.Device && a.Boot != n.Boot
}

func attach(r *Resource, n *Attach) error {
	if err := mustLead(r, n.Incumbent); err != nil {
		return err
	}
	var keep []Attachment
	for _, a := range r.Attachments {
		switch {
		case a.replacedBy(n):
			continue
		case a.Key == n.Key:
			return refusef(ErrExists, "%q is attached with that key already, as number %d", r.Name, a.Number)
		case a.Holder == n.Holder && a.Device == n.Device:
			return refusef(ErrInUse, "%q is attached to %s on %s already, as number %d, by another process", r.Name, a.Device, a.Holder, a.Number)
		case !a.Shared:
			return refusef(ErrInUse, "%q is attached to %s on %s, as number %d, for that host alone", r.Name, a.Device, a.Holder, a.Number)
		case !n.Shared:
			return refusef(ErrInUse, "%q is attached to %s on %s, as number %d, and shared", r.Name, a.Device, a.Holder, a.Number)
		}
		keep = append(keep, a)
	}
	switch {
	case len(keep) >= MaxAttachments:
		return refusef(ErrInvalid, "%q has %d attachments, and a resource has at most that many", r.Name, len(keep))
	case r.LastAttachment >= MaxAttachment:
		return refusef(ErrInvalid, "%q was attached %d times; its numbers are used up", r.Name, r.LastAttachment)
	}
	r.LastAttachment++
	r.Attachments = append(keep, Attachment{
		Number: r.LastAttachment, Key: n.Key, Holder: n.Holder, Device: n.Device, Boot: n.Boot, Shared: n.Shared,
	})
	return nil
}

func detach(r *Resource, d *Detach) error {
	i := slices.IndexFunc(r.Attachments, func(a Attachment) bool { return a.Number == d.Number })
	switch {
	case i < 0:
		return refusef(ErrUnknown, "%q has no attachment %d", r.Name, d.Number)
	case !d.Force && r.Attachments[i].Key != d.Key:
		return refusef(ErrInvalid, "attachment %d of %q has another key", d.Number, r.Name)
	}
	if r.Attachments = remove(r.Attachments, i); len(r.Attachments) == 0 {
		r.Attachments = nil // as a State that was decoded has it
	}
	return nil
}

// checkAttachments verifies what is recorded about attachments.
func (r *Resource) checkAttachments(f *faults, bad func(format string, a ...any)) {
	if len(r.Attachments) > MaxAttachments || r.LastAttachment > MaxAttachment || r.Deleted && len(r.Attachments) > 0 {
		bad("%d attachments, the last one numbered %d, deleted %t", len(r.Attachments), r.LastAttachment, r.Deleted)
	}
	for i, a := range r.Attachments {
		f.attachment(a.Key, a.Holder, a.Device, a.Boot)
		if a.Number == 0 || a.Number > r.LastAttachment || i > 0 && r.Attachments[i-1].Number >= a.Number {
			bad("attachment %d is out of order or beyond the last one, %d", a.Number, r.LastAttachment)
		}
		if !a.Shared && len(r.Attachments) > 1 {
			bad("attachment %d is exclusive beside %d others", a.Number, len(r.Attachments)-1)
		}
		for _, b := range r.Attachments[:i] {
			if a.Key == b.Key || a.Holder == b.Holder && a.Device == b.Device {
				bad("attachments %d and %d have the same key or device", b.Number, a.Number)
			}
		}
	}
}

func (f *faults) attachment(key, holder, device, boot string) {
	f.hex("attachment key", key, keySize)
	f.label("holder", holder, MaxHolder)
	f.label("device", device, MaxDevice)
	f.boot(boot)
}

// label is a text that is not empty.
func (f *faults) label(what, s string, most int) {
	f.text(what, s, most)
	if s == "" {
		f.addf("%s is empty", what)
	}
}
