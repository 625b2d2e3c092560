package node

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/memnet"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// Errors of options.
const (
	nbdPolicy     = 1<<31 | 2
	nbdUnknown    = 1<<31 | 6
	nbdShutdown   = 1<<31 | 7
	nbdSuperseded = nbd.RepErrSuperseded
)

// holder is a host that attaches r0: what a relay is, without a kernel.
type holder struct {
	w *bubble
	nbd.Attach
}

func (w *bubble) holder(name string, key byte) *holder {
	return &holder{w, nbd.Attach{Resource: "r0", Key: nbd.Key{key}, Holder: name, Device: "/dev/nbd0", Boot: "boot of " + name}}
}

// turnedAway is what a holder hears instead of being served.
type turnedAway struct {
	kind uint32
	text string
}

// dial connects to the clients' socket of a node and greets.
func (h *holder) dial(node string) *nbdtest.Client {
	h.w.Helper()
	conn, err := h.w.Host(h.w.ip(node)).Dial(h.w.Context(), "unix", h.w.files[node].NBDUnix)
	check(h.w.T, "connect to "+node, err)
	h.w.Cleanup(func() { conn.Close() })
	c := nbdtest.Over(h.w, conn)
	c.Greet()
	return c
}

// open begins the next session on node. conn is nil if that was refused.
func (h *holder) open(node string) (conn *nbdConn, number uint64, no turnedAway) {
	h.w.Helper()
	h.Session++
	c := h.dial(node)
	if number, no.kind, no.text = c.Attach(h.Attach); no.kind == 0 {
		no.kind, no.text = c.Go("r0")
	}
	if no.kind != 0 {
		return nil, number, no
	}
	return &nbdConn{Conn: c.Conn, size: bubbleSize}, number, no
}

// mustOpen is open where it must not be refused.
func (h *holder) mustOpen(node string) *nbdConn {
	h.w.Helper()
	c, _, no := h.open(node)
	if no.kind != 0 {
		h.w.Fatalf("%s on %s: %#x %s", h.Holder, node, no.kind, no.text)
	}
	return c
}

// refused fails unless node refuses the holder's next session with kind and says all these words.
func (h *holder) refused(node string, kind uint32, says ...string) {
	h.w.Helper()
	_, _, no := h.open(node)
	if no.kind != kind {
		h.w.Errorf("%s on %s: %#x %q, want %#x", h.Holder, node, no.kind, no.text, kind)
	}
	for _, s := range says {
		if !strings.Contains(no.text, s) {
			h.w.Errorf("%s on %s: %q does not say %q", h.Holder, node, no.text, s)
		}
	}
}

// ends fails unless the connection is closed, without an answer.
func (w *bubble) ends(c *nbdConn, what string) {
	w.Helper()
	check(w.T, "deadline", c.SetReadDeadline(time.Now().Add(10*time.Second)))
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
		w.Errorf("%s: the connection brought an answer", what)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		w.Errorf("%s: the connection is open", what)
	}
}

// attachments returns those of r0 as node shows them.
func (w *bubble) attachments(node string) []control.Attachment {
	w.Helper()
	st, err := w.client(node).Status(w.Context(), "r0")
	check(w.T, "status", err)
	return st.Resources[0].Attachments
}

func TestAttach_ResumesAfterFailover_AndEveryPrimaryKnowsTheHolder(t *testing.T) {
	inCluster(t, func(w *bubble) {
		w.steady()
		model := make([]byte, bubbleSize)
		h1, h2 := w.holder("h1", 1), w.holder("h2", 2)
		h1.refused("n2", nbdShutdown, "its primary is n1")
		c := h1.mustOpen("n1")
		writeAt(w.T, c, model, 0, pattern(1, 100_000))
		for _, node := range []string{"n1", "n2", "w"} {
			w.until(node, "h1 is attached", func(_ control.Status, r control.Resource) bool {
				return len(r.Attachments) == 1 && r.Attachments[0] == control.Attachment{Number: 1, Holder: "h1", Device: "/dev/nbd0", Boot: "boot of h1", Connected: true}
			})
		}
		h2.refused("n1", nbdPolicy, "on h1", "/dev/nbd0")
		if _, err := w.open("n1"); err == nil {
			t.Error("n1 serves a client who is not attached")
		}
		if n := w.events("n1", "attached"); n != 1 {
			t.Errorf("%d events", n)
		}

		w.crash("n1")
		w.serves("n2")
		h1.Resume = true
		c = h1.mustOpen("n2")
		got := make([]byte, 100_000)
		check(w.T, "read", c.do(cmdRead, 0, got))
		if !bytes.Equal(got, model[:len(got)]) {
			t.Error("read something else than was written")
		}
		writeAt(w.T, c, model, 50_000, pattern(2, 100_000))
		h2.refused("n2", nbdPolicy, "on h1")
		if _, err := w.open("n2"); err == nil {
			t.Error("n2 serves a client who is not attached")
		}
		if a := w.attachments("n2"); len(a) != 1 || a[0].Number != 1 {
			t.Errorf("attachments %+v: it was registered anew", a)
		}

		w.start("n1")
		w.untilInSync("n2", "n1", "n2")
		check(w.T, "switchover", w.client("n2").Switchover(w.Context(), "r0", "n1"))
		w.ends(c, "switchover")
		h1.refused("n2", nbdShutdown, "its primary is n1", "nbd") // with the way there
		c = h1.mustOpen("n1")
		writeAt(w.T, c, model, 200_000, pattern(3, 1000))
		c.Close()
		w.sameDisks(model)
	})
}

