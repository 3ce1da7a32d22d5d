/**
 * The engine's users on the operator's NATS: a file for each node with the passwords of its roles, which
 * `cofa up --nats-users` reads, and the accounts for the server's configuration that go with them. `cofa nats-config` makes both.
 */
import { randomBytes } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import { type RightsFile, USER_NAME } from '../../schemas/rights.ts';
import type { BusAddress } from './connection.ts';
import {
  BUS_ROLES,
  type BusPermissions,
  type BusRole,
  type BusUsers,
  fleetPermissionsOf,
  inboxOf,
  permissionsOf,
  userInboxOf,
  userPermissionsOf,
} from './roles.ts';

const login = z.strictObject({ user: z.string().min(1).max(256), password: z.string().min(1).max(1024) });
const UsersFile = z.strictObject({
  v: z.literal(1),
  /** The permissions of these users are for the subjects of this node alone. */
  node: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  users: z.strictObject(
    Object.fromEntries(BUS_ROLES.map((role) => [role, login])) as Record<BusRole, typeof login>,
  ),
  /** As a member of a fleet. Files of an earlier cofa have none. */
  fleet: login.optional(),
  /** Users of the API with limited rights, by the names that the rights file has. */
  apiUsers: z.record(z.string().regex(USER_NAME), login).optional(),
});

/** What lies in the file of one node. */
export type NodeUsers = z.output<typeof UsersFile>;

const MAX_FILE = 64 * 1024;

/** Users of a node with new passwords. */
export function newNodeUsers(node: string): NodeUsers {
  const entries = BUS_ROLES.map((role): [BusRole, { user: string; password: string }] => [
    role,
    { user: `${node}-${role}`, password: randomBytes(24).toString('hex') },
  ]);
  return withFleetUser({ v: 1, node, users: Object.fromEntries(entries) as NodeUsers['users'] });
}

/** The same, with a user for the fleet where there was none. */
export const withFleetUser = (users: NodeUsers): NodeUsers => ({
  ...users,
  fleet: users.fleet ?? { user: `${users.node}-fleet`, password: randomBytes(24).toString('hex') },
});

/**
 * Errors: `invalid-argument` for a file that is not there, not as it should be, or that others than its owner can read. What is
 * in it is not quoted.
 */
export async function readNodeUsers(path: string): Promise<NodeUsers> {
  let text: string;
  try {
    const { mode, size } = await stat(path);
    if ((mode & 0o077) !== 0) {
      throw new CofaError(
        'invalid-argument',
        `${path} has passwords, and others than its owner may read it`,
        {
          hint: `chmod 600 ${path}`,
        },
      );
    }
    text = size > MAX_FILE ? '' : await readFile(path, 'utf8');
  } catch (cause) {
    if (cause instanceof CofaError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    throw new CofaError('invalid-argument', `${path} cannot be read (${code})`, {
      cause,
      hint: 'cofa nats-config NODE makes it',
    });
  }
  const refuse = (why: string) =>
    new CofaError('invalid-argument', `${path}: ${why}`, { hint: 'cofa nats-config NODE makes one' });
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw refuse('it is not JSON');
  }
  const { data, error } = UsersFile.safeParse(content);
  if (data !== undefined) return data;
  throw refuse(`${error.issues[0]?.path.join('.') || 'it'} is not as it should be`);
}

/** A server, or the servers of a cluster. */
export type ServerAddress = Pick<BusAddress, 'url' | 'others' | 'learned' | 'ca'>;

/** How the roles of a node reach the server. Errors: `invalid-argument` where the users are another node's. */
export function usersOn(server: ServerAddress, node: string, { node: theirs, users }: NodeUsers): BusUsers {
  if (theirs !== node) {
    throw new CofaError(
      'invalid-argument',
      `these users of NATS are for the node ${theirs}; this one is ${node}`,
      {
        hint: `cofa up --node ${theirs}, or the file of ${node}`,
      },
    );
  }
  const entries = BUS_ROLES.map((role): [BusRole, BusAddress] => {
    const { user, password } = users[role];
    return [role, { ...server, user, pass: password, inbox: inboxOf(role) }];
  });
  return Object.fromEntries(entries) as Record<BusRole, BusAddress>;
}

