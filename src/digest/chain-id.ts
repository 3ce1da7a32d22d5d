/** What names a layer together with all below it (OCI image-spec, config.md, "Layer ChainID"). */
import { digestOf } from './digest.ts';

/**
 * The ChainID of each layer, the lowest first, from the diffIDs in the same order:
 *
 *     ChainID(L₀) = DiffID(L₀)
 *     ChainID(L₀|…|Lₙ) = Digest(ChainID(L₀|…|Lₙ₋₁) + " " + DiffID(Lₙ))
 */
export function chainIds(diffIds: readonly string[]): string[] {
  const ids: string[] = [];
  for (const diffId of diffIds) {
    const below = ids.at(-1);
    ids.push(below === undefined ? diffId : digestOf(`${below} ${diffId}`));
  }
  return ids;
}
