/**
 * What users of the API may do whom the operator does not trust with the whole node: the file of `cofa up --api-users`, one
 * entry a user. A user has what its entry says and nothing else (actors/rights.ts; docs/api.md, "Users with rights").
 */
import { z } from 'zod';
import { OPERATIONS } from './api.ts';
import { TRUST_POLICIES } from './trust.ts';

/** A token of a NATS subject, and part of a file's name. */
export const USER_NAME = /^[a-z0-9][a-z0-9-]{0,31}$/;

type OperationName = keyof typeof OPERATIONS;

/**
 * Not for users: the engine believes the image service what a client has pulled, and a user could claim any layer for a
 * repository of its own; what podman shows belongs to root.
 */
export const isOfServices = (operation: OperationName): operation is Reserved => RESERVED.has(operation);
type Reserved = 'admit' | 'podman-add' | 'podman-remove';
const RESERVED: ReadonlySet<OperationName> = new Set<Reserved>(['admit', 'podman-add', 'podman-remove']);

const OF_USERS = (Object.keys(OPERATIONS) as OperationName[]).filter(
  (operation): operation is Exclude<OperationName, Reserved> => !isOfServices(operation),
);

/** Beside the operations: to watch the node's events as they come. */
export const RIGHTS = [...OF_USERS, 'events'] as const;

/** One writing for each path: no `.`, `..`, doubled or trailing slashes. */
export const isCanonicalPath = (path: string): boolean =>
  path === '/' || (/^(\/[^/\0]+)+$/.test(path) && !/\/\.{1,2}(\/|$)/.test(path));

const folder = z
  .string()
  .max(4096)
  .refine(isCanonicalPath, 'must be an absolute path without .., // and trailing /');

/** A registry, or a repository or its first parts below one, written out: `docker.io/library/debian`. */
const imagePrefix = z
  .string()
  .max(512)
  .regex(
    /^(\*|[a-z0-9.-]+(:[0-9]{1,5})?(\/[a-z0-9._-]+)*)$/,
    'must be *, REGISTRY or REGISTRY/REPOSITORY, such as docker.io/library/debian',
  )
  .refine(
    (prefix) => prefix === '*' || /[.:]|^localhost(\/|$)/.test(prefix.split('/')[0] ?? ''),
    'must begin with its registry, such as docker.io',
  );

const ADMIT = 'admit is the image service\'s: take it out of "operations"';

export const UserRights = z.strictObject({
  operations: z
    .array(z.enum(RIGHTS, { error: ({ input }) => (input === 'admit' ? ADMIT : undefined) }))
    .min(1)
    .max(64)
    .describe('operations that the user may call; events: watch the log'),
  dirs: z.array(folder).max(256).default([]).describe('mounts and unmounts strictly below these folders'),
  images: z
    .array(imagePrefix)
    .max(256)
    .default([])
    .describe('images of these registries and repositories, and of those below; * for all'),
  trust: z
    .array(z.enum(TRUST_POLICIES))
    .max(16)
    .optional()
    .describe(
      "policies that a request may ask for, where they are as tight as the engine's; all such by default",
    ),
  calls: z.int().min(1).max(256).default(8).describe('calls side by side'),
  seconds: z.int().min(1).max(86_400).default(600).describe('a call may take so long in all'),
  mounts: z.int().min(0).max(100_000).default(64).describe('mounts that may exist below its folders'),
});
export type UserRights = z.output<typeof UserRights>;

export const RightsFile = z.strictObject({
  v: z.literal(1),
  users: z.record(
    z.string().regex(USER_NAME, 'a user is named by lower-case letters, digits and -, at most 32'),
    UserRights,
  ),
});
export type RightsFile = z.output<typeof RightsFile>;
