package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAuthority_SavedAndLoaded_SignsAsBefore(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	dir := filepath.Join(t.TempDir(), "ca")
	must(t, a.Save(dir))
	for _, name := range []string{fileCACert, fileCAKey} {
		st, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, st.Mode())
		}
	}
	b, err := LoadAuthority(dir, c.now, rand.Reader)
	must(t, err)
	if b.Cluster() != "prod" || b.Key() != a.Key() {
		t.Errorf("loaded %v %v", b.Cluster(), b.Key())
	}
	creds := issue(t, b, node("n1"), 0)
	if _, err := a.Bundle().verify(creds.Cert, x509.ExtKeyUsageServerAuth, c.now()); err != nil {
		t.Error(err)
	}
	if life := creds.Cert.NotAfter.Sub(c.now()); life != DefaultLifetime {
		t.Errorf("lifetime %v", life)
	}
	if err := newAuthority(t, "prod", c).Save(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second authority over the first: %v", err)
	}
	again, err := LoadAuthority(dir, c.now, rand.Reader)
	if err != nil || again.Key() != a.Key() {
		t.Errorf("after the refused save: %v", err)
	}
}

func TestLoadAuthority_RefusesWhatIsNotOne(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	for name, change := range map[string]func(dir string){
		"key readable by others": func(dir string) { must(t, os.Chmod(filepath.Join(dir, fileCAKey), 0o640)) },
		"another's certificate": func(dir string) {
			must(t, os.WriteFile(filepath.Join(dir, fileCACert), newAuthority(t, "prod", c).Bundle().PEM(), 0o600))
		},
		"a node's certificate": func(dir string) {
			creds := issue(t, a, node("n1"), 0)
			key, err := encodeKey(creds.Key)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, fileCACert), encodeCert(creds.Cert), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, fileCAKey), key, 0o600))
		},
		"no key": func(dir string) { must(t, os.Remove(filepath.Join(dir, fileCAKey))) },
	} {
		dir := t.TempDir()
		must(t, a.Save(dir))
		change(dir)
		if _, err := LoadAuthority(dir, c.now, rand.Reader); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
}

func TestIssue_RefusesSubjectsAndKeysItDoesNotCertify(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	csr, _, err := NewCSR("n1", rand.Reader)
	must(t, err)
	for _, s := range []Subject{
		{}, {Role: 4, Name: "n1"}, {Role: RoleNode}, {Role: RoleNode, Name: "n1/x"}, {Role: RoleNode, Name: strings.Repeat("n", 64)},
		{Role: RoleNode, Name: "n1", NodeID: "a b"}, {Role: RoleNode, Name: "n1", NodeID: strings.Repeat("a", 65)},
		{Role: RoleNode, Name: "n1", Addresses: []string{"10.0.0.1:7000"}}, {Role: RoleNode, Name: "n1", Addresses: []string{""}},
		{Role: RoleNode, Name: "n1", Addresses: []string{"*.example"}}, {Role: RoleNode, Name: "n1", Addresses: make([]string, 17)},
	} {
		if _, err := a.Issue(csr, s, 0); err == nil {
			t.Errorf("%+v was certified", s)
		}
	}
	damaged := append([]byte(nil), csr...)
	damaged[len(damaged)-1] ^= 1
	for name, csr := range map[string][]byte{"damaged": damaged, "empty": nil} {
		if _, err := a.Issue(csr, node("n1"), 0); err == nil {
			t.Errorf("%s request was certified", name)
		}
	}
	if _, err := a.Issue(csr, node("n1"), -time.Hour); err == nil {
		t.Error("negative lifetime")
	}
	cert, err := a.Issue(csr, Subject{Role: RoleNode, Name: "n1", Addresses: []string{"10.0.0.1", "fd00::1", "n1.example"}}, 20*authorityLifetime/10)
	must(t, err)
	if len(cert.IPAddresses) != 2 || len(cert.DNSNames) != 1 || !cert.NotAfter.Equal(a.Certificate().NotAfter) {
		t.Errorf("%v %v %v", cert.IPAddresses, cert.DNSNames, cert.NotAfter)
	}
	c.advance(authorityLifetime + time.Second)
	_, err = a.Issue(csr, node("n1"), 0)
	wantErr(t, err, ErrExpired)
	for _, bad := range []ClusterID{"", "a..b", "a.", "a/b"} {
		if _, err := NewAuthority(bad, c.now, rand.Reader); err == nil {
			t.Errorf("cluster %q", bad)
		}
	}
}

