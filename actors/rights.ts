/**
 * What a user of the API with limited rights may do. The engine knows who asks by the subject, to which nats-server lets that
 * user alone publish. Everything that a request touches has to lie within the user's rights; what the rights do not name is
 * refused, and so is what cannot be judged.
 */
import type { Operation } from '../schemas/api.ts';
import type { ErrorRecord } from '../schemas/errors.ts';
import { isCanonicalPath, isOfServices, type UserRights } from '../schemas/rights.ts';
import { isTighterOrEqual, type TrustPolicy } from '../schemas/trust.ts';

/** What a request touches. */
export interface Wish {
  operation: Operation;
  dir?: string | undefined;
  /** The image that it names; `undefined`: none. */
  image?: ImageName | undefined;
  /** The images that it names by an id, or by naming none: it may touch any. */
  anyImage?: boolean;
  trust?: TrustPolicy | undefined;
  /** It has words that are root's: containers and their writable roots, suid, dev. */
  internal?: boolean;
}

/** An image by its registry and repository, with docker's defaults filled in. */
export interface ImageName {
  domain: string;
  repository: string;
}

/** What is so when the request comes. */
export interface RightsFacts {
  /** The engine's policy. */
  policy: TrustPolicy;
  /** Calls of this user that are running. */
  calls: number;
  /** Where mounts are, whose ever they are. */
  dirs: readonly string[];
}

/** Why a request is refused; undefined where it may be carried out. */
export function refusal(rights: UserRights, wish: Wish, facts: RightsFacts): ErrorRecord | undefined {
  return (
    forbidden(rights, wish, facts.policy) ??
    (facts.calls >= rights.calls ? busy(`${facts.calls} calls of yours are running`) : undefined) ??
    (wish.operation === 'mount' ? tooManyMounts(rights, facts.dirs) : undefined)
  );
}

function forbidden(rights: UserRights, wish: Wish, policy: TrustPolicy): ErrorRecord | undefined {
  const { operation, dir, image, trust } = wish;
  if (isOfServices(operation) || !rights.operations.includes(operation))
    return refuse(`you may not call ${operation}`);
  if (wish.internal === true) return refuse(`${operation} has words that are root's: containers, suid, dev`);
  if (dir !== undefined && !isCanonicalPath(dir))
    return refuse(`${operation}: a path without "..", "//" and trailing "/"`, 'invalid-argument');
  if (dir !== undefined && !isBelow(dir, rights.dirs)) return refuse(`${dir} is not below a folder of yours`);
  if (wish.anyImage === true && !rights.images.includes('*'))
    return refuse(`${operation} without an image's name touches images of others`);
  if (image !== undefined && !isOneOf(image, rights.images))
    return refuse(`${image.domain}/${image.repository} is not among your images`);
  if (trust !== undefined && !mayAskFor(trust, rights, policy))
    return refuse(`you may not ask for trust ${trust}; the engine's is ${policy}`);
  return undefined;
}

/** Strictly: a mount over a folder of one's own would cover what others have below it. */
export const isBelow = (dir: string, folders: readonly string[]): boolean =>
  isCanonicalPath(dir) &&
  folders.some((folder) => dir !== folder && dir.startsWith(folder === '/' ? '/' : `${folder}/`));

/** Prefixes end where a part of a name ends: `docker.io/lib` is no prefix of `docker.io/library/debian`. */
export function isOneOf({ domain, repository }: ImageName, prefixes: readonly string[]): boolean {
  const name = `${domain}/${repository}/`;
  return prefixes.some((prefix) => prefix === '*' || name.startsWith(`${prefix}/`));
}

const mayAskFor = (trust: TrustPolicy, rights: UserRights, policy: TrustPolicy): boolean =>
  isTighterOrEqual(trust, policy) && rights.trust?.includes(trust) !== false;

function tooManyMounts(rights: UserRights, dirs: readonly string[]): ErrorRecord | undefined {
  const count = dirs.filter((dir) => isBelow(dir, rights.dirs)).length;
  return count >= rights.mounts
    ? busy(`${count} mounts are below your folders, and you may have ${rights.mounts}`)
    : undefined;
}

const refuse = (message: string, code: 'forbidden' | 'invalid-argument' = 'forbidden'): ErrorRecord => ({
  code,
  message,
  ...(code === 'forbidden'
    ? { hint: "the operator's file of cofa up --api-users says what you may do" }
    : {}),
});

const busy = (message: string): ErrorRecord => ({
  code: 'busy',
  message,
  hint: 'wait until some have ended',
});
