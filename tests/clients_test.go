package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	nbd "github.com/pojntfx/go-nbd/pkg/client"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestNBDInfo_ListsTheExportWithAllItsAbilities(t *testing.T) {
	need.Tool(t, "nbdinfo", "libnbd-bin")
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	for _, uri := range []string{c.URI("n1"), c.TCP("n1")} {
		var info struct {
			Exports []struct {
				Name         string `json:"export-name"`
				Size         int64  `json:"export-size"`
				IsReadOnly   bool   `json:"is_read_only"`
				CanFlush     bool   `json:"can_flush"`
				CanFUA       bool   `json:"can_fua"`
				CanTrim      bool   `json:"can_trim"`
				CanZero      bool   `json:"can_zero"`
				CanMultiConn bool   `json:"can_multi_conn"`
				BlockMin     int64  `json:"block_size_minimum"`
				BlockPref    int64  `json:"block_size_preferred"`
				BlockMax     int64  `json:"block_size_maximum"`
			} `json:"exports"`
		}
		if err := json.Unmarshal([]byte(proc.Run(t, "nbdinfo", "--json", "--no-content", uri)), &info); err != nil {
			t.Fatal(err)
		}
		if len(info.Exports) != 1 {
			t.Fatalf("%s: %d exports", uri, len(info.Exports))
		}
		e := info.Exports[0]
		if e.Name != "r0" || e.Size != 64*cluster.MiB || e.IsReadOnly ||
			!e.CanFlush || !e.CanFUA || !e.CanTrim || !e.CanZero || !e.CanMultiConn {
			t.Errorf("%s: %+v", uri, e)
		}
		if e.BlockMin != 1 || e.BlockPref != 4096 || e.BlockMax < cluster.MiB {
			t.Errorf("%s: block sizes %+v", uri, e)
		}
	}
	list := proc.Run(t, "nbdinfo", "--list", "--json", "nbd+unix:///?socket="+socketOf(t, c.URI("n1")))
	if !json.Valid([]byte(list)) {
		t.Errorf("nbdinfo --list: %s", list)
	}
	c.Identical("n1")
}

func TestNBDCopy_FileSystemImageInAndOut_ComesBackUnchangedFromBothNodes(t *testing.T) {
	need.Tool(t, "nbdcopy", "libnbd-bin")
	need.Tool(t, "mkfs.ext4", "e2fsprogs")
	dir := cluster.ShmDir(t)
	image := sourceImage(t, dir, 192*cluster.MiB)
	c := cluster.Up(t, cluster.Options{SizeBytes: 192 * cluster.MiB})

	proc.Run(t, "nbdcopy", "--flush", image, c.URI("n1"))
	c.Identical("n1")
	cluster.RequireSame(t, image, c.Data("n1"))

	out := filepath.Join(dir, "out.img")
	proc.Run(t, "nbdcopy", c.TCP("n1"), out)
	cluster.RequireSame(t, image, out)

	if _, err := need.Find("qemu-img"); err == nil {
		proc.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, c.URI("n1"))
	}
	c.MustCLI("n1", "switchover", "r0", "--to", "n2")
	c.WaitPrimary("n2")
	os.Remove(out)
	proc.Run(t, "nbdcopy", c.URI("n2"), out)
	cluster.RequireSame(t, image, out)
	c.Identical("n2")
}

// sourceImage makes an ext4 image of size bytes that holds a part of Go's own source.
func sourceImage(t testing.TB, dir string, size int64) string {
	t.Helper()
	image := filepath.Join(dir, "src.img")
	src := goSource(t, "cmd", "compile")
	proc.Run(t, "mkfs.ext4", "-q", "-F", "-d", src, image, fmt.Sprintf("%dK", size>>10))
	return image
}

func TestQEMUImg_ConvertAndCompare(t *testing.T) {
	need.Tool(t, "qemu-img", "qemu-utils")
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	image := randomFile(t, c.Dir, "random.img", 64*cluster.MiB)
	proc.Run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, c.URI("n1"))
	out := proc.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", image, c.TCP("n1"))
	t.Log(out)
	if out, err := proc.Try(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", "/dev/zero", c.URI("n1")); err == nil {
		t.Errorf("qemu-img finds random data equal to nothing: %s", out)
	}
	c.Identical("n1")
	cluster.RequireSame(t, image, c.Data("n2"))
}

