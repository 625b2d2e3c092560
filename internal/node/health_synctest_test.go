package node

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/health"
	"github.com/lockstep-ha/lockstep/internal/memnet"
)

// asksHealth sends a node one check, from the node's own host.
func (w *bubble) asksHealth(node, path string) (int, health.State) {
	w.Helper()
	m := w.Host(w.ip(node))
	hc := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return m.Dial(ctx, "tcp", w.files[node].HealthListen)
		},
	}}
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, "http://node"+path, nil)
	check(w.T, "request", err)
	res, err := hc.Do(req)
	check(w.T, "ask "+node, err)
	defer res.Body.Close()
	var st health.State
	check(w.T, "answer of "+node, json.NewDecoder(res.Body).Decode(&st))
	return res.StatusCode, st
}

// withHealth has every node answer checks, and data nodes take clients over TCP.
func (w *bubble) withHealth(change func(f *config.Node)) {
	for n, f := range w.files {
		f.HealthListen = net.JoinHostPort(w.ip(n), "7783")
		if !f.Witness {
			f.NBDListen = net.JoinHostPort(w.ip(n), "10809")
		}
		change(&f)
		w.files[n] = f
	}
}

// Both data nodes are asked every millisecond: at no moment may both say that they are primary, and one
// that is cut off says so for no longer than its lease, however slow its clock is.
func TestBubble_IsolatedPrimary_ChecksSayNoFromTheEndOfItsLeaseOn(t *testing.T) {
	const lease = time.Second
	inBubble(t, []string{"n1", "n2", "w"}, func(w *bubble) {
		w.withHealth(func(f *config.Node) { f.Lease = lease })
		w.slow["n1"] = 0.08 // within the margin for drift
		w.startAll()
		w.create()
		w.steady()
		if code, st := w.asksHealth("n1", "/primary/r0"); code != http.StatusOK || st.Role != health.RolePrimary || st.NBD != "nbd://127.0.0.1:10809/r0" {
			w.Errorf("n1 answers %d, %+v", code, st)
		}
		w.isolate("n1", true)
		cut := time.Now()
		var no, next time.Duration // of n1's first no, of n2's first yes, after the cut
		var why health.State
		for next == 0 {
			if memnet.Pass(time.Millisecond); time.Since(cut) > time.Minute {
				w.Fatal("n2 never says that it is primary")
			}
			one, st := w.asksHealth("n1", "/primary/r0")
			two, _ := w.asksHealth("n2", "/primary/r0")
			switch {
			case one == http.StatusOK && two == http.StatusOK:
				w.Fatalf("both say that they are primary, %v after the cut", time.Since(cut))
			case one == http.StatusOK && no != 0:
				w.Fatalf("n1 says yes again, %v after the cut", time.Since(cut))
			case one != http.StatusOK && no == 0:
				no, why = time.Since(cut), st
			}
			if two == http.StatusOK {
				next = time.Since(cut)
			}
		}
		slow := lease * 100 / 92
		if most := slow + 5*time.Millisecond; no > most || no < slow-2*w.files["n1"].BeaconInterval {
			w.Errorf("n1 said yes for %v after the cut; its lease is %v of true time", no, slow)
		}
		// It has heard of nothing yet: its role is what it was.
		if why.Role != health.RolePrimary || why.Reason == "" {
			w.Errorf("n1 said no with %+v", why)
		}
		w.Logf("n1 said no after %v, n2 yes after %v", no, next)

		w.isolate("n1", false)
		w.untilInSync("n2", "n1", "n2")
		memnet.Pass(2 * placeAge)
		w.asksHealth("n1", "/primary/r0") // which has it ask n2
		memnet.Pass(placeAge / 2)
		if code, st := w.asksHealth("n1", "/primary/r0"); code != http.StatusServiceUnavailable || st.Role != health.RoleSecondary ||
			st.Primary != "n2" || st.NBD != "nbd://127.0.0.2:10809/r0" {
			w.Errorf("n1 answers %d, %+v", code, st)
		}
		for node, want := range map[string]int{"n1": http.StatusOK, "n2": http.StatusOK, "w": http.StatusServiceUnavailable} {
			if code, st := w.asksHealth(node, "/replica/r0"); code != want {
				w.Errorf("%s answers %d about its replica, %+v", node, code, st)
			}
		}
		if code, _ := w.asksHealth("n1", "/primary/r1"); code != http.StatusNotFound {
			w.Errorf("status %d for a resource that there is not", code)
		}
		if code, _ := w.asksHealth("w", "/healthz"); code != http.StatusOK {
			w.Errorf("the witness answers %d", code)
		}
	})
}

// A primary that gives its role up says no before anybody else can say yes.
func TestBubble_Switchovers_AreNeverTwoPrimariesToAChecker(t *testing.T) {
	inBubble(t, []string{"n1", "n2", "w"}, func(w *bubble) {
		w.withHealth(func(*config.Node) {})
		w.startAll()
		w.create()
		for i := range 6 {
			from, to := []string{"n1", "n2"}[i%2], []string{"n2", "n1"}[i%2]
			done := make(chan error, 1)
			go func() { done <- w.client(from).Switchover(w.Context(), "r0", to) }()
			for yes := 0; yes == 0; memnet.Pass(100 * time.Microsecond) {
				one, _ := w.asksHealth(from, "/primary/r0")
				two, _ := w.asksHealth(to, "/primary/r0")
				if one == http.StatusOK && two == http.StatusOK {
					w.Fatal("both say that they are primary")
				}
				if two == http.StatusOK {
					yes++
				}
			}
			check(w.T, "switch over", <-done)
			w.untilInSync(to, "n1", "n2")
		}
	})
}
