import { defineConfig } from 'vitest/config';

// Tests wait for the kernel, for deadlines and for processes more than they compute, so files run side by side, for most
// of them on two cores. What each leaves behind is told by its own marks (test/support/leaks.ts).
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/after-file.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 240_000,
  },
});
