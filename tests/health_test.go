package tests

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// checked is a cluster whose nodes answer health checks.
type checked struct {
	*cluster.Cluster
	t    testing.TB
	addr map[string]string // by node: its health listener
}

// healthPort is where nodes with an address of their own answer checks.
const healthPort = 7783

func upChecked(t testing.TB, opts cluster.Options) *checked {
	t.Helper()
	c := &checked{t: t, addr: map[string]string{}}
	var held []net.Listener // so that no two nodes get the same port
	opts.Configure = func(n *config.Node) {
		host, _, err := net.SplitHostPort(n.Listen)
		must(t, err)
		n.HealthListen = net.JoinHostPort(host, strconv.Itoa(healthPort))
		if !opts.Netns {
			ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
			must(t, err)
			held = append(held, ln)
			n.HealthListen = ln.Addr().String()
		}
		c.addr[n.Name] = n.HealthListen
		// The witness is written last, and no node has been started then.
		if n.Witness {
			for _, ln := range held {
				ln.Close()
			}
		}
	}
	c.Cluster = cluster.Up(t, opts)
	return c
}

// answer is what a check is answered.
type answer struct {
	Code    int
	Header  http.Header
	Role    string
	Primary string
	NBD     string
	Reason  string
}

// ask sends a node one check, on a connection of its own.
func (c *checked) ask(method, node, path string) (answer, error) {
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+c.addr[node]+path, nil)
	if err != nil {
		return answer{}, err
	}
	res, err := hc.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	a := answer{Code: res.StatusCode, Header: res.Header}
	if method == http.MethodHead {
		return a, nil
	}
	err = json.NewDecoder(res.Body).Decode(&a)
	return a, err
}

// code waits until a node answers a check with this status, and returns the answer.
func (c *checked) code(node, path string, want int) (a answer) {
	c.t.Helper()
	proc.Eventually(c.t, fmt.Sprintf("%s to answer %s with %d", node, path, want), func() (err error) {
		if a, err = c.ask(http.MethodGet, node, path); err == nil && a.Code != want {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	return a
}

// The line that the manual gives to BGP speakers and DNS servers.
func TestHealth_CommandOfTheManual_SucceedsOnThePrimaryAlone(t *testing.T) {
	need.Tool(t, "curl", "curl")
	const line, addr = "curl -fsS -m 0.5 -o /dev/null http://192.0.2.1:7783/primary/r0", "192.0.2.1:7783"
	page, err := os.ReadFile("../docs/haproxy.md")
	must(t, err)
	if n := strings.Count(string(page), "\n    "+line+"\n"); n != 2 {
		t.Fatalf("the manual has %d times %q", n, line)
	}
	c := upChecked(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	run := func(node string) error {
		args := strings.Fields(strings.Replace(line, addr, c.addr[node], 1))
		out, err := proc.Try(t, args[0], args[1:]...)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}
	for _, primary := range []string{"n1", "n2"} {
		if primary == "n2" {
			c.MustCLI("n1", "switchover", "r0", "--to", "n2")
		}
		// A busy machine may take longer than half a second for one of them.
		proc.Eventually(t, "the check of "+primary, func() error { return run(primary) })
		for _, other := range []string{"n1", "n2", "w"} {
			if other != primary && run(other) == nil {
				t.Errorf("%s is primary, and the check of %s succeeds", primary, other)
			}
		}
	}
	c.Identical("n2")
}

func TestHealth_OnlyThePrimarySaysYes_AndTheOthersNameIt(t *testing.T) {
	c := upChecked(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	primary, secondary := "n1", "n2"
	for range 2 {
		c.code(primary, "/primary/r0", http.StatusOK)
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
			if a, err := c.ask(method, primary, "/primary/r0"); err != nil || a.Code != http.StatusOK {
				t.Errorf("%s to the primary: %+v, %v", method, a, err)
			}
			for _, other := range []string{secondary, "w"} {
				a, err := c.ask(method, other, "/primary/r0")
				if err != nil || a.Code != http.StatusServiceUnavailable || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s to %s: %+v, %v", method, other, a, err)
				}
			}
		}
		proc.Eventually(t, secondary+" to say where clients find the primary", func() error {
			a, err := c.ask(http.MethodGet, secondary, "/primary/r0")
			if err == nil && (a.NBD != c.TCP(primary) || a.Primary != primary || a.Role != control.RoleSecondary) {
				err = fmt.Errorf("%+v, want %s", a, c.TCP(primary))
			}
			return err
		})
		c.code(secondary, "/replica/r0", http.StatusOK)
		c.code("w", "/replica/r0", http.StatusServiceUnavailable)
		c.code("w", "/healthz", http.StatusOK)
		c.code(primary, "/primary/r1", http.StatusNotFound)
		c.MustCLI(primary, "switchover", "r0", "--to", secondary)
		primary, secondary = secondary, primary
	}
	c.Identical(primary)
}

// exportName asks for r0 as old clients do, with EXPORT_NAME, and returns the connection. A server has
// no error reply to it: it hangs up, which is io.EOF here.
func exportName(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(proc.Limit)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, 18)); err != nil { // "NBDMAGIC", "IHAVEOPT", flags
		return err
	}
	out := append(binary.BigEndian.AppendUint32(nil, 3), "IHAVEOPT"...) // fixed newstyle, no zeroes
	out = binary.BigEndian.AppendUint32(out, 1)
	out = append(binary.BigEndian.AppendUint32(out, 2), "r0"...)
	if _, err := conn.Write(out); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 10)) // size, flags
	return err
}

