package attach

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// bench is a host with a kernel, and a cluster to attach to.
type bench struct {
	t *testing.T
	c *cluster
	k *fakeKernel
	s Spec
}

func newBench(t *testing.T) *bench {
	c := newCluster(t, 2)
	s := Spec{Resource: "r0", Device: "/dev/nbd3", Connections: 2, Dir: t.TempDir()}
	for _, n := range c.nodes {
		s.Servers = append(s.Servers, n.where.String())
	}
	return &bench{t: t, c: c, k: newKernel(t), s: s}
}

func (b *bench) env() Env { return Env{Kernel: b.k, Logger: quiet} }

// served is a relay's process, as far as one is played here.
type served struct {
	kill context.CancelFunc // as a signal would: the device stays
	done chan error
}

// start serves the device, and returns when it can be used.
func (b *bench) start() *served {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &served{kill: cancel, done: make(chan error, 1)}
	ready := make(chan Status, 1)
	var wg sync.WaitGroup
	wg.Go(func() { s.done <- Serve(ctx, b.s, b.env(), func(st Status) { ready <- st }) })
	b.t.Cleanup(func() { cancel(); wg.Wait() })
	select {
	case <-ready:
	case err := <-s.done:
		b.t.Fatalf("not ready: %v", err)
	}
	return s
}

func (s *served) killed(t *testing.T) {
	t.Helper()
	s.kill()
	if err := <-s.done; err != nil {
		t.Fatalf("Serve returned %v", err)
	}
	s.done <- nil
}

func (b *bench) mustWrite(v uint64, off int64) {
	b.t.Helper()
	if errno, err := b.k.write(3, v, off); errno != 0 || err != nil {
		b.t.Fatalf("write: errno %d, %v", errno, err)
	}
}

func (b *bench) mustRead(v uint64, off int64) {
	b.t.Helper()
	if got, err := b.k.read(3, off); got != v || err != nil {
		b.t.Fatalf("read %#x, %v; want %#x", got, err, v)
	}
}

