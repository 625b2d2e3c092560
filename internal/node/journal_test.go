package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/lockstep-ha/lockstep/internal/control"
)

func seqs(t *testing.T, j *journal, since uint64) (out []uint64) {
	t.Helper()
	err := j.read(t.Context(), since, false, func(ev control.Event) error {
		out = append(out, ev.Seq)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestJournal_KeepsTheNewest(t *testing.T) {
	j := newJournal("n1", 4)
	for n, want := range map[int]string{0: "[]", 3: "[1 2 3]"} {
		for j.last < uint64(n) {
			j.add("r0", "test", "")
		}
		if got := fmt.Sprint(seqs(t, j, 0)); n == 3 && got != want {
			t.Errorf("after %d events: %s", n, got)
		}
	}
	for range 7 {
		j.add("r0", "test", "")
	}
	for since, want := range map[uint64]string{0: "[7 8 9 10]", 6: "[7 8 9 10]", 8: "[9 10]", 10: "[]", 4000: "[7 8 9 10]"} {
		j := j
		for j.last < 10 {
			j.add("r0", "test", "")
		}
		if got := fmt.Sprint(seqs(t, j, since)); got != want {
			t.Errorf("since %d: %s, want %s", since, got, want)
		}
	}
}

func TestJournal_EventHoldsWhatWasSaid(t *testing.T) {
	j := newJournal("n1", 4)
	j.add("r0", "dropped", "n2 left.", "peer", "n2")
	_ = j.read(t.Context(), 0, false, func(ev control.Event) error {
		if ev.Node != "n1" || ev.Resource != "r0" || ev.Kind != "dropped" || ev.Text != "n2 left." || ev.Attrs["peer"] != "n2" || ev.Time.IsZero() {
			t.Errorf("%+v", ev)
		}
		return nil
	})
}

func TestJournal_FollowerGetsEveryEventAndNoneTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJournal("n1", 16)
		j.add("", "test", "")
		ctx, cancel := context.WithCancel(t.Context())
		var got []uint64
		done := make(chan error, 1)
		go func() {
			done <- j.read(ctx, 0, true, func(ev control.Event) error {
				got = append(got, ev.Seq)
				return nil
			})
		}()
		for range 5 {
			synctest.Wait()
			j.add("", "test", "")
			j.add("", "test", "")
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the end of a follow is no error: %v", err)
		}
		if fmt.Sprint(got) != "[1 2 3 4 5 6 7 8 9 10 11]" {
			t.Errorf("%v", got)
		}
	})
}

func TestJournal_ErrorOfTheReaderEndsIt(t *testing.T) {
	j := newJournal("n1", 4)
	j.add("", "test", "")
	want := errors.New("pipe closed")
	if err := j.read(t.Context(), 0, true, func(control.Event) error { return want }); !errors.Is(err, want) {
		t.Errorf("%v", err)
	}
}
