package peer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-ha/lockstep/internal/buf"
	"github.com/lockstep-ha/lockstep/internal/memnet"
	"github.com/lockstep-ha/lockstep/replication/wire"
)

func TestLink_IdleSessionStaysUp(t *testing.T) {
	connected(t, func(w *bubble, sa, sb *Session) {
		memnet.Pass(24 * time.Hour)
		w.quiet()
		w.bothUp()
		if w.a.current() != sa || w.b.current() != sb {
			w.Error("it is another session")
		}
	})
}

func TestLink_SilentPeer_EndsTheSessionAfterTheTimeoutAndOnlyThen(t *testing.T) {
	for _, cut := range [][2]string{{"a", "b"}, {"b", "a"}} {
		t.Run(cut[0]+" is not heard", func(t *testing.T) {
			connected(t, func(w *bubble, sa, sb *Session) {
				w.Cut(cut[0], cut[1])
				memnet.Pass(DefaultUserTimeout - 1)
				w.quiet()
				w.Heal(cut[0], cut[1])
				w.bothUp() // what was sent during the silence arrives
				w.Cut(cut[0], cut[1])
				memnet.Pass(DefaultUserTimeout - 1)
				w.quiet()
				memnet.Pass(1)
				for _, n := range []*fakeNode{w.a, w.b} {
					if e := n.next("down"); !errors.Is(e.err, syscall.ETIMEDOUT) {
						w.Errorf("%s: %v", n.name, e.err)
					}
				}
				memnet.Pass(time.Hour)
				w.quiet()
				if st := w.la.Stats(); st.Failures == 0 || st.State == Up {
					w.Errorf("a: %+v", st)
				}
				w.Heal(cut[0], cut[1])
				memnet.Pass(DefaultBackoffMax + 10*latency)
				w.bothUp()
			})
		})
	}
}

func TestLink_SteadySessionBreaks_IsBackAtOnce(t *testing.T) {
	connected(t, func(w *bubble, sa, sb *Session) {
		for range 10 {
			memnet.Pass(time.Minute)
			w.quiet()
			w.Break("a", "b")
			start := time.Now()
			w.b.next("down")
			w.b.next("up")
			// Dialing takes one way and back; so do both hellos; then comes the accept.
			if d := time.Since(start); d != 5*latency {
				w.Errorf("back after %v", d)
			}
			w.bothUp()
		}
	})
}

func TestLink_100Flaps_EndsConnectedAndLeaksNothing(t *testing.T) {
	const flaps = 100
	connected(t, func(w *bubble, sa, sb *Session) {
		rng := rand.New(rand.NewPCG(7, 8))
		broken := []string{"connection", "host", "a", "b"}
		for round := range flaps {
			burst(sa, uint64(round), rng.IntN(20))
			burst(sb, uint64(round), rng.IntN(20))
			memnet.Pass(time.Duration(rng.Int64N(int64(3 * latency)))) // frames are in flight, or have arrived
			switch what := broken[rng.IntN(len(broken))]; what {
			case "connection":
				w.Break("a", "b")
			case "host": // b finds a connection that nobody holds any more
				w.stopA()
				w.Host("a").Crash()
				prefixes(w, w.a)
				w.startA(func(c *LinkConfig) { w.a.hello.Process = uint64(round + 1) })
			case "a":
				sa.Close(errors.New("flap"))
			case "b":
				sb.Close(errors.New("flap"))
			}
			memnet.Pass(DefaultBackoffMax + 10*latency) // more is never waited after one break
			sa, sb = w.a.current(), w.b.current()
			if sa == nil || sb == nil {
				w.Fatalf("round %d: a %+v\nb %+v", round, w.la.Stats(), w.lb.Stats())
			}
			prefixes(w, w.a)
			prefixes(w, w.b)
		}
		burst(sa, flaps, 20)
		burst(sb, flaps, 20)
		memnet.Pass(2 * latency)
		for _, n := range []*fakeNode{w.a, w.b} {
			if got := prefixes(w, n); got != 20 {
				w.Errorf("%s got %d of the last 20 frames", n.name, got)
			}
		}
		w.bothUp()
		w.oneConnection()
		if st := w.lb.Stats(); st.Sessions != flaps+1 || st.State != Up {
			w.Errorf("b: %+v", st)
		}
	})
}

// burst sends n frames of 4 KiB that name the round and their place in it.
func burst(s *Session, round uint64, n int) {
	for seq := range n {
		f := writeFrame(uint64(seq), 4096)
		f.Epoch = round
		s.Send(f, buf.Get(4096))
		s.Flush()
	}
}

// prefixes reads what n has seen and checks that each of its sessions carried frames of one round
// only, the first ones of it, in order. It returns how many frames the last one carried.
func prefixes(w *bubble, n *fakeNode) int {
	w.Helper()
	got, round := 0, uint64(0)
	for len(n.events) > 0 {
		switch e := <-n.events; e.what {
		case "up":
			got = 0
		case "frame":
			if got == 0 {
				round = e.frame.Epoch
			}
			if e.frame.Epoch != round || e.frame.Seq != uint64(got) || len(e.data) != 4096 {
				w.Fatalf("%s: frame %d of round %d arrived as number %d of round %d", n.name, e.frame.Seq, e.frame.Epoch, got, round)
			}
			got++
		}
	}
	return got
}

