/**
 * What the supervisor and its Node processes say to each other past NATS, over the IPC channel of spawn: signs of life,
 * and when a front end may begin. A process that lives and does not answer shows here whatever NATS is doing; and the
 * channel's end tells it that the supervisor is gone. Each end looks at what comes: a kind that it does not know is one of a
 * later version (`cofa upgrade`), and passed over.
 */
import { isDigest } from '../../schemas/digest.ts';
import type { LedgerSubject } from '../../schemas/fleet.ts';
import { isSamples, type Sample } from '../../schemas/metrics.ts';
import type { Predicate } from '../../schemas/predicate.ts';
import {
  amount,
  count,
  fields,
  isKind,
  kindOf,
  list,
  MAX_TEXT,
  maybe,
  name,
  oneOf,
  sentence,
} from '../../schemas/shapes.ts';

export type ToChild =
  | { kind: 'ping'; beat: number }
  /** The descriptor is the front end's from now on. */
  | { kind: 'begin' }
  /** A client wants something: no rehearsal is to be in its way. */
  | { kind: 'work' }
  /** A client asks for metrics: say what has been counted. */
  | { kind: 'count'; ask: number }
  /** What this node has found out about an image, to `prove`: entries of the ledger. The member looks at them. */
  | { kind: 'proven'; ask: number; entries: unknown }
  /** Another front end takes over: bring what has come into the log, and end. */
  | { kind: 'retire' };

/** Of the node's fleet, by its member's process: as in `fleet.changed` and `fleet.left-out` (schemas/events.ts). */
export type FleetNews =
  | { came: { name: string; zone: string; role: 'node' | 'fetcher'; address: string } }
  | { gone: string }
  | { leftOut: { name: string; until: number; blob: string; piece: number } };

export type FromChild =
  /**
   * `trouble`: it answers, but says itself that something in it stands still. `degraded`: what is wrong around it, for people; absent:
   * nothing.
   */
  | { kind: 'pong'; beat: number; trouble?: string; degraded?: readonly string[] }
  /** What it has counted since it began. */
  | { kind: 'counted'; ask: number; samples: readonly Sample[] }
  /** A member of the fleet came, went or was left out. */
  | { kind: 'fleet'; news: FleetNews }
  /** A member of the fleet asks what this node has found out about an image, a `LedgerSubject`. Who answers looks at it. */
  | { kind: 'prove'; ask: number; subject: unknown }
  /** It has what it needs, and may begin. */
  | { kind: 'loaded' }
  /** It has begun, and can be called. */
  | { kind: 'ready' };

const TO_CHILD: Readonly<Record<ToChild['kind'], Predicate>> = {
  ping: fields({ beat: count(0) }),
  begin: fields({}),
  work: fields({}),
  count: fields({ ask: count(0) }),
  proven: fields({ ask: count(0) }),
  retire: fields({}),
};
const isCame = fields({ name, zone: name, role: oneOf(['node', 'fetcher']), address: name });
const isLeftOut = fields({ name, until: amount, blob: isDigest, piece: count(0) });
const isFleetNews: Predicate = (value) => {
  const { came, gone, leftOut } = (value ?? {}) as Record<string, unknown>;
  return isCame(came) || name(gone) || isLeftOut(leftOut);
};
/** Of one sign of life. */
const MOST_SENTENCES = 64;
const FROM_CHILD: Readonly<Record<FromChild['kind'], Predicate>> = {
  pong: fields({ beat: count(0), trouble: maybe(sentence), degraded: maybe(list(sentence, MOST_SENTENCES)) }),
  counted: fields({ ask: count(0), samples: isSamples }),
  fleet: fields({ news: isFleetNews }),
  prove: fields({ ask: count(0) }),
  loaded: fields({}),
  ready: fields({}),
};

/** What a child does with it; undefined: nothing. */
export const toChild = (value: unknown): ToChild | undefined =>
  isKind(TO_CHILD, value) ? (value as ToChild) : undefined;

/** What the supervisor does with it; undefined: nothing; `none`: no version says that. */
export function fromChild(value: unknown): FromChild | 'none' | undefined {
  if (isKind(FROM_CHILD, value)) return value as FromChild;
  const kind = kindOf(value);
  return typeof kind === 'string' && !Object.hasOwn(FROM_CHILD, kind) ? undefined : 'none';
}

