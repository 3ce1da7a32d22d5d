/** Connections to other members, at the address and with the certificate that each has announced. */
import type { Member } from '../../schemas/fleet.ts';
import type { Pool } from '../registry/undici-parts.ts';
import { Refusal } from './refusal.ts';
import { type Identity, poolTo } from './tls.ts';

export interface PoolsOptions {
  identity: Identity;
  find: (id: string) => Member | undefined;
}

const LANES = ['bytes', 'messages'] as const;
type Lane = (typeof LANES)[number];

export class Pools {
  readonly #options: PoolsOptions;
  /** By member and lane. */
  readonly #pools = new Map<string, { member: Member; pool: InstanceType<typeof Pool> }>();

  constructor(options: PoolsOptions) {
    this.#options = options;
  }

  /** Messages wait behind no bytes. Error: Refusal where no member of this name is known. */
  to(id: string, lane: Lane = 'bytes'): InstanceType<typeof Pool> {
    const member = this.#options.find(id);
    if (member === undefined) throw new Refusal('none', `${id} is no member of the fleet`);
    const known = this.#pools.get(`${id} ${lane}`);
    if (
      known !== undefined &&
      known.member.fingerprint === member.fingerprint &&
      known.member.address === member.address
    )
      return known.pool;
    this.#close(`${id} ${lane}`);
    const pool = poolTo(member, this.#options.identity);
    this.#pools.set(`${id} ${lane}`, { member, pool });
    return pool;
  }

  /** Members are asked no more at the address that they had. */
  forget(id: string): void {
    for (const lane of LANES) this.#close(`${id} ${lane}`);
  }

  /** Opens a connection to a member and asks nothing. Errors: what keeps it from being reached. */
  async reach(id: string): Promise<void> {
    const { body } = await this.to(id).request({ path: '/v1/here', method: 'GET', headersTimeout: 3_000 });
    await body.dump();
  }

  close(): void {
    for (const key of this.#pools.keys()) this.#close(key);
  }

  #close(key: string): void {
    const known = this.#pools.get(key);
    this.#pools.delete(key);
    void known?.pool.destroy().catch(() => {});
  }
}
