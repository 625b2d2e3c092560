// Package services tests what follows the primary: real daemons in network namespaces, a real address that
// moves between them, a real resource agent, and hooks that write down when they were called.
package services
