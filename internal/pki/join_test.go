package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	rand2 "math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

func nobody(string) bool { return false }

// joining is a token and the two ends of a connection over which its holder wants to join.
type joining struct {
	clock   *clock
	a       *Authority
	token   Token
	rec     TokenRecord
	binding Binding
	member  Peer
}

func newJoining(t testing.TB) *joining {
	t.Helper()
	c := newClock()
	a := newAuthority(t, "prod", c)
	j := &joining{clock: c, a: a, member: Peer{Cluster: "prod", Role: RoleNode, Name: "n1"}}
	var err error
	j.token, err = NewToken(a.Key(), rand2.NewChaCha8([32]byte{1}))
	must(t, err)
	j.rec = j.token.Record(c.now().Add(time.Hour), "")
	j.binding = Binding{1, 2, 3}
	return j
}

func (j *joining) request(t testing.TB, name string) (*JoinRequest, Credentials) {
	t.Helper()
	csr, key, err := NewCSR(name, rand.Reader)
	must(t, err)
	q, err := NewJoinRequest(j.token, j.binding, csr, Subject{Name: name, NodeID: "0badcafe", Addresses: []string{"10.0.0.9", name + ".example"}})
	must(t, err)
	return q, Credentials{Key: key}
}

func (j *joining) verify(q *JoinRequest) (Admission, error) {
	return VerifyJoin(j.rec, j.binding, q, j.clock.now(), nobody)
}

func TestJoin_FromTokenToPeer(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	made, err := NewToken(a.Key(), rand.Reader)
	must(t, err)
	rec := made.Record(c.now().Add(time.Hour), "n9")
	token, err := ParseToken(made.Text()) // as typed on the new node
	must(t, err)

	// Both ends of one connection come to the same binding; a real exchange needs both at once.
	conn, cs, done := open(t, n1.ServerConfig(KindPeers, KindJoin), token.ClientConfig(c.now))
	defer done()
	member, err := token.Member(conn, c.now())
	must(t, err)
	if member.Name != "n1" || member.Cluster != "prod" {
		t.Errorf("member is %v", member)
	}
	atClient, err := BindingOf(conn)
	must(t, err)
	atServer, err := BindingOf(cs)
	must(t, err)
	if atClient != atServer {
		t.Fatal("the two ends have two bindings")
	}
	csr, key, err := NewCSR("n9", rand.Reader)
	must(t, err)
	q, err := NewJoinRequest(token, atClient, csr, Subject{Name: "n9", Addresses: []string{"10.0.0.9"}})
	must(t, err)

	got, err := DecodeJoinRequest(q.Encode())
	must(t, err)
	adm, err := VerifyJoin(rec, atServer, got, c.now(), nobody)
	must(t, err)
	cert, err := a.Issue(got.CSR, adm.Subject, 0)
	must(t, err)
	wire, err := (&JoinReply{Cert: cert.Raw, Bundle: n1.Bundle().PEM(), Cluster: []byte("{}")}).Encode()
	must(t, err)

	reply, err := DecodeJoinReply(wire)
	must(t, err)
	creds, bundle, err := reply.Accept(token, member, q, key, c.now())
	must(t, err)
	n9 := identity(t, c, creds, bundle)
	_, errServer, errClient := meet(t, n1.ServerConfig(KindPeers, KindJoin), n9.ClientConfig(KindPeers, "n1"))
	must(t, errServer)
	must(t, errClient)
}

