package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-ha/lockstep/internal/config"
	"github.com/lockstep-ha/lockstep/internal/control"
	"github.com/lockstep-ha/lockstep/internal/health"
	"github.com/lockstep-ha/lockstep/quorum"
	"github.com/lockstep-ha/lockstep/replication"
)

func TestTCPURI_NamesWhatClientsElsewhereReach(t *testing.T) {
	for _, tc := range []struct{ listen, peer, tls, want string }{
		{"10.0.0.1:10809", "10.0.0.1:7780", "", "nbd://10.0.0.1:10809/r0"},
		{"192.168.7.1:10809", "10.0.0.1:7780", "", "nbd://192.168.7.1:10809/r0"}, // a network of its own
		{"0.0.0.0:10809", "10.0.0.1:7780", "", "nbd://10.0.0.1:10809/r0"},
		{"[::]:10809", "a.example.org:7780", "", "nbd://a.example.org:10809/r0"},
		{"[::]:10809", "[fd00::1]:7780", "", "nbd://[fd00::1]:10809/r0"},
		{"a.example.org:10809", "10.0.0.1:7780", "", "nbd://a.example.org:10809/r0"},
		{"127.0.0.1:10809", "127.0.0.1:7780", "", "nbd://127.0.0.1:10809/r0"},
		{"127.0.0.1:10809", "localhost:7780", "", "nbd://127.0.0.1:10809/r0"},
		{"127.0.0.1:10809", "10.0.0.1:7780", "", ""}, // for its own host only
		{"[::]:10809", "10.0.0.1:7780", config.TLSRequired, "nbds://10.0.0.1:10809/r0"},
		{"10.0.0.1:10809", "10.0.0.1:7780", config.TLSAllowed, "nbd://10.0.0.1:10809/r0"},
		{"", "10.0.0.1:7780", "", ""},
		{"10.0.0.1:10809", "", "", ""},
	} {
		if got := tcpURI("r0", control.NBD{TCP: tc.listen, TLS: tc.tls}, tc.peer); got != tc.want {
			t.Errorf("listens on %q (TLS %q), known as %q: %q, want %q", tc.listen, tc.tls, tc.peer, got, tc.want)
		}
	}
}

func TestChecks_StateFollowsFromWhatTheReplicaSaysOfItself(t *testing.T) {
	usual := replication.Fitness{State: replication.UpToDate, SelfInSet: true}
	with := func(f func(*replication.Fitness)) replication.Fitness {
		c := usual
		f(&c)
		return c
	}
	for _, tc := range []struct {
		name             string
		own              replication.Fitness
		role, disk       string
		serves, upToDate bool
	}{
		{"secondary", usual, health.RoleSecondary, "UpToDate", false, true},
		{"primary", with(func(f *replication.Fitness) { f.Serving = true }), health.RolePrimary, "UpToDate", true, true},
		{"promoted", with(func(f *replication.Fitness) { f.Starting = true }), health.RoleSecondary, "UpToDate", false, true},
		{"stopping", with(func(f *replication.Fitness) { f.Stopping = true }), health.RoleSecondary, "UpToDate", false, true},
		{"primary without a disk", with(func(f *replication.Fitness) { f.Serving, f.Failed = true, true }), health.RolePrimary, "Failed", false, false},
		{"unclean", with(func(f *replication.Fitness) { f.Unclean = true }), health.RoleSecondary, "UpToDate", false, false},
		{"target", with(func(f *replication.Fitness) { f.State = replication.Inconsistent }), health.RoleSecondary, "Inconsistent", false, false},
	} {
		st := health.State{Resource: "r0", Node: "n1", Role: health.RoleSecondary, Reason: "n2 is primary"}
		new(checks).here(&st, tc.own)
		if st.Role != tc.role || st.DiskState != tc.disk || st.Serves != tc.serves || st.UpToDate != tc.upToDate {
			t.Errorf("%s: %+v", tc.name, st)
		}
		if (st.Reason == "") != tc.serves {
			t.Errorf("%s: reason %q", tc.name, st.Reason)
		}
	}
}

// knowsTCP answers each question with the same address, or not at all.
type knowsTCP struct {
	mu    sync.Mutex
	asked int
	tcp   string // "": no answer
}

func (a *knowsTCP) answers(tcp string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tcp = tcp
}

func (a *knowsTCP) ask(ctx context.Context, node string, _ question) (answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.tcp == "" {
		<-ctx.Done()
		return answer{}, errors.New("no answer")
	}
	return answer{View: &view{Node: node, Resource: control.Resource{NBD: control.NBD{TCP: a.tcp}}}}, nil
}

func TestPlaces_AskedByHundredsOfChecks_AsksThePrimaryNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tcp = "10.0.0.2:10809"
		a := &knowsTCP{tcp: tcp}
		p := newPlaces(a)
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go p.run(ctx)
		rec := &quorum.Resource{ID: 1, Name: "r0", Primary: quorum.Incumbent{Node: "n2"}}
		if got := p.of(rec).TCP; got != "" {
			t.Errorf("%q was known before anybody was asked", got)
		}
		const checksPerSecond, seconds = 100, 20
		for range checksPerSecond * seconds {
			time.Sleep(time.Second / checksPerSecond)
			if got := p.of(rec).TCP; got != tcp {
				t.Fatalf("%q, want %q", got, tcp)
			}
		}
		a.mu.Lock()
		asked := a.asked
		a.mu.Unlock()
		if most := int(seconds*time.Second/placeAge) + 1; asked > most || asked < most/2 {
			t.Errorf("the primary was asked %d times in %d s, want at most %d", asked, seconds, most)
		}
		rec.Primary.Node = "n3"
		a.answers("") // the new one is silent
		for range 100 {
			if got := p.of(rec).TCP; got != "" {
				t.Fatalf("%q is the address of the earlier primary", got)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}
