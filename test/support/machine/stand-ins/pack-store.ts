/** Stand-in for src/pack/pack-store.ts: nothing is kept. */
export * from '../../../../src/pack/pack-store.ts';

export class PackStore {
  find(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  findFiles(): Promise<undefined> {
    return Promise.resolve(undefined);
  }
}
