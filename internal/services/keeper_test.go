package services

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-ha/lockstep/internal/services/plan"
	"github.com/lockstep-ha/lockstep/internal/services/service"
)

// theatre is where fake carriers play: what runs, and who fails or hangs.
type theatre struct {
	mu    sync.Mutex
	log   []string
	runs  map[string]bool
	fails map[string]error         // by "verb target"
	hangs map[string]chan struct{} // by "verb target": until it is closed, whatever ctx says
}

func newTheatre() *theatre {
	return &theatre{runs: map[string]bool{}, fails: map[string]error{}, hangs: map[string]chan struct{}{}}
}

type actor struct {
	t    *theatre
	name string
}

func (a *actor) do(verb string) error {
	a.t.mu.Lock()
	key := verb + " " + a.name
	if verb != "monitor" {
		a.t.log = append(a.t.log, key)
	}
	err, hang := a.t.fails[key], a.t.hangs[key]
	a.t.mu.Unlock()
	if hang != nil {
		<-hang
	}
	a.t.mu.Lock()
	defer a.t.mu.Unlock()
	if err == nil && verb != "monitor" {
		a.t.runs[a.name] = verb == "start"
	}
	return err
}

func (a *actor) Start(context.Context) error   { return a.do("start") }
func (a *actor) Stop(context.Context) error    { return a.do("stop") }
func (a *actor) Monitor(context.Context) error { return a.do("monitor") }

func (t *theatre) played() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := strings.Join(t.log, ", ")
	t.log = nil
	return s
}

func (t *theatre) fail(key string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fails[key] = err
}

// stage is a Keeper on a clock of the bubble, and what it told.
type stage struct {
	*Keeper
	*theatre
	mu     sync.Mutex
	gaveUp []string
	events []string
	end    func()
}

func open(t *testing.T, th *theatre, journal string) *stage {
	t.Helper()
	s := &stage{theatre: th}
	begun := time.Now()
	k, err := Open(Config{
		Resource: "r0", Node: "n1", Boot: "boot-1", Journal: journal, Clock: func() time.Duration { return time.Since(begun) },
		Log:   slog.New(slog.DiscardHandler),
		Build: func(sp service.Spec) (Carrier, error) { return &actor{th, sp.Target}, nil },
		Event: func(kind, _ string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, kind)
		},
		GiveUp: func(why string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.gaveUp = append(s.gaveUp, why)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Keeper = k
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	s.end = func() { cancel(); <-done }
	return s
}

func specs(t *testing.T, lines ...string) []service.Spec {
	t.Helper()
	var out []service.Spec
	for _, l := range lines {
		kind, text, _ := strings.Cut(l, " ")
		s, err := service.Parse(service.Kind(kind), text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

var usual = []string{"unit db.service", "vip 10.0.0.10/24", "mount /srv,device=/dev/nbd0"}

const (
	allStarted = "start /srv, start 10.0.0.10/24, start db.service"
	allStopped = "stop db.service, stop 10.0.0.10/24, stop /srv"
)

func expect(t *testing.T, s *stage, want string) {
	t.Helper()
	synctest.Wait()
	if got := s.played(); got != want {
		t.Fatalf("played %q, want %q; %+v", got, want, s.Status())
	}
}

func TestKeeper_FollowsTheRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, newTheatre(), filepath.Join(t.TempDir(), "r0"))
		defer s.end()
		if err := s.SetServices(specs(t, usual...)); err != nil {
			t.Fatal(err)
		}
		expect(t, s, "")
		s.Promoted(1)
		expect(t, s, allStarted)
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		expect(t, s, allStopped)
		s.Demoted()
		expect(t, s, "")
		s.Promoted(3)
		expect(t, s, allStarted)
		hang := make(chan struct{})
		s.hangs["stop db.service"] = hang
		s.Demoted()
		synctest.Wait()
		if got := s.played(); !strings.Contains(got, "stop 10.0.0.10/24") || strings.Contains(got, "stop /srv") {
			t.Errorf("while a unit hangs: %q", got)
		}
		close(hang)
		expect(t, s, "stop /srv")
	})
}

func TestKeeper_AfterACrash_StopsWhatRan_AndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		journal := filepath.Join(t.TempDir(), "r0")
		th := newTheatre()
		s := open(t, th, journal)
		if err := s.SetServices(specs(t, usual...)); err != nil {
			t.Fatal(err)
		}
		th.fail("start db.service", errors.New("no"))
		th.hangs["stop db.service"] = make(chan struct{})
		s.Promoted(1)
		synctest.Wait() // stopping what failed to start hangs: as good a moment for a crash as any
		th.played()
		close(th.hangs["stop db.service"])
		s.end()
		expectJournal(t, journal, "/srv", "10.0.0.10/24", "db.service")

		th.played()
		next := open(t, th, journal)
		defer next.end()
		synctest.Wait()
		played := strings.Split(th.played(), ", ")
		slices.Sort(played)
		if got, want := strings.Join(played, ", "), "stop /srv, stop 10.0.0.10/24, stop db.service"; got != want {
			t.Errorf("played %q, want %q", got, want)
		}
		expectJournal(t, journal)
	})
}

