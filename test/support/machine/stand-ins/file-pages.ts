/** Stand-in for src/engine/file-pages.ts: the simulated kernel keeps no pages. */
export * from '../../../../src/engine/file-pages.ts';

export const dropFilePages = (): Promise<void> => Promise.resolve();
