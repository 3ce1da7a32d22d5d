/** A notice from one part to others, which the part that gives it does not know. */
export class Topic<T> {
  readonly #subscribers = new Set<(value: T) => void>();

  /** Until the returned function is called. `subscriber` must not throw. */
  subscribe(subscriber: (value: T) => void): () => void {
    this.#subscribers.add(subscriber);
    return () => void this.#subscribers.delete(subscriber);
  }

  publish(value: T): void {
    for (const subscriber of this.#subscribers) subscriber(value);
  }
}
