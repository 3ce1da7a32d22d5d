/** The document of the view Node. */
import { z } from 'zod';
import { type NodeDocument, nodeOfLog, nodeOfStatus } from '../replay/node-document.ts';
import { route } from './route.ts';
import type { Source } from './source.ts';

export const NODE_ROUTES = [route('node', z.strictObject({}), (source) => nodeOf(source))];

/** How the node is now; where its engine does not say it, as its log tells. */
export async function nodeOf(source: Source): Promise<NodeDocument> {
  if (!source.isOfEngine) return nodeOfLog(source.log);
  const status = await source.status();
  if (status !== undefined) return nodeOfStatus(status, source.log, new Date().toISOString());
  return nodeOfLog(source.log, 'The engine does not answer: this is what its log says.');
}
