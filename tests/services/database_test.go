package services

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/internal/need"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

// rounds returns how often to do something: few times in make test, more in make services-e2e.
func rounds(few, many int) int {
	if os.Getenv("LOCKSTEP_E2E") == "full" {
		return many
	}
	return few
}

// database is PostgreSQL on a file system on r0, started by the resource agent that Pacemaker would use.
type database struct {
	*hosts
	bin string // where its programs are
}

// pgConf is what differs from the defaults: what is small, and what must reach a node in this test.
const pgConf = `listen_addresses = '*'
unix_socket_directories = '%s'
shared_buffers = 16MB
max_connections = 20
min_wal_size = 4MB
max_wal_size = 16MB
log_line_prefix = '%%m [%%p] '
`

// needPostgres returns where the programs of the newest PostgreSQL are.
func needPostgres(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_amcheck")
	if err != nil || len(found) == 0 {
		need.Skip(t, "needs PostgreSQL: apt-get install postgresql")
	}
	if _, err := os.Stat("/usr/lib/ocf/resource.d/heartbeat/pgsql"); err != nil {
		need.Skip(t, "needs the agent pgsql (package resource-agents)")
	}
	need.Tool(t, "runuser", "util-linux")
	return filepath.Dir(slices.Max(found))
}

// startDatabase returns when the empty database runs on n1, below the address.
func startDatabase(t testing.TB) *database {
	t.Helper()
	d := &database{bin: needPostgres(t)}
	d.hosts = startHosts(t, 192*cluster.MiB)
	t.Cleanup(func() {
		for node := range d.keepers {
			if b, err := os.ReadFile(d.on(node, "run/log")); t.Failed() && err == nil {
				t.Logf("the end of PostgreSQL's log on %s:\n%s", node, b[max(0, len(b)-3000):])
			}
		}
	})
	dev, options := d.device()
	mount := filepath.Join(d.dir, "mnt")
	d.MustCLI("n1", append([]string{"resource", "set", "r0"}, options...)...)
	d.runs("n1")
	d.run("n1", "mkfs.ext4", "-q", "-F", dev)
	options = append(options, "--mount", mount+",device="+dev+",opt=noatime,monitor-interval=1s")
	d.MustCLI("n1", append([]string{"resource", "set", "r0"}, options...)...)
	d.runs("n1")

	data, run := filepath.Join(mount, "pg"), filepath.Join(d.dir, "run")
	for _, n := range d.DataNodes() {
		d.run(n, "install", "-d", "-o", "postgres", "-m", "700", run)
	}
	d.run("n1", "install", "-d", "-o", "postgres", "-m", "700", data)
	d.run("n1", "runuser", "-u", "postgres", "--", filepath.Join(d.bin, "initdb"), "-D", data, "--data-checksums",
		"--wal-segsize=1", "--auth=trust", "--no-sync", "--no-instructions")
	d.write("n1", filepath.Join(data, "postgresql.conf"), fmt.Sprintf(pgConf, run))
	d.write("n1", filepath.Join(data, "pg_hba.conf"), "local all all trust\nhost all all 10.0.0.0/8 trust\n")
	d.run("n1", "sync", "-f", data) // in one go, for initdb
	options = append(options, "--vip", d.vip.String(), "--ocf", "heartbeat:pgsql,pgctl="+filepath.Join(d.bin, "pg_ctl")+
		",psql="+filepath.Join(d.bin, "psql")+",pgdata="+data+",socketdir="+run+",logfile="+filepath.Join(run, "log")+",monitor-interval=1s")
	d.MustCLI("n1", append([]string{"resource", "set", "r0"}, options...)...)
	d.runs("n1")
	return d
}

// write makes a file on a node.
func (d *database) write(node, path, text string) {
	d.t.Helper()
	d.run(node, "sh", "-c", `printf %s "$2" >"$1"`, "sh", path, text)
}

// conn is how a client reaches the database: one that notices within seconds that the host has gone.
func (d *database) conn(dbname string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s connect_timeout=2 keepalives_idle=1 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=2000",
		d.vip.Addr(), dbname)
}

