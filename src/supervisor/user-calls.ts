/**
 * Calls of users with limited rights: what each request touches, whether its user may (actors/rights.ts), and what of an answer
 * the user may see.
 */
import { realpath } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isBelow, isOneOf, refusal, type Wish } from '../../actors/rights.ts';
import type { AcceptedOf, Operation, Status } from '../../schemas/api.ts';
import { CofaError, fromErrorRecord } from '../../schemas/errors.ts';
import type { RightsFile, UserRights } from '../../schemas/rights.ts';
import { policyNamed, type TrustPolicy } from '../../schemas/trust.ts';
import { parseReference, type Reference } from '../registry/reference.ts';

export interface UserCallsOptions {
  /** The users' rights as they are now. */
  users: () => Promise<RightsFile['users']>;
  /** The engine's. */
  policy: TrustPolicy;
  /** Where mounts are. */
  dirs: () => readonly string[];
  /** Monotonic, ms. */
  now: () => number;
}

/** Requests of a user in a second; more are refused before they are read. */
const MOST_A_SECOND = 100;
const SECOND_MS = 1_000;
/** Users that are counted. */
const MOST_USERS = 1_000;

type AnyRequest = { [O in Operation]: AcceptedOf<O> }[Operation];

export class UserCalls {
  readonly #options: UserCallsOptions;
  readonly #running = new Map<string, number>();
  /** Of each user: the second that runs, its requests, and whether the log has heard of one that failed. */
  readonly #seconds = new Map<string, { from: number; requests: number; isNoted: boolean }>();

  constructor(options: UserCallsOptions) {
    this.#options = options;
  }

  /** Counts a request. False: it is one too many in this second. */
  isInPace(user: string): boolean {
    const second = this.#secondOf(user);
    second.requests += 1;
    return second.requests <= MOST_A_SECOND;
  }

  /** Whether the log hears of a call that failed: a user who is refused again and again must not fill the disk. */
  mayNote(user: string): boolean {
    const second = this.#secondOf(user);
    if (second.isNoted) return false;
    second.isNoted = true;
    return true;
  }

  #secondOf(user: string) {
    const now = this.#options.now();
    const known = this.#seconds.get(user);
    if (known !== undefined && now - known.from < SECOND_MS) return known;
    if (this.#seconds.size >= MOST_USERS) this.#seconds.clear();
    const next = { from: now, requests: 0, isNoted: false };
    this.#seconds.set(user, next);
    return next;
  }

  /** How long a call of the user may take in all, ms. Error `forbidden`: it has no rights, or no longer. */
  async deadlineOf(user: string): Promise<number> {
    return (await this.#rightsOf(user)).seconds * 1000;
  }

  /**
   * Runs a checked request where its user may make it; `run` gets it as tight as the user's rights are. Errors: `forbidden`, `invalid-argument` (a path that is not written
   * plainly, or has a symbolic link in it), `busy` (too many calls, too many mounts); those of `run`. A call counts until its
   * work has ended, also where its caller has heard of a `timeout`.
   */
  async run(
    user: string,
    operation: Operation,
    request: AnyRequest,
    run: (request: AnyRequest) => Promise<unknown>,
  ): Promise<unknown> {
    const rights = await this.#rightsOf(user);
    const wish = wishOf(operation, request);
    const calls = this.#running.get(user) ?? 0;
    const { policy, dirs } = this.#options;
    const refused = refusal(rights, wish, { policy, calls, dirs: dirs() });
    if (refused !== undefined) throw fromErrorRecord(refused);
    this.#running.set(user, calls + 1);
    try {
      if (operation === 'mount' && wish.dir !== undefined) await refuseLinks(wish.dir);
      const result = await run(tightened(operation, request));
      return operation === 'status' ? visible(rights, result as Status) : result;
    } finally {
      this.#running.set(user, (this.#running.get(user) ?? 1) - 1);
    }
  }

  async #rightsOf(user: string): Promise<UserRights> {
    const users = await this.#options.users();
    const rights = Object.hasOwn(users, user) ? users[user] : undefined;
    if (rights === undefined) throw new CofaError('forbidden', `this engine knows no user ${user}`);
    return rights;
  }
}

