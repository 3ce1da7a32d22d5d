/** Words to the service manager that started this process, as sd_notify(3) sends them: a datagram each. */
import { call, declare } from './libc.ts';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;

const socket = declare('socket', ['int', 'int', 'int']);
const sendto = declare('sendto', ['int', 'void *', 'size_t', 'int', 'void *', 'uint'], 'int64');
const close = declare('close', ['int']);

/**
 * Says `READY=1`, `WATCHDOG=1` and the like; does nothing where no service manager listens. Throws SystemCallError when
 * the service manager does not take it.
 */
export function tellServiceManager(
  words: string,
  path: string | undefined = process.env.NOTIFY_SOCKET,
): void {
  if (path === undefined || path === '') return;
  // `@` stands for the NUL of a socket that is in no folder.
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : `${path}\0`);
  const address = Buffer.concat([Buffer.from(Uint16Array.of(AF_UNIX).buffer), name]);
  const message = Buffer.from(words);
  const fd = call('socket', socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  try {
    call('sendto', sendto, fd, message, message.length, 0, address, address.length);
  } finally {
    close(fd);
  }
}

/** How often the service manager wants a sign of life, ms; undefined where it wants none. */
export function watchdogMs(environment = process.env): number | undefined {
  const { WATCHDOG_USEC, WATCHDOG_PID } = environment;
  if (WATCHDOG_USEC === undefined || !/^\d+$/.test(WATCHDOG_USEC)) return undefined;
  if (WATCHDOG_PID !== undefined && WATCHDOG_PID !== String(process.pid)) return undefined;
  return Number(WATCHDOG_USEC) / 1000;
}