// steps are the moments of a handshake at which something happens to it.
var steps = []string{"connected", "hello sent", "hello answered", "accepted"}

// tripAt has f called at a step of the first handshake.
func (w *bubble) tripAt(step string, f func()) {
	once := sync.OnceFunc(f)
	w.wrapA = func(c *tripConn) {
		if step == "connected" {
			once()
		}
		c.after = func(n int) {
			if step == steps[1] && n == 1 || step == steps[3] && n == 2 {
				once()
			}
		}
	}
	w.wrapB = func(c *tripConn) {
		c.after = func(int) {
			if step == steps[2] {
				once()
			}
		}
	}
}

func TestLink_ConnectAborted_RecoversAtOnce(t *testing.T) {
	for _, step := range steps {
		for _, fault := range []string{"broken", "crashed a", "disabled on a", "disabled on b"} {
			t.Run(step+", "+fault, func(t *testing.T) {
				inBubble(t, func(w *bubble) {
					w.tripAt(step, func() {
						switch fault {
						case "broken":
							w.Break("a", "b")
						case "crashed a":
							w.Host("a").Crash()
						case "disabled on a":
							go func() { w.la.SetEnabled(false); w.la.SetEnabled(true) }()
						case "disabled on b":
							go func() { w.lb.SetEnabled(false); w.lb.SetEnabled(true) }()
						}
					})
					w.startB(nil)
					w.startA(nil)
					// A refusal waits for its reader; nothing waits for a timeout.
					memnet.Pass(refuseTime + 2*DefaultBackoffMin + 20*latency)
					w.bothUp()
					w.oneConnection()
				})
			})
		}
	}
}

func TestLink_ConnectFallsSilent_EndsByTimeoutAndRecovers(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(w *bubble) {
				w.tripAt(step, func() { w.Split("a", "b") })
				w.startB(nil)
				w.startA(nil)
				memnet.Pass(DefaultHandshakeTimeout - 1)
				if st := w.la.Stats(); st.Failures != 0 {
					w.Errorf("a gave up early: %+v", st)
				}
				memnet.Pass(10 * latency)
				// A side that has accepted believes in a session until its own liveness ends it, and
				// one that has heard no hello has nothing to give up.
				for l, gaveUp := range map[*Link]bool{w.la: step != "accepted", w.lb: step == "hello answered" || step == "accepted"} {
					if st := l.Stats(); (st.Failures == 1) != gaveUp {
						w.Errorf("%s, after its timeout: %+v", l.cfg.Self, st)
					}
				}
				memnet.Pass(DefaultUserTimeout)
				for _, l := range []*Link{w.la, w.lb} {
					if st := l.Stats(); st.State == Up {
						w.Errorf("%s: %+v", l.cfg.Self, st)
					}
				}
				w.Join("a", "b")
				memnet.Pass(DefaultBackoffMax + DefaultHandshakeTimeout)
				w.bothUp()
				w.oneConnection()
			})
		})
	}
}

func TestLink_HalfOpenSession(t *testing.T) {
	crashed := func(t *testing.T, f func(w *bubble, sb *Session)) {
		t.Helper()
		connected(t, func(w *bubble, sa, sb *Session) {
			w.Host("a").Crash()
			w.stopA()
			memnet.Pass(DefaultUserTimeout / 2)
			if len(w.b.events) > 0 {
				w.Errorf("b heard of the crash: %v", (<-w.b.events).err)
			}
			f(w, sb)
		})
	}
	t.Run("is replaced at once when the peer is back", func(t *testing.T) {
		crashed(t, func(w *bubble, sb *Session) {
			w.startA(nil)
			memnet.Pass(10 * latency)
			if e := w.b.next("down"); e.s != sb || !errors.Is(e.err, ErrReplaced) {
				w.Errorf("down: %v", e.err)
			}
			w.bothUp()
		})
	})
	t.Run("ends at the first frame when the host is back", func(t *testing.T) {
		crashed(t, func(w *bubble, sb *Session) {
			sb.Send(&wire.Frame{Type: wire.Beacon}, nil)
			sb.Flush()
			memnet.Pass(2 * latency)
			if e := w.b.next("down"); !errors.Is(e.err, syscall.ECONNRESET) {
				w.Errorf("down: %v", e.err)
			}
		})
	})
	t.Run("ends by timeout when nobody comes", func(t *testing.T) {
		crashed(t, func(w *bubble, sb *Session) {
			memnet.Pass(DefaultUserTimeout/2 - 1)
			if len(w.b.events) > 0 {
				w.Errorf("ended early: %v", (<-w.b.events).err)
			}
			memnet.Pass(1)
			if e := w.b.next("down"); !errors.Is(e.err, syscall.ETIMEDOUT) {
				w.Errorf("down: %v", e.err)
			}
		})
	})
}

