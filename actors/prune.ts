/** Which images go when room is wanted: those that nothing has mounted, the longest unused first. Pure. */

export interface PruneImage {
  id: string;
  inUse: boolean;
  /** diffIDs */
  layers: readonly string[];
}

export interface PruneLayer {
  bytes: number;
  /** Since its last use, ms. */
  idleMs: number;
}

/**
 * The images to remove, in order, until at most `keep` of `used` bytes are left (0: as many as can go). A layer's bytes
 * are free when the last image that has it is gone.
 */
export function planPrune(
  images: readonly PruneImage[],
  layers: ReadonlyMap<string, PruneLayer>,
  order: { used: number; keep: number },
): string[] {
  const users = new Map<string, number>();
  for (const image of images)
    for (const layer of new Set(image.layers)) users.set(layer, (users.get(layer) ?? 0) + 1);
  const idle = (image: PruneImage) =>
    Math.min(...image.layers.map((layer) => layers.get(layer)?.idleMs ?? Number.POSITIVE_INFINITY));
  let left = order.used;
  const gone: string[] = [];
  for (const image of images.filter(({ inUse }) => !inUse).sort((a, b) => idle(b) - idle(a) || 0)) {
    if (order.keep > 0 && left <= order.keep) break;
    gone.push(image.id);
    for (const layer of new Set(image.layers)) {
      const others = (users.get(layer) ?? 1) - 1;
      users.set(layer, others);
      if (others === 0) left -= layers.get(layer)?.bytes ?? 0;
    }
  }
  return gone;
}
