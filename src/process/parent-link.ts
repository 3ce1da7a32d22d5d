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

export interface ParentLinkOptions {
  /** What stands still in this process, if anything; asked at each sign of life. */
  trouble?: () => string | undefined;
  /** The supervisor has ended. */
  onOrphaned: () => void;
  onRetire?: () => void;
}

export interface ParentLink {
  /** Says that this process is loaded, and resolves when it may begin. */
  begin(): Promise<void>;
  /** Says that this process can be called. */
  ready(): void;
}

/** The child's end. A process that was started by hand, without a supervisor, begins at once. */
export function linkToParent(options: ParentLinkOptions): ParentLink {
  const begun = Promise.withResolvers<void>();
  const say = (message: FromChild) => {
    // A channel that has just closed ends this process a moment later.
    process.send?.(message, undefined, undefined, () => {});
  };
  process.on('message', (message: ToChild) => {
    if (message.kind === 'ping') {
      const trouble = options.trouble?.();
      say({ kind: 'pong', beat: message.beat, ...(trouble === undefined ? {} : { trouble }) });
    } else if (message.kind === 'begin') begun.resolve();
    else options.onRetire?.();
  });
  process.once('disconnect', options.onOrphaned);
  return {
    begin: () => {
      if (process.send === undefined) begun.resolve();
      else say({ kind: 'loaded' });
      return begun.promise;
    },
    ready: () => say({ kind: 'ready' }),
  };
}
