/**
 * Hashes a layer's raw bytes in a thread that has nothing else to do, while the layer's own thread decodes the next ones:
 *
 *     layer's thread   decode ─▶ segment in shared memory ─▶ table of contents, write
 *                                   │            ▲ hashed
 *     other thread                  └─▶ SHA-256 ─┘
 */
import type { MessagePort } from 'node:worker_threads';
import { CofaError, type ErrorRecord, fromErrorRecord, toErrorRecord } from '../../schemas/errors.ts';
import { BlockStates } from '../image/block-states.ts';
import type { BesideHash } from '../image/index-layer.ts';

type ToHash = { bytes: Uint8Array<SharedArrayBuffer> } | { end: true };
type FromHash =
  | { kind: 'hashed' }
  | { kind: 'done'; diffId: string; states: Uint8Array }
  | { kind: 'failed'; error: ErrorRecord };

/** The layer's side. Its promises are rejected when the other side is gone. */
export class HashBeside implements BesideHash {
  readonly #port: MessagePort;
  readonly #waiting: Array<PromiseWithResolvers<FromHash>> = [];
  #isOver = false;

  constructor(port: MessagePort) {
    this.#port = port;
    port.on('message', (answer: FromHash) => this.#waiting.shift()?.resolve(answer));
    port.once('close', () => {
      this.#isOver = true;
      for (const { reject } of this.#waiting.splice(0)) reject(gone());
    });
  }

  async update(bytes: Buffer): Promise<void> {
    await this.#ask({ bytes: new Uint8Array(sharedOf(bytes), bytes.byteOffset, bytes.length) });
  }

  async finish(): Promise<{ diffId: string; states: Buffer }> {
    const answer = await this.#ask({ end: true });
    if (answer.kind !== 'done') throw new CofaError('internal', 'a hash without an end');
    const { diffId, states } = answer;
    return { diffId, states: Buffer.from(states.buffer, states.byteOffset, states.byteLength) };
  }

  close(): void {
    this.#port.close();
  }

  async #ask(message: ToHash): Promise<FromHash> {
    if (this.#isOver) throw gone();
    const answer = Promise.withResolvers<FromHash>();
    this.#waiting.push(answer);
    this.#port.postMessage(message, []);
    const found = await answer.promise;
    if (found.kind === 'failed') throw fromErrorRecord(found.error);
    return found;
  }
}

/** The other side, until the layer's closes the port. */
export function hashFor(port: MessagePort): void {
  const states = new BlockStates();
  port.on('message', (message: ToHash) => port.postMessage(answerOf(states, message), []));
}

function answerOf(states: BlockStates, message: ToHash): FromHash {
  try {
    if ('end' in message) return { kind: 'done', ...states.finish() };
    const { buffer, byteOffset, length } = message.bytes;
    states.update(Buffer.from(buffer, byteOffset, length));
    return { kind: 'hashed' };
  } catch (error) {
    return { kind: 'failed', error: toErrorRecord(error) };
  }
}

function sharedOf({ buffer }: Buffer): SharedArrayBuffer {
  if (buffer instanceof SharedArrayBuffer) return buffer;
  throw new CofaError('internal', 'bytes for another thread that are not in shared memory');
}

const gone = () => new CofaError('internal', 'the thread that hashed a layer has ended');
