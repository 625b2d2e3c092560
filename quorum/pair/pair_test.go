package pair

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// lost is a look at which nothing is against shooting n2.
func lost() Look {
	return Look{Peer: "n2", Boot: "b2", Voter: true, CanFence: true, Favoured: true}
}

func newPair(t testing.TB) *Pair {
	t.Helper()
	p, err := New(Config{Random: func(most time.Duration) time.Duration { return most / 2 }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// watch steps p every LookInterval from one moment to another, and returns the first action and when.
func watch(p *Pair, l Look, from, to time.Duration) (*Action, time.Duration) {
	for now := from; now <= to; now += LookInterval {
		if out := p.Step(Event{Kind: EvLook, Now: now, Look: l}, nil); len(out) > 0 {
			return &out[0], now
		}
	}
	return nil, to
}

// shooting returns a Pair whose fence is under way, and the time.
func inShot(t testing.TB) (*Pair, time.Duration) {
	t.Helper()
	p := newPair(t)
	a, at := watch(p, lost(), 0, time.Minute)
	if a == nil || a.Kind != ActShoot {
		t.Fatalf("%+v", a)
	}
	return p, at
}

func TestPair_ShootsAfterSilence_TheOtherOneAfterADelay(t *testing.T) {
	for name, tc := range map[string]struct {
		favoured bool
		at       time.Duration
	}{
		"the one that is primary":     {true, 2 * time.Second},
		"the one that is not primary": {false, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			l := lost()
			l.Favoured = tc.favoured
			a, at := watch(newPair(t), l, 0, time.Minute)
			if a == nil || a.Kind != ActShoot || a.Node != "n2" || a.Boot != "b2" || at != tc.at {
				t.Errorf("at %v: %+v", at, a)
			}
		})
	}
}

func TestPair_WithAnythingAgainstIt_NobodyIsShot(t *testing.T) {
	for name, change := range map[string]func(*Look){
		"it is no pair":                                 func(l *Look) { l.Peer = "" },
		"there is a majority":                           func(l *Look) { l.Quorum = true },
		"it has no vote":                                func(l *Look) { l.Voter = false },
		"the ledger's link is up":                       func(l *Look) { l.Linked = true },
		"membership hears of it":                        func(l *Look) { l.Gossip = true },
		"the session was not held in sync, or is there": func(l *Look) { l.Held = "n2 is connected" },
		"it stopped on purpose":                         func(l *Look) { l.Left = true },
		"an operator decides":                           func(l *Look) { l.Hands = "failover of r0 is paused" },
		"its boot is not known":                         func(l *Look) { l.Boot = "" },
		"there is no device":                            func(l *Look) { l.CanFence = false },
	} {
		t.Run(name, func(t *testing.T) {
			l := lost()
			change(&l)
			p := newPair(t)
			if a, at := watch(p, l, 0, time.Hour); a != nil {
				t.Fatalf("at %v: %+v", at, a)
			}
			if quiet := l.Quorum || l.Peer == ""; quiet != (p.Explain() == "") {
				t.Errorf("it says %q", p.Explain())
			}
			// It counts from when nothing is against it any more.
			if a, at := watch(p, lost(), time.Hour, 2*time.Hour); a == nil || at != time.Hour+2*time.Second {
				t.Errorf("at %v: %+v", at, a)
			}
			// And a word in between starts the silence anew.
			p = newPair(t)
			watch(p, lost(), 0, 1900*time.Millisecond)
			p.Step(Event{Kind: EvLook, Now: 1950 * time.Millisecond, Look: l}, nil)
			if a, at := watch(p, lost(), 2*time.Second, time.Minute); a == nil || at != 4*time.Second {
				t.Errorf("at %v: %+v", at, a)
			}
			// The proof is worth nothing once it is so.
			p, at := inShot(t)
			if out := p.Step(Event{Kind: EvShot, Now: at, Look: l, OK: true, Text: "off"}, nil); len(out) > 0 {
				t.Errorf("with the proof in hand: %+v", out)
			}
		})
	}
}

func TestPair_ProofIsUsedAtOnce_AndOnlyForTheBootThatWasShot(t *testing.T) {
	p, at := inShot(t)
	if a, _ := watch(p, lost(), at, at+time.Hour); a != nil {
		t.Fatalf("it does not wait for the answer: %+v", a)
	}
	out := p.Step(Event{Kind: EvShot, Now: at + time.Second, Look: lost(), OK: true, Text: "the plug is off"}, nil)
	if len(out) != 1 || out[0].Kind != ActOpen || out[0].Node != "n2" || out[0].Proof != "the plug is off" {
		t.Fatalf("%+v", out)
	}
	alone := Look{Voter: true, Quorum: true}
	if out := p.Step(Event{Kind: EvOpened, Now: at + time.Second, Look: alone, OK: true}, nil); len(out) > 0 || p.Explain() != "" {
		t.Errorf("%+v, %q", out, p.Explain())
	}

	p, at = inShot(t)
	later := lost()
	later.Boot = "b3"
	if out := p.Step(Event{Kind: EvShot, Now: at, Look: later, OK: true}, nil); len(out) > 0 {
		t.Errorf("the proof was about another boot: %+v", out)
	}
}

func TestPair_WithoutAProof_NobodyGoesOn_AndItIsTriedAgainMoreAndMoreSlowly(t *testing.T) {
	p, at := inShot(t)
	for i, pause := range []time.Duration{15, 30, 60, 120, 240, 300, 300} {
		if out := p.Step(Event{Kind: EvShot, Now: at, Look: lost(), Text: "no answer in time"}, nil); len(out) > 0 {
			t.Fatalf("try %d: %+v", i, out)
		}
		a, next := watch(p, lost(), at, at+time.Hour)
		if want := at + pause*time.Second + time.Second; a == nil || a.Kind != ActShoot || next != want {
			t.Fatalf("try %d failed at %v, the next one is at %v, want %v: %+v", i, at, next, want, a)
		}
		if !strings.Contains(p.Explain(), "no answer in time") {
			t.Errorf("it says %q", p.Explain())
		}
		at = next
	}
	p.Step(Event{Kind: EvShot, Now: at, Look: lost(), Text: "no answer in time"}, nil)
	normal := lost()
	normal.Quorum = true
	p.Step(Event{Kind: EvLook, Now: at + time.Second, Look: normal}, nil)
	if a, next := watch(p, lost(), at+2*time.Second, at+time.Hour); a == nil || next != at+4*time.Second {
		t.Errorf("a majority does not end the pauses: at %v %+v", next-at, a)
	}
}

func TestPair_LedgerThatRefusesLeavesEverythingAsItWas(t *testing.T) {
	p, at := inShot(t)
	p.Step(Event{Kind: EvShot, Now: at, Look: lost(), OK: true}, nil)
	if out := p.Step(Event{Kind: EvOpened, Now: at, Look: lost(), Text: "it has stopped"}, nil); len(out) > 0 {
		t.Fatalf("%+v", out)
	}
	if !strings.Contains(p.Explain(), "it has stopped") {
		t.Errorf("it says %q", p.Explain())
	}
	if a, _ := watch(p, lost(), at, at+time.Minute); a == nil || a.Kind != ActShoot {
		t.Errorf("it is shot anew before the next try: %+v", a)
	}
}

func TestPair_AnswersThatNobodyAskedForAreABrokenShell(t *testing.T) {
	for _, k := range []EventKind{EvShot, EvOpened, 0, evEnd} {
		t.Run(k.String(), func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			newPair(t).Step(Event{Kind: k, Look: lost()}, nil)
		})
	}
}

func TestFavoured_IsExactlyOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(0, 3)
		a, b := Side{"n1", count.Draw(t, "n1")}, Side{"n2", count.Draw(t, "n2")}
		if Favoured(a, b) == Favoured(b, a) {
			t.Fatalf("%+v and %+v", a, b)
		}
		if a.Primaries < b.Primaries && Favoured(a, b) {
			t.Fatalf("%+v before %+v", a, b)
		}
	})
}

