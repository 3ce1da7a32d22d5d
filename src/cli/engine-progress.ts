/** Shows what the engine reports while it prepares an image. */
import type { Progress } from '../../schemas/api.ts';
import type { ProgressView } from './progress.ts';
import { shortDigest } from '../terminal/table.ts';

const PHASES: Record<Progress['phase'], string> = {
  resolve: 'asking the registry',
  sidecar: 'fetching the sidecar',
  index: 'indexing, no sidecar to use',
  flatten: 'building the flat image',
  mount: 'mounting',
  scrub: 'comparing blocks',
};

/** `onRemark`: gets what the engine has to say beside the progress. */
export function showOn(
  view: ProgressView,
  onRemark: (text: string) => void = () => {},
): (progress: Progress) => void {
  return ({ phase, item, done, total, remark }) => {
    if (remark !== undefined) onRemark(remark);
    const label = item === undefined ? PHASES[phase] : `layer ${shortDigest(item)}`;
    // A phase without bytes counts as done once the next one is heard of; it only names what goes on.
    if (item === undefined) view.update('phase', { label, done: done ?? 0, total });
    else view.update(item, { label, done: done ?? 0, total });
  };
}
