import { defineConfig } from 'vitest/config';

// Real mounts, loops and daemons are shared by the whole machine, so files run one after the other:
// what a failing test leaves behind can then be named by the leak check that follows it.
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/after-file.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 240_000,
  },
});
