/** The documents of the view Incidents: which are kept, and what happened in one. */
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import type { IncidentsDocument } from '../replay/documents.ts';
import { route } from './route.ts';

const name = z.string().regex(/^\d{8}T\d{6}Z-\d{1,16}$/, 'must be the name of an incident');

export const INCIDENT_ROUTES = [
  route('incidents', z.strictObject({}), async ({ incidents }): Promise<IncidentsDocument> => {
    if (incidents === undefined) return { isOfNode: false, incidents: [], problems: [] };
    return { isOfNode: true, ...(await incidents.list()) };
  }),
  route('incident', z.strictObject({ name }), async ({ incidents }, words, { signal }) => {
    if (incidents === undefined)
      throw new CofaError('not-found', 'this is the log of a file: incidents lie on the node that had them');
    return await incidents.show(words.name, signal);
  }),
];
