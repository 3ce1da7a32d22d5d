/**
 * The attacker of a simulated world. His tables have states of their own, so another block root, and his bytes pass their
 * checks; the last block of such a layer never does. He pushes sidecars beside those of others, and an image that gives
 * the diffID of another one's layer to a blob of his.
 */
import { BLOCK } from './disk.ts';
import { digest, flatOf } from './names.ts';
import type { Plan } from './plan.ts';
import type { SimImage, SimLayer } from './world.ts';

/** The layer as a table of his has it. */
export const forgeryOf = (layer: SimLayer): SimLayer => ({
  ...layer,
  root: digest(`forged root of ${layer.diffId}`),
  isForged: true,
});

/** A sidecar of his beside an image of these layers. */
export function besideOf(
  layers: readonly SimLayer[],
  forgeries: readonly SimLayer[],
  place: Plan['besides'][number],
  ref: string,
): SimImage['beside'] {
  if (place === undefined) return undefined;
  const forged = layers.map((layer) => forgeries.find(({ diffId }) => diffId === layer.diffId) ?? layer);
  return { digest: digest(`forged sidecar ${ref}`), layers: forged, isPreferred: place === 'preferred' };
}

/** His own image, if there is one. */
export function poisonedBy(
  { poisons }: Plan,
  [base]: readonly SimLayer[],
  layers: readonly SimLayer[],
): SimImage[] {
  if (poisons === undefined || base === undefined) return [];
  const genuine = { root: layers.find(({ diffId }) => diffId === base.diffId)?.root ?? '', isForged: false };
  const more = poisons === 'larger' ? 1 : 0;
  const layer: SimLayer = {
    ...base,
    ...(poisons === 'denies' ? genuine : { root: digest(`poisoned root of ${base.diffId}`) }),
    blob: digest(`poisoned blob of ${base.diffId}`),
    spans: more === 0 ? base.spans : [...base.spans, more],
    blockCount: base.blockCount + more,
    size: base.size + more * BLOCK,
  };
  const ref = 'registry.sim:5000/attack:1';
  return [
    {
      ref,
      manifest: digest('manifest of the attack'),
      layers: [layer],
      isIndexed: true,
      flat: flatOf([base]),
      offered: flatOf([layer]),
      sidecar: digest(`sidecar ${ref}`),
      isAttackers: true,
    },
  ];
}