func TestVerifyJoin_RefusesEachWayOfCheating(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(j *joining, q *JoinRequest)
		want   error
	}{
		{"another connection", func(j *joining, q *JoinRequest) { j.binding[0] ^= 1 }, ErrTokenProof},
		{"another name", func(j *joining, q *JoinRequest) { q.Name = "n8" }, ErrTokenProof},
		{"another node id", func(j *joining, q *JoinRequest) { q.NodeID = "" }, ErrTokenProof},
		{"another address", func(j *joining, q *JoinRequest) { q.Addresses = q.Addresses[:1] }, ErrTokenProof},
		{"another key", func(j *joining, q *JoinRequest) { q.CSR, _, _ = NewCSR("n9", rand.Reader) }, ErrTokenProof},
		{"bits moved from one field to the next", func(j *joining, q *JoinRequest) { q.Name, q.NodeID = q.Name+q.NodeID[:1], q.NodeID[1:] }, ErrTokenProof},
		{"another token", func(j *joining, q *JoinRequest) { q.Token[0] ^= 1 }, ErrTokenProof},
		{"no such token", func(j *joining, q *JoinRequest) { j.rec = TokenRecord{} }, ErrTokenProof},
		{"all zero, no such token", func(j *joining, q *JoinRequest) { j.rec, q.Token, q.Proof = TokenRecord{}, TokenID{}, [32]byte{} }, ErrTokenProof},
		{"the hash as the secret", func(j *joining, q *JoinRequest) {
			thief := Token{id: j.rec.ID}
			copy(thief.secret[:], j.rec.Hash[:])
			q.Proof = thief.prove(q.message(j.binding))
		}, ErrTokenProof},
		{"a stolen hash in place of the client key", func(j *joining, q *JoinRequest) {
			q.Proof = mac(j.rec.Hash[:], "lockstep token/1 proof", q.message(j.binding))
		}, ErrTokenProof},
		{"expired", func(j *joining, q *JoinRequest) { j.clock.advance(time.Hour + time.Second) }, ErrTokenExpired},
		{"expired, and of another connection", func(j *joining, q *JoinRequest) { j.clock.advance(2 * time.Hour); j.binding[0] ^= 1 }, ErrTokenProof},
		{"used by another", func(j *joining, q *JoinRequest) { j.rec.UsedBy, j.rec.UsedName = KeyHash{1}, "n9" }, ErrTokenUsed},
		{"made for another name", func(j *joining, q *JoinRequest) { j.rec.Name = "n7" }, ErrNode},
		{"malformed request, proof and all", func(j *joining, q *JoinRequest) {
			q.CSR = q.CSR[:20]
			q.Proof = j.token.prove(q.message(j.binding))
		}, ErrJoin},
		{"malformed name, proof and all", func(j *joining, q *JoinRequest) {
			q.Name = "../n9"
			q.Proof = j.token.prove(q.message(j.binding))
		}, ErrJoin},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := newJoining(t)
			q, _ := j.request(t, "n9")
			_, err := j.verify(q)
			must(t, err)
			tc.change(j, q)
			a, err := j.verify(q)
			wantErr(t, err, tc.want)
			if !reflect.DeepEqual(a, Admission{}) {
				t.Errorf("refused, and %+v", a)
			}
		})
	}
}

func TestVerifyJoin_TheNameOfAMember_IsTaken(t *testing.T) {
	j := newJoining(t)
	q, _ := j.request(t, "n1")
	_, err := VerifyJoin(j.rec, j.binding, q, j.clock.now(), func(name string) bool { return name == "n1" })
	wantErr(t, err, ErrNameTaken)
}

func TestVerifyJoin_AfterALostAnswer_TheSameNodeMayAskAgain(t *testing.T) {
	j := newJoining(t)
	q, _ := j.request(t, "n9")
	a, err := j.verify(q)
	if err != nil || a.Again {
		t.Fatal(a, err)
	}
	j.rec.UsedBy, j.rec.UsedName = a.Key, a.Subject.Name
	again := *q // over another connection
	j.binding[0] ^= 1
	again.Proof = j.token.prove(again.message(j.binding))
	taken := func(string) bool { return true } // by itself
	if a, err = VerifyJoin(j.rec, j.binding, &again, j.clock.now(), taken); err != nil || !a.Again {
		t.Errorf("%+v, %v", a, err)
	}
	replay, _ := j.request(t, "n9") // the same token, another key
	_, err = j.verify(replay)
	wantErr(t, err, ErrTokenUsed)
}

