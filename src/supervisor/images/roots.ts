/**
 * Tells the log which block roots are proven and which are wrong: a layer that has become whole and hashed to its diffID, or
 * to something else; layers that this node has indexed. What counts is the fold (`NodeState.roots`), and it counts for ever.
 *
 * A root that could not be written down is found again: a proven one when the engine starts, from the layers that are whole; a
 * wrong one when its layer is whole once more.
 */
import type { Logger } from 'pino';
import { standingOf } from '../../../actors/node-state.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { CofaEvent, EventOf } from '../../../schemas/events.ts';
import { idOf } from '../../../actors/node-state.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { LogRecord } from '../../store/log-reader.ts';

export class Roots {
  readonly #live: LiveFold;
  readonly #log: Logger;
  /** Appends that are on their way, `<what> <diffID> <root>`. */
  readonly #telling = new Set<string>();

  constructor({ live, log }: { live: LiveFold; log: Logger }) {
    this.#live = live;
    this.#log = log;
    live.listen((record) => this.#onEvent(record));
  }

  /** Looks at what the log has said before. */
  begin(): void {
    const { layers, images } = this.#live.state;
    for (const [id, { complete, diffId }] of layers)
      if (complete && diffId !== undefined) this.#tell('root.proven', diffId, id);
    for (const { prepared } of images.values()) if (prepared !== undefined) this.#proveOwn(prepared);
  }

  #onEvent({ subject, event }: LogRecord<CofaEvent>): void {
    if (event.type === 'image.prepared') this.#proveOwn(event);
    if (event.type !== 'layer.completed' && event.type !== 'layer.dropped') return;
    const id = `sha256:${idOf(subject)}`;
    const diffId = this.#live.state.layers.get(id)?.diffId;
    if (diffId === undefined) return;
    if (event.type === 'layer.completed') this.#tell('root.proven', diffId, id);
    else if (event.reason === 'corrupt') this.#tell('root.refuted', diffId, id);
  }

  /** The node has read the layers of what it has built. */
  #proveOwn({ origin, devices }: EventOf<'image.prepared'>): void {
    if (origin !== 'node') return;
    for (const { diffId, root } of devices) if (root !== undefined) this.#tell('root.proven', diffId, root);
  }

  /** The node has read the layer from its blob. */
  prove(diffId: string, root: string): void {
    this.#tell('root.proven', diffId, root);
  }

  #tell(type: 'root.proven' | 'root.refuted', diffId: string, root: string): void {
    const key = `${type} ${diffId} ${root}`;
    const standing = standingOf(this.#live.state.roots, diffId, root);
    const isKnown = standing === (type === 'root.proven' ? 'proven' : 'other');
    if (isKnown || this.#telling.has(key)) return;
    this.#telling.add(key);
    this.#live
      .append(hexOf(diffId), { type, root })
      .catch((error: unknown) => this.#log.warn({ diffId, root, error }, `the log was not told: ${type}`))
      .finally(() => this.#telling.delete(key));
  }
}
