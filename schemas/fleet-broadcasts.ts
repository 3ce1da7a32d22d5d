/**
 * What members of a fleet say to all: who is there? (nothing in it) and: here I am (a Member, msgpack).
 *
 *     cofa.fleet.v1.<fleet>.who.all.<from>
 *     cofa.fleet.v1.<fleet>.here.all.<from>
 *
 * As with other messages the last token is the sender, and NATS lets a member publish under its own name alone.
 */
export function fleetBroadcasts(fleet: string, self: string) {
  const base = `cofa.fleet.v1.${fleet}`;
  return {
    here: `${base}.here.all.${self}`,
    everyHere: `${base}.here.all.*`,
    ask: `${base}.who.all.${self}`,
    everyAsk: `${base}.who.all.*`,
  };
}
