/** When a mount had come how far, for `cofa replay why`. */
import type { EventOf } from '../../../schemas/events.ts';
import { nameLookups } from '../../registry/name-lookups.ts';

type Steps = NonNullable<EventOf<'mount.mounted'>['steps']>;

export class StartSteps {
  readonly #now: () => number;
  readonly #lookups: { since(from: number): number };
  readonly #since: number;
  readonly #log: { readonly appendedMs: number };
  readonly #appendedBefore: number;
  readonly #at: Partial<Steps> = {};

  /** `now`: the wall clock. `since`: monotonic, ms. `log`: for how long appends have been waited for. */
  constructor(
    log: { readonly appendedMs: number },
    now: () => number = Date.now,
    since: number = performance.now(),
    lookups = nameLookups,
  ) {
    this.#log = log;
    this.#appendedBefore = log.appendedMs;
    this.#now = now;
    this.#since = since;
    this.#lookups = lookups;
  }

  /** It is known what the name means. */
  resolved(): void {
    this.#at.resolved = this.#now();
  }

  /** The log has the request. */
  logged(): void {
    this.#at.logged = this.#now();
  }

  /** The image's devices are there. `prepared`: when its flat image was in the store; undefined: before this mount. */
  attached(prepared: number | undefined): void {
    if (prepared !== undefined) this.#at.prepared = prepared;
    this.#at.attached = this.#now();
  }

  /** The file system is mounted. */
  standing(): void {
    this.#at.standing = this.#now();
    this.#at.logUs = Math.round(1000 * (this.#log.appendedMs - this.#appendedBefore));
  }

  /** For `mount.mounted`, none before the one in front of it; undefined where one is missing. */
  take(): Steps | undefined {
    const { resolved, logged, prepared, attached, standing, logUs = 0 } = this.#at;
    if (resolved === undefined || logged === undefined || attached === undefined || standing === undefined)
      return undefined;
    const readyAt = Math.min(attached, Math.max(logged, prepared ?? logged));
    const lookupUs = this.#lookups.since(this.#since);
    const steps = { resolved, logged, prepared: readyAt, attached, standing, logUs };
    return lookupUs > 0 ? { ...steps, lookupUs } : steps;
  }
}