func TestAccept_RefusesAnswersThatWereNotAskedFor(t *testing.T) {
	j := newJoining(t)
	q, own := j.request(t, "n9")
	other := newAuthority(t, "prod", j.clock)
	reply := func(a *Authority, csr []byte, s Subject, b Bundle) *JoinReply {
		cert, err := a.Issue(csr, s, 0)
		must(t, err)
		return &JoinReply{Cert: cert.Raw, Bundle: b.PEM()}
	}
	theirs, _, err := NewCSR("n9", rand.Reader)
	must(t, err)
	for name, tc := range map[string]struct {
		r    *JoinReply
		want error // nil: any
	}{
		"refused":                        {&JoinReply{Refusal: "no room"}, ErrRefused},
		"another key":                    {reply(j.a, theirs, node("n9"), j.a.Bundle()), nil},
		"another name":                   {reply(j.a, q.CSR, node("n8"), j.a.Bundle()), ErrNode},
		"a client":                       {reply(j.a, q.CSR, Subject{Role: RoleClient, Name: "n9"}, j.a.Bundle()), ErrUsage},
		"another authority":              {reply(other, q.CSR, node("n9"), j.a.Bundle()), ErrUntrusted},
		"another authority and a bundle": {reply(other, q.CSR, node("n9"), other.Bundle()), ErrUntrusted},
		"no bundle":                      {&JoinReply{Cert: []byte{1}}, nil},
	} {
		_, _, err := tc.r.Accept(j.token, j.member, q, own.Key, j.clock.now())
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if _, _, err := reply(j.a, q.CSR, node("n9"), j.a.Bundle()).Accept(j.token, j.member, q, own.Key, j.clock.now()); err != nil {
		t.Errorf("the right answer: %v", err)
	}
}

func TestToken_OfAnotherCluster_RefusesTheMember(t *testing.T) {
	c := newClock()
	a, other := newAuthority(t, "prod", c), newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	token, err := NewToken(other.Key(), rand.Reader)
	must(t, err)
	_, _, atClient := meet(t, n1.ServerConfig(KindJoin), token.ClientConfig(c.now))
	wantErr(t, atClient, ErrUntrusted)

	// An impostor may well send the right authority's certificate along; it is public.
	bad := impostor(c, issue(t, a, node("n1"), 0), a.Bundle())
	bad.cur.Load().chain = &tls.Certificate{
		Certificate: [][]byte{bad.cur.Load().creds.Cert.Raw, other.Certificate().Raw}, PrivateKey: bad.cur.Load().creds.Key,
	}
	_, _, atClient = meet(t, bad.ServerConfig(KindJoin), token.ClientConfig(c.now))
	wantErr(t, atClient, ErrUntrusted)

	// Nor will a client's certificate of the right cluster do.
	token, err = NewToken(a.Key(), rand.Reader)
	must(t, err)
	client := issue(t, a, Subject{Role: RoleClient, Name: "n1"}, 0)
	bad.cur.Load().chain = &tls.Certificate{Certificate: [][]byte{client.Cert.Raw, a.Certificate().Raw}, PrivateKey: client.Key}
	_, _, atClient = meet(t, bad.ServerConfig(KindJoin), token.ClientConfig(c.now))
	wantErr(t, atClient, ErrUsage)
}

func TestBindingOf_DiffersBetweenConnections(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1, n2 := nodeIdentity(t, c, a, "n1"), nodeIdentity(t, c, a, "n2")
	seen := map[Binding]bool{}
	for range 2 {
		cs, _, _ := meet(t, n1.ServerConfig(KindPeers), n2.ClientConfig(KindPeers, "n1"))
		b, err := BindingOf(cs)
		must(t, err)
		seen[b] = true
	}
	if len(seen) != 2 {
		t.Error("two connections have one binding")
	}
	if _, err := BindingOf(tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS12}); err == nil {
		t.Error("binding of a TLS 1.2 connection")
	}
}

