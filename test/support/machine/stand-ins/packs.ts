/** Stand-in for src/registry/packs.ts: no image has a startup pack. */
export * from '../../../../src/registry/packs.ts';

export const findPack = (): Promise<undefined> => Promise.resolve(undefined);