func TestAttach_DetachMakesRoomAndTheOldHolderIsSuperseded(t *testing.T) {
	inCluster(t, func(w *bubble) {
		h1, h2 := w.holder("h1", 1), w.holder("h2", 2)
		c := h1.mustOpen("n1")
		check(w.T, "write", c.do(cmdWrite, 0, pattern(1, 4096)))
		c.Close()
		if kind, text := h1.dial("n2").Detach("r0", h1.Key); kind != nbdShutdown {
			t.Errorf("detach on a secondary: %#x %s", kind, text)
		}
		for range 2 { // the answer may be lost, and the request come again
			if kind, text := h1.dial("n1").Detach("r0", h1.Key); kind != 0 {
				t.Errorf("detach: %#x %s", kind, text)
			}
		}
		h1.Resume = true
		h1.refused("n1", nbdSuperseded, "not registered any more")
		if _, number, no := h2.open("n1"); no.kind != 0 || number != 2 {
			t.Errorf("h2 gets number %d, %#x %s", number, no.kind, no.text)
		}
		h1.Resume = false
		h1.refused("n1", nbdPolicy, "on h2")
	})
}

func TestAttach_OperatorDropsAHolder_WhichIsCutOffAndReplaced(t *testing.T) {
	for _, node := range []string{"n1", "n2"} { // that is asked: the primary, or another
		t.Run(node, func(t *testing.T) {
			inCluster(t, func(w *bubble) {
				h1, h2 := w.holder("h1", 1), w.holder("h2", 2)
				c := h1.mustOpen("n1")
				check(w.T, "write", c.do(cmdWrite, 0, pattern(1, 4096)))
				if err := w.client(node).DropAttachment(w.Context(), "r0", 9); control.AsError(err).Code != control.CodeNotFound {
					t.Errorf("drop of what is not there: %v", err)
				}
				check(w.T, "drop", w.client(node).DropAttachment(w.Context(), "r0", 1))
				w.ends(c, "drop")
				h1.Resume = true
				h1.refused("n1", nbdSuperseded)
				c = h2.mustOpen("n1")
				check(w.T, "write", c.do(cmdWrite, 0, pattern(2, 4096)))
			})
		})
	}
}

func TestAttach_HostThatRebootedTakesThePlaceOfItsFormerBoot(t *testing.T) {
	inCluster(t, func(w *bubble) {
		h := w.holder("h1", 1)
		before := h.mustOpen("n1")
		check(w.T, "write", before.do(cmdWrite, 0, pattern(1, 4096)))
		again := w.holder("h1", 2)
		again.refused("n1", nbdPolicy, "by another process") // the same boot
		again.Boot = "the next boot"
		again.Session = 0 // CLOCK_BOOTTIME begins anew
		c := again.mustOpen("n1")
		w.ends(before, "reboot")
		check(w.T, "write", c.do(cmdWrite, 0, pattern(2, 4096)))
		h.Resume = true
		h.refused("n1", nbdSuperseded)
	})
}

func TestAttach_ExclusiveIsRefusedWhileOthersAreConnected(t *testing.T) {
	inCluster(t, func(w *bubble) {
		a, b := w.mustOpen("n1"), w.mustOpen("n1")
		h := w.holder("h1", 1)
		h.refused("n1", nbdPolicy, "2 other clients")
		shared := w.holder("h2", 2)
		shared.Shared = true
		s := shared.mustOpen("n1") // beside them
		check(w.T, "write", a.do(cmdWrite, 0, pattern(1, 4096)))
		a.Close()
		b.Close()
		memnet.Pass(time.Second)
		h.refused("n1", nbdPolicy, "on h2", "shared")
		s.Close()
		check(w.T, "drop", w.client("n1").DropAttachment(w.Context(), "r0", 1))
		h.mustOpen("n1")
	})
}

