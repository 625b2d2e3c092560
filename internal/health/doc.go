// Package health answers, over HTTP, who is primary of a resource, for those that lead clients to it:
// HAProxy, a BGP speaker, a DNS server.
//
//	request                   200 when                                          else
//	/primary/RESOURCE         this node is primary, inside its lease             503
//	/replica/RESOURCE         the replica here says that it is UpToDate          503
//	/healthz                  always: the process answers
//
// GET, HEAD and OPTIONS mean the same (HAProxy asks with OPTIONS unless it is told otherwise). A
// resource or a path that is not known is 404, another method 405. Nothing is ever redirected: most
// checkers take a 3xx for health.
//
// # When the lease is looked at
//
// Being primary is not enough for a 200 (rule 4). A primary that was cut off serves nothing once its
// lease has run out, and another may serve by then; but it hears of that one only later. So the answer
// is composed first, both ways, then the core is asked whether the lease holds at that moment, and what
// it says picks the answer that is written at once. The 200 is therefore true when it leaves. It
// promises nothing about the moment after: what keeps two nodes from serving is the lease itself, never
// whom clients were led to.
//
// A primary that waits for a silent peer to be dropped has no lease meanwhile and answers 503: it serves
// nothing then.
//
// # Who may ask
//
// Anybody who reaches the listener: the answers hold names of nodes and resources, roles and the address
// for clients, and no request changes anything. Connections are few and short-lived. One more than
// Config.MaxConns closes the oldest instead of being refused: an honest check takes milliseconds, and
// silent connections must not keep it out.
//
// # What is not here
//
// No metrics, and no check of a disk's speed: a primary that is slow is primary all the same.
package health
