package tests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/nbdclient"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

func TestMain(m *testing.M) { cluster.Main(m) }

// dial connects to an export and closes the connection at the end of the test. A node that became
// primary a moment ago may still refuse, so it is asked until it grants.
func dial(t testing.TB, uri string) *nbdclient.Client {
	t.Helper()
	var c *nbdclient.Client
	proc.Eventually(t, "the export "+uri, func() (err error) {
		c, err = nbdclient.Dial(t.Context(), uri)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// randomFile makes a file of size random bytes on tmpfs; the seed is fixed.
func randomFile(t testing.TB, dir, name string, size int64) string {
	t.Helper()
	path := dir + "/" + name
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, cluster.MiB)
	for left := size; left > 0; left -= int64(len(buf)) {
		buf = buf[:min(left, int64(len(buf)))]
		src.Read(buf)
		if _, err := f.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// allocated returns how many bytes of a file have blocks on its file system.
func allocated(path string) (int64, error) {
	st, err := statSys(path)
	if err != nil {
		return 0, err
	}
	return st.Blocks * 512, nil
}

// waitAllocated returns when a file has at least so many bytes on its file system.
func waitAllocated(t testing.TB, path string, atLeast int64) {
	t.Helper()
	proc.Eventually(t, fmt.Sprintf("%d bytes in %s", atLeast, path), func() error {
		n, err := allocated(path)
		if err == nil && n < atLeast {
			err = fmt.Errorf("it has %d", n)
		}
		return err
	})
}

// index is strings.Index without regard to case.
func index(s, sub string) int { return strings.Index(strings.ToLower(s), strings.ToLower(sub)) }

// socketOf returns the path of the unix socket in an NBD URI.
func socketOf(t testing.TB, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil || u.Query().Get("socket") == "" {
		t.Fatal(errors.Join(err, fmt.Errorf("%s names no socket", uri)))
	}
	return u.Query().Get("socket")
}

// startAll starts several killed nodes, none of which can be ready before the others are.
func startAll(t testing.TB, c *cluster.Cluster, nodes ...string) {
	t.Helper()
	for _, n := range nodes {
		c.StartUnready(n)
	}
	for _, n := range nodes {
		c.WaitQuorum(n)
	}
}

// goSource returns a directory of Go's own source, of which there is plenty on a machine that runs
// these tests.
func goSource(t testing.TB, elem ...string) string {
	t.Helper()
	root := strings.TrimSpace(proc.Run(t, "go", "env", "GOROOT"))
	return filepath.Join(append([]string{root, "src"}, elem...)...)
}
