/** Shows what the engine reports while it prepares an image. */
import type { Progress } from '../../schemas/api.ts';
import type { ProgressView } from './progress.ts';
import { shortDigest } from './table.ts';

const PHASES: Record<Progress['phase'], string> = {
  resolve: 'asking the registry',
  sidecar: 'fetching the sidecar',
  index: 'indexing, nobody prepared this image',
  flatten: 'building the flat image',
  mount: 'mounting',
  scrub: 'comparing blocks',
};

export function showOn(view: ProgressView): (progress: Progress) => void {
  return ({ phase, item, done, total }) => {
    const label = item === undefined ? PHASES[phase] : `layer ${shortDigest(item)}`;
    // A phase without bytes counts as done once the next one is heard of; it only names what goes on.
    if (item === undefined) view.update('phase', { label, done: done ?? 0, total });
    else view.update(item, { label, done: done ?? 0, total });
  };
}
