// Package load is a client of a replicated device that follows the primary: it writes, reads, trims
// and flushes on several connections, and keeps each request in a history.History.
//
// # Connections
//
// Each connection serves a few slots; a slot has one request under way at a time. A connection that
// ends, or that a server refuses, is replaced at once: all servers are asked at the same time, each
// again after tryEvery, and the first that grants the export has the connection. Only one connection
// searches; the others follow to where it found the primary.
//
// A server that neither answers nor closes, as one behind a cut link, is not left for its silence
// alone. After stallAfter the other servers are asked as well; if one of them grants the export before
// an answer comes, the connection moves there, and what was unanswered stays so for ever.
//
// A request is never sent twice. NBD carries no client ids, so a server could not tell a copy from a
// new request; a slot whose request got no answer goes on with a new one, with a value of its own.
//
// # Pinned clients
//
// A pinned client has one server and stays with it through pauses, cuts and refusals; what it has asked
// of a primary that stands still, that process finds when it goes on. It is who would notice that a
// deposed primary still answers.
//
// # Goroutines
//
//	follow     one a connection; owns it, and starts its slots
//	slot       sends, waits, sends; ends with its connection
//	stay       one a pinned client, with one slot
//
// Stop ends all of them, and waits at most stopAfter for answers.
package load
