// Package config reads the file that describes one node of a cluster.
//
// # Model
//
// A Node is flat: every setting is one field with a unit and a default, and what a zero does is
// written beside it. The same list of [[node]] entries stands in the file of every node, so that
// one file, but for its name and its own addresses, can be copied to all of them. Load reads such
// a file in four steps:
//
//  1. the text is parsed; a syntax error ends the matter, because nothing after it can be believed
//  2. DefaultNode and the preset that "timing" names give the values that are not written
//  3. each key is looked up and its value converted; a key that is not known is a fault
//  4. Validate judges the whole
//
// Steps 3 and 4 gather every fault before they are reported, each with its line, so that a file
// is put right in one go. Stopping at the first fault was tried in other systems and makes people
// edit and restart ten times during an outage.
//
// Fence devices, what turns which node off, and the watchdog are sections of their own ([fence.NAME],
// [fencing], [watchdog]). They can stand in the same file on all nodes, too. Here is only judged
// whether they can be meant; whether a device works is found out by package fencing.
//
// # Paths
//
// A relative path counts from the directory of the file it stands in, not from the directory of
// whoever starts the daemon.
//
// # Secrets
//
// The shared key and the passwords of fence devices print as placeholders, a fault never shows the line
// that may hold one, and a file that holds one must be private.
//
// # What is refused and why
//
// Without pki_dir, traffic between nodes is authenticated with the shared key but not encrypted. A
// listener or a peer outside the loopback interface is therefore refused unless allow_network says
// that the network in between is trusted. With pki_dir that is left for what stays in the clear: the
// health checks. An nbd_tls that is written down is itself the decision.
package config
