// Package wire is the language two replicas of a resource speak: frames, the messages inside
// some of them, and the greeting that opens a session. It turns values into bytes and back, and
// believes nothing: every length is bounded, and every header proven by its checksum, before
// anything is allocated, skipped or applied by it. It does no I/O but in ReadGreeting.
//
// # Frame
//
// A frame is a header of 80 bytes and, for some types, a payload. Numbers are big endian.
//
//	offset size field
//	     0    4 magic, "LSFR"
//	     4    1 version of the protocol, as negotiated
//	     5    1 type
//	     6    2 flags
//	     8    8 epoch
//	    16    8 sequence number
//	    24    8 watermark
//	    32    8 argument
//	    40    8 extent: offset in bytes
//	    48    8 extent: length in bytes
//	    56    4 payload: bytes that follow the header
//	    60    4 payload: bytes after decompression
//	    64    8 xxhash64 of the payload as it travels
//	    72    8 xxhash64 of bytes 0 to 71
//
// A header is judged in this order: magic, version, its own checksum, type, flags, lengths and
// extent. So a length is looked at only in a header that arrived as it was sent. The payload is
// hashed apart from the header, because the header must be proven before the reader knows where
// the payload ends.
//
// # Greeting
//
// A session opens with greetings, which have a format of their own that never changes, so that
// nodes of any two versions can tell each other why they do not match.
//
//	offset size field
//	     0    4 magic, "LSHI"
//	     4    1 kind: 1 hello, 2 accept, 3 refuse
//	     5    1 zero
//	     6    2 highest protocol version the sender speaks
//	     8    2 lowest protocol version the sender speaks
//	    10    2 zero
//	    12    4 length of the body in bytes
//	    16    8 xxhash64 of the body
//	    24    8 xxhash64 of bytes 0 to 23
//	    32    - body: JSON; a Hello, or {"reason": "..."}, or nothing for accept
//
// # Hashes
//
// xxhash64 guards against noise, not against a forger; who may speak at all is the transport's
// business. Whether two blocks are equal is never decided by it.
//
// docs/protocol.md describes the conversation and lists the changes of the format.
package wire
