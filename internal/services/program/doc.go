// Package program runs one program with a deadline, in a process group of its own. The end of the context
// kills the whole group; what is in uninterruptible sleep then is waited for a short time only, and the
// caller hears that it is still there.
//
// When a program ends by itself, what it started goes on: that may be the service which an agent was
// asked to start. What is started so cannot keep Run waiting by holding its output open.
//
// Package fencing has a runner of its own. It differs where it matters: nothing that a fence agent leaves
// behind may go on, and what it prints may hold secrets.
package program
