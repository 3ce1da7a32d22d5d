/** Stand-in for src/bus/local-socket.ts. */
import { CofaError, fromErrorRecord, toErrorRecord } from '../../../../schemas/errors.ts';
import type { Shape } from '../../../../schemas/shapes.ts';
import { currentProcess, machine, type SimProcess } from '../machine.ts';
import { type LocalHandlers, world } from '../world.ts';

export * from '../../../../src/bus/local-socket.ts';

export async function serveLocal(path: string, handlers: LocalHandlers): Promise<unknown> {
  const process = currentProcess() as SimProcess;
  await machine().sleep(1);
  world().sockets.set(path, { process, handlers });
  return { close: () => world().sockets.delete(path) };
}

export async function askLocal<Result>(
  path: string,
  question: string,
  timeoutMs: number,
  isResult: Shape<Result>,
): Promise<Result> {
  await machine().sleep(0.5);
  const caller = currentProcess() as SimProcess;
  const served = world().sockets.get(path);
  const noAnswer = () => new CofaError('not-running', `no process answers on ${path}`);
  if (served?.process.isAlive !== true) throw noAnswer();
  return await new Promise<Result>((resolve, reject) => {
    const end = (run: () => void) => machine().after(0.5, () => caller.enter(run));
    served.process.onEnd(() => end(() => reject(noAnswer())));
    machine().after(timeoutMs, () =>
      caller.enter(() => reject(new CofaError('timeout', `no answer on ${path}`))),
    );
    served.process.enter(() => {
      void (async () => served.handlers[question]?.(undefined, () => {}))().then(
        (value) => {
          const result: unknown = JSON.parse(JSON.stringify(value ?? null));
          end(() => {
            if (isResult(result)) resolve(result);
            else reject(new CofaError('internal', `the answer to ${question} on ${path} has another shape`));
          });
        },
        (error: unknown) => end(() => reject(fromErrorRecord(toErrorRecord(error)))),
      );
    });
  });
}