/** How the node's member of a fleet reaches the server. Error `invalid-argument` where the file has no user for it. */
export function fleetUserOn(server: ServerAddress, { node, fleet }: NodeUsers): BusAddress {
  if (fleet !== undefined) return { ...server, user: fleet.user, pass: fleet.password };
  throw new CofaError('invalid-argument', `NATS has no user for ${node} as a member of a fleet`, {
    hint: `cofa nats-config ${node} adds it to the file, and to the accounts of the server`,
  });
}

/** How these users with limited rights reach the server. Error `invalid-argument` where one is not in the node's file. */
export function apiUsersOn(
  server: ServerAddress,
  { apiUsers = {} }: NodeUsers,
  names: readonly string[],
): Record<string, BusAddress> {
  const entries = names.map((name): [string, BusAddress] => {
    const known = apiUsers[name];
    if (known === undefined)
      throw new CofaError('invalid-argument', `NATS has no user for ${name}`, {
        hint: 'cofa nats-config --api-users FILE NODE makes it, with the same file',
      });
    return [name, { ...server, user: known.user, pass: known.password, inbox: userInboxOf(name) }];
  });
  return Object.fromEntries(entries);
}

/** The node's users, and those with limited rights, with passwords where one has none yet. */
export function withApiUsers(users: NodeUsers, rights: RightsFile['users']): NodeUsers {
  const entries = Object.keys(rights).map((name) => [
    name,
    users.apiUsers?.[name] ?? {
      user: `${users.node}-api-${name}`,
      password: randomBytes(24).toString('hex'),
    },
  ]);
  return { ...users, apiUsers: Object.fromEntries(entries) };
}

/** A user of nats-server. */
export interface Login {
  user: string;
  password: string;
  permissions: BusPermissions;
}

/** One account of nats-server's configuration, with these users. */
export function accountText(name: string, users: readonly Login[], hasStreams = true): string {
  const lines = users.map(({ user, password, permissions: { publish, denied = [], subscribe } }) => {
    const permissions = { publish: { allow: publish, deny: denied }, subscribe: { allow: subscribe } };
    // Strings are quoted as JSON, which the configuration's grammar accepts.
    return `    ${JSON.stringify({ user, password, permissions })}`;
  });
  return [
    `  ${JSON.stringify(name)} {`,
    ...(hasStreams ? ['    jetstream: enabled'] : []),
    '    users: [',
    ...lines,
    '    ]',
    '  }',
  ].join('\n');
}

/** Members of fleets meet in an account of their own: it has no streams. */
function fleetAccount(nodes: readonly NodeUsers[]): string[] {
  const members = nodes.flatMap(({ node, fleet }) =>
    fleet === undefined ? [] : [{ ...fleet, permissions: fleetPermissionsOf(node) }],
  );
  return members.length === 0 ? [] : [accountText('COFA-FLEET', members, false)];
}

/**
 * Accounts for the server: each node has one, so that it reads and removes nothing of another's log; the startup packs of all
 * lie in one that they share, and so do the announcements of fleets in another one. `rights`: of the nodes' users with limited rights.
 */
export function accountsText(nodes: readonly NodeUsers[], rights: RightsFile['users'] = {}): string {
  const withNode = (role: BusRole) => (one: NodeUsers) => ({
    ...one.users[role],
    permissions: permissionsOf(role, one.node),
  });
  const limited = ({ node, apiUsers = {} }: NodeUsers) =>
    Object.entries(apiUsers).flatMap(([name, login]) => {
      const own = rights[name];
      return own === undefined ? [] : [{ ...login, permissions: userPermissionsOf(name, own, node) }];
    });
  const own = nodes.map((one) =>
    accountText(`COFA-${one.node}`, [
      ...BUS_ROLES.filter((role) => role !== 'packs').map((role) => withNode(role)(one)),
      ...limited(one),
    ]),
  );
  return [
    '# For nats-server: accounts of cofa. Made by `cofa nats-config`; it has passwords.',
    'accounts {',
    ...own,
    accountText('COFA-PACKS', nodes.map(withNode('packs'))),
    ...fleetAccount(nodes),
    '}',
    '',
  ].join('\n');
}
