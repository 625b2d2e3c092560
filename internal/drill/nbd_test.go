package drill

import (
	"context"
	"crypto/rand"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// signs certifies clients, as a node with the authority's key does.
type signs struct{ ca *pki.Authority }

func (s signs) ClientCert(_ context.Context, req control.CertRequest) (control.CertGrant, error) {
	cert, err := s.ca.Issue(req.CSR, pki.Subject{Role: pki.RoleClient, Name: req.Name}, 0)
	if err != nil {
		return control.CertGrant{}, err
	}
	return control.CertGrant{Certificate: cert.Raw, Bundle: s.ca.Bundle().PEM()}, nil
}

// serveTLS serves "r0" as n1 of a cluster, to its clients alone, until the test ends.
func serveTLS(t *testing.T, ca *pki.Authority) (addr string) {
	t.Helper()
	csr, key, err := pki.NewCSR("n1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(csr, pki.Subject{Role: pki.RoleNode, Name: "n1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.Hold(pki.Credentials{Cert: cert, Key: key}, ca.Bundle(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := nbd.NewServer(nbd.Config{}, nbdtest.Exports{"r0": {Name: "r0", Size: testBlocks * blockSize, Features: nbd.FeaturesUsual, Backend: memory()}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- x.ServeTLS(ctx, ln, nbd.TLS{Mode: nbd.TLSRequired, Config: id.ServerConfig(pki.KindNBD)})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority("c1", time.Now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestReach_AListenerThatDemandsTLS_IsDrilledWithACertificateOfTheDrillsOwn(t *testing.T) {
	ca := authority(t)
	at := control.NBD{TCP: serveTLS(t, ca), TLS: "required"}
	asked := 0
	id := func() (*pki.Identity, error) { asked++; return certified(t.Context(), signs{ca}) }
	e, err := reach(t.Context(), "n1", at, true, id)
	if err != nil {
		t.Fatal(err)
	}
	c, err := connect(t.Context(), e, "r0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	want := []byte(strings.Repeat("lockstep", blockSize/8))
	got := make([]byte, blockSize)
	for _, step := range []error{c.do(cmdWrite, blockSize, want), c.do(cmdFlush, 0, nil), c.do(cmdRead, blockSize, got)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if string(got) != string(want) || c.size != testBlocks*blockSize {
		t.Errorf("size %d, other bytes come back", c.size)
	}

	if _, err := reach(t.Context(), "n2", at, true, id); err == nil || !strings.Contains(err.Error(), "it is n1") {
		t.Errorf("n1 taken for n2: %v", err)
	}
	other := authority(t)
	if _, err := reach(t.Context(), "n1", at, true, func() (*pki.Identity, error) { return certified(t.Context(), signs{other}) }); err == nil {
		t.Error("a server of another authority is believed")
	}
	if got := dialable("[::]:10809", "10.0.0.1"); got != "10.0.0.1:10809" || dialable(e.addr, "10.0.0.1") != e.addr {
		t.Errorf("a listener on every address is dialed at %s", got)
	}
	// Where a unix socket is here nobody has to sign anything.
	_, unix := serve(t, "n1", memory())
	asked = 0
	if e, err := reach(t.Context(), "n1", control.NBD{Unix: unix.addr, TCP: at.TCP, TLS: at.TLS}, true, id); err != nil || e.network != "unix" || asked != 0 {
		t.Errorf("%+v, %v, asked %d times", e, err, asked)
	}
}
