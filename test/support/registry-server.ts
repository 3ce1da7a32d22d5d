/**
 * Debian's docker-registry on a private loopback port, for tests, demos and benchmarks: temporary storage,
 * on request with basic authentication (htpasswd) or TLS under a CA made for the occasion. Its access log goes
 * to a file, so that a test can prove which requests reached it.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readFileSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import koffi from 'koffi';
import { freePort } from './ports.ts';

export interface RegistryOptions {
  /** Basic authentication with this one account; without it every client has all rights. */
  auth?: { user: string; password: string };
  /** Serve HTTPS with a certificate for 127.0.0.1 and localhost under a CA of its own (see `certDir`). */
  tls?: boolean;
  /** Be a pull-through cache of this registry (`http://HOST:PORT`). */
  cacheOf?: string;
  /** Storage folder that outlives the registry; by default a temporary one that `stop` removes. */
  storage?: string;
  /** Port to listen on, such as that of a registry that was killed before; by default a free one. */
  port?: number;
  /** Another address than loopback to listen on, and what begins the command line so that it is there. */
  at?: { address: string; through: readonly string[] };
}

export interface RegistryServer {
  /** `127.0.0.1:PORT`, as it stands in image references. */
  host: string;
  port: number;
  /** Process id of the registry. */
  pid: number;
  /** Everything the registry wrote so far: its log and one access-log line per request (combined log format). */
  log(): string;
  /** The requests seen so far, in order. */
  requests(): AccessLine[];
  /** With `tls`: a folder in the layout of docker's certs.d (`HOST:PORT/ca.crt`), and the CA certificate itself. */
  certDir: string | undefined;
  caFile: string | undefined;
  /** Ends the registry and removes what it left on disk. May be called twice, and after `kill`. */
  stop(): Promise<void>;
  /** Ends it at once with SIGKILL, connections cut; the storage stays until `stop`. */
  kill(): void;
}

/** One request of the access log. */
export interface AccessLine {
  method: string;
  path: string;
  status: number;
  /** Bytes of the response body that were sent. */
  bytes: number;
}

/** Starts a registry and waits until it answers. Throws with the registry's own log when it does not start. */
export async function startRegistry(options: RegistryOptions = {}): Promise<RegistryServer> {
  // The registry binds the port some time after it was chosen, so another process may take it in between: then again.
  for (let attempt = 1; ; attempt++) {
    try {
      return await startOnce(options, options.port ?? (await freePort()));
    } catch (error) {
      if (attempt === 3 || options.port !== undefined || !String(error).includes('address already in use'))
        throw error;
    }
  }
}

/**
 * Makes a CA and a server certificate for 127.0.0.1 and localhost under it; also a client certificate.
 * Files in `directory`: ca.crt, server.crt, server.key, client.cert, client.key.
 */
