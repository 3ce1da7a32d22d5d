/**
 * The operator's file of users with limited rights, as it is now. It is looked at before each call, and every few seconds for
 * what NATS has to know: who there is, and who may publish where. A file that cannot be used gives no one a right: what an
 * operator has taken away may not stay because of a comma.
 */
import { stat } from 'node:fs/promises';
import { toErrorRecord } from '../../schemas/errors.ts';
import type { RightsFile } from '../../schemas/rights.ts';
import { readRights } from '../bus/rights-file.ts';
import type { Conditions } from '../process/conditions.ts';
import type { Clock } from '../process/ports.ts';

export type Rights = RightsFile['users'];

export interface UserRightsOptions {
  path: string;
  /** As the engine started with them. */
  first: Rights;
  /** Tells NATS and the users' files. What it throws is a condition, and it is tried again. */
  apply: (rights: Rights) => Promise<void>;
  conditions: Conditions;
  clock: Pick<Clock, 'every'>;
}

/** Without a call the file is looked at this often, ms. */
const LOOK_MS = 2_000;
const FILE = 'api-users';
const NATS = 'api-users-nats';

export class UserRights {
  readonly #options: UserRightsOptions;
  #rights: Rights;
  /** What told the file's last version from others. */
  #version = '';
  #applied: Rights;
  /** One after the other. */
  #looks: Promise<void> = Promise.resolve();
  #applies: Promise<void> = Promise.resolve();
  readonly #stop: () => void;

  constructor(options: UserRightsOptions) {
    this.#options = options;
    this.#rights = options.first;
    this.#applied = options.first;
    const timer = options.clock.every(LOOK_MS, () => void this.now()).unref();
    this.#stop = () => timer.cancel();
  }

  /** The rights by the file as it is now. Throws nothing. */
  async now(): Promise<Rights> {
    this.#looks = this.#looks.then(() => this.#look());
    await this.#looks;
    // A call does not wait for NATS: it came, so its user can reach it.
    this.#applies = this.#applies.then(() => this.#apply());
    return this.#rights;
  }

  close(): void {
    this.#stop();
  }

  async #look(): Promise<void> {
    const { path, conditions } = this.#options;
    const before = await versionOf(path);
    if (before === this.#version) return;
    try {
      this.#rights = await readRights(path);
      conditions.clear(FILE);
    } catch (error) {
      this.#rights = {};
      conditions.set(FILE, `no user of the API has a right: ${toErrorRecord(error).message}`);
    }
    // One that changed while it was read is read again.
    this.#version = before === (await versionOf(path)) ? before : '';
  }

  async #apply(): Promise<void> {
    const { apply, conditions } = this.#options;
    const rights = this.#rights;
    if (rights === this.#applied) return;
    try {
      await apply(rights);
      this.#applied = rights;
      conditions.clear(NATS);
    } catch (error) {
      conditions.set(
        NATS,
        `NATS does not know the users of ${this.#options.path}: ${toErrorRecord(error).message}`,
      );
    }
  }
}

/** Changes whenever the file is written or another one takes its place; a file that is not there has one, too. */
const versionOf = (path: string): Promise<string> =>
  stat(path, { bigint: true }).then(
    ({ dev, ino, size, mode, mtimeNs, ctimeNs }) => [dev, ino, size, mode, mtimeNs, ctimeNs].join(' '),
    (error: NodeJS.ErrnoException) => `none: ${error.code}`,
  );
