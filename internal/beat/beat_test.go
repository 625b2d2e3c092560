package beat

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTicker_TicksAtCommonInstants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(7 * time.Millisecond)
		a, b := NewTicker(100*time.Millisecond), NewTicker(50*time.Millisecond)
		defer a.Stop()
		defer b.Stop()
		for range 5 {
			<-b.C
			b.Next(0)
			second := <-b.C
			b.Next(0)
			if first := <-a.C; !first.Equal(second) || first.Sub(origin)%(100*time.Millisecond) != 0 {
				t.Fatalf("the ticks are at %v and %v", first, second)
			}
			a.Next(0)
		}
	})
}

func TestTicker_ChangesItsPeriodAndSkipsWhatNobodyTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewTicker(20 * time.Millisecond)
		defer a.Stop()
		first := <-a.C
		time.Sleep(75 * time.Millisecond)
		a.Next(50 * time.Millisecond)
		switch second := <-a.C; {
		case second.Sub(origin)%(50*time.Millisecond) != 0:
			t.Fatalf("a tick at %v", second)
		case second.Sub(first) < 75*time.Millisecond:
			t.Fatalf("a tick of the past, %v after the first", second.Sub(first))
		}
	})
}

func TestUntil_IsNeverNothing(t *testing.T) {
	for range 1000 {
		if d := until(time.Millisecond); d < time.Millisecond/8 || d > 9*time.Millisecond/8 {
			t.Fatalf("the next tick is in %v", d)
		}
	}
}
