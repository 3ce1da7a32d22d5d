/**
 * The private nats-server of an engine that was not given one: JetStream on disk, loopback, a user for each role with
 * random credentials, and two accounts, one for the startup packs and one for everything else. It takes TLS alone, since
 * containers may share the host's network: one may listen on loopback, or take the port while nats-server is away.
 */
import { randomBytes } from 'node:crypto';
import { access, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { Overdue } from '../../actors/overdue.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { RightsFile } from '../../schemas/rights.ts';
import { type BusAddress, connectBus } from '../bus/connection.ts';
import {
  BUS_ROLES,
  type BusPermissions,
  type BusRole,
  type BusUsers,
  inboxOf,
  permissionsOf,
  userInboxOf,
  userPermissionsOf,
} from '../bus/roles.ts';
import { accountText, type Login } from '../bus/user-files.ts';
import { type Layout, writeWhole } from '../store/layout.ts';
import { repairLogEnd } from '../store/log-repair.ts';
import { LOG_ACCOUNT, moveToAccounts, PACK_ACCOUNT } from '../store/nats-files.ts';
import { QueueWatch, queuedMs } from '../kernel/run-delay.ts';
import { Child, type ChildOptions, type ChildPorts, realChildPorts } from './child.ts';
import { identityAt, type NatsIdentity } from './nats-identity.ts';
import { freePort, isTaken } from './nats-port.ts';
import type { Clock } from './ports.ts';

/** A nats-server that runs. */
export interface RunningNats {
  /** The supervisor's. */
  address: BusAddress;
  users: BusUsers;
  /** Users of the API with limited rights, by name. */
  apiUsers: Record<string, BusAddress>;
  child: Child;
  /** From now on these are the users with limited rights: known ones keep their password, others lose their connection. */
  setRights(rights: RightsFile['users']): Promise<Record<string, BusAddress>>;
  /** Bytes at the end of the log that were no events, as after a power cut; they are cut off. */
  repaired: number;
}

export interface NatsPorts extends ChildPorts {
  /** Absent: nats-identity.ts does it. */
  makeIdentity?: () => Promise<NatsIdentity>;
  /** Absent: nats-port.ts does it. */
  choosePort?: () => Promise<number>;
}

type Watchers = Pick<ChildOptions, 'onStart' | 'onExit' | 'onGiveUp'>;

/** Ports that are tried: another program may take the one that was free a moment ago. */
const PORTS = 3;

/**
 * Starts nats-server below the supervisor. Its port and passwords stay for the supervisor's life, so that the other
 * processes find it again when it was restarted. Errors: `environment` when it is not installed or does not start.
 */
export async function startNats(
  layout: Layout,
  ports: NatsPorts = realChildPorts(),
  watchers: Watchers = {},
  rights: RightsFile['users'] = {},
): Promise<RunningNats> {
  const { choosePort = freePort } = ports;
  const command = await findServer();
  let port = await choosePort();
  const identity = layout.in('run/nats.pem');
  const { certificate } = await identityAt(identity, ports.makeIdentity);
  const config = layout.in('run/nats.conf');
  const pidFile = layout.in('run/nats.pid');
  await endPredecessor(pidFile, config);
  await moveToAccounts(layout.in('nats'));
  const repaired = await repairLogEnd(layout.in('nats'));
  for (let tried = 1; ; tried++) {
    const given = { command, port, identity, certificate, config, pidFile, rights };
    try {
      return { ...(await startOn(given, layout, ports, watchers)), repaired };
    } catch (error) {
      if (!(error instanceof PortTaken) || tried === PORTS) throw error;
    }
    port = await choosePort();
  }
}

/** Another program listens on the port that was chosen. */
class PortTaken extends CofaError {}

/** Errors: `environment` when it does not start, of the class `PortTaken` where another port may help. */
async function startOn(
  given: {
    command: string;
    port: number;
    identity: string;
    certificate: string;
    config: string;
    pidFile: string;
    rights: RightsFile['users'];
  },
  layout: Layout,
  ports: NatsPorts,
  watchers: Watchers,
): Promise<Omit<RunningNats, 'repaired'>> {
  const { command, port, identity, certificate, config, pidFile, rights } = given;
  const server = { url: `tls://127.0.0.1:${port}`, certificate };
  const users = usersAt(server);
  const apiUsers = apiUsersAt(server, rights);
  const address = users.supervisor;
  const configure = async (limited: Record<string, BusAddress>, now: RightsFile['users']) => {
    const logins = loginsOf(users, limited, now);
    await writeWhole(config, Buffer.from(configText({ layout, port, logins, pidFile, identity })));
  };
  await configure(apiUsers, rights);
  let hasEnded = false;
  const child = new Child({
    role: 'nats-server',
    name: 'nats-server',
    command,
    args: ['-c', config],
    env: { ...process.env, GOMEMLIMIT: process.env.GOMEMLIMIT ?? HEAP },
    log: layout.log('nats-server'),
    readyAtOnce: true,
    ...watchers,
    onExit: (end) => {
      hasEnded = true;
      watchers.onExit?.(end);
    },
    ports,
    graceMs: 5_000,
    // It closes its files in order; one that does not is ended by the next start.
    deathSignal: 'TERM',
  });
  child.start();
  try {
    await untilAnswering(address, ports.clock, async () => {
      if (hasEnded && (await isTaken(port)))
        throw new PortTaken('environment', `port ${port} of 127.0.0.1 is another program's`);
    });
  } catch (cause) {
    await child.stop();
    const Failure = cause instanceof PortTaken ? PortTaken : CofaError;
    throw new Failure('environment', 'nats-server does not start', {
      cause,
      hint: `see ${layout.log('nats-server')}`,
    });
  }
  let known = apiUsers;
  const setRights: RunningNats['setRights'] = async (now) => {
    known = apiUsersAt(server, now, known);
    await configure(known, now);
    child.reload();
    return known;
  };
  return { address, users, apiUsers, child, setRights };
}

function configText(of: {
  layout: Layout;
  port: number;
  logins: Logins;
  pidFile: string;
  identity: string;
}): string {
  const { layout, port, logins, pidFile, identity } = of;
  const file = JSON.stringify(identity);
  return [
    `listen: "127.0.0.1:${port}"`,
    `tls { cert_file: ${file}, key_file: ${file}, timeout: ${HANDSHAKE_S} }`,
    `jetstream { store_dir: ${JSON.stringify(layout.in('nats'))}, max_file_store: ${MAX_STORE} }`,
    `accounts {`,
    accountText(LOG_ACCOUNT, logins.log),
    accountText(PACK_ACCOUNT, logins.packs),
    '}',
    'max_payload: 8MB',
    `pid_file: ${JSON.stringify(pidFile)}`,
    '',
  ].join('\n');
}

/** Who there is in each account. */
interface Logins {
  log: Login[];
  packs: Login[];
}

function loginsOf(
  users: BusUsers,
  apiUsers: Record<string, BusAddress>,
  rights: RightsFile['users'],
): Logins {
  const login = ({ user = '', pass = '' }: BusAddress, permissions: BusPermissions): Login => ({
    user,
    password: pass,
    permissions,
  });
  const ofRole = (role: BusRole) => login(users[role], permissionsOf(role));
  const limited = Object.entries(rights).flatMap(([name, own]) => {
    const address = apiUsers[name];
    return address === undefined ? [] : [login(address, userPermissionsOf(name, own))];
  });
  return {
    log: [...BUS_ROLES.filter((role) => role !== 'packs').map(ofRole), ...limited],
    packs: [ofRole('packs')],
  };
}

type ServerAddress = Pick<BusAddress, 'url' | 'certificate'>;
const newPassword = (): string => randomBytes(24).toString('hex');

/** `known`: those that keep their passwords. */
const apiUsersAt = (
  server: ServerAddress,
  rights: RightsFile['users'],
  known: Record<string, BusAddress> = {},
): Record<string, BusAddress> =>
  Object.fromEntries(
    Object.keys(rights).map((name) => [
      name,
      (Object.hasOwn(known, name) ? known[name] : undefined) ?? {
        ...server,
        user: `api-${name}`,
        pass: newPassword(),
        inbox: userInboxOf(name),
      },
    ]),
  );

function usersAt(server: ServerAddress): BusUsers {
  const entries = BUS_ROLES.map((role): [BusRole, BusAddress] => [
    role,
    { ...server, user: role, pass: newPassword(), inbox: inboxOf(role) },
  ]);
  return Object.fromEntries(entries) as Record<BusRole, BusAddress>;
}

/** A client has this long for its handshake, s; the server's 2 s are short where all processors are busy. */
const HANDSHAKE_S = 10;

/**
 * Bytes of JetStream's files at most. By default it would take three quarters of the free space, and refuse the event
 * log where that is less than the log may grow to: no engine would start on a disk that is nearly full.
 */
const MAX_STORE = 2 ** 33;

/** Answers that may stay out in a row: a machine that is very busy is given time. */
const PROBES = 3;

/**
 * Kills a nats-server whose JetStream does not answer any more, so that it is started again: after a disk was full it
 * stands still (seen with 2.9) or has switched JetStream off, and neither ends by itself when there is space. What it
 * had acknowledged is on the disk. So is one that does not answer at all. Until the returned function is called.
 */
export async function watchNats(
  { address, child }: Pick<RunningNats, 'address' | 'child'>,
  { log, hangMs, clock }: { log: Logger; hangMs: number; clock: Clock },
): Promise<() => Promise<void>> {
  // JetStream is asked this often, ms, and has as long to answer.
  const probeMs = Math.ceil(hangMs / PROBES);
  const bus = await connectBus(address, { name: 'cofa-watch' });
  const silence = new Overdue(PROBES);
  const queue = new QueueWatch((pid) => queuedMs(pid, 'all'));
  let pid = 0;
  const probes = clock.every(probeMs, () => {
    // What the one before did not answer says nothing about this one, which begins to serve in its own time.
    const { pid: now } = child.status();
    if (now !== pid) silence.answered();
    pid = now;
    queue.share(pid, clock.now());
    const asked = bus.request('$JS.API.INFO', new Uint8Array(), { timeout: probeMs });
    asked.then(
      (reply) => {
        if (reply.json<{ error?: unknown }>().error === undefined) silence.answered();
        else silence.missed(0);
      },
      () => silence.missed(queue.share(now, clock.now())),
    );
    if (!silence.isOver) return;
    silence.answered();
    log.error('nats-server does not answer: it is started again');
    child.kill(`JetStream did not answer for ${hangMs / 1000} s`);
  });
  probes.unref();
  return async () => {
    probes.cancel();
    await bus.close();
  };
}

/** How long the nats-server of a supervisor that was killed has for its end, ms. */
const PREDECESSOR_MS = 3_000;

/** Two servers on one store would spoil it: the one before has to be gone, also where it was stopped or is stuck. */
async function endPredecessor(pidFile: string, config: string): Promise<void> {
  const pid = Number((await readFile(pidFile, 'utf8').catch(() => '')).trim());
  const lives = async () =>
    pid > 0 && (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0').includes(config);
  for (let waited = 0; await lives(); waited += 20) {
    if (waited >= PREDECESSOR_MS) process.kill(pid, 'SIGKILL');
    if (waited >= 2 * PREDECESSOR_MS)
      throw new CofaError('environment', `the nats-server of an earlier engine (pid ${pid}) does not end`);
    await sleep(20);
  }
}

/**
 * Go lets a heap grow to twice what is in use before it collects, and the log's blocks come and go: after some minutes that is
 * 140 MB. Near this limit it collects sooner; no limit for what is in use (runtime, "Environment Variables").
 */
const HEAP = '64MiB';

async function findServer(): Promise<string> {
  const folders = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/usr/local/bin'];
  for (const folder of folders) {
    const path = `${folder}/nats-server`;
    if (
      await access(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  throw new CofaError('environment', 'nats-server is not installed', { hint: 'apt-get install nats-server' });
}

/** JetStream has this long to recover its files, ms; it serves afterwards. */
const RECOVERY_MS = 30_000;

/** `look`: called after each attempt that failed; what it throws ends the wait. Errors: of the last attempt. */
async function untilAnswering(address: BusAddress, clock: Clock, look: () => Promise<void>): Promise<void> {
  const end = clock.now() + RECOVERY_MS;
  for (;;) {
    try {
      const bus = await connectBus(address, { name: 'cofa-probe', reconnect: false, timeoutMs: 1_000 });
      await bus.close();
      return;
    } catch (error) {
      await look();
      if (clock.now() > end) throw error;
      await clock.sleep(20);
    }
  }
}
