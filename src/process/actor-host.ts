/**
 * Runs one actor: keeps its snapshot, feeds it events, runs the effects that its pure machine names. XState's own
 * interpreter is not used, so that decision and effect stay apart and the same machines run under simulation.
 */
import {
  type AnyStateMachine,
  type EventFromLogic,
  initialTransition,
  type SnapshotFrom,
  transition,
} from 'xstate';

/** One function per effect that the machine names. It must not throw; what it finds out it sends as an event. */
export type Effects = Record<string, (params: never) => void>;

export class ActorHost<M extends AnyStateMachine> {
  readonly #machine: M;
  readonly #effects: Effects;
  readonly #watchers = new Set<(snapshot: SnapshotFrom<M>) => void>();
  readonly #queue: Array<EventFromLogic<M>> = [];
  #busy = false;
  #snapshot: SnapshotFrom<M>;

  constructor(machine: M, effects: Effects) {
    this.#machine = machine;
    this.#effects = effects;
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
    for (const action of actions) {
      if (!action.type.startsWith('xstate.')) this.#effects[action.type]?.(action.params as never);
    }
  }
}