// client runs a program of PostgreSQL on the client's host.
func (d *database) client(name string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(d.bin, name), args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := d.Lab.Exec("client", cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return strings.TrimSpace(out.String()), err
}

// query asks the database through its address.
func (d *database) query(dbname, sql string) string {
	d.t.Helper()
	out, err := d.client("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, d.conn(dbname))
	if err != nil {
		d.t.Fatalf("%s: %v\n%s", sql, err, out)
	}
	return out
}

// sound fails the test unless every table and index of the bank is as it should be.
func (d *database) sound() {
	d.t.Helper()
	if out, err := d.client("pg_amcheck", "--heapallindexed", d.conn("bank")); err != nil || out != "" {
		d.t.Errorf("pg_amcheck: %v\n%s", err, out)
	}
}

// loss is one way of losing the primary. mend is what brings it back.
type loss struct {
	name string
	lose func(d *database, primary, other string)
	mend func(d *database, lost string)
}

var losses = []loss{
	{"daemon killed", func(d *database, primary, _ string) { d.Kill(primary) }, func(d *database, lost string) { d.Start(lost) }},
	{"switchover", func(d *database, primary, other string) {
		d.MustCLI(primary, "switchover", "r0", "--to", other, "--timeout", "60s")
	}, func(*database, string) {}},
	{"isolated", func(d *database, primary, _ string) { d.do(d.Lab.Isolate(primary, lab.BothWays)) },
		func(d *database, _ string) { d.do(d.Lab.Heal()) }},
	{"cable pulled", func(d *database, primary, _ string) { d.do(d.Lab.Link(primary, false)) },
		func(d *database, lost string) { d.do(d.Lab.Link(lost, true)) }},
}

func (d *database) do(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// moved is how long after the beginning of a loss each thing came about on the node that took over; -1: not found.
func (d *database) moved(node string, begun time.Time) string {
	d.t.Helper()
	var out []string
	for _, want := range [][2]string{
		{"role", "serving"}, {"service_running", "exec "}, {"service_running", "mount "}, {"service_running", "vip "}, {"service_running", "ocf "},
	} {
		all := d.Events(node)
		i := slices.IndexFunc(all, func(e control.Event) bool {
			return e.Kind == want[0] && strings.HasPrefix(e.Text, want[1]) && e.Time.After(begun)
		})
		name := strings.TrimSpace(want[1])
		if i < 0 {
			out = append(out, name+" never")
			continue
		}
		out = append(out, fmt.Sprintf("%s %v", name, all[i].Time.Sub(begun).Round(time.Millisecond)))
	}
	return strings.Join(out, ", ")
}

func TestPostgreSQL_LivesThroughFailovers_AndKeepsEveryCommit(t *testing.T) {
	t.Parallel()
	d := startDatabase(t)
	d.query("postgres", "CREATE DATABASE bank")
	d.query("bank", bankSchema)
	b := openBank(t, d.Lab, filepath.Join(d.bin, "psql"), d.conn("bank"))
	b.flows(50)
	stalls := map[string][]time.Duration{}
	primary, other := "n1", "n2"
	for i := range rounds(3, 10) {
		l := losses[i%len(losses)]
		begun := time.Now()
		l.lose(d, primary, other)
		d.WaitPrimary(other)
		d.runs(other)
		b.flows(50)
		stall := b.stall(begun)
		stalls[l.name] = append(stalls[l.name], stall)
		t.Logf("%s, %s lost: the client waited %v; on %s: %s", l.name, primary, stall.Round(time.Millisecond), other, d.moved(other, begun))
		b.audit(func(sql string) string { return d.query("bank", sql) })
		d.sound()
		if t.Failed() {
			return
		}
		l.mend(d, primary)
		d.idle(primary)
		d.drops(primary)
		d.WaitInSync(other)
		primary, other = other, primary
	}
	b.flows(50)
	b.close()
	b.audit(func(sql string) string { return d.query("bank", sql) })
	for _, l := range losses {
		if all := stalls[l.name]; len(all) > 0 {
			t.Logf("%s: %d times, the longest wait of the client %v", l.name, len(all), slices.Max(all).Round(time.Millisecond))
		}
	}
	d.checksums(primary)
}

// checksums ends the database and fails the test unless each of its pages, and the file system on both replicas, is
// as it should be.
func (d *database) checksums(primary string) {
	d.t.Helper()
	dev, options := d.device()
	mount := filepath.Join(d.dir, "mnt")
	d.MustCLI(primary, append([]string{"resource", "set", "r0", "--mount", mount + ",device=" + dev + ",opt=noatime,monitor-interval=1s"}, options...)...)
	proc.Eventually(d.t, "the database to be stopped", func() error {
		s := d.Status(primary)
		if s.Services == nil || len(s.Services.List) != 2 {
			return errors.New("it is not")
		}
		return nil
	})
	d.run(primary, filepath.Join(d.bin, "pg_checksums"), "--check", "-D", filepath.Join(mount, "pg"))
	d.MustCLI(primary, "resource", "set", "r0", "--no-services")
	d.idle(primary)
	d.Identical(primary)
	for _, n := range d.DataNodes() {
		proc.Run(d.t, "e2fsck", "-fn", d.Data(n))
	}
}
