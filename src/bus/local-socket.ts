/**
 * A way past NATS: unix sockets in ROOT/run on which supervisor and front end say how they are, and on which the
 * supervisor takes the calls of `cofa`. `status` answers there while NATS is away, and a command that needs no NATS
 * client has the time of its loading left. A connection carries one call and is closed:
 *
 *     → mount {"ref":"debian:12","dir":"/mnt"}⏎     a word; a JSON value where the operation takes one
 *     ← {"progress":{"phase":"sidecar"}}⏎           none or more
 *     ← {"ok":true,"result":{…}}                    or {"ok":false,"error":{…}}
 */
import { rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { CofaError, checkedResult, isReply, type Reply, toErrorRecord } from '../../schemas/errors.ts';
import type { Shape } from '../../schemas/shapes.ts';

/** Connections at once; further ones are closed. */
const MOST_CALLS = 1_000;
/** Characters of a question: a reference and a path, escaped, and then some. */
const LONGEST = 32_768;
/** Bytes of an answer: 1,000 images of 20 layers take some 10 MB. */
const LARGEST = 256 << 20;
/** A caller that says nothing is not waited for, ms. */
const PATIENCE_MS = 5_000;

/** `request` is undefined where the question was a word only; `onProgress` reaches the caller as long as it is there. */
export type LocalHandler = (request: unknown, onProgress: (progress: unknown) => void) => unknown;

/** Answers each question by the handler of its name, until the process ends. Replaces a socket that lies there. */
export async function serveLocal(
  path: string,
  handlers: Readonly<Record<string, LocalHandler>>,
): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    let question = '';
    let isAsked = false;
    socket.setEncoding('utf8').setTimeout(PATIENCE_MS, () => socket.destroy());
    // A caller that leaves is its own business.
    socket.on('error', () => {});
    socket.on('end', () => {
      // It has nothing more to say, and that was no question.
      if (!isAsked) socket.destroy();
    });
    socket.on('data', (text: string) => {
      if (isAsked) return;
      question += text;
      const end = question.indexOf('\n');
      if (end < 0 && question.length <= LONGEST) return;
      isAsked = true;
      socket.setTimeout(0);
      const line = end < 0 || end > LONGEST ? '' : question.slice(0, end);
      question = '';
      const onProgress = (progress: unknown) => {
        if (socket.writable) socket.write(`${JSON.stringify({ progress })}\n`);
      };
      void answer(handlers, line, onProgress).then((reply) => socket.end(JSON.stringify(reply)));
    });
  });
  server.maxConnections = MOST_CALLS;
  rmSync(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    // The socket is made in this call, with the mode that it keeps: for its owner alone.
    const mask = process.umask(0o177);
    server.listen(path, resolve);
    process.umask(mask);
  });
  return server.unref();
}

async function answer(
  handlers: Readonly<Record<string, LocalHandler>>,
  line: string,
  onProgress: (progress: unknown) => void,
): Promise<Reply> {
  try {
    const blank = line.indexOf(' ');
    const name = blank < 0 ? line : line.slice(0, blank);
    const handler = Object.hasOwn(handlers, name) ? handlers[name] : undefined;
    if (handler === undefined)
      throw new CofaError('invalid-argument', `there is no operation ${JSON.stringify(name.slice(0, 64))}`);
    const request = blank < 0 ? undefined : parse(name, line.slice(blank + 1));
    return { ok: true, result: (await handler(request, onProgress)) ?? null };
  } catch (error) {
    return { ok: false, error: toErrorRecord(error) };
  }
}

function parse(name: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new CofaError('invalid-argument', `the ${name} request is not JSON`, { cause });
  }
}

export interface LocalCall {
  /** What the operation takes; undefined: it is a question, and asking it twice changes nothing. */
  request?: unknown;
  onProgress?: ((progress: unknown) => void) | undefined;
  /** The caller leaves; what it asked for goes on. */
  signal?: AbortSignal | undefined;
}

/**
 * Asks the process behind a socket and gives its result, or throws its error. `call`: with a request. Errors: those of
 * `askSocket`; `timeout` after `timeoutMs`; `internal` where the result has another shape than `isResult` says.
 */
export async function askLocal<Result>(
  path: string,
  question: string,
  timeoutMs: number,
  isResult: Shape<Result>,
  call: LocalCall = {},
): Promise<Result> {
  const stop = new AbortController();
  const leave = () => stop.abort(call.signal?.reason);
  if (call.signal?.aborted === true) leave();
  call.signal?.addEventListener('abort', leave, { once: true });
  const timer = setTimeout(
    () => stop.abort(new CofaError('timeout', `no answer on ${path} within ${timeoutMs / 1000} s`)),
    timeoutMs,
  );
  try {
    const reply = await askSocket(path, question, { ...call, signal: stop.signal });
    return checkedResult(reply, isResult, `${question} on ${path}`);
  } finally {
    clearTimeout(timer);
    call.signal?.removeEventListener('abort', leave);
  }
}

/**
 * Carries a question to the process behind a socket, and its answer back. Errors: `not-running` when no process listens;
 * `unavailable` when a call broke off, so that the caller cannot know whether it was carried out; `internal` when the answer
 * is too long; the signal's reason.
 */
export async function askSocket(path: string, question: string, call: LocalCall = {}): Promise<Reply> {
  const text = await new Promise<string>((resolve, reject) => {
    const { signal } = call;
    if (signal?.aborted === true) {
      reject(signal.reason);
      return;
    }
    const socket = connect(path);
    let received = '';
    let isConnected = false;
    const fail = (error: unknown) => {
      end();
      socket.destroy();
      reject(error);
    };
    const leave = () => fail(signal?.reason);
    const end = () => signal?.removeEventListener('abort', leave);
    signal?.addEventListener('abort', leave, { once: true });
    socket.setEncoding('utf8');
    socket.on('connect', () => {
      isConnected = true;
      socket.end(
        call.request === undefined ? `${question}\n` : `${question} ${JSON.stringify(call.request)}\n`,
      );
    });
    socket.on('data', (part: string) => {
      received += part;
      if (part.includes('\n')) received = takeProgress(received, call.onProgress);
      if (received.length > LARGEST) fail(new CofaError('internal', `too long an answer on ${path}`));
    });
    socket.on('error', (cause) => fail(isConnected ? broken(path, call, cause) : noProcess(path, cause)));
    socket.on('end', () => {
      end();
      resolve(received);
    });
  });
  const reply = parsedIfSound(text);
  // It ended in the middle of its answer, or another program listens there.
  if (!isReply(reply)) throw broken(path, call, undefined);
  return reply;
}

/** What the text says; undefined where it is no JSON. */
export function parsedIfSound(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const noProcess = (path: string, cause: unknown) =>
  new CofaError('not-running', `no process answers on ${path}`, { cause });

/** Whether a question was answered does not matter to who asks again; whether a call was carried out does. */
const broken = (path: string, call: LocalCall, cause: unknown) =>
  call.request === undefined
    ? new CofaError('not-running', `no whole answer on ${path}`, { cause })
    : new CofaError('unavailable', `the connection to the engine on ${path} broke`, { cause });

/** Hands the whole lines that are progress to `onProgress`; returns the rest. */
function takeProgress(received: string, onProgress: LocalCall['onProgress']): string {
  let from = 0;
  for (let end = received.indexOf('\n'); end >= 0; end = received.indexOf('\n', from)) {
    const line = parsedIfSound(received.slice(from, end)) as { progress?: unknown } | null | undefined;
    if (line?.progress !== undefined) onProgress?.(line.progress);
    from = end + 1;
  }
  return received.slice(from);
}
