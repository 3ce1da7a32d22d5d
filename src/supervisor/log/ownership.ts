/**
 * One engine owns a node name on a NATS. It becomes the owner by appending `engine.started` to `engine.main`, which
 * JetStream takes from one of several only (src/store/event-log.ts); before that it asks whether another one lives,
 * and is refused when it does. An owner that does not answer, because it is cut off or stands still, is replaced. When it
 * comes back it finds the foreign `engine.started`, answers nobody any more, and ends.
 *
 * The order of a start closes the gaps: read the last record, ask, offer an answer to others, claim behind the record
 * that was read. Whoever asks after a claim meets the answer; whoever has asked before it cannot claim any more.
 */
import { randomBytes } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import { errors, type NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import { CofaError } from '../../../schemas/errors.ts';
import type { EventOf } from '../../../schemas/events.ts';
import { count, fields, name, type Shape, text } from '../../../schemas/shapes.ts';
import type { Subjects } from '../../../schemas/subjects.ts';
import type { EventLog } from '../../store/event-log.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';

/** What an engine tells one that wants its node name. */
export interface Presence {
  host: string;
  pid: number;
  /** The folder of its state. */
  folder: string;
}

export interface OwnershipOptions {
  bus: NatsConnection;
  names: Subjects;
  events: EventLog;
  node: string;
  presence: Presence;
  started: Omit<EventOf<'engine.started'>, 'v' | 'at'>;
  log: Logger;
}

/** A living engine answers in this time, ms. */
const ANSWER_MS = 3_000;
/** The owner looks at the log this often, ms, beside whenever somebody else starts or its connection was broken. */
const LOOK_MS = 15_000;

export class Ownership {
  readonly #options: OwnershipOptions;
  private constructor(options: OwnershipOptions) {
    this.#options = options;
  }

  /** Makes this engine the owner. Error `conflict` when there is another one, naming it where it answers. */
  static async take(options: OwnershipOptions): Promise<Ownership> {
    const { bus, names, events, node, presence, started, log } = options;
    const main = names.event('engine', 'main');
    for await (const _ of events.replay(main));
    const other = await askPresence(bus, names.presence, log);
    if (other !== undefined) throw taken(node, `pid ${other.pid} on ${other.host}, root ${other.folder}`);
    bus.subscribe(names.presence, {
      callback: (error, message) => {
        if (error === null) message.respond(JSON.stringify(presence));
      },
    });
    await bus.flush();
    try {
      await events.claim(main, started);
    } catch (error) {
      if (!(error instanceof CofaError) || error.code !== 'conflict') throw error;
      throw taken(node, 'it started at the same time', error);
    }
    const owner = new Ownership(options);
    owner.#watch(main);
    return owner;
  }

  /** Resolves when another engine has taken over. */
  get lost(): Promise<CofaError> {
    return this.#options.events.fenced;
  }

  /** Whether another engine has taken over, as far as this one has seen. */
  get isFenced(): boolean {
    return this.#options.events.isFenced;
  }

  /**
   * Resolves when this engine was seen to own the node at some moment after the call. Errors: `conflict` when another engine
   * does, `unavailable` when NATS does not say so in time.
   */
  async confirm(): Promise<void> {
    const { events, names } = this.#options;
    await events.confirmOwner(names.event('engine', 'main'));
  }

  /**
   * Whether to answer a call: false when another engine does. Looked up for each, since a call may have waited in a
   * connection that stood still while the node got another owner.
   */
  readonly mayAnswer = (): Promise<boolean> => {
    const { events, names } = this.#options;
    return events.isOwner(names.event('engine', 'main'));
  };

  #watch(main: string): void {
    const { bus, events } = this.#options;
    const look = () => void events.isOwner(main);
    bus.subscribe(main, { callback: look });
    setInterval(look, LOOK_MS).unref();
    void (async () => {
      for await (const { type } of bus.status()) if (type === 'reconnect') look();
    })();
  }
}

/** The id of a root: which disk the layer devices lie on, for a log that may outlive it. Made at the first start. */
export async function rootId(layout: Layout): Promise<string> {
  const path = layout.in('id');
  const found = await readFile(path, 'utf8').catch(() => '');
  if (/^[0-9a-f]{32}$/.test(found.trim())) return found.trim();
  const id = randomBytes(16).toString('hex');
  await writeWhole(path, Buffer.from(`${id}\n`));
  const folder = await open(layout.root, 'r');
  // With another id after a power cut, all blocks would be forgotten.
  await folder.sync().finally(() => folder.close());
  return id;
}

const isPresence = fields({ host: name, pid: count(1), folder: text(4_096) }) as Shape<Presence>;

async function askPresence(bus: NatsConnection, subject: string, log: Logger): Promise<Presence | undefined> {
  try {
    const presence = (await bus.request(subject, '', { timeout: ANSWER_MS })).json<unknown>();
    if (!isPresence(presence)) throw new Error('what answers is no engine');
    return presence;
  } catch (error) {
    const cause = error instanceof errors.RequestError ? (error.cause ?? error) : error;
    if (cause instanceof errors.NoRespondersError) return undefined;
    if (cause instanceof errors.TimeoutError) {
      log.warn('an engine of this node name is on NATS and does not answer: it is replaced');
      return undefined;
    }
    throw new CofaError('unavailable', `NATS does not say who owns the node: ${String(error)}`, { cause });
  }
}

function taken(node: string, who: string, cause?: unknown): CofaError {
  return new CofaError('conflict', `an engine of node ${node} is running on this NATS already: ${who}`, {
    cause,
    hint: 'stop it, or give this one a node name of its own: cofa up --node NAME',
  });
}
