// Package vip gives an interface of this host an address that follows the primary, and tells the network
// that it moved.
//
// # Model
//
// Start adds the address and announces it: Burst gratuitous ARP requests at once, and as many again after
// Repeat, as keepalived does, since a switch that has just learned of a failure may lose the first ones. For
// IPv6 these are unsolicited neighbour advertisements with the override flag. Stop deletes the address
// and ends the announcing. Monitor says whether the address is there and its interface is up.
//
// Neighbours that hold the old hardware address replace it when they hear one of these. A request, not a
// reply, is what even hosts that ignore unsolicited replies learn from.
//
// # Duplicate address detection
//
// It is off for IPv6 (IFA_F_NODAD): it would keep the address from being used for a second, and the address of
// a node that has just died would not answer anyway. Who may hold the address is decided by who is primary.
//
// # Which interface
//
// The one that is named; else the one with an address whose network holds the new one. No such interface, or
// more than one, is an error: an address on the wrong network answers nobody and is not seen to fail.
//
// # What is not here
//
// Routes, rules and labels; addresses on interfaces that have no hardware address are not announced.
package vip
