/** Whether the members of this machine's fleet can be reached, as `cofa doctor` tells it. */
import { existsSync } from 'node:fs';
import { toErrorRecord } from '../../schemas/errors.ts';
import { list, sentence, type Shape } from '../../schemas/shapes.ts';
import { askLocal } from '../bus/local-socket.ts';
import { Layout } from '../store/layout.ts';
import type { Check } from './doctor-checks.ts';
import { askMember } from './fleet.ts';

/** A connection to each member, those that do not answer included, ms. */
const REACH_MS = 15_000;
const areSentences = list(sentence, 1_000) as Shape<string[]>;

/** Nothing where no member of a fleet runs in the root. */
export async function checkFleet(root: string): Promise<Check[]> {
  const socket = new Layout(root).socket('fleet');
  if (!existsSync(socket)) return [];
  const name = 'fleet';
  try {
    const { fleet, members, connected } = await askMember(root);
    const missing = await askLocal(socket, 'reach', REACH_MS, areSentences);
    const others = members.length - 1;
    if (!connected)
      return [
        {
          name,
          state: 'warn',
          found: `the fleet ${fleet} does not reach its NATS`,
          means: 'members that join are not seen; those that were known are asked',
          fix: 'repair NATS, or the network',
        },
      ];
    const [first] = missing;
    if (first === undefined)
      return [{ name, state: 'ok', found: `fleet ${fleet}: ${others} other members, all of them answer` }];
    return [
      {
        name,
        state: 'warn',
        found: `${missing.length} of ${others} other members do not answer: ${first}`,
        means: 'what they have comes from other members, or from the registry',
        fix: 'open their port (--fleet-listen), or say by which address they are reached (--fleet-address)',
      },
    ];
  } catch (error) {
    return [
      {
        name,
        state: 'warn',
        found: toErrorRecord(error).message,
        means: 'everything comes from registries',
        fix: `look into ${new Layout(root).log('fleet')}`,
      },
    ];
  }
}
