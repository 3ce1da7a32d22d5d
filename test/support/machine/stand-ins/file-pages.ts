/** Stand-in for src/supervisor/mounts/file-pages.ts: the simulated kernel keeps no pages. */
export * from '../../../../src/supervisor/mounts/file-pages.ts';

export const dropFilePages = (): Promise<void> => Promise.resolve();
