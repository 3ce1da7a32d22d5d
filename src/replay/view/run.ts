/** The view at work: joins a log, session, screen, keys and time. */
import { CofaError } from '../../../schemas/errors.ts';
import type { Interrupted } from '../../terminal/interrupted.ts';
import type { LoadedLog } from '../load.ts';
import { repaint, toAnsi } from './ansi.ts';
import type { Key } from './keys.ts';
import { render } from './render.ts';
import { Session } from './session.ts';
import { Terminal } from './terminal.ts';

/** Between two drawings while something moves, ms. */
const FRAME_MS = 40;

export interface ViewOptions {
  /** Writes to the terminal. */
  write: (text: string) => void;
  /** The view follows the running engine. */
  follow: boolean;
}

/**
 * Shows the log until the user ends the view. The terminal has been checked (`checkTerminal`); the log stays the caller's.
 * Errors: `invalid-argument` where nothing can be followed; `Interrupted` by a signal.
 */
export async function runView(loaded: LoadedLog, options: ViewOptions): Promise<void> {
  const stop = new AbortController();
  try {
    const { log, title, follow } = loaded;
    const session = new Session(log, {
      title,
      isLive: follow !== undefined,
      now: () => performance.now(),
    });
    if (options.follow && follow === undefined)
      throw new CofaError('invalid-argument', `${title}: nothing is added to it that could be followed`);
    session.isFollowing = options.follow;
    await show(options.write, session, loaded, stop.signal);
  } finally {
    stop.abort();
  }
}

function show(
  write: ViewOptions['write'],
  session: Session,
  loaded: LoadedLog,
  stop: AbortSignal,
): Promise<void> {
  const colour = (process.env.NO_COLOR ?? '') === '';
  const ended = Promise.withResolvers<void>();
  let before: readonly string[] | undefined;
  let timer: NodeJS.Timeout | undefined;
  let last = performance.now();

  // An error in a callback ends the view, and gives the terminal back.
  const guarded =
    <A extends unknown[]>(work: (...args: A) => void) =>
    (...args: A): void => {
      try {
        work(...args);
      } catch (error) {
        ended.reject(error);
      }
    };
  const draw = () => {
    const now = toAnsi(render(session, terminal.size), { colour });
    terminal.write(repaint(now, before));
    before = now;
    if (session.isMoving) timer ??= setTimeout(tick, FRAME_MS);
  };
  const tick = guarded(() => {
    timer = undefined;
    const now = performance.now();
    session.tick(now - last);
    last = now;
    draw();
  });
  const press = guarded((keys: Key[]) => {
    for (const key of keys) {
      if (key.name === 'suspend') {
        terminal.suspend();
        continue;
      }
      if (key.name === 'redraw') before = undefined;
      const wasMoving = session.isMoving;
      session.press(key);
      if (!wasMoving) last = performance.now();
      if (session.isOver) {
        ended.resolve();
        return;
      }
    }
    draw();
  });
  const terminal = new Terminal(write, {
    keys: press,
    changed: guarded(() => {
      before = undefined;
      draw();
    }),
    stopped: (reason: Interrupted) => ended.reject(reason),
  });
  guarded(draw)();
  if (loaded.follow !== undefined) {
    const soon = guarded(() => {
      timer ??= setTimeout(tick, FRAME_MS);
    });
    void (async () => {
      try {
        for await (const raw of loaded.follow?.(stop) ?? []) {
          session.append(raw);
          soon();
        }
        if (!stop.aborted) session.end('the engine has stopped: nothing is added to the log any more');
      } catch (error) {
        // What has been read stays to be looked at.
        if (!stop.aborted) session.end(`the log cannot be followed any more: ${String(error)}`);
      }
      if (!stop.aborted) soon();
    })();
  }
  return ended.promise.finally(() => {
    clearTimeout(timer);
    terminal.close();
  });
}
