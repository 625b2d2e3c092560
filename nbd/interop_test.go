package nbd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/backend"

	"github.com/lockstep-ha/lockstep/nbd"
	"github.com/lockstep-ha/lockstep/nbd/nbdtest"
)

// run starts a client program and returns its output; it fails the test when the program does.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, name), args...)
	cmd.Dir = t.TempDir() // fio leaves files behind
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, stderr.Bytes())
	}
	return out
}

func uri(addr net.Addr) string { return "nbd+unix:///m?socket=" + addr.String() }

// backends are what the clients are let loose on, each of size bytes.
var backends = map[string]func(size int64) nbd.Backend{
	"memory": func(size int64) nbd.Backend { return nbdtest.NewMemory(size) },
	"go-nbd": func(size int64) nbd.Backend {
		return nbd.GoNBDBackend(backend.NewMemoryBackend(make([]byte, size)))
	},
}

// eachBackend runs f once per backend, with the address of a server that serves it as "m".
func eachBackend(t *testing.T, size int64, f func(t *testing.T, addr net.Addr)) {
	for name, make := range backends {
		t.Run(name, func(t *testing.T) {
			_, addr := serve(t, nbd.Config{Logger: quiet}, oneExport(make(size), size, nbd.FeaturesUsual))
			f(t, addr)
		})
	}
}

func TestNbdinfo_ShowsTheExportAsConfigured(t *testing.T) {
	tool(t, "nbdinfo")
	mem := nbdtest.NewMemory(10 * mib)
	_, addr := serve(t, nbd.Config{Logger: quiet}, nbdtest.Exports{"m": {
		Name: "m", Description: "the database", Size: 10 * mib,
		BlockSize: nbd.BlockSize{Min: 512, Preferred: 64 << 10, Max: 4 * mib},
		Features:  nbd.FeaturesUsual, Backend: mem,
	}})
	var got struct {
		Protocol string
		Exports  []map[string]any
	}
	if err := json.Unmarshal(run(t, "nbdinfo", "--json", "--no-content", uri(addr)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Protocol != "newstyle-fixed" || len(got.Exports) != 1 {
		t.Fatalf("%+v", got)
	}
	for key, want := range map[string]any{
		"export-name": "m", "description": "the database", "export-size": 10.0 * mib,
		"block_size_minimum": 512.0, "block_size_preferred": 65536.0, "block_size_maximum": 4.0 * mib,
		"is_read_only": false, "can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true,
		"can_cache": true, "can_fast_zero": false, "can_multi_conn": true, "can_df": false,
	} {
		if got.Exports[0][key] != want {
			t.Errorf("%s is %v, want %v", key, got.Exports[0][key], want)
		}
	}
}

func TestNbdinfo_OfARefusedExport_ShowsTheReason(t *testing.T) {
	_, addr := serve(t, nbd.Config{Logger: quiet}, nbdtest.Exports{"m": nil})
	out, err := exec.Command(tool(t, "nbdinfo"), uri(addr)).CombinedOutput()
	if err == nil {
		t.Fatalf("nbdinfo succeeded: %s", out)
	}
	// Not every version prints the server's words; that it fails cleanly is what matters here.
	t.Logf("%s", out)
}

func TestNbdcopy_ThereAndBack_IsTheSame(t *testing.T) {
	tool(t, "nbdcopy")
	const size = 70*mib + 512
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	clear(data[5*mib : 30*mib]) // travels as WRITE_ZEROES
	dir := t.TempDir()
	in, back := filepath.Join(dir, "in"), filepath.Join(dir, "back")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	eachBackend(t, size, func(t *testing.T, addr net.Addr) {
		run(t, "nbdcopy", "--flush", in, uri(addr))
		run(t, "nbdcopy", uri(addr), back)
		if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
			t.Errorf("what came back differs: %v", err)
		}
	})
}

func TestQemu_ReadsWhatItWrote(t *testing.T) {
	tool(t, "qemu-io")
	eachBackend(t, 64*mib, func(t *testing.T, addr net.Addr) {
		run(t, "qemu-io", "-f", "raw",
			"-c", "write -P 0x5a 0 1M", "-c", "write -P 0xa5 -f 1M 3M", "-c", "write -z 512k 1M",
			"-c", "write -z -u 3M 64k", "-c", "discard 10M 1M", "-c", "flush",
			"-c", "aio_write -P 1 20M 8M", "-c", "aio_write -P 2 40M 1k", "-c", "aio_flush",
			"-c", "read -P 0x5a 0 512k", "-c", "read -P 0 512k 1M", "-c", "read -P 0xa5 1536k 1536k",
			"-c", "read -P 0 3M 64k", "-c", "read -P 1 20M 8M", "-c", "read -P 2 40M 1k",
			uri(addr))
		img := filepath.Join(t.TempDir(), "copy.qcow2")
		run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri(addr), img)
		run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", img, uri(addr))
	})
}

func TestFio_VerifiesItsWrites(t *testing.T) {
	tool(t, "fio")
	eachBackend(t, 32*mib, func(t *testing.T, addr net.Addr) {
		run(t, "fio", "--name=v", "--ioengine=nbd", "--uri="+uri(addr), "--rw=randwrite",
			"--bsrange=512-256k", "--iodepth=32", "--size=32m", "--verify=crc32c",
			"--do_verify=1", "--fsync=64", "--randseed=7")
	})
}

func TestClients_OverTCP(t *testing.T) {
	tool(t, "nbdinfo")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nbd.NewServer(nbd.Config{Logger: quiet}, memoryExports(mib)).Serve(ctx, l) }()
	run(t, "nbdinfo", "nbd://"+l.Addr().String()+"/m")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
