/**
 * The engine's users on the operator's NATS: a file for each node with the passwords of its roles, which
 * `cofa up --nats-users` reads, and the accounts for the server's configuration that go with them. `cofa nats-config` makes both.
 */
import { randomBytes } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import type { BusAddress } from './connection.ts';
import { BUS_ROLES, type BusRole, type BusUsers, inboxOf, permissionsOf } from './roles.ts';

const login = z.strictObject({ user: z.string().min(1).max(256), password: z.string().min(1).max(1024) });
const UsersFile = z.strictObject({
  v: z.literal(1),
  /** The permissions of these users are for the subjects of this node alone. */
  node: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/),
  users: z.strictObject(
    Object.fromEntries(BUS_ROLES.map((role) => [role, login])) as Record<BusRole, typeof login>,
  ),
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
  return { v: 1, node, users: Object.fromEntries(entries) as NodeUsers['users'] };
}

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

/** How the roles of a node reach the server. Errors: `invalid-argument` where the users are another node's. */
export function usersOn(
  server: Pick<BusAddress, 'url' | 'ca'>,
  node: string,
  { node: theirs, users }: NodeUsers,
): BusUsers {
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

/** One account of nats-server's configuration, with users of these roles. */
export function accountText(
  name: string,
  users: ReadonlyArray<{ role: BusRole; user: string; password: string; node?: string }>,
): string {
  const lines = users.map(({ role, user, password, node }) => {
    const { publish, denied = [], subscribe } = permissionsOf(role, node);
    const permissions = { publish: { allow: publish, deny: denied }, subscribe: { allow: subscribe } };
    // Strings are quoted as JSON, which the configuration's grammar accepts.
    return `    ${JSON.stringify({ user, password, permissions })}`;
  });
  return [
    `  ${JSON.stringify(name)} {`,
    '    jetstream: enabled',
    '    users: [',
    ...lines,
    '    ]',
    '  }',
  ].join('\n');
}

/**
 * Accounts for the server: each node has one, so that it reads and removes nothing of another's log; the startup packs of all
 * lie in one that they share.
 */
export function accountsText(nodes: readonly NodeUsers[]): string {
  const withNode = (role: BusRole) => (one: NodeUsers) => ({ role, node: one.node, ...one.users[role] });
  const own = nodes.map((one) =>
    accountText(
      `COFA-${one.node}`,
      BUS_ROLES.filter((role) => role !== 'packs').map((role) => withNode(role)(one)),
    ),
  );
  return [
    '# For nats-server: accounts of cofa. Made by `cofa nats-config`; it has passwords.',
    'accounts {',
    ...own,
    accountText('COFA-PACKS', nodes.map(withNode('packs'))),
    '}',
    '',
  ].join('\n');
}
