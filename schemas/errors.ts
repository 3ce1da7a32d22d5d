/**
 * The errors that a user or a client may rely on. A kind exists only where somebody would act differently
 * upon it; the message carries the rest. The code is the contract: it stands in API replies, in `--json`
 * output and in the docs, and never changes its meaning.
 */

/** What a caller can do about it, the exit code of `cofa`, and the errno a reader of a mount gets. */
export const ERROR_KINDS = {
  'invalid-argument': { exit: 2, errno: 22, act: 'correct the call' },
  'not-found': { exit: 3, errno: 2, act: 'check the name, tag or digest' },
  unauthorized: {
    exit: 4,
    errno: 13,
    act: 'log in: docker login REGISTRY, or correct ~/.docker/config.json',
  },
  forbidden: { exit: 4, errno: 13, act: "ask the node's operator for the right" },
  unavailable: { exit: 5, errno: 5, act: 'try again when the named service is back' },
  timeout: { exit: 5, errno: 5, act: 'try again, or raise the deadline' },
  integrity: { exit: 6, errno: 5, act: 'do not use these bytes: push the image again, or index it again' },
  unsupported: { exit: 6, errno: 95, act: 'this image or kernel needs something that cofa does not do' },
  busy: { exit: 7, errno: 16, act: 'end what uses it, then try again' },
  conflict: { exit: 7, errno: 17, act: 'it exists already: choose another name, or remove it first' },
  'no-space': { exit: 8, errno: 28, act: 'free space on the disk that holds the cofa root' },
  environment: { exit: 8, errno: 5, act: 'run cofa doctor' },
  'not-running': { exit: 9, errno: 5, act: 'start the engine: cofa up' },
  internal: { exit: 1, errno: 5, act: 'report it with the log' },
} as const;

export type ErrorCode = keyof typeof ERROR_KINDS;

/** An error as it crosses a process border (API reply, fetch completion, `--json`). */
export interface ErrorRecord {
  code: ErrorCode;
  message: string;
  /** One sentence that says what to do; absent where the message says it already. */
  hint?: string;
}

const BRAND = Symbol.for('cofa.error');

export class CofaError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;

  /** One of another copy of this module is one as well: `cofa run` has its own (src/cli/bundle.ts). */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (this !== CofaError) return Function.prototype[Symbol.hasInstance].call(this, value);
    return typeof value === 'object' && value !== null && BRAND in value;
  }

  get [BRAND](): true {
    return true;
  }

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; hint?: string } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CofaError';
    this.code = code;
    this.hint = options.hint;
  }
}

/** Turns anything thrown into a record; errnos of the system keep their meaning. */
export function toErrorRecord(error: unknown): ErrorRecord {
  if (error instanceof CofaError) {
    return error.hint === undefined
      ? { code: error.code, message: error.message }
      : { code: error.code, message: error.message, hint: error.hint };
  }
  const message = error instanceof Error ? error.message : String(error);
  const errno = (error as { code?: unknown } | null)?.code;
  switch (errno) {
    case 'ENOSPC':
    case 'EDQUOT':
      return { code: 'no-space', message };
    case 'EBUSY':
      return { code: 'busy', message };
    case 'EACCES':
    case 'EPERM':
      return { code: 'environment', message, hint: 'cofa works as root' };
    default:
      return { code: 'internal', message };
  }
}

/** A code that this cofa does not know is one of a later version: `internal`. */
export function fromErrorRecord({ code, message, hint }: ErrorRecord): CofaError {
  const known = Object.hasOwn(ERROR_KINDS, code) ? code : 'internal';
  return new CofaError(known, message, hint === undefined ? {} : { hint });
}

/** Whether a value has the shape of a record; its code may be one that this cofa does not know. */
export function isErrorRecord(value: unknown): value is ErrorRecord {
  const { code, message, hint } = (value ?? {}) as Partial<Record<keyof ErrorRecord, unknown>>;
  return (
    typeof code === 'string' &&
    typeof message === 'string' &&
    (hint === undefined || typeof hint === 'string')
  );
}

/** An answer as it crosses a process border. */
export type Reply<Result = unknown> = { ok: true; result: Result } | { ok: false; error: ErrorRecord };

export function isReply(value: unknown): value is Reply {
  const { ok, error } = (value ?? {}) as { ok?: unknown; error?: unknown };
  return ok === true || (ok === false && isErrorRecord(error));
}

/** What was answered; throws the error where it is one. Error `internal`: what came is no answer. */
export function resultOf<Result>(reply: Reply<Result>): Result {
  if (!isReply(reply)) throw new CofaError('internal', 'what came as an answer is none');
  if (!reply.ok) throw fromErrorRecord(reply.error);
  return reply.result;
}

/** The result, once it has the shape that the caller relies on. `what`: for the message, such as a subject. */
export function checkedResult<Result>(
  reply: unknown,
  isResult: (value: unknown) => value is Result,
  what: string,
): Result {
  const result = resultOf(reply as Reply);
  if (isResult(result)) return result;
  throw new CofaError('internal', `the answer to ${what} has another shape`, { hint: SAME_VERSION });
}

/** Of a message that no process of this version sends. */
export const SAME_VERSION = 'processes of two versions of cofa? cofa down, then cofa up';
