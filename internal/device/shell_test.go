package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/lockstep-ha/lockstep/bitmap"
	"github.com/lockstep-ha/lockstep/internal/store"
	"github.com/lockstep-ha/lockstep/replication"
)

// on makes the core emit acts for the next event of kind, and ignore it otherwise.
func (r *rig) on(kind replication.EventKind, acts ...replication.Action) {
	r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
		if ev.Kind != kind {
			return true
		}
		for _, a := range acts {
			emit(a)
		}
		acts = nil
		return false
	}
}

func TestSaver_SavesInTheOrderAskedAndPagesBeforeWhatReliesOnThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		var done []string
		acts := []replication.Action{
			{Kind: replication.ActSaveLog, Log: &bitmap.Tx{Gen: 1, Active: []bitmap.RegionIndex{4}}},
			{Kind: replication.ActSaveMeta, Token: 1, Meta: &replication.Meta{Epoch: 5, State: replication.UpToDate,
				PeerInstance: []uint64{11}, PeerSession: []uint64{12}}},
			{Kind: replication.ActSaveLog,
				Log:   &bitmap.Tx{Gen: 2, Active: []bitmap.RegionIndex{5}, Evicted: []bitmap.RegionIndex{4}},
				Pages: []replication.Page{{Index: 1}, {Index: 2}}},
			{Kind: replication.ActSaveMeta, Token: 2, Meta: &replication.Meta{Epoch: 6, State: replication.Outdated},
				Pages: []replication.Page{{Index: 1}}},
		}
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			switch ev.Kind {
			case replication.EvPause:
				for _, a := range acts {
					emit(a)
				}
			case replication.EvLogSaved:
				done = append(done, fmt.Sprintf("log %d %v", ev.Gen, ev.Err))
			case replication.EvMetaSaved:
				done = append(done, fmt.Sprintf("meta %d %v", ev.Token, ev.Err))
			}
			return true
		}
		stop := r.run()
		if err := r.d.PauseResync(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.tr.want(t, "log [4]", "meta", "pages 2 of slot 0", "log [5]", "pages 1 of slot 0", "sync meta", "meta")
		want := []string{"log 1 <nil>", "meta 1 <nil>", "log 2 <nil>", "meta 2 <nil>"}
		if !slices.Equal(done, want) {
			t.Errorf("reported %q, want %q", done, want)
		}
		m := r.store.meta
		if m.Epoch != 6 || m.State != store.Outdated || m.Peers[0].Instance != 11 || m.Peers[0].LastSession != 12 {
			t.Errorf("stored %+v", m)
		}
		stop()
	})
}

func TestSaver_ErrorOfTheStoreReachesTheCore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		var got error
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			switch ev.Kind {
			case replication.EvPause:
				emit(replication.Action{Kind: replication.ActSaveLog, Log: &bitmap.Tx{Gen: 1}})
			case replication.EvLogSaved:
				got = ev.Err
				emit(replication.Action{Kind: replication.ActDiskFailed, Err: ev.Err})
			}
			return true
		}
		r.store.err = syscall.ENOSPC
		stop := r.run()
		_ = r.d.PauseResync()
		synctest.Wait()
		if !errors.Is(got, syscall.ENOSPC) {
			t.Errorf("the core heard %v", got)
		}
		r.tr.take()
		c, q := r.ask(replication.OpWrite, 0, 512)
		r.submit(c)
		if len(q.answers) != 1 || !errors.Is(q.answers[0], store.ErrFailed) || !errors.Is(q.answers[0], syscall.ENOSPC) {
			t.Errorf("write after the disk was given up: %v", q.answers)
		}
		r.tr.want(t, "reply "+q.answers[0].Error(), "flush conn")
		stop()
		if err := r.d.Close(true); !errors.Is(err, ErrNotQuiet) {
			t.Errorf("clean Close of a failed replica: %v", err)
		}
		r.checkBuffers()
	})
}

func TestClose_CleanSavesAnEmptyLogAfterTheData(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	if err := r.d.Close(true); err != nil {
		t.Fatal(err)
	}
	r.tr.want(t, "sync", "pages 1 of slot 0", "sync meta", "log []", "meta", "close clean=true")
	if err := r.d.Close(true); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
}

func TestClose_NotQuietIsNotClean(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	r.core.quiet = false
	if err := r.d.Close(true); !errors.Is(err, ErrNotQuiet) {
		t.Errorf("Close: %v", err)
	}
	r.tr.want(t, "close clean=false")
}

// fakeLedger answers proposals when the test lets it.
type fakeLedger struct {
	asked   chan replication.Proposal
	outcome chan replication.Outcome
	rec     *replication.Record
}

func (l *fakeLedger) Propose(ctx context.Context, p replication.Proposal) (replication.Outcome, *replication.Record) {
	l.asked <- p
	select {
	case o := <-l.outcome:
		return o, l.rec
	case <-ctx.Done():
		return replication.OutcomeUnknown, nil
	}
}

