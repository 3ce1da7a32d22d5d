/**
 * The version of what clients and engines say to each other (schemas/api.ts; docs/api.md, Versions). An engine writes its own
 * into ROOT/run/endpoint.json and into `status`; a client compares it with its own before it calls.
 *
 *     1   cofa 0.1.0, whose engines do not say it
 *     2   the operations `expect`, `admit`, `podman-add` and `podman-remove`; `overlay`, `program`, `began`, `suid`, `dev`, `noSymlinks`,
 *         `traceparent` and `tracestate` of `mount`; `overlay`, `discard` and `ran` of `unmount`
 *
 * A change that adds an operation, or a word to a request, raises the version, and says below what a client does without it.
 */
export const PROTOCOL = 2;

/** The oldest version whose clients this engine serves, and whose engines this client calls. */
export const OLDEST_PROTOCOL = 1;

/** An operation, or a word of its request, that came after the oldest protocol. */
export interface Addition {
  since: number;
  /**
   * What a client does that calls an older engine: it sends the request without the word, where the answer tells whether
   * the engine did it, or refuses the call.
   */
  otherwise: 'leave-out' | 'refuse';
}

/** By `operation`, or `operation.word`. */
export const ADDITIONS: Readonly<Record<string, Addition>> = {
  expect: { since: 2, otherwise: 'refuse' },
  admit: { since: 2, otherwise: 'refuse' },
  'podman-add': { since: 2, otherwise: 'refuse' },
  'podman-remove': { since: 2, otherwise: 'refuse' },
  'mount.overlay': { since: 2, otherwise: 'leave-out' },
  'mount.program': { since: 2, otherwise: 'leave-out' },
  'mount.began': { since: 2, otherwise: 'leave-out' },
  // Mounts of protocol 1 have both.
  'mount.suid': { since: 2, otherwise: 'leave-out' },
  'mount.dev': { since: 2, otherwise: 'leave-out' },
  'mount.noSymlinks': { since: 2, otherwise: 'refuse' },
  'mount.traceparent': { since: 2, otherwise: 'leave-out' },
  'mount.tracestate': { since: 2, otherwise: 'leave-out' },
  'unmount.overlay': { since: 2, otherwise: 'refuse' },
  'unmount.discard': { since: 2, otherwise: 'leave-out' },
  'unmount.ran': { since: 2, otherwise: 'leave-out' },
};
