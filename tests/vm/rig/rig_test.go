package rig_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ha/lockstep/tests/internal/cluster"
	"github.com/lockstep-ha/lockstep/tests/vm/rig"
)

func TestMain(m *testing.M) { cluster.Main(m) }

func TestBoot_CommandsRun_AndAPowerCutTakesWhatWasNotFlushed(t *testing.T) {
	k := rig.FindKernel(t)
	begun := time.Now()
	initramfs := rig.Initramfs(t, k, rig.Contents{})
	st, err := os.Stat(initramfs)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kernel %s; initramfs of %d KiB made in %v", k.Version, st.Size()>>10, time.Since(begun))
	disk := rig.NewDisk(t, 8<<20)
	cfg := rig.Config{Kernel: k, Initramfs: initramfs, Disks: []*rig.Disk{disk}}

	vm := rig.Boot(t, cfg)
	t.Logf("booted in %v", vm.Booted)
	if vm.Hello.Kernel != k.Version {
		t.Errorf("the guest runs %q, not %q", vm.Hello.Kernel, k.Version)
	}
	if out := vm.Run(t, "echo one; lockstep version"); !strings.HasPrefix(out, "one\n") {
		t.Errorf("the script printed %q", out)
	}
	if c := vm.Start("exit 7"); true {
		if _, err := c.Wait(); err == nil || c.Code() != 7 {
			t.Errorf("exit 7 ended with code %d: %v", c.Code(), err)
		}
	}
	long := vm.Start("echo begun; sleep 1000")
	if err := long.Await("begun", func(out string) bool { return out == "begun\n" }); err != nil {
		t.Fatal(err)
	}
	long.Kill()
	if _, err := long.Wait(); err == nil || long.Code() != 128+9 {
		t.Errorf("the killed command ended with code %d: %v", long.Code(), err)
	}

	// Blocks 0..99 are flushed, 100..199 reach the disk and are not.
	vm.Run(t, `yes flushed | head -c 409600 | dd of=/dev/vda bs=4096 iflag=fullblock oflag=direct conv=fsync 2>/dev/null
yes pending | head -c 409600 | dd of=/dev/vda bs=4096 seek=100 iflag=fullblock oflag=direct 2>/dev/null`)
	if s := disk.Stats(); s.Writes < 200 || s.Flushes == 0 {
		t.Errorf("the disk saw %+v", s)
	}
	if !disk.StableHas([]byte("flushed")) || disk.StableHas([]byte("pending")) {
		t.Error("what is stable is not what was flushed")
	}
	open := vm.Start("sleep 1000")
	t.Log(vm.PowerCut(1)[0])
	if _, err := open.Wait(); err == nil || open.Code() != -1 {
		t.Errorf("a command outlived its machine: code %d, %v", open.Code(), err)
	}

	again := rig.Boot(t, cfg)
	if again.Hello.BootID == vm.Hello.BootID {
		t.Error("the second boot has the id of the first")
	}
	out := again.Run(t, `dd if=/dev/vda bs=4096 count=100 2>/dev/null | grep -c flushed
dd if=/dev/vda bs=4096 skip=100 count=100 2>/dev/null | tr -d '\0' | grep -c '^pending$' || true`)
	var flushed, pending int
	if _, err := fmt.Sscan(out, &flushed, &pending); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	if flushed != 51200 {
		t.Errorf("%d of 51200 flushed lines are left", flushed)
	}
	if pending == 51200 {
		t.Error("the power cut took nothing")
	}
	t.Logf("%d of 51200 unflushed lines are left", pending)
}
