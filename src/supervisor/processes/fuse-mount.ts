/**
 * The FUSE mount, which outlives the front ends that serve it: its descriptor, what guards it, and the stand-in that answers EIO
 * when readers have waited for a front end for too long. It is made anew where it cannot be handed on: when its connection was
 * aborted, and before kernel 6.9 whenever a front end dies.
 */
import type { Logger } from 'pino';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import { type Guard, startGuard } from '../../fuse/guard.ts';
import { type FuseSession, openFuseSession } from '../../fuse/session.ts';
import { type StandIn, startStandIn } from '../../fuse/stand-in.ts';

export interface FuseMountOptions {
  folder: string;
  log: Logger;
  /** No new mount could be made in the place of the one that was given up. */
  onFailed: (message: string) => void;
}

export class FuseMount {
  readonly #options: FuseMountOptions;
  #session: FuseSession | undefined;
  #guard: Guard | undefined;
  #standIn: StandIn | undefined;
  /** Reads that stand-ins of before have answered. */
  #failedReads = 0;
  /** Its connection was aborted. */
  #isCut = false;
  /** It is a new one since the loops were attached. */
  #isNew = false;
  #isClosed = false;

  constructor(options: FuseMountOptions) {
    this.#options = options;
  }

  /** Goes on with the mount that is `handed` over, else makes one; the folder must be there. Errors: those of `openFuseSession`. */
  async open(handed?: FuseSession): Promise<void> {
    this.#take(handed ?? (await openFuseSession(this.#options.folder)));
  }

  /** What is mounted now; undefined before `open`, while another one is made, and after `close`. */
  get session(): FuseSession | undefined {
    return this.#session;
  }

  /** The descriptor for a front end. Error `environment` while there is none. */
  get fd(): number {
    if (this.#session === undefined) throw new CofaError('environment', 'there is no FUSE mount');
    return this.#session.fd;
  }

  /** Whether the kernel can have what was in flight sent again to a successor. */
  get resend(): boolean {
    return this.#session?.resend ?? false;
  }

  /** Whether the loops stand on an earlier mount; from now on they do not. */
  takeIsNew(): boolean {
    const isNew = this.#isNew;
    this.#isNew = false;
    return isNew;
  }

  /** Its connection was aborted from outside, for good: no front end can serve it any more. False where that is known. */
  cut(): boolean {
    if (this.#isClosed || this.#isCut || this.#session === undefined) return false;
    this.#isCut = true;
    this.#options.log.error('the FUSE connection was aborted from outside: the mount is made anew');
    return true;
  }

  /** The front end that served it has died. */
  afterDeath(): void {
    if (this.#session !== undefined && (this.#isCut || !this.#session.resend)) this.renew();
  }

  /** Gives it up with all that waits on it, and makes another one, to which the loops are moved later. */
  renew(): void {
    const { folder, log, onFailed } = this.#options;
    this.#letGo();
    this.#isCut = false;
    this.#isNew = true;
    openFuseSession(folder).then(
      (session) => this.#take(session),
      (error: unknown) => {
        log.error({ error }, 'no FUSE mount');
        onFailed(`no FUSE mount: ${toErrorRecord(error).message}`);
      },
    );
  }

  /** Whether the supervisor answers in place of a front end. */
  get hasStandIn(): boolean {
    return this.#standIn !== undefined;
  }

  /** Reads that the supervisor has answered with EIO. */
  get failedReads(): number {
    return this.#failedReads + (this.#standIn?.reads ?? 0);
  }

  /** Answers EIO to what waits and to what comes, until a front end begins. Where that fails the mount is made anew. */
  standIn(): void {
    if (this.#session === undefined || this.#standIn !== undefined || this.#isClosed) return;
    try {
      this.#standIn = startStandIn(this.#session);
    } catch (error) {
      this.#options.log.error({ error }, 'the supervisor cannot answer in place of the front end');
      this.renew();
    }
  }

  endStandIn(): void {
    if (this.#standIn === undefined) return;
    this.#options.log.info({ answered: this.#standIn.answered }, 'a front end begins: EIO is over');
    this.#failedReads += this.#standIn.reads;
    this.#standIn.stop();
    this.#standIn = undefined;
  }

  /** Aborts what waits, and unmounts. */
  close(): void {
    this.#isClosed = true;
    this.#letGo();
  }

  #letGo(): void {
    this.#guard?.stop();
    this.#session?.close();
    this.#session = undefined;
  }

  #take(session: FuseSession): void {
    // It was closed while this one was made.
    if (this.#isClosed) return session.close();
    this.#session = session;
    try {
      this.#guard = startGuard(session.connection);
    } catch (error) {
      this.#options.log.warn({ error }, 'the FUSE mount is not guarded');
    }
  }
}