func TestServe_ADeviceAsTheKernelHasIt(t *testing.T) {
	b := newBench(t)
	b.start()
	d := b.k.devs[3]
	if d.q.Size != testSize || d.q.BlockSize != 4096 || len(d.q.Sockets) != 2 || d.q.DeadTimeout != forever {
		t.Errorf("connected with %+v", d.q)
	}
	if want := txHasFlags | txFlush | txFUA | txTrim | txWriteZeroes | txMultiConn; d.q.Flags != want {
		t.Errorf("flags %#x, want %#x", d.q.Flags, want)
	}
	if b.k.ioTimeout[3] != 30*time.Second {
		t.Errorf("io_timeout %v", b.k.ioTimeout[3])
	}
	b.mustWrite(7, 4096)
	b.mustRead(7, 4096)
	st, err := Query(t.Context(), b.s.Dir, b.s.Device)
	if err != nil || st.State != StateServing || st.Resource != "r0" || st.Number != 1 || st.SizeBytes != testSize {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestServe_ReadOnly_TheKernelIsTold_AndWritesAreRefused(t *testing.T) {
	b := newBench(t)
	b.s.ReadOnly = true
	b.start()
	if b.k.devs[3].q.Flags&txReadOnly == 0 {
		t.Error("the device is not read-only")
	}
	if errno, err := b.k.write(3, 1, 0); errno == 0 || err != nil {
		t.Errorf("write: errno %d, %v", errno, err)
	}
}

func TestServe_RelayDies_AnotherTakesTheDeviceUp_AndWhatWaitedIsDone(t *testing.T) {
	b := newBench(t)
	s := b.start()
	b.mustWrite(1, 0)
	id := b.k.devs[3].q.Backend
	b.c.set(func() { b.c.mute = true })
	waiting := make(chan error, 1)
	go func() {
		errno, err := b.k.write(3, 2, 0)
		if errno != 0 {
			err = errors.New("an error reached the user")
		}
		waiting <- err
	}()
	await(t, "the write has arrived", func() bool { b.c.mu.Lock(); defer b.c.mu.Unlock(); return len(b.c.brought[0]) == 2 })
	s.killed(t)
	if list, err := List(t.Context(), b.s.Dir); err != nil || len(list) != 1 || list[0].State != StateNoRelay {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := Remove(t.Context(), b.s.Dir, b.s.Device, false, b.env()); !errors.Is(err, ErrBusy) {
		t.Errorf("Remove of a device with a request in it: %v", err)
	}
	b.c.set(func() { b.c.mute = false })
	b.start()
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	b.mustRead(2, 0)
	if b.k.devs[3].q.Backend != id {
		t.Error("the device was made anew")
	}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	if len(b.c.keys) != 1 || b.c.lastKey != 1 {
		t.Errorf("%d registrations, %d ever", len(b.c.keys), b.c.lastKey)
	}
}

func TestServe_AKernelConnectionDies_ItIsReplaced(t *testing.T) {
	b := newBench(t)
	b.start()
	b.mustWrite(1, 0)
	for range 3 {
		b.k.mu.Lock()
		for _, s := range b.k.devs[3].socks {
			b.k.kill(s)
		}
		b.k.mu.Unlock()
		b.mustWrite(2, 512) // waits for a live one
		b.mustRead(1, 0)
	}
}

func TestDetach_DeviceAndRegistrationAreGone(t *testing.T) {
	b := newBench(t)
	s := b.start()
	b.mustWrite(1, 0)
	if err := Detach(t.Context(), b.s.Dir, b.s.Device, false, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	s.done <- nil
	if len(b.k.devs) != 0 || len(b.c.keys) != 0 {
		t.Errorf("%d devices, %d registrations", len(b.k.devs), len(b.c.keys))
	}
	if list, err := List(t.Context(), b.s.Dir); err != nil || len(list) != 0 {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := Detach(t.Context(), b.s.Dir, b.s.Device, false, 0); !errors.Is(err, ErrNoRelay) {
		t.Errorf("second detach: %v", err)
	}
}

func TestDetach_InUse_IsRefused_AndTheDeviceGoesOn(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(context.Background())
	env := b.env()
	env.Claim = func(context.Context, string) (func(), error) { return nil, ErrBusy }
	ready, done := make(chan Status, 1), make(chan error, 1)
	go func() { done <- Serve(ctx, b.s, env, func(st Status) { ready <- st }) }()
	t.Cleanup(func() { cancel(); <-done })
	<-ready
	if err := Detach(t.Context(), b.s.Dir, b.s.Device, false, 0); !errors.Is(err, ErrBusy) {
		t.Errorf("detach: %v", err)
	}
	b.mustWrite(1, 0)
	b.mustRead(1, 0)
	if err := Detach(t.Context(), b.s.Dir, b.s.Device, true, 0); err != nil {
		t.Errorf("forced detach: %v", err)
	}
}

func TestDetach_NoPrimary_DeviceGoes_RegistrationIsEndedLater(t *testing.T) {
	b := newBench(t)
	s := b.start()
	b.c.moveTo(-1)
	if err := Detach(t.Context(), b.s.Dir, b.s.Device, true, 50*time.Millisecond); err == nil {
		t.Fatal("the registration cannot have been ended")
	}
	if err := <-s.done; err == nil {
		t.Error("Serve returned nothing")
	}
	s.done <- nil
	if list, err := List(t.Context(), b.s.Dir); err != nil || len(list) != 1 || list[0].State != StateLeft {
		t.Errorf("list %+v, %v", list, err)
	}
	b.c.moveTo(1)
	if err := Remove(t.Context(), b.s.Dir, b.s.Device, false, b.env()); err != nil {
		t.Fatal(err)
	}
	if len(b.c.keys) != 0 {
		t.Errorf("%d registrations", len(b.c.keys))
	}
}

func TestDetach_Forced_WithRequestsThatNobodyAnswers_FailsThemAndEnds(t *testing.T) {
	b := newBench(t)
	s := b.start()
	b.c.moveTo(-1)
	failed := make(chan error, 1)
	go func() {
		_, err := b.k.write(3, 1, 0)
		failed <- err
	}()
	await(t, "the write waits", func() bool {
		st, err := Query(t.Context(), b.s.Dir, b.s.Device)
		return err == nil && st.Unfinished == 1 && st.State == StateWaiting
	})
	if err := Detach(t.Context(), b.s.Dir, b.s.Device, true, 50*time.Millisecond); err == nil {
		t.Error("the registration cannot have been ended")
	}
	if err := <-failed; !errors.Is(err, errNoDevice) {
		t.Errorf("the user saw %v", err)
	}
	<-s.done
	s.done <- nil
}

func TestServe_Refusals_LeaveNothingBehind(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*bench)
		want   error
	}{
		{"held elsewhere", func(b *bench) { b.c.heldBy = "h2" }, ErrHeld},
		{"no such resource", func(b *bench) { b.s.Resource = "r9" }, ErrUnknown},
		{"no module", func(b *bench) { b.k.check = ErrNoModule }, ErrNoModule},
		{"device in use", func(b *bench) { b.k.busy = true }, ErrBusy},
		{"device of somebody else", func(b *bench) { b.k.devs[3] = &fakeDev{q: ConnectRequest{Backend: "x"}} }, ErrBusy},
		{"device is no NBD device", func(b *bench) { b.s.Device = "/dev/sda" }, ErrNoDevice},
		{"size is no multiple of the block", func(b *bench) { b.c.size = 1000; b.s.BlockSize = 512 }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			tc.change(b)
			err := Serve(t.Context(), b.s, b.env(), func(Status) { t.Error("ready") })
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if len(b.c.keys) != 0 {
				t.Errorf("%d registrations are left", len(b.c.keys))
			}
			if list, err := List(t.Context(), b.s.Dir); err != nil || len(list) != 0 {
				t.Errorf("list %+v, %v", list, err)
			}
		})
	}
}

func TestServe_SecondRelayForADevice_IsRefused(t *testing.T) {
	b := newBench(t)
	b.start()
	if err := Serve(t.Context(), b.s, b.env(), func(Status) {}); !errors.Is(err, ErrAttached) {
		t.Errorf("%v", err)
	}
	b.mustWrite(1, 0)
}

func TestServe_Superseded_DeviceIsDisconnected_AndTheCauseStaysKnown(t *testing.T) {
	b := newBench(t)
	s := b.start()
	b.c.set(func() { clear(b.c.keys) })
	b.c.nodes[0].srv.CloseExport("r0", "superseded")
	if err := <-s.done; !errors.Is(err, ErrSuperseded) {
		t.Errorf("Serve returned %v", err)
	}
	s.done <- nil
	if len(b.k.devs) != 0 {
		t.Error("the device is still there")
	}
	list, err := List(t.Context(), b.s.Dir)
	if err != nil || len(list) != 1 || list[0].State != StateEnded || !strings.Contains(list[0].Cause, "ended") {
		t.Errorf("list %+v, %v", list, err)
	}
	b.start() // a new attachment, with a new key
	b.mustWrite(1, 0)
}

func TestServe_DisconnectedBySomebodyElse_EndsTheRegistration(t *testing.T) {
	b := newBench(t)
	s := b.start()
	if err := b.k.Disconnect(3); err != nil {
		t.Fatal(err)
	}
	if err := <-s.done; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	s.done <- nil
	if len(b.c.keys) != 0 {
		t.Errorf("%d registrations", len(b.c.keys))
	}
}

func TestServe_AttachmentThatWasInterrupted_IsTakenUpWithItsKey(t *testing.T) {
	b := newBench(t)
	b.k.busy = true
	b.c.answer = nil
	st := newState(b.s, mustBoot(t))
	if err := st.save(); err != nil {
		t.Fatal(err)
	}
	key, err := st.key()
	if err != nil {
		t.Fatal(err)
	}
	b.c.keys[key], b.c.lastKey, b.c.heldBy = 5, 5, "this very host"
	b.k.busy = false
	b.start()
	if q, err := Query(t.Context(), b.s.Dir, b.s.Device); err != nil || q.Number != 5 {
		t.Errorf("registration %d, %v", q.Number, err)
	}
}

func mustBoot(t *testing.T) string {
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	return boot
}

func TestState_OfAnotherBootOrBroken(t *testing.T) {
	b := newBench(t)
	st := newState(b.s, "another boot")
	if err := st.save(); err != nil {
		t.Fatal(err)
	}
	s := b.start() // what an earlier boot left is gone
	now, err := LoadState(b.s.Dir, "nbd3")
	if err != nil || now.Key == st.Key {
		t.Errorf("the key of another boot is used (%v)", err)
	}
	if fi, err := os.Stat(statePath(b.s.Dir, "nbd3")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if strings.Contains(b.k.devs[3].q.Backend, now.Key[:8]) {
		t.Error("the key is shown by the kernel")
	}
	s.killed(t)
	if err := os.WriteFile(statePath(b.s.Dir, "nbd3"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), b.s, b.env(), func(Status) {}); err == nil {
		t.Error("a state that does not parse is ignored")
	}
}