func expectJournal(t *testing.T, path string, want ...string) {
	t.Helper()
	all, err := (&journal{path, "boot-1"}).read()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, s.Target)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the journal names %q, want %q", got, want)
	}
}

func TestKeeper_StartFails_GivesUpOnceAllIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newTheatre()
		s := open(t, th, filepath.Join(t.TempDir(), "r0"))
		defer s.end()
		th.fail("start db.service", errors.New("exit 1"))
		if err := s.SetServices(specs(t, usual...)); err != nil {
			t.Fatal(err)
		}
		s.Promoted(1)
		expect(t, s, allStarted+", "+allStopped)
		s.mu.Lock()
		defer s.mu.Unlock()
		if want := []string{"the start of unit db.service failed: exit 1"}; !slices.Equal(s.gaveUp, want) {
			t.Errorf("gave up %q, want %q", s.gaveUp, want)
		}
	})
}

func TestKeeper_StopThatHangs_IsStuck_AndStopSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := newTheatre()
		s := open(t, th, filepath.Join(t.TempDir(), "r0"))
		defer s.end()
		if err := s.SetServices(specs(t, usual...)); err != nil {
			t.Fatal(err)
		}
		s.Promoted(1)
		expect(t, s, allStarted)
		hang := make(chan struct{})
		th.hangs["stop 10.0.0.10/24"] = hang
		budget := s.StopBudget()
		begun := time.Now()
		err := s.Stop(t.Context())
		if !errors.Is(err, ErrNotStopped) || !strings.Contains(err.Error(), "vip 10.0.0.10/24 cannot be stopped") {
			t.Errorf("stop: %v", err)
		}
		if took := time.Since(begun); took > budget || took < 10*time.Second {
			t.Errorf("stop took %v, and %v is what it may take", took, budget)
		}
		if s.Stuck() == nil {
			t.Error("the watchdog is petted on")
		}
		close(hang)
		synctest.Wait()
		if s.Stuck() != nil || !s.Idle() {
			t.Errorf("after it has ended: %+v", s.Status())
		}
	})
}

func TestKeeper_StopTakenBack_StartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, newTheatre(), filepath.Join(t.TempDir(), "r0"))
		defer s.end()
		if err := s.SetServices(specs(t, usual...)); err != nil {
			t.Fatal(err)
		}
		s.Promoted(1)
		synctest.Wait()
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.played()
		s.Resume()
		expect(t, s, allStarted)
	})
}

func TestKeeper_JournalThatCannotBeWritten_StartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		th := newTheatre()
		s := open(t, th, filepath.Join(t.TempDir(), "r0"))
		defer s.end()
		s.journal.path = filepath.Join(file, "r0") // below a file
		if err := s.SetServices(specs(t, "unit db.service")); err != nil {
			t.Fatal(err)
		}
		s.Promoted(1)
		synctest.Wait()
		if got := th.played(); got != "stop db.service" {
			t.Errorf("played %q", got)
		}
		if st := s.Status(); !strings.Contains(st.Halted, "cannot be recorded") {
			t.Errorf("%+v", st)
		}
	})
}

func TestOpen_JournalThatCannotBeRead_IsAnError(t *testing.T) {
	for _, text := range []string{"", "{", `{"v":2,"boot":"boot-1"}`, `{"v":1,"boot":"boot-1","services":[{"kind":"disk","target":"x"}]}`, `{"v":1,"x":2}`} {
		path := filepath.Join(t.TempDir(), "r0")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Journal: path, Boot: "boot-1", Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestJournal_OfAnotherBoot_NamesNothing(t *testing.T) {
	j := &journal{filepath.Join(t.TempDir(), "r0"), "boot-1"}
	want := specs(t, usual...)
	if err := j.write(want); err != nil {
		t.Fatal(err)
	}
	if got, err := j.read(); err != nil || !slices.EqualFunc(got, want, func(a, b service.Spec) bool { return a.ID() == b.ID() }) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := (&journal{j.path, "boot-2"}).read(); err != nil || got != nil {
		t.Errorf("of another boot: %+v, %v", got, err)
	}
}

func TestSteps_HaveDefaults_AndAddressesAreUrgent(t *testing.T) {
	for _, s := range specs(t, usual...) {
		p := stepOf(&s)
		if p.Urgent != (s.Kind == service.KindVIP) || p.StartTimeout == 0 || p.StopTimeout == 0 || p.MonitorTimeout == 0 || p.Interval == 0 {
			t.Errorf("%+v", p)
		}
	}
	if got := stepOf(&service.Spec{Kind: service.KindUnit, Interval: time.Second, StopTimeout: time.Minute}); got.Interval != time.Second || got.StopTimeout != time.Minute {
		t.Errorf("%+v", got)
	}
	if plan.DefaultConfig().Grace <= leaveWait {
		t.Error("a killed program has less time to be gone than a daemon that ends gives it")
	}
}