// idle connects a client that says nothing more, and returns what waits for the end of its connection.
func idle(t testing.TB, uri string) (ended func(what string)) {
	t.Helper()
	var conn net.Conn
	proc.Eventually(t, "the export "+uri, func() (err error) {
		if strings.HasPrefix(uri, "nbd:") {
			host, _, _ := strings.Cut(strings.TrimPrefix(uri, "nbd://"), "/")
			conn, err = net.Dial("tcp", host)
		} else {
			conn, err = net.Dial("unix", socketOf(t, uri))
		}
		if err != nil {
			return err
		}
		if err = exportName(conn); err != nil {
			conn.Close()
		}
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return func(what string) {
		t.Helper()
		since := time.Now()
		n, err := io.Copy(io.Discard, conn)
		if n > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: an idle connection got %d bytes, then %v; want its end", what, n, err)
		}
		t.Logf("%s: the connection had ended %v later", what, time.Since(since).Round(time.Millisecond))
	}
}

// Clients say nothing here: a request of theirs would end the connection, too, and hide that nothing
// else does.
func TestRoleLost_InEachWay_ConnectionsEndAndChecksSayNo(t *testing.T) {
	c := upChecked(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	tcp, unix := idle(t, c.TCP("n1")), idle(t, c.URI("n1"))
	c.MustCLI("n1", "demote", "r0")
	tcp("demote")
	unix("demote")
	if a, err := c.ask(http.MethodGet, "n1", "/primary/r0"); err != nil || a.Code != http.StatusServiceUnavailable || a.Primary != "" {
		t.Errorf("after a demote: %+v, %v", a, err)
	}
	c.MustCLI("n1", "promote", "r0", "--on", "n1")
	c.code("n1", "/primary/r0", http.StatusOK)

	tcp, unix = idle(t, c.TCP("n1")), idle(t, c.URI("n1"))
	c.MustCLI("n1", "switchover", "r0", "--to", "n2")
	tcp("switchover")
	unix("switchover")
	c.code("n2", "/primary/r0", http.StatusOK)
	c.code("n1", "/primary/r0", http.StatusServiceUnavailable)

	c.WaitInSync("n2")
	tcp, unix = idle(t, c.TCP("n2")), idle(t, c.URI("n2"))
	c.Signal("n2", syscall.SIGSTOP)
	c.code("n1", "/primary/r0", http.StatusOK)
	c.Signal("n2", syscall.SIGCONT)
	if a, err := c.ask(http.MethodGet, "n2", "/primary/r0"); err != nil || a.Code != http.StatusServiceUnavailable {
		t.Errorf("n2, whose lease ran out while it stood still and that was replaced: %+v, %v", a, err)
	}
	tcp("newer epoch, after a pause")
	unix("newer epoch, after a pause")
	c.Identical("n1")
}

func TestRoleLost_LeaseRunsOutBehindACutLink_ConnectionsEndWhenTheNewEpochIsHeardOf(t *testing.T) {
	need.Root(t, "network namespaces")
	c := upChecked(t, cluster.Options{SizeBytes: 16 * cluster.MiB, Netns: true})
	unix := idle(t, c.URI("n1"))
	must(t, c.Lab.Isolate("n1", lab.BothWays))
	c.WaitPrimary("n2")
	must(t, c.Lab.Heal())
	unix("lease run out, and a newer epoch")
	c.Identical("n2")
}

func TestSecondary_RefusesEachKindOfClient_AndNamesThePrimarysAddress(t *testing.T) {
	info := need.Tool(t, "nbdinfo", "libnbd-bin")
	image := need.Tool(t, "qemu-img", "qemu-utils")
	c := cluster.Up(t, cluster.Options{SizeBytes: 16 * cluster.MiB})
	want := "its primary is n1: connect to " + c.TCP("n1")
	refused := func(name string, args ...string) {
		t.Helper()
		// libnbd keeps the server's own words for itself unless it is asked for them; qemu shows them.
		out, err := proc.Try(t, "env", append([]string{"LIBNBD_DEBUG=1", name}, args...)...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s %s: %v; want it to be told %q\n%s", name, strings.Join(args, " "), err, want, out)
		}
	}
	for _, uri := range []string{c.TCP("n2"), c.URI("n2")} {
		refused(info, uri) // GO
		refused(image, "info", uri)
		// LIST itself names what is here; nbdinfo goes on with what it is named.
		refused(info, "--list", strings.Replace(uri, "/r0", "/", 1))
	}
	conn, err := net.Dial("unix", socketOf(t, c.URI("n2")))
	must(t, err)
	defer conn.Close()
	// EXPORT_NAME has no error reply.
	if err := exportName(conn); !errors.Is(err, io.EOF) {
		t.Errorf("EXPORT_NAME: %v, want the end of the connection", err)
	}
	if got := strings.TrimSpace(proc.Run(t, info, "--size", c.TCP("n1"))); got != fmt.Sprint(16*cluster.MiB) {
		t.Errorf("the address that is named: size %s", got)
	}
	c.Identical("n1")
}
