package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestPeers_OfOneCluster_KnowEachOther(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	n2 := identity(t, c, issue(t, a, Subject{Role: RoleNode, Name: "n2", NodeID: "0badcafe"}, 0), a.Bundle())
	cs, atServer, atClient := meet(t, n1.ServerConfig(KindPeers), n2.ClientConfig(KindPeers, "n1"))
	must(t, atServer)
	must(t, atClient)
	if cs.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %#x", cs.Version)
	}
	p, err := n1.PeerNode(cs)
	must(t, err)
	if p.Name != "n2" || p.Role != RoleNode || p.Cluster != "prod" || p.NodeID != "0badcafe" || p.Key != n2.Self().Key {
		t.Errorf("peer is %+v", p)
	}
}

// peerCases are who may not talk to node n1 of cluster prod as its peer n2.
var peerCases = []struct {
	name string
	want error
	make func(t *testing.T, c *clock, a, other *Authority) Credentials
}{
	{"other cluster", ErrUntrusted, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return issue(t, other, node("n2"), 0)
	}},
	{"other authority that claims our cluster", ErrUntrusted, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return issue(t, newAuthority(t, "prod", c), node("n2"), 0)
	}},
	{"expired", ErrExpired, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		creds := issue(t, a, node("n2"), time.Hour)
		c.advance(time.Hour + ClockSkew + time.Second)
		return creds
	}},
	{"not yet valid", ErrNotYetValid, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		creds := issue(t, a, node("n2"), 0)
		c.advance(-2*ClockSkew - time.Second)
		return creds
	}},
	{"authority expired", ErrExpired, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		creds := forge(t, a, node("n2"), func(cert *x509.Certificate) { cert.NotAfter = cert.NotAfter.Add(20 * authorityLifetime / 10) })
		c.advance(authorityLifetime + time.Hour)
		return creds
	}},
	{"role client", ErrRole, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, Subject{Role: RoleClient, Name: "n2"}, func(cert *x509.Certificate) {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		})
	}},
	{"role operator", ErrRole, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, Subject{Role: RoleOperator, Name: "n2"}, func(cert *x509.Certificate) {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		})
	}},
	{"extended key usage of neither side", ErrUsage, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, node("n2"), func(cert *x509.Certificate) { cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })
	}},
	{"our authority, other cluster's name", ErrOtherCluster, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, node("n2"), func(cert *x509.Certificate) { cert.URIs[0] = identityURI("test", RoleNode, "n2") })
	}},
	{"two URIs", ErrBadCertificate, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, node("n2"), func(cert *x509.Certificate) {
			cert.URIs = append(cert.URIs, identityURI("prod", RoleNode, "n3"))
		})
	}},
	{"no URI", ErrBadCertificate, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, node("n2"), func(cert *x509.Certificate) { cert.URIs = nil; cert.DNSNames = []string{"n2"} })
	}},
	{"URI with a query", ErrBadCertificate, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, node("n2"), func(cert *x509.Certificate) { cert.URIs[0].RawQuery = "x=1" })
	}},
	{"an authority as a node", ErrBadCertificate, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		return forge(t, a, node("n2"), func(cert *x509.Certificate) {
			cert.IsCA, cert.BasicConstraintsValid = true, true
			cert.KeyUsage |= x509.KeyUsageCertSign
		})
	}},
	{"signed by a node", ErrUntrusted, func(t *testing.T, c *clock, a, other *Authority) Credentials {
		n3 := issue(t, a, node("n3"), 0)
		return issue(t, &Authority{cluster: "prod", creds: n3, clock: c.now, rand: a.rand}, node("n2"), 0)
	}},
}

func TestServer_RefusesWhoIsNoPeer(t *testing.T) {
	for _, tc := range peerCases {
		t.Run(tc.name, func(t *testing.T) {
			c := newClock()
			a, other := newAuthority(t, "prod", c), newAuthority(t, "test", c)
			n1 := nodeIdentity(t, c, a, "n1")
			bad := impostor(c, tc.make(t, c, a, other), a.Bundle())
			client := bad.ClientConfig(KindPeers, "")
			client.VerifyConnection = nil // it takes whatever it gets
			_, atServer, atClient := meet(t, n1.ServerConfig(KindPeers), client)
			wantErr(t, atServer, tc.want)
			if atClient == nil {
				t.Error("the client was served")
			}
		})
	}
}