/** The child's end of the channel. */
export interface ParentChannel {
  send(message: FromChild): void;
  onMessage(take: (message: unknown) => void): void;
  /** The supervisor has ended. */
  onGone(gone: () => void): void;
}

export interface ParentLinkOptions {
  /** The supervisor has ended. */
  onOrphaned: () => void;
  onRetire?: () => void;
  /** A client wants something. */
  onWork?: () => void;
}

export interface ParentLink {
  /** `trouble` says what stands still in this process, if anything; it is asked at each sign of life. */
  watch(trouble: () => string | undefined): void;
  /** What is wrong around this process and does not end it, as `status` shows it; asked at each sign of life. */
  degradedBy(sentences: () => readonly string[]): void;
  /** What this process has counted; asked when a client asks for metrics. One that says none has counted nothing. */
  countBy(samples: () => readonly Sample[] | Promise<readonly Sample[]>): void;
  /** Says what has changed in the node's fleet. */
  tellFleet(news: FleetNews): void;
  /**
   * Asks the supervisor what the node has found out about an image: entries of the ledger, as they came. Error where it does not
   * say within `ms`.
   */
  askProven(subject: LedgerSubject, ms: number): Promise<unknown>;
  /** Says that this process is loaded, and resolves when it may begin. */
  begin(): Promise<void>;
  /** Says that this process can be called. */
  ready(): void;
}

/** Answers the supervisor from now on. A process that has none, since it was started by hand, begins at once. */
export function linkToParent(channel: ParentChannel | undefined, options: ParentLinkOptions): ParentLink {
  const begun = Promise.withResolvers<void>();
  let troubleOf: () => string | undefined = () => undefined;
  let degradedOf: () => readonly string[] = () => [];
  let samplesOf: () => readonly Sample[] | Promise<readonly Sample[]> = () => [];
  const proven = new Map<number, (entries: unknown) => void>();
  let asks = 0;
  const say = async (ask: number) => channel?.send({ kind: 'counted', ask, samples: await samplesOf() });
  channel?.onMessage((said) => {
    const message = toChild(said);
    if (message === undefined) return;
    if (message.kind === 'ping') {
      const trouble = troubleOf();
      const degraded = degradedOf().slice(0, MOST_SENTENCES).map(bounded);
      channel.send({
        kind: 'pong',
        beat: message.beat,
        ...(trouble === undefined ? {} : { trouble }),
        ...(degraded.length === 0 ? {} : { degraded }),
      });
    } else if (message.kind === 'begin') begun.resolve();
    else if (message.kind === 'work') options.onWork?.();
    // Figures that cannot be had are missing; the process is none the worse.
    else if (message.kind === 'count') void say(message.ask).catch(() => {});
    else if (message.kind === 'proven') proven.get(message.ask)?.(message.entries);
    else options.onRetire?.();
  });
  channel?.onGone(options.onOrphaned);
  return {
    watch: (trouble) => void (troubleOf = trouble),
    degradedBy: (sentences) => void (degradedOf = sentences),
    countBy: (samples) => void (samplesOf = samples),
    tellFleet: (news) => channel?.send({ kind: 'fleet', news }),
    askProven: async (subject, ms) => {
      if (channel === undefined) return [];
      const ask = ++asks;
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      const timer = setTimeout(() => reject(new Error('the supervisor does not say what is proven')), ms);
      proven.set(ask, resolve);
      try {
        channel.send({ kind: 'prove', ask, subject });
        return await promise;
      } finally {
        clearTimeout(timer);
        proven.delete(ask);
      }
    },
    begin: () => {
      if (channel === undefined) begun.resolve();
      else channel.send({ kind: 'loaded' });
      return begun.promise;
    },
    ready: () => channel?.send({ kind: 'ready' }),
  };
}

const bounded = (text: string): string => text.slice(0, MAX_TEXT);

/** The channel of this process; undefined where no parent has given it one. */
export function processChannel(): ParentChannel | undefined {
  if (process.send === undefined) return undefined;
  return {
    // A channel that has just closed ends this process a moment later.
    send: (message) => void process.send?.(message, undefined, undefined, () => {}),
    onMessage: (take) => void process.on('message', take),
    onGone: (gone) => void process.once('disconnect', gone),
  };
}
