package tests

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/ackload"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// spit connects, sends p, reads whatever comes for a moment and hangs up.
func spit(network, addr string, p []byte) error {
	conn, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(200 * time.Millisecond)) // only bounds how long we listen
	conn.Write(p)                                            // the node may hang up at any byte
	conn.Read(make([]byte, 4096))
	return nil
}

// garbage returns bytes that begin like something real and then are not.
func garbage(rng *rand.Rand, prefixes ...string) []byte {
	p := []byte(prefixes[rng.IntN(len(prefixes))])
	if len(p) > 0 && rng.IntN(4) == 0 {
		p = p[:rng.IntN(len(p))]
	}
	tail := make([]byte, rng.IntN(2048))
	for i := range tail {
		switch rng.IntN(4) {
		case 0:
			tail[i] = 0
		case 1:
			tail[i] = 0xff
		default:
			tail[i] = byte(rng.Uint32())
		}
	}
	return append(p, tail...)
}

// openFiles counts the descriptors of a node.
func openFiles(t testing.TB, c *cluster.Cluster, node string) int {
	t.Helper()
	ents, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Node(node).PID))
	must(t, err)
	return len(ents)
}

// requireServes writes and reads on the primary and compares the replicas.
func requireServes(t testing.TB, c *cluster.Cluster) {
	t.Helper()
	const span = 16 * cluster.MiB
	l := ackload.New(span / ackload.Block)
	conn := dial(t, c.URI("n1"))
	must(t, conn.ZeroAt(0, span)) // the load expects to begin with zeros
	finish := background(t, l, c.URI("n1"), 2, 8)
	proc.Eventually(t, "writes", func() error { return more(l, 300) })
	finish()
	must(t, l.Check(conn))
}

