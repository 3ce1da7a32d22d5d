/** Joins what a process counts (actors/counts.ts) with the libraries that tell of it. */
import { Counts } from '../../actors/counts.ts';
import type { RegistryWatch } from '../registry/client.ts';
import type { ParentLink } from './parent-link.ts';

/** New counts, which the supervisor hears when it asks. */
export function countsFor(link: Pick<ParentLink, 'countBy'>): Counts {
  const counts = new Counts();
  link.countBy(() => counts.samples());
  return counts;
}

/** Requests to registries. */
export const registryWatch = (counts: Counts): RegistryWatch => ({
  answered: (code, seconds) => {
    counts.add('registry_requests_total', 1, code);
    counts.observe('registry_request_seconds', seconds);
  },
  renewed: (outcome) => counts.add('registry_credential_renewals_total', 1, outcome),
});

/** Appends to the event log. */
export const appendWatch =
  (counts: Counts): ((ms: number, error: unknown) => void) =>
  (ms, error) => {
    if (error === undefined) counts.observe('log_append_seconds', ms / 1000);
    else counts.add('log_append_failures_total');
  };