func TestToken_ThereAndBack(t *testing.T) {
	tok := newJoining(t).token
	for _, s := range []string{tok.Text(), strings.ToUpper(tok.Text()), "\n " + tok.Text() + "\r\n"} {
		got, err := ParseToken(s)
		if err != nil || got != tok {
			t.Errorf("%q: %v", s, err)
		}
	}
	if len(tok.Text()) != 113 {
		t.Errorf("text of %d characters", len(tok.Text()))
	}
	for _, shown := range []string{fmt.Sprint(tok), fmt.Sprintf("%+v %#v", tok, tok)} {
		if strings.Contains(shown, fmt.Sprintf("%x", tok.secret[:4])) || strings.Contains(shown, fmt.Sprint(tok.secret[0], tok.secret[1])) {
			t.Errorf("%s shows the secret", shown)
		}
	}
}

func TestParseToken_SaysWhatIsWrong(t *testing.T) {
	text := newJoining(t).token.Text()
	for s, want := range map[string]string{
		"":                          "begin with",
		"hello":                     "begin with",
		text[len("lockstep-"):]:     "begin with",
		text[:60]:                   "has 60 characters, want 113",
		text + "a":                  "has 114 characters",
		text[:40] + "0" + text[41:]: `character 41 is '0'`,
		text[:40] + " " + text[41:]: `character 41 is ' '`,
		text[:40] + "é" + text[42:]: `character 41 is 'é'`,
		"lockstep-" + text[9:]:      "",
		text[:30] + swap(text[30:32]) + text[32:]: "checksum",
	} {
		_, err := ParseToken(s)
		if want == "" {
			must(t, err)
			continue
		}
		wantErr(t, err, ErrTokenFormat)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", s, err, want)
		}
		if err != nil && len(s) > 60 && strings.Contains(err.Error(), s[20:40]) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

// swap turns two different characters round.
func swap(s string) string { return s[1:] + s[:1] }

func TestParseToken_FindsEveryMistypedCharacter(t *testing.T) {
	text := newJoining(t).token.Text()
	for i := len(tokenPrefix); i < len(text); i++ {
		for _, r := range "abcdefghijklmnopqrstuvwxyz234567" {
			if byte(r) == text[i] {
				continue
			}
			if _, err := ParseToken(text[:i] + string(r) + text[i+1:]); !errors.Is(err, ErrTokenFormat) {
				t.Fatalf("character %d as %c: %v", i, r, err)
			}
		}
	}
}

func TestNewJoinRequest_RefusesWhatNoClusterWouldTake(t *testing.T) {
	j := newJoining(t)
	if _, err := NewJoinRequest(j.token, j.binding, nil, Subject{Name: "a b"}); err == nil {
		t.Error("a name with a space")
	}
	if _, err := (&JoinReply{Cluster: make([]byte, MaxJoinReply)}).Encode(); !errors.Is(err, ErrJoin) {
		t.Errorf("a reply that is too long: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	text := newJoining(f).token.Text()
	for _, s := range []string{text, text[:50], strings.ToUpper(text), "lockstep-", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			wantErr(t, err, ErrTokenFormat)
			return
		}
		if tok.Text() != strings.ToLower(strings.TrimSpace(s)) {
			t.Errorf("%q is read as %q", s, tok.Text())
		}
	})
}

func FuzzDecodeJoin(f *testing.F) {
	j := newJoining(f)
	q, _ := j.request(f, "n9")
	f.Add(q.Encode())
	r, err := (&JoinReply{Cert: []byte{1, 2}, Bundle: []byte("pem"), Cluster: []byte("{}")}).Encode()
	must(f, err)
	f.Add(r)
	r, err = (&JoinReply{Refusal: "no"}).Encode()
	must(f, err)
	f.Add(r)
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := DecodeJoinRequest(b); err != nil {
			wantErr(t, err, ErrJoin)
		} else if !bytes.Equal(q.Encode(), b) {
			t.Errorf("request %x encodes to %x", b, q.Encode())
		} else if _, err := j.verify(q); err == nil && q.Proof != j.token.prove(q.message(j.binding)) {
			t.Errorf("%x was admitted", b)
		}
		if r, err := DecodeJoinReply(b); err != nil {
			wantErr(t, err, ErrJoin)
		} else if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("reply %x encodes to %x, %v", b, again, err)
		}
	})
}