func TestGarbage_OnEveryPortOfEveryNode_NobodyCrashes_AndThePrimaryServes(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	rng := rand.New(rand.NewPCG(1, 2))
	prefixes := []string{
		"", "NBDMAGICIHAVEOPT", "\x00\x00\x00\x03IHAVEOPT", "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\xff\xff\xff\xff",
		"LSFR\x01\x01", "LSHI\x01\x00\x00\x01\x00\x01\x00\x00\xff\xff\xff\xff", "LSHI\x01\x00\x00\x63\x00\x62\x00\x00\x00\x00\x00\x00",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /v1/resources HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n{",
		"\x16\x03\x01\x02\x00\x01\x00", "\xff\xff\xff\xff\xff\xff\xff\xff",
	}
	type port struct{ network, addr string }
	var ports []port
	for _, n := range c.Lab.State().Nodes {
		ports = append(ports, port{"unix", n.ControlSocket}, port{"tcp", n.Listen}, port{"udp", n.Gossip})
		if conn, err := net.Dial("tcp", n.Gossip); err == nil {
			conn.Close()
			ports = append(ports, port{"tcp", n.Gossip})
		}
		if !n.Witness {
			_, tcp, _, err := nbdclient.ParseURI(n.NBDTCPURI)
			must(t, err)
			ports = append(ports, port{"unix", socketOf(t, n.NBDUnixURI)}, port{"tcp", tcp})
		}
	}
	var wg sync.WaitGroup
	for _, p := range ports {
		var shots [][]byte
		for range 25 {
			shots = append(shots, garbage(rng, prefixes...))
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			for _, shot := range shots {
				if err := spit(p.network, p.addr, shot); err != nil && p.network != "udp" {
					t.Errorf("%s %s does not listen any more: %v", p.network, p.addr, err)
					return
				}
			}
		}()
	}
	wg.Wait()
	c.WaitInSync("n1")
	requireServes(t, c)
	c.Identical("n1")
}

func TestNBDGarbage_AfterNegotiation_EndsOnlyThatConnection(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	steady := dial(t, c.URI("n1"))
	rng := rand.New(rand.NewPCG(3, 4))
	size := uint64(64 * cluster.MiB)
	ignore := func(error) {}
	for i := range 60 {
		bad := dial(t, c.URI("n1"))
		switch i % 6 {
		case 0:
			bad.Raw(uint16(7+rng.IntN(1000)), uint16(rng.Uint32()), rng.Uint64(), rng.Uint32(), garbage(rng, ""), ignore)
		case 1: // a payload far beyond any limit, of which nothing comes
			bad.Raw(1, 0, 0, 0xffffffff, nil, ignore)
		case 2: // a wrong magic where a request should begin
			bad.Raw(1, 0, 0, 16, garbage(rng, "\x25\x60\x95\x14", strings.Repeat("x", 100)), ignore)
		case 3: // a client that dies in the middle of a payload
			bad.Raw(1, 0, 4096, 1<<20, make([]byte, 1000), ignore)
		case 4: // and one with a full pipeline
			for range 200 {
				bad.Read(make([]byte, 64<<10), 0, ignore)
			}
		case 5:
			bad.Raw(0, 0, size-1, 2, nil, ignore)
		}
		bad.Abort()
	}
	must(t, steady.WriteAt(bytes.Repeat([]byte{7}, 4096), 0))
	must(t, steady.Sync())
	requireServes(t, c)
	c.Identical("n1")
}

func TestRequestsThatCannotBe_AreAnsweredWithAnError_AndChangeNothing(t *testing.T) {
	const size = 64 * cluster.MiB
	c := cluster.Up(t, cluster.Options{SizeBytes: size})
	conn := dial(t, c.URI("n1"))
	must(t, conn.WriteAt(bytes.Repeat([]byte{9}, 4096), size-4096))
	ask := func(command, flags uint16, off uint64, length uint32, payload []byte) error {
		ch := make(chan error, 1)
		conn.Raw(command, flags, off, length, payload, func(err error) { ch <- err })
		return <-ch
	}
	for _, tc := range []struct {
		name    string
		command uint16
		off     uint64
		length  uint32
		payload []byte
	}{
		{"read across the end", 0, size - 4096, 8192, nil},
		{"read behind the end", 0, size + 4096, 4096, nil},
		{"read at an offset that overflows", 0, 1<<64 - 4096, 8192, nil},
		{"write across the end", 1, size - 4096, 8192, make([]byte, 8192)},
		{"write behind the end", 1, 1 << 62, 4096, make([]byte, 4096)},
		{"trim across the end", 4, size - 4096, 8192, nil},
		{"zero across the end", 6, size - 4096, 8192, nil},
		{"unknown command", 77, 0, 0, nil},
	} {
		err := ask(tc.command, 0, tc.off, tc.length, tc.payload)
		var errno nbdclient.Errno
		if !errors.As(err, &errno) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	got := make([]byte, 4096)
	must(t, conn.ReadAt(got, size-4096))
	if !bytes.Equal(got, bytes.Repeat([]byte{9}, 4096)) {
		t.Error("a request that was refused changed data")
	}
	c.Identical("n1")
}

func TestThousandsOfConnections_LeaveNothingBehind(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	sock := socketOf(t, c.URI("n1"))
	before := openFiles(t, c, "n1")
	for i := range 3000 {
		switch i % 3 {
		case 0:
			conn, err := net.Dial("unix", sock)
			must(t, err)
			conn.Close()
		case 1:
			client, err := nbdclient.Dial(t.Context(), c.URI("n1"))
			must(t, err)
			client.Abort()
		case 2:
			conn, err := net.Dial("unix", sock)
			must(t, err)
			// An export name of 4,097 bytes: one more than there may be.
			p := append([]byte{0, 0, 0, 3}, "IHAVEOPT\x00\x00\x00\x07"...)
			p = binary.BigEndian.AppendUint32(p, 4+4097+2)
			p = binary.BigEndian.AppendUint32(p, 4097)
			conn.Write(append(p, make([]byte, 4099)...))
			conn.Close()
		}
	}
	proc.Eventually(t, "descriptors to be given back", func() error {
		if n := openFiles(t, c, "n1"); n > before+8 {
			return fmt.Errorf("%d open files, %d before", n, before)
		}
		return nil
	})
	requireServes(t, c)
	c.Identical("n1")
}

func TestConfig_UnknownKey_IsRefusedWithItsLine(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	good := string(read(t, c.Node("n1").Config))
	bad := filepath.Join(t.TempDir(), "node.toml")
	must(t, os.WriteFile(bad, []byte("windoow = \"16MiB\"\n"+good), 0o600))
	res := cluster.CLI(t, "node", "--config", bad)
	if res.Code != 2 {
		t.Errorf("exit code %d, not 2", res.Code)
	}
	for _, want := range []string{bad + ":1", "windoow", "window"} {
		if !strings.Contains(res.Stderr, want) {
			t.Errorf("%q is not in:\n%v", want, res)
		}
	}
	if res := cluster.CLI(t, "node", "--config", bad+".absent"); res.Code == 0 {
		t.Errorf("%v", res)
	}
	c.Identical("n1")
}

func TestCLI_ExitCodes(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	for _, tc := range []struct {
		code int
		args []string
	}{
		{0, []string{"status", "r0"}},
		{2, []string{"status", "--nonesuch"}},
		{2, []string{"switchover", "r0"}},
		{3, []string{"promote", "r0", "--on", "n2"}},
		{3, []string{"resource", "delete", "r0"}},
	} {
		if res := c.CLI("n1", tc.args...); res.Code != tc.code {
			t.Errorf("exit code is not %d:\n%v", tc.code, res)
		}
	}
	cluster.MustCLI(t, "version")
	if res := cluster.CLI(t, "--socket", filepath.Join(t.TempDir(), "none.sock"), "status"); res.Code != 4 {
		t.Errorf("exit code is not 4:\n%v", res)
	}
	c.Identical("n1")
}