/** What a request touches. Error `invalid-argument`: a reference that is none. */
function wishOf(operation: Operation, request: AnyRequest): Wish {
  const said = request as Partial<
    AcceptedOf<'mount'> & AcceptedOf<'unmount'> & AcceptedOf<'scrub'> & AcceptedOf<'chain'>
  >;
  const { ref, dir, trust } = said;
  const image = ref === undefined || IMAGE_ID.test(ref) ? undefined : parseReference(ref);
  return {
    operation,
    dir,
    trust: trust === undefined ? undefined : policyNamed(trust),
    image,
    anyImage: mayTouchAny(operation, ref, image),
    internal: Object.entries(request).some(([word, value]) => !WORDS.has(word) && saysMore(value)),
  };
}

/**
 * What users with limited rights may say. The others are root's: containers and their writable roots, set-user-ID programs and
 * devices of an image.
 */
const WORDS = new Set(
  'ref dir noSymlinks platform prefetch prefetchLimit trust layers start program chain manifest'
    .concat(' all dryRun keepBytes layer repair bytesPerSecond force')
    .split(' '),
);
const saysMore = (value: unknown): boolean => value !== undefined && value !== false;

/** Digits of a digest, which `remove` and `scrub` take for an image's name. */
const IMAGE_ID = /^(sha256:)?[0-9a-f]{6,64}$/;
/** They touch images also where they name none; `chain` names one by its layers. */
const ABOUT_IMAGES = new Set<Operation>(['chain', 'prune', 'remove', 'scrub', 'scrub-stop']);

/**
 * Whether the request may mean an image that its reference does not name. A mount is asked of the named repository; the others
 * take what the node has by its digest alone.
 */
function mayTouchAny(operation: Operation, ref: string | undefined, image: Reference | undefined): boolean {
  if (ref !== undefined && image === undefined) return true;
  if (!ABOUT_IMAGES.has(operation)) return false;
  return operation === 'chain' || image === undefined || image.digest !== undefined;
}

/** No link is followed when it is mounted, or comes back after a restart: a look before is out of date by then. */
const tightened = (operation: Operation, request: AnyRequest): AnyRequest =>
  operation === 'mount' ? { ...(request as AcceptedOf<'mount'>), noSymlinks: true } : request;

/**
 * Who owns a folder can put a symbolic link below it. Error `invalid-argument` where the part of the path that is there has
 * another name.
 */
async function refuseLinks(dir: string): Promise<void> {
  for (let path = dir; ; path = dirname(path)) {
    const real = await realpath(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' && path !== '/') return undefined;
      throw new CofaError('invalid-argument', `${dir} cannot be looked at (${error.code})`, { cause: error });
    });
    if (real === undefined) continue;
    if (real === path) return;
    throw new CofaError('invalid-argument', `${dir} has a symbolic link in it`, {
      hint: `${path} is ${real}`,
    });
  }
}

/** What a user may see of the node: its own mounts and images, and whether the engine is well. */
function visible(rights: UserRights, status: Status): Status {
  const seesAll = rights.images.includes('*');
  const isTheirs = (ref: string): boolean => {
    try {
      return isOneOf(parseReference(ref), rights.images);
    } catch {
      // Part of an image, which containerd's snapshotter has.
      return seesAll;
    }
  };
  const { podman: _podman, ...others } = status;
  return {
    ...(seesAll ? status : others),
    mounts: status.mounts.filter(({ dir }) => isBelow(dir, rights.dirs)),
    images: status.images.filter(({ ref }) => isTheirs(ref)),
    degraded: seesAll || status.degraded.length === 0 ? status.degraded : ['the engine is degraded'],
  };
}