func TestQEMUIO_PatternsZeroesAndDiscards_ReadBackAsWritten(t *testing.T) {
	need.Tool(t, "qemu-io", "qemu-utils")
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	cmds := []string{
		"write -P 0x5a 0 1M", "read -P 0x5a 0 1M",
		"write -P 0x11 512 512", "read -P 0x5a 0 512", "read -P 0x11 512 512", "read -P 0x5a 1024 3072",
		"write -f -P 0x22 1M 64k", "read -P 0x22 1M 64k",
		"write -z 4096 8192", "read -P 0 4096 8192", "read -P 0x5a 12288 4096",
		"write -z -u 64k 64k", "read -P 0 64k 64k",
		"write -P 0x77 60M 4M", "discard 61M 1M", "read -P 0 61M 1M", "read -P 0x77 62M 2M",
		"aio_write -P 0x33 8M 1M", "aio_write -P 0x44 9M 1M", "aio_flush", "read -P 0x33 8M 1M", "read -P 0x44 9M 1M",
		"flush",
	}
	args := []string{"-f", "raw", "--discard=unmap"}
	for _, cmd := range cmds {
		args = append(args, "-c", cmd)
	}
	out := proc.Run(t, "qemu-io", append(args, c.URI("n1"))...)
	for _, bad := range []string{"Pattern verification failed", "error", "failed"} {
		if i := index(out, bad); i >= 0 {
			t.Fatalf("qemu-io: %s", out)
		}
	}
	c.Identical("n1")
}

func TestCache_IsServedInsideTheDeviceAndRefusedBeyondIt(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	conn := dial(t, c.URI("n1"))
	for _, length := range []uint32{1, 4096, 4 * cluster.MiB, 64 * cluster.MiB} {
		if err := conn.CacheAt(0, length); err != nil {
			t.Errorf("CACHE of %d bytes: %v", length, err)
		}
	}
	if err := conn.CacheAt(64*cluster.MiB-1, 4096); !errors.Is(err, nbdclient.EINVAL) {
		t.Errorf("CACHE beyond the end: %v", err)
	}
	if err := conn.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Errorf("write after CACHE: %v", err)
	}
}

func TestGoNBDClient_Negotiates(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	conn, err := net.Dial("unix", socketOf(t, c.URI("n1")))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// What follows the negotiation is the kernel's business; /dev/null has no NBD ioctls, so
	// getting that far is success. (Its List takes a server's description of an export for a
	// further name, and fails.)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	err = nbd.Connect(conn, null, &nbd.Options{ExportName: "r0"})
	if !errors.Is(err, syscall.ENOTTY) {
		t.Fatalf("go-nbd ended with %v instead of at the first ioctl", err)
	}
}

func TestSecondary_RefusesTheExport_AndNamesThePrimary(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	_, err := nbdclient.Dial(t.Context(), c.URI("n2"))
	var refused *nbdclient.Refused
	if !errors.As(err, &refused) || index(refused.Message, "n1") < 0 {
		t.Fatalf("n2 said: %v", err)
	}
	_, err = nbdclient.Dial(t.Context(), c.URIOf("n1", "nonesuch"))
	if !errors.As(err, &refused) {
		t.Fatalf("an export that does not exist: %v", err)
	}
}

func TestStatus_JSON_HasTheDocumentedFields(t *testing.T) {
	c := cluster.Up(t, cluster.Options{SizeBytes: 64 * cluster.MiB})
	var st control.Status
	raw := c.MustCLI("n1", "status", "--json")
	if err := json.Unmarshal([]byte(raw), &st); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	if st.Node != "n1" || len(st.Resources) != 1 || len(st.Nodes) != 3 || !st.Ledger.Quorum || st.Ledger.Leader == "" {
		t.Fatalf("%s", raw)
	}
	r := st.Resources[0]
	if r.Name != "r0" || r.Primary != "n1" || r.Role != control.RolePrimary || r.Epoch == 0 ||
		r.SizeBytes != 64*cluster.MiB || r.IO.State != control.IORunning || len(r.InSync) != 2 ||
		r.DiskState != control.DiskUpToDate || len(r.Replicas) != 2 || len(r.Advice) != 0 || r.NBD.Unix == "" || r.NBD.TCP == "" {
		t.Fatalf("%s", raw)
	}
	var second control.Status
	if err := json.Unmarshal([]byte(c.MustCLI("n1", "--node", "n2", "status", "r0", "--json")), &second); err != nil {
		t.Fatal(err)
	}
	if second.Node != "n2" || second.Resources[0].Role != control.RoleSecondary || second.Resources[0].Primary != "n1" {
		t.Fatalf("n2 asked through n1: %+v", second)
	}
	if r := c.CLI("n1", "status", "nonesuch"); r.Code == 0 {
		t.Fatalf("%v", r)
	}
}
