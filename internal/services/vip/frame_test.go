package vip

import (
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

var testMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x0a}

func TestGratuitousARP_AsksEverybodyForItself(t *testing.T) {
	got := hex.EncodeToString(gratuitousARP(testMAC, netip.MustParseAddr("10.0.0.10")))
	want := "ffffffffffff" + "02000000000a" + "0806" + "0001080006040001" + "02000000000a" + "0a00000a" + "000000000000" + "0a00000a" +
		"000000000000000000000000000000000000"
	if got != want {
		t.Errorf("frame\n%s, want\n%s", got, want)
	}
}

func TestAdvertisement_OverridesAndItsChecksumIsRight(t *testing.T) {
	ip := netip.MustParseAddr("fd00::10")
	f := advertisement(testMAC, ip)
	got := hex.EncodeToString(f)
	src, dst := "fd000000000000000000000000000010", "ff020000000000000000000000000001"
	sum := got[112:116]
	want := "333300000001" + "02000000000a" + "86dd" + "60000000" + "0020" + "3aff" + src + dst + "8800" + sum + "20000000" + src + "0201" + "02000000000a"
	if got != want {
		t.Errorf("frame\n%s, want\n%s", got, want)
	}
	if sum == "0000" || checksum(ip.As16(), allNodes.As16(), f[54:]) != 0 {
		t.Errorf("checksum %s does not hold", sum)
	}
}
