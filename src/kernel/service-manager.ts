/**
 * Words to the service manager that started this process, as sd_notify(3) sends them: a datagram each. A datagram can
 * bring a descriptor along, which the manager keeps for the next start (FileDescriptorStoreMax= in systemd.service(5)).
 */
import { closeSync } from 'node:fs';
import koffi from 'koffi';
import { call, declare } from './libc.ts';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;

const socket = declare('socket', ['int', 'int', 'int']);
/** sys/socket.h */
koffi.struct('iovec', { base: 'void *', length: 'size_t' });
koffi.struct('msghdr', {
  name: 'void *',
  nameLength: 'uint',
  vectors: 'iovec *',
  vectorCount: 'size_t',
  control: 'void *',
  controlLength: 'size_t',
  flags: 'int',
});
const sendmsg = declare('sendmsg', ['int', 'msghdr *', 'int'], 'int64');
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
/** sd_listen_fds(3): stored descriptors begin here. */
const FIRST_STORED = 3;

/**
 * Says `READY=1`, `WATCHDOG=1` and the like; does nothing where no service manager listens. Throws SystemCallError when
 * the service manager does not take it.
 */
export function tellServiceManager(
  words: string,
  path: string | undefined = process.env.NOTIFY_SOCKET,
  descriptor?: number,
): void {
  if (path === undefined || path === '') return;
  // `@` stands for the NUL of a socket that is in no folder.
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : `${path}\0`);
  const address = Buffer.concat([Buffer.from(Uint16Array.of(AF_UNIX).buffer), name]);
  const message = Buffer.from(words);
  const fd = call('socket', socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    const control = descriptor === undefined ? null : rights(descriptor);
    const header = {
      name: address,
      nameLength: address.length,
      vectors: [{ base: message, length: message.length }],
      vectorCount: 1,
      control,
      controlLength: control?.length ?? 0,
      flags: 0,
    };
    call('sendmsg', sendmsg, fd, header, 0);
  } finally {
    closeSync(fd);
  }
}

/** One message with one descriptor: struct cmsghdr, cmsg(3), padded to eight bytes. */
function rights(descriptor: number): Buffer {
  const message = Buffer.alloc(24);
  message.writeBigUInt64LE(20n, 0);
  message.writeInt32LE(SOL_SOCKET, 8);
  message.writeInt32LE(SCM_RIGHTS, 12);
  message.writeInt32LE(descriptor, 16);
  return message;
}

/** Whether there is a service manager, which keeps descriptors where the unit of the service allows that. */
export function hasServiceManager({ NOTIFY_SOCKET = '' } = process.env): boolean {
  return NOTIFY_SOCKET !== '';
}

/** Descriptors of this name are kept for the next start; the caller closes its own. Throws SystemCallError. */
export function storeDescriptor(name: string, descriptor: number): void {
  tellServiceManager(`FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`, undefined, descriptor);
}

/** Those of this name are kept no longer. */
export function forgetDescriptors(name: string): void {
  tellServiceManager(`FDSTOREREMOVE=1\nFDNAME=${name}`);
}

/**
 * What was kept of earlier starts, by descriptor: its name. The caller closes them. A second call finds none: by then
 * their numbers may stand for other files.
 */
export function takeStoredDescriptors(environment = process.env): Map<number, string> {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES = '' } = environment;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete environment[name];
  if (LISTEN_PID !== String(process.pid) || !/^\d{1,4}$/.test(LISTEN_FDS ?? '')) return new Map();
  const names = LISTEN_FDNAMES.split(':');
  const all = Array.from({ length: Number(LISTEN_FDS) }, (_, at) => at);
  return new Map(all.map((at) => [FIRST_STORED + at, names[at] ?? '']));
}

/** How often the service manager wants a sign of life, ms; undefined where it wants none. */
export function watchdogMs(environment = process.env): number | undefined {
  const { WATCHDOG_USEC, WATCHDOG_PID } = environment;
  if (WATCHDOG_USEC === undefined || !/^\d+$/.test(WATCHDOG_USEC)) return undefined;
  if (WATCHDOG_PID !== undefined && WATCHDOG_PID !== String(process.pid)) return undefined;
  return Number(WATCHDOG_USEC) / 1000;
}
