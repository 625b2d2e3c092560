package services

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/lab"
	"github.com/lockstep-ha/lockstep/tests/internal/proc"
)

const (
	accounts = 100
	opening  = 1000 // balance of each account at the beginning
)

// bankSchema makes the accounts. Each transfer changes three rows of two tables, or nothing.
var bankSchema = fmt.Sprintf(`
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE transfers (id bigint PRIMARY KEY, source int NOT NULL, target int NOT NULL, amount bigint NOT NULL);
CREATE INDEX ON transfers (source);
INSERT INTO accounts SELECT n, %d FROM generate_series(0, %d) n;
CREATE EXTENSION amcheck;`, opening, accounts-1)

// auditQuery returns the sum of all balances and how many of them do not follow from the transfers, in one snapshot.
const auditQuery = `SELECT sum(balance), count(*) FILTER (WHERE balance <> 1000
	+ (SELECT coalesce(sum(amount), 0) FROM transfers WHERE target = accounts.id)
	- (SELECT coalesce(sum(amount), 0) FROM transfers WHERE source = accounts.id)) FROM accounts`

// bank is a client on a host of its own that transfers money between accounts, one transaction at a time, and notes
// on its own side which of them were acknowledged. A connection that breaks is replaced; what was under way on it may
// have happened or not.
type bank struct {
	t    testing.TB
	lab  *lab.Lab
	psql string
	conn string

	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	acked []int64     // transfers
	at    []time.Time // when each was
	tries int64
	cmd   *exec.Cmd // the connection
}

// openBank begins the load. conn says how to reach the database: one that is patient hangs on a connection to a host
// that is lost.
func openBank(t testing.TB, l *lab.Lab, psql, conn string) *bank {
	t.Helper()
	b := &bank{t: t, lab: l, psql: psql, conn: conn, stop: make(chan struct{}), done: make(chan struct{})}
	go b.run()
	t.Cleanup(b.close)
	return b
}

// close ends the load; a second call does nothing.
func (b *bank) close() {
	b.mu.Lock()
	select {
	case <-b.stop:
	default:
		close(b.stop)
		if b.cmd != nil {
			b.cmd.Process.Kill() // an error: it has ended
		}
	}
	b.mu.Unlock()
	<-b.done
}

func (b *bank) run() {
	defer close(b.done)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		b.connect()
		select {
		case <-b.stop:
			return
		case <-again.C:
		}
	}
}

// connect makes transfers over one connection until it breaks.
func (b *bank) connect() {
	cmd := exec.Command(b.psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", b.conn)
	in, err := cmd.StdinPipe()
	if err != nil {
		panic(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		panic(err)
	}
	b.mu.Lock()
	select {
	case <-b.stop:
		b.mu.Unlock()
		return
	default:
	}
	if err := b.lab.Exec("client", cmd); err != nil {
		b.mu.Unlock()
		b.t.Errorf("start a client: %v", err)
		return
	}
	b.cmd = cmd
	b.mu.Unlock()
	defer cmd.Wait() // its exit code tells no more than the end of its output
	defer in.Close()
	lines := bufio.NewScanner(out)
	for b.transfer(in, lines) {
	}
}

// transfer has one transaction run to its end.
func (b *bank) transfer(in io.Writer, out *bufio.Scanner) bool {
	b.mu.Lock()
	b.tries++
	id := b.tries
	b.mu.Unlock()
	source, target, amount := id%accounts, (id*7+3)%accounts, 1+id%5
	// psql comes to the echo only when the commit was acknowledged.
	_, err := fmt.Fprintf(in, `BEGIN;
INSERT INTO transfers VALUES (%[1]d, %[2]d, %[3]d, %[4]d);
UPDATE accounts SET balance = balance - %[4]d WHERE id = %[2]d;
UPDATE accounts SET balance = balance + %[4]d WHERE id = %[3]d;
COMMIT;
\echo %[1]d
`, id, source, target, amount)
	if err != nil || !out.Scan() || out.Text() != strconv.FormatInt(id, 10) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked = append(b.acked, id)
	b.at = append(b.at, time.Now())
	return true
}

// flows returns when so many more transfers were acknowledged.
func (b *bank) flows(more int) {
	b.t.Helper()
	count := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.acked)
	}
	want := count() + more
	proc.Eventually(b.t, "acknowledged transfers", func() error {
		if n := count(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// stall returns the longest time without an acknowledged transfer since the last one before begun.
func (b *bank) stall(begun time.Time) (longest time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first, _ := slices.BinarySearchFunc(b.at, begun, time.Time.Compare)
	for i := max(first, 1); i < len(b.at); i++ {
		longest = max(longest, b.at[i].Sub(b.at[i-1]))
	}
	return longest
}

// audit asks the database, through its address, whether it is whole: all that was acknowledged is there, no money has
// come or gone, and every transfer has happened to both of its accounts.
func (b *bank) audit(query func(sql string) string) {
	b.t.Helper()
	b.mu.Lock()
	acked, tries := slices.Clone(b.acked), b.tries
	b.mu.Unlock()
	if got, want := query(auditQuery), fmt.Sprintf("%d|0", accounts*opening); got != want {
		b.t.Errorf("the sum of the balances and how many are wrong: %s, want %s", got, want)
	}
	there := map[int64]bool{}
	for _, line := range strings.Fields(query("SELECT id FROM transfers")) {
		id, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			b.t.Fatalf("the database lists the transfer %q", line)
		}
		there[id] = true
	}
	var lost []int64
	for _, id := range acked {
		if !there[id] {
			lost = append(lost, id)
		}
	}
	if len(lost) > 0 {
		b.t.Errorf("%d of %d acknowledged transfers are lost, the first: %v", len(lost), len(acked), lost[:min(len(lost), 10)])
	}
	if last := slices.MaxFunc(acked, cmp.Compare[int64]); last > tries {
		b.t.Errorf("transfer %d was acknowledged and never asked for", last)
	}
}