func TestAttach_SharedHoldersAreClientsOfTheirOwn(t *testing.T) {
	inCluster(t, func(w *bubble) {
		var holders []*holder
		var conns []*nbdConn
		model := make([]byte, bubbleSize)
		for i, name := range []string{"h1", "h2", "h3"} {
			h := w.holder(name, byte(i+1))
			h.Shared, h.Session = true, uint64(100-i) // each counts for itself
			holders, conns = append(holders, h), append(conns, h.mustOpen("n1"))
		}
		for i, c := range conns {
			writeAt(w.T, c, model, i*8192, pattern(uint64(i), 8192))
		}
		holders[1].Resume = true
		again := holders[1].mustOpen("n1")
		w.ends(conns[1], "a newer session")
		for i, c := range []*nbdConn{conns[0], again, conns[2]} {
			writeAt(w.T, c, model, i*8192+100, pattern(uint64(10+i), 8192))
		}
		alone := w.holder("h4", 4)
		alone.refused("n1", nbdPolicy, "shared")
		check(w.T, "drop", w.client("n1").DropAttachment(w.Context(), "r0", 1))
		w.ends(conns[0], "drop")
		writeAt(w.T, conns[2], model, 0, pattern(20, 4096))
		again.Close()
		conns[2].Close()
		w.sameDisks(model)
	})
}

func TestAttach_SessionsThatAreNotNewerAreRefused(t *testing.T) {
	inCluster(t, func(w *bubble) {
		h := w.holder("h1", 1)
		h.Session = 9
		c := h.mustOpen("n1") // session 10
		h.Resume = true
		for _, last := range []uint64{8, 9} {
			h.Session = last
			h.refused("n1", nbdShutdown, "newer session")
		}
		check(w.T, "write", c.do(cmdWrite, 0, pattern(1, 4096)))
	})
}

// The tail of a write of the old session is still on its way when the new one is admitted.
func TestAttach_LateWriteOfAnOldSessionIsNeverApplied(t *testing.T) {
	inCluster(t, func(w *bubble) {
		model := make([]byte, bubbleSize)
		h := w.holder("h1", 1)
		old := h.mustOpen("n1")
		late := nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: 77, Off: 0, Len: 8192}.Append(nil, pattern(1, 8192))
		_, err := old.Write(late[:5000])
		check(w.T, "first part", err)
		memnet.Pass(time.Second)

		h.Resume = true
		c := h.mustOpen("n1")
		writeAt(w.T, c, model, 0, pattern(2, 8192))
		_, _ = old.Write(late[5000:]) // the connection is closed by now, or will be
		w.ends(old, "late write")
		writeAt(w.T, c, model, 100_000, pattern(3, 4096))
		c.Close()
		w.sameDisks(model)
	})
}

// What the old session's write waits for is over only when the peer is dropped; until then the new
// session is not admitted, and then the write was not begun or is in the past.
func TestAttach_NewSessionWaitsForWhatTheOldOneStarted(t *testing.T) {
	inCluster(t, func(w *bubble) {
		w.steady()
		model := make([]byte, bubbleSize)
		h := w.holder("h1", 1)
		old := h.mustOpen("n1")
		writeAt(w.T, old, model, 0, pattern(1, 8192))
		w.split("n1", "n2")
		ask(old, cmdWrite, 0, pattern(2, 8192)) // its frame is lost
		memnet.Pass(10 * time.Millisecond)
		h.Resume = true
		start := time.Now()
		c := h.mustOpen("n1")
		if took := time.Since(start); took < 100*time.Millisecond {
			t.Errorf("admitted after %v, while the write was under way", took)
		}
		writeAt(w.T, c, model, 0, pattern(3, 8192))
		w.join("n1", "n2")
		w.untilInSync("n1", "n1", "n2")
		c.Close()
		w.sameDisks(model)
	})
}

