// Command guest is the first process of a test's virtual machine, and what tests run in there. It is
// one static program:
//
//	guest           as process 1: mounts what a kernel expects, loads modules, starts the agent, reaps
//	guest agent     runs the commands that the test sends
//	guest load      loads a kernel module
//	guest write     writes files, syncs them, and says which are synced and how long each took
//	guest verify    checks files that write has made
//	guest lab       brings a cluster up, or up again
//	guest insync    returns when both replicas are in sync, and names the primary
//	guest same      compares two files
//	guest fill      writes much and syncs nothing, or checks what it wrote
//	guest eat       takes memory and keeps it
package main

import (
	"fmt"
	"os"
)

func main() {
	if os.Getpid() == 1 {
		boot()
		return
	}
	var err error
	cmd := ""
	if len(os.Args) > 1 {
		cmd = os.Args[1]
	}
	switch cmd {
	case "agent":
		err = agent()
	case "write":
		err = write(os.Args[2:])
	case "verify":
		err = verify(os.Args[2:])
	case "load":
		err = load(os.Args[2:])
	case "lab":
		err = labUp(os.Args[2:])
	case "insync":
		err = inSync(os.Args[2:])
	case "fill":
		err = fill(os.Args[2:])
	case "same":
		err = same(os.Args[2:])
	case "eat":
		err = eat(os.Args[2:])
	default:
		err = fmt.Errorf("no command %q", cmd)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}
