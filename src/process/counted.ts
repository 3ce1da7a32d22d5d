/** Joins what a process counts (actors/counts.ts) with the libraries that tell of it. */
import { Counts } from '../../actors/counts.ts';
import type { RegistryWatch } from '../registry/client.ts';
import { nameLookups } from '../registry/name-lookups.ts';
import type { ParentLink } from './parent-link.ts';

/** New counts, which the supervisor hears when it asks. */
export function countsFor(link: Pick<ParentLink, 'countBy'>): Counts {
  const counts = new Counts();
  link.countBy(() => counts.samples());
  return counts;
}

/** Requests to registries, and the lookups of their names that this process makes. */
export function registryWatch(counts: Counts): RegistryWatch {
  nameLookups.told = (seconds) => counts.observe('name_lookup_seconds', seconds);
  return {
    answered: (code, seconds) => {
      counts.add('registry_requests_total', 1, code);
      counts.observe('registry_request_seconds', seconds);
    },
    renewed: (outcome) => counts.add('registry_credential_renewals_total', 1, outcome),
  };
}

/** Appends to the event log. */
export const appendWatch =
  (counts: Counts): ((ms: number, error: unknown) => void) =>
  (ms, error) => {
    if (error === undefined) counts.observe('log_append_seconds', ms / 1000);
    else counts.add('log_append_failures_total');
  };
