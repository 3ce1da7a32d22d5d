/** `cofa nats-config NODE…`: what the operator's NATS has to know of cofa's roles, and what the nodes have to know. */
import { chmod, mkdir, readdir } from 'node:fs/promises';
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
    .action(async (nodes: string[], { dir }: { dir: string }) => {
      await make(nodes, resolve(dir), context);
    });
  examples(command, [
    ['cofa nats-config node-1 node-2', 'files in /etc/cofa/nats'],
    ['cofa nats-config node-3', 'one more; the others stay as they are'],
    ['cofa nats-config --dir . node-1', ''],
  ]);
}

async function make(nodes: readonly string[], dir: string, context: Context): Promise<void> {
  const { accountsText, newNodeUsers, readNodeUsers } = await import('../bus/user-files.ts');
  const { writeWhole } = await import('../store/layout.ts');
  for (const node of nodes) {
    if (/^[A-Za-z0-9_-]{1,64}$/.test(node)) continue;
    throw new CofaError('invalid-argument', `${JSON.stringify(node)} is no name of a node`, {
      hint: 'letters, digits, _ and -, at most 64',
    });
  }
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const there = (await readdir(dir)).filter((name) => name.endsWith('.json'));
  const known = await Promise.all(there.map((name) => readNodeUsers(join(dir, name))));
  const all = new Map(known.map((users) => [users.node, users]));
  const made: string[] = [];
  for (const node of nodes) {
    if (all.has(node)) continue;
    const users = newNodeUsers(node);
    all.set(node, users);
    const path = join(dir, nodeFile(node));
    await writeWhole(path, Buffer.from(`${JSON.stringify(users, null, 2)}\n`));
    made.push(path);
  }
  const sorted = [...all.values()].toSorted((a, b) => (a.node < b.node ? -1 : 1));
  const server = join(dir, SERVER_FILE);
  await writeWhole(server, Buffer.from(accountsText(sorted)));
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
