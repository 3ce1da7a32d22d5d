/** The view at work: loads the log, joins session, screen, keys and time. */
import type { Context } from '../../cli/context.ts';
import { load, type SourceOptions } from '../../cli/replay.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { Interrupted } from '../../container/signals.ts';
import type { LoadedLog } from '../load.ts';
import { repaint, toAnsi } from './ansi.ts';
import type { Key } from './keys.ts';
import { render } from './render.ts';
import { Session } from './session.ts';
import { checkTerminal, Terminal } from './terminal.ts';

/** Between two drawings while something moves, ms. */
const FRAME_MS = 40;

export async function runView(
  context: Context,
  file: string | undefined,
  options: SourceOptions & { follow?: boolean },
): Promise<void> {
  if (context.output.json)
    throw new CofaError('invalid-argument', 'say what is to be printed as JSON', {
      hint: '--at, --diff, --events, --break, or: cofa replay why',
    });
  checkTerminal();
  const loaded = await load(context, file, options);
  const stop = new AbortController();
  try {
    const { log, title, follow } = loaded;
    const session = new Session(log, {
      title,
      isLive: follow !== undefined,
      now: () => performance.now(),
    });
    if (options.follow === true && follow === undefined)
      throw new CofaError('invalid-argument', `${title}: nothing is added to it that could be followed`);
    session.isFollowing = options.follow === true;
    await show(context, session, loaded, stop.signal);
  } finally {
    stop.abort();
    await loaded.close();
  }
}

function show(context: Context, session: Session, loaded: LoadedLog, stop: AbortSignal): Promise<void> {
  const colour = (process.env.NO_COLOR ?? '') === '';
  const ended = Promise.withResolvers<void>();
  let before: readonly string[] | undefined;
  let timer: NodeJS.Timeout | undefined;
  let last = performance.now();

  // What goes wrong in a callback ends the view, with the terminal given back.
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
  const terminal = new Terminal(context.sink.out, {
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
