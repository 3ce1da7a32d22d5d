/**
 * The fleet's manifests (ops/kubernetes-fleet): kustomize renders them, and what stands in them is run here: three nats-servers with
 * that configuration, a fetcher and an engine with those arguments. One server is killed, and the log goes on.
 */
import { execFile, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { jetstreamManager } from '@nats-io/jetstream';
import { afterAll, expect, test } from 'vitest';
import { judgeAtHand } from '../../ops/images/judges.ts';
import { STREAM } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { accountsText, newNodeUsers } from '../../src/bus/user-files.ts';
import { REPLICAS } from '../../src/store/stream.ts';
import { eventually, startEngine } from '../support/engine.ts';
import { freePort } from '../support/ports.ts';
import { type NatsServer, runCommand, startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { parseYaml } from '../support/yaml.ts';
import { LIGHT, untilMet } from './support.ts';

const FOLDER = join(import.meta.dirname, '../../ops/kubernetes-fleet');
const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
const kubernetes = judgeAtHand('kubernetes', { onProgress: (line: string) => console.log(line) });
const cleanup = new Cleanup();
afterAll(() => cleanup.run());

interface Manifest {
  kind: string;
  metadata: { name: string };
  data?: Record<string, string>;
  spec?: { template: { spec: { containers: Array<{ image: string; args: string[] }> } } };
}
const read = (name: string): Manifest[] => parseYaml<Manifest>(readFileSync(join(FOLDER, name)));
const argsOf = (all: Manifest[], kind: string, name: string): string[] =>
  all.find((one) => one.kind === kind && one.metadata.name === name)?.spec?.template.spec.containers[0]
    ?.args ?? [];

test.runIf(kubernetes)('kustomize lays the fleet over the nodes', async () => {
  const said = await runCommand(join(kubernetes as string, 'kubectl'), ['kustomize', FOLDER]);
  const all = parseYaml<Manifest>(said);
  expect(all.map(({ kind, metadata: { name } }) => `${kind} ${name}`).toSorted()).toEqual([
    'ConfigMap cofa-nats',
    'DaemonSet cofa',
    'DaemonSet cofa-configure',
    'DaemonSet cofa-nats',
    'PodDisruptionBudget cofa-fetcher',
    'RuntimeClass cofa-bootstrap',
    'Service cofa-fetcher',
    'ServiceAccount cofa',
    'StatefulSet cofa-fetcher',
  ]);
  expect(argsOf(all, 'DaemonSet', 'cofa')).toEqual(argsOf(read('nodes.yaml'), 'DaemonSet', 'cofa'));
  const config = all.find(({ kind }) => kind === 'ConfigMap')?.data?.['nats.conf'];
  expect(config).toBe(readFileSync(join(FOLDER, 'nats.conf'), 'utf8'));
});

test('three servers, a fetcher and an engine run as the manifests say, also when one server is killed', async () => {
  const directory = await cleanup.tempDir('fleet-kubernetes');
  await certificate(directory);
  const users = ['node-1', 'cofa-fetcher-0'].map(newNodeUsers);
  for (const one of users)
    await writeFile(join(directory, `${one.node}.json`), JSON.stringify(one), { mode: 0o600 });
  const ports = [await freePort(), await freePort(), await freePort()];
  const routes = [await freePort(), await freePort(), await freePort()];
  const text = readFileSync(join(FOLDER, 'nats.conf'), 'utf8');
  const servers: NatsServer[] = await Promise.all(
    ports.map((port, at) => {
      const config = text
        .replace('$NODE_NAME', `server-${at}`)
        .replace('127.0.0.1:8222', '127.0.0.1:-1')
        .replace('  port: 6222', `  listen: 127.0.0.1:${routes[at]}`)
        .replaceAll(
          /10\.0\.0\.1([123]):6222/g,
          (_, number: string) => `127.0.0.1:${routes[Number(number) - 1]}`,
        )
        .replace('store_dir: /data', `store_dir: ${join(directory, `data-${at}`)}`)
        .replaceAll('/etc/nats/tls/', `${directory}/`)
        .replace('include "cofa-accounts.conf"', accountsText(users));
      // The file has its own store.
      return startNats({ config, port, jetstream: false });
    }),
  );
  cleanup.defer(() => Promise.all(servers.map((one) => one.stop())));

  const here = (args: string[], node: string): string[] =>
    args.map((arg) =>
      arg
        .replaceAll(/\$\((NODE_NAME|POD_NAME)\)/g, node)
        .replace('$(POD_IP):7440', '127.0.0.1:7440')
        .replace('10.0.0.11:4222', `localhost:${ports[0]}`)
        .replace('0.0.0.0:7440', '127.0.0.1:0')
        .replace('/etc/cofa/nats/users.json', join(directory, `${node}.json`))
        .replace('/etc/cofa/nats/ca.crt', join(directory, 'ca.crt')),
    );
  const tier = { root: join(directory, 'tier') };
  await mkdir(tier.root);
  const tierArgs = here(argsOf(read('fetcher.yaml'), 'StatefulSet', 'cofa-fetcher'), 'cofa-fetcher-0').filter(
    (arg) => !arg.startsWith('--fleet-address'),
  );
  const fetcher = spawn(
    'setpriv',
    ['--pdeathsig', 'TERM', '--', process.execPath, MAIN, 'fetcher', '--root', tier.root, ...tierArgs],
    { stdio: 'ignore' },
  );
  const ended = new Promise((resolve) => fetcher.once('exit', resolve));
  cleanup.defer(async () => {
    fetcher.kill('SIGTERM');
    await ended;
  });
  const args = here(argsOf(read('nodes.yaml'), 'DaemonSet', 'cofa'), 'node-1');
  const engine = await startEngine({ ...LIGHT, args });
  cleanup.defer(() => engine.stop());
  await untilMet([tier, engine]);

  // The log lies on all three.
  const [{ users: roles }] = users as [(typeof users)[0]];
  const { user, password: pass } = roles.supervisor;
  const address = { user, pass, ca: readFileSync(join(directory, 'ca.crt'), 'utf8') };
  const bus = await connectBus(
    { ...address, url: `tls://localhost:${ports[1]}`, inbox: '_INBOX_supervisor' },
    {
      name: 'test',
      reconnect: false,
    },
  );
  const { config } = await (await jetstreamManager(bus, { checkAPI: false })).streams.info(STREAM);
  await bus.close();
  expect(config.num_replicas).toBe(REPLICAS);
  // The one that the programs of this node are started with: those that start from now on find another.
  process.kill((servers[0] as NatsServer).pid, 'SIGKILL');
  const { fleet: before, 'fetcher-0': fetching } = await engine.pids();
  for (const pid of [before, fetching]) process.kill(pid as number, 'SIGKILL');
  await eventually('the log goes on without that server', async () => {
    const { stdout } = await engine.cli(['replay', '--at', 'end', '--json']);
    const { processes } = JSON.parse(stdout) as { processes: Array<{ name: string; starts: number }> };
    return ['fleet', 'fetcher-0'].every((one) =>
      processes.some(({ name, starts }) => name === one && starts === 2),
    );
  });
  await untilMet([tier, engine]);
});

/** ca.crt, tls.crt and tls.key in the folder: for this machine, as a server and as a client. */
async function certificate(directory: string): Promise<void> {
  const openssl = (...args: string[]) => promisify(execFile)('openssl', args, { cwd: directory });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  await openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.crt', '-subj', '/CN=ca');
  await writeFile(
    join(directory, 'ext'),
    'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n',
  );
  await openssl('req', ...key, '-keyout', 'tls.key', '-out', 'tls.csr', '-subj', '/CN=nats');
  const signed = ['-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', 'ext'];
  await openssl('x509', '-req', '-in', 'tls.csr', ...signed, '-out', 'tls.crt');
}
