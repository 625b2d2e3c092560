package vm

import (
	"fmt"
	"testing"
)

// plain mounts r0 by way of Debian's nbd-client, which knows nothing of lockstep: a kernel device on the socket
// of one node, that lives as long as this node serves.
func (s *site) plain(node string) {
	s.t.Helper()
	s.vm.Runf(s.t, "nbd-client -unix /lab/%s/nbd.sock /dev/nbd0 -N r0 -b 4096 >/dev/null", node)
}

func (s *site) unplain() {
	s.t.Helper()
	s.vm.Run(s.t, "nbd-client -d /dev/nbd0 >/dev/null")
}

// fsyncs shows on a fresh machine that an fsync is answered when the disks of both replicas have it.
func (s *site) fsyncs(t *testing.T) {
	node := s.waitInSync()
	s.plain(node)
	s.vm.Run(t, "mkfs.ext4 -q /dev/nbd0; mkdir -p /m; mount /dev/nbd0 /m")
	put := func(i int) []byte {
		token := fmt.Sprintf("token-%d-of-%s", i, s.vm.Hello.BootID)
		s.vm.Runf(t, "echo %s | dd of=/m/file%d conv=fsync 2>/dev/null", token, i)
		return []byte(token)
	}
	for i := range 10 {
		before := []int{s.disks[0].Stats().Emptied, s.disks[1].Stats().Emptied}
		token := put(i)
		for n, d := range s.disks {
			if !d.StableHas(token) {
				t.Errorf("fsync %d was answered, and a power cut could take its data from n%d", i, n+1)
			}
			if d.Stats().Emptied == before[n] {
				t.Errorf("fsync %d was answered, and the disk of n%d was not flushed", i, n+1)
			}
		}
	}
	s.vm.Run(t, "umount /m")
	s.unplain()
	s.waitInSync()
	s.same()
	s.vm.Run(t, "e2fsck -fn /lab/n1/r0.img >/dev/null; e2fsck -fn /lab/n2/r0.img >/dev/null")

	// That the test would have seen it: the same on a disk that only says that it flushes.
	s.plain(node)
	s.vm.Run(t, "mount /dev/nbd0 /m")
	s.disks[1].Lie(true)
	defer s.disks[1].Lie(false)
	if s.disks[1].StableHas(put(10)) {
		t.Error("a disk that ignores flushes has stable data: this test proves nothing")
	}
	s.vm.Run(t, "umount /m")
	s.unplain()
}