export async function makeCertificates(directory: string): Promise<void> {
  await writeFile(
    join(directory, 'server.ext'),
    'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n',
  );
  await writeFile(join(directory, 'client.ext'), 'extendedKeyUsage=clientAuth\n');
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  const openssl = (...args: string[]) => run('openssl', args, { cwd: directory, timeout: 60_000 });
  await openssl(
    'req',
    '-x509',
    ...curve,
    '-keyout',
    'ca.key',
    '-out',
    'ca.crt',
    '-days',
    '30',
    '-subj',
    '/CN=test CA',
  );
  for (const [name, certificate] of [
    ['server', 'server.crt'],
    ['client', 'client.cert'],
  ] as const) {
    await openssl(
      'req',
      ...curve,
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.csr`,
      '-subj',
      `/CN=test ${name}`,
    );
    await openssl(
      'x509',
      '-req',
      '-in',
      `${name}.csr`,
      '-CA',
      'ca.crt',
      '-CAkey',
      'ca.key',
      '-CAcreateserial',
      '-out',
      certificate,
      '-days',
      '30',
      '-extfile',
      `${name}.ext`,
    );
  }
}

const run = promisify(execFile);

async function startOnce(options: RegistryOptions, port: number): Promise<RegistryServer> {
  const directory = await mkdtemp(join(tmpdir(), 'cofa-registry-'));
  const { address, through } = options.at ?? { address: '127.0.0.1', through: [] };
  const host = `${address}:${port}`;
  const logFile = join(directory, 'log');
  let child: ChildProcess | undefined;
  let certDir: string | undefined;
  let caFile: string | undefined;
  const removeAll = () => rmSync(directory, { recursive: true, force: true });
  // The last resort when a test run ends without calling stop.
  const onExit = () => {
    child?.kill('SIGKILL');
    removeAll();
  };
  try {
    if (options.tls === true) {
      await makeCertificates(directory);
      caFile = join(directory, 'ca.crt');
      certDir = join(directory, 'certs.d');
      await mkdir(join(certDir, host), { recursive: true });
      await writeFile(join(certDir, host, 'ca.crt'), readFileSync(caFile));
    }
    if (options.auth !== undefined) {
      const { user, password } = options.auth;
      await writeFile(join(directory, 'htpasswd'), `${user}:${bcrypt(password)}\n`);
    }
    const config = join(directory, 'config.yml');
    await writeFile(config, configuration(directory, host, options));
    const log = openSync(logFile, 'a');
    // setpriv(1) becomes the registry, which then dies with this process even where it is killed.
    child = spawn('setpriv', ['--pdeathsig', 'KILL', ...through, 'docker-registry', 'serve', config], {
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    process.once('exit', onExit);
    const started = child;
    const ended = new Promise<void>((resolve) => {
      started.once('exit', () => resolve());
      started.once('error', () => resolve());
    });
    await waitUntilListening(
      address,
      port,
      () => started.exitCode === null && started.pid !== undefined,
      logFile,
    );
    return {
      host,
      port,
      pid: started.pid as number,
      certDir,
      caFile,
      log: () => readFileSync(logFile, 'utf8'),
      requests: () => accessLines(readFileSync(logFile, 'utf8')),
      kill: () => void started.kill('SIGKILL'),
      stop: async () => {
        started.kill('SIGTERM');
        const timer = setTimeout(() => started.kill('SIGKILL'), 5000);
        await ended;
        clearTimeout(timer);
        process.removeListener('exit', onExit);
        await rm(directory, { recursive: true, force: true });
      },
    };
  } catch (error) {
    process.removeListener('exit', onExit);
    child?.kill('SIGKILL');
    removeAll();
    throw error;
  }
}

function configuration(directory: string, host: string, options: RegistryOptions): string {
  const lines = [
    'version: 0.1',
    'log: {level: info, accesslog: {disabled: false}}',
    'storage:',
    `  filesystem: {rootdirectory: ${JSON.stringify(options.storage ?? join(directory, 'storage'))}}`,
    '  delete: {enabled: true}',
    '  cache: {blobdescriptor: inmemory}',
    'http:',
    `  addr: ${JSON.stringify(host)}`,
    `  secret: ${randomBytes(16).toString('hex')}`,
    // The registry speaks HTTP/2 only on request; no test needs it, and the tests are about HTTP/1.1.
    '  http2: {disabled: true}',
  ];
  if (options.tls === true) {
    lines.push(
      '  tls:',
      `    certificate: ${join(directory, 'server.crt')}`,
      `    key: ${join(directory, 'server.key')}`,
    );
  }
  if (options.cacheOf !== undefined) lines.push('proxy:', `  remoteurl: ${options.cacheOf}`);
  if (options.auth !== undefined) {
    lines.push('auth:', `  htpasswd: {realm: test, path: ${JSON.stringify(join(directory, 'htpasswd'))}}`);
  }
  return `${lines.join('\n')}\n`;
}

/** The registry takes bcrypt alone; the C library that every Debian has makes it, cost 4 to be quick. */
function bcrypt(password: string): string {
  const crypt = koffi.load('libcrypt.so.1').func('char *crypt(const char *key, const char *salt)');
  const salt = `$2b$04$${randomBytes(16).toString('hex').slice(0, 21)}e`;
  const hash: unknown = crypt(password, salt);
  if (typeof hash !== 'string' || !hash.startsWith('$2b$')) throw new Error('crypt(3) has no bcrypt');
  return hash;
}

async function waitUntilListening(
  address: string,
  port: number,
  alive: () => boolean,
  logFile: string,
): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt++) {
    if (!alive()) break;
    if (await canConnect(address, port)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`docker-registry did not start: ${readFileSync(logFile, 'utf8').slice(-2000)}`);
}

function canConnect(address: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, address);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function accessLines(log: string): AccessLine[] {
  const lines: AccessLine[] = [];
  for (const match of log.matchAll(/^\S+ - \S+ \[[^\]]+\] "([A-Z]+) (\S+) HTTP\/[\d.]+" (\d{3}) (\d+) /gm)) {
    lines.push({
      method: match[1] as string,
      path: match[2] as string,
      status: Number(match[3]),
      bytes: Number(match[4]),
    });
  }
  return lines;
}
