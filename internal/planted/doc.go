// Package planted names the precautions that keep data safe, each as the bug that removes it.
//
// A test that never fails proves nothing. So each precaution that a safety rule asks for has a guard
// beside it:
//
//	if r.now < r.promiseUntil && !planted.On(planted.PromiseNotKept) {
//
// In a normal build On is the constant false and the guard costs nothing. Built with the tag
// plantedbugs, one bug at a time can be switched on, and the simulator has to find it. A bug that
// survives is a hole in the simulator's workload or checks.
//
// The packages that keep safety rules import this one; it imports nothing.
package planted
