/**
 * Runs one actor: keeps its snapshot, feeds it events, runs the effects that its pure machine names. XState's own
 * interpreter is not used, so that decision and effect stay apart and the same machines run under simulation.
 */
import {
  type AnyStateMachine,
  type EventFromLogic,
  initialTransition,
  type SnapshotFrom,
  type StateMachine,
  transition,
} from 'xstate';

/**
 * One function for each action that the machine declares in `setup`: these are its effects. What only changes the context is
 * an unnamed `assign`. An effect must not throw; what it finds out it sends as an event.
 */
export type Effects<M> = { [A in ActionOf<M> as A['type']]: (params: A['params']) => void };

type ActionOf<M> =
  M extends StateMachine<
    infer _Context,
    infer _Event,
    infer _Children,
    infer _Actor,
    infer Action,
    infer _Guard,
    infer _Delay,
    infer _State,
    infer _Tag,
    infer _Input,
    infer _Output,
    infer _Emitted,
    infer _Meta,
    infer _Schema,
    infer _TransitionMeta
  >
    ? Action
    : never;

export class ActorHost<M extends AnyStateMachine> {
  readonly #machine: M;
  readonly #effects: ReadonlyMap<string, (params: never) => void>;
  readonly #watchers = new Set<(snapshot: SnapshotFrom<M>) => void>();
  readonly #queue: Array<EventFromLogic<M>> = [];
  #busy = false;
  #snapshot: SnapshotFrom<M>;

  /** Error: `Error` naming an action without an effect, or an effect that no action names. */
  constructor(machine: M, effects: Effects<M>) {
    this.#machine = machine;
    this.#effects = new Map(Object.entries(effects));
    checkEffects(machine, this.#effects);
    const [snapshot, actions] = initialTransition(machine as AnyStateMachine);
    this.#snapshot = snapshot as SnapshotFrom<M>;
    this.#run(actions);
  }

  get snapshot(): SnapshotFrom<M> {
    return this.#snapshot;
  }

  /** Name of the present state; the machines here are flat. */
  get state(): string {
    return String((this.#snapshot as { value: unknown }).value);
  }

  /** Handles the event, and those that its effects send, one after the other. */
  send(event: EventFromLogic<M>): void {
    this.#queue.push(event);
    if (this.#busy) return;
    this.#busy = true;
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        const [snapshot, actions] = transition(this.#machine, this.#snapshot as never, next);
        this.#snapshot = snapshot as SnapshotFrom<M>;
        this.#run(actions);
        for (const watcher of Array.from(this.#watchers)) watcher(this.#snapshot);
      }
    } finally {
      this.#busy = false;
    }
  }

  /** Resolves when the actor is in one of the states. */
  until(...states: string[]): Promise<string> {
    if (states.includes(this.state)) return Promise.resolve(this.state);
    return new Promise((resolve) => {
      const watcher = () => {
        if (!states.includes(this.state)) return;
        this.#watchers.delete(watcher);
        resolve(this.state);
      };
      this.#watchers.add(watcher);
    });
  }

  #run(actions: ReadonlyArray<{ type: string; params?: unknown }>): void {
    for (const { type, params } of actions) {
      const effect = this.#effects.get(type);
      if (effect === undefined) throw new Error(`${this.#machine.id}: nothing runs the action ${type}`);
      effect(params as never);
    }
  }
}

/** What types cannot see: a machine or effects that were made at run time. */
function checkEffects({ id, implementations }: AnyStateMachine, effects: ReadonlyMap<string, unknown>): void {
  const actions = Object.keys(implementations.actions);
  const idle = actions.filter((name) => !effects.has(name));
  const unknown = [...effects.keys()].filter((name) => !actions.includes(name));
  if (idle.length > 0) throw new Error(`${id}: no effect for the action ${idle.join(', ')}`);
  if (unknown.length > 0) throw new Error(`${id}: no action names the effect ${unknown.join(', ')}`);
}