func TestConfig_NamesEveryFault(t *testing.T) {
	err := Config{Silence: -1, RetryAfter: time.Second, RetryMost: time.Millisecond}.Validate()
	for _, want := range []string{"no source of randomness", "below 0", "before the other node had its turn", "longest pause"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

// Two nodes that both live lose sight of each other, notice it at different times, and shoot with a
// device that takes its time. As long as these are shorter than the delay, exactly one is shot, and
// the other one goes on alone.
func TestPair_TwoThatLoseSightOfEachOther_ExactlyOneSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		span := func(name string, most time.Duration) time.Duration {
			return time.Duration(rapid.Int64Range(0, int64(most)).Draw(t, name))
		}
		type node struct {
			name   string
			p      *Pair
			from   time.Duration // notices the silence
			fires  time.Duration // its fence reaches the other one; 0: none is under way
			takes  time.Duration
			fails  bool
			off    bool
			opened bool
		}
		favoured := rapid.SampledFrom([]string{"n1", "n2"}).Draw(t, "favoured")
		var nodes [2]*node
		for i, name := range []string{"n1", "n2"} {
			p, err := New(Config{Random: func(most time.Duration) time.Duration { return span("jitter", most-1) }})
			if err != nil {
				t.Fatal(err)
			}
			nodes[i] = &node{name: name, p: p, from: span("notices", 2*time.Second), takes: span("takes", 2*time.Second),
				fails: rapid.IntRange(0, 3).Draw(t, "fails") == 0}
		}
		if nodes[0].fails && nodes[1].fails {
			nodes[rapid.IntRange(0, 1).Draw(t, "works")].fails = false
		}
		for now := time.Duration(0); now < 10*time.Minute; now += LookInterval {
			for i, n := range nodes {
				other := nodes[1-i]
				l := Look{Peer: other.name, Boot: "b-" + other.name, Voter: true, Linked: now < n.from, CanFence: true, Favoured: n.name == favoured}
				var out []Action
				switch {
				case n.off || n.opened:
					continue
				case n.fires > 0 && now >= n.fires:
					n.fires = 0
					other.off = other.off || !n.fails
					out = n.p.Step(Event{Kind: EvShot, Now: now, Look: l, OK: !n.fails, Text: "text"}, nil)
				default:
					out = n.p.Step(Event{Kind: EvLook, Now: now, Look: l}, nil)
				}
				for _, a := range out {
					if a.Kind == ActShoot {
						if other.fires > 0 {
							t.Fatalf("at %v both shoot", now)
						}
						n.fires = now + n.takes + 1
					} else {
						n.opened = true
					}
				}
			}
		}
		for i, n := range nodes {
			if n.opened != nodes[1-i].off || n.off && n.opened {
				t.Fatalf("%+v, %+v", *nodes[0], *nodes[1])
			}
		}
		if nodes[0].opened == nodes[1].opened {
			t.Fatalf("%v and %v went on", nodes[0].opened, nodes[1].opened)
		}
	})
}
