// Package writepath makes a process fit to stand in the write path of its own host.
//
// # Why
//
// The host of a primary may have a file system on the device that this process serves. When memory runs
// short there, the kernel writes dirty pages back to get some, which means to this process, and waits. If
// this process then needs memory itself, both wait for each other for good. Three things break the circle:
//
//	io flusher   PR_SET_IO_FLUSHER: an allocation on behalf of this process never starts write-back and so
//	             never waits for itself; and it is not throttled for dirty pages that only it can clean
//	locked       mlockall: what was touched once is never taken away, the code too. A page of the program
//	             that has to be read back needs memory first, in the very moment in which there is none
//	spared       oom_score_adj: the OOM killer takes somebody else. Killing this process frees no dirty page,
//	             and lets none of them ever be written
//
// None is worth anything without the others, and none needs the program to be otherwise changed.
//
// # One thread or all
//
// PR_SET_IO_FLUSHER is a property of a thread. A thread inherits it from the one that made it, and keeps it
// over execve. The Go runtime makes threads when it likes, from any thread it has, and has several before
// the first line of main. Setting the flag early therefore does not do. Enter sets it by
// syscall.AllThreadsSyscall, for which the runtime stops all threads and lets none be made meanwhile: from
// then on each thread has it or was made by one that has. Look reads it back from the kernel, for each
// thread. A program built with cgo has threads that the runtime does not know, so there Enter refuses and
// says so: the product is built without, only a build with the race detector is not.
//
// # Locking and the Go runtime
//
// MCL_ONFAULT locks a page when it is first touched: without it, the address space that the runtime keeps
// in reserve would be filled. The runtime gives memory back with madvise, which the kernel refuses for
// locked pages; it then maps the range anew, which is as good, and is tested here. With a finite
// RLIMIT_MEMLOCK a later allocation would fail and end the process, so memory is only locked when nothing
// limits it.
//
// # Children
//
// A child inherits the flag and the score, and needs neither: a fence agent that leaks must be killed like
// any other program. Start starts one without them.
//
// # What is not allowed
//
// Enter never fails. What the host does not allow is a Lack: what is missing, why, and what to do about it.
// The daemon logs it, and doctor lists it.
package writepath
