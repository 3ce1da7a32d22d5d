/** Members of the fleet as the event `image.prepared` names them where they have vouched for a sidecar (fleet-ledger.ts). */

const FLEET = 'fleet:';

/** `names` have no comma: FLEET_TOKEN. */
export const voucherOfMembers = (names: readonly string[]): string => `${FLEET}${names.join(',')}`;

/** Members that have vouched; undefined: another voucher, or none. */
export const membersOfVoucher = (vouched: string | undefined): string[] | undefined =>
  vouched?.startsWith(FLEET) === true ? vouched.slice(FLEET.length).split(',') : undefined;
