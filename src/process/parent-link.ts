/**
 * What the supervisor and its Node processes say to each other past NATS, over the IPC channel of spawn: signs of life,
 * and when a front end may begin. A process that lives and does not answer shows here whatever NATS is doing; and the
 * channel's end tells it that the supervisor is gone.
 */
export type ToChild =
  | { kind: 'ping'; beat: number }
  /** The descriptor is the front end's from now on. */
  | { kind: 'begin' }
  /** Another front end takes over: bring what has come into the log, and end. */
  | { kind: 'retire' };

export type FromChild =
  /** `trouble`: it answers, but says itself that something in it stands still. */
  | { kind: 'pong'; beat: number; trouble?: string }
  /** It has what it needs, and may begin. */
  | { kind: 'loaded' }
  /** It has begun, and can be called. */
  | { kind: 'ready' };

/** The child's end of the channel. */
export interface ParentChannel {
  send(message: FromChild): void;
  onMessage(take: (message: ToChild) => void): void;
  /** The supervisor has ended. */
  onGone(gone: () => void): void;
}

export interface ParentLinkOptions {
  /** The supervisor has ended. */
  onOrphaned: () => void;
  onRetire?: () => void;
}

export interface ParentLink {
  /** `trouble` says what stands still in this process, if anything; it is asked at each sign of life. */
  watch(trouble: () => string | undefined): void;
  /** Says that this process is loaded, and resolves when it may begin. */
  begin(): Promise<void>;
  /** Says that this process can be called. */
  ready(): void;
}

/** Answers the supervisor from now on. A process that has none, since it was started by hand, begins at once. */
export function linkToParent(channel: ParentChannel | undefined, options: ParentLinkOptions): ParentLink {
  const begun = Promise.withResolvers<void>();
  let troubleOf: () => string | undefined = () => undefined;
  channel?.onMessage((message) => {
    if (message.kind === 'ping') {
      const trouble = troubleOf();
      channel.send({ kind: 'pong', beat: message.beat, ...(trouble === undefined ? {} : { trouble }) });
    } else if (message.kind === 'begin') begun.resolve();
    else options.onRetire?.();
  });
  channel?.onGone(options.onOrphaned);
  return {
    watch: (trouble) => void (troubleOf = trouble),
    begin: () => {
      if (channel === undefined) begun.resolve();
      else channel.send({ kind: 'loaded' });
      return begun.promise;
    },
    ready: () => channel?.send({ kind: 'ready' }),
  };
}

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
