/** Speaks the FUSE kernel protocol from threads that block in read(2). */
import { CofaError } from '../../schemas/errors.ts';
import type { ColdRead, FuseTransport } from './transport.ts';

export interface KernelTransportOptions {
  /** The session's descriptor. */
  fd: number;
  /** `FuseSession.resend`: first of all ask the kernel for what a predecessor left unanswered. */
  resend: boolean;
  cold: ColdRead;
  /** Threads that take requests; 2 by default. */
  threads?: number;
  /** Warm standby: threads are started but take nothing before `begin()`. */
  standby?: boolean;
  /** How long after the start a request for a file not added yet may wait for it, ms; 10,000 by default. */
  holdMs?: number;
}

export interface KernelTransport extends FuseTransport {
  /** Ends the standby. */
  begin(): void;
  /** All files are added again: requests for unknown ones fail from now on instead of waiting. */
  settled(): void;
}

export function kernelTransport(options: KernelTransportOptions): KernelTransport {
  throw new CofaError('internal', `not there yet: ${options.fd}`);
}
