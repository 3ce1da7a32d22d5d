/** `cofa nats-config NODE…`: what the operator's NATS has to know of cofa's roles, and what the nodes have to know. */
import { chmod, readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { type Context, examples } from './context.ts';

/** To lie beside the server's own configuration: its `include` looks nowhere else. */
const SERVER_FILE = 'cofa-accounts.conf';
const nodeFile = (node: string) => `${node}.json`;

export function define(command: Command, context: Context): void {
  command
    .description(
      'Make users for the roles of nodes that share a nats-server: accounts for its configuration, and for each node a file for `cofa up --nats-users`. Nodes that have a file already keep their passwords.',
    )
    .argument('<node...>', 'names of nodes, as with `cofa up --node`')
    .option('--dir <dir>', 'where the files are written, for root alone', '/etc/cofa/nats')
    .option('--api-users <file>', 'also make users of the API with limited rights: the file of `cofa up`')
    .action(async (nodes: string[], { dir, apiUsers }: { dir: string; apiUsers?: string }) => {
      await make({ nodes, dir: resolve(dir), apiUsers }, context);
    });
  examples(command, [
    ['cofa nats-config node-1 node-2', 'files in /etc/cofa/nats'],
    ['cofa nats-config node-3', 'one more; the others stay as they are'],
    ['cofa nats-config --dir . node-1', ''],
  ]);
}

interface Wanted {
  nodes: readonly string[];
  dir: string;
  /** File of users with limited rights. */
  apiUsers: string | undefined;
}

async function make({ nodes, dir, apiUsers }: Wanted, context: Context): Promise<void> {
  const { accountsText, newNodeUsers, readNodeUsers, withApiUsers, withFleetUser } = await import(
    '../bus/user-files.ts'
  );
  const { readRights } = await import('../bus/rights-file.ts');
  const { writeWhole } = await import('../store/layout.ts');
  const { makeFolder } = await import('../kernel/make-folder.ts');
  for (const node of nodes) {
    if (/^[A-Za-z0-9_-]{1,64}$/.test(node)) continue;
    throw new CofaError('invalid-argument', `${JSON.stringify(node)} is no name of a node`, {
      hint: 'letters, digits, _ and -, at most 64',
    });
  }
  await makeFolder(dir, 0o700);
  const there = (await readdir(dir)).filter((name) => name.endsWith('.json'));
  const known = await Promise.all(there.map((name) => readNodeUsers(join(dir, name))));
  const all = new Map(known.map((users) => [users.node, users]));
  if (apiUsers === undefined && known.some((users) => users.apiUsers !== undefined)) {
    throw new CofaError('invalid-argument', 'these nodes have users with limited rights', {
      hint: '--api-users FILE: what each of them may do stands in the accounts as well',
    });
  }
  const rights = apiUsers === undefined ? undefined : await readRights(apiUsers);
  const made: string[] = [];
  for (const node of new Set([...all.keys(), ...nodes])) {
    const before = all.get(node);
    const base = before === undefined ? newNodeUsers(node) : withFleetUser(before);
    const users = rights === undefined ? base : withApiUsers(base, rights);
    all.set(node, users);
    if (before !== undefined && JSON.stringify(before) === JSON.stringify(users)) continue;
    const path = join(dir, nodeFile(node));
    await writeWhole(path, Buffer.from(`${JSON.stringify(users, null, 2)}\n`));
    made.push(path);
  }
  const sorted = [...all.values()].toSorted((a, b) => (a.node < b.node ? -1 : 1));
  const server = join(dir, SERVER_FILE);
  await writeWhole(server, Buffer.from(accountsText(sorted, rights)));
  await chmod(server, 0o600);
  const result = {
    server,
    nodes: sorted.map(({ node }) => ({ node, file: join(dir, nodeFile(node)) })),
    made,
  };
  context.output.data(result, () => {
    if (context.output.quiet) return '';
    const lines = [...made, server].map((path) => `wrote ${path}\n`).join('');
    const ups = nodes.map(
      (node) => `  cofa up --nats tls://HOST:4222 --node ${node} --nats-users ${join(dir, nodeFile(node))}\n`,
    );
    return `${lines}
on the server, which needs jetstream: copy ${SERVER_FILE} beside its configuration, and there
  include "${SERVER_FILE}"
  tls { cert_file: "…", key_file: "…" }
and then: nats-server --signal reload
on the nodes, each with its own file (mode 0600), and --nats-ca FILE where the authority is your own:
${ups.join('')}`;
  });
}
