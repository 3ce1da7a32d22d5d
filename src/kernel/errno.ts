/** Errnos: of this folder's own system calls, of Node's, and what they mean to a user. */
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { CofaError, type ErrorCode } from '../../schemas/errors.ts';

/** The errno of a failed call, with what was attempted: the cause of the CofaErrors of this folder. */
export class SystemCallError extends Error {
  readonly errno: number;
  /** The errno's name, such as EBUSY. */
  override readonly name: string = 'SystemCallError';
  readonly code: string;
  readonly syscall: string;

  constructor(syscall: string, errno: number) {
    const code = errnoName(errno);
    super(`${syscall}: ${code}`);
    this.errno = errno;
    this.code = code;
    this.syscall = syscall;
  }
}

/** The errno of anything thrown by Node or by this folder; undefined for other errors. */
export function errnoOf(error: unknown): number | undefined {
  if (error instanceof SystemCallError) return error.errno;
  const errno = (error as { errno?: unknown } | null)?.errno;
  return typeof errno === 'number' ? Math.abs(errno) : undefined;
}

export function isErrno(error: unknown, ...names: Array<keyof typeof constants.errno>): boolean {
  const errno = errnoOf(error);
  return errno !== undefined && names.some((name) => constants.errno[name] === errno);
}

/** Turns a failed system call into what a user can act upon. `known` says what an errno means in this place. */
export function explain(
  error: unknown,
  attempted: string,
  known: Partial<Record<keyof typeof constants.errno, { code: ErrorCode; hint?: string }>> = {},
): CofaError {
  if (error instanceof CofaError) return error;
  const errno = errnoOf(error);
  if (errno === undefined) {
    return new CofaError(
      'internal',
      `${attempted}: ${error instanceof Error ? error.message : String(error)}`,
      {
        cause: error,
      },
    );
  }
  const name = errnoName(errno) as keyof typeof constants.errno;
  const meaning = known[name] ?? COMMON[name] ?? { code: 'internal' };
  const options = meaning.hint === undefined ? { cause: error } : { cause: error, hint: meaning.hint };
  return new CofaError(meaning.code, `${attempted}: ${name}`, options);
}

const COMMON: Partial<Record<keyof typeof constants.errno, { code: ErrorCode; hint?: string }>> = {
  EPERM: { code: 'environment', hint: 'run cofa as root, in a container with CAP_SYS_ADMIN' },
  EACCES: { code: 'environment', hint: 'run cofa as root, in a container with CAP_SYS_ADMIN' },
  ENOENT: { code: 'not-found' },
  ENOTDIR: { code: 'invalid-argument' },
  EBUSY: { code: 'busy' },
  EEXIST: { code: 'conflict' },
  ENOSPC: { code: 'no-space' },
  ENOMEM: { code: 'environment', hint: 'the machine is out of memory' },
  EMFILE: { code: 'environment', hint: 'raise the limit of open files: ulimit -n' },
  ENFILE: { code: 'environment', hint: 'raise fs.file-max' },
};

function errnoName(errno: number): string {
  try {
    return getSystemErrorName(-errno);
  } catch {
    return `errno ${errno}`;
  }
}
