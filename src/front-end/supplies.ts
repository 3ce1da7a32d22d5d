/**
 * Where a layer's blocks may come from: each image that has the layer names a blob, its span table and a repository. All tables
 * have the same block root, or the layer would be another one (open-layers.ts), so a fetched block is right whichever is used;
 * but one may lead nowhere: spans that decode to other bytes, a blob that is not there. Then the next one is used, and
 * where none is left the node makes its own (astray.ts). So an image that shares a layer can cost the others time, and
 * nothing else.
 */
import { type Supply, supplyKey } from '../../schemas/front.ts';

export class Supplies {
  #list: readonly [Supply, ...Supply[]];
  #at = 0;

  constructor(first: Supply, others: readonly Supply[] = []) {
    this.#list = [first, ...others];
  }

  get size(): number {
    return this.#list.length;
  }

  /** The one that is used now. */
  get current(): Supply {
    return this.#list[this.#at] ?? this.#list[0];
  }

  has(supply: Supply): boolean {
    return this.#list.some((one) => supplyKey(one) === supplyKey(supply));
  }

  /**
   * Those that the layer's images name by now; the one that is used stays so if it is among them. Returns whether there is a
   * new one.
   */
  replace(list: readonly [Supply, ...Supply[]]): boolean {
    const hasNew = list.some((one) => !this.has(one));
    const key = supplyKey(this.current);
    this.#list = list;
    this.#at = Math.max(
      0,
      list.findIndex((one) => supplyKey(one) === key),
    );
    return hasNew;
  }

  /** A fetch by `used` failed: another one is used from now on, unless one is already. */
  failed(used: Supply): void {
    if (supplyKey(used) === supplyKey(this.current)) this.#at = (this.#at + 1) % this.#list.length;
  }
}