func TestPropose_RecordReachesTheCoreBeforeTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &fakeLedger{asked: make(chan replication.Proposal, 4), outcome: make(chan replication.Outcome),
			rec: &replication.Record{Version: 3}}
		r := newRig(t, Config{}, Deps{Proposer: l})
		var heard []string
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			switch ev.Kind {
			case replication.EvPause:
				for token := range uint64(2) {
					emit(replication.Action{Kind: replication.ActPropose, Token: token + 1,
						Proposal: &replication.Proposal{Kind: replication.ProposeDrop}})
				}
			case replication.EvLedger:
				heard = append(heard, fmt.Sprintf("record %d", ev.Record.Version))
			case replication.EvProposalDone:
				heard = append(heard, fmt.Sprintf("outcome %d", ev.Outcome))
			}
			return true
		}
		stop := r.run()
		_ = r.d.PauseResync()
		synctest.Wait()
		if len(l.asked) != 2 {
			t.Errorf("%d proposals asked at the same time, want 2", len(l.asked))
		}
		l.outcome <- replication.OutcomeApplied
		synctest.Wait()
		want := []string{"record 3", "outcome 1"}
		if !slices.Equal(heard, want) {
			t.Errorf("the core heard %q, want %q", heard, want)
		}
		stop() // ends the other one
		if want = append(want, "outcome 3"); !slices.Equal(heard, want) {
			t.Errorf("the core heard %q, want %q", heard, want)
		}
	})
}

func TestHerald_ClosesClientsAndTellsNoticesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []string
		r := newRig(t, Config{}, Deps{
			OnNotice:       func(n replication.Notice) { heard = append(heard, n.Text) },
			OnCloseClients: func() { heard = append(heard, "close") },
		})
		r.on(replication.EvPause,
			replication.Action{Kind: replication.ActNotice, Notice: &replication.Notice{Text: "one"}},
			replication.Action{Kind: replication.ActCloseClients},
			replication.Action{Kind: replication.ActNotice, Notice: &replication.Notice{Kind: replication.NoticeRole, Text: "two"}})
		_ = r.d.PauseResync()
		stop := r.run()
		synctest.Wait()
		if got := strings.Join(heard, " "); got != "close one two" {
			t.Errorf("heard %q", got)
		}
		stop()
		if got := strings.Join(heard, " "); got != "close one two close" {
			t.Errorf("heard %q: the end closes clients, too", got)
		}
	})
}

func TestHerald_SlowListenerMissesTheOldestAndItIsCounted(t *testing.T) {
	var h herald
	h.init()
	for i := range maxNotices + 3 {
		h.notice(replication.Notice{Bytes: int64(i)})
	}
	h.stop()
	var first int64 = -1
	n := 0
	h.run(Deps{OnNotice: func(x replication.Notice) {
		if first < 0 {
			first = x.Bytes
		}
		n++
	}})
	if first != 3 || n != maxNotices || h.forgotten() != 3 {
		t.Errorf("first %d, %d told, %d forgotten", first, n, h.forgotten())
	}
}

func TestWaitPrimary_ReturnsWhenServingAndFailsWhenTheEpochPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		r.core.serving = false
		stop := r.run()
		served, passed := make(chan error, 1), make(chan error, 1)
		go func() { served <- r.d.WaitPrimary(t.Context(), 4) }()
		go func() { passed <- r.d.WaitPrimary(t.Context(), 3) }()
		synctest.Wait()
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			r.core.serving = r.core.serving || ev.Kind == replication.EvLedger
			return true
		}
		if err := r.d.SetRecord(&replication.Record{Version: 1, Epoch: 4, PrimaryIsMe: true}); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Errorf("wait for the epoch that is served: %v", err)
		}
		if err := <-passed; !errors.Is(err, ErrEpochPassed) {
			t.Errorf("wait for an epoch that has passed: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.d.WaitPrimary(ctx, 9); !errors.Is(err, context.Canceled) {
			t.Errorf("wait with a cancelled context: %v", err)
		}
		stop()
	})
}

func TestStop_WaitsUntilTheLedgerHasTakenTheRoleBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, Deps{})
		stop := r.run()
		_ = r.d.SetRecord(&replication.Record{Version: 1, Epoch: 4, PrimaryIsMe: true})
		r.core.hook = func(ev *replication.Event, emit func(replication.Action)) bool {
			if ev.Kind == replication.EvStop {
				r.core.serving = false
			}
			return true
		}
		stopped := make(chan error, 1)
		go func() { stopped <- r.d.Stop(t.Context(), false) }()
		synctest.Wait()
		select {
		case err := <-stopped:
			t.Errorf("Stop returned %v before the ledger knew", err)
		default:
		}
		_ = r.d.SetRecord(&replication.Record{Version: 2, Epoch: 4})
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		stop()
	})
}

func TestControl_UnknownPeerIsAnError(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	for name, err := range map[string]error{
		"verify":     r.d.Verify("n9", false),
		"invalidate": r.d.Invalidate("n9"),
		"connect":    r.d.SetConnected("n9", true),
		"alone":      r.d.MayGoAlone("n9"),
	} {
		if !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.d.Link("n2"); err != nil {
		t.Error(err)
	}
}

func TestMayGoAlone_IsTheCoresAnswer(t *testing.T) {
	r := newRig(t, Config{}, Deps{})
	if err := r.d.MayGoAlone("n2"); err != nil {
		t.Errorf("the core has nothing against it: %v", err)
	}
	r.core.alone = errors.New("this process stood still")
	if err := r.d.MayGoAlone("n2"); !errors.Is(err, r.core.alone) {
		t.Errorf("%v", err)
	}
	r.run()()
	if err := r.d.MayGoAlone("n2"); !errors.Is(err, ErrClosed) {
		t.Errorf("of a device that is closed: %v", err)
	}
}

func TestValidate_ListsAllFaults(t *testing.T) {
	c := Config{Resource: "r0", Node: "n1", Window: -1, Peers: []Peer{{Node: "n1"}, {Node: ""}}}
	err := c.Validate()
	for _, want := range []string{"no id", "cluster", "boot", "process", "data path", "metadata path", "window", "twice", "peer has no name"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in: %v", want, err)
		}
	}
}
