package quorum

import (
	"fmt"
	"testing"
)

// someToken returns the i-th of several tokens, which expires at 100.
func someToken(i int) Token {
	return Token{ID: fmt.Sprintf("%016x", i), Hash: fmt.Sprintf("%064x", i), Expires: 100}
}

func TestUseToken_OnlyTheFirstKeyAndName_MayRepeatIt(t *testing.T) {
	x := started(t, "A", "B")
	x.must(Command{Version: x.s.Version, AddToken: &AddToken{Token: someToken(1), Now: 1}})
	key, other := fmt.Sprintf("%064x", 7), fmt.Sprintf("%064x", 8)
	use := func(key, name string) Command {
		return Command{Version: x.s.Version, UseToken: &UseToken{ID: someToken(1).ID, Key: key, Name: name}}
	}
	late := use(other, "Z") // decided while nobody had used it
	x.must(use(key, "Y"))
	x.refused(late, ErrStale)
	x.refused(use(other, "Y"), ErrExists)
	x.refused(use(key, "Z"), ErrExists)
	x.must(use(key, "Y")) // its answer was lost
	if tok := x.s.Token(someToken(1).ID); tok == nil || tok.UsedBy != key || tok.UsedName != "Y" {
		t.Fatalf("the record says %+v", tok)
	}
	x.refused(Command{Version: x.s.Version, UseToken: &UseToken{ID: someToken(2).ID, Key: key, Name: "Y"}}, ErrUnknown)
}

func TestAddToken_ForgetsExpiredOnes_AndIsBounded(t *testing.T) {
	x := started(t, "A", "B")
	add := func(i int, now int64) Command {
		return Command{Version: x.s.Version, AddToken: &AddToken{Token: someToken(i), Now: now}}
	}
	for i := range MaxTokens {
		x.must(add(MaxTokens-i, 1)) // kept sorted
	}
	x.refused(add(MaxTokens+1, 100), ErrInvalid)
	x.refused(add(1, 1), ErrExists)
	if err := x.s.Check(); err != nil {
		t.Fatal(err)
	}
	x.must(add(MaxTokens+1, 101))
	if len(x.s.Tokens) != 1 {
		t.Fatalf("%d tokens are kept", len(x.s.Tokens))
	}
}

func TestAddToken_WhatCannotBeMeant_IsRefused(t *testing.T) {
	x := started(t, "A", "B")
	for name, change := range map[string]func(*Token){
		"upper case": func(k *Token) { k.ID = "ABCDEF0123456789" },
		"short hash": func(k *Token) { k.Hash = "00" },
		"for ever":   func(k *Token) { k.Expires = 0 },
		"used":       func(k *Token) { k.UsedBy, k.UsedName = k.Hash, "Y" },
		"nobody":     func(k *Token) { k.Replaces = 4 },
	} {
		k := someToken(1)
		change(&k)
		if _, err := EncodeCommand(Command{Version: 1, AddToken: &AddToken{Token: k, Now: 1}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	k := someToken(1)
	k.Name, k.Replaces = "A", x.s.Node("A").VoterID+1
	x.refused(Command{Version: x.s.Version, AddToken: &AddToken{Token: k, Now: 1}}, ErrUnknown)
}

func TestAddNode_AnotherIdentity_MarksItsReplicasAsLostUntilANewOneIsRegistered(t *testing.T) {
	x := started(t, "A", "B")
	b := *x.s.Node("B")
	again := Node{Name: "B", VoterID: 91, Addr: b.Addr, Identity: "first"}
	x.must(Command{Version: x.s.Version, AddNode: &AddNode{Node: again, Replaces: b.VoterID}})
	r := x.s.Find("r0")
	if p := r.Replica("B"); !p.Lost || !p.InSet || r.Replica("A").Lost {
		t.Fatalf("B %+v, A %+v", p, r.Replica("A"))
	}
	x.refused(x.register("B", 55), ErrInSet) // its writes count until the primary says otherwise
	x.must(x.drop("B"))
	x.must(x.register("B", 55))
	if p := x.s.Find("r0").Replica("B"); p.Lost || p.InSet || p.Instance != 55 {
		t.Fatalf("after it was made anew: %+v", p)
	}
	again.VoterID = 92
	x.must(Command{Version: x.s.Version, AddNode: &AddNode{Node: again, Replaces: 91}})
	if x.s.Find("r0").Replica("B").Lost {
		t.Fatal("a new ledger under the same identity lost the replica")
	}
}

func TestAddNode_WithoutAnIdentity_KeepsTheOldOne(t *testing.T) {
	x := started(t, "A", "B")
	x.must(Command{Version: x.s.Version, AddNode: &AddNode{Node: Node{Name: "Y", VoterID: 77, Addr: "y:1", Gossip: "y:2", Identity: "first"}}})
	x.must(Command{Version: x.s.Version, AddNode: &AddNode{Node: Node{Name: "Y", VoterID: 78, Addr: "y:1"}, Replaces: 77}})
	if n := x.s.Node("Y"); n.Identity != "first" || n.Gossip != "y:2" || n.VoterID != 78 {
		t.Fatalf("%+v", n)
	}
	x.must(Command{Version: x.s.Version, AddNode: &AddNode{Node: Node{Name: "Y", VoterID: 79, Addr: "y:1", Identity: "second"}, Replaces: 78}})
	if n := x.s.Node("Y"); n.Identity != "second" {
		t.Fatalf("%+v", n)
	}
}
