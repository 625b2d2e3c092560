package buf

import (
	"testing"
	"unsafe"
)

func TestGet_LengthAndAlignment(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 1 << 20, 1<<20 + 1, MaxLen} {
		b := Get(n)
		if len(b.B) != n {
			t.Errorf("Get(%d): length %d", n, len(b.B))
		}
		if n > 0 && uintptr(unsafe.Pointer(&b.B[0]))%Align != 0 {
			t.Errorf("Get(%d): not aligned to %d", n, Align)
		}
		b.Release()
	}
}

func TestRelease_TwiceIsAPanic(t *testing.T) {
	b := Get(10)
	b.Retain().Release()
	b.Release()
	defer func() {
		if recover() == nil {
			t.Error("a second Release did not panic")
		}
	}()
	b.Release()
}

func TestGet_DoesNotAllocateInSteadyState(t *testing.T) {
	Get(4096).Release()
	if n := testing.AllocsPerRun(200, func() { Get(4096).Release() }); n > 0.1 {
		t.Errorf("%.2f allocations per Get", n)
	}
}
