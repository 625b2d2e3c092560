package nbd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/internal/pki"
	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// foreign is a server on TCP that requires TLS, as programs that are not ours see it.
type foreign struct {
	srv   *nbd.Server
	certs *certs
	addr  string
	dir   string // a client's certificate
}

func newForeign(t *testing.T, size int64) *foreign {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &foreign{certs: newCerts(t), addr: l.Addr().String()}
	f.dir = f.client(t, f.certs, "backup")
	f.srv = nbd.NewServer(nbd.Config{Logger: quiet}, memoryExports(size))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.srv.ServeTLS(ctx, l, f.certs.tls(nbd.TLSRequired)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// client writes the files of a client of one cluster that believes ours.
func (f *foreign) client(t *testing.T, of *certs, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tls")
	if err := pki.WriteClient(dir, of.credentials(t, pki.RoleClient, name), f.certs.ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (f *foreign) uri(dir string) string { return "nbds://" + f.addr + "/m?tls-certificates=" + dir }

// qemu returns the arguments that name the export to qemu's programs.
func (f *foreign) qemu(dir string) (object, image string) {
	host, port, _ := net.SplitHostPort(f.addr)
	return "tls-creds-x509,id=tls0,endpoint=client,dir=" + dir,
		fmt.Sprintf("driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=%s,file.server.port=%s,file.export=m,file.tls-creds=tls0", host, port)
}

func TestTLS_Nbdinfo_ShowsTheExport(t *testing.T) {
	tool(t, "nbdinfo")
	f := newForeign(t, 10*mib)
	var got struct {
		TLS     bool `json:"TLS"`
		Exports []map[string]any
	}
	if err := json.Unmarshal(run(t, "nbdinfo", "--json", "--no-content", f.uri(f.dir)), &got); err != nil {
		t.Fatal(err)
	}
	if !got.TLS || len(got.Exports) != 1 || got.Exports[0]["export-size"] != 10.0*mib {
		t.Errorf("%+v", got)
	}
	if out := run(t, "nbdinfo", "--list", f.uri(f.dir)); !bytes.Contains(out, []byte(`export="m"`)) {
		t.Errorf("list: %s", out)
	}
}

func TestTLS_ForeignClientsWithoutAGoodCertificate_AreRefused(t *testing.T) {
	nbdinfo, qemuImg := tool(t, "nbdinfo"), tool(t, "qemu-img")
	f := newForeign(t, mib)
	stranger := f.client(t, newCerts(t), "backup")
	distrustful := filepath.Join(t.TempDir(), "tls") // believes another authority than ours
	if err := pki.WriteClient(distrustful, f.certs.credentials(t, pki.RoleClient, "x"), newCerts(t).ca.Bundle()); err != nil {
		t.Fatal(err)
	}
	args := func(dir string) []string {
		object, image := f.qemu(dir)
		return []string{qemuImg, "info", "--object", object, "--image-opts", image}
	}
	for name, cmd := range map[string][]string{
		"libnbd in the clear":            {nbdinfo, "nbd://" + f.addr + "/m"},
		"libnbd of another cluster":      {nbdinfo, f.uri(stranger)},
		"libnbd that believes another":   {nbdinfo, f.uri(distrustful)},
		"qemu in the clear":              {qemuImg, "info", "nbd://" + f.addr + "/m"},
		"qemu of another cluster":        args(stranger),
		"qemu that believes another one": args(distrustful),
	} {
		out, err := exec.CommandContext(t.Context(), cmd[0], cmd[1:]...).CombinedOutput()
		if err == nil {
			t.Errorf("%s was served: %s", name, out)
		}
		if strings.Contains(string(out), "virtual size") || strings.Contains(string(out), "export-size") {
			t.Errorf("%s was told: %s", name, out)
		}
	}
	waitGone(t, f.srv)
	if st := f.srv.Stats(); st.HandshakesFailed == 0 {
		t.Errorf("%+v", st)
	}
}

func TestTLS_Nbdcopy_ThereAndBack_IsTheSame(t *testing.T) {
	tool(t, "nbdcopy")
	const size = 40*mib + 512
	f := newForeign(t, size)
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(data)
	clear(data[5*mib : 20*mib])
	dir := t.TempDir()
	in, back := filepath.Join(dir, "in"), filepath.Join(dir, "back")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "nbdcopy", "--flush", in, f.uri(f.dir))
	run(t, "nbdcopy", f.uri(f.dir), back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what came back differs: %v", err)
	}
	waitGone(t, f.srv)
	if st := f.srv.Stats(); st.HandshakesFailed != 0 {
		t.Errorf("%+v", st)
	}
}

func TestTLS_Qemu_ReadsWhatItWrote(t *testing.T) {
	tool(t, "qemu-io")
	f := newForeign(t, 64*mib)
	object, image := f.qemu(f.dir)
	run(t, "qemu-io", "--object", object, "--image-opts",
		"-c", "write -P 0x5a 0 1M", "-c", "write -P 0xa5 -f 1M 3M", "-c", "write -z 512k 1M",
		"-c", "aio_write -P 1 20M 8M", "-c", "aio_write -P 2 40M 1k", "-c", "aio_flush",
		"-c", "read -P 0x5a 0 512k", "-c", "read -P 0 512k 1M", "-c", "read -P 0xa5 1536k 1536k",
		"-c", "read -P 1 20M 8M", "-c", "read -P 2 40M 1k", image)
	img := filepath.Join(t.TempDir(), "copy.qcow2")
	run(t, "qemu-img", "convert", "--object", object, "--image-opts", image, "-O", "qcow2", img)
	run(t, "qemu-img", "compare", "--object", object, "--image-opts", image, "driver=qcow2,file.driver=file,file.filename="+img)
	waitGone(t, f.srv)
	if st := f.srv.Stats(); st.Failed != 0 {
		t.Errorf("%+v", st)
	}
}

func TestTLS_Nbdinfo_OverUnix(t *testing.T) {
	tool(t, "nbdinfo")
	f := newForeign(t, mib)
	_, addr := serveTLS(t, nbd.Config{Logger: quiet}, nbdtest.Exports{"m": {
		Name: "m", Size: mib, Features: nbd.FeaturesUsual, Backend: nbdtest.NewMemory(mib),
	}}, f.certs.tls(nbd.TLSRequired))
	out := run(t, "nbdinfo", "--size", "nbds+unix:///m?socket="+addr.String()+"&tls-certificates="+f.dir)
	if strings.TrimSpace(string(out)) != fmt.Sprint(mib) {
		t.Errorf("size %s", out)
	}
}
