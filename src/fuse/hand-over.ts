/**
 * One supervisor hands its FUSE mount over to the next, which may be of another version:
 *
 *     cofa upgrade --engine   copies the old one's descriptor ── offers it ── kills the old one ── waits for the next
 *     next supervisor         finds the offer ── copies the descriptor ── serves it, as after the death of a front end
 *
 * With `cofa up --take-over` both are one process: it takes what it has offered itself.
 *
 * The connection lives as long as one descriptor is open. Until the next front end asks for them, requests wait in the kernel,
 * and readers with them. Who offers dies: then the connection ends with the last descriptor, as it does without an offer.
 */
import {
  closeSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { findMount } from '../kernel/mount.ts';
import { copyDescriptor } from '../kernel/pidfd.ts';
import { readProc, statFields } from '../kernel/proc.ts';
import { connectionOf } from './connection.ts';
import { adoptSession, type FuseSession } from './session.ts';

/** What a process holds of a mount that it does not serve. */
export interface HeldMount {
  fd: number;
  connection: number;
  /** The mount's name in mountinfo, which no other one has. */
  source: string;
}

/** As it lies in the file. */
interface Offer extends HeldMount {
  v: 1;
  /** Whose descriptor it is; `start` tells it from a later process of the same number. */
  pid: number;
  start: string;
}

/**
 * Copies the descriptor of the mount at `target` from the process that has it. Error `unsupported` where it has none, or
 * several and the kernel does not say which is which (before 6.16).
 */
export function holdMount(pid: number, target: string): HeldMount {
  const connection = connectionOf(target);
  const source = findMount(target)?.source;
  const all = descriptorsOf(pid).filter(({ of }) => of === undefined || of === connection);
  const [only, another] = all;
  if (connection === undefined || source === undefined || only === undefined || another !== undefined)
    throw new CofaError('unsupported', `process ${pid} has no descriptor of the FUSE mount at ${target}`, {
      hint: 'an engine with the transport "fuse-native", or in a container with process ids of its own, is to be ended first',
    });
  return { fd: copyDescriptor(pid, only.fd), connection, source };
}

/** Writes the offer; it is good while this process has the descriptor. */
export function offerMount(file: string, held: HeldMount): void {
  const offer: Offer = { v: 1, pid: process.pid, start: startOf(process.pid), ...held };
  const draft = `${file}.draft`;
  writeFileSync(draft, JSON.stringify(offer), { mode: 0o600 });
  renameSync(draft, file);
}

/** Takes it back. */
export const withdrawOffer = (file: string): void => rmSync(file, { force: true });

/** Whether a process offers a mount. */
export const isOffered = (file: string): boolean => readOffer(file) !== undefined;

/** Takes what is offered, where it is the mount at `target`; undefined: there is no offer that is good. */
export function takeOffered(file: string, target: string): FuseSession | undefined {
  const offer = readOffer(file);
  if (offer === undefined || findMount(target)?.source !== offer.source) return undefined;
  const { pid, connection, source } = offer;
  const isOwn = pid === process.pid;
  const fd = isOwn ? offer.fd : copyDescriptor(pid, offer.fd);
  if (isOwn) withdrawOffer(file);
  if (!isFuse('self', fd)) {
    closeSync(fd);
    return undefined;
  }
  return adoptSession({ target, source, fd, connection });
}

function readOffer(file: string): Offer | undefined {
  let offer: Partial<Record<keyof Offer, unknown>> | null;
  try {
    offer = JSON.parse(readFileSync(file, 'utf8')) as typeof offer;
  } catch {
    return undefined;
  }
  const { v, pid, start, fd, connection, source } = offer ?? {};
  const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  if (v !== 1 || !isCount(pid) || !isCount(fd) || !isCount(connection)) return undefined;
  if (typeof start !== 'string' || typeof source !== 'string' || startOf(pid) !== start) return undefined;
  return { v, pid, start, fd, connection, source };
}

/** Clock ticks since the boot: field 22 of /proc/PID/stat, proc(5). */
const startOf = (pid: number): string => statFields(readProc(`/proc/${pid}/stat`))[19] ?? '';

/** Of /dev/fuse; `of`: the connection, where the kernel says so. */
function descriptorsOf(pid: number): Array<{ fd: number; of: number | undefined }> {
  const names = readdirSync(`/proc/${pid}/fd`).filter((name) => isFuse(pid, Number(name)));
  return names.map((name) => {
    const [, of] = /^fuse_connection:\s*(\d+)/m.exec(readProc(`/proc/${pid}/fdinfo/${name}`)) ?? [];
    return { fd: Number(name), of: of === undefined ? undefined : Number(of) };
  });
}

function isFuse(pid: number | 'self', fd: number): boolean {
  try {
    return readlinkSync(join('/proc', String(pid), 'fd', String(fd))).startsWith('/dev/fuse');
  } catch {
    return false;
  }
}
