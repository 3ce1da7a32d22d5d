/**
 * The end of a container, for `cofa run`, which waits for no more of it than what it answers for: the mounts are out of the
 * kernel, the log has that, and the name is free. Loop devices, and what the container has written, go behind the answer.
 *
 * A crash leaves nothing that nobody cleans up: until the folder has been put away, the container is one whose `cofa run`
 * died; from then on the folder lies among the discarded ones, which go when an engine starts, as do loop devices that nobody
 * uses.
 */
import { existsSync, mkdirSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Ran } from '../../../schemas/ran.ts';
import type { ContainerFolder } from '../../container/record.ts';
import { mountsBelow, removeFolder } from '../../container/remove-folder.ts';
import type { Conditions } from '../../process/conditions.ts';
import { unmountFrom } from './container-root.ts';
import type { Mounts } from './mounts.ts';

export interface DiscardsOptions {
  /** Where folders lie until they are gone; in the file system of the containers. */
  folder: string;
  mounts: Pick<Mounts, 'unmount'>;
  conditions: Conditions;
  log: Logger;
}

export class Discards {
  readonly #options: DiscardsOptions;
  readonly #going = new Set<Promise<void>>();

  constructor(options: DiscardsOptions) {
    this.#options = options;
  }

  /**
   * Unmounts a container that has ended. `discarded`: its folder is put away as well, and on its way out; where it could not be,
   * all else is as with an unmount. Errors: those of unmounting; nothing is put away then.
   */
  async discard(folder: ContainerFolder, ran?: Ran): Promise<{ id: string; dir: string; discarded?: true }> {
    await unmountFrom(folder);
    const { id, dir } = await this.#options.mounts.unmount(folder.image, { early: true, ran });
    const away = this.#putAway(folder, id);
    if (away === undefined) return { id, dir };
    this.#remove(away, folder.id);
    return { id, dir, discarded: true };
  }

  /** What an earlier engine has not come to. */
  sweep(): void {
    const { folder } = this.#options;
    if (!existsSync(folder)) return;
    for (const name of readdirSync(folder)) this.#remove(join(folder, name), name.replace(/\.[^.]*$/, ''));
  }

  /** Resolves when what has been put away so far is gone, or after this time, ms. */
  async settled(withinMs: number): Promise<void> {
    await Promise.race([Promise.all(this.#going), sleep(withinMs, undefined, { ref: false })]);
  }

  /** Where the folder lies now; undefined where it has to stay. */
  #putAway(folder: ContainerFolder, id: string): string | undefined {
    // Somebody has mounted something in it: whoever asks hears of that.
    if (mountsBelow(folder.path).length > 0) return undefined;
    const away = join(this.#options.folder, `${folder.id}.${id}`);
    try {
      mkdirSync(this.#options.folder, { recursive: true, mode: 0o700 });
      renameSync(folder.path, away);
      return away;
    } catch (error) {
      this.#options.log.warn({ container: folder.id, error }, 'the folder of a container is not put away');
      return undefined;
    }
  }

  #remove(path: string, name: string): void {
    const key = `discarded:${path}`;
    const going = removeFolder(path).then(
      () => this.#options.conditions.clear(key),
      (error: unknown) => {
        this.#options.log.warn({ path, error }, 'what a container left stays');
        const why = error instanceof Error ? error.message : String(error);
        const sentence = `what the container ${name} left stays until the engine starts again: ${why}`;
        this.#options.conditions.set(key, sentence);
      },
    );
    this.#going.add(going);
    void going.then(() => this.#going.delete(going));
  }
}
