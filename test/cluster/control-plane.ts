/**
 * The control plane of a cluster: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, as they are, on free
 * loopback ports. Everyone proves who he is by a token; the API server proves it to the kubelet by a certificate.
 */
import { spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { eventually } from '../support/engine.ts';
import { freePort } from '../support/ports.ts';
import { makeCertificates } from '../support/registry-server.ts';
import { type RunOptions, runCommand, startService } from '../support/services.ts';
import type { Cleanup } from '../support/temp.ts';

export interface ControlPlane {
  /** kubeconfig of the node's kubelet. */
  kubeletConfig: string;
  /** Of the API server's client certificate. */
  clientCa: string;
  /** Runs kubectl as an administrator and returns stdout; throws with stderr. */
  kubectl(args: string[], options?: RunOptions): Promise<string>;
  /** Runs kubectl until it is stopped, or ends; `onLine` hears what it prints. */
  follow(args: string[], onLine: (line: string) => void): { stop(): Promise<void> };
  /** `kubectl apply` of these objects. */
  apply(...objects: object[]): Promise<void>;
  /** `kubectl get ARGS -o json` */
  get<T>(...args: string[]): Promise<T>;
}

export interface ControlPlaneOptions {
  /** Folder of Kubernetes' programs. */
  programs: string;
  node: string;
  cleanup: Cleanup;
}

const GROUPS = {
  admin: 'system:masters',
  'system:kube-controller-manager': '',
  'system:kube-scheduler': '',
} as const;

/** Starts it; returns when the API server is ready. */
export async function startControlPlane({
  programs,
  node,
  cleanup,
}: ControlPlaneOptions): Promise<ControlPlane> {
  const folder = await cleanup.tempDir('k8s');
  const at = (name: string) => join(folder, name);
  await makeCertificates(folder);
  await runCommand('openssl', ['genrsa', '-out', at('accounts.key'), '2048']);
  const port = await freePort();
  const kubelet = `system:node:${node}`;
  const users = Object.entries({ ...GROUPS, [kubelet]: 'system:nodes' });
  const lines = users.map(([user, group]) => `${tokenOf(user)},${user},${user},"${group}"`);
  await writeFile(at('tokens.csv'), `${lines.join('\n')}\n`);
  const configs = new Map<string, string>();
  for (const [user] of users) {
    const file = at(`${user.replaceAll(':', '-')}.json`);
    await writeFile(file, kubeconfig(port, at('ca.crt'), tokenOf(user)));
    configs.set(user, file);
  }
  const configOf = (user: string) => configs.get(user) as string;
  const start = async (
    name: string,
    options: Readonly<Record<string, string | number | boolean>>,
    ready: () => Promise<boolean>,
  ) => {
    await mkdir(at(name));
    const args = Object.entries(options).map(([option, value]) => `--${option}=${value}`);
    const service = await startService({
      name,
      command: join(programs, name),
      args,
      directory: at(name),
      ready,
    });
    cleanup.defer(() => service.stop());
  };

  const [clients, peers] = [await freePort(), await freePort()].map((one) => `http://127.0.0.1:${one}`) as [
    string,
    string,
  ];
  const isUp = async () => (await fetch(`${clients}/health`).catch(() => undefined))?.ok === true;
  const stored = {
    name: 'etcd',
    'data-dir': at('etcd/data'),
    'unsafe-no-fsync': true,
    'listen-client-urls': clients,
    'advertise-client-urls': clients,
    'listen-peer-urls': peers,
    'initial-advertise-peer-urls': peers,
    'initial-cluster': `etcd=${peers}`,
  };
  await start('etcd', stored, isUp);

  const [client, first] = [join(programs, 'kubectl'), ['--kubeconfig', configOf('admin')]];
  const kubectl = (args: string[], options: RunOptions = {}) =>
    runCommand(client, [...first, ...args], { ...options, env: { HOME: folder, ...options.env } });
  const follow: ControlPlane['follow'] = (args, onLine) => {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', client, ...first, ...args], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, HOME: folder },
    });
    const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
    createInterface({ input: child.stdout }).on('line', onLine);
    return {
      stop: async () => {
        child.kill();
        await ended;
      },
    };
  };
  const answers = () =>
    kubectl(['get', '--raw', '/readyz'], { timeoutMs: 5000 }).then(
      () => true,
      () => false,
    );
  const api = {
    'etcd-servers': clients,
    'bind-address': '127.0.0.1',
    'secure-port': port,
    'tls-cert-file': at('server.crt'),
    'tls-private-key-file': at('server.key'),
    'client-ca-file': at('ca.crt'),
    'token-auth-file': at('tokens.csv'),
    'authorization-mode': 'Node,RBAC',
    'enable-admission-plugins': 'NodeRestriction',
    'service-account-issuer': 'https://kubernetes.default.svc',
    'service-account-key-file': at('accounts.key'),
    'service-account-signing-key-file': at('accounts.key'),
    'service-cluster-ip-range': '198.51.100.0/24',
    'endpoint-reconciler-type': 'none',
    'kubelet-client-certificate': at('client.cert'),
    'kubelet-client-key': at('client.key'),
    'kubelet-preferred-address-types': 'Hostname',
    'allow-privileged': true,
  };
  await start('kube-apiserver', api, answers);
  const alone = { 'leader-elect': false, 'secure-port': 0, profiling: false };
  const isThere = async () => true;
  const managed = {
    ...alone,
    kubeconfig: configOf('system:kube-controller-manager'),
    'use-service-account-credentials': true,
    'root-ca-file': at('ca.crt'),
    'service-account-private-key-file': at('accounts.key'),
  };
  await start('kube-controller-manager', managed, isThere);
  await start('kube-scheduler', { ...alone, kubeconfig: configOf('system:kube-scheduler') }, isThere);
  // Pods are refused before their account exists.
  await eventually('service accounts', async () =>
    Promise.all(['default', 'kube-system'].map((one) => kubectl(['-n', one, 'get', 'sa', 'default']))),
  );
  return {
    kubeletConfig: configOf(kubelet),
    clientCa: at('ca.crt'),
    kubectl,
    follow,
    apply: async (...objects) => {
      const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
      await kubectl(['apply', '-f', '-'], { input });
    },
    get: async <T>(...args: string[]) => JSON.parse(await kubectl(['get', ...args, '-o', 'json'])) as T,
  };
}

const tokenOf = (user: string) => `token-of-${user.replaceAll(':', '-')}`;

function kubeconfig(port: number, ca: string, token: string): string {
  const name = 'test';
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name, cluster: { server: `https://127.0.0.1:${port}`, 'certificate-authority': ca } }],
    users: [{ name, user: { token } }],
    contexts: [{ name, context: { cluster: name, user: name } }],
    'current-context': name,
  });
}
