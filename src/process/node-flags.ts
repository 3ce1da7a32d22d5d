/**
 * Flags of the engine's Node processes. V8 lets the halves of its young generation grow to 16 MiB each and never gives that
 * back: 15 MB for each process, of which the objects of these processes need little. None of them may be one that changes
 * how code is compiled: Node's own compiled code would not be used then, which is 15 ms of each process.
 */
export const NODE_FLAGS: readonly string[] = ['--max-semi-space-size=2'];
