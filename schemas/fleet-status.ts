/** What `cofa fleet --json` prints: the fleet as one member sees it, and what that member did since it started. */
import { z } from 'zod';

const pieces = z.int().min(0);
const bytes = z.number().min(0);

export const FleetMemberStatus = z.strictObject({
  name: z.string(),
  zone: z.string(),
  role: z.enum(['node', 'fetcher']).describe('fetcher: a cache without mounts (cofa fetcher)'),
  address: z.string().describe('of its TLS server'),
  weight: z
    .int()
    .min(0)
    .describe('its share of the pieces, in proportion to others; 0: it is a home of none'),
  version: z.string(),
  since: z.string().describe('when it started, by its own clock'),
  state: z
    .enum(['there', 'silent', 'wrong'])
    .describe('silent: announced, but it did not answer lately; wrong: it sent wrong bytes, and is left out'),
});

export const FleetChange = z.strictObject({
  at: z.string().describe('ISO 8601'),
  what: z
    .enum(['came', 'gone', 'left-out'])
    .describe('came: or is there at another address; left-out: it sent wrong bytes'),
  name: z.string(),
});
export type FleetChange = z.output<typeof FleetChange>;

export const FleetStatus = z.strictObject({
  fleet: z.string(),
  self: z.string().describe('the member that says this'),
  connected: z.boolean().describe('to NATS; without it the members that were known count as there'),
  degraded: z.array(z.string()),
  members: z.array(FleetMemberStatus),
  asked: z
    .strictObject({ node: pieces, fetcher: pieces, own: pieces, missed: pieces })
    .describe('pieces that this node asked for, by who had them; missed: the registry was asked'),
  bytes: z
    .strictObject({
      received: bytes.describe('came from the fleet in the place of a registry'),
      sent: bytes.describe('to other members'),
      origin: bytes.describe('fetched from registries for the fleet'),
    })
    .describe('compressed'),
  cache: z.strictObject({ pieces, usedBytes: bytes, limitBytes: bytes }),
  hedges: pieces,
  strangers: pieces.describe('questions of clients that are no members'),
  changes: z.array(FleetChange).describe('the last ones since the member started, the newest first'),
  wrong: pieces.describe('pieces of members that were not what the registry sends'),
});
export type FleetStatus = z.output<typeof FleetStatus>;