// standing serves handshakes on loopback until the test ends.
func standing(t *testing.T, cfg *tls.Config) net.Addr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				tc := tls.Server(conn, cfg)
				tc.Write([]byte{1}) // the client sees whether it worked
				tc.Read(make([]byte, 1))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr()
}

func TestRenewal_OnLiveListeners_NeedsNoRestart(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1, n2 := nodeIdentity(t, c, a, "n1"), nodeIdentity(t, c, a, "n2")
	addr := standing(t, n1.ServerConfig(KindPeers))
	client := n2.ClientConfig(KindPeers, "n1")
	cs, first := hello(t, addr, client)
	must(t, first)
	old := cs.PeerCertificates[0]

	if n1.NeedsRenewal(c.now()) {
		t.Error("a new certificate is due")
	}
	c.advance(61 * 24 * time.Hour) // two thirds of 90 days and a little
	if !n1.NeedsRenewal(c.now()) || !n1.RenewAt().Before(c.now()) {
		t.Error("not due after two thirds")
	}
	for _, i := range []*Identity{n1, n2} {
		must(t, i.Install(issue(t, a, node(i.Self().Name), 0)))
		if i.NeedsRenewal(c.now()) {
			t.Error("due after renewal")
		}
	}
	c.advance(31 * 24 * time.Hour) // the first certificates have expired
	cs, err := hello(t, addr, client)
	must(t, err)
	if cs.PeerCertificates[0].Equal(old) {
		t.Error("the old certificate is still served")
	}
	reopened, err := Open(Config{Dir: n1.cfg.Dir, Clock: c.now})
	must(t, err)
	if reopened.Self() != n1.Self() {
		t.Errorf("on disk %+v, in use %+v", reopened.Self(), n1.Self())
	}
}

func TestReload_TakesWhatAnotherProcessInstalled(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	tool, err := Open(Config{Dir: n1.cfg.Dir, Clock: c.now})
	must(t, err)
	must(t, tool.Install(issue(t, a, node("n1"), 0)))
	if n1.Self() == tool.Self() {
		t.Fatal("it was taken before Reload")
	}
	must(t, n1.Reload())
	if n1.Self() != tool.Self() {
		t.Error("Reload did not take it")
	}

	before := n1.Self()
	path := filepath.Join(n1.cfg.Dir, fileIdentity)
	other, err := issue(t, a, node("n2"), 0).encode()
	must(t, err)
	half, err := os.ReadFile(path)
	must(t, err)
	for name, b := range map[string][]byte{"another node's": other, "cut off": half[:len(half)/2], "empty": nil} {
		must(t, os.WriteFile(path, b, 0o600))
		if n1.Reload() == nil || n1.Self() != before {
			t.Errorf("%s file was taken", name)
		}
	}
	must(t, os.WriteFile(path, half, 0o600))
	must(t, os.Chmod(path, 0o644))
	if err := n1.Reload(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("key that everybody may read: %v", err)
	}
}

func TestInstall_RefusesWhatIsNotItsOwn(t *testing.T) {
	c := newClock()
	a, other := newAuthority(t, "prod", c), newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	before := n1.Self()
	good := issue(t, a, node("n1"), 0)
	for name, creds := range map[string]Credentials{
		"another node's":      issue(t, a, node("n2"), 0),
		"another role":        issue(t, a, Subject{Role: RoleClient, Name: "n1"}, 0),
		"another authority's": issue(t, other, node("n1"), 0),
		"another key":         {good.Cert, issue(t, a, node("n1"), 0).Key},
		"no key":              {good.Cert, nil},
	} {
		if n1.Install(creds) == nil || n1.Self() != before {
			t.Errorf("%s was installed", name)
		}
	}
	short := issue(t, a, node("n1"), time.Minute)
	c.advance(time.Hour)
	wantErr(t, n1.Install(short), ErrExpired)
	if err := n1.InstallBundle(other.Bundle()); err == nil {
		t.Error("a bundle that does not believe the node itself was installed")
	}
	if err := Create(n1.cfg.Dir, issue(t, a, node("n1"), 0), a.Bundle(), c.now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over an identity: %v", err)
	}
}