func TestClient_RefusesWhoIsNoPeer(t *testing.T) {
	for _, tc := range peerCases {
		t.Run(tc.name, func(t *testing.T) {
			c := newClock()
			a, other := newAuthority(t, "prod", c), newAuthority(t, "test", c)
			n1 := nodeIdentity(t, c, a, "n1")
			bad := impostor(c, tc.make(t, c, a, other), a.Bundle())
			server := bad.ServerConfig(KindPeers)
			server.VerifyConnection = nil
			_, _, atClient := meet(t, server, n1.ClientConfig(KindPeers, "n2"))
			wantErr(t, atClient, tc.want)
		})
	}
}

func TestClient_RefusesAnotherNodeThanItDialed(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1, n3 := nodeIdentity(t, c, a, "n1"), nodeIdentity(t, c, a, "n3")
	_, _, atClient := meet(t, n3.ServerConfig(KindPeers), n1.ClientConfig(KindPeers, "n2"))
	wantErr(t, atClient, ErrNode)
	_, _, atClient = meet(t, n3.ServerConfig(KindPeers), n1.ClientConfig(KindPeers, ""))
	must(t, atClient)
}

func TestClient_RefusesAServerWithAClientsCertificate(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	bad := impostor(c, issue(t, a, Subject{Role: RoleClient, Name: "n2"}, 0), a.Bundle())
	_, _, atClient := meet(t, bad.ServerConfig(KindNBDOpen), nodeIdentity(t, c, a, "n1").ClientConfig(KindNBD, "n2"))
	wantErr(t, atClient, ErrUsage)
}

func TestServer_WithoutAClientCertificate(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	for k, want := range map[Kind]bool{KindPeers: false, KindOperators: false, KindNBD: false, KindNBDOpen: true, KindJoin: true} {
		client := n1.ClientConfig(KindPeers, "n1")
		client.GetClientCertificate, client.VerifyConnection = nil, nil
		client.NextProtos = nil
		if alpn := kinds[k].alpn; alpn != "" {
			client.NextProtos = []string{alpn}
		}
		cs, atServer, atClient := meet(t, n1.ServerConfig(k), client)
		if (atServer == nil) != want || (atClient == nil) != want {
			t.Errorf("%v: server %v, client %v, want served %v", k, atServer, atClient, want)
		}
		if _, err := n1.PeerNode(cs); err == nil {
			t.Errorf("%v: a peer without a certificate has a name", k)
		}
	}
}

func TestServer_EachKindTakesItsRoles(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	for _, k := range []Kind{KindPeers, KindOperators, KindNBD, KindNBDOpen} {
		for _, r := range []Role{RoleNode, RoleClient, RoleOperator} {
			who := identity(t, c, issue(t, a, Subject{Role: r, Name: "x"}, 0), a.Bundle())
			want := r == RoleNode || r == RoleOperator && k == KindOperators || r == RoleClient && (k == KindNBD || k == KindNBDOpen)
			_, atServer, _ := meet(t, n1.ServerConfig(k), who.ClientConfig(k, "n1"))
			if (atServer == nil) != want {
				t.Errorf("%v at a listener for %v: %v, want served %v", r, k, atServer, want)
			}
			if !want {
				wantErr(t, atServer, ErrRole)
			}
		}
	}
}

func TestTLS12_IsRefusedByBothSides(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1, n2 := nodeIdentity(t, c, a, "n1"), nodeIdentity(t, c, a, "n2")
	old := n2.ClientConfig(KindPeers, "n1")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, atServer, atClient := meet(t, n1.ServerConfig(KindPeers), old); atServer == nil || atClient == nil {
		t.Errorf("TLS 1.2 client: server %v, client %v", atServer, atClient)
	}
	oldServer := n1.ServerConfig(KindPeers)
	oldServer.MinVersion, oldServer.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, atServer, atClient := meet(t, oldServer, n2.ClientConfig(KindPeers, "n1")); atServer == nil || atClient == nil {
		t.Errorf("TLS 1.2 server: server %v, client %v", atServer, atClient)
	}
}

func TestConnection_LedToAnotherPurpose_IsRefused(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1, n2 := nodeIdentity(t, c, a, "n1"), nodeIdentity(t, c, a, "n2")
	for _, from := range []Kind{KindPeers, KindOperators, KindNBD} {
		for _, to := range []Kind{KindPeers, KindOperators, KindNBD, KindJoin} {
			_, atServer, atClient := meet(t, n1.ServerConfig(to), n2.ClientConfig(from, "n1"))
			if ok := atServer == nil && atClient == nil; ok != (from == to) {
				t.Errorf("for %v, arrives at %v: server %v, client %v", from, to, atServer, atClient)
			}
		}
	}
}

