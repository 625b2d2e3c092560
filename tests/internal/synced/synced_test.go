package synced

import (
	"os"
	"testing"
	"time"
)

// run writes so many steps and returns the series.
func run(t *testing.T, keep, steps int) Series {
	t.Helper()
	s := Series{Dir: t.TempDir(), Run: 1, Keep: keep}
	if err := s.Write(func(step int, _ time.Duration) bool { return step < steps }); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerify_FindsWhatIsMissing_OrOld(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, s Series)
		sound  bool
	}{
		"nothing":          {func(*testing.T, Series) {}, true},
		"a file is gone":   {func(t *testing.T, s Series) { must(t, os.Remove(s.file(7))) }, false},
		"a file is longer": {func(t *testing.T, s Series) { must(t, os.WriteFile(s.file(7), append(s.content(7), 0), 0o600)) }, false},
		"a slot is old":    {func(t *testing.T, s Series) { s.putSlot(t, 39, s.slot(7)) }, false},
		"one slot is torn": {func(t *testing.T, s Series) { s.putSlot(t, 39, make([]byte, slotSize)[:9]) }, true},
		"two are": {func(t *testing.T, s Series) {
			s.putSlot(t, 39, []byte("torn"))
			s.putSlot(t, 40, []byte("torn"))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := run(t, 0, 40)
			c.damage(t, s)
			if err := s.Verify(40); (err == nil) != c.sound {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestVerify_OfOnesThatAreKept_LooksAtThose(t *testing.T) {
	s := run(t, 4, 10)
	for synced := 9; synced <= 10; synced++ { // step 10 may have run and not have been told
		must(t, s.Verify(synced))
	}
	must(t, os.Remove(s.file(8)))
	if s.Verify(10) == nil {
		t.Error("a file that should have been kept is gone, and nobody minds")
	}
}

// putSlot overwrites the beginning of the slot of a step.
func (s Series) putSlot(t *testing.T, step int, p []byte) {
	t.Helper()
	f, err := os.OpenFile(s.root()+"/slots", os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(p, int64(step%slots)*slotSize)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
