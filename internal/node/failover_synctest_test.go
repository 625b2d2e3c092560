package node

import (
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/memnet"
)

// serves waits until node is primary of r0 and serves, and returns how long that took.
func (w *bubble) serves(node string) time.Duration {
	w.Helper()
	start := time.Now()
	w.until(node, "it serves as primary", func(_ control.Status, r control.Resource) bool {
		return r.Role == control.RolePrimary && r.IO.State == control.IORunning
	})
	return time.Since(start)
}

// steady lets the lead of the ledger settle on the witness.
func (w *bubble) steady() {
	w.Helper()
	w.until("n1", "the witness leads", func(st control.Status, _ control.Resource) bool { return st.Ledger.Leader == "w" })
	memnet.Pass(time.Second)
}

func TestFailover_PrimaryIsLost_TheOtherReplicaServes(t *testing.T) {
	for name, tc := range map[string]struct {
		lose  func(w *bubble)
		limit time.Duration
		back  func(w *bubble)
	}{
		"its process is killed": {
			func(w *bubble) { w.crash("n1") }, 600 * time.Millisecond, func(w *bubble) { w.start("n1") },
		},
		"it is cut off from all others": {
			func(w *bubble) { w.isolate("n1", true) }, time.Second, func(w *bubble) { w.isolate("n1", false) },
		},
		"it stops": {
			func(w *bubble) { w.stop("n1") }, 200 * time.Millisecond, func(w *bubble) { w.start("n1") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(w *bubble) {
				w.steady()
				model := make([]byte, bubbleSize)
				conn := w.mustOpen("n1")
				writeAt(w.T, conn, model, 0, pattern(1, 100_000))
				tc.lose(w)
				if took := w.serves("n2"); took > tc.limit {
					w.Errorf("n2 served after %v, not within %v", took, tc.limit)
				}
				conn.Close()
				conn = w.mustOpen("n2")
				writeAt(w.T, conn, model, 50_000, pattern(2, 100_000))
				tc.back(w)
				w.untilInSync("n2", "n1", "n2")
				memnet.Pass(5 * time.Second)
				w.serves("n2") // nobody gives the role back
				conn.Close()
				w.sameDisks(model)
			})
		})
	}
}

func TestFailover_NobodyIsPromoted(t *testing.T) {
	for name, lose := range map[string]func(w *bubble){
		"the replicas do not hear each other": func(w *bubble) { w.split("n1", "n2") },
		"the primary loses the witness":       func(w *bubble) { w.split("n1", "w") },
		"an operator demotes it":              func(w *bubble) { check(w.T, "demote", w.client("n1").Demote(w.Context(), "r0")) },
		"failover is paused": func(w *bubble) {
			check(w.T, "pause", w.client("n2").PauseFailover(w.Context(), "r0", true, "maintenance"))
			w.crash("n1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(w *bubble) {
				w.steady()
				lose(w)
				memnet.Pass(20 * time.Second)
				if n := w.events("n2", "failover") + w.events("w", "failover"); n != 0 {
					w.Errorf("the cluster decided %d times", n)
				}
				st, err := w.client("n2").Status(w.Context(), "r0")
				check(w.T, "status", err)
				if r := st.Resources[0]; r.Epoch != 1 || r.Role != control.RoleSecondary {
					w.Errorf("n2 is %s in epoch %d", r.Role, r.Epoch)
				}
			})
		})
	}
}

func TestFailover_GoesOnWhenThePauseIsLifted(t *testing.T) {
	inCluster(t, func(w *bubble) {
		w.steady()
		check(w.T, "pause", w.client("n1").PauseFailover(w.Context(), "r0", true, ""))
		w.crash("n1")
		memnet.Pass(5 * time.Second)
		check(w.T, "resume", w.client("w").PauseFailover(w.Context(), "r0", false, ""))
		if took := w.serves("n2"); took > time.Second {
			w.Errorf("n2 served after %v", took)
		}
	})
}