func TestLink_BothSidesConnectAtOnce_OneConnectionIsMade(t *testing.T) {
	for round := range 20 {
		inBubble(t, func(w *bubble) {
			off := func(c *LinkConfig) { c.Disabled = true }
			if round%2 == 0 {
				w.startA(off)
				w.startB(off)
			} else {
				w.startB(off)
				w.startA(off)
			}
			go w.la.SetEnabled(true)
			go w.lb.SetEnabled(true)
			memnet.Pass(DefaultBackoffMax)
			w.bothUp()
			w.oneConnection()
			before := []uint64{w.la.Stats().Sessions, w.lb.Stats().Sessions}
			if before[0] != 1 || before[1] != 1 {
				w.Errorf("sessions %v", before)
			}
			memnet.Pass(time.Hour)
			w.quiet()
		})
	}
}

func TestLink_NodeThatShouldNotDial_IsRefusedAndDisturbsNothing(t *testing.T) {
	connected(t, func(w *bubble, sa, sb *Session) {
		acc := NewAcceptor(AcceptorConfig{Self: "a"})
		if err := acc.Add(w.la); err != nil {
			w.Fatal(err)
		}
		ln, err := w.Host("a").Listen("tcp", "a:1")
		if err != nil {
			w.Fatal(err)
		}
		conn, err := w.Host("b").Dial(w.Context(), "tcp", "a:1")
		if err != nil {
			w.Fatal(err)
		}
		theirs, err := ln.Accept()
		if err != nil {
			w.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute)) // only when the test has failed
		served := make(chan error, 1)
		go func() { served <- acc.serve(w.Context(), theirs, "b") }()
		p := &rawPeer{w, conn}
		p.write(helloBytes(w, wire.Hello{Resource: "r0", Node: "b"}))
		if g := p.greeting(); g.Kind != wire.GreetRefuse {
			w.Errorf("answered %s", g.Kind)
		}
		conn.Close()
		var r *RefusedError
		if err := <-served; !errors.As(err, &r) || !errors.Is(err, ErrHandshake) {
			w.Errorf("serve: %v", err)
		}
		ln.Close()
		w.bothUp()
		if w.a.current() != sa || w.b.current() != sb {
			w.Error("the session was replaced")
		}
	})
}

func TestLink_ShutdownInEveryState_IsPromptAndLeaksNothing(t *testing.T) {
	prompt := func(w *bubble, stop func(), within time.Duration) {
		w.Helper()
		start := time.Now()
		stop()
		if d := time.Since(start); d > within {
			w.Errorf("the end took %v", d)
		}
	}
	for name, reach := range map[string]func(w *bubble){
		"disabled": func(w *bubble) {
			w.startA(func(c *LinkConfig) { c.Disabled = true })
		},
		"waiting for the next attempt": func(w *bubble) {
			w.startA(nil) // nobody listens
			memnet.Pass(time.Minute)
		},
		"dialing": func(w *bubble) {
			w.Split("a", "b")
			w.startA(nil)
			memnet.Pass(time.Second)
		},
		"in the handshake": func(w *bubble) {
			w.tripAt("hello answered", func() { w.Split("a", "b") })
			w.startB(nil)
			w.startA(nil)
			memnet.Pass(time.Second)
		},
		"up": func(w *bubble) {
			w.startB(nil)
			w.startA(nil)
			memnet.Pass(time.Second)
		},
		"up with a peer that reads nothing": func(w *bubble) {
			w.startB(nil)
			w.startA(nil)
			memnet.Pass(time.Second)
			w.Cut("a", "b") // the window fills
			burst(w.a.current(), 1, 200)
			memnet.Pass(time.Second)
			if w.a.current().Queued() == 0 {
				w.Error("all of it was taken")
			}
		},
	} {
		for _, first := range []string{"a", "b"} {
			t.Run(fmt.Sprintf("%s, %s first", name, first), func(t *testing.T) {
				inBubble(t, func(w *bubble) {
					reach(w)
					for range 2 {
						if first == "a" {
							prompt(w, w.stopA, 0)
							first = "b"
						} else {
							prompt(w, w.stopB, 0)
							first = "a"
						}
					}
				})
			})
		}
	}
}

func TestLink_RefusalLingersOnlyAMoment(t *testing.T) {
	connected(t, func(w *bubble, sa, sb *Session) {
		w.Split("a", "b") // the refusal is never read
		sa.Send(&wire.Frame{Type: wire.Refuse, Msg: &wire.Message{Reason: "sizes differ"}}, nil)
		sa.Flush()
		synctest.Wait() // it has left: what is only queued is not waited for
		start := time.Now()
		sa.Close(errors.New("sizes differ"))
		w.a.next("down")
		if d := time.Since(start); d != lingerTime {
			w.Errorf("lingered %v", d)
		}
	})
}
