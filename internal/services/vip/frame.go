package vip

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Ethernet types.
const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

// gratuitousARP returns the Ethernet frame of an ARP request in which ip asks for itself:
//
//	offset size field
//	     0    6 destination, everybody
//	     6    6 source
//	    12    2 0x0806
//	    14    8 hardware Ethernet, protocol IPv4, lengths 6 and 4, operation 1 (request)
//	    22   10 sender: mac and ip
//	    32   10 target: zeros and ip
//	    42   18 padding: an Ethernet frame has at least 60 bytes
func gratuitousARP(mac net.HardwareAddr, ip netip.Addr) []byte {
	f := make([]byte, 60)
	for i := range 6 {
		f[i] = 0xff
	}
	copy(f[6:], mac)
	binary.BigEndian.PutUint16(f[12:], etherARP)
	copy(f[14:], []byte{0, 1, 8, 0, 6, 4, 0, 1})
	a := ip.As4()
	copy(f[22:], mac)
	copy(f[28:], a[:])
	copy(f[38:], a[:])
	return f
}

// allNodes is ff02::1, and where it goes on Ethernet.
var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = []byte{0x33, 0x33, 0, 0, 0, 1}
)

// advertisement returns the Ethernet frame of an unsolicited neighbour advertisement (RFC 4861, 4.4):
//
//	offset size field
//	     0   14 Ethernet: all nodes, source, 0x86dd
//	    14   40 IPv6: from ip to ff02::1, hop limit 255
//	    54    4 ICMPv6 type 136, code 0, checksum
//	    58    4 flags: override
//	    62   16 target: ip
//	    78    8 option 2, length 1: mac
func advertisement(mac net.HardwareAddr, ip netip.Addr) []byte {
	const icmpLen = 32
	f := make([]byte, 54+icmpLen)
	copy(f, allNodesMAC)
	copy(f[6:], mac)
	binary.BigEndian.PutUint16(f[12:], etherIPv6)
	src, dst := ip.As16(), allNodes.As16()
	f[14] = 6 << 4
	binary.BigEndian.PutUint16(f[18:], icmpLen)
	f[20], f[21] = 58, 255
	copy(f[22:], src[:])
	copy(f[38:], dst[:])
	icmp := f[54:]
	icmp[0] = 136
	icmp[4] = 0x20
	copy(icmp[8:], src[:])
	icmp[24], icmp[25] = 2, 1
	copy(icmp[26:], mac)
	binary.BigEndian.PutUint16(icmp[2:], checksum(src, dst, icmp))
	return f
}

// checksum is that of ICMPv6: over the pseudo header, too. The checksum field of icmp is zero.
func checksum(src, dst [16]byte, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + 58
	for _, b := range [][]byte{src[:], dst[:], icmp} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