func TestOpen_OfAnExpiredIdentity_StartsAndIsRefused(t *testing.T) {
	c := newClock()
	a := newAuthority(t, "prod", c)
	n1 := nodeIdentity(t, c, a, "n1")
	c.advance(100 * 24 * time.Hour)
	late, err := Open(Config{Dir: n1.cfg.Dir, Clock: c.now})
	must(t, err)
	if !late.NeedsRenewal(c.now()) {
		t.Error("not due")
	}
	_, atServer, _ := meet(t, nodeIdentity(t, c, a, "n2").ServerConfig(KindPeers), late.ClientConfig(KindPeers, "n2"))
	wantErr(t, atServer, ErrExpired)
}

func TestChangeOfAuthority_AtNoStepDoNodesLoseEachOther(t *testing.T) {
	c := newClock()
	old, fresh := newAuthority(t, "prod", c), newAuthority(t, "prod", c)
	n1, n2 := nodeIdentity(t, c, old, "n1"), nodeIdentity(t, c, old, "n2")
	step := func(what string, do func() error) {
		t.Helper()
		must(t, do())
		for _, pair := range [][2]*Identity{{n1, n2}, {n2, n1}} {
			_, atServer, atClient := meet(t, pair[0].ServerConfig(KindPeers), pair[1].ClientConfig(KindPeers, pair[0].Self().Name))
			if atServer != nil || atClient != nil {
				t.Fatalf("after %s: %v, %v", what, atServer, atClient)
			}
		}
	}
	both, err := old.Bundle().With(fresh.Certificate())
	must(t, err)
	both, err = ParseBundle(both.PEM())
	must(t, err)
	step("both believed by n1", func() error { return n1.InstallBundle(both) })
	step("both believed by n2", func() error { return n2.InstallBundle(both) })
	step("n1 signed anew", func() error { return n1.Install(issue(t, fresh, node("n1"), 0)) })
	step("n2 signed anew", func() error { return n2.Install(issue(t, fresh, node("n2"), 0)) })
	step("old forgotten by n1", func() error { return n1.InstallBundle(both.Without(old.Key())) })
	step("old forgotten by n2", func() error { return n2.InstallBundle(both.Without(old.Key())) })
	stolen := impostor(c, issue(t, old, node("n3"), 0), both)
	_, atServer, _ := meet(t, n1.ServerConfig(KindPeers), stolen.ClientConfig(KindPeers, "n1"))
	wantErr(t, atServer, ErrUntrusted)
}

func TestParseBundle_RefusesWhatIsNoAuthority(t *testing.T) {
	c := newClock()
	a, other := newAuthority(t, "prod", c), newAuthority(t, "test", c)
	creds := issue(t, a, node("n1"), 0)
	key, err := encodeKey(a.creds.Key)
	must(t, err)
	for name, b := range map[string][]byte{
		"nothing": nil, "a node's certificate": encodeCert(creds.Cert), "a key": append(a.Bundle().PEM(), key...),
		"two clusters": append(a.Bundle().PEM(), other.Bundle().PEM()...), "noise": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		if _, err := ParseBundle(b); err == nil {
			t.Errorf("%s was taken for a bundle", name)
		}
	}
	if b, err := a.Bundle().With(a.Certificate()); err != nil || len(b.Keys()) != 1 {
		t.Errorf("the same authority twice: %v, %v", b.Keys(), err)
	}
}

func TestWriteFile_FailedWrite_LeavesTheOldFileAndNoOther(t *testing.T) {
	dir := t.TempDir()
	must(t, writeFile(dir, "f", []byte("old")))
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "d", "x"), nil, 0o600))
	if err := writeFile(dir, "d", []byte("new")); err == nil { // a directory that is not empty cannot be renamed over
		t.Fatal("written over a directory")
	}
	ents, err := os.ReadDir(dir)
	must(t, err)
	if len(ents) != 2 {
		t.Errorf("left behind: %v", ents)
	}
}