func TestListenerOfSeveralKinds_TellsThemApart(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1, n2 := nodeIdentity(t, c, a, "n1"), nodeIdentity(t, c, a, "n2")
	token, err := NewToken(a.Key(), a.rand)
	must(t, err)
	server := n1.ServerConfig(KindPeers, KindJoin)
	cs, atServer, atClient := meet(t, server, n2.ClientConfig(KindPeers, "n1"))
	if atServer != nil || atClient != nil || KindOf(cs) != KindPeers {
		t.Errorf("peer: server %v, client %v, kind %v", atServer, atClient, KindOf(cs))
	}
	cs, atServer, atClient = meet(t, server, token.ClientConfig(c.now))
	if atServer != nil || atClient != nil || KindOf(cs) != KindJoin {
		t.Errorf("joiner: server %v, client %v, kind %v", atServer, atClient, KindOf(cs))
	}
	_, atServer, _ = meet(t, server, n2.ClientConfig(KindOperators, "n1"))
	wantErr(t, atServer, ErrProtocol)
	// Who says "join" is let in without a certificate, but never as a peer.
	bare := n2.ClientConfig(KindPeers, "n1")
	bare.GetClientCertificate = nil
	_, atServer, _ = meet(t, server, bare)
	if atServer == nil {
		t.Error("a peer without a certificate was let in")
	}
}

func TestAdmit_RefusesAKnownPeer(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1, n2 := nodeIdentity(t, c, a, "n1"), nodeIdentity(t, c, a, "n2")
	n1.cfg.Admit = func(p Peer) error {
		if p.Name == "n2" {
			return ErrRefused
		}
		return nil
	}
	_, atServer, _ := meet(t, n1.ServerConfig(KindPeers), n2.ClientConfig(KindPeers, "n1"))
	wantErr(t, atServer, ErrRefused)
	_, _, atClient := meet(t, n2.ServerConfig(KindPeers), n1.ClientConfig(KindPeers, "n2"))
	wantErr(t, atClient, ErrRefused)
}

func TestVerify_AllowsForClockSkew(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	creds := issue(t, a, node("n1"), time.Hour)
	for d, want := range map[time.Duration]error{
		-2*ClockSkew - time.Second:            ErrNotYetValid,
		-2 * ClockSkew:                        nil,
		0:                                     nil,
		time.Hour + ClockSkew:                 nil,
		time.Hour + ClockSkew + 2*time.Second: ErrExpired,
	} {
		if _, err := a.Bundle().verify(creds.Cert, x509.ExtKeyUsageServerAuth, c.now().Add(d)); want == nil {
			must(t, err)
		} else {
			wantErr(t, err, want)
		}
	}
}

func TestIdentityURI_ThereAndBack(t *testing.T) {
	for _, c := range []ClusterID{"prod", "Prod-1", "a_b.c"} {
		for _, name := range []string{"n1", "Node_1.example", strings.Repeat("n", 63)} {
			u, err := url.Parse(identityURI(c, RoleNode, name).String())
			must(t, err)
			gotC, gotR, gotName, err := parseURI(u)
			if err != nil || gotC != c || gotR != RoleNode || gotName != name {
				t.Errorf("%v: %q %v %q %v", u, gotC, gotR, gotName, err)
			}
		}
	}
	for _, s := range []string{
		"", "lockstep:prod/node/n1", "https://prod/node/n1", "lockstep://prod/node", "lockstep://prod/node/",
		"lockstep://prod/master/n1", "lockstep://prod/node/n1/x", "lockstep://prod//node/n1", "lockstep://u@prod/node/n1",
		"lockstep://prod:1/node/n1", "lockstep://prod/node/n%31", "lockstep://prod/node/n1?", "lockstep://prod/node/n1#x",
		"lockstep:///node/n1", "lockstep://prod/Node/n1", "lockstep://a..b/node/n1",
	} {
		u, err := url.Parse(s)
		must(t, err)
		if c, r, name, err := parseURI(u); err == nil {
			t.Errorf("%q is taken for %v %v %v", s, c, r, name)
		}
	}
}
