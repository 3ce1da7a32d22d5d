/**
 * A way past NATS: unix sockets in ROOT/run on which supervisor and front end say how they are. `status` answers there
 * while NATS is away. A connection carries one question, a word and a line feed, and one answer, JSON, and is closed.
 */
import { rm } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { CofaError, type ErrorRecord, fromErrorRecord, toErrorRecord } from '../../schemas/errors.ts';

/** Connections at once; further ones are closed. */
const MOST_CALLS = 100;
/** Bytes of a question. */
const LONGEST = 100;
/** Bytes of an answer: 1,000 images of 20 layers take some 10 MB. */
const LARGEST = 256 << 20;
/** A caller that says nothing is not waited for, ms. */
const PATIENCE_MS = 5_000;

/** Answers each question by the handler of its name, until the process ends. Replaces a socket that lies there. */
export async function serveLocal(
  path: string,
  handlers: Readonly<Record<string, () => unknown | Promise<unknown>>>,
): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    let question = '';
    socket.setEncoding('utf8').setTimeout(PATIENCE_MS, () => socket.destroy());
    // A caller that leaves is its own business.
    socket.on('error', () => {});
    socket.on('data', (text: string) => {
      if (question.length > LONGEST) return;
      question += text;
      const end = question.indexOf('\n');
      if (end < 0 && question.length <= LONGEST) return;
      socket.setTimeout(0);
      const name = end < 0 ? '' : question.slice(0, end);
      question = ' '.repeat(LONGEST + 1);
      void answer(handlers, name).then((reply) => socket.end(JSON.stringify(reply)));
    });
  });
  server.maxConnections = MOST_CALLS;
  await rm(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  return server.unref();
}

type Reply = { ok: true; result: unknown } | { ok: false; error: ErrorRecord };

async function answer(
  handlers: Readonly<Record<string, () => unknown | Promise<unknown>>>,
  name: string,
): Promise<Reply> {
  try {
    const handler = Object.hasOwn(handlers, name) ? handlers[name] : undefined;
    if (handler === undefined) throw new CofaError('invalid-argument', `there is no operation ${name}`);
    return { ok: true, result: (await handler()) ?? null };
  } catch (error) {
    return { ok: false, error: toErrorRecord(error) };
  }
}

/**
 * Asks the process behind a socket. Errors: its own; `not-running` when nobody listens; `timeout`; `internal` when the
 * answer is none.
 */
export async function askLocal<Result>(path: string, question: string, timeoutMs: number): Promise<Result> {
  const text = await new Promise<string>((resolve, reject) => {
    const socket = connect(path);
    let received = '';
    const fail = (error: unknown) => {
      clearTimeout(timer);
      socket.destroy();
      reject(error);
    };
    const timer = setTimeout(
      () => fail(new CofaError('timeout', `no answer on ${path} within ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    socket.setEncoding('utf8');
    socket.on('connect', () => socket.end(`${question}\n`));
    socket.on('data', (part: string) => {
      received += part;
      if (received.length > LARGEST) fail(new CofaError('internal', `too long an answer on ${path}`));
    });
    socket.on('error', (cause) => fail(new CofaError('not-running', `nobody answers on ${path}`, { cause })));
    socket.on('end', () => {
      clearTimeout(timer);
      resolve(received);
    });
  });
  let reply: Reply;
  try {
    reply = JSON.parse(text) as Reply;
  } catch (cause) {
    // It ended in the middle of its answer.
    throw new CofaError('not-running', `no whole answer on ${path}`, { cause });
  }
  if (!reply.ok) throw fromErrorRecord(reply.error);
  return reply.result as Result;
}