// The dropped holder's second write waits for its first, which waits for a lost peer. Nobody is left who
// could want it, and the other holders must be able to go on as if it had never been.
func TestAttach_WhatADroppedHolderHasWaitingIsNeverBegun(t *testing.T) {
	inCluster(t, func(w *bubble) {
		w.steady()
		model := make([]byte, bubbleSize)
		h1, h2 := w.holder("h1", 1), w.holder("h2", 2)
		h1.Shared, h2.Shared = true, true
		c, other := h1.mustOpen("n1"), h2.mustOpen("n1")
		writeAt(w.T, c, model, 0, pattern(1, 8192))
		w.split("n1", "n2")
		var both []byte
		for i := uint64(2); i < 4; i++ {
			both = nbdtest.Command{Type: nbdtest.CmdWrite, Cookie: i, Len: 8192}.Append(both, pattern(i, 8192))
		}
		_, err := c.Write(both)
		check(w.T, "two writes", err)
		memnet.Pass(10 * time.Millisecond)
		check(w.T, "drop", w.client("n1").DropAttachment(w.Context(), "r0", 1))
		if n := w.events("n1", "dropped"); n != 0 {
			t.Fatal("n2 was dropped before the attachment was: nothing was waiting any more")
		}
		w.untilInSync("n1", "n1")
		got := make([]byte, 8192)
		check(w.T, "read", other.do(cmdRead, 0, got))
		if !bytes.Equal(got, pattern(2, 8192)) {
			t.Errorf("the first write is lost, or the second was begun: %t", bytes.Equal(got, pattern(3, 8192)))
		}
		w.join("n1", "n2")
		w.untilInSync("n1", "n1", "n2")
		copy(model, pattern(2, 8192))
		other.Close()
		w.sameDisks(model)
	})
}

func TestAttach_WithoutAQuorum_NobodyIsRegisteredOrCalledSuperseded(t *testing.T) {
	inCluster(t, func(w *bubble) {
		w.steady()
		h1, h2 := w.holder("h1", 1), w.holder("h2", 2)
		c := h1.mustOpen("n1")
		check(w.T, "write", c.do(cmdWrite, 0, pattern(1, 4096)))
		c.Close()
		w.until("n2", "h1 is attached", func(_ control.Status, r control.Resource) bool { return len(r.Attachments) == 1 })
		w.stop("n2")
		w.serves("n1")
		w.stop("w")
		memnet.Pass(time.Second)
		h1.Resume = true
		h1.mustOpen("n1").Close() // its own copy suffices
		h2.Resume = true
		h2.refused("n1", nbdShutdown, "majority")
		h2.Resume = false
		h2.refused("n1", nbdShutdown, "majority")
		if kind, text := h1.dial("n1").Detach("r0", h1.Key); kind != nbdShutdown {
			t.Errorf("detach: %#x %s", kind, text)
		}
		w.start("n2")
		w.start("w")
		w.untilInSync("n1", "n1", "n2")
		if kind, text := h1.dial("n1").Detach("r0", h1.Key); kind != 0 {
			t.Errorf("detach: %#x %s", kind, text)
		}
		h2.mustOpen("n1")
	})
}

func TestAttach_DeleteOfAnAttachedResourceIsRefused(t *testing.T) {
	inCluster(t, func(w *bubble) {
		h := w.holder("h1", 1)
		h.mustOpen("n1").Close()
		check(w.T, "demote", w.client("n1").Demote(w.Context(), "r0"))
		err := w.client("n1").DeleteResource(w.Context(), "r0")
		if e := control.AsError(err); err == nil || e.Code != control.CodeRefused || !strings.Contains(e.Message, "on h1") {
			t.Fatalf("delete: %v", err)
		}
		h.Resume = true
		h.refused("n1", nbdShutdown, "nobody is primary")
		check(w.T, "drop", w.client("n2").DropAttachment(w.Context(), "r0", 1))
		check(w.T, "delete", w.client("n1").DeleteResource(w.Context(), "r0"))
		h.refused("n1", nbdUnknown, "no resource")
	})
}

// A crowd of holders attaches at once: each number is given once, and one of the exclusive ones wins.
func TestAttach_ManyAtOnce_OneIsServed(t *testing.T) {
	inCluster(t, func(w *bubble) {
		const n = 8
		out := make(chan uint32, n) // the types of the first replies
		for i := range n {
			h := w.holder(string(rune('a'+i)), byte(i+1))
			h.Session = 1
			c := h.dial("n1")
			go func() {
				opt := nbdtest.AppendOption(nil, nbd.OptAttach, nbd.AppendAttach(nil, h.Attach))
				head := make([]byte, 20)
				if _, err := c.Conn.Write(opt); err != nil {
					t.Error(err)
				} else if _, err := c.Conn.Read(head); err != nil {
					t.Error(err)
				}
				out <- binary.BigEndian.Uint32(head[12:])
			}()
		}
		won := 0
		for range n {
			switch kind := <-out; kind {
			case nbd.RepAttached:
				won++
			case nbdPolicy:
			default:
				t.Errorf("answer %#x", kind)
			}
		}
		if a := w.attachments("n1"); won != 1 || len(a) != 1 || a[0].Number != 1 {
			t.Errorf("%d were attached; recorded: %+v", won, a)
		}
	})
}
