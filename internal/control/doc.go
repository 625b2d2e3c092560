// Package control is the operator's API of a node: HTTP with JSON bodies on a unix socket, its
// server, its client and the types that travel.
//
// # Model
//
// A Backend does the work; internal/node implements it. A Server offers a Backend on listeners, and
// a Client is a Backend again, whose calls travel to a Server. What one side returns, the other side
// sees, errors included: errors.Is(err, control.ErrRefused) holds on both sides of the socket.
//
//	Client --- HTTP on unix socket ---> Server(n1) --- Backend of n1
//	                                        |
//	                                        | ?node=n2, by a Forwarder
//	                                        v
//	                   node-to-node listener of Server(n2) --- Backend of n2
//
// A request with ?node=n2 that arrives on the unix socket of n1 is passed on, so that an operator
// can sit at any node. A listener for other nodes never passes anything on: two nodes that disagree
// about a name would otherwise hand a request back and forth.
//
// # Who may ask
//
// The unix socket has mode 0600: the kernel decides. A listener for other nodes must come with
// authentication of its own (package transport); this package sees only connections that passed it.
//
// # What travels
//
//	GET    /v1/status?resource=                 Status
//	POST   /v1/resources                        CreateRequest
//	DELETE /v1/resources/{resource}
//	POST   /v1/resources/{resource}/resize      {size_bytes}
//	POST   /v1/resources/{resource}/promote     PromoteOptions
//	POST   /v1/resources/{resource}/demote
//	POST   /v1/resources/{resource}/switchover  {to}
//	POST   /v1/resources/{resource}/connect     {peer}
//	POST   /v1/resources/{resource}/disconnect  {peer}
//	POST   /v1/resources/{resource}/invalidate
//	POST   /v1/resources/{resource}/resync/pause
//	POST   /v1/resources/{resource}/resync/resume
//	POST   /v1/resources/{resource}/verify      VerifyOptions; answers a stream that ends in
//	                                            {result} or {error}
//	POST   /v1/resources/{resource}/force-promote  ForceOptions; answers ForceResult
//	POST   /v1/resources/{resource}/resolve     ResolveOptions; answers a stream that ends in
//	                                            {resolved} or {error}
//	POST   /v1/resources/{resource}/give-up     GiveUpOptions; a stream that ends in {given_up} or {error}
//	POST   /v1/nodes/{node}/confirm-down
//	POST   /v1/nodes/{node}/fence-test          answers FenceReport
//	POST   /v1/nodes/{node}/fence               FenceOptions; answers FenceRecord
//	POST   /v1/nodes/{node}/unfence             answers UnfenceResult
//	GET    /v1/fences                           FenceHistory
//	POST   /v1/ledger/keep
//	POST   /v1/ledger/give-up
//	GET    /v1/events?since=&follow=            a stream of {event}
//	GET    /v1/facts                            Facts
//	POST   /v1/link-check                       LinkOptions; a stream of {link}, the last one done, or {error}
//	POST   /v1/drill                            DrillOrder; answers DrillAnswer
//
// A stream is one JSON object a line. An empty object comes now and then, so that either side
// notices that the other is gone; a reader skips it. A stream that ends without {result}, {resolved},
// {given_up}, {error} or {end} was cut off. Verify holds its request open for as long as it runs: who hangs up ends it, and
// no table of jobs can be out of step with what is really running. Its progress stands in Status.
//
// # Certainly not done, or unknown
//
// A call that could not be delivered returns ErrUnreachable: nothing happened. A call that changes
// something and whose answer was lost or did not come in time returns ErrOutcomeUnknown: the caller
// must look (status) before it tries again. The two are never mixed.
package control
