/** Whether what a call or an indexer says on its way is progress (schemas/api.ts). */
import type { Progress } from './api.ts';
import { amount, fields, maybe, oneOf, sentence, type Shape } from './shapes.ts';

export const isProgress = fields({
  phase: oneOf(['resolve', 'sidecar', 'index', 'flatten', 'mount', 'scrub'] satisfies Array<
    Progress['phase']
  >),
  item: maybe(sentence),
  done: maybe(amount),
  total: maybe(amount),
  remark: maybe(sentence),
  config: maybe(sentence),
}) as Shape<Progress>;
